//! Machine architectures, named as Kubernetes and OCI images name them.

use std::fmt;

use object::elf;

/// The machine that a module was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the architectures'")]
pub enum Architecture {
    Amd64,
    Arm,
    Arm64,
    I386,
    Loong64,
    Mips,
    Ppc64,
    Ppc64le,
    Riscv64,
    S390x,
}

impl Architecture {
    /// From the ELF header: machine, byte order and class.
    pub(crate) fn of(machine: u16, little_endian: bool, is_64: bool) -> Option<Self> {
        Some(match elf::Machine(machine) {
            elf::EM_X86_64 => Self::Amd64,
            elf::EM_386 => Self::I386,
            elf::EM_AARCH64 => Self::Arm64,
            elf::EM_ARM => Self::Arm,
            elf::EM_LOONGARCH if is_64 => Self::Loong64,
            elf::EM_MIPS => Self::Mips,
            elf::EM_PPC64 if little_endian => Self::Ppc64le,
            elf::EM_PPC64 => Self::Ppc64,
            elf::EM_RISCV if is_64 => Self::Riscv64,
            elf::EM_S390 if is_64 => Self::S390x,
            _ => return None,
        })
    }

    /// From the name in `kubernetes.io/arch`.
    pub fn named(name: &str) -> Option<Self> {
        const ALL: [Architecture; 10] = [
            Architecture::Amd64,
            Architecture::Arm,
            Architecture::Arm64,
            Architecture::I386,
            Architecture::Loong64,
            Architecture::Mips,
            Architecture::Ppc64,
            Architecture::Ppc64le,
            Architecture::Riscv64,
            Architecture::S390x,
        ];
        ALL.into_iter().find(|architecture| architecture.as_str() == name)
    }

    /// Class and byte order in the ELF header of what is made for it; none where the name stands for several.
    pub(crate) fn identity(self) -> Option<(elf::FileClass, elf::DataEncoding)> {
        match self {
            Self::Amd64 | Self::Arm64 | Self::Loong64 | Self::Ppc64le | Self::Riscv64 => {
                Some((elf::ELFCLASS64, elf::ELFDATA2LSB))
            }
            Self::Ppc64 | Self::S390x => Some((elf::ELFCLASS64, elf::ELFDATA2MSB)),
            Self::I386 => Some((elf::ELFCLASS32, elf::ELFDATA2LSB)),
            Self::Arm | Self::Mips => None,
        }
    }

    /// The name in `kubernetes.io/arch` and in image indexes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm => "arm",
            Self::Arm64 => "arm64",
            Self::I386 => "386",
            Self::Loong64 => "loong64",
            Self::Mips => "mips",
            Self::Ppc64 => "ppc64",
            Self::Ppc64le => "ppc64le",
            Self::Riscv64 => "riscv64",
            Self::S390x => "s390x",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

//! UEFI firmware with Secure Boot: it starts kernels that are signed, and these load nothing that is not. The kernel is the one that
//! Debian ships, with Debian's signature; whom else it trusts stands in the firmware's variables, as on a machine whose owner has
//! enrolled a key of their own.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, CacheError};
use crate::command::{self, CommandError};
use crate::debian::{Archive, ArchiveError, Release};
use crate::kernel::Kernel;

/// The package of Python's that writes the firmware's variables, and reads the signatures of programs.
const TOOLS: &str = "virt-firmware==26.10";
/// Debian's own: packages of `TOOLS` are made for one version of Python.
const PYTHON: &str = "/usr/bin/python3";
/// Whose the keys are; any identity will do.
const OWNER: &str = "5d7b4c52-0b6f-4c07-9c1e-2f2a6f5f7a11";

/// What it takes to give a guest such firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareSupplies {
    /// Debian's `ovmf`: the firmware, and its variables when nothing is enrolled.
    ovmf: PathBuf,
    /// A folder of Python packages.
    tools: PathBuf,
}

/// Why there is no firmware.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// The firmware's package.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A program.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file of it.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel bears no signature, so that no firmware would start it.
    #[error("{kernel} is not signed")]
    NotSigned {
        /// The boot image.
        kernel: PathBuf,
    },
}

impl FirmwareSupplies {
    pub(crate) fn prepare(archive: &Archive, cache: &Cache) -> Result<Self, FirmwareError> {
        let ovmf = archive.unpack("ovmf", Release::Stable)?.join("usr/share/OVMF");
        let key = format!("{TOOLS}_{}", archive.codename());
        let tools = cache.entry::<FirmwareError>("python", &key, |aside| {
            let mut pip = Command::new(PYTHON);
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
            command::run(pip.arg(aside).arg(TOOLS))?;
            Ok(())
        })?;
        Ok(Self { ovmf, tools })
    }

    pub(crate) fn is_there(&self) -> bool {
        self.code().is_file() && self.tools.is_dir() && Path::new(PYTHON).is_file()
    }

    /// Firmware that starts what Debian has signed, and trusts these certificates (PEM) as well.
    pub fn secure_boot(&self, certificates: Vec<PathBuf>) -> SecureBoot {
        SecureBoot { supplies: self.clone(), certificates }
    }

    fn code(&self) -> PathBuf {
        self.ovmf.join("OVMF_CODE_4M.secboot.fd")
    }

    fn python(&self, line: &str) -> Command {
        let mut command = Command::new(PYTHON);
        command.env("PYTHONPATH", &self.tools).args(["-c", line]);
        command
    }
}

/// Firmware with Secure Boot, and whom it trusts beside the kernel's maker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecureBoot {
    supplies: FirmwareSupplies,
    certificates: Vec<PathBuf>,
}

impl SecureBoot {
    /// Writes the variables of a machine that boots this kernel: its maker and our certificates are trusted.
    pub(super) fn enroll(&self, kernel: &Kernel, folder: &Path) -> Result<(), FirmwareError> {
        let maker = self.maker(kernel, folder)?;
        let owner = self.certificates.first().unwrap_or(&maker);
        let mut command = self.supplies.python("from virt.firmware.vars import main; main()");
        command.arg("--input").arg(self.supplies.ovmf.join("OVMF_VARS_4M.fd"));
        command.arg("--output").arg(variables(folder)).arg("--secure-boot");
        for (list, certificate) in [("--set-pk", owner), ("--add-kek", owner), ("--add-db", &maker)] {
            command.args([list, OWNER]).arg(certificate);
        }
        for certificate in &self.certificates {
            command.args(["--add-db", OWNER]).arg(certificate);
        }
        command::run(&mut command)?;
        Ok(())
    }

    /// The certificate by which the kernel's boot image is signed, as the image itself has it.
    fn maker(&self, kernel: &Kernel, folder: &Path) -> Result<PathBuf, FirmwareError> {
        let aside = folder.join("signatures");
        fs::create_dir_all(&aside).map_err(at("create", &aside))?;
        let mut command = self.supplies.python("from virt.peutils.peutils import pe_listsigs; pe_listsigs()");
        command::run(command.arg("--extract").arg(kernel.boot_image()).current_dir(&aside))?;
        let entries = fs::read_dir(&aside).map_err(at("list", &aside))?;
        let mut files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let certificate = files.find(|file| file.extension() == Some(OsStr::new("pem")));
        certificate.ok_or_else(|| FirmwareError::NotSigned { kernel: kernel.boot_image() })
    }

    /// What QEMU is told of it. Variables are written by nobody but the firmware itself, in system management mode.
    pub(super) fn arguments(&self, folder: &Path) -> Vec<String> {
        let flash = |unit: u8, file: &Path, more: &str| {
            format!("if=pflash,format=raw,unit={unit},file={}{more}", file.display())
        };
        let arguments = [
            "-M",
            "q35,smm=on",
            "-global",
            "driver=cfi.pflash01,property=secure,value=on",
            "-drive",
            &flash(0, &self.supplies.code(), ",readonly=on"),
            "-drive",
            &flash(1, &variables(folder), ""),
        ];
        arguments.map(str::to_owned).into()
    }
}

fn variables(folder: &Path) -> PathBuf {
    folder.join("firmware-variables.fd")
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FirmwareError {
    let path = path.to_owned();
    move |source| FirmwareError::Io { action, path, source }
}

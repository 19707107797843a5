//! What a guest's kernel needs to reach its disks: PID 1 and a handful of the kernel's own modules.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tenon_kmod::ModuleName;
use tenon_kmod::compression::{DecompressError, decompress};
use tenon_kmod::dependency::{DependencyIndex, IndexError, OrderError};
use tenon_kmod::name::ModuleNameError;

use super::cpio::Archive;
use crate::kernel::Kernel;

/// Where PID 1 finds the modules, named so that their names' order is the order to load them in.
pub const MODULES: &str = "boot-modules";

/// What must be there before the root disk is, the network among it; much is built in, but not the same in each kernel.
const NEEDED: [&str; 4] = ["virtio_pci", "virtio_blk", "ext4", "virtio_net"];

/// No module of a kernel is larger.
const LIMIT: usize = 64 << 20;

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// A file.
    #[error("read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// depmod's files.
    #[error("read the index of the modules in {folder}")]
    Index {
        /// Where.
        folder: PathBuf,
        /// What is wrong.
        #[source]
        source: IndexError,
    },
    /// A module's name.
    #[error(transparent)]
    Name(#[from] ModuleNameError),
    /// The order.
    #[error("order the modules in {folder}")]
    Order {
        /// Where.
        folder: PathBuf,
        /// What is wrong.
        #[source]
        source: OrderError,
    },
    /// A packed module.
    #[error("decompress {path}")]
    Decompress {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: DecompressError,
    },
}

/// The archive for a kernel, with `init` as PID 1.
pub fn initramfs(kernel: &Kernel, init: &Path) -> Result<Vec<u8>, InitramfsError> {
    let mut archive = Archive::new();
    for folder in ["dev", "proc", "sys", "root", MODULES] {
        archive.folder(folder);
    }
    archive.file("init", 0o755, &read(init)?);
    let folder = kernel.modules();
    for (position, path) in boot_modules(&folder)?.iter().enumerate() {
        let path = folder.join(path);
        let packed = read(&path)?;
        let module = decompress(&packed, LIMIT)
            .map_err(|source| InitramfsError::Decompress { path: path.clone(), source })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("{MODULES}/{position:02}-{name}"), 0o644, &module);
    }
    Ok(archive.finish())
}

/// The needed modules that are not built in, with all that they need, as paths in an order in which they load.
fn boot_modules(folder: &Path) -> Result<Vec<String>, InitramfsError> {
    let text =
        |name: &str| read(&folder.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let index = |source| InitramfsError::Index { folder: folder.to_owned(), source };
    let mut modules = DependencyIndex::from_modules_dep(&text("modules.dep")?).map_err(index)?;
    modules.add_modules_softdep(&text("modules.softdep")?);
    modules.add_modules_builtin(&text("modules.builtin")?).map_err(index)?;
    let mut paths = Vec::new();
    for needed in NEEDED {
        let name = ModuleName::new(needed)?;
        if modules.is_builtin(&name) {
            continue;
        }
        let order = modules
            .load_order(&name)
            .map_err(|source| InitramfsError::Order { folder: folder.to_owned(), source })?;
        for step in order {
            if !paths.contains(&step.path) {
                paths.push(step.path);
            }
        }
    }
    Ok(paths)
}

fn read(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    fs::read(path).map_err(|source| InitramfsError::Read { path: path.to_owned(), source })
}

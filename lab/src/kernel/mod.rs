//! Stock Debian kernels, cloud flavour, unpacked and made ready to boot, to build drivers against and to look into:
//! the release's own and its backports', and for the matrix two newer ones. Nothing is installed, and no version is
//! written down anywhere: the metapackages name the current ones.

mod disk;
mod trust;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use tenon_kmod::facts::boot_image::{self, BootImageError};

pub use disk::{DiskError, ext4, ext4_from};
pub use trust::TrustError;

use crate::cache::{Cache, CacheError};
use crate::command::{self, CommandError};
use crate::debian::control::Stanza;
use crate::debian::{Archive, ArchiveError, Release};

/// Where a kernel comes from: tests name their kernels so, for releases roll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// Debian's release: the older kernel (6.1 in bookworm).
    Stable,
    /// Its backports: the newer kernel (6.12 in bookworm-backports).
    Backports,
    /// Debian unstable: of the 7 series, for the matrix.
    Unstable,
    /// The backports of the release after this: of the 7 series, for the matrix.
    NewerBackports,
}

impl Origin {
    /// Those that the set-up brings and every test may boot.
    pub const ALL: [Self; 2] = [Self::Stable, Self::Backports];
    /// Those that only the matrix boots: [`crate::setup::newer_kernel`] brings them.
    pub const NEWER: [Self; 2] = [Self::Unstable, Self::NewerBackports];

    pub(crate) fn release(self) -> Release {
        match self {
            Self::Stable => Release::Stable,
            Self::Backports => Release::Backports,
            Self::Unstable => Release::Unstable,
            Self::NewerBackports => Release::NewerBackports,
        }
    }
}

/// One kernel in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Where it comes from.
    pub origin: Origin,
    /// What `uname -r` says.
    pub release: String,
    folder: PathBuf,
}

/// Why a kernel could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Its packages.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The metapackage depends on no package of that sort.
    #[error("find the {kind} package that {metapackage} stands for")]
    NoPackage {
        /// `linux-image-` or `linux-headers-`.
        kind: &'static str,
        /// The metapackage.
        metapackage: &'static str,
    },
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
    /// Its image.
    #[error("read the boot image {path}")]
    Vmlinux {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BootImageError,
    },
    /// depmod.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The disk with its modules.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The certificates that it is to trust.
    #[error("make {release} trust other certificates")]
    Trust {
        /// Which.
        release: String,
        /// Why it cannot.
        #[source]
        source: TrustError,
    },
}

const IMAGE: &str = "linux-image-cloud-amd64";
const HEADERS: &str = "linux-headers-cloud-amd64";

impl Kernel {
    /// The current kernel of an origin, downloaded and prepared when the cache does not hold it.
    pub fn prepare(archive: &Archive, cache: &Cache, origin: Origin) -> Result<Self, KernelError> {
        let packages = Packages::resolve(archive, origin.release())?;
        let key = format!("{}_{}", packages.image, packages.version);
        let entry = cache.folder("kernels")?.join(&key);
        let release = packages.release().to_owned();
        let folder = cache.entry::<KernelError>("kernels", &key, |aside| {
            let root = aside.join("root");
            archive.unpack_into(&packages.all(), origin.release(), &root)?;
            merge_usr(&root, &release)?;
            unpack_image(aside, &root, &release)?;
            relocate_headers(&root.join("usr/src"), &entry.join("root"))?;
            command::run(Command::new(depmod()).arg("-b").arg(&root).arg(&release))?;
            ext4_from(&root.join("lib/modules"), &aside.join("modules.img"))?;
            Ok(())
        })?;
        Ok(Self { origin, release, folder })
    }

    /// The same kernel, in another folder, which trusts these certificates (DER) in place of the one that it was built with.
    pub fn trusting(&self, certificates: &[&[u8]], folder: &Path) -> Result<Self, KernelError> {
        let mut vmlinux = fs::read(self.vmlinux()).map_err(at("read", &self.vmlinux()))?;
        trust::replace_certificate(&mut vmlinux, certificates)
            .map_err(|source| KernelError::Trust { release: self.release.clone(), source })?;
        for shared in ["root", "modules.img"] {
            let link = folder.join(shared);
            symlink(self.folder.join(shared), &link).map_err(at("link", &link))?;
        }
        let kernel = Self { folder: folder.to_owned(), ..self.clone() };
        fs::write(kernel.vmlinux(), vmlinux).map_err(at("write", &kernel.vmlinux()))?;
        Ok(kernel)
    }

    /// The kernel's own program that signs modules, of its headers' packages.
    pub fn sign_file(&self) -> Result<PathBuf, KernelError> {
        let program = self.headers().join("scripts/sign-file");
        fs::canonicalize(&program).map_err(at("find", &program))
    }

    /// The decompressed kernel: QEMU boots it, and it holds the exported symbols.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The boot image as Debian ships it.
    pub fn boot_image(&self) -> PathBuf {
        self.folder.join("root/boot").join(format!("vmlinuz-{}", self.release))
    }

    /// A read-only ext4 image of `/lib/modules`.
    pub fn modules_disk(&self) -> PathBuf {
        self.folder.join("modules.img")
    }

    /// The kernel's own modules, with depmod's files.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("root/lib/modules").join(&self.release)
    }

    /// The tree to build modules against.
    pub fn headers(&self) -> PathBuf {
        self.folder.join("root/usr/src").join(format!("linux-headers-{}", self.release))
    }

    pub(crate) fn is_there(&self) -> bool {
        self.vmlinux().is_file() && self.modules_disk().is_file() && self.headers().is_dir()
    }
}

/// The packages that a pair of metapackages stands for.
#[derive(Debug, PartialEq, Eq)]
struct Packages {
    image: String,
    version: String,
    /// Since the 7 series the image's package is empty: the kernel and its modules have packages of their own.
    parts: Vec<String>,
    headers: Vec<String>,
}

/// What the packages of a kernel's parts are called, before its release.
const PARTS: [&str; 3] = ["linux-base-", "linux-binary-", "linux-modules-"];

impl Packages {
    fn resolve(archive: &Archive, release: Release) -> Result<Self, KernelError> {
        let metapackages = archive.show(&[IMAGE, HEADERS], release)?;
        let [image, headers] = metapackages.as_slice() else {
            return Err(KernelError::NoPackage { kind: "linux-image-", metapackage: IMAGE });
        };
        let (image, version) = dependency(image, "linux-image-", IMAGE)?;
        let (headers, _) = dependency(headers, "linux-headers-", HEADERS)?;
        let needed = |package: &str, kinds: &[&str]| -> Result<Vec<String>, KernelError> {
            let stanzas = archive.show(&[package], release)?;
            let needed = stanzas.iter().flat_map(|stanza| stanza.relations("Depends"));
            let wanted = needed.filter(|name| kinds.iter().any(|kind| name.starts_with(kind)));
            Ok(wanted.map(ToOwned::to_owned).collect())
        };
        let parts = needed(&image, &PARTS)?;
        let mut all = needed(&headers, &["linux-headers-", "linux-kbuild-"])?;
        all.push(headers);
        Ok(Self { image, version, parts, headers: all })
    }

    fn all(&self) -> Vec<&str> {
        std::iter::once(&self.image).chain(&self.parts).chain(&self.headers).map(String::as_str).collect()
    }

    fn release(&self) -> &str {
        self.image.trim_start_matches("linux-image-")
    }
}

/// The package of that sort on which a metapackage depends, and the metapackage's version, which is that of the kernel.
fn dependency(
    metapackage: &Stanza,
    kind: &'static str,
    name: &'static str,
) -> Result<(String, String), KernelError> {
    let package = metapackage.relations("Depends").into_iter().find(|package| package.starts_with(kind));
    match (package, metapackage.get("Version")) {
        (Some(package), Some(version)) => Ok((package.to_owned(), version.to_owned())),
        _ => Err(KernelError::NoPackage { kind, metapackage: name }),
    }
}

/// Newer packages bring everything below `/usr`, the boot image beside the modules: links lead there from where older ones
/// have it.
fn merge_usr(root: &Path, release: &str) -> Result<(), KernelError> {
    let lib = root.join("lib");
    if !lib.exists() {
        symlink("usr/lib", &lib).map_err(at("link", &lib))?;
    }
    let image = root.join("boot").join(format!("vmlinuz-{release}"));
    if !image.exists() {
        let boot = root.join("boot");
        fs::create_dir_all(&boot).map_err(at("create", &boot))?;
        symlink(format!("../usr/lib/modules/{release}/vmlinuz"), &image).map_err(at("link", &image))?;
    }
    Ok(())
}

fn unpack_image(aside: &Path, root: &Path, release: &str) -> Result<(), KernelError> {
    let path = root.join("boot").join(format!("vmlinuz-{release}"));
    let image = fs::read(&path).map_err(at("read", &path))?;
    let elf = boot_image::vmlinux(&image).map_err(|source| KernelError::Vmlinux { path, source })?;
    let path = aside.join("vmlinux");
    fs::write(&path, elf).map_err(at("write", &path))
}

/// Makes unpacked headers work where they lie: their Makefiles name each other by absolute paths. The `vmlinux` among the
/// newer ones would need pahole, to describe types that our drivers do without.
fn relocate_headers(sources: &Path, root: &Path) -> Result<(), KernelError> {
    for entry in fs::read_dir(sources).map_err(at("list", sources))? {
        let tree = entry.map_err(at("list", sources))?.path();
        let makefile = tree.join("Makefile");
        if makefile.is_file() {
            let text = fs::read_to_string(&makefile).map_err(at("read", &makefile))?;
            fs::write(&makefile, relocated(&text, root)).map_err(at("write", &makefile))?;
        }
        let types = tree.join("vmlinux");
        if types.is_file() {
            fs::remove_file(&types).map_err(at("remove", &types))?;
        }
    }
    Ok(())
}

fn relocated(makefile: &str, root: &Path) -> String {
    let here = format!("{}/usr/src/", root.display());
    [" ", "="].iter().fold(makefile.to_owned(), |text, before| {
        text.replace(&format!("{before}/usr/src/"), &format!("{before}{here}"))
    })
}

/// depmod lies where only root's `PATH` leads.
pub(crate) fn depmod() -> PathBuf {
    command::find("depmod").unwrap_or_else(|| Path::new(OsStr::new("depmod")).to_owned())
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    let path = path.to_owned();
    move |source| KernelError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::control;

    #[test]
    fn the_metapackage_names_the_kernel() {
        let stanza = control::parse(
            "Package: linux-image-cloud-amd64\nVersion: 6.1.170-1\n\
             Depends: x, linux-image-6.1.0-99-cloud-amd64 (= 6.1.170-1)\n",
        )
        .remove(0);
        let (image, version) = dependency(&stanza, "linux-image-", IMAGE).unwrap();
        let packages = Packages { image, version, parts: vec![], headers: vec![] };
        assert_eq!(packages.release(), "6.1.0-99-cloud-amd64");
        assert_eq!(packages.version, "6.1.170-1");
        assert!(dependency(&stanza, "linux-headers-", HEADERS).is_err());
    }

    #[test]
    fn makefiles_of_unpacked_headers_point_into_the_cache() {
        let text =
            "include /usr/src/linux-headers-common/Makefile\nKBUILD_OUTPUT=/usr/src/x\n# /opt/usr/src/\n";
        let moved = relocated(text, Path::new("/c"));
        assert_eq!(
            moved,
            "include /c/usr/src/linux-headers-common/Makefile\nKBUILD_OUTPUT=/c/usr/src/x\n# /opt/usr/src/\n"
        );
    }
}

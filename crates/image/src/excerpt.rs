//! An excerpt of an image whose files are mounted: a layer with nothing in it but the names and files that a bundle for one
//! kernel is made of.
//!
//! It is made where only a node can pull the image, and sent to whoever packs bundles, who reads it as it reads any layer: links
//! are kept as links, so what comes out is the bundle that the image's own layers give. Links are followed inside the root only,
//! by ourselves: the system would follow an absolute one into the root that we run in.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use tenon_kmod::KernelRelease;
use tenon_kmod::release::KernelReleaseError;

use crate::bundle::may_be_wanted;
use crate::layers::{Limits, MAX_LINKS, MAX_STEPS};
use crate::path::{ImagePath, PathError};

/// What an excerpt is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExcerptRequest {
    /// The nodes' kernel.
    pub kernel: KernelRelease,
    /// The Module's `dirName`: modules are below `<dirName>/lib/modules/<kernel>/`.
    pub dir_name: ImagePath,
    /// The Module's `firmwarePath`, when it has one.
    pub firmware_path: Option<ImagePath>,
}

/// Text that no excerpt can be for.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelReleaseError),
    /// `dirName`, or `firmwarePath`.
    #[error(transparent)]
    Path(#[from] PathError),
}

impl ExcerptRequest {
    /// Reads what a Module says.
    pub fn read(kernel: &str, dir_name: &str, firmware_path: Option<&str>) -> Result<Self, RequestError> {
        Ok(Self {
            kernel: kernel.parse()?,
            dir_name: dir_name.parse()?,
            firmware_path: firmware_path.map(str::parse).transpose()?,
        })
    }
}

/// Why there is no excerpt.
#[derive(Debug, thiserror::Error)]
pub enum ExcerptError {
    /// Only its owner may read it, and we are nobody in particular.
    #[error("{path} in the image may not be read by everybody", path = path.display())]
    Denied {
        /// The file or directory, from the image's root.
        path: PathBuf,
    },
    /// Another failure of the system's.
    #[error("read {path} in the image", path = path.display())]
    Read {
        /// The file or directory, from the image's root.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// More than any bundle may be made of.
    #[error(
        "the image has more for this kernel than the {names} names and {bytes} bytes that a bundle may be made of"
    )]
    TooMuch {
        /// The limit on names.
        names: u32,
        /// The limit on bytes.
        bytes: u64,
    },
    /// Whoever takes the layer.
    #[error("pass on the excerpt")]
    Write(#[source] io::Error),
}

/// The names and files that count; the bytes are still where they are.
#[derive(Debug)]
pub struct Excerpt {
    root: PathBuf,
    /// By path from the root, without links on the way: a directory comes before what is in it.
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    /// The target as written.
    Symlink(PathBuf),
    File {
        size: u64,
    },
    /// A device, or a file where a directory should be: it is there, and that is all that counts.
    Special,
}

impl Excerpt {
    /// Looks for what the request needs in the image that is mounted at `root`. Every file is opened once, so that what cannot be
    /// read is known before anything is sent. Blocks.
    pub fn of(root: &Path, request: &ExcerptRequest, limits: &Limits) -> Result<Self, ExcerptError> {
        let mut search = Search {
            root,
            entries: BTreeMap::new(),
            limits,
            names_left: limits.entries,
            bytes_left: limits.taken,
        };
        let parts = |path: &ImagePath| path.parts().map(OsString::from).collect::<Vec<_>>();
        let modules = [parts(&request.dir_name), vec!["lib".into(), "modules".into()]].concat();
        if let Some(modules) = search.follow(PathBuf::new(), modules, Take::Nothing)? {
            // The names alone: they tell which kernels the image has.
            for name in search.names(&modules)? {
                search.follow(modules.clone(), vec![name], Take::Nothing)?;
            }
            for name in [request.kernel.as_str(), request.kernel.without_plus()] {
                if let Some(kernel) = search.follow(modules.clone(), vec![name.into()], Take::Nothing)? {
                    search.walk(kernel, Take::Modules)?;
                }
            }
        }
        if let Some(firmware) = &request.firmware_path
            && let Some(firmware) = search.follow(PathBuf::new(), parts(firmware), Take::Nothing)?
        {
            search.walk(firmware, Take::Everything)?;
        }
        Ok(Self { root: root.to_owned(), entries: search.entries })
    }

    /// How many bytes the files have, and how many there are.
    pub fn size(&self) -> (u64, usize) {
        let files = self.entries.values().filter_map(|entry| match entry {
            Entry::File { size } => Some(*size),
            Entry::Directory | Entry::Symlink(_) | Entry::Special => None,
        });
        files.fold((0, 0), |(bytes, files), size| (bytes + size, files + 1))
    }

    /// Writes the layer: a tar archive, not compressed. Blocks.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), ExcerptError> {
        let mut archive = tar::Builder::new(out);
        for (path, entry) in &self.entries {
            self.append(&mut archive, path, entry)?;
        }
        archive.finish().map_err(ExcerptError::Write)
    }

    fn append(
        &self,
        archive: &mut tar::Builder<&mut dyn Write>,
        path: &Path,
        entry: &Entry,
    ) -> Result<(), ExcerptError> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(0);
        header.set_entry_type(match entry {
            Entry::Directory => tar::EntryType::Directory,
            Entry::Symlink(_) => tar::EntryType::Symlink,
            Entry::File { .. } => tar::EntryType::Regular,
            Entry::Special => tar::EntryType::Fifo,
        });
        let appended = match entry {
            Entry::Symlink(target) => archive.append_link(&mut header, path, target),
            Entry::File { size } => {
                header.set_size(*size);
                let file = File::open(self.root.join(path)).map_err(|source| failed(path, source))?;
                archive.append_data(&mut header, path, file.take(*size))
            }
            Entry::Directory | Entry::Special => archive.append_data(&mut header, path, io::empty()),
        };
        appended.map_err(ExcerptError::Write)
    }
}

/// Which files of a directory count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Take {
    Nothing,
    /// Modules and depmod's texts; not what leads to the kernel's sources.
    Modules,
    Everything,
}

impl Take {
    fn skips(self, name: &OsStr) -> bool {
        self == Self::Modules && matches!(name.as_bytes(), b"build" | b"source")
    }

    fn takes(self, name: &OsStr) -> bool {
        match self {
            Self::Nothing => false,
            Self::Modules => may_be_wanted(name.as_bytes()),
            Self::Everything => true,
        }
    }
}

struct Search<'a> {
    root: &'a Path,
    entries: BTreeMap<PathBuf, Entry>,
    limits: &'a Limits,
    names_left: u32,
    bytes_left: u64,
}

impl Search<'_> {
    /// Everything that counts below a directory. A directory that several links lead to is entered once.
    fn walk(&mut self, start: PathBuf, take: Take) -> Result<(), ExcerptError> {
        let (mut ahead, mut entered) = (vec![start], BTreeSet::new());
        while let Some(directory) = ahead.pop() {
            if !entered.insert(directory.clone()) {
                continue;
            }
            for name in self.names(&directory)? {
                if take.skips(&name) {
                    continue;
                }
                let takes = if take.takes(&name) { take } else { Take::Nothing };
                ahead.extend(self.follow(directory.clone(), vec![name], takes)?);
            }
        }
        Ok(())
    }

    /// Goes from a directory along these names, noting everything on the way; gives the directory at the end. A file there is noted
    /// if files are to be taken. What leads nowhere is for the reader of the layer to judge, which meets the same links.
    fn follow(
        &mut self,
        from: PathBuf,
        names: Vec<OsString>,
        take: Take,
    ) -> Result<Option<PathBuf>, ExcerptError> {
        let (mut way, mut ahead) = (from, names);
        ahead.reverse();
        let (mut links, mut steps) = (0, 0);
        while let Some(name) = ahead.pop() {
            steps += 1;
            if steps > MAX_STEPS || links > MAX_LINKS {
                return Ok(None);
            }
            if name == ".." {
                if !way.pop() {
                    return Ok(None);
                }
                continue;
            }
            way.push(name);
            let Some(found) = self.look(&way)? else { return Ok(None) };
            let kind = found.file_type();
            if kind.is_dir() {
                self.note(&way, Entry::Directory)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(self.root.join(&way)).map_err(|source| failed(&way, source))?;
                self.note(&way, Entry::Symlink(target.clone()))?;
                links += 1;
                way.pop();
                detour(&target, &mut way, &mut ahead);
            } else if kind.is_file() && ahead.is_empty() {
                if take != Take::Nothing {
                    self.take(&way, found.len())?;
                }
                return Ok(None);
            } else {
                self.note(&way, Entry::Special)?;
                return Ok(None);
            }
        }
        Ok(Some(way))
    }

    /// No part of the way is a link, so the system follows none.
    fn look(&self, path: &Path) -> Result<Option<fs::Metadata>, ExcerptError> {
        match fs::symlink_metadata(self.root.join(path)) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(path, error)),
        }
    }

    fn names(&self, directory: &Path) -> Result<Vec<OsString>, ExcerptError> {
        let failed = |source| failed(directory, source);
        let entries = fs::read_dir(self.root.join(directory)).map_err(failed)?;
        entries.map(|entry| Ok(entry.map_err(failed)?.file_name())).collect()
    }

    fn take(&mut self, path: &Path, size: u64) -> Result<(), ExcerptError> {
        if matches!(self.entries.get(path), Some(Entry::File { .. })) {
            return Ok(());
        }
        File::open(self.root.join(path)).map_err(|source| failed(path, source))?;
        self.bytes_left = self.bytes_left.checked_sub(size).ok_or_else(|| self.too_much())?;
        self.entries.remove(path);
        self.note(path, Entry::File { size })
    }

    fn note(&mut self, path: &Path, entry: Entry) -> Result<(), ExcerptError> {
        if !self.entries.contains_key(path) {
            self.names_left = self.names_left.checked_sub(1).ok_or_else(|| self.too_much())?;
            self.entries.insert(path.to_owned(), entry);
        }
        Ok(())
    }

    fn too_much(&self) -> ExcerptError {
        ExcerptError::TooMuch { names: self.limits.entries, bytes: self.limits.taken }
    }
}

/// Goes on with a link's target.
fn detour(target: &Path, way: &mut PathBuf, ahead: &mut Vec<OsString>) {
    for part in target.components().rev() {
        match part {
            Component::Normal(name) => ahead.push(name.to_owned()),
            Component::ParentDir => ahead.push("..".into()),
            Component::RootDir => way.clear(),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

fn failed(path: &Path, source: io::Error) -> ExcerptError {
    let path = Path::new("/").join(path);
    match source.kind() {
        io::ErrorKind::PermissionDenied => ExcerptError::Denied { path },
        _ => ExcerptError::Read { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rstest::rstest;
    use tenon_order::Digest;

    use super::*;
    use crate::bundle::{BuildError, BuiltBundle, BundleBuilder, BundleRequest, SelectError};
    use crate::layers::Layer;

    const KERNEL: &str = "6.1.0-9-amd64";

    fn write(root: &Path, path: &str, bytes: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A distribution's way: `/lib` is a link, modules are packed, and firmware has a second name.
    fn usrmerge(root: &Path) {
        let modules = format!("usr/lib/modules/{KERNEL}");
        write(root, &format!("{modules}/extra/anvil.ko"), b"anvil");
        let packed = zstd::encode_all(b"bellows".as_slice(), 3).unwrap();
        write(root, &format!("{modules}/extra/bellows.ko.zst"), &packed);
        write(root, &format!("{modules}/modules.dep"), b"extra/anvil.ko:\n");
        write(root, &format!("{modules}/vmlinuz"), b"of no use to a node");
        write(root, "usr/lib/modules/5.10.0/extra/anvil.ko", b"another kernel's");
        write(root, "usr/src/linux/Kconfig", b"of no use either");
        symlink("/usr/src/linux", root.join(&modules).join("build")).unwrap();
        symlink("../../../../../shared", root.join(&modules).join("weak-updates")).unwrap();
        write(root, "shared/deep/tongs.ko", b"tongs");
        symlink("/shared/deep/tongs.ko", root.join(&modules).join("hammer.ko")).unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        write(root, "usr/lib/firmware/forge/a.bin", b"firmware");
        symlink("forge/a.bin", root.join("usr/lib/firmware/b.bin")).unwrap();
    }

    fn scratch(root: &Path) {
        write(root, &format!("lib/modules/{KERNEL}/anvil.ko"), b"anvil");
        write(root, "lib/firmware/a.bin", b"firmware");
    }

    /// Two directories that lead to each other.
    fn circle(root: &Path) {
        scratch(root);
        symlink("..", root.join(format!("lib/modules/{KERNEL}/up"))).unwrap();
    }

    /// A module that leads out of the image.
    fn escape(root: &Path) {
        scratch(root);
        let path = root.join(format!("lib/modules/{KERNEL}/out.ko"));
        symlink("../../../../../../etc/passwd", path).unwrap();
    }

    fn another_kernel(root: &Path) {
        write(root, "lib/modules/5.10.0/anvil.ko", b"anvil");
    }

    fn no_firmware(root: &Path) {
        write(root, &format!("lib/modules/{KERNEL}/anvil.ko"), b"anvil");
    }

    fn request() -> ExcerptRequest {
        ExcerptRequest {
            kernel: KERNEL.parse().unwrap(),
            dir_name: "/".parse().unwrap(),
            firmware_path: Some("/lib/firmware".parse().unwrap()),
        }
    }

    fn pack(bytes: &[u8], folder: &Path) -> Result<BuiltBundle, BuildError> {
        let path = folder.join("layer");
        fs::write(&path, bytes).unwrap();
        let layer = Layer {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            file: File::open(path).unwrap(),
            shared: false,
        };
        let ExcerptRequest { kernel, dir_name, firmware_path } = request();
        let request = BundleRequest {
            image: "registry.test/forge:1".parse().unwrap(),
            architecture: "amd64".parse().unwrap(),
            kernel,
            dir_name,
            firmware_path,
        };
        BundleBuilder::new(folder.to_owned(), Limits::default()).pack(vec![layer], &request, folder)
    }

    /// The image's only layer, as a builder writes it.
    fn whole(root: &Path) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        archive.append_dir_all("", root).unwrap();
        archive.into_inner().unwrap()
    }

    fn excerpt(root: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        Excerpt::of(root, &request(), &Limits::default()).unwrap().write(&mut bytes).unwrap();
        bytes
    }

    #[rstest]
    #[case(usrmerge)]
    #[case(scratch)]
    #[case(circle)]
    #[case(escape)]
    #[case(another_kernel)]
    #[case(no_firmware)]
    fn an_excerpt_gives_the_bundle_or_the_reproach_that_the_image_gives(#[case] image: fn(&Path)) {
        let (root, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        image(root.path());
        let told = |made: Result<BuiltBundle, BuildError>| match made {
            Ok(bundle) => Ok((bundle.digest, bundle.manifest.entries().len())),
            Err(BuildError::Select { source, .. }) => Err(source),
            Err(other) => panic!("{other}"),
        };
        let from_layers = told(pack(&whole(root.path()), folder.path()));
        assert_eq!(told(pack(&excerpt(root.path()), folder.path())), from_layers);
    }

    #[test]
    fn what_no_bundle_needs_is_not_sent() {
        let root = tempfile::tempdir().unwrap();
        usrmerge(root.path());
        let text = String::from_utf8_lossy(&excerpt(root.path())).into_owned();
        assert!(text.contains("anvil"));
        for unneeded in ["another kernel's", "of no use"] {
            assert!(!text.contains(unneeded), "{unneeded}");
        }
    }

    #[test]
    fn the_kernels_that_an_image_has_are_still_told() {
        let (root, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        another_kernel(root.path());
        let error = pack(&excerpt(root.path()), folder.path()).unwrap_err();
        let BuildError::Select { source: SelectError::NoDirectory { kernels, .. }, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(kernels, ["5.10.0"]);
    }

    #[test]
    fn more_than_a_bundle_may_be_made_of_is_not_sent() {
        let root = tempfile::tempdir().unwrap();
        scratch(root.path());
        for limits in [Limits { taken: 5, ..Limits::default() }, Limits { entries: 4, ..Limits::default() }] {
            let refused = Excerpt::of(root.path(), &request(), &limits);
            assert!(matches!(refused, Err(ExcerptError::TooMuch { .. })), "{refused:?}");
        }
    }
}

//! What an image tells of a kernel: by the boot image, the headers and the modules that it holds where distributions have
//! them. A driver toolkit, an image with the kernel's packages, a bootable image.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use tenon_kmod::facts::{HeaderFiles, HeadersError, ImageError, Left, MergeError, ModuleSurvey};
use tenon_kmod::object;
use tenon_kmod::{KernelFacts, KernelRelease};

use crate::layers::{FileAt, Found, ImageFiles, Layer, LayersError, Limits, LinkError, TooManyNames};
use crate::path::{ImagePath, PathError};
use crate::platform::Architecture;
use crate::retry::Retry;

/// Where `/lib` is no link, it may be either.
const MODULES: [&str; 2] = ["/lib/modules", "/usr/lib/modules"];
/// The largest file that is read: headers and boot images have some 15 MiB at most.
const FILE: u64 = 64 << 20;
/// What the files that are held at a time may have together.
const TOGETHER: u64 = 96 << 20;
/// What a boot image may unpack to: distributions' kernels have 50 to 100 MiB.
const KERNEL: usize = 192 << 20;
/// What a module may have, packed and unpacked. Larger ones are passed over.
const MODULE: usize = 64 << 20;

/// Why an image tells nothing of a kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The layers cannot be read.
    #[error("read the image's layers")]
    Layers(#[from] LayersError),
    /// The release is none that could be a directory.
    #[error("look for the kernel")]
    Path(#[from] PathError),
    /// There is no such kernel.
    #[error(
        "the image has nothing of kernel {0}: no boot image, headers or modules where distributions have them"
    )]
    Nothing(KernelRelease),
    /// A link that leads out, or in a circle.
    #[error("{path} in the image cannot be read")]
    Link {
        /// Its path.
        path: ImagePath,
        /// What is wrong with it.
        source: LinkError,
    },
    /// Larger than any file of its kind.
    #[error(
        "{path} in the image has {size} bytes, more than the {FILE} of one file or {TOGETHER} of all that are read"
    )]
    TooLarge {
        /// Its path.
        path: ImagePath,
        /// In bytes.
        size: u64,
    },
    /// The bytes ended early.
    #[error("take the kernel's files out of the image")]
    Read(#[source] io::Error),
    /// The modules are too many to list.
    #[error("list {path} in the image")]
    TooManyNames {
        /// The directory.
        path: ImagePath,
        /// How many there may be.
        source: TooManyNames,
    },
    /// The boot image is none.
    #[error("read {path} of the image")]
    BootImage {
        /// Its path.
        path: ImagePath,
        /// What is wrong with it.
        source: ImageError,
    },
    /// The headers are none.
    #[error("read the headers in {path} of the image")]
    Headers {
        /// Their directory.
        path: ImagePath,
        /// What is wrong with them.
        source: HeadersError,
    },
    /// They lie where this kernel's should, and are another's.
    #[error("{path} in the image is of kernel {found} ({found_for}), not of {wanted} ({wanted_for})")]
    OtherKernel {
        /// The boot image's path, or the headers'.
        path: ImagePath,
        /// The kernel that they are of.
        found: KernelRelease,
        /// The architecture that they are for.
        found_for: &'static str,
        /// The kernel that they should be of.
        wanted: KernelRelease,
        /// The architecture that they should be for.
        wanted_for: Architecture,
    },
    /// What lies in the image is of different builds.
    #[error("put together what the image has of the kernel")]
    Merge(#[from] MergeError),
}

impl KernelError {
    /// Whether it heals by itself.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Layers(LayersError::Io { .. }) => Retry::Later(None),
            _ => Retry::AfterChange,
        }
    }
}

/// An image whose layers are here.
#[derive(Debug)]
pub struct KernelImage {
    files: ImageFiles,
}

/// A directory of headers.
struct Folder {
    path: ImagePath,
    /// The files in it that count, by their names.
    files: BTreeMap<&'static str, Place>,
}

/// A file and where its bytes are.
type Place = (ImagePath, FileAt);

/// A kernel in it.
struct Wanted<'a> {
    release: &'a KernelRelease,
    architecture: &'a Architecture,
}

impl KernelImage {
    /// How much of an image is tolerated: a driver toolkit has half a gigabyte.
    pub fn limits() -> Limits {
        Limits { compressed: 2 << 30, expanded: 12 << 30, ..Limits::default() }
    }

    /// Reads the names of all layers, given from the lowest to the topmost. Blocks.
    pub fn open(layers: Vec<Layer>) -> Result<Self, KernelError> {
        Ok(Self { files: ImageFiles::flatten(layers, &Self::limits())? })
    }

    /// What the image tells of the kernel. Blocks.
    pub fn facts(
        &self,
        release: &KernelRelease,
        architecture: &Architecture,
    ) -> Result<KernelFacts, KernelError> {
        let wanted = Wanted { release, architecture };
        let boot_image = self.boot_image(&wanted)?;
        let headers = self.headers(release)?;
        let files = boot_image.iter().chain(headers.iter().flat_map(|folder| folder.files.values()));
        let bytes = self.read(files)?;
        let mut facts: Option<KernelFacts> = None;
        if let Some((path, at)) = boot_image {
            let read = KernelFacts::from_image_within(bytes.get(&at).map_or(&[], Vec::as_slice), KERNEL);
            let read = read.map_err(|source| KernelError::BootImage { path: path.clone(), source })?;
            facts = Some(wanted.check(&path, read)?);
        }
        if let Some(Folder { path, files }) = headers {
            let file =
                |name: &str| Ok::<_, KernelError>(files.get(name).and_then(|(_, at)| bytes.get(at)).cloned());
            if let Some(files) = HeaderFiles::read(file)? {
                let read = files.facts(object::Architecture::named(architecture.as_str()));
                let read = read.map_err(|source| KernelError::Headers { path: path.clone(), source })?;
                facts = Some(KernelFacts::join(facts, wanted.check(&path, read)?)?);
            }
        }
        drop(bytes);
        if let Some(left) = Left::by(facts.as_ref())
            && let Some(modules) = self.survey(&wanted, left)?
        {
            facts = Some(KernelFacts::join(facts, modules)?);
        }
        facts.ok_or_else(|| KernelError::Nothing(release.clone()))
    }

    /// Of x86 only: other architectures' boot images do not tell anything.
    fn boot_image(&self, wanted: &Wanted<'_>) -> Result<Option<Place>, KernelError> {
        if !matches!(wanted.architecture.as_str(), "amd64" | "386") {
            return Ok(None);
        }
        let release = wanted.release;
        let beside = MODULES.map(|modules| format!("{modules}/{release}/vmlinuz"));
        self.first(beside.into_iter().chain([format!("/boot/vmlinuz-{release}")]))
    }

    fn headers(&self, release: &KernelRelease) -> Result<Option<Folder>, KernelError> {
        let fixed = [format!("/usr/src/kernels/{release}"), format!("/usr/src/linux-headers-{release}")];
        let behind = MODULES.map(|modules| format!("{modules}/{release}/build"));
        for folder in fixed.into_iter().chain(behind) {
            if self.first([format!("{folder}/{}", HeaderFiles::SYMVERS)])?.is_some() {
                let mut files = BTreeMap::new();
                for name in HeaderFiles::ALL {
                    files.extend(self.first([format!("{folder}/{name}")])?.map(|found| (name, found)));
                }
                return Ok(Some(Folder { path: folder.parse()?, files }));
            }
        }
        Ok(None)
    }

    /// The first of these paths that is a file.
    fn first(&self, paths: impl IntoIterator<Item = String>) -> Result<Option<Place>, KernelError> {
        for path in paths {
            let path: ImagePath = path.parse()?;
            match self.files.tree().find(&path) {
                Some(Found::File(at)) => return Ok(Some((path, at))),
                Some(Found::Broken(source)) => return Err(KernelError::Link { path, source }),
                Some(Found::Special) | None => {}
            }
        }
        Ok(None)
    }

    fn read<'f>(
        &self,
        files: impl Iterator<Item = &'f Place>,
    ) -> Result<BTreeMap<FileAt, Vec<u8>>, KernelError> {
        let (mut wanted, mut left) = (BTreeSet::new(), TOGETHER);
        for (path, at) in files {
            let size = at.size();
            let too_large = || KernelError::TooLarge { path: path.clone(), size };
            left = left.checked_sub(size).filter(|_| size <= FILE).ok_or_else(too_large)?;
            wanted.insert(*at);
        }
        let mut contents = BTreeMap::new();
        self.take(&wanted, &mut |at, bytes| {
            contents.insert(at, bytes);
        })?;
        Ok(contents)
    }

    fn take(
        &self,
        wanted: &BTreeSet<FileAt>,
        give: &mut dyn FnMut(FileAt, Vec<u8>),
    ) -> Result<(), KernelError> {
        let mut take = |at, content: &mut dyn Read| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).map_err(KernelError::Read)?;
            give(at, bytes);
            Ok(())
        };
        self.files.read(wanted, &mut take, &KernelError::Layers)
    }

    /// What the kernel's own modules tell of it. Those that cannot be read are passed over.
    fn survey(&self, wanted: &Wanted<'_>, left: Left) -> Result<Option<KernelFacts>, KernelError> {
        let (mut modules, mut all) = (BTreeSet::new(), true);
        for directory in MODULES {
            let path: ImagePath = format!("{directory}/{}/kernel", wanted.release).parse()?;
            let walked = self.files.tree().walk(&path, &|_| false);
            let walked = walked.map_err(|source| KernelError::TooManyNames { path, source })?;
            for file in walked.unwrap_or_default().into_iter().filter(|file| is_module(&file.path)) {
                match file.found {
                    Found::File(at) if at.size() <= MODULE as u64 && modules.len() < Self::limits().files => {
                        modules.insert(at);
                    }
                    _ => all = false,
                }
            }
        }
        let (mut survey, mut told) = (ModuleSurvey::new(wanted.release.clone()), false);
        self.take(&modules, &mut |_, bytes| {
            if !(told && left == Left::Size) {
                match survey.add_file(&bytes, MODULE) {
                    Ok(added) => told |= added,
                    Err(_) => all = false,
                }
            }
        })?;
        Ok(survey.finish().filter(|facts| wanted.is_for(facts)).map(|mut facts| {
            facts.covers_modules = all && left == Left::Exports;
            facts
        }))
    }
}

impl Wanted<'_> {
    fn check(&self, path: &ImagePath, facts: KernelFacts) -> Result<KernelFacts, KernelError> {
        if facts.release == *self.release && self.is_for(&facts) {
            return Ok(facts);
        }
        Err(KernelError::OtherKernel {
            path: path.clone(),
            found: facts.release,
            found_for: facts.architecture.as_str(),
            wanted: self.release.clone(),
            wanted_for: self.architecture.clone(),
        })
    }

    fn is_for(&self, facts: &KernelFacts) -> bool {
        facts.architecture.as_str() == self.architecture.as_str()
    }
}

fn is_module(path: &[u8]) -> bool {
    [b".ko".as_slice(), b".ko.xz", b".ko.zst", b".ko.gz"].iter().any(|suffix| path.ends_with(suffix))
}

#[cfg(test)]
mod tests;

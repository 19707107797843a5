//! The images of builds in pods: the builder that the project ships, and for each kernel of the lab a toolkit, which has a
//! compiler and the kernel's headers.
//!
//! In: Debian's packages, by the machine's own apt sources, for no registry can be relied on. Out: OCI layouts in the cache,
//! made once from what they are made of, and pushed to a registry as they are. It needs root, mmdebstrap and buildah.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use ring::digest;
use serde::Deserialize;
use tenon_image::manifest::{Descriptor, OCI_MANIFEST};
use tenon_image::registry::Blob;
use tenon_order::Digest;

use crate::cache::{Cache, CacheError};
use crate::command::{self, CommandError};
use crate::debian::{Archive, ArchiveError, Release};
use crate::kernel::Kernel;
use crate::program_images::{self, ProgramImageError};

/// What all of them stand on: a small Debian with apt.
const BASE_PACKAGES: [&str; 3] = ["apt", "base-files", "util-linux"];
const BUILDER_PACKAGES: [&str; 6] = ["buildah", "ca-certificates", "git", "libcap2-bin", "mount", "uidmap"];
const TOOLKIT_PACKAGES: [&str; 3] = ["gcc-12", "kmod", "make"];
/// What nobody reads in an image.
const UNREAD: [&str; 3] = ["/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*"];

const BUILDER: [(&str, &str); 3] = [
    ("Containerfile", include_str!("../../images/builder/Containerfile")),
    ("build", include_str!("../../images/builder/build")),
    ("fetch", include_str!("../../images/builder/fetch")),
];
const TOOLKIT: (&str, &str) = ("Containerfile", include_str!("../images/toolkit/Containerfile"));
const BASE: (&str, &str) = ("Containerfile", "FROM scratch\nADD base.tar /\n");
/// The image's name in a layout.
const NAME: &str = "image";
/// The layout's folder.
const LAYOUT: &str = "layout";

/// An image in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedImage {
    layout: PathBuf,
}

/// Why there is no image, or not in the registry.
#[derive(Debug, thiserror::Error)]
pub enum BuildImageError {
    /// Packages.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// mmdebstrap or buildah.
    #[error("make the image of {what} (packages buildah and mmdebstrap)")]
    Make {
        /// Which.
        what: String,
        /// What the program said.
        #[source]
        source: CommandError,
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
    /// A document of it.
    #[error("understand {path}")]
    Document {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A layout without an image.
    #[error("find an image in the layout {0}")]
    Empty(PathBuf),
    /// The push.
    #[error(transparent)]
    Push(#[from] ProgramImageError),
}

/// The builder: `images/builder`.
pub fn builder() -> Result<CachedImage, BuildImageError> {
    let place = Place::open()?;
    let base = place.base()?;
    let packages = place.versions(&BUILDER_PACKAGES)?;
    let from = [base.key(), packages].concat();
    place.image(&Recipe { what: "the builder", files: &BUILDER, arguments: &[], base: Some(&base) }, &from)
}

/// What drivers for this kernel are built with; `uname -r` as a tag is [`toolkit_tag`].
pub fn toolkit(kernel: &Kernel) -> Result<CachedImage, BuildImageError> {
    let place = Place::open()?;
    let base = place.base()?;
    let packages = place.versions(&TOOLKIT_PACKAGES)?;
    let release = format!("RELEASE={}", kernel.release);
    // The path names the version of the headers' packages.
    let from = [base.key(), packages, vec![release.clone(), kernel.headers().display().to_string()]].concat();
    let what = format!("the toolkit for {}", kernel.release);
    place.image(&Recipe { what: &what, files: &[TOOLKIT], arguments: &[&release], base: Some(&base) }, &from)
}

/// A kernel's release as far as a tag can say it.
pub fn toolkit_tag(kernel: &Kernel) -> String {
    kernel.release.replace('+', "_")
}

impl CachedImage {
    /// Pushes it to a registry that speaks plain HTTP, under `registry/name:tag`; gives its digest.
    pub async fn push(&self, reference: &str) -> Result<Digest, BuildImageError> {
        let index: Index = read(&self.layout.join("index.json"))?;
        let found = index.manifests.first().ok_or_else(|| BuildImageError::Empty(self.layout.clone()))?;
        let path = self.blob(&found.digest);
        let bytes = fs::read(&path).map_err(at("read", &path))?;
        let manifest: Manifest = parse(&path, &bytes)?;
        let mut blobs = Vec::new();
        for part in manifest.layers.iter().chain([&manifest.config]) {
            let path = self.blob(&part.digest);
            let file = File::open(&path).map_err(at("open", &path))?;
            blobs.push(Blob::File { file: file.into(), digest: part.digest, size: part.size });
        }
        Ok(program_images::push_parts(reference, blobs, OCI_MANIFEST, &bytes).await?)
    }

    /// Equal for equal images.
    fn key(&self) -> Vec<String> {
        vec![self.layout.display().to_string()]
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.layout.join("blobs").join(digest.to_string().replace(':', "/"))
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An image to be made.
struct Recipe<'a> {
    what: &'a str,
    files: &'a [(&'a str, &'a str)],
    arguments: &'a [&'a str],
    base: Option<&'a CachedImage>,
}

struct Place {
    cache: Cache,
    archive: Archive,
}

impl Place {
    fn open() -> Result<Self, BuildImageError> {
        let cache = Cache::open()?;
        let archive = Archive::open(&cache)?;
        Ok(Self { cache, archive })
    }

    /// The packages that come with these, as `name=version`.
    fn versions(&self, packages: &[&str]) -> Result<Vec<String>, BuildImageError> {
        let found: BTreeMap<_, _> = self.archive.closure(packages, &[], Release::Stable)?;
        Ok(found.into_iter().map(|(name, version)| format!("{name}={version}")).collect())
    }

    fn base(&self) -> Result<CachedImage, BuildImageError> {
        let recipe = Recipe { what: "the base", files: &[BASE], arguments: &[], base: None };
        self.image(&recipe, &self.versions(&BASE_PACKAGES)?)
    }

    /// The image in the cache, made when the cache does not hold the one of the same files, arguments and packages.
    fn image(&self, recipe: &Recipe<'_>, packages: &[String]) -> Result<CachedImage, BuildImageError> {
        let files = recipe.files.iter().flat_map(|(name, text)| [*name, *text]);
        let key = key(files.chain(recipe.arguments.iter().copied()), packages);
        let folder = self.cache.entry::<BuildImageError>("images", &key, |aside| self.make(recipe, aside))?;
        Ok(CachedImage { layout: folder.join(LAYOUT) })
    }

    fn make(&self, recipe: &Recipe<'_>, aside: &Path) -> Result<(), BuildImageError> {
        let failed = |source| BuildImageError::Make { what: recipe.what.to_owned(), source };
        let context = aside.join("context");
        fs::create_dir(&context).map_err(at("create", &context))?;
        for (name, text) in recipe.files {
            let path = context.join(name);
            fs::write(&path, text).map_err(at("write", &path))?;
        }
        if recipe.base.is_none() {
            command::run(&mut self.debootstrap(&context.join("base.tar"))).map_err(failed)?;
        }
        let storage = aside.join("storage");
        let buildah = |verb: &str| {
            let mut command = Command::new("buildah");
            command.arg("--root").arg(storage.join("root")).arg("--runroot").arg(storage.join("run"));
            command.arg(verb);
            command
        };
        let mut build = buildah("build");
        build.args(["--isolation", "chroot", "--format", "oci", "--timestamp", "0", "--tag", NAME]);
        if let Some(base) = recipe.base {
            // Named by its path, which may hold what names of images may not; relative to its folder it does not.
            let source = format!("oci:{LAYOUT}:{NAME}");
            let folder = base.layout.parent().unwrap_or(&base.layout);
            command::run(buildah("pull").arg("--quiet").arg(source).current_dir(folder)).map_err(failed)?;
            build.arg("--build-arg").arg(format!("BASE=localhost/{LAYOUT}"));
        }
        for argument in recipe.arguments {
            build.arg("--build-arg").arg(argument);
        }
        command::run(build.arg(&context)).map_err(failed)?;
        let target = format!("oci:{}:{NAME}", aside.join(LAYOUT).display());
        command::run(buildah("push").args(["--quiet", NAME]).arg(target)).map_err(failed)?;
        for folder in [storage, context] {
            fs::remove_dir_all(&folder).map_err(at("remove", &folder))?;
        }
        Ok(())
    }

    /// A file system of the archive's, its sources included: the next image is made from the same.
    fn debootstrap(&self, out: &Path) -> Command {
        let mut command = Command::new("mmdebstrap");
        command.args(["--quiet", "--mode=root", "--variant=apt"]).env("SOURCE_DATE_EPOCH", "0");
        command.args(UNREAD.map(|path| format!("--dpkgopt=path-exclude={path}")));
        command.arg(self.archive.codename()).arg(out).arg(self.archive.sources());
        command
    }
}

fn key<'a>(texts: impl Iterator<Item = &'a str>, packages: &'a [String]) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in texts.chain(packages.iter().map(String::as_str)) {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    crate::hex(hash.finish().as_ref()).chars().take(16).collect()
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, BuildImageError> {
    parse(path, &fs::read(path).map_err(at("read", path))?)
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, bytes: &[u8]) -> Result<T, BuildImageError> {
    serde_json::from_slice(bytes)
        .map_err(|source| BuildImageError::Document { path: path.to_owned(), source })
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildImageError {
    let path = path.to_owned();
    move |source| BuildImageError::Io { action, path, source }
}

//! `kubectl tenon image sign`: modules inside an image are signed, and the image is published under another name, without
//! a builder and without its layers coming here.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::str::FromStr;

use tenon_image::ImageReference;
use tenon_image::layout::{Layout, LayoutError};
use tenon_image::reference::ReferenceError;
use tenon_image::revise::{FilePattern, ReviseError, Revised, Source};
use tenon_maker::{SignRequest, sign_image};

use super::connection::{ConnectionArgs, ConnectionError, passes, wait_for};
use super::{bytes, counted, say};
use crate::failure::Failure;
use crate::sign::{SignerArgs, SignerError};

const LONG_ABOUT: &str = "Sign modules of an image and publish it under another name.

The new image has one small layer more, with the signed modules; everything else is mounted where both names are in one \
registry, and copied where they are not. FROM may be the folder that `buildah push IMAGE oci:FOLDER` has written, with one \
image in it: then nothing unsigned is ever in a registry. Every architecture of an index is signed. Modules that this \
certificate has signed last, with this hash, stay as they are. The same image, key and hash make the same digest, which is \
written to standard output with the name.";

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Args {
    /// The image whose modules are signed: registry/name:tag, or oci:FOLDER as buildah and skopeo write it
    #[arg(value_name = "FROM")]
    from: Origin,
    /// Where to: registry/name:tag
    #[arg(value_name = "TO")]
    to: ImageReference,
    /// A module in the image, with an absolute path; `*`, `?` and `[…]` mean what they mean in a shell
    #[arg(long = "file", value_name = "PATH", required = true)]
    files: Vec<FilePattern>,
    #[command(flatten)]
    signer: SignerArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Where the image is, in the notation of buildah and skopeo.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    Registry(ImageReference),
    /// `oci:` and the folder of an image layout.
    Layout(PathBuf),
}

impl FromStr for Origin {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        match text.strip_prefix("oci:") {
            Some(folder) => Ok(Self::Layout(folder.into())),
            None => text.parse().map(Self::Registry),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(image) => image.fmt(f),
            Self::Layout(folder) => write!(f, "oci:{}", folder.display()),
        }
    }
}

/// Why no signed image was published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    #[error("TO {0} names a digest, but the image gets its own: give a tag instead")]
    DigestGiven(ImageReference),
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("sign the modules of {from}")]
    Revise { from: Origin, hint: Option<String>, source: Box<ReviseError> },
    #[error("write the result to standard output")]
    Output(#[source] io::Error),
}

impl SignError {
    pub(crate) fn into_failure(self) -> Failure {
        let (hint, passing) = match &self {
            Self::Revise { hint, source, .. } => {
                let passing = matches!(&**source, ReviseError::Registry(source) if passes(source));
                (hint.clone(), passing)
            }
            _ => (None, false),
        };
        Failure::new(self).hint(hint).passing(passing)
    }
}

pub(crate) fn run(args: &Args) -> Result<(), SignError> {
    if args.to.digest().is_some() {
        return Err(SignError::DigestGiven(args.to.clone()));
    }
    let identity = args.signer.identity()?;
    let connection = args.connection.connect(&args.to)?;
    let registry = &connection.registry;
    let request = SignRequest {
        files: args.files.clone(),
        hash: args.signer.hash,
        note: format!(
            "kubectl tenon image sign --hash {} # by {}",
            args.signer.hash,
            identity.certificate().issued_as()
        ),
        labels: BTreeMap::new(),
        lenient: false,
    };
    let work = std::env::temp_dir();
    let layout;
    let from = match &args.from {
        Origin::Registry(image) => Source::Registry(registry, image),
        Origin::Layout(folder) => {
            layout = Layout::open(folder)?;
            Source::Layout(&layout)
        }
    };
    let revised = wait_for(sign_image(from, (registry, &args.to), request, identity, &work))?;
    let revised = revised.map_err(|source| {
        let hint = match &source {
            ReviseError::Registry(error) => connection.hint(error),
            _ => None,
        };
        SignError::Revise { from: args.from.clone(), hint, source: Box::new(source) }
    })?;
    describe(&revised);
    writeln!(io::stdout(), "{}", revised.reference).map_err(SignError::Output)
}

fn describe(revised: &Revised) {
    for (word, files) in [("signed", &revised.changed), ("was signed:", &revised.unchanged)] {
        for (platform, paths) in files {
            for path in paths {
                say(&format!("{word} {path} ({platform})"));
            }
        }
    }
    let blobs = revised.blobs;
    say(&format!(
        "fetched {} of layers; {} mounted, {} copied, {} there before",
        bytes(revised.fetched),
        counted(blobs.mounted, "blob"),
        blobs.copied,
        blobs.present
    ));
}

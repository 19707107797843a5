//! `kubectl tenon image push`: a directory of modules becomes an image in a registry, without a builder.

use std::io::{self, Write as _};
use std::path::PathBuf;

use tenon_image::platform::Architecture;
use tenon_image::publish::{
    self, Contents, ContentsError, FIRMWARE_PATH, KernelModules, Layout, PackError, Progress,
};
use tenon_image::registry::{Pushed, RegistryError};
use tenon_image::{ImagePath, ImageReference};

use super::connection::{ConnectionArgs, ConnectionError, passes, wait_for};
use super::{bytes, counted, say};

const LONG_ABOUT: &str = "Pack a directory of modules into an image and push it.

DIR holds DIR/<kernel>/*.ko (or DIR/opt/lib/modules/<kernel>/*.ko, or what `make modules_install \
INSTALL_MOD_PATH=DIR` leaves), for one kernel or several, packed or not. The image has nothing but these files, \
depmod's modules.* beside them, and firmware: equal files make an equal digest. The reference with the digest is \
written to standard output.";

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Args {
    /// The directory with modules
    dir: PathBuf,
    /// Where to: registry/name:tag
    #[arg(value_name = "REF")]
    reference: ImageReference,
    /// Directory with firmware files; they go to /firmware in the image
    #[arg(long, value_name = "DIR")]
    firmware: Option<PathBuf>,
    /// The Module's modprobe.dirName: where in the image lib/modules is
    #[arg(long, value_name = "PATH", default_value = "/opt")]
    dir_name: ImagePath,
    /// Refuse modules for another architecture than this [default: the modules' own]
    #[arg(long)]
    arch: Option<Architecture>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Why nothing was pushed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    #[error("REF {0} names a digest, but the image gets its own: give a tag instead")]
    DigestGiven(ImageReference),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Contents(#[from] ContentsError),
    #[error("the modules are for {found}, not for --arch {wanted}")]
    Architecture { found: Architecture, wanted: Architecture },
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("push {to}")]
    Push { to: ImageReference, hint: Option<String>, source: RegistryError },
    #[error("write the result to standard output")]
    Output(#[source] io::Error),
}

pub(crate) fn run(args: &Args) -> Result<(), PushError> {
    if args.reference.digest().is_some() {
        return Err(PushError::DigestGiven(args.reference.clone()));
    }
    let connection = args.connection.connect(&args.reference)?;

    let contents = Contents::scan(&args.dir, &args.dir_name, args.firmware.as_deref())?;
    describe(args, &contents);
    let architecture = choose_architecture(args, &contents)?;
    let image = publish::pack(&contents, &architecture, &std::env::temp_dir())?;
    say(&format!("packed {} for linux/{architecture}", bytes(image.layer_size())));

    let mut tell = |progress| announce(&progress);
    let push = publish::push(&connection.registry, &args.reference, &image, &mut tell);
    let pushed = wait_for(push)?.map_err(|source| PushError::Push {
        to: args.reference.clone(),
        hint: connection.hint(&source),
        source,
    })?;
    writeln!(io::stdout(), "{pushed}").map_err(PushError::Output)
}

fn choose_architecture(args: &Args, contents: &Contents) -> Result<Architecture, PushError> {
    let found = contents.architecture.clone();
    match &args.arch {
        Some(wanted) if *wanted != found => Err(PushError::Architecture { found, wanted: wanted.clone() }),
        _ => Ok(found),
    }
}

fn describe(args: &Args, contents: &Contents) {
    let directory = args.dir.display();
    let layout = match contents.layout {
        Layout::Kernels => format!("{directory}/<kernel>"),
        Layout::Image => format!("{directory}{}/lib/modules/<kernel>", args.dir_name),
        Layout::Installed => format!("{directory}/lib/modules/<kernel>"),
    };
    say(&format!("found in {layout}:"));
    for kernel in &contents.kernels {
        say(&format!("  {}", kernel_line(kernel)));
        for (file, release) in &kernel.foreign {
            say(&format!("  note: {file} was built for {release}"));
        }
    }
    if contents.firmware > 0 {
        say(&format!(
            "  {} (set modprobe.firmwarePath: {FIRMWARE_PATH})",
            counted(contents.firmware, "firmware file")
        ));
    }
}

fn kernel_line(kernel: &KernelModules) -> String {
    let modules = counted(kernel.modules, "module");
    let beside =
        if kernel.metadata.is_empty() { String::new() } else { format!(", {}", kernel.metadata.join(", ")) };
    format!("{}: {modules}{beside}", kernel.kernel.as_str())
}

fn announce(progress: &Progress) {
    let Progress::Blob { digest, size, pushed } = progress;
    let what = match pushed {
        Pushed::Uploaded => "pushed",
        Pushed::Present => "was there:",
        Pushed::Mounted => "mounted",
    };
    say(&format!("{what} {digest} ({})", bytes(*size)));
}

impl PushError {
    /// With the way out.
    pub(crate) fn into_failure(self) -> crate::failure::Failure {
        let (hint, passing) = match &self {
            Self::Push { hint, source, .. } => (hint.clone(), passes(source)),
            _ => (None, false),
        };
        crate::failure::Failure::new(self).hint(hint).passing(passing)
    }
}

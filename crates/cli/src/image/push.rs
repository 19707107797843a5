//! `kubectl tenon image push`: a directory of modules becomes an image in a registry, without a builder.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tenon_image::keyring::{Keyring, KeyringError, SecretFormat};
use tenon_image::platform::Architecture;
use tenon_image::publish::{
    self, Contents, ContentsError, FIRMWARE_PATH, KernelModules, Layout, PackError, Progress,
};
use tenon_image::registry::{
    Proxies, Pushed, Registry, RegistryError, Timing, TlsSettings, Transport, TransportError, Trouble,
};
use tenon_image::{ImagePath, ImageReference};

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
    /// File with credentials, as `docker login` writes it [default: ~/.docker/config.json]
    #[arg(long, value_name = "FILE", env = "REGISTRY_AUTH_FILE")]
    authfile: Option<PathBuf>,
    /// Speak HTTP without TLS
    #[arg(long)]
    plain_http: bool,
    /// Accept any certificate of the registry
    #[arg(long, conflicts_with = "plain_http")]
    insecure_skip_tls_verify: bool,
    /// Trust this certificate authority too (PEM)
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Why nothing was pushed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    #[error("REF {0} names a digest, but the image gets its own: give a tag instead")]
    DigestGiven(ImageReference),
    #[error("read {flag} {path}", path = path.display())]
    File { flag: &'static str, path: PathBuf, source: io::Error },
    #[error("read {path}", path = path.display())]
    Authfile { path: PathBuf, source: KeyringError },
    #[error(transparent)]
    Contents(#[from] ContentsError),
    #[error("the modules are for {found}, not for --arch {wanted}")]
    Architecture { found: Architecture, wanted: Architecture },
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("prepare the connection to {registry}")]
    Transport { registry: String, source: TransportError },
    #[error("start")]
    Runtime(#[source] io::Error),
    #[error("push {to}")]
    Push { to: ImageReference, plain_http: bool, helpers: bool, source: RegistryError },
    #[error("write the result to standard output")]
    Output(#[source] io::Error),
}

pub(crate) fn run(args: &Args) -> Result<(), PushError> {
    if args.reference.digest().is_some() {
        return Err(PushError::DigestGiven(args.reference.clone()));
    }
    // What can be wrong on this side comes out before anything is read or sent.
    let keyring = read_keyring(args)?;
    let tls = TlsSettings {
        plain_http: args.plain_http,
        skip_verify: args.insecure_skip_tls_verify,
        authority: args.ca_file.as_deref().map(|path| read("--ca-file", path)).transpose()?,
    };
    let helpers = keyring.mentions_helpers();
    // A person is waiting: rather say soon what is wrong.
    let timing = Timing { attempts: 4, ..Timing::default() };
    let registry = Registry::new(&Transport::new(Proxies::from_environment()), &tls, keyring, timing)
        .map_err(|source| PushError::Transport { registry: args.reference.registry().to_owned(), source })?;

    let contents = Contents::scan(&args.dir, &args.dir_name, args.firmware.as_deref())?;
    describe(args, &contents);
    let architecture = choose_architecture(args, &contents)?;
    let image = publish::pack(&contents, &architecture, &std::env::temp_dir())?;
    say(&format!("packed {} for linux/{architecture}", bytes(image.layer_size())));

    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PushError::Runtime)?;
    let pushed = runtime
        .block_on(publish::push(&registry, &args.reference, &image, &mut |progress| announce(&progress)))
        .map_err(|source| PushError::Push {
            to: args.reference.clone(),
            plain_http: args.plain_http,
            helpers,
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

/// A file that was named must be there; the usual one need not.
fn read_keyring(args: &Args) -> Result<Keyring, PushError> {
    let mut keyring = Keyring::default();
    let (path, data) = if let Some(path) = &args.authfile {
        (path.clone(), read("--authfile", path)?)
    } else {
        let Some(path) = usual_authfile().filter(|path| path.is_file()) else { return Ok(keyring) };
        let data = read("the credentials in", &path)?;
        (path, data)
    };
    keyring
        .add(SecretFormat::DockerConfigJson, &data)
        .map_err(|source| PushError::Authfile { path, source })?;
    Ok(keyring)
}

fn usual_authfile() -> Option<PathBuf> {
    let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let directory = directory.or_else(|| std::env::home_dir().map(|home| home.join(".docker")))?;
    Some(directory.join("config.json"))
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, PushError> {
    fs::read(path).map_err(|source| PushError::File { flag, path: path.to_owned(), source })
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
    };
    say(&format!("{what} {digest} ({})", bytes(*size)));
}

/// Where standard error is closed there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn counted(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// With one digit behind the point.
fn bytes(size: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", size / unit, size % unit * 10 / unit);
    match size {
        0..1024 => format!("{size} bytes"),
        1024..1_048_576 => format!("{} KiB", tenths(1 << 10)),
        _ => format!("{} MiB", tenths(1 << 20)),
    }
}

impl PushError {
    /// With the way out.
    pub(crate) fn into_failure(self) -> crate::failure::Failure {
        let (hint, passing) = match &self {
            Self::Push { to, plain_http, helpers, source } => {
                let passing = matches!(
                    source,
                    RegistryError::Unreachable { source, .. } if !matches!(source, Trouble::Certificate(_))
                );
                (push_hint(to, *plain_http, *helpers, source), passing)
            }
            _ => (None, false),
        };
        crate::failure::Failure::new(self).hint(hint).passing(passing)
    }
}

fn push_hint(to: &ImageReference, plain_http: bool, helpers: bool, source: &RegistryError) -> Option<String> {
    let host = to.registry();
    match source {
        RegistryError::Denied { .. } if helpers => Some(format!(
            "the credentials file leaves {host} to a helper program, which is not run; log in to a file of its own \
             (`podman login --authfile FILE {host}`) and give --authfile FILE"
        )),
        RegistryError::Denied { .. } => Some(format!(
            "log in with `docker login {host}`, or give --authfile FILE; the account must be allowed to push"
        )),
        RegistryError::Unreachable { source: Trouble::Certificate(_), .. } => {
            Some("give the authority's certificate with --ca-file, or --insecure-skip-tls-verify".to_owned())
        }
        RegistryError::Unreachable { source: Trouble::Connection(_), .. } if !plain_http => {
            Some(format!("is {host} right? For a registry without TLS give --plain-http"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let shown = [0, 1023, 1024, 1536, 5 << 20].map(bytes);
        assert_eq!(shown, ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 MiB"]);
    }
}

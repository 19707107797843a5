//! `kubectl tenon sign`: signs module files as the kernel's `sign-file` does, packed ones too.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tempfile::NamedTempFile;
use tenon_sign::{
    Certificate, CertificateError, FileError, Hash, Identity, IdentityError, KeyError, LocalKey, Signed,
    sign_file,
};
use zeroize::Zeroizing;

use crate::facts::{MODULE_LIMIT, SourceError, module_files};
use crate::failure::Failure;

const LONG_ABOUT: &str = "Sign modules for kernels that load only signed ones.

FILE is a module, packed or not (.ko, .ko.gz, .ko.xz, .ko.zst), or a directory with modules below it. One signature is \
added, over everything that the file holds, earlier signatures included: kernels look at the last one only. A file that \
this certificate has signed last, with this hash, stays as it is. Files are signed where they are, or into --output.";

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Args {
    /// Modules, or directories with modules
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    signer: SignerArgs,
    /// Write the signed modules into this directory and leave the others alone
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Who signs, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct SignerArgs {
    /// The private key: PEM, without a passphrase; RSA, P-256 or P-384
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The key's certificate, PEM or DER: one that the kernels trust
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// sha256, sha384 or sha512
    #[arg(long, value_name = "HASH", default_value = "sha256")]
    pub(crate) hash: Hash,
}

/// Why nobody can sign.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignerError {
    #[error("read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("read the key {path}", path = path.display())]
    Key { path: PathBuf, source: KeyError },
    #[error("read the certificate {path}", path = path.display())]
    Certificate { path: PathBuf, source: CertificateError },
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Why modules were not signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    #[error("read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error(transparent)]
    Folder(#[from] SourceError),
    #[error("{path} is no module, and no modules are below it", path = path.display())]
    Nothing { path: PathBuf },
    #[error("sign {path}", path = path.display())]
    File { path: PathBuf, source: FileError },
    #[error("{one} and {other} would both be written to {to}", one = one.display(), other = other.display(), to = to.display())]
    Twice { one: PathBuf, other: PathBuf, to: PathBuf },
    #[error("write {path}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("write the result to standard output")]
    Output(#[source] io::Error),
}

impl SignError {
    pub(crate) fn into_failure(self) -> Failure {
        Failure::new(self)
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, SignError> {
    let identity = args.signer.identity()?;
    // Whatever can be wrong with one of them comes out before any is written.
    let mut signed = Vec::new();
    for (from, to) in targets(args)? {
        let file = read(&from)?;
        let outcome = sign_file(&file, &identity, args.signer.hash, MODULE_LIMIT)
            .map_err(|source| SignError::File { path: from.clone(), source })?;
        signed.push((from, to, file, outcome));
    }
    let mut out = io::stdout().lock();
    for (from, to, file, outcome) in signed {
        let (content, word) = match outcome {
            Signed::Anew(content) => (Some(content), "signed"),
            Signed::Already if from == to => (None, "was signed"),
            Signed::Already => (Some(file), "was signed"),
        };
        if let Some(content) = content {
            write(&from, &to, &content)?;
        }
        writeln!(out, "{word} {}", to.display()).map_err(SignError::Output)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl SignerArgs {
    /// Reads the key and its certificate.
    pub(crate) fn identity(&self) -> Result<Identity, SignerError> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|source| SignerError::Read { path: path.clone(), source })
        };
        let certificate = Certificate::read(&read(&self.cert)?)
            .map_err(|source| SignerError::Certificate { path: self.cert.clone(), source })?;
        let key = LocalKey::read(&Zeroizing::new(read(&self.key)?))
            .map_err(|source| SignerError::Key { path: self.key.clone(), source })?;
        Ok(Identity::new(certificate, Box::new(key))?)
    }
}

/// Each module, and where it is written to when it is signed.
fn targets(args: &Args) -> Result<Vec<(PathBuf, PathBuf)>, SignError> {
    let mut targets: Vec<(PathBuf, PathBuf)> = Vec::new();
    for named in &args.files {
        let found = if named.is_dir() { module_files(named)? } else { vec![named.clone()] };
        if found.is_empty() {
            return Err(SignError::Nothing { path: named.clone() });
        }
        for from in found {
            let to = target(args.output.as_deref(), named, &from);
            if let Some((one, to)) = targets.iter().find(|(_, taken)| *taken == to) {
                return Err(SignError::Twice { one: one.clone(), other: from, to: to.clone() });
            }
            targets.push((from, to));
        }
    }
    Ok(targets)
}

/// Below a directory that was named, files keep their place.
fn target(output: Option<&Path>, named: &Path, file: &Path) -> PathBuf {
    let Some(output) = output else { return file.to_owned() };
    let below = file.strip_prefix(named).ok().filter(|below| !below.as_os_str().is_empty());
    let name = below.or_else(|| file.file_name().map(Path::new));
    output.join(name.unwrap_or(file))
}

fn read(path: &Path) -> Result<Vec<u8>, SignError> {
    fs::read(path).map_err(|source| SignError::Read { path: path.to_owned(), source })
}

/// Aside first: a module is never there by half. With the mode that the file had.
fn write(from: &Path, to: &Path, content: &[u8]) -> Result<(), SignError> {
    let failed = |source| SignError::Write { path: to.to_owned(), source };
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let mut aside = NamedTempFile::new_in(folder).map_err(failed)?;
    aside.write_all(content).map_err(failed)?;
    let mode = fs::metadata(from).map_err(failed)?.permissions();
    aside.as_file().set_permissions(mode).map_err(failed)?;
    aside.as_file().sync_all().map_err(failed)?;
    aside.persist(to).map_err(|error| failed(error.error))?;
    Ok(())
}

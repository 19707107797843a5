//! `kubectl tenon check`: will these modules load into that kernel? Asks nobody: everything comes from files.

mod report;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tenon_kmod::compression::{self, DecompressError};
use tenon_kmod::dependency::load_sequence;
use tenon_kmod::parameters::{Parameter, ParameterError};
use tenon_kmod::predict::{
    Circumstances, Enforcement, Prediction, SignatureCheck, Verdict, predict, predict_file,
};
use tenon_kmod::{KernelFacts, ModuleName, ModuleObject};
use tenon_sign::{Certificate, CertificateError, verify};

use crate::facts::{SourceError, WHAT, module_files, read_kernel};
use crate::failure::Failure;

const LONG_ABOUT: &str = "Say whether modules will load into a kernel, and why not.

Each PATH is a module (.ko, packed or not) or a directory with modules. They are judged as if loaded one after the other: \
files in the order given, those of a directory each behind what it needs. Modules of the kernel's own that are needed \
count as loaded before. What a module's own code does when it is started is not predicted.";

const AFTER_HELP: &str = "Exit codes: 0 all will load; 1 at least one will not; 2 the command line is wrong or a file cannot be read; 3 what \
is known does not suffice to say.";

/// A directory with more than a kernel's own modules is a mistake.
const MAX_FILES: usize = 20_000;

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT, after_help = format!("{WHAT}\n\n{AFTER_HELP}"))]
pub(crate) struct Args {
    /// Modules, or directories with modules
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The kernel: an image, headers, a directory in /lib/modules, or a file with facts
    #[arg(long, value_name = "WHAT")]
    kernel: PathBuf,
    /// Give the module a parameter; only with one module
    #[arg(long = "param", value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// Firmware directory: say which files the modules may miss there
    #[arg(long, value_name = "DIR")]
    firmware: Option<PathBuf>,
    /// The kernel enforces signatures: `module.sig_enforce=1`, or Secure Boot
    #[arg(long, conflicts_with = "lockdown")]
    sig_enforce: bool,
    /// The kernel is locked down
    #[arg(long)]
    lockdown: bool,
    /// A certificate that the kernel trusts, PEM or DER: signed modules are compared with it; may be given several times
    #[arg(long, value_name = "FILE")]
    trust: Vec<PathBuf>,
    /// In which form to answer
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("unpack {path}", path = path.display())]
    Unpack { path: PathBuf, source: DecompressError },
    #[error("read the certificate {path}", path = path.display())]
    Certificate { path: PathBuf, source: CertificateError },
    #[error("find modules in {path}: there are none", path = path.display())]
    NoModules { path: PathBuf },
    #[error("check {0} modules: more than {MAX_FILES}")]
    TooMany(usize),
    #[error("read --param {text}")]
    Parameter { text: String, source: ParameterError },
    #[error("--param is for one module, not for {0}")]
    ParameterForMany(usize),
    #[error("write the result")]
    Output(#[source] io::Error),
    #[error("write the result as JSON")]
    Json(#[source] serde_json::Error),
}

impl CheckError {
    /// The exit code is the answer; this is none.
    pub(crate) fn into_failure(self) -> Failure {
        Failure::new(self).without_answer()
    }
}

/// A file's verdict.
struct Checked {
    path: PathBuf,
    name: Option<ModuleName>,
    prediction: Prediction,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, CheckError> {
    let facts = read_kernel(&args.kernel)?;
    let trusted = args.trust.iter().map(|path| certificates(path)).collect::<Result<Vec<_>, _>>()?.concat();
    let files = files(&args.paths, &trusted)?;
    let circumstances = circumstances(args, files.len())?;
    let checked = check(files, &facts, circumstances);
    let text = match args.output {
        Output::Text => report::text(&checked, &facts),
        Output::Json => report::json(&checked, &facts).map_err(CheckError::Json)?,
    };
    io::stdout().write_all(text.as_bytes()).map_err(CheckError::Output)?;
    Ok(exit_code(&checked))
}

fn exit_code(checked: &[Checked]) -> ExitCode {
    let any =
        |wanted: fn(&Verdict) -> bool| checked.iter().any(|checked| wanted(&checked.prediction.verdict));
    if any(|verdict| matches!(verdict, Verdict::Fails { .. })) {
        ExitCode::from(1)
    } else if any(|verdict| matches!(verdict, Verdict::Unknown)) {
        ExitCode::from(3)
    } else {
        ExitCode::SUCCESS
    }
}

/// A file, and what is in it as far as it is a module.
struct File {
    path: PathBuf,
    bytes: Vec<u8>,
    module: Option<ModuleObject>,
    signature: SignatureCheck,
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, CheckError> {
    let bytes = fs::read(path).map_err(|source| CheckError::Read { path: path.to_owned(), source })?;
    Certificate::read_all(&bytes).map_err(|source| CheckError::Certificate { path: path.to_owned(), source })
}

fn files(paths: &[PathBuf], trusted: &[Certificate]) -> Result<Vec<File>, CheckError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(read(path, trusted)?);
            continue;
        }
        let found = module_files(path)?;
        if found.is_empty() {
            return Err(CheckError::NoModules { path: path.clone() });
        }
        if found.len() > MAX_FILES {
            return Err(CheckError::TooMany(found.len()));
        }
        let found = found.iter().map(|path| read(path, trusted)).collect::<Result<Vec<_>, _>>()?;
        files.extend(in_order(found));
    }
    Ok(files)
}

fn read(path: &Path, trusted: &[Certificate]) -> Result<File, CheckError> {
    let bytes = fs::read(path).map_err(|source| CheckError::Read { path: path.to_owned(), source })?;
    // Tenon unpacks before it loads.
    let bytes = match compression::decompress(&bytes, crate::facts::MODULE_LIMIT) {
        Ok(unpacked) => unpacked.into_owned(),
        Err(source) => return Err(CheckError::Unpack { path: path.to_owned(), source }),
    };
    let module = ModuleObject::parse(&bytes).ok();
    // Where nobody says whom the kernel trusts, nothing is known of its opinion.
    let signature =
        if trusted.is_empty() { SignatureCheck::Unread } else { verify(&bytes, trusted).check(trusted) };
    // Of a file that is read, its contents are not needed any more.
    let bytes = if module.is_some() { Vec::new() } else { bytes };
    Ok(File { path: path.to_owned(), bytes, module, signature })
}

/// Each module behind what it needs; what is no module comes last.
fn in_order(files: Vec<File>) -> Vec<File> {
    let (modules, others): (Vec<File>, Vec<File>) = files.into_iter().partition(|file| file.module.is_some());
    let objects: Vec<&ModuleObject> = modules.iter().filter_map(|file| file.module.as_ref()).collect();
    let sequence = load_sequence(&objects);
    let mut modules: Vec<Option<File>> = modules.into_iter().map(Some).collect();
    let ordered = sequence.into_iter().filter_map(|place| modules.get_mut(place).and_then(Option::take));
    ordered.chain(others).collect()
}

fn circumstances(args: &Args, files: usize) -> Result<Circumstances, CheckError> {
    if !args.parameters.is_empty() && files != 1 {
        return Err(CheckError::ParameterForMany(files));
    }
    let parameter = |text: &String| {
        Parameter::parse(text).map_err(|source| CheckError::Parameter { text: text.clone(), source })
    };
    Ok(Circumstances {
        enforcement: match (args.sig_enforce, args.lockdown) {
            (true, _) => Enforcement::Enforced,
            (false, true) => Enforcement::Lockdown,
            (false, false) => Enforcement::Permissive,
        },
        parameters: args.parameters.iter().map(parameter).collect::<Result<_, _>>()?,
        firmware: args.firmware.as_deref().map(firmware_files).transpose()?,
        ..Circumstances::default()
    })
}

/// Paths below the directory, as drivers name them.
fn firmware_files(root: &Path) -> Result<BTreeSet<String>, CheckError> {
    let mut files = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let error = |source| CheckError::Read { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(error)? {
            let entry = entry.map_err(error)?;
            let path = entry.path();
            if entry.file_type().map_err(error)?.is_dir() {
                folders.push(path);
            } else if let Ok(name) = path.strip_prefix(root) {
                files.insert(name.to_string_lossy().into_owned());
            }
        }
    }
    Ok(files)
}

fn check(files: Vec<File>, facts: &KernelFacts, mut circumstances: Circumstances) -> Vec<Checked> {
    let mut checked = Vec::new();
    for File { path, bytes, module, signature } in files {
        circumstances.signature = signature;
        let prediction = match &module {
            Some(module) => {
                let prediction = predict(module, facts, &circumstances);
                circumstances.advance(module, &prediction);
                prediction
            }
            None => predict_file(&bytes, facts, &circumstances),
        };
        checked.push(Checked { path, name: module.map(|module| module.name), prediction });
    }
    checked
}

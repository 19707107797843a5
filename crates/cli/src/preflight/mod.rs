//! `kubectl tenon preflight`: will all drivers be there on a kernel that no node runs yet? Asks the operator by a
//! PreflightValidation, which goes again when it has answered.

mod answer;
mod asked;
mod stop;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use futures::future::{Either, select};
use kube::Client;
use tenon_api::PreflightValidationStatus;
use tenon_api::preflight_validation::PreflightValidationSpec;
use tokio::time::Instant;

use crate::answer::{self as form, AnswerError, Format};
use crate::cluster::{ClusterArgs, ClusterError, block_on};
use crate::failure::Failure;
use crate::terminal::{Look, plain_lines};
use answer::Answer;
use asked::{AskError, Asked};
use stop::Stop;

const LONG_ABOUT: &str = "Say whether all drivers will be there on a kernel that no node runs yet.

For every Module of the cluster, whatever its namespace: which image it names for KERNEL, whether that exists, and whether the kernel \
will load what is in it. No node is touched. The question is put to the operator as a PreflightValidation, which is removed again.

An image that does not exist is built and signed, if its Module says how. Without --push-built-image nothing of it is pushed: then it is \
known whether it can be made, and not whether the kernel will load it.";

const AFTER_HELP: &str = "Exit codes: 0 every driver will be there; 1 a driver would be lost; 2 the command line is wrong; 3 that cannot be said: \
something did not answer or is not decided in time, nobody knows whether the kernel will load what is there, the cluster could not be \
asked, or the question could not be taken back.";

/// How often the operator is asked how far it is.
const AGAIN: Duration = Duration::from_secs(1);
/// How long facts about the kernel are waited for: an image that tells them may be being read.
const FACTS: Duration = Duration::from_secs(10);
/// How long whoever is stopped waits to hear whether there is something to take back.
const LAST_WORD: Duration = Duration::from_secs(5);
/// How long the operator may say nothing at all.
const FIRST_WORD: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
#[command(long_about = LONG_ABOUT, after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The kernel, as `uname -r` names it
    kernel: String,
    /// Push what does not exist, and is built and signed, under the names that the Modules give
    #[arg(long)]
    push_built_image: bool,
    /// The architecture, as Kubernetes names it [default: as the kernel's name says, else those of each Module's nodes]
    #[arg(long, value_name = "NAME")]
    architecture: Option<String>,
    /// Leave the PreflightValidation there, and with it what it asks for
    #[arg(long)]
    keep: bool,
    /// How long to wait: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    timeout: Duration,
    /// For programs
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreflightError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("ask the operator about PreflightValidation {name}: it has said nothing in {} seconds", FIRST_WORD.as_secs())]
    OperatorSilent { name: String },
    #[error("wait for an answer: stopped")]
    Stopped,
    #[error("create a PreflightValidation: stopped before the API server has answered")]
    StoppedUnheard,
    #[error("listen for signals")]
    Signals(#[source] std::io::Error),
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

impl PreflightError {
    /// None of them is a verdict: what asks by the exit code must not take one for a driver that would be lost.
    pub(crate) fn into_failure(self) -> Failure {
        let hint = match &self {
            Self::Ask(AskError::Refused(_)) => return Failure::new(self).without_answer(),
            Self::Ask(error) => error.hint(),
            Self::OperatorSilent { .. } => Some(
                "look at the operator: kubectl -n tenon-system get pods, kubectl -n tenon-system logs deploy/tenon-operator"
                    .to_owned(),
            ),
            Self::StoppedUnheard => Some("kubectl get preflightvalidations shows whether there is one".to_owned()),
            Self::Stopped | Self::Signals(_) | Self::Cluster(_) | Self::Answer(_) => None,
        };
        Failure::new(self).hint(hint).passing(true)
    }
}

/// A time as kubectl takes it, in one unit.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("give a number with s, m or h behind it: 90s, 10m, 2h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "give a number with s, m or h behind it".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, PreflightError> {
    block_on(preflight(args))?
}

async fn preflight(args: &Args) -> Result<ExitCode, PreflightError> {
    let (client, _) = args.cluster.client().await?;
    let spec = PreflightValidationSpec {
        kernel_version: args.kernel.clone(),
        push_built_image: args.push_built_image,
        architecture: args.architecture.clone(),
    };
    // From here on there is something to take back.
    let mut stop = Stop::listen().map_err(PreflightError::Signals)?;
    let asked = ask(client, spec, &mut stop).await?;
    let outcome = match select(pin!(wait(&asked, args.timeout)), pin!(stop.asked())).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => Err(PreflightError::Stopped),
    };
    let is_gone = args.keep || take_back(&asked).await;
    let answer = Answer::new(&args.kernel, args.keep.then(|| asked.name().to_owned()), &outcome?);
    let text = match args.output {
        Some(format) => form::written(&answer, format)?,
        None => answer.text(Look::of(&std::io::stdout())),
    };
    form::say(&text)?;
    Ok(ExitCode::from(exit_code(&answer, is_gone)))
}

/// Asks. Who is stopped meanwhile waits a moment for what is to be taken back.
async fn ask(
    client: Client,
    spec: PreflightValidationSpec,
    stop: &mut Stop,
) -> Result<Asked, PreflightError> {
    match select(pin!(Asked::create(client, spec)), pin!(stop.asked())).await {
        Either::Left((asked, _)) => Ok(asked?),
        Either::Right(((), create)) => match tokio::time::timeout(LAST_WORD, create).await {
            Ok(asked) => {
                take_back(&asked?).await;
                Err(PreflightError::Stopped)
            }
            Err(_) => Err(PreflightError::StoppedUnheard),
        },
    }
}

/// Removes the question, and tells of it where that fails, whatever else is to be told.
async fn take_back(asked: &Asked) -> bool {
    let removed = asked.remove().await.map_err(PreflightError::from);
    removed.map_err(|error| error.into_failure().report()).is_ok()
}

/// A driver that would be lost is; who leaves something behind has not ended well.
fn exit_code(answer: &Answer, is_gone: bool) -> u8 {
    match answer.code() {
        0 if !is_gone => 3,
        code => code,
    }
}

/// Waits for the last word, and tells on standard error how far it is. What is not decided in time is told as it is then.
async fn wait(asked: &Asked, timeout: Duration) -> Result<PreflightValidationStatus, PreflightError> {
    let began = Instant::now();
    let (mut told, mut facts_since) = (String::new(), None);
    loop {
        let status = asked.status().await?;
        if let Some(status) = &status {
            let line = progress(status);
            if line != told {
                // Where the terminal has gone there is nobody to tell, and still something to take back.
                let _ = writeln!(std::io::stderr(), "{}", plain_lines(&line));
                told = line;
            }
            if status.in_progress == 0 {
                let since = *facts_since.get_or_insert_with(Instant::now);
                if status.unpredicted == 0 || status.failed > 0 || since.elapsed() >= FACTS {
                    return Ok(status.clone());
                }
            } else {
                facts_since = None;
            }
        }
        match status {
            None if began.elapsed() >= FIRST_WORD.min(timeout) => {
                return Err(PreflightError::OperatorSilent { name: asked.name().to_owned() });
            }
            Some(status) if began.elapsed() >= timeout => return Ok(status),
            None | Some(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

fn progress(status: &PreflightValidationStatus) -> String {
    let decided = status.total - status.in_progress;
    let line = format!("{decided} of {} Modules decided", status.total);
    let open = status.modules.iter().find(|module| {
        module.verification_status == tenon_api::preflight_validation::VerificationStatus::InProgress
    });
    let Some(module) = open else { return line };
    let why = module.status_reason.as_ref().map(tenon_api::ShortMessage::as_str).unwrap_or_default();
    format!("{line}; {}/{}: {why}", module.namespace, module.name)
}

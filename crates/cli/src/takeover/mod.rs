//! `kubectl tenon adopt` and `give-back`: a cluster changes hands between KMM and Tenon, and nothing is unloaded.
//!
//! Both look at what stands in the cluster, make a [`Plan`] of it without touching anything, and carry it out step by step. Each
//! step is whole by itself and is not planned again once it is done, so whoever is cut off runs the same command again.

mod adopt;
mod give_back;
mod kmm;
mod plan;
mod read;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use kube::Client;

use crate::answer::{AnswerError, Format, say, written};
use crate::cluster::{ClusterArgs, ClusterError, block_on, is_silent};
use crate::failure::Failure;
use crate::terminal::Look;
use plan::{Answer, Plan, Step};

const ADOPT_ABOUT: &str = "Take over a cluster that KMM has served, before Tenon is installed there.

KMM's operator has to be scaled to 0 first: while it runs nothing is done. Then its definitions are replaced by Tenon's, which keep every \
object, and what KMM alone would have ended or answered goes: webhooks, worker pods, finalizers, records of images. Modules, their \
labels and what is loaded stay as they are. Run it again whenever it was cut off: what is done already is not done twice.";

const GIVE_BACK_ABOUT: &str = "Give a cluster back to KMM, after Tenon's operator and its node pods have been deleted.

The nodes' objects are brought into KMM's form, so that it finds loaded what is loaded, and what is Tenon's alone goes. Modules, their \
finalizers and labels, and what is loaded stay as they are. Afterwards KMM's definitions are applied, and KMM is scaled up.";

#[derive(Debug, clap::Args)]
struct Manner {
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// For programs
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, clap::Args)]
#[command(long_about = ADOPT_ABOUT)]
pub(crate) struct AdoptArgs {
    /// Go on although KMM has begun to unload something and has not come to its end; it stays loaded where it still is
    #[arg(long)]
    leave_unloads: bool,
    #[command(flatten)]
    manner: Manner,
}

#[derive(Debug, clap::Args)]
#[command(long_about = GIVE_BACK_ABOUT)]
pub(crate) struct GiveBackArgs {
    #[command(flatten)]
    manner: Manner,
}

/// Why a cluster has not changed hands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeoverError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("read {what}")]
    Read { what: &'static str, source: Box<kube::Error> },
    #[error("{object}: {what}")]
    Step { object: String, what: &'static str, source: Box<kube::Error> },
}

impl TakeoverError {
    pub(crate) fn into_failure(self) -> Failure {
        let passing = match &self {
            Self::Read { source, .. } => is_silent(source),
            // Somebody else was quicker: what there is now is looked at anew.
            Self::Step { source, .. } => {
                is_silent(source) || matches!(&**source, kube::Error::Api(status) if status.is_conflict())
            }
            _ => false,
        };
        let hint = matches!(self, Self::Step { .. })
            .then(|| "what was done is done; run the same command again for the rest".to_owned());
        Failure::new(self).hint(hint).passing(passing)
    }
}

pub(crate) fn adopt(args: &AdoptArgs) -> Result<ExitCode, TakeoverError> {
    block_on(async {
        let (client, _) = args.manner.cluster.client().await?;
        let seen = read::kmms(&client).await?;
        carry_out(&client, adopt::plan(&seen, args.leave_unloads), &args.manner).await
    })?
}

pub(crate) fn give_back(args: &GiveBackArgs) -> Result<ExitCode, TakeoverError> {
    block_on(async {
        let (client, _) = args.manner.cluster.client().await?;
        let seen = read::ours(&client).await?;
        carry_out(&client, give_back::plan(&seen), &args.manner).await
    })?
}

async fn carry_out(client: &Client, plan: Plan, manner: &Manner) -> Result<ExitCode, TakeoverError> {
    let Plan { refusals, steps, left } = plan;
    let is_refused = !refusals.is_empty();
    let mut done = 0;
    let mut failed = None;
    if !is_refused && !manner.dry_run {
        for step in &steps {
            if let Err(error) = take(client, step).await {
                failed = Some(error);
                break;
            }
            done += 1;
        }
    }
    let answer = Answer { dry_run: manner.dry_run, refusals, steps, done, left };
    let text = match manner.output {
        Some(format) => written(&answer.for_programs(), format)?,
        None => answer.text(Look::of(&std::io::stdout())),
    };
    say(&text)?;
    match failed {
        Some(error) => Err(error),
        None if is_refused => Ok(ExitCode::FAILURE),
        None => Ok(ExitCode::SUCCESS),
    }
}

async fn take(client: &Client, step: &Step) -> Result<(), TakeoverError> {
    for request in &step.requests {
        let failed = |source| TakeoverError::Step {
            object: step.object.clone(),
            what: step.what,
            source: Box::new(source),
        };
        match client.request_text(request.http().map_err(failed)?).await {
            // What is gone already needs nothing.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            other => drop(other.map_err(failed)?),
        }
    }
    Ok(())
}

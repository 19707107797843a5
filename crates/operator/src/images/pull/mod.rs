//! Images that the registry denies the operator: a pod on a node that the administrator selected takes the driver out of them. What
//! is next is decided by [`tenon_plan::provision::pull`]; the Job is in [`job`], and what is remembered in [`known`].
//!
//! All that a restart loses is what a pod has brought and nobody has packed: then it is brought once more.

mod job;
mod known;

use std::sync::Arc;

use tenon_api::{ModuleImage, reasons};
use tenon_image::ImageReference;
use tenon_plan::provision::Finding;
use tenon_plan::provision::pull::{self, Failure, Puller, Settings, Step};
use tracing::{info, warn};

use super::Images;
use super::find::Finder;
use super::make::module_of;
use crate::controllers::WriteError;
use crate::depot::Arrival;
use crate::run::Context;
use crate::world::{ImageKey, World};

use job::{Jobs, Started};
pub(super) use known::Pulls;

/// Reasons that tell of something under way.
pub(super) fn is_under_way(reason: &str) -> bool {
    matches!(reason, reasons::PULLING | reasons::NO_NODE_TO_PULL | reasons::QUEUED)
}

/// One image that is to be had through a node.
struct Pull<'a> {
    context: &'a Context,
    pulls: &'a Pulls,
    finder: &'a Arc<Finder>,
    image: &'a Arc<ModuleImage>,
    /// What is pulled: the image's reference, with the digest that it was resolved to before.
    reference: String,
    /// Whether the image's status is to say what comes of it; otherwise nodes ask for its bundle again.
    for_status: bool,
    /// The Job's name.
    name: String,
    settings: Settings,
    jobs: Jobs<'a>,
}

impl Images {
    /// Finds an image that nobody makes, and has a node pull it where that may help; `digest` is what it was resolved to before.
    pub(super) async fn find_or_pull(
        &self,
        context: &Context,
        world: &World,
        image: &Arc<ModuleImage>,
        digest: Option<&str>,
    ) -> Result<Finding, WriteError> {
        let key = ImageKey::of(image);
        let pull = Pull::of(context, world, self, image, digest);
        if digest.is_none() {
            // Of another spec, perhaps.
            self.abandon_pulls(context, &key, pull.as_ref().map(|pull| pull.name.as_str())).await;
        }
        // It could not be written before.
        if let Some(had) = pull.as_ref().and_then(|pull| self.pulls.had(&pull.name)) {
            return Ok(had);
        }
        // A registry that has denied it is not asked every few seconds, as a pod is.
        if let Some(pull) = pull.as_ref().filter(|pull| self.pulls.need_not_ask(&pull.name)) {
            return pull.go_on(world).await;
        }
        let finding = self.finder.find(context, image, digest, Box::new(|_| false)).await;
        if let Some(pull) = pull.as_ref().filter(|pull| self.pulls.is_under_way(&pull.name)) {
            if !matches!(finding, Finding::Packed { .. }) {
                self.pulls.asked(&pull.name);
                return pull.go_on(world).await;
            }
            info!(
                image = pull.reference,
                job = pull.name,
                "its registry has it by now: no node need pull it"
            );
            pull.give_up().await;
        }
        // Only who leads makes Jobs, and is brought what their pods take out.
        if !pull::may_help(image, &finding) || !context.claim.is_current() {
            return Ok(finding);
        }
        let Some(pull) = pull else { return Ok(advise(finding)) };
        match self.pulls.begin(&pull.name, &key, &finding) {
            Some(failed) => Ok(failed),
            None => pull.go_on(world).await,
        }
    }

    /// Ends what is done for an image, but for this Job: its spec is another one, or the image is gone.
    pub(super) async fn abandon_pulls(&self, context: &Context, key: &ImageKey, but: Option<&str>) {
        let jobs = Jobs::new(context);
        for (name, pod) in self.pulls.abandon(key, but) {
            if let Some(pod) = pod {
                context.pulled.forget(&pod);
            }
            jobs.clear_by_name(&name).await;
        }
    }
}

/// The way out that the administrator has.
fn advise(finding: Finding) -> Finding {
    match finding {
        Finding::Missing { reason, message, needs_change, retry_after } => {
            let way_out =
                "where nodes may pull it, one can do so for the operator: see its flag --pull-through-nodes";
            Finding::Missing { reason, message: format!("{message}; {way_out}"), needs_change, retry_after }
        }
        other => other,
    }
}

fn waiting(reason: &'static str, message: String) -> Finding {
    Finding::Missing { reason, message, needs_change: false, retry_after: None }
}

impl<'a> Pull<'a> {
    /// `None` where the administrator has selected no nodes, the image's name is none, or it is none that nodes pull.
    fn of(
        context: &'a Context,
        world: &World,
        images: &'a Images,
        image: &'a Arc<ModuleImage>,
        digest: Option<&str>,
    ) -> Option<Self> {
        let nodes = &context.args.pull_through_nodes;
        if nodes.is_empty() || !pull::is_for_nodes(image) {
            return None;
        }
        let reference: ImageReference = image.spec.image.parse().ok()?;
        let reference = match digest.and_then(|digest| digest.parse().ok()) {
            Some(digest) => reference.with_digest(digest).to_string(),
            None => image.spec.image.clone(),
        };
        let settings = Settings {
            namespace: context.args.namespace.clone(),
            program_image: context.args.maker_image.to_string(),
            nodes: nodes.iter().cloned().collect(),
            tolerations: module_of(world, image).map(|it| it.spec.tolerations.clone()).unwrap_or_default(),
        };
        let name = pull::job_name(image, &reference, &settings);
        let (pulls, finder, jobs) = (&images.pulls, &images.finder, Jobs::new(context));
        Some(Self {
            context,
            pulls,
            finder,
            image,
            reference,
            for_status: digest.is_none(),
            name,
            settings,
            jobs,
        })
    }

    /// One step nearer to the driver.
    async fn go_on(&self, world: &World) -> Result<Finding, WriteError> {
        let job = self.jobs.get(&self.name).await?;
        let pods = match &job {
            Some(job) => self.jobs.pods_of(job).await?,
            None => Vec::new(),
        };
        match pull::step(job.as_ref(), &pods) {
            Step::Start => self.start(world).await,
            Step::Leaving => {
                Ok(self.pulling(reasons::PULLING, &format!("Job {} of before is going", self.name)))
            }
            Step::Follow { pod: Some(pod), reason, message } => {
                self.pulls.follow(&self.name, &pod.uid);
                match self.context.pulled.expect(&pod.uid) {
                    // The kubelet tells a moment later from what the pod runs.
                    Arrival::Here if self.digest(&pod).is_some() => self.take(&pod).await,
                    _ => Ok(self.pulling(reason, &message)),
                }
            }
            Step::Follow { pod: None, reason, message } => Ok(self.pulling(reason, &message)),
            Step::Done { pod } => self.take_or_begin_anew(pod).await,
            Step::Fail(failure) => self.fail(failure).await,
        }
    }

    async fn start(&self, world: &World) -> Result<Finding, WriteError> {
        let job = pull::job(self.image, &self.reference, &self.settings);
        match self.jobs.start(self.pulls, world, &job).await? {
            Started::Made => {
                info!(image = self.reference, job = self.name, "a node pulls it");
                Ok(self.pulling(reasons::PULLING, &format!("Job {} has a node pull it", self.name)))
            }
            Started::Later(why) => Ok(waiting(reasons::QUEUED, why.to_owned())),
            Started::Refused(words) => {
                let message = format!("the Job that pulls it cannot be made: {words}");
                Ok(self.failed(Failure { reason: reasons::PULL_POD_FAILED, message, needs_change: false }))
            }
        }
    }

    fn pulling(&self, reason: &'static str, message: &str) -> Finding {
        match self.pulls.why(&self.name) {
            Some(why) => waiting(reason, format!("{message}; the operator itself: {why}")),
            None => waiting(reason, message.to_owned()),
        }
    }

    /// The image's digest: its name's own, or what the pod runs from.
    fn digest(&self, pod: &Puller) -> Option<String> {
        let own = self.reference.parse::<ImageReference>().ok();
        own.and_then(|reference| reference.digest().map(ToString::to_string)).or_else(|| pod.digest.clone())
    }

    /// The pod has ended well. The kubelet has told all that it ever will.
    async fn take_or_begin_anew(&self, pod: Option<Puller>) -> Result<Finding, WriteError> {
        let here = pod.as_ref().filter(|pod| self.context.pulled.expect(&pod.uid) == Arrival::Here);
        if let Some(pod) = here.filter(|pod| self.digest(pod).is_some()) {
            return self.take(pod).await;
        }
        if here.is_some() {
            let message = "the node's container runtime does not tell by which digest it has the image: name the image by \
                           its digest"
                .to_owned();
            return self.fail(Failure { reason: reasons::PULL_FAILED, message, needs_change: true }).await;
        }
        if let Some(pod) = pod {
            self.context.pulled.forget(&pod.uid);
        }
        warn!(image = self.reference, job = self.name, "what a pod brought is lost; it is pulled again");
        self.jobs.clear_by_name(&self.name).await;
        Ok(self.pulling(reasons::PULLING, "it is pulled once more"))
    }

    /// Packs what the pod has brought, as if it came from the registry.
    async fn take(&self, pod: &Puller) -> Result<Finding, WriteError> {
        let (Some(layer), Some(digest)) = (self.context.pulled.take(&pod.uid), self.digest(pod)) else {
            return Ok(self.pulling(reasons::PULLING, "its driver is on the way"));
        };
        let finding = self.finder.pack(self.context, self.image, &digest, layer).await;
        self.jobs.clear_by_name(&self.name).await;
        match finding {
            Finding::Missing { reason, message, needs_change, .. } => {
                Ok(self.failed(Failure { reason, message, needs_change }))
            }
            finding if self.for_status => {
                self.pulls.succeed(&self.name, &finding);
                Ok(finding)
            }
            finding => {
                self.pulls.forget(&self.name);
                Ok(finding)
            }
        }
    }

    /// The image was had otherwise.
    async fn give_up(&self) {
        if let Some(pod) = self.pulls.pod_of(&self.name) {
            self.context.pulled.forget(&pod);
        }
        self.pulls.forget(&self.name);
        self.jobs.clear_by_name(&self.name).await;
    }

    async fn fail(&self, failure: Failure) -> Result<Finding, WriteError> {
        warn!(
            image = self.reference,
            job = self.name,
            reason = failure.reason,
            message = failure.message,
            "not pulled"
        );
        self.jobs.clear_by_name(&self.name).await;
        Ok(self.failed(failure))
    }

    /// Tells what is wrong, and remembers when to try again.
    fn failed(&self, failure: Failure) -> Finding {
        if let Some(pod) = self.pulls.pod_of(&self.name) {
            self.context.pulled.forget(&pod);
        }
        self.pulls.fail(&self.name, failure)
    }
}

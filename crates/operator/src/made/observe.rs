//! What is needed, out of the index; and how it stands with an image, in a word.

use tenon_api::MadeImage;
use tenon_api::made_image::MadePhase;
use tenon_image::ImageReference;
use tenon_plan::made;
use tenon_plan::provision::making::JobState;

use crate::metrics::MadeState;
use crate::world::World;

/// What anything in the cluster needs.
pub(super) type Needs = made::Needs<fn(&str) -> Option<String>>;

/// An image reference in full, without its digest.
pub(super) fn canonical(text: &str) -> Option<String> {
    let reference: ImageReference = text.parse().ok()?;
    let name = reference.name();
    Some(reference.tag().map_or_else(|| name.clone(), |tag| format!("{name}:{tag}")))
}

/// Everything that names an image now.
pub(super) fn needs(world: &World) -> Needs {
    let (images, modules, configs): (Vec<_>, Vec<_>, Vec<_>) = {
        let index = world.read();
        (
            index.images().cloned().collect(),
            index.modules().cloned().collect(),
            index.configs().cloned().collect(),
        )
    };
    let mut needs = Needs::new(canonical);
    for image in &images {
        needs.add_image(image);
    }
    for module in &modules {
        needs.add_module(module);
    }
    for config in &configs {
        config.spec.modules.iter().for_each(|entry| needs.add_entry(entry));
    }
    let jobs = world.jobs();
    let running =
        jobs.iter().filter(|(_, job)| matches!(job.seen.state, JobState::Running | JobState::Leaving));
    running.for_each(|(_, job)| needs.add_job(&job.image));
    needs
}

/// How it stands with an image.
pub(super) fn state(made: &MadeImage) -> MadeState {
    let status = made.status.as_ref();
    let phase = status.and_then(|status| status.phase).unwrap_or(MadePhase::Needed);
    let waits = status.is_some_and(|status| status.retry_at.is_some());
    match phase {
        MadePhase::Needed => MadeState::Needed,
        MadePhase::Unneeded if waits => MadeState::Stuck,
        MadePhase::Unneeded | MadePhase::Deleting => MadeState::Unneeded,
    }
}

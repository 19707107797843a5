//! What is remembered of each kernel between two looks: what came out, and when to look again.

use std::collections::BTreeMap;
use std::time::Duration;

use tenon_api::reasons;
use tenon_plan::facts_image::{REFRESH, retry_after};
use tokio::time::Instant;

use super::observe::Kernel;
use super::read::{Answer, Barren};
use crate::metrics::FactsImage;

/// The kernels that were looked for.
#[derive(Debug, Default)]
pub(super) struct Looks(BTreeMap<Kernel, Look>);

#[derive(Debug)]
struct Look {
    due: Instant,
    /// In a row.
    misses: u32,
    /// None where an image told what the kernel is.
    reason: Option<&'static str>,
    barren: Barren,
}

impl Looks {
    /// Forgets the kernels of which `keep` says no.
    pub(super) fn retain(&mut self, keep: impl Fn(&Kernel) -> bool) {
        self.0.retain(|kernel, _| keep(kernel));
    }

    /// Whether to look now. What was told and is gone is to be told again at once.
    pub(super) fn is_due(&self, kernel: &Kernel, known: bool, now: Instant) -> bool {
        self.0.get(kernel).is_none_or(|look| look.due <= now || (look.reason.is_none() && !known))
    }

    /// The images that are known to tell nothing of this kernel.
    pub(super) fn barren(&self, kernel: &Kernel) -> Barren {
        self.0.get(kernel).map(|look| look.barren.clone()).unwrap_or_default()
    }

    /// Why no image told what the kernel is, when it was last looked for.
    pub(super) fn reason(&self, kernel: &Kernel) -> Option<&'static str> {
        self.0.get(kernel).and_then(|look| look.reason)
    }

    /// Takes note of what came out.
    pub(super) fn note(&mut self, kernel: &Kernel, answer: Answer, now: Instant) {
        let look = match answer {
            Answer::Unchanged | Answer::Told(_) => {
                Look { due: now + REFRESH, misses: 0, reason: None, barren: Barren::default() }
            }
            Answer::Missing(missing) => {
                let misses = self.0.get(kernel).map_or(0, |look| look.misses).saturating_add(1);
                let due = now + retry_after(misses, missing.retry_after);
                Look { due, misses, reason: Some(missing.reason), barren: missing.barren }
            }
        };
        self.0.insert(kernel.clone(), look);
    }

    /// How long until the next kernel is to be looked for.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.0.values().map(|look| look.due.saturating_duration_since(now)).min()
    }

    /// What became of each kernel.
    pub(super) fn states(&self) -> impl Iterator<Item = FactsImage> {
        self.0.values().map(|look| match look.reason {
            None => FactsImage::Read,
            Some(reasons::IMAGE_ABSENT | reasons::REFERENCE_INVALID) => FactsImage::Absent,
            Some(reasons::REGISTRY_DENIED | reasons::SECRET_MISSING | reasons::SECRET_MALFORMED) => {
                FactsImage::Denied
            }
            Some(reasons::REGISTRY_UNREACHABLE) => FactsImage::Unreachable,
            Some(reasons::event::NO_KERNEL_IN_IMAGE) => FactsImage::NoKernel,
            Some(reasons::IMAGE_INVALID) => FactsImage::Invalid,
            Some(_) => FactsImage::Failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts_images::read::Missing;

    const IMAGE: &str = "reg/headers@sha256:0";

    fn kernel() -> Kernel {
        Kernel { release: "6.1.0".to_owned(), architecture: "amd64".to_owned() }
    }

    fn missing(reason: &'static str) -> Answer {
        let barren = [(IMAGE.to_owned(), (reason, "it has nothing".to_owned()))].into();
        Answer::Missing(Missing { reason, message: String::new(), retry_after: None, barren })
    }

    #[test]
    fn an_image_that_told_is_asked_for_again_in_an_hour_or_when_what_it_told_is_gone() {
        let (mut looks, now) = (Looks::default(), Instant::now());
        assert!(looks.is_due(&kernel(), false, now), "never looked for");
        looks.note(&kernel(), Answer::Unchanged, now);
        assert!(!looks.is_due(&kernel(), true, now));
        assert!(looks.is_due(&kernel(), false, now), "the ConfigMap was deleted");
        assert!(looks.is_due(&kernel(), true, now + REFRESH));
        assert_eq!(looks.next(now), Some(REFRESH));
        assert_eq!(looks.states().collect::<Vec<_>>(), [FactsImage::Read]);
        looks.retain(|_| false);
        assert_eq!(looks.next(now), None);
    }

    #[test]
    fn an_image_that_told_nothing_is_left_alone_longer_each_time_and_remembered_by_its_digest() {
        let (mut looks, now) = (Looks::default(), Instant::now());
        looks.note(&kernel(), missing(reasons::event::NO_KERNEL_IN_IMAGE), now);
        let first = looks.next(now).unwrap();
        assert!(!looks.is_due(&kernel(), false, now), "what is not known does not make it due");
        assert!(looks.is_due(&kernel(), false, now + first));
        assert!(looks.barren(&kernel()).contains_key(IMAGE));
        assert_eq!(looks.reason(&kernel()), Some(reasons::event::NO_KERNEL_IN_IMAGE));
        looks.note(&kernel(), missing(reasons::event::NO_KERNEL_IN_IMAGE), now);
        assert_eq!(looks.next(now), Some(first * 2));
        assert_eq!(looks.states().collect::<Vec<_>>(), [FactsImage::NoKernel]);
        looks.note(&kernel(), Answer::Unchanged, now);
        assert!(looks.barren(&kernel()).is_empty() && looks.reason(&kernel()).is_none());
    }
}

//! The kernels that an image may tell of, out of the index.

use std::collections::BTreeMap;
use std::fmt;

use tenon_api::kernel_facts::Source;

use crate::world::Index;

/// A kernel that nodes of some Module run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kernel {
    /// `uname -r`.
    pub(super) release: String,
    /// As Kubernetes names it.
    pub(super) architecture: String,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.release, self.architecture)
    }
}

/// The kernels that no administrator, package or toolkit tells of but an image that was read here; with that image.
pub(super) fn wanted(index: &Index) -> BTreeMap<Kernel, Option<String>> {
    let live = index.images().filter(|image| image.metadata.deletion_timestamp.is_none());
    let kernels = live.map(|image| Kernel {
        release: image.spec.kernel.clone(),
        architecture: image.spec.architecture.clone(),
    });
    let mut wanted = BTreeMap::new();
    for kernel in kernels {
        if wanted.contains_key(&kernel) {
            continue;
        }
        let facts = index.facts().about(&kernel.release, &kernel.architecture);
        let by_images = |source: &Source| matches!(source, Source::Package | Source::Toolkit);
        let (mut others, mut known) = (false, None);
        for (_, facts) in facts.filter(|(_, facts)| !matches!(facts.evidence.source, Source::Node(_))) {
            match &facts.image {
                Some(image) if by_images(&facts.evidence.source) => known = Some(image.clone()),
                _ => others = true,
            }
        }
        if !others {
            wanted.insert(kernel, known);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tenon_api::ModuleImage;
    use tenon_api::kernel_facts::{ARCHITECTURE, IMAGE, RELEASE, SOURCE};

    use super::*;
    use crate::world::{ImageKey, KnownFacts};

    /// What is wanted where there is an image for one kernel, and these facts about it.
    fn wanted_with(facts: &[(&str, Option<&str>)]) -> Vec<Option<String>> {
        let image: ModuleImage = serde_json::from_value(serde_json::json!({
            "apiVersion": "tenon.dev/v1alpha1", "kind": "ModuleImage",
            "metadata": {"namespace": "hall", "name": "gauge"},
            "spec": {"module": "gauge", "kernel": "6.1.0", "architecture": "amd64", "image": "a", "dirName": "/opt"}
        }))
        .unwrap();
        let world = crate::world::World::new(crate::depot::Assignments::default());
        let key = ImageKey::of(&image);
        world.image(&key, Some(image));
        for (number, (source, image)) in facts.iter().enumerate() {
            let mut metadata = kube::core::ObjectMeta::default();
            let annotations = [(RELEASE, "6.1.0"), (ARCHITECTURE, "amd64"), (SOURCE, source)];
            let image = image.map(|image| (IMAGE, image));
            let annotations = annotations.into_iter().chain(image);
            metadata.annotations =
                Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
            world.facts(&number.to_string(), KnownFacts::of(&metadata));
        }
        let wanted = wanted(&world.read());
        wanted.into_values().collect()
    }

    #[rstest]
    #[case::nobody(&[], &[None])]
    #[case::a_node(&[("node:pine", None)], &[None])]
    #[case::an_image(&[("toolkit", Some("a@1")), ("node:pine", None)], &[Some("a@1")])]
    #[case::an_administrator(&[("admin", None)], &[])]
    #[case::an_administrator_beside_an_image(&[("toolkit", Some("a@1")), ("admin", None)], &[])]
    #[case::an_administrator_who_took_over(&[("admin", Some("a@1"))], &[])]
    #[case::somebody_elses_package(&[("package", None)], &[])]
    fn an_image_is_asked_unless_somebody_better_has_told(
        #[case] facts: &[(&str, Option<&str>)],
        #[case] expected: &[Option<&str>],
    ) {
        let found = wanted_with(facts);
        assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
    }
}

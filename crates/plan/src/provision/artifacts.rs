//! Files of another Module's image, which a build needs: the image is that Module's for the same kernel, by the digest that it has
//! now. Until it is ready, the build waits; when it changes, the build is another one.

use std::collections::BTreeSet;

use tenon_api::module::Artifact;
use tenon_api::{ModuleImage, reasons};

use super::{Finding, bundle};

/// Where a Module's image has its modules for a kernel, and what is built against them.
fn modules_of(image: &ModuleImage, kernel: &str) -> String {
    format!("{}/lib/modules/{kernel}", image.spec.dir_name.trim_end_matches('/'))
}

/// Whether each artifact has a place of its own: one within another would be in its way, or be written over, when the build is
/// under way.
pub fn check(artifacts: &[Artifact]) -> Result<(), Finding> {
    let places: BTreeSet<Vec<&str>> =
        artifacts.iter().map(|artifact| artifact.to.split('/').collect()).collect();
    // In this order what lies within a place comes right behind it.
    let within = |(outer, inner): &(&Vec<&str>, &Vec<&str>)| inner.starts_with(outer);
    let Some((outer, inner)) = places.iter().zip(places.iter().skip(1)).find(within) else { return Ok(()) };
    Err(invalid(format!(
        "build.source.artifacts: `to: {}` lies within `to: {}` of another; give each a place of its own",
        inner.join("/"),
        outer.join("/")
    )))
}

/// A file of another Module's image: where it is in there. A path that does not begin with a slash is counted from where the
/// image has its modules.
pub fn path_in(image: &ModuleImage, path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{}/{path}", modules_of(image, &image.spec.kernel))
    }
}

/// Where else it may be: images for a kernel whose release ends in `+` have the directory with or without it.
pub fn otherwise_in(image: &ModuleImage, path: &str) -> Option<String> {
    let kernel = image.spec.kernel.strip_suffix('+').filter(|_| !path.starts_with('/'))?;
    Some(format!("{}/{path}", modules_of(image, kernel)))
}

/// What a file of another Module's image is called among a build's inputs, beside that image's digest: where an image has its modules
/// that Module says, by `dirName`.
pub fn input(image: &ModuleImage, path: &str) -> String {
    format!("module/{}{}", image.spec.module, path_in(image, path))
}

/// The image of Module `name` that `image` takes files of, once it is ready, and its digest. `find` knows the images that Modules
/// have for the same kernel.
pub fn dependency<'i>(
    image: &ModuleImage,
    name: &str,
    find: impl Fn(&str) -> Option<&'i ModuleImage>,
) -> Result<(&'i ModuleImage, &'i str), Finding> {
    let kernel = &image.spec.kernel;
    if needs(&find, name).contains(image.spec.module.as_str()) {
        return Err(invalid(format!(
            "build.source.artifacts: Module {name} is built with files of Module {} itself, so neither could be first",
            image.spec.module
        )));
    }
    let found = find(name).ok_or_else(|| {
        waiting(format!(
            "Module {name} (build.source.artifacts) has no image for kernel {kernel}; is there such a Module, and does its \
             selector reach the nodes that run it?"
        ))
    })?;
    let digest = bundle(found).map(|(_, digest)| digest);
    digest.map(|digest| (found, digest)).ok_or_else(|| {
        let reason = found.status.as_ref().and_then(|status| status.reason.as_deref());
        waiting(format!(
            "the image of Module {name} (build.source.artifacts) is not ready for kernel {kernel}: {}",
            reason.unwrap_or(reasons::RESOLVING)
        ))
    })
}

/// A Module, and all whose files it is built with, directly or not.
fn needs<'i>(find: &impl Fn(&str) -> Option<&'i ModuleImage>, name: &str) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    let mut ahead = vec![name.to_owned()];
    while let Some(name) = ahead.pop() {
        let more = find(&name).into_iter().flat_map(artifacts).filter_map(|artifact| artifact.module.clone());
        ahead.extend(more.filter(|more| !known.contains(more)));
        known.insert(name);
    }
    known
}

fn artifacts(image: &ModuleImage) -> &[Artifact] {
    let source = image.spec.build.as_ref().and_then(|build| build.source.as_ref());
    source.map(|source| source.artifacts.as_slice()).unwrap_or_default()
}

fn invalid(message: String) -> Finding {
    Finding::Missing { reason: reasons::SPEC_INVALID, message, needs_change: true, retry_after: None }
}

fn waiting(message: String) -> Finding {
    Finding::Missing { reason: reasons::WAITING_FOR_MODULE, message, needs_change: false, retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{bundle, ready_image};
    use rstest::rstest;
    use std::collections::BTreeMap;
    use tenon_api::module::{Build, BuildSource};
    use tenon_api::module_image::ImagePhase;

    /// A Module's image that is built with files of these.
    fn image(name: &str, needed: &[&str]) -> ModuleImage {
        let artifact = |name: &&str| Artifact { module: Some((*name).to_owned()), ..Artifact::default() };
        let artifacts = needed.iter().map(artifact).collect();
        let mut image = ready_image(&format!("registry.test/{name}:1"), 'a');
        image.spec.module = name.to_owned();
        image.spec.build = Some(Build {
            source: Some(BuildSource { artifacts, ..BuildSource::default() }),
            ..Build::default()
        });
        image
    }

    fn all(images: impl IntoIterator<Item = ModuleImage>) -> BTreeMap<String, ModuleImage> {
        images.into_iter().map(|image| (image.spec.module.clone(), image)).collect()
    }

    fn why(finding: Finding) -> (&'static str, String) {
        match finding {
            Finding::Missing { reason, message, .. } => (reason, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_ready_image_is_taken_by_its_digest() {
        let images = all([image("anvil", &[])]);
        let gauge = image("gauge", &["anvil"]);
        let (found, digest) = dependency(&gauge, "anvil", |name| images.get(name)).unwrap();
        assert_eq!((found.spec.module.as_str(), digest), ("anvil", bundle('f').as_str()));
        let below = format!("/opt/lib/modules/{}/Module.symvers", found.spec.kernel);
        assert_eq!(path_in(found, "Module.symvers"), below);
        assert_eq!(path_in(found, "/usr/include"), "/usr/include");
    }

    #[test]
    fn a_kernel_with_a_plus_may_have_its_directory_without() {
        let mut anvil = image("anvil", &[]);
        assert_eq!(otherwise_in(&anvil, "Module.symvers"), None);
        anvil.spec.kernel = "6.1.0-rt+".to_owned();
        assert_eq!(path_in(&anvil, "a.h"), "/opt/lib/modules/6.1.0-rt+/a.h");
        assert_eq!(otherwise_in(&anvil, "a.h").as_deref(), Some("/opt/lib/modules/6.1.0-rt/a.h"));
        assert_eq!(otherwise_in(&anvil, "/usr/include"), None);
    }

    #[test]
    fn where_the_other_module_says_that_its_files_are_counts_among_the_inputs() {
        let (anvil, mut moved) = (image("anvil", &[]), image("anvil", &[]));
        moved.spec.dir_name = "/usr".to_owned();
        let inputs = |path: &str| [&anvil, &moved].map(|image| input(image, path));
        let [before, after] = inputs("Module.symvers");
        assert_ne!(before, after);
        assert_ne!(before, input(&image("bellows", &[]), "Module.symvers"));
        let [before, after] = inputs("/usr/include");
        assert_eq!(before, after, "it is there wherever the modules are");
    }

    #[rstest]
    #[case::none(&[], None)]
    #[case::apart(&["a", "b/a", "b/c"], None)]
    #[case::names_that_begin_alike(&["a", "a.h", "a-b/c", "ab"], None)]
    #[case::one_in_another(&["a/b", "c", "a"], Some(("a", "a/b")))]
    #[case::with_others_between(&["a", "a-b", "a.b", "a/b/c"], Some(("a", "a/b/c")))]
    #[case::a_file_as_a_directory(&["x/Module.symvers/y", "x/Module.symvers"], Some(("x/Module.symvers", "x/Module.symvers/y")))]
    fn artifacts_lie_beside_each_other(#[case] places: &[&str], #[case] refused: Option<(&str, &str)>) {
        let artifact = |to: &&str| Artifact { to: (*to).to_owned(), ..Artifact::default() };
        let artifacts: Vec<_> = places.iter().map(artifact).collect();
        let found = check(&artifacts);
        assert_eq!(found.is_err(), refused.is_some(), "{found:?}");
        if let (Err(finding), Some((outer, inner))) = (found, refused) {
            let (reason, message) = why(finding);
            assert_eq!(reason, reasons::SPEC_INVALID);
            assert!(
                message.contains(&format!("to: {outer}`")) && message.contains(&format!("to: {inner}`")),
                "{message}"
            );
        }
    }

    #[test]
    fn what_is_not_ready_is_waited_for() {
        let gauge = image("gauge", &["anvil"]);
        let (reason, message) = why(dependency(&gauge, "anvil", |_| None).unwrap_err());
        assert_eq!(reason, reasons::WAITING_FOR_MODULE);
        assert!(message.contains("anvil") && message.contains(&gauge.spec.kernel), "{message}");
        let mut anvil = image("anvil", &[]);
        let status = anvil.status.as_mut().unwrap();
        (status.phase, status.reason) = (Some(ImagePhase::Building), Some(reasons::BUILDING.to_owned()));
        let images = all([anvil]);
        let (reason, message) = why(dependency(&gauge, "anvil", |name| images.get(name)).unwrap_err());
        assert_eq!(reason, reasons::WAITING_FOR_MODULE);
        assert!(message.ends_with("Building"), "{message}");
    }

    #[rstest]
    #[case::itself("gauge > gauge", "gauge", true)]
    #[case::each_other("gauge > anvil, anvil > gauge", "anvil", true)]
    #[case::in_a_circle("gauge > a, a > b, b > gauge", "a", true)]
    #[case::others_in_a_circle("gauge > a, a > b, b > a", "a", false)]
    #[case::a_diamond("gauge > a b, a > c, b > c, c > ", "a", false)]
    fn whoever_needs_itself_is_told_so(#[case] needs: &str, #[case] needed: &str, #[case] refused: bool) {
        let images =
            all(needs.split(", ").filter_map(|line| line.split_once(" > ")).map(|(name, needed)| {
                let needed: Vec<_> = needed.split_whitespace().collect();
                image(name, &needed)
            }));
        let found = dependency(&images["gauge"], needed, |name| images.get(name));
        assert_eq!(found.is_err(), refused, "{found:?}");
        if let Err(finding) = found {
            assert_eq!(why(finding).0, reasons::SPEC_INVALID);
        }
    }
}

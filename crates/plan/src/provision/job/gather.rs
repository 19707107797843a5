//! The container that gathers what a build needs from images and volumes, and unpacks source packages, before anything is compiled.
//! It passes the Pod Security Standard `restricted`, and is the only one before the last that sees credentials of registries.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaimVolumeSource, Volume, VolumeMount};
use tenon_api::ModuleImage;
use tenon_api::gather::{self, Gathering, Origin, Package, Wanted};
use tenon_api::task;

use super::sources::{FromSources, Place};
use super::{MEMORY, PROGRAM, Settings, WORK, confined, mount, variable, volume_of_secret};

/// What a path ends in that is a source package.
const PACKAGE_SUFFIX: &str = ".src.rpm";
/// What the kernel's build system is told of without being asked.
const SYMVERS: &str = "Module.symvers";

/// An image whose files are gathered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Which, by its digest, and how its registry is spoken to.
    pub place: task::Place,
    /// The Secret with the registry's credentials.
    pub secret: Option<String>,
}

/// What has files that are gathered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// An image.
    Image(Pulled),
    /// A volume.
    Claim(String),
}

/// Files besides the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactFiles {
    /// What has them.
    pub from: Holder,
    /// Where in it.
    pub path: String,
    /// Where an image has them that does not have them there.
    pub otherwise: Option<String>,
    /// Where they are found below `$ARTIFACTS`.
    pub to: String,
}

/// What is gathered for a build.
#[derive(Debug)]
pub(super) struct Gather<'a> {
    recipe: &'a FromSources,
    /// The Secrets and the claims that it needs, each in a folder of its number.
    secrets: Vec<&'a str>,
    claims: Vec<&'a str>,
}

impl<'a> Gather<'a> {
    /// Nothing where a build needs only what is fetched.
    pub(super) fn of(recipe: &'a FromSources) -> Option<Self> {
        let is_image = matches!(recipe.place, Place::Image(_));
        if !is_image && recipe.artifacts.is_empty() && package(recipe).is_none() {
            return None;
        }
        let mut secrets: BTreeSet<&str> = BTreeSet::new();
        let mut claims = BTreeSet::new();
        for artifact in &recipe.artifacts {
            match &artifact.from {
                Holder::Image(image) => secrets.extend(image.secret.as_deref()),
                Holder::Claim(claim) => drop(claims.insert(claim.as_str())),
            }
        }
        if let Place::Image(image) = &recipe.place {
            secrets.extend(image.secret.as_deref());
        }
        Some(Self { recipe, secrets: secrets.into_iter().collect(), claims: claims.into_iter().collect() })
    }

    pub(super) fn volumes(&self) -> Vec<Volume> {
        let secrets = self.secrets.iter().enumerate();
        let secrets = secrets.map(|(number, secret)| volume_of_secret(&format!("pull-{number}"), secret));
        let claims = self.claims.iter().enumerate();
        let claims = claims.map(|(number, claim)| volume_of_claim(&format!("claim-{number}"), claim));
        secrets.chain(claims).collect()
    }

    fn mounts(&self) -> Vec<VolumeMount> {
        let each = |count: usize, name: &'static str, below: &'static str| {
            (0..count)
                .map(move |number| mount(&format!("{name}-{number}"), &format!("{below}/{number}"), true))
        };
        let secrets = each(self.secrets.len(), "pull", gather::PULL_DIR);
        let claims = each(self.claims.len(), "claim", gather::CLAIMS_DIR);
        [mount(WORK, task::WORK_DIR, false)].into_iter().chain(secrets).chain(claims).collect()
    }

    /// What the program is told.
    pub(super) fn told(&self, image: &ModuleImage) -> String {
        let sources = match &self.recipe.place {
            Place::Image(image) => Some(Wanted {
                from: self.image(image),
                path: "/".to_owned(),
                otherwise: None,
                to: task::SOURCE.to_owned(),
            }),
            Place::Git { .. } | Place::Claim(_) => None,
        };
        let artifacts = self.recipe.artifacts.iter().map(|artifact| Wanted {
            from: match &artifact.from {
                Holder::Image(image) => self.image(image),
                Holder::Claim(claim) => Origin::Claim(number_of(&self.claims, claim).unwrap_or_default()),
            },
            path: artifact.path.clone(),
            otherwise: artifact.otherwise.clone(),
            to: format!("{}/{}", gather::ARTIFACTS, artifact.to),
        });
        let gathering = Gathering {
            architecture: image.spec.architecture.clone(),
            files: sources.into_iter().chain(artifacts).collect(),
            package: package(self.recipe),
        };
        // It is made of texts alone.
        serde_json::to_string(&gathering).unwrap_or_default()
    }

    fn image(&self, image: &Pulled) -> Origin {
        let credentials = image.secret.as_deref().and_then(|secret| number_of(&self.secrets, secret));
        Origin::Image { place: image.place.clone(), credentials }
    }

    pub(super) fn container(&self, image: &ModuleImage, settings: &Settings) -> Container {
        let environment = settings.environment.iter().map(|(name, value)| variable(name, value));
        let told = variable(gather::VARIABLE, &self.told(image));
        Container {
            name: gather::CONTAINER.to_owned(),
            image: Some(settings.image.clone()),
            command: Some(vec![PROGRAM.to_owned()]),
            env: Some(environment.chain([told]).collect()),
            volume_mounts: Some(self.mounts()),
            ..confined("64Mi", MEMORY)
        }
    }
}

/// The folder of its number.
fn number_of(all: &[&str], one: &str) -> Option<String> {
    all.iter().position(|known| *known == one).map(|number| number.to_string())
}

/// The source package that the sources' path names.
fn package(recipe: &FromSources) -> Option<Package> {
    let path = recipe.path.as_deref()?.trim_matches('/');
    path.ends_with(PACKAGE_SUFFIX).then(|| Package {
        path: format!("{}/{path}", task::SOURCE),
        patched_by_user: recipe.before.is_some() || recipe.script.is_some(),
    })
}

/// The directory that is compiled.
pub(super) fn directory(recipe: &FromSources) -> String {
    if package(recipe).is_some() {
        return format!("{}/{}", task::WORK_DIR, gather::UNPACKED);
    }
    let path = recipe.path.as_deref().unwrap_or_default().trim_matches('/');
    format!("{}/{}/{path}", task::WORK_DIR, task::SOURCE)
}

/// Where the build finds what was gathered.
pub(super) fn variables(recipe: &FromSources) -> Vec<(&'static str, String)> {
    let artifacts = format!("{}/{}", task::WORK_DIR, gather::ARTIFACTS);
    let is_symvers = |to: &&str| to.rsplit('/').next() == Some(SYMVERS);
    let symvers = recipe.artifacts.iter().map(|artifact| artifact.to.as_str()).filter(is_symvers);
    let symvers: Vec<_> = symvers.map(|to| format!("{artifacts}/{to}")).collect();
    let mut variables = Vec::new();
    if package(recipe).is_some() {
        variables.push(("PACKAGE", format!("{}/{}", task::WORK_DIR, gather::PACKAGE)));
    }
    if !recipe.artifacts.is_empty() {
        variables.push(("ARTIFACTS", artifacts));
    }
    if !symvers.is_empty() {
        variables.push(("KBUILD_EXTRA_SYMBOLS", symvers.join(" ")));
    }
    variables
}

/// A claim, to be read.
pub(super) fn volume_of_claim(name: &str, claim: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: Some(true),
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::ready_image;
    use crate::provision::job::Base;
    use rstest::rstest;

    fn pulled(name: &str, secret: Option<&str>) -> Pulled {
        let image = format!("registry.test/{name}@sha256:0");
        let place = task::Place { image, plain_http: false, skip_verify: false, authority: None };
        Pulled { place, secret: secret.map(str::to_owned) }
    }

    fn artifact(from: Holder, to: &str) -> ArtifactFiles {
        ArtifactFiles { from, path: "a/b".to_owned(), otherwise: None, to: to.to_owned() }
    }

    fn recipe(place: Place) -> FromSources {
        FromSources {
            place,
            path: None,
            toolkit: Base::default(),
            artifacts: Vec::new(),
            before: None,
            script: None,
            after: None,
            arguments: Vec::new(),
        }
    }

    fn settings() -> Settings {
        Settings { image: "registry.test/maker:1".to_owned(), ..Settings::default() }
    }

    #[test]
    fn what_is_only_fetched_needs_no_more() {
        assert!(Gather::of(&recipe(Place::Claim("a".to_owned()))).is_none());
        assert!(variables(&recipe(Place::Claim("a".to_owned()))).is_empty());
    }

    #[test]
    fn each_image_is_pulled_with_its_own_credentials_and_the_compiler_sees_none() {
        let mut recipe = recipe(Place::Image(pulled("sources", Some("theirs"))));
        recipe.artifacts = vec![
            artifact(Holder::Image(pulled("base", Some("ours"))), "base/Module.symvers"),
            artifact(Holder::Image(pulled("free", None)), "free"),
            artifact(Holder::Claim("blobs".to_owned()), "blobs"),
        ];
        let image = ready_image("registry.test/gauge:1", 'a');
        let containers = recipe.containers(&image, &settings());
        let names: Vec<_> = containers.iter().map(|container| container.name.as_str()).collect();
        assert_eq!(names, ["gather", "build"], "nothing is left to fetch");
        let mounts = |container: &Container| -> Vec<String> {
            container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.clone()).collect()
        };
        let expected = ["/work", "/run/tenon/pull/0", "/run/tenon/pull/1", "/run/tenon/claims/0"];
        assert_eq!(mounts(&containers[0]), expected);
        assert_eq!(mounts(&containers[1]), ["/work"]);
        let secrets = recipe.volumes();
        let secrets: Vec<_> =
            secrets.iter().filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref()).collect();
        assert_eq!(secrets, ["ours", "theirs"]);
        let context = containers[0].security_context.as_ref().unwrap();
        assert_eq!(context.allow_privilege_escalation, Some(false));

        let told: Gathering = serde_json::from_str(&Gather::of(&recipe).unwrap().told(&image)).unwrap();
        let from = |wanted: &Wanted| match &wanted.from {
            Origin::Image { place, credentials } => (place.image.clone(), credentials.clone()),
            Origin::Claim(folder) => ("a claim".to_owned(), Some(folder.clone())),
        };
        let all: Vec<_> = told.files.iter().map(|wanted| (from(wanted), wanted.to.as_str())).collect();
        let of = |name: &str, credentials: Option<&str>| (name.to_owned(), credentials.map(str::to_owned));
        let expected = [
            (of("registry.test/sources@sha256:0", Some("1")), "source"),
            (of("registry.test/base@sha256:0", Some("0")), "artifacts/base/Module.symvers"),
            (of("registry.test/free@sha256:0", None), "artifacts/free"),
            (of("a claim", Some("0")), "artifacts/blobs"),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn every_module_symvers_is_known_to_the_kernels_build_system() {
        let mut recipe = recipe(Place::Claim("a".to_owned()));
        recipe.artifacts = ["one/Module.symvers", "header.h", "Module.symvers", "not-Module.symvers"]
            .map(|to| artifact(Holder::Claim("b".to_owned()), to))
            .into();
        let expected = [
            ("ARTIFACTS", "/work/artifacts".to_owned()),
            (
                "KBUILD_EXTRA_SYMBOLS",
                "/work/artifacts/one/Module.symvers /work/artifacts/Module.symvers".to_owned(),
            ),
        ];
        assert_eq!(variables(&recipe), expected);
    }

    #[rstest]
    #[case::topmost(None, "/work/source/", None)]
    #[case::a_directory(Some("/a/b/"), "/work/source/a/b", None)]
    #[case::a_package(Some("a/b-1.src.rpm"), "/work/unpacked", Some("source/a/b-1.src.rpm"))]
    fn what_is_compiled_is_where_the_path_says(
        #[case] path: Option<&str>,
        #[case] expected: &str,
        #[case] unpacked: Option<&str>,
    ) {
        let recipe = FromSources { path: path.map(str::to_owned), ..recipe(Place::Claim("a".to_owned())) };
        assert_eq!(directory(&recipe), expected);
        let package = package(&recipe);
        assert_eq!(package.as_ref().map(|package| package.path.as_str()), unpacked);
        assert!(package.is_none_or(|package| !package.patched_by_user));
        assert_eq!(Gather::of(&recipe).is_some(), unpacked.is_some());
    }
}

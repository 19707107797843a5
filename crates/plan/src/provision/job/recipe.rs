//! What is done before an image is published: nothing, a Dockerfile is built, or sources are compiled.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements, Volume};
use tenon_api::ModuleImage;

use super::dockerfile::FromDockerfile;
use super::sources::FromSources;
use super::{Mount, Settings, quantities};

/// A toolkit unpacked is mostly pages of files; compilers take the rest.
const MEMORY: &str = "4Gi";

/// How an image comes to be that is not another one, signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipe {
    /// From a Dockerfile.
    Dockerfile(FromDockerfile),
    /// From sources.
    Sources(Box<FromSources>),
}

/// An image that a build needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    /// As the Dockerfile writes it, variables and all: the builder compares before it replaces them.
    pub name: String,
    /// By the digest that this name stood for when the inputs were hashed: what moves meanwhile is another build.
    pub pinned: String,
    /// `host[:port]` of its registry.
    pub registry: String,
    /// Whether that is spoken to without TLS, or whatever its certificate says.
    pub insecure: bool,
    /// One more authority to trust (PEM).
    pub authority: Option<String>,
}

impl Recipe {
    /// Texts that the pod carries.
    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        match self {
            Self::Dockerfile(recipe) => recipe.annotations(),
            Self::Sources(_) => BTreeMap::new(),
        }
    }

    pub(super) fn volumes(&self, image: &ModuleImage) -> Vec<Volume> {
        match self {
            Self::Dockerfile(recipe) => recipe.volumes(image),
            Self::Sources(recipe) => recipe.volumes(),
        }
    }

    /// The containers that run one after another before what they leave is published.
    pub(super) fn containers(
        &self,
        image: &ModuleImage,
        registry: Option<Mount<'_>>,
        settings: &Settings,
    ) -> Vec<Container> {
        match self {
            Self::Dockerfile(recipe) => vec![recipe.container(image, registry, settings)],
            Self::Sources(recipe) => recipe.containers(image, settings),
        }
    }
}

/// What a build may use of its node.
pub(super) fn resources(image: &ModuleImage) -> ResourceRequirements {
    let asked = image.spec.build.as_ref().and_then(|build| build.resources.clone());
    asked.unwrap_or_else(|| ResourceRequirements {
        requests: Some(quantities(&[("cpu", "100m"), ("memory", "256Mi")])),
        limits: Some(quantities(&[("memory", MEMORY)])),
        ..ResourceRequirements::default()
    })
}

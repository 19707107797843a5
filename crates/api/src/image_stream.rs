//! The one object of OpenShift that is read: the ImageStream of driver toolkits (`github.com/openshift/api`, `image/v1`). Of its
//! kind there is here what counts.

use serde::Deserialize;

/// The kind's group.
pub const GROUP: &str = "image.openshift.io";
/// The group's version.
pub const VERSION: &str = "v1";
/// The kind.
pub const KIND: &str = "ImageStream";
/// The kind, as paths and roles name it.
pub const RESOURCE: &str = "imagestreams";
/// Where OpenShift keeps the toolkits.
pub const NAMESPACE: &str = "openshift";
/// What they are called there.
pub const NAME: &str = "driver-toolkit";

/// Names of images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ImageStream {
    /// What is wished of it.
    #[serde(default)]
    pub spec: StreamSpec,
}

/// Of its spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct StreamSpec {
    /// The names.
    #[serde(default)]
    pub tags: Vec<Tag>,
}

/// A name, and what it stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Tag {
    /// The name.
    #[serde(default)]
    pub name: String,
    /// What it stands for.
    pub from: Option<TagFrom>,
}

/// What a tag stands for (`ObjectReference`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct TagFrom {
    /// [`IMAGE`] for an image of some registry; other kinds refer to other tags.
    #[serde(default)]
    pub kind: String,
    /// The image's reference, then.
    #[serde(default)]
    pub name: String,
}

/// What an image of some registry is called among the kinds that a tag may stand for.
pub const IMAGE: &str = "DockerImage";

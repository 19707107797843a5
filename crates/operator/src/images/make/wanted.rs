//! What an image would be made from now: digests of images, versions of Secrets, the text of a Dockerfile.
//!
//! The Secret with the private key is never read: its metadata say which version it is, and that is all that is asked for.

mod sources;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt};
use tenon_api::module::{Build, BuildArg, RegistryTls, Sign};
use tenon_api::module_image::Making;
use tenon_api::task::{Compiled, Place, Source};
use tenon_api::{ModuleImage, reasons};
use tenon_image::ImageReference;
use tenon_image::keyring::Keyring;
use tenon_image::registry::{RegistryError, TlsSettings, Transport};
use tenon_order::Digest;
use tenon_plan::facts_image;
use tenon_plan::provision::Finding;
use tenon_plan::provision::dockerfile;
use tenon_plan::provision::job::{Base, FromDockerfile, FromSources, Recipe, SourcePlace};
use tenon_plan::provision::making::{self, BuildInputs, Inputs};
use tenon_plan::provision::toolkit::{self, OsVersion};
use tenon_plan::template::Variables;

use crate::registries::{self, Found, Unfound, chain};
use crate::run::Context;
use crate::world::World;

use super::toolkits::{ToolkitError, Toolkits};
use sources::{Neighbours, neighbours};

/// What an image is to be made from, once that is known.
#[derive(Debug)]
pub(in crate::images) struct Wanted {
    /// Where its content comes from, and in words.
    pub(super) source: Source,
    pub(super) told: String,
    /// What is built before, if anything is.
    pub(super) recipe: Option<Recipe>,
    pub(in crate::images) inputs: Inputs,
    /// The Job that makes it.
    pub(in crate::images) making: Making,
}

/// Why it is not known what an image is to be made from.
#[derive(Debug)]
pub(in crate::images) struct Unwanted {
    pub(in crate::images) finding: Finding,
    /// Whether it may be known in a moment.
    pub(in crate::images) passing: bool,
}

impl Unwanted {
    pub(in crate::images) fn passing(finding: Finding) -> Self {
        Self { finding, passing: true }
    }

    pub(super) fn lasting(finding: Finding) -> Self {
        Self { finding, passing: false }
    }
}

/// What is known in the cluster of what an image is made from.
#[derive(Debug)]
pub(in crate::images) struct Around {
    /// The images of other Modules that it needs.
    neighbours: Neighbours,
    /// The versions of the operating system that the nodes with its kernel have.
    os_versions: Vec<OsVersion>,
}

/// Looks around.
pub(in crate::images) fn around(world: &World, image: &ModuleImage) -> Around {
    let spec = &image.spec;
    let os_versions = match spec.build {
        Some(_) => {
            let index = world.read();
            toolkit::versions(&spec.kernel, &spec.architecture, index.nodes().map(Arc::as_ref))
        }
        None => Vec::new(),
    };
    Around { neighbours: neighbours(world, image), os_versions }
}

/// Finds out what the image is to be made from.
pub(in crate::images) async fn wanted(
    context: &Context,
    (transport, toolkits): (&Transport, &Toolkits),
    image: &ModuleImage,
    around: Around,
) -> Result<Wanted, Unwanted> {
    let look = Look::new(context, (transport, toolkits), image, around).await?;
    tag_of(image).map_err(Unwanted::lasting)?;
    if let (None, Some(sign)) = (&image.spec.build, &image.spec.sign) {
        unsigned(image, sign).map_err(Unwanted::lasting)?;
    }
    // What is nearest is looked at first: a registry may take its time.
    let (mut key, mut certificate) = (None, None);
    if let Some(sign) = &image.spec.sign {
        key = Some(look.version(&sign.key_secret.name, "sign.keySecret").await?);
        certificate = Some(look.version(&sign.cert_secret.name, "sign.certSecret").await?);
    }
    let (source, told, recipe, digest) = match (&image.spec.build, &image.spec.sign) {
        (Some(build), _) => {
            let (recipe, digest) = match &build.source {
                Some(source) => look.sources(build, source).await?,
                None => look.dockerfile(build).await?,
            };
            let source = match &recipe {
                Recipe::Dockerfile(_) => Source::Built,
                Recipe::Sources(_) => Source::Compiled(Compiled {
                    dir_name: image.spec.dir_name.clone(),
                    firmware_path: image.spec.firmware_path.clone(),
                }),
            };
            (source, "builds it".to_owned(), Some(recipe), digest)
        }
        (None, Some(sign)) => {
            let (place, digest) = look.unsigned(sign).await?;
            (Source::Image(place.clone()), format!("signs modules of {}", place.image), None, digest)
        }
        (None, None) => return Err(Unwanted::lasting(invalid("there is no way to make it".to_owned()))),
    };
    let inputs = Inputs { source: digest, key, certificate };
    let hash = inputs.hash(image);
    let making =
        Making { inputs: hash.to_string(), job: making::job_name(image, &hash), ..Making::default() };
    Ok(Wanted { source, told, recipe, inputs, making })
}

/// What is made gets its digest only when it is made.
fn tag_of(image: &ModuleImage) -> Result<(), Finding> {
    if !image.spec.image.contains('@') {
        return Ok(());
    }
    Err(invalid(format!(
        "containerImage {} names a digest, which what is made gets only when it is made: name a tag",
        image.spec.image
    )))
}

fn invalid(message: String) -> Finding {
    Finding::Missing { reason: reasons::SPEC_INVALID, message, needs_change: true, retry_after: None }
}

fn waiting(reason: &'static str, message: String) -> Finding {
    Finding::Missing { reason, message, needs_change: false, retry_after: None }
}

/// One look at what an image is made from.
struct Look<'a> {
    context: &'a Context,
    transport: &'a Transport,
    image: &'a ModuleImage,
    namespace: String,
    keyring: Keyring,
    toolkits: &'a Toolkits,
    around: Around,
}

impl<'a> Look<'a> {
    async fn new(
        context: &'a Context,
        (transport, toolkits): (&'a Transport, &'a Toolkits),
        image: &'a ModuleImage,
        around: Around,
    ) -> Result<Self, Unwanted> {
        let namespace = image.namespace().unwrap_or_default();
        let secret = image.spec.image_repo_secret.as_ref().map(|secret| secret.name.as_str());
        let keyring = registries::keyring(context, &namespace, secret, "spec.imageRepoSecret").await;
        let keyring = keyring.map_err(Unwanted::lasting)?;
        Ok(Self { context, transport, image, namespace, keyring, toolkits, around })
    }

    /// The digest that a reference stands for now, where that was found, and how the registry there is spoken to.
    async fn resolve(
        &self,
        reference: &ImageReference,
        asked: Option<RegistryTls>,
        absent: &str,
    ) -> Result<Found<Digest>, Unwanted> {
        self.resolve_with(&self.keyring, reference, asked, (absent, "check spec.imageRepoSecret")).await
    }

    /// The same with other credentials; and what to do where the image is absent, or access to it denied.
    async fn resolve_with(
        &self,
        keyring: &Keyring,
        reference: &ImageReference,
        asked: Option<RegistryTls>,
        (if_absent, if_denied): (&str, &str),
    ) -> Result<Found<Digest>, Unwanted> {
        let (context, asked) = (self.context, (reference, asked.unwrap_or_default()));
        let mirrors = &context.args.mirrors;
        let found =
            registries::ask(context, self.transport, keyring, asked, mirrors, async |registry, place| {
                registry.resolve(place).await
            });
        found.await.map_err(|unfound| {
            let passing = match &unfound {
                Unfound::Unasked(_) => true,
                Unfound::Said(error) => {
                    matches!(error, RegistryError::Unreachable { .. } | RegistryError::Disk { .. })
                }
            };
            Unwanted { finding: unfound.finding(if_absent, if_denied), passing }
        })
    }

    /// The image whose modules are signed.
    async fn unsigned(&self, sign: &Sign) -> Result<(Place, Digest), Unwanted> {
        let source = unsigned(self.image, sign).map_err(Unwanted::lasting)?;
        let absent = "push it, or correct sign.unsignedImage";
        let found = self.resolve(&source, sign.unsigned_image_registry_tls, absent).await?;
        Ok((place(&found.place.with_digest(found.answer), found.tls), found.answer))
    }

    /// What is built from a Dockerfile, and the hash of all that goes into it.
    async fn dockerfile(&self, build: &Build) -> Result<(Recipe, Digest), Unwanted> {
        let dockerfile = self.text(build).await?;
        let (arguments, named) = self.named_in(build, &dockerfile).await?;
        let (mut bases, mut digests) = (Vec::new(), BTreeMap::new());
        for (written, name) in named {
            let (base, digest) = self.base(build, &name).await?;
            bases.push(Base { name: written, ..base });
            digests.insert(name, digest);
        }
        let secrets = build.secrets.iter().map(|secret| (secret.name.as_str(), "build.secrets"));
        let hash = self.hash(&dockerfile, &arguments, &digests, secrets).await?;
        Ok((Recipe::Dockerfile(FromDockerfile { dockerfile, arguments, bases }), hash))
    }

    /// The arguments of a Dockerfile's build, and the images that it names with them. The cluster is asked for a toolkit only where
    /// the Dockerfile speaks of one, and lacking one is a reason to wait only where there is nothing in its place.
    async fn named_in(
        &self,
        build: &Build,
        dockerfile: &str,
    ) -> Result<(Vec<BuildArg>, BTreeMap<String, String>), Unwanted> {
        let named_with = |toolkit: Option<&str>| {
            let arguments = making::arguments(self.image, build, toolkit);
            let named = dockerfile::images(dockerfile, &variables(&arguments, &self.image.spec.architecture));
            named.map(|named| (arguments, named))
        };
        let (toolkit, unknown) = match self.named_toolkit() {
            None if dockerfile.contains(making::TOOLKIT) => match self.toolkit("").await {
                Err(unwanted) if !unwanted.passing => (None, Some(unwanted)),
                toolkit => (Some(toolkit?), None),
            },
            toolkit => (toolkit, None),
        };
        named_with(toolkit.as_deref()).map_err(|error| match unknown {
            Some(unwanted) if named_with(Some("any")).is_ok() => unwanted,
            _ => Unwanted::lasting(invalid(chain(&error))),
        })
    }

    async fn hash(
        &self,
        recipe: &str,
        arguments: &[BuildArg],
        bases: &BTreeMap<String, Digest>,
        named: impl Iterator<Item = (&str, &str)>,
    ) -> Result<Digest, Unwanted> {
        let mut secrets = BTreeMap::new();
        for (name, field) in named {
            secrets.insert(name.to_owned(), self.version(name, field).await?);
        }
        let (architecture, trigger) = (&self.image.spec.architecture, self.image.spec.rebuild_trigger);
        Ok(BuildInputs { recipe, arguments, bases, secrets: &secrets, architecture, trigger }.hash())
    }

    async fn text(&self, build: &Build) -> Result<String, Unwanted> {
        if let Some(text) = &build.dockerfile {
            return Ok(text.clone());
        }
        let name = build.dockerfile_config_map.as_ref().map(|map| map.name.as_str()).unwrap_or_default();
        let maps: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let called = format!("ConfigMap {}/{name} (build.dockerfileConfigMap)", self.namespace);
        let missing = |message| waiting(reasons::CONFIG_MAP_MISSING, message);
        match maps.get_opt(name).await {
            Ok(Some(map)) => map.data.and_then(|mut data| data.remove(DOCKERFILE)).ok_or_else(|| {
                Unwanted::lasting(missing(format!(
                    "{called} has no entry {DOCKERFILE:?}: put the Dockerfile there"
                )))
            }),
            Ok(None) => Err(Unwanted::lasting(missing(format!("{called} does not exist; create it")))),
            Err(error) => {
                Err(Unwanted::passing(missing(format!("{called} cannot be read: {}", chain(&error)))))
            }
        }
    }

    /// The kernel's driver toolkit; `otherwise` is how else it could be named.
    async fn toolkit(&self, otherwise: &str) -> Result<String, Unwanted> {
        if let Some(name) = self.named_toolkit() {
            return Ok(name);
        }
        let found = self.toolkits.find(&self.context.client, &self.around.os_versions).await;
        found.map_err(|error| {
            let message = format!(
                "nobody says which image is the driver toolkit of kernel {}: {}; name it by the operator's \
                 --toolkit-image{otherwise}",
                self.image.spec.kernel,
                chain(&error)
            );
            let passing = matches!(error, ToolkitError::Unread(_));
            Unwanted { finding: waiting(reasons::TOOLKIT_UNKNOWN, message), passing }
        })
    }

    /// The same, where the administrator has said how they are called.
    fn named_toolkit(&self) -> Option<String> {
        let template = self.context.args.toolkit_image.as_deref()?;
        let kernel = self.image.spec.kernel.parse().ok()?;
        facts_image::name(template, &kernel).ok().flatten()
    }

    async fn base(&self, build: &Build, name: &str) -> Result<(Base, Digest), Unwanted> {
        let reference: ImageReference = name.parse().map_err(|error| {
            Unwanted::lasting(invalid(format!("the image {name} that the build needs: {}", chain(&error))))
        })?;
        let absent = "the build needs it: push it, or name another";
        let Found { answer: digest, place, tls, .. } =
            self.resolve(&reference, build.base_image_registry_tls, absent).await?;
        let base = Base {
            name: name.to_owned(),
            pinned: place.by_digest(digest).to_string(),
            registry: place.registry().to_owned(),
            insecure: tls.plain_http || tls.skip_verify,
            authority: tls.authority.map(|pem| String::from_utf8_lossy(&pem).into_owned()),
        };
        Ok((base, digest))
    }

    /// Which Secret it is, and which version of it.
    async fn version(&self, name: &str, field: &str) -> Result<String, Unwanted> {
        let secrets: Api<Secret> = Api::namespaced(self.context.client.clone(), &self.namespace);
        let called = format!("Secret {}/{name} ({field})", self.namespace);
        let missing = |message| waiting(reasons::SECRET_MISSING, message);
        match secrets.get_metadata_opt(name).await {
            Ok(Some(secret)) => Ok(format!(
                "{}/{}",
                secret.uid().unwrap_or_default(),
                secret.resource_version().unwrap_or_default()
            )),
            Ok(None) => Err(Unwanted::lasting(missing(format!("{called} does not exist; create it")))),
            Err(error) => {
                Err(Unwanted::passing(missing(format!("{called} cannot be read: {}", chain(&error)))))
            }
        }
    }
}

/// The entry of a ConfigMap that holds a Dockerfile, as in KMM.
const DOCKERFILE: &str = "dockerfile";

/// The image whose modules are signed, as the Module names it.
fn unsigned(image: &ModuleImage, sign: &Sign) -> Result<ImageReference, Finding> {
    let Some(unsigned) = &sign.unsigned_image else {
        let message = "sign.unsignedImage is not set: name the image whose modules are to be signed";
        return Err(invalid(message.to_owned()));
    };
    if *unsigned == image.spec.image {
        return Err(invalid(format!(
            "sign.unsignedImage and containerImage are both {unsigned}: the signed image needs a name of its own"
        )));
    }
    unsigned.parse().map_err(|error| invalid(format!("sign.unsignedImage: {}", chain(&error))))
}

/// What has a value in a Dockerfile's `FROM`.
fn variables(arguments: &[BuildArg], architecture: &str) -> Variables {
    let mut variables = Variables::default();
    for arg in arguments {
        variables.set(arg.name.clone(), arg.value.clone());
    }
    for name in dockerfile::PLATFORM {
        let value = match name {
            "TARGETARCH" | "BUILDARCH" => architecture.to_owned(),
            "TARGETOS" | "BUILDOS" => "linux".to_owned(),
            _ => format!("linux/{architecture}"),
        };
        variables.set(name, value);
    }
    variables
}

/// An image, and how the Job speaks to its registry.
pub(super) fn place(reference: &ImageReference, tls: TlsSettings) -> Place {
    Place {
        image: reference.to_string(),
        plain_http: tls.plain_http,
        skip_verify: tls.skip_verify,
        authority: tls.authority.map(|pem| String::from_utf8_lossy(&pem).into_owned()),
    }
}

/// What another ModuleImage of the namespace wants otherwise of an image of this name: there can be only one.
pub(in crate::images) fn conflict(world: &World, image: &ModuleImage) -> Option<Finding> {
    let index = world.read();
    let spec = &image.spec;
    // What is built is built for one kernel.
    let other_kernel = |other: &ModuleImage| {
        spec.build.is_some()
            && (&other.spec.kernel, &other.spec.architecture) != (&spec.kernel, &spec.architecture)
    };
    // Both count among what is built.
    let other_wish = |other: &ModuleImage| {
        spec.build.is_some()
            && (&other.spec.module, other.spec.rebuild_trigger) != (&spec.module, spec.rebuild_trigger)
    };
    let other = index.images().find(|other| {
        other.metadata.namespace == image.metadata.namespace
            && other.spec.image == spec.image
            && making::can_be_made(other)
            // What is only tried is in nobody's way.
            && (spec.trial || !other.spec.trial)
            && (other.spec.sign != spec.sign
                || other.spec.build != spec.build
                || other_kernel(other)
                || other_wish(other))
    })?;
    let what = if other_kernel(other) { "builds it too" } else { "makes it otherwise" };
    Some(invalid(format!(
        "{} is to be made in two ways: Module {} for kernel {} ({}) {what}; give each a containerImage of its own, with \
         ${{KERNEL_FULL_VERSION}} in its tag",
        spec.image, other.spec.module, other.spec.kernel, other.spec.architecture
    )))
}

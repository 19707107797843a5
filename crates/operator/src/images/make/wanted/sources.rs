//! What is compiled: where its sources are, the toolkit, and the files of other images that it needs, by the digests that their
//! names stand for now. Who moves a git branch, or writes to a volume, says so by `imageRebuildTriggerGeneration`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tenon_api::module::{Artifact, Build, BuildSource, ImageSource};
use tenon_plan::provision::artifacts;
use tenon_plan::provision::job::{ArtifactFiles, Base, Holder, Pulled};

use super::{
    Digest, Finding, FromSources, ImageReference, Look, ModuleImage, Recipe, SourcePlace, Unwanted, World,
    chain, invalid, making, place, reasons, registries,
};
use crate::world::ImageKey;
use kube::ResourceExt as _;

/// The images of other Modules that a build takes files of, by the Modules' names.
pub(super) type Neighbours = BTreeMap<String, Result<Neighbour, Finding>>;

/// One that is ready.
#[derive(Debug)]
pub(super) struct Neighbour {
    image: Arc<ModuleImage>,
    digest: String,
}

/// Looks for the images of other Modules that the image's build takes files of.
pub(super) fn neighbours(world: &World, image: &ModuleImage) -> Neighbours {
    let source = image.spec.build.as_ref().and_then(|build| build.source.as_ref());
    let artifacts = source.map(|source| source.artifacts.as_slice()).unwrap_or_default();
    let names = artifacts.iter().filter_map(|artifact| artifact.module.as_deref());
    let index = world.read();
    let (namespace, spec) = (image.namespace().unwrap_or_default(), &image.spec);
    let find = |name: &str| {
        let name = ModuleImage::name_for(name, &spec.kernel, &spec.architecture);
        index.image(&ImageKey { namespace: namespace.clone(), name })
    };
    let dependency = |name: &str| {
        let known = |name: &str| find(name).map(Arc::as_ref).filter(|found| found.spec.module == name);
        let (_, digest) = artifacts::dependency(image, name, known)?;
        Ok(find(name).map(|image| Neighbour { image: image.clone(), digest: digest.to_owned() }))
    };
    names.filter_map(|name| Some((name.to_owned(), dependency(name).transpose()?))).collect()
}

/// The digests of what goes into a build, by names.
type Digests = BTreeMap<String, Digest>;

impl Look<'_> {
    /// What is compiled, and the hash of all that is known beforehand to go into it.
    pub(super) async fn sources(
        &self,
        build: &Build,
        source: &BuildSource,
    ) -> Result<(Recipe, Digest), Unwanted> {
        artifacts::check(&source.artifacts).map_err(Unwanted::lasting)?;
        let toolkit = match &source.toolkit {
            Some(toolkit) => toolkit.clone(),
            None => self.toolkit(", or by build.source.toolkit").await?,
        };
        let mut digests = Digests::new();
        // Other Modules are nearer than any registry.
        let mut artifacts = Vec::new();
        for artifact in source.artifacts.iter().filter(|artifact| artifact.module.is_some()) {
            artifacts.push(self.artifact(build, artifact, &mut digests).await?);
        }
        for artifact in source.artifacts.iter().filter(|artifact| artifact.module.is_none()) {
            artifacts.push(self.artifact(build, artifact, &mut digests).await?);
        }
        let place = self.place_of(build, source, &mut digests).await?;
        let arguments = making::arguments(self.image, build, Some(&toolkit));
        let (base, digest) = self.toolkit_base(build, &toolkit).await?;
        digests.insert(toolkit, digest);
        // All that decides what is compiled, and where it is packed: plain texts.
        let spec = &self.image.spec;
        let recipe = (source, &spec.kernel, &spec.dir_name, &spec.firmware_path);
        let recipe = serde_json::to_string(&recipe).unwrap_or_default();
        let secret = source.git.as_ref().and_then(|git| git.secret.as_ref());
        let secrets = secret.iter().map(|secret| (secret.name.as_str(), "build.source.git.secret"));
        let hash = self.hash(&recipe, &arguments, &digests, secrets).await?;
        let recipe = FromSources {
            place,
            path: source.path.clone(),
            toolkit: base,
            artifacts,
            before: source.before.clone(),
            script: source.script.clone(),
            after: source.after.clone(),
            arguments,
        };
        Ok((Recipe::Sources(Box::new(recipe)), hash))
    }

    /// The image that compiles. It is a node that pulls it, and nodes may have credentials that nobody else has: what is named by its
    /// digest is then taken at its word.
    async fn toolkit_base(&self, build: &Build, name: &str) -> Result<(Base, Digest), Unwanted> {
        let unwanted = match self.base(build, name).await {
            Ok(found) => return Ok(found),
            Err(unwanted) => unwanted,
        };
        let is_denied = matches!(unwanted.finding, Finding::Missing { reason: reasons::REGISTRY_DENIED, .. });
        let reference = name.parse::<ImageReference>().ok().filter(|_| is_denied);
        let pinned = reference.and_then(|reference| Some((reference.digest().copied()?, reference)));
        let (digest, reference) = pinned.ok_or(unwanted)?;
        let (name, pinned) = (name.to_owned(), reference.to_string());
        Ok((Base { name, pinned, registry: reference.registry().to_owned(), ..Base::default() }, digest))
    }

    async fn place_of(
        &self,
        build: &Build,
        source: &BuildSource,
        digests: &mut Digests,
    ) -> Result<SourcePlace, Unwanted> {
        match (&source.git, &source.image, &source.claim) {
            (Some(git), _, _) => Ok(SourcePlace::Git {
                uri: git.uri.clone(),
                reference: git.reference.clone(),
                secret: git.secret.as_ref().map(|secret| secret.name.clone()),
            }),
            (None, Some(image), _) => {
                Ok(SourcePlace::Image(self.pulled(build, image, "build.source.image", digests).await?))
            }
            (None, None, Some(claim)) => Ok(SourcePlace::Claim(claim.name.clone())),
            (None, None, None) => {
                Err(Unwanted::lasting(invalid("build.source has neither git, image nor claim".to_owned())))
            }
        }
    }

    async fn artifact(
        &self,
        build: &Build,
        artifact: &Artifact,
        digests: &mut Digests,
    ) -> Result<ArtifactFiles, Unwanted> {
        let (to, path, otherwise) = (artifact.to.clone(), artifact.path.clone(), None);
        match (&artifact.image, &artifact.module, &artifact.claim) {
            (Some(image), _, _) => {
                let pulled = self.pulled(build, image, "build.source.artifacts.image", digests).await?;
                Ok(ArtifactFiles { from: Holder::Image(pulled), path, otherwise, to })
            }
            (None, Some(module), _) => {
                let (pulled, path, otherwise) = self.neighbour(module, &path, digests).await?;
                Ok(ArtifactFiles { from: Holder::Image(pulled), path, otherwise, to })
            }
            (None, None, Some(claim)) => {
                Ok(ArtifactFiles { from: Holder::Claim(claim.name.clone()), path, otherwise, to })
            }
            (None, None, None) => Err(Unwanted::lasting(invalid(
                "an item of build.source.artifacts has neither image, module nor claim".to_owned(),
            ))),
        }
    }

    /// An image whose files are needed, by its digest.
    async fn pulled(
        &self,
        build: &Build,
        image: &ImageSource,
        field: &str,
        digests: &mut Digests,
    ) -> Result<Pulled, Unwanted> {
        let reference: ImageReference = image.reference.parse().map_err(|error| {
            Unwanted::lasting(invalid(format!("{field}.reference {}: {}", image.reference, chain(&error))))
        })?;
        let own = image.secret.as_ref().map(|secret| secret.name.as_str());
        let keyring = match own {
            Some(_) => registries::keyring(self.context, &self.namespace, own, &format!("{field}.secret"))
                .await
                .map_err(Unwanted::lasting)?,
            None => self.keyring.clone(),
        };
        let asked = image.registry_tls.or(build.base_image_registry_tls);
        let if_absent = format!("push it, or correct {field}.reference");
        let if_denied = format!("check {field}.secret, or spec.imageRepoSecret");
        let found = self.resolve_with(&keyring, &reference, asked, (&if_absent, &if_denied)).await?;
        digests.insert(image.reference.clone(), found.answer);
        let modules = self.image.spec.image_repo_secret.as_ref().map(|secret| secret.name.as_str());
        let secret = own.or(modules).map(str::to_owned);
        Ok(Pulled { place: place(&found.place.with_digest(found.answer), found.tls), secret })
    }

    /// Another Module's image, and where the file is in it, or else may be.
    async fn neighbour(
        &self,
        module: &str,
        path: &str,
        digests: &mut Digests,
    ) -> Result<(Pulled, String, Option<String>), Unwanted> {
        let found = match self.around.neighbours.get(module) {
            Some(Ok(found)) => found,
            Some(Err(finding)) => return Err(Unwanted::lasting(finding.clone())),
            None => {
                let message = format!("build.source.artifacts: Module {module} was not looked for");
                return Err(Unwanted::lasting(invalid(message)));
            }
        };
        let spec = &found.image.spec;
        let unusable = |error: &dyn std::error::Error| {
            let message = format!("the image of Module {module} (build.source.artifacts): {}", chain(error));
            Unwanted::lasting(invalid(message))
        };
        let reference: ImageReference = spec.image.parse().map_err(|error| unusable(&error))?;
        let digest: Digest = found.digest.parse().map_err(|error| unusable(&error))?;
        let reference = reference.with_digest(digest);
        // One that only a node could pull has no Secret; that of the Module which is built may do.
        let own = self.image.spec.image_repo_secret.as_ref();
        let secret = spec.image_repo_secret.as_ref().or(own).map(|secret| secret.name.clone());
        let (at, tls) = if making::can_be_made(&found.image) {
            // It is where it was published.
            let tls = registries::tls(self.context, &reference, spec.registry_tls.unwrap_or_default()).await;
            (reference, tls.map_err(Unwanted::passing)?)
        } else {
            let field = format!("imageRepoSecret of Module {module}");
            let keyring = registries::keyring(self.context, &self.namespace, secret.as_deref(), &field).await;
            let keyring = keyring.map_err(Unwanted::lasting)?;
            let hints =
                ("the build needs a file of it", "the build needs a file of it: check spec.imageRepoSecret");
            let found = self.resolve_with(&keyring, &reference, spec.registry_tls, hints).await?;
            (found.place, found.tls)
        };
        digests.insert(artifacts::input(&found.image, path), digest);
        let pulled = Pulled { place: place(&at, tls), secret };
        Ok((pulled, artifacts::path_in(&found.image, path), artifacts::otherwise_in(&found.image, path)))
    }
}

//! Images: which digest a name has, and what is under it for a platform.

use std::collections::BTreeMap;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use tenon_order::Digest;

use super::exchange::{Call, Payload, Rights, read_bounded};
use super::{Access, Registry, RegistryError, Subject, Violation};
use crate::manifest::{
    self, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, ImageManifest, OCI_INDEX, OCI_MANIFEST,
};
use crate::platform::{self, Architecture};
use crate::reference::ImageReference;

/// The largest manifest that registries accept.
pub(super) const MAX_MANIFEST: u64 = 4 << 20;

/// The header in which registries name what they send.
pub(super) const CONTENT_DIGEST: &str = "Docker-Content-Digest";

/// An image for one platform, all of it named by content.
#[derive(Debug, Clone)]
pub struct PlatformImage {
    reference: ImageReference,
    digest: Digest,
    manifest: ImageManifest,
    labels: BTreeMap<String, String>,
    pub(super) access: Access,
}

impl PlatformImage {
    /// From its manifest, as it was read.
    pub(super) fn new(
        reference: ImageReference,
        digest: Digest,
        manifest: ImageManifest,
        labels: BTreeMap<String, String>,
        access: Access,
    ) -> Self {
        Self { reference, digest, manifest, labels, access }
    }
}

impl PlatformImage {
    /// As it was asked for, pinned to what it was then: the index's digest where there is an index.
    pub fn reference(&self) -> &ImageReference {
        &self.reference
    }

    /// Of the manifest for this platform.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Names its configuration.
    pub fn config(&self) -> &Descriptor {
        &self.manifest.config
    }

    /// The layers, the lowest first.
    pub fn layers(&self) -> &[Descriptor] {
        &self.manifest.layers
    }

    /// Its labels: what whoever made it notes.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }
}

/// A manifest or index whose digest was computed from its bytes.
pub(super) struct Fetched {
    pub(super) digest: Digest,
    pub(super) bytes: Vec<u8>,
    pub(super) document: Document,
}

impl Registry {
    /// What a name stands for now: one small request, to notice a tag that moved.
    pub async fn resolve(&self, image: &ImageReference) -> Result<Digest, RegistryError> {
        let subject = Subject::manifest(image);
        let ask = async |access: Access| {
            self.persist(&subject, self.timing.manifest, async || self.head(image, &subject, &access).await)
                .await
        };
        match self.with_access(image, ask).await?.0 {
            Some(digest) => Ok(digest),
            // Registries may leave the header out: then the bytes say.
            None => {
                Ok(self.with_access(image, async |access| self.fetch(image, &access).await).await?.0.digest)
            }
        }
    }

    /// The image for Linux on this architecture.
    pub async fn image(
        &self,
        image: &ImageReference,
        architecture: &Architecture,
    ) -> Result<PlatformImage, RegistryError> {
        let (found, access) = self
            .with_access(image, async |access| self.for_platform(image, architecture, &access).await)
            .await?;
        Ok(PlatformImage { access, ..found })
    }

    async fn for_platform(
        &self,
        image: &ImageReference,
        architecture: &Architecture,
        access: &Access,
    ) -> Result<PlatformImage, RegistryError> {
        let subject = Subject::manifest(image);
        let other_platform = |source| RegistryError::Platform { subject: subject.clone(), source };
        let fetched = self.fetch(image, access).await?;
        let reference = image.with_digest(fetched.digest);
        let (digest, manifest) = match fetched.document {
            Document::Image(manifest) => (fetched.digest, manifest),
            Document::Index(entries) => {
                let entry = platform::select(&entries, architecture).map_err(other_platform)?;
                let fetched = self.fetch(&image.with_digest(entry.digest), access).await?;
                match fetched.document {
                    Document::Image(manifest) => (fetched.digest, manifest),
                    Document::Index(_) => {
                        let error = manifest::ManifestError::Type("an index in an index".to_owned());
                        return Err(RegistryError::invalid(&subject, error.into()));
                    }
                }
            }
        };
        manifest.check_layers().map_err(|error| RegistryError::invalid(&subject, error.into()))?;
        // An index may say anything; what the image was built for stands in its configuration.
        let config = self.config(image, &manifest.config, access).await?;
        let platform = manifest::read_platform(&config).map_err(|error| {
            RegistryError::invalid(&Subject::blob(image, manifest.config.digest), error.into())
        })?;
        platform::check(&platform, architecture).map_err(other_platform)?;
        let labels = manifest::read_labels(&config);
        Ok(PlatformImage { reference, digest, manifest, labels, access: access.clone() })
    }

    /// An image's configuration, as it is.
    pub(super) async fn config(
        &self,
        image: &ImageReference,
        config: &Descriptor,
        access: &Access,
    ) -> Result<Vec<u8>, RegistryError> {
        let subject = Subject::blob(image, config.digest);
        if config.size > MAX_MANIFEST {
            return Err(RegistryError::invalid(&subject, Violation::TooLarge(MAX_MANIFEST)));
        }
        self.persist(&subject, self.timing.manifest, async || {
            let url = self.url(image, &format!("blobs/{}", config.digest), &subject)?;
            let response = self.exchange(&get(url, &subject), access).await?;
            checked(read_bounded(response, MAX_MANIFEST, &subject).await?, config.digest, &subject)
        })
        .await
    }

    pub(super) async fn fetch(
        &self,
        image: &ImageReference,
        access: &Access,
    ) -> Result<Fetched, RegistryError> {
        let subject = Subject::manifest(image);
        self.persist(&subject, self.timing.manifest, async || self.fetch_once(image, &subject, access).await)
            .await
    }

    async fn fetch_once(
        &self,
        image: &ImageReference,
        subject: &Subject,
        access: &Access,
    ) -> Result<Fetched, RegistryError> {
        let url = self.url(image, &format!("manifests/{}", image.manifest_name()), subject)?;
        let response = self.exchange(&accepting(get(url, subject)), access).await?;
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let announced = announced_digest(&response, subject)?;
        let bytes = read_bounded(response, MAX_MANIFEST, subject).await?;
        let found = Digest::of(&bytes);
        for expected in image.digest().into_iter().chain(announced.as_ref()) {
            if *expected != found {
                return Err(RegistryError::invalid(
                    subject,
                    Violation::Digest { expected: *expected, found },
                ));
            }
        }
        let document = Document::read(&bytes, &content_type)
            .map_err(|error| RegistryError::invalid(subject, error.into()))?;
        Ok(Fetched { digest: found, bytes, document })
    }

    async fn head(
        &self,
        image: &ImageReference,
        subject: &Subject,
        access: &Access,
    ) -> Result<Option<Digest>, RegistryError> {
        let url = self.url(image, &format!("manifests/{}", image.manifest_name()), subject)?;
        let call = Call { method: Method::HEAD, ..accepting(get(url, subject)) };
        let response = self.exchange(&call, access).await?;
        let announced = announced_digest(&response, subject)?;
        match (image.digest(), announced) {
            (Some(expected), Some(found)) if *expected != found => {
                Err(RegistryError::invalid(subject, Violation::Digest { expected: *expected, found }))
            }
            (Some(expected), _) => Ok(Some(*expected)),
            (None, announced) => Ok(announced),
        }
    }
}

pub(super) fn get(url: reqwest::Url, subject: &Subject) -> Call<'_> {
    let (headers, body) = (Vec::new(), Payload::None);
    Call { method: Method::GET, url, headers, body, subject, rights: Rights::Pull, also: None }
}

fn accepting(mut call: Call<'_>) -> Call<'_> {
    call.headers.push(("Accept", [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ")));
    call
}

fn announced_digest(
    response: &reqwest::Response,
    subject: &Subject,
) -> Result<Option<Digest>, RegistryError> {
    let Some(header) = response.headers().get(CONTENT_DIGEST) else { return Ok(None) };
    let digest = header.to_str().ok().and_then(|text| text.parse().ok());
    digest.map(Some).ok_or_else(|| RegistryError::invalid(subject, Violation::Header(CONTENT_DIGEST)))
}

fn checked(bytes: Vec<u8>, expected: Digest, subject: &Subject) -> Result<Vec<u8>, RegistryError> {
    let found = Digest::of(&bytes);
    if found == expected {
        Ok(bytes)
    } else {
        Err(RegistryError::invalid(subject, Violation::Digest { expected, found }))
    }
}

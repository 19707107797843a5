//! Uploading blobs and manifests: asks first whether they are there, then sends them in one piece.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use reqwest::{Method, StatusCode, Url};
use tenon_order::Digest;

use super::exchange::{Call, Payload, Rights, location};
use super::image::{CONTENT_DIGEST, MAX_MANIFEST, get};
use super::{Access, PlatformImage, Registry, RegistryError, Subject, Violation};
use crate::manifest::Descriptor;
use crate::reference::ImageReference;

/// A blob to upload.
#[derive(Debug, Clone)]
pub enum Blob {
    /// From memory.
    Bytes(Vec<u8>),
    /// From a file, from its beginning, wherever the handle stands. Open already: what a name leads to may change meanwhile.
    File {
        /// The bytes.
        file: Arc<File>,
        /// Of its bytes.
        digest: Digest,
        /// In bytes.
        size: u64,
    },
}

impl Blob {
    /// Its name.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Bytes(bytes) => Digest::of(bytes),
            Self::File { digest, .. } => *digest,
        }
    }

    fn payload(&self) -> Payload<'_> {
        match self {
            Self::Bytes(bytes) => Payload::Bytes(bytes),
            Self::File { file, size, .. } => Payload::File { file, size: *size },
        }
    }
}

/// Whether an upload was needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was sent.
    Uploaded,
    /// The registry had it.
    Present,
    /// The registry had it in another repository, and put it into this one.
    Mounted,
}

impl Registry {
    /// Makes sure that the repository holds this blob.
    pub async fn push_blob(&self, to: &ImageReference, blob: &Blob) -> Result<Pushed, RegistryError> {
        let digest = blob.digest();
        let subject = Subject::blob(to, digest);
        let push = async |access: Access| {
            self.persist(&subject, self.timing.blob, async || {
                if self.has_blob(to, digest, &subject, &access).await? {
                    return Ok(Pushed::Present);
                }
                self.upload(to, blob, &subject, &access).await
            })
            .await
        };
        Ok(self.with_access(to, push).await?.0)
    }

    /// Makes sure that the repository holds a blob of another image: asks first, then has it mounted where the registry is the
    /// same, then copies it by way of `directory`.
    pub async fn provide_blob(
        &self,
        to: &ImageReference,
        blob: &Descriptor,
        from: (&Self, &PlatformImage),
        directory: &Path,
    ) -> Result<Pushed, RegistryError> {
        let (registry, image) = from;
        let source = image.reference();
        let mounts = (source.registry() == to.registry()).then(|| source.repository());
        if let Some(pushed) = self.find_blob(to, blob.digest, mounts).await? {
            return Ok(pushed);
        }
        let subject = Subject::blob(to, blob.digest);
        let aside = tempfile::tempfile_in(directory)
            .map_err(|source| RegistryError::Disk { subject: subject.clone(), source })?;
        let file = registry.pull_blob(image, blob, aside).await?.into();
        self.push_blob(to, &Blob::File { file, digest: blob.digest, size: blob.size }).await
    }

    /// Asks whether the repository holds a blob, and has it mounted from another repository of this registry, if one is
    /// given. `None` where it must be sent.
    pub(crate) async fn find_blob(
        &self,
        to: &ImageReference,
        digest: Digest,
        mounts: Option<&str>,
    ) -> Result<Option<Pushed>, RegistryError> {
        let subject = Subject::blob(to, digest);
        let ask = async |access: Access| {
            self.persist(&subject, self.timing.manifest, async || {
                if self.has_blob(to, digest, &subject, &access).await? {
                    return Ok(Some(Pushed::Present));
                }
                match mounts {
                    Some(repository) => self.mount(to, digest, repository, &subject, &access).await,
                    None => Ok(None),
                }
            })
            .await
        };
        Ok(self.with_access(to, ask).await?.0)
    }

    /// Asks for a blob of another repository. Registries that do not mount open an upload instead, which is given up.
    async fn mount(
        &self,
        to: &ImageReference,
        digest: Digest,
        from: &str,
        subject: &Subject,
        access: &Access,
    ) -> Result<Option<Pushed>, RegistryError> {
        let mut url = self.url(to, "blobs/uploads/", subject)?;
        let here = url.clone();
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        let call = Call { also: Some(from), ..writing(Method::POST, url, subject) };
        let answer = match self.exchange(&call, access).await {
            Ok(answer) => answer,
            // Who may write here may not have to be allowed to mount from there.
            Err(RegistryError::Denied { .. } | RegistryError::Absent(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if answer.status() == StatusCode::CREATED {
            return Ok(Some(Pushed::Mounted));
        }
        if let Some(upload) = location(&answer, &here).filter(|upload| upload.origin() == here.origin()) {
            // An upload that nobody ends goes away by itself.
            let _ = self.exchange(&writing(Method::DELETE, upload, subject), access).await;
        }
        Ok(None)
    }

    /// Stores a manifest under the reference's tag, or under its digest where it has no tag.
    pub async fn push_manifest(
        &self,
        to: &ImageReference,
        media_type: &str,
        manifest: &[u8],
    ) -> Result<Digest, RegistryError> {
        let digest = Digest::of(manifest);
        let subject = Subject::manifest(to);
        if manifest.len() as u64 > MAX_MANIFEST {
            return Err(RegistryError::invalid(&subject, Violation::TooLarge(MAX_MANIFEST)));
        }
        let name = to.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let push = async |access: Access| {
            self.persist(&subject, self.timing.manifest, async || {
                let url = self.url(to, &format!("manifests/{name}"), &subject)?;
                let call = Call {
                    headers: vec![("Content-Type", media_type.to_owned())],
                    body: Payload::Bytes(manifest),
                    ..writing(Method::PUT, url, &subject)
                };
                self.exchange(&call, &access).await
            })
            .await
        };
        let (response, _) = self.with_access(to, push).await?;
        let stored = response.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok());
        match stored.and_then(|text| text.parse().ok()) {
            Some(found) if found != digest => {
                Err(RegistryError::invalid(&subject, Violation::Digest { expected: digest, found }))
            }
            _ => Ok(digest),
        }
    }

    async fn has_blob(
        &self,
        to: &ImageReference,
        digest: Digest,
        subject: &Subject,
        access: &Access,
    ) -> Result<bool, RegistryError> {
        let url = self.url(to, &format!("blobs/{digest}"), subject)?;
        // Asked with the right to push, so that one token serves the whole upload.
        let call = Call { method: Method::HEAD, rights: Rights::Push, ..get(url, subject) };
        match self.exchange(&call, access).await {
            Ok(_) => Ok(true),
            Err(RegistryError::Absent(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens an upload and sends everything with the request that closes it.
    async fn upload(
        &self,
        to: &ImageReference,
        blob: &Blob,
        subject: &Subject,
        access: &Access,
    ) -> Result<Pushed, RegistryError> {
        let url = self.url(to, "blobs/uploads/", subject)?;
        let opened = self.exchange(&writing(Method::POST, url.clone(), subject), access).await?;
        let mut target = location(&opened, &url)
            .filter(|target| target.scheme() == "https" || url.scheme() == "http")
            .ok_or_else(|| RegistryError::invalid(subject, Violation::Header("Location")))?;
        target.query_pairs_mut().append_pair("digest", &blob.digest().to_string());
        // Another host has its own ways of knowing us: what the URL carries.
        let access = if target.origin() == url.origin() { access.clone() } else { None };
        let call = Call {
            headers: vec![("Content-Type", "application/octet-stream".to_owned())],
            body: blob.payload(),
            ..writing(Method::PUT, target, subject)
        };
        self.exchange(&call, &access).await?;
        Ok(Pushed::Uploaded)
    }
}

fn writing(method: Method, url: Url, subject: &Subject) -> Call<'_> {
    Call { method, rights: Rights::Push, ..get(url, subject) }
}

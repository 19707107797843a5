//! Downloading blobs to files: resumed where the connection broke, believed only once all of it was checked.

use std::fs::File;

use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use tenon_order::{Digest, Hasher};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use super::exchange::connection_error;
use super::image::get;
use super::{PlatformImage, Registry, RegistryError, Subject, Trouble, Violation};
use crate::manifest::Descriptor;

impl Registry {
    /// Downloads a layer into an empty file and gives the file back. Whatever stands in it after an error means nothing.
    pub async fn pull_blob(
        &self,
        image: &PlatformImage,
        blob: &Descriptor,
        file: File,
    ) -> Result<File, RegistryError> {
        let subject = Subject::blob(image.reference(), blob.digest);
        let mut download = Download {
            file: tokio::fs::File::from_std(file),
            hasher: Hasher::new(),
            received: 0,
            size: blob.size,
        };
        self.persist(&subject, self.timing.blob, async || {
            self.pull_more(image, blob.digest, &mut download, &subject).await
        })
        .await?;
        let disk = |source| RegistryError::Disk { subject: subject.clone(), source };
        download.file.flush().await.map_err(disk)?;
        let found = download.hasher.finish();
        if found != blob.digest {
            return Err(RegistryError::invalid(&subject, Violation::Digest { expected: blob.digest, found }));
        }
        Ok(download.file.into_std().await)
    }

    async fn pull_more(
        &self,
        image: &PlatformImage,
        digest: Digest,
        download: &mut Download,
        subject: &Subject,
    ) -> Result<(), RegistryError> {
        let url = self.url(image.reference(), &format!("blobs/{digest}"), subject)?;
        let mut call = get(url, subject);
        if download.received > 0 {
            call.headers.push(("Range", format!("bytes={}-", download.received)));
        }
        let mut response = self.exchange(&call, &image.access).await?;
        if !continues(&response, download.received) {
            download
                .restart()
                .await
                .map_err(|source| RegistryError::Disk { subject: subject.clone(), source })?;
        }
        while let Some(chunk) = response.chunk().await.map_err(|error| connection_error(error, subject))? {
            download.take(&chunk, subject).await?;
        }
        if download.received < download.size {
            let Download { received, size, .. } = *download;
            return Err(RegistryError::unreachable(subject, Trouble::Truncated { received, expected: size }));
        }
        Ok(())
    }
}

/// Whether an answer goes on where the download stopped.
fn continues(response: &reqwest::Response, received: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let starts = range.is_some_and(|range| range.starts_with(&format!("bytes {received}-")));
    received == 0 || (response.status() == StatusCode::PARTIAL_CONTENT && starts)
}

struct Download {
    file: tokio::fs::File,
    hasher: Hasher,
    received: u64,
    size: u64,
}

impl Download {
    async fn take(&mut self, chunk: &[u8], subject: &Subject) -> Result<(), RegistryError> {
        let received = self.received + chunk.len() as u64;
        if received > self.size {
            return Err(RegistryError::invalid(subject, Violation::Size { expected: self.size }));
        }
        self.file
            .write_all(chunk)
            .await
            .map_err(|source| RegistryError::Disk { subject: subject.clone(), source })?;
        self.hasher.update(chunk);
        self.received = received;
        Ok(())
    }

    async fn restart(&mut self) -> std::io::Result<()> {
        self.file.rewind().await?;
        self.file.set_len(0).await?;
        self.hasher = Hasher::new();
        self.received = 0;
        Ok(())
    }
}

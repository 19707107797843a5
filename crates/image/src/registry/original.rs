//! An image as the registry has it, byte for byte: for whoever publishes it again with something added.

use super::image::Fetched;
use super::{Access, PlatformImage, Registry, RegistryError, Subject};
use crate::manifest::{self, Document, ManifestError, Platform};
use crate::reference::ImageReference;

/// An image, or several under an index.
#[derive(Debug, Clone)]
pub struct Original {
    /// As it was asked for, pinned to what it was then.
    pub reference: ImageReference,
    /// The index, if there is one.
    pub index: Option<Vec<u8>>,
    /// The images that something can run, in the index's order.
    pub images: Vec<OriginalImage>,
}

/// One image of an [`Original`].
#[derive(Debug, Clone)]
pub struct OriginalImage {
    /// What it is made of.
    pub image: PlatformImage,
    /// What it runs on, by its configuration.
    pub platform: Platform,
    /// Its manifest.
    pub manifest: Vec<u8>,
    /// Its configuration.
    pub config: Vec<u8>,
}

impl Registry {
    /// Reads an image with all that an index names, but for what nothing can run: attestations.
    pub async fn original(&self, image: &ImageReference) -> Result<Original, RegistryError> {
        Ok(self.with_access(image, async |access| self.original_by(image, &access).await).await?.0)
    }

    async fn original_by(&self, image: &ImageReference, access: &Access) -> Result<Original, RegistryError> {
        let fetched = self.fetch(image, access).await?;
        let reference = image.with_digest(fetched.digest);
        let Document::Index(entries) = &fetched.document else {
            let images = vec![self.original_image(&reference, fetched, access).await?];
            return Ok(Original { reference, index: None, images });
        };
        let mut images = Vec::new();
        for entry in entries.iter().filter(|entry| entry.is_runnable()) {
            let one = image.with_digest(entry.digest);
            let fetched = self.fetch(&one, access).await?;
            images.push(self.original_image(&one, fetched, access).await?);
        }
        Ok(Original { reference, index: Some(fetched.bytes), images })
    }

    async fn original_image(
        &self,
        reference: &ImageReference,
        fetched: Fetched,
        access: &Access,
    ) -> Result<OriginalImage, RegistryError> {
        let subject = Subject::manifest(reference);
        let invalid = |error: ManifestError| RegistryError::invalid(&subject, error.into());
        let Document::Image(manifest) = fetched.document else {
            return Err(invalid(ManifestError::Type("an index in an index".to_owned())));
        };
        manifest.check_layers().map_err(invalid)?;
        let config = self.config(reference, &manifest.config, access).await?;
        let platform = manifest::read_platform(&config).map_err(invalid)?;
        let image = PlatformImage::new(
            reference.clone(),
            fetched.digest,
            manifest,
            manifest::read_labels(&config),
            access.clone(),
        );
        Ok(OriginalImage { image, platform, manifest: fetched.bytes, config })
    }
}

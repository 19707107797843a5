//! All layers of an image, in temporary files.

use std::io;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};

use super::{PlatformImage, Registry, RegistryError};
use crate::layers::{Layer, Limits};

/// Layers of one image that are downloaded at the same time.
const PARALLEL: usize = 3;

/// Why an image's layers are not here.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry's answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// More bytes than are tolerated.
    #[error("the image's layers have {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Compressed bytes of all layers.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Our own disk.
    #[error("spool layers in {directory}")]
    Spool {
        /// Where.
        directory: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

impl Registry {
    /// Downloads an image's layers, the lowest first, to files in `directory` that have no name and go with their handles.
    pub async fn pull_layers(
        &self,
        image: &PlatformImage,
        directory: &Path,
        limits: &Limits,
    ) -> Result<Vec<Layer>, PullError> {
        let size = image.layers().iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
        if size > limits.compressed {
            return Err(PullError::TooLarge { size, limit: limits.compressed });
        }
        stream::iter(image.layers())
            .map(|descriptor| async move {
                let file = tempfile::tempfile_in(directory)
                    .map_err(|source| PullError::Spool { directory: directory.to_owned(), source })?;
                let file = self.pull_blob(image, descriptor, file).await?;
                Ok(Layer { digest: descriptor.digest, size: descriptor.size, file, shared: false })
            })
            .buffered(PARALLEL)
            .try_collect()
            .await
    }
}

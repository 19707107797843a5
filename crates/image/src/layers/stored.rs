//! A layer's bytes as they are stored, checked against its digest while they are read if that was not done before.

use std::fs::File;
use std::io::{self, Read, Seek as _};

use tenon_order::Hasher;

use super::{Layer, LayersError};

/// The bytes of a layer's file, from its beginning on.
pub(super) struct Stored<'a> {
    layer: &'a Layer,
    bytes: io::Take<&'a File>,
    /// Of what was read so far; none where nobody else can write to the file.
    hasher: Option<Hasher>,
}

impl<'a> Stored<'a> {
    pub(super) fn open(layer: &'a Layer) -> io::Result<Self> {
        (&layer.file).rewind()?;
        let hasher = layer.shared.then(Hasher::new);
        Ok(Self { layer, bytes: (&layer.file).take(layer.size), hasher })
    }

    /// Reads what is left and compares the digest of what was read, all in all, with the layer's.
    pub(super) fn check(mut self) -> Result<(), LayersError> {
        let layer = self.layer.digest;
        if self.hasher.is_some() {
            io::copy(&mut self, &mut io::sink()).map_err(|source| LayersError::Io { layer, source })?;
        }
        match self.hasher.map(Hasher::finish) {
            Some(found) if found != layer => Err(LayersError::Digest { layer, found }),
            _ => Ok(()),
        }
    }
}

impl Read for Stored<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.bytes.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(buffer.get(..got).unwrap_or_default());
        }
        Ok(got)
    }
}

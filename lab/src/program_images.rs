//! The images that the cluster's own pods run from: `FROM scratch`, one static program each, pushed to the lab's registry
//! without any builder; and images of plain files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tenon_image::keyring::Keyring;
use tenon_image::manifest::{OCI_CONFIG, OCI_MANIFEST};
use tenon_image::reference::ReferenceError;
use tenon_image::registry::{
    Blob, Proxies, Registry as Client, RegistryError, Timing, TlsSettings, Transport, TransportError,
};
use tenon_order::{Digest, Hasher};

use crate::command::{self, CommandError};
use crate::registry::Registry;
use crate::setup::Supplies;
use crate::worker::settings::PAUSE;

/// The OCI image specification's name for a layer that is not compressed: on an emulated processor that is the cheapest.
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct ProgramImage<'a> {
    /// The program on this machine, static.
    pub binary: &'a Path,
    /// Where it lies in the image, from the root.
    pub program: &'a str,
    /// What it is started with when a pod does not say it.
    pub arguments: &'a [&'a str],
    /// Labels of the image.
    pub labels: BTreeMap<&'a str, &'a str>,
}

/// Why an image is not in the registry.
#[derive(Debug, thiserror::Error)]
pub enum ProgramImageError {
    /// A file of it.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// strip.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The client.
    #[error("prepare the connection to the registry")]
    Transport(#[from] TransportError),
    /// The registry.
    #[error("push {image}")]
    Push {
        /// Which.
        image: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// A document of the image.
    #[error("write a document of the image")]
    Document(#[from] serde_json::Error),
    /// Work that ran aside.
    #[error("the work was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// A layer on disk.
struct Layer {
    file: File,
    digest: Digest,
    size: u64,
}

/// Pushes an image to a registry that speaks plain HTTP, under `registry/name:tag`; gives its digest.
pub async fn push(image: &ProgramImage<'_>, reference: &str) -> Result<Digest, ProgramImageError> {
    let (binary, path) = (image.binary.to_owned(), image.program.to_owned());
    let layer = tokio::task::spawn_blocking(move || layer(&binary, &path)).await??;
    let run = json!({ "Entrypoint": [image.program], "Cmd": image.arguments, "Labels": image.labels });
    push_layer(layer, &run, reference).await
}

/// Pushes an image that holds these files and no program, as [`push`] does.
pub async fn push_files(files: &[(&str, &[u8])], reference: &str) -> Result<Digest, ProgramImageError> {
    let path = Path::new(reference);
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = header(content.len() as u64, 0o644);
        archive.append_data(&mut header, name, *content).map_err(at("pack", path))?;
    }
    let bytes = archive.into_inner().map_err(at("pack", path))?;
    let file = tempfile::tempfile().map_err(at("create a file for", path))?;
    (&file).write_all(&bytes).map_err(at("write", path))?;
    let layer = Layer { file, digest: Digest::of(&bytes), size: bytes.len() as u64 };
    push_layer(layer, &json!({}), reference).await
}

async fn push_layer(layer: Layer, run: &Value, reference: &str) -> Result<Digest, ProgramImageError> {
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "digest": Digest::of(&config), "size": config.len() },
        "layers": [{ "mediaType": OCI_LAYER, "digest": layer.digest, "size": layer.size }],
    }))?;
    let blob = Blob::File { file: layer.file.into(), digest: layer.digest, size: layer.size };
    push_parts(reference, vec![blob, Blob::Bytes(config)], OCI_MANIFEST, &manifest).await
}

/// Pushes the image that holds a pod's namespaces, which sleeps, under the name that nodes' settings have.
pub(crate) async fn push_pause(supplies: &Supplies, registry: &Registry) -> Result<(), ProgramImageError> {
    let pause = ProgramImage {
        binary: &supplies.busybox,
        program: "/busybox",
        arguments: &["sleep", "2147483647"],
        labels: BTreeMap::new(),
    };
    push(&pause, &format!("{}/{PAUSE}", registry.host())).await.map(drop)
}

/// Pushes what a manifest names, and then the manifest, by plain HTTP.
pub(crate) async fn push_parts(
    reference: &str,
    blobs: Vec<Blob>,
    media_type: &str,
    manifest: &[u8],
) -> Result<Digest, ProgramImageError> {
    let to = reference.parse()?;
    let tls = TlsSettings { plain_http: true, skip_verify: false, authority: None };
    let transport = Transport::new(Proxies::from_variables(|_| None));
    let client = Client::new(&transport, &tls, Keyring::default(), Timing::default())?;
    let failed = |source| ProgramImageError::Push { image: reference.to_owned(), source: Box::new(source) };
    for blob in blobs {
        client.push_blob(&to, &blob).await.map_err(failed)?;
    }
    client.push_manifest(&to, media_type, manifest).await.map_err(failed)
}

/// The program without debugging information, which is most of it, as the only file of an archive.
fn layer(binary: &Path, path: &str) -> Result<Layer, ProgramImageError> {
    let stripped = tempfile::NamedTempFile::new().map_err(at("create a file beside", binary))?;
    command::run(Command::new("strip").arg("-o").arg(stripped.path()).arg(binary))?;
    let file = tempfile::NamedTempFile::new().map_err(at("create a file beside", binary))?;
    archive(stripped.path(), path, file.as_file()).map_err(at("pack", binary))?;
    let bytes = fs::read(file.path()).map_err(at("read", file.path()))?;
    let mut hasher = Hasher::new();
    hasher.update(&bytes);
    Ok(Layer { digest: hasher.finish(), size: bytes.len() as u64, file: file.into_file() })
}

/// Nothing in it depends on the machine or the time: equal programs make equal images.
fn archive(binary: &Path, path: &str, out: &File) -> io::Result<()> {
    let mut header = header(fs::metadata(binary)?.len(), 0o755);
    let mut archive = tar::Builder::new(out);
    archive.append_data(&mut header, path.trim_start_matches('/'), File::open(binary)?)?;
    archive.finish()
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ProgramImageError {
    let path = path.to_owned();
    move |source| ProgramImageError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_holds_the_program_alone_and_lets_everybody_run_it() {
        let busybox = command::find("true").unwrap();
        let (first, second) =
            (layer(&busybox, "/bin/program").unwrap(), layer(&busybox, "/bin/program").unwrap());
        assert_eq!(first.digest, second.digest);
        io::Seek::rewind(&mut &first.file).unwrap();
        let mut archive = tar::Archive::new(first.file);
        let entries: Vec<_> = archive.entries().unwrap().map(Result::unwrap).collect();
        let [entry] = entries.as_slice() else { panic!("{} files", entries.len()) };
        assert_eq!(entry.path().unwrap(), Path::new("bin/program"));
        assert_eq!(entry.header().mode().unwrap(), 0o755);
    }
}

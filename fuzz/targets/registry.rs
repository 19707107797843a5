//! What a registry, a builder's folder, a pull secret or a user says: manifests, indexes, configurations, credentials, names.
//! What is read names itself again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenon_image::keyring::{Keyring, SecretFormat};
use tenon_image::layout::{Contents, read_index, read_version};
use tenon_image::manifest::{Document, OCI_INDEX, OCI_MANIFEST, read_platform};
use tenon_image::platform::{check, select};
use tenon_image::{ImagePath, ImageReference};

fuzz_target!(|bytes: &[u8]| {
    let amd64 = "amd64".parse().expect("an architecture");
    for kind in [OCI_MANIFEST, OCI_INDEX, "", "application/vnd.docker.distribution.manifest.v2+json"] {
        match Document::read(bytes, kind) {
            Ok(Document::Image(manifest)) => {
                let _ = manifest.check_layers();
            }
            Ok(Document::Index(index)) => {
                let _ = select(&index, &amd64);
            }
            Err(_) => {}
        }
    }
    if let Ok(platform) = read_platform(bytes) {
        let _ = check(&platform, &amd64);
    }
    let _ = read_version(bytes);
    if let Ok(Contents::Platforms(index)) = read_index(bytes) {
        assert!(index.len() > 1, "one image needs no platform to be told apart");
    }
    let mut keyring = Keyring::default();
    for format in [SecretFormat::DockerConfigJson, SecretFormat::DockerCfg] {
        let _ = keyring.add(format, bytes);
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(path) = text.parse::<ImagePath>() {
        assert_eq!(path.as_str().parse::<ImagePath>().ok(), Some(path));
    }
    if let Ok(image) = text.parse::<ImageReference>() {
        assert_eq!(image.to_string().parse::<ImageReference>().ok().as_ref(), Some(&image));
        let _ = keyring.find(&image);
    }
});

//! The layers of a stranger's image, packed or not, one after the other behind `TENONLAYER`: a bundle or an error comes out,
//! and nothing stays behind.
#![no_main]

use std::fs;
use std::io::{Seek as _, Write as _};
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tenon_image::bundle::{BundleBuilder, BundleReader, BundleRequest};
use tenon_image::kernel::KernelImage;
use tenon_image::layers::{Layer, Limits};
use tenon_kmod::KernelRelease;
use tenon_order::Digest;

const MARK: &[u8] = b"TENONLAYER";

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir_in(memory()).expect("a folder");
    let limits =
        Limits { expanded: 4 << 20, module: 1 << 20, taken: 4 << 20, entries: 10_000, ..Limits::default() };
    let builder = BundleBuilder::new(folder.path().to_owned(), limits);
    match builder.pack(layers(bytes), &request(), folder.path()) {
        Ok(built) => {
            let file = fs::File::open(&built.file).expect("the bundle");
            let reader = BundleReader::open(file, &built.digest).expect("a bundle");
            reader.verify_rest().expect("a whole bundle");
        }
        Err(_) => assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0),
    }
    if let Ok(image) = KernelImage::open(layers(bytes)) {
        let release = KernelRelease::new("6.1.0").expect("a release");
        let _ = image.facts(&release, &"amd64".parse().expect("an architecture"));
    }
});

/// A folder that is no disk, where there is one.
fn memory() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}

fn request() -> BundleRequest {
    BundleRequest {
        image: "registry.test/driver:v1".parse().expect("a reference"),
        architecture: "amd64".parse().expect("an architecture"),
        kernel: "6.1.0".parse().expect("a release"),
        dir_name: "/opt".parse().expect("a path"),
        firmware_path: None,
    }
}

fn layers(bytes: &[u8]) -> Vec<Layer> {
    let mut layers = Vec::new();
    let mut rest = bytes;
    loop {
        let end = rest.windows(MARK.len()).position(|window| window == MARK);
        let bytes = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        let mut file = tempfile::tempfile_in(memory()).expect("a file");
        file.write_all(bytes).and_then(|()| file.rewind()).expect("a file");
        layers.push(Layer { digest: Digest::of(bytes), size: bytes.len() as u64, file, shared: false });
        match end.and_then(|end| rest.get(end + MARK.len()..)) {
            Some(more) if layers.len() < 16 => rest = more,
            _ => return layers,
        }
    }
}

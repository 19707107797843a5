//! Images, bundles and the files in them: what a registry serves, and how each driver behaves.
//!
//! There are two drivers, `gauge` and `meter`, which share the module `sensor_core`; five versions of each, of which
//! three are bad; and two kernels. A reference is `reg.test/<driver>:v<version>-<kernel>`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use tenon_order::{Digest, KmodName};

/// The kernels.
pub const KERNELS: [&str; 2] = ["6.1.0-10-amd64", "6.12.0-20-amd64"];
/// The drivers.
pub const DRIVERS: [&str; 2] = ["gauge", "meter"];
/// The module that both drivers need.
pub const SHARED: &str = "sensor_core";

/// How a module behaves when it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    /// It loads.
    Good,
    /// Its init function gives up.
    GivesUp,
    /// The kernel does not take it.
    Refused,
    /// It takes the node down.
    Panics,
}

/// One module's file.
#[derive(Debug)]
pub struct File {
    /// The module.
    pub name: KmodName,
    /// Of its bytes.
    pub digest: Digest,
    /// Its build id.
    pub build_id: String,
    /// The kernel that it was built for.
    pub kernel: &'static str,
    /// How it behaves.
    pub temper: Temper,
    /// The modules that it uses.
    pub needs: Vec<KmodName>,
}

/// One bundle, and the image that it is packed from.
#[derive(Debug)]
pub struct Bundle {
    /// Its name.
    pub digest: Digest,
    /// The image's digest.
    pub image: String,
    /// In the order of loading.
    pub files: Vec<File>,
    /// The kernel that it is for.
    pub kernel: &'static str,
    /// `driver`, `version`.
    pub of: (&'static str, u32),
}

impl Bundle {
    /// The driver's own module.
    pub fn main(&self) -> Option<&File> {
        self.files.last()
    }
}

/// Everything that was ever pushed.
pub fn bundles() -> &'static [Bundle] {
    static BUNDLES: LazyLock<Vec<Bundle>> = LazyLock::new(|| {
        let mut all = Vec::new();
        for driver in DRIVERS {
            for version in 1..=5 {
                all.extend(KERNELS.iter().filter_map(|kernel| bundle(driver, version, kernel)));
            }
        }
        all
    });
    &BUNDLES
}

fn bundle(driver: &'static str, version: u32, kernel: &'static str) -> Option<Bundle> {
    let temper = match version {
        3 => Temper::GivesUp,
        4 => Temper::Panics,
        5 => Temper::Refused,
        _ => Temper::Good,
    };
    let shared: KmodName = SHARED.parse().ok()?;
    let text = format!("{driver} {version} {kernel}");
    let core = File {
        name: shared.clone(),
        digest: Digest::of(format!("{SHARED} {kernel}").as_bytes()),
        build_id: format!("{SHARED}-{kernel}"),
        kernel,
        temper: Temper::Good,
        needs: Vec::new(),
    };
    let main = File {
        name: driver.parse().ok()?,
        digest: Digest::of(text.as_bytes()),
        build_id: text.clone(),
        kernel,
        temper,
        needs: vec![shared],
    };
    Some(Bundle {
        digest: Digest::of(format!("bundle {text}").as_bytes()),
        image: Digest::of(format!("image {text}").as_bytes()).to_string(),
        files: vec![core, main],
        kernel,
        of: (driver, version),
    })
}

/// The bundle of this name.
pub fn by_digest(digest: Digest) -> Option<&'static Bundle> {
    bundles().iter().find(|bundle| bundle.digest == digest)
}

/// The file with these bytes.
pub fn file(digest: Digest) -> Option<&'static File> {
    bundles().iter().flat_map(|bundle| &bundle.files).find(|file| file.digest == digest)
}

/// What a registry answers.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// This image, packed.
    Found(&'static Bundle),
    /// There is none.
    Absent,
    /// It is down.
    Silent,
}

/// One registry.
#[derive(Debug, Default)]
pub struct Registry {
    /// Whether it is down.
    pub down: bool,
    /// Tags that were moved to another version, or (`None`) away.
    pub moved: BTreeMap<String, Option<u32>>,
}

impl Registry {
    /// What a reference stands for now.
    pub fn ask(&self, reference: &str) -> Answer {
        if self.down {
            return Answer::Silent;
        }
        let known = || -> Option<&'static Bundle> {
            let (driver, tag) = reference.strip_prefix("reg.test/")?.split_once(':')?;
            let (version, kernel) = tag.strip_prefix('v')?.split_once('-')?;
            let version = match self.moved.get(reference) {
                Some(moved) => (*moved)?,
                None => version.parse().ok()?,
            };
            bundles().iter().find(|bundle| bundle.of == (driver, version) && bundle.kernel == kernel)
        };
        known().map_or(Answer::Absent, Answer::Found)
    }

    /// Whether the image with this digest can be read: a moved tag leaves it there.
    pub fn has(&self, image: &str) -> Option<&'static Bundle> {
        bundles().iter().find(|bundle| !self.down && bundle.image == image)
    }
}

//! The example drivers build for every kernel, and image content has the shape that module images have.

use std::path::Path;
use std::process::Command;

use tenon_lab::command::{self, CommandError};
use tenon_lab::drivers::{self, Driver, ImageContent, Recipe};
use tenon_lab::kernel::Origin;
use tenon_lab::setup::Supplies;

/// A field of a module, by the machine's modinfo.
fn modinfo(field: &str, file: &Path) -> Result<String, CommandError> {
    let program = command::find("modinfo").unwrap_or_else(|| "modinfo".into());
    command::text(Command::new(program).args(["-F", field]).arg(file))
}

#[test]
fn every_driver_builds_for_every_kernel() {
    let supplies = Supplies::get().unwrap();
    for kernel in supplies.kernels() {
        for driver in Driver::ALL.into_iter().chain(Driver::VENDORS) {
            for file in drivers::build(kernel, driver.into()).unwrap().files() {
                assert!(modinfo("vermagic", &file).unwrap().starts_with(&format!("{} ", kernel.release)));
                assert_eq!(modinfo("version", &file).unwrap().trim(), "1.0");
            }
        }
    }
}

#[test]
fn another_version_is_another_build() {
    let supplies = Supplies::get().unwrap();
    let kernel = supplies.kernel(Origin::Stable).unwrap();
    let recipe = Recipe { version: "2.0", ..Driver::SimpleProcfsKmod.into() };
    let built = drivers::build(kernel, recipe).unwrap();
    assert_eq!(modinfo("version", &built.files()[0]).unwrap().trim(), "2.0");
    assert_ne!(built, drivers::build(kernel, Driver::SimpleProcfsKmod.into()).unwrap());
}

#[test]
fn image_content_has_indexed_modules_and_firmware() {
    let supplies = Supplies::get().unwrap();
    let kernel = supplies.kernel(Origin::Backports).unwrap();
    let pair = drivers::build(kernel, Driver::Pair.into()).unwrap();
    let unknown = Recipe { unknown_symbol: true, ..Driver::Pair.into() };
    assert_ne!(pair, drivers::build(kernel, unknown).unwrap());
    let out = tempfile::tempdir().unwrap();
    ImageContent::new()
        .with(&kernel.release, &pair)
        .with_firmware("a/b.bin", b"x")
        .write(out.path())
        .unwrap();
    let folder = out.path().join("opt/lib/modules").join(&kernel.release);
    let dep = std::fs::read_to_string(folder.join("modules.dep")).unwrap();
    assert!(dep.contains("lab-client.ko: lab-core.ko"), "{dep}");
    assert_eq!(std::fs::read(out.path().join("lib/firmware/a/b.bin")).unwrap(), b"x");
}

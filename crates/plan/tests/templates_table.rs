//! `docs/templates.md` shows every variable for kernels of several distributions: the values are those that images get.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::fmt::Write as _;
use std::fs;

use tenon_api::{Module, ModuleSpec};
use tenon_kmod::release::KernelRelease;
use tenon_plan::resolve::variables;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/templates.md");

/// Who builds the kernel, and one of its releases.
const KERNELS: [(&str, &str); 6] = [
    ("RHEL", "4.18.0-348.23.1.el8_5.x86_64"),
    ("Fedora", "6.8.5-301.fc40.x86_64"),
    ("Debian", "6.1.0-56-amd64"),
    ("Debian", "6.12.95+deb12-cloud-amd64"),
    ("Ubuntu", "5.4.0-104-generic"),
    ("Flatcar", "6.6.30-flatcar"),
];

/// Every variable of an image's name, in the order of the page.
const VARIABLES: [&str; 15] = [
    "KERNEL_FULL_VERSION",
    "KERNEL_VERSION",
    "KERNEL_XYZ",
    "KERNEL_X",
    "KERNEL_Y",
    "KERNEL_Z",
    "KERNEL_RHEL_VERSION",
    "KERNEL_RHEL_RELEASE",
    "KERNEL_RHEL_ARCH",
    "KERNEL_DEBIAN_RELEASE",
    "KERNEL_DEBIAN_FLAVOR",
    "KERNEL_UBUNTU_RELEASE",
    "KERNEL_UBUNTU_FLAVOR",
    "MOD_NAME",
    "MOD_NAMESPACE",
];

/// One table for each kernel: the variables that it has.
fn rendered() -> String {
    let mut module = Module::new("gauge", ModuleSpec::default());
    module.metadata.namespace = Some("drivers".to_owned());
    let mut text = String::new();
    for (distribution, release) in KERNELS {
        let kernel = KernelRelease::new(release).expect("a release");
        let values = variables(&module, &kernel);
        let head = "| variable | value |\n| --- | --- |";
        writeln!(text, "### {distribution}: `{release}`\n\n{head}").expect("text grows");
        for (name, value) in VARIABLES.iter().filter_map(|name| Some((name, values.get(name)?))) {
            writeln!(text, "| `{name}` | `{value}` |").expect("text grows");
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_page_shows_the_values_that_images_get() {
    let page = fs::read_to_string(PAGE).expect("docs/templates.md");
    let wanted = rendered();
    let place = page.find("### ").map_or("", |at| &page[at..]);
    assert!(
        place.trim_end() == wanted.trim_end(),
        "replace the examples in docs/templates.md by:\n\n{wanted}"
    );
}

use rstest::rstest;

use super::*;
use crate::layers::corpus::{Archive, flatten};

const RELEASE: &str = "6.1.0-9-test";
const DEBIAN: &str = "usr/src/linux-headers-6.1.0-9-test";
const RHEL: &str = "usr/src/kernels/6.1.0-9-test";
const SYMVERS: &str = "0x00000007\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n";
const CONFIG: &str = "CONFIG_X86_64=y\nCONFIG_SMP=y\nCONFIG_MODVERSIONS=y\nCONFIG_MODULE_UNLOAD=y\n";

/// Headers as packages lay them out.
fn headers(archive: Archive, folder: &str, release: &str, config: &str) -> Archive {
    let release = format!("#define UTS_RELEASE \"{release}\"\n");
    archive
        .file(&format!("{folder}/Module.symvers"), SYMVERS)
        .file(&format!("{folder}/include/generated/utsrelease.h"), &release)
        .file(&format!("{folder}/include/config/kernel.release"), "6.1.176")
        .file(&format!("{folder}/.config"), config)
}

fn open(archive: Archive) -> KernelImage {
    KernelImage { files: flatten([Archive::default().directory("etc"), archive]).unwrap() }
}

fn facts(archive: Archive) -> Result<KernelFacts, KernelError> {
    open(archive).facts(&RELEASE.parse().unwrap(), &"amd64".parse().unwrap())
}

/// The error with its causes.
fn refusal(archive: Archive) -> String {
    let error = facts(archive).unwrap_err();
    assert_eq!(error.retry(), Retry::AfterChange, "{error}");
    let mut words = vec![error.to_string()];
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        words.push(error.to_string());
        source = error.source();
    }
    words.join(": ")
}

#[rstest]
#[case::debian(DEBIAN, None)]
#[case::rhel(RHEL, None)]
#[case::merged_usr("usr/src/odd", Some("usr/lib/modules/6.1.0-9-test/build"))]
#[case::behind_a_link("opt/kernel-obj", Some("lib/modules/6.1.0-9-test/build"))]
fn headers_are_found_where_distributions_have_them(#[case] folder: &str, #[case] link: Option<&str>) {
    let mut archive = headers(Archive::default(), folder, RELEASE, CONFIG);
    if let Some(link) = link {
        archive = archive.symlink(link, &format!("/{folder}"));
    }
    let facts = facts(archive).unwrap();
    assert_eq!(facts.exports["printk"].crc, Some(7));
    assert_eq!(facts.vermagic.unwrap().as_str(), "6.1.0-9-test SMP mod_unload modversions ");
    assert!(facts.complete && facts.sources.headers && !facts.sources.image);
}

#[test]
fn headers_of_another_kernel_or_machine_in_this_ones_place_are_refused() {
    let other = refusal(headers(Archive::default(), DEBIAN, "6.1.0-10-test", CONFIG));
    assert!(other.contains("is of kernel 6.1.0-10-test (amd64), not of 6.1.0-9-test (amd64)"), "{other}");
    let other = refusal(headers(Archive::default(), DEBIAN, RELEASE, "CONFIG_ARM64=y\n"));
    assert!(other.contains("6.1.0-9-test (arm64)"), "{other}");
}

#[rstest]
#[case("usr/src/linux-headers-6.1.0-9-test", "../../..", "leads out of the image")]
#[case("usr/src/kernels/6.1.0-9-test/Module.symvers", "../../../../../etc/passwd", "leads out of the image")]
#[case("lib/modules/6.1.0-9-test/build", "../6.1.0-9-test/build", "in a circle")]
#[case("boot/vmlinuz-6.1.0-9-test", "../../vmlinuz", "leads out of the image")]
fn links_that_lead_out_or_nowhere_ever_are_refused(
    #[case] link: &str,
    #[case] target: &str,
    #[case] said: &str,
) {
    let error = refusal(headers(Archive::default(), "usr/src/else", RELEASE, CONFIG).symlink(link, target));
    assert!(error.contains(said) && error.contains(RELEASE), "{error}");
}

#[test]
fn what_is_larger_than_any_file_of_its_kind_is_refused_unread() {
    let huge = vec![0; usize::try_from(FILE).unwrap() + 1];
    let archive = headers(Archive::default(), RHEL, RELEASE, CONFIG);
    let error = refusal(archive.entry(b'0', &format!("{RHEL}/vmlinux"), "", &huge));
    assert!(error.contains("/vmlinux in the image has 67108865 bytes"), "{error}");
    let half = &huge[..40 << 20];
    let archive =
        headers(Archive::default(), RHEL, RELEASE, CONFIG).entry(b'0', "boot/vmlinuz-6.1.0-9-test", "", half);
    let archive = archive.entry(b'0', &format!("{RHEL}/vmlinux"), "", half).entry(
        b'0',
        &format!("{RHEL}/include/config/auto.conf"),
        "",
        half,
    );
    assert!(refusal(archive).contains("of all that are read"));
}

#[test]
fn a_boot_image_that_is_none_is_refused_on_x86_and_not_looked_at_elsewhere() {
    let archive = |config| {
        headers(Archive::default(), RHEL, RELEASE, config).file("lib/modules/6.1.0-9-test/vmlinuz", "raw")
    };
    let error = refusal(archive(CONFIG));
    assert!(error.contains("/lib/modules/6.1.0-9-test/vmlinuz of the image"), "{error}");
    let arm = open(archive("CONFIG_ARM64=y\n")).facts(&RELEASE.parse().unwrap(), &"arm64".parse().unwrap());
    assert!(arm.unwrap().sources.headers);
}

#[test]
fn an_image_of_other_kernels_has_nothing_of_this_one() {
    let archive = headers(Archive::default(), "usr/src/kernels/6.1.0-10-test", "6.1.0-10-test", CONFIG)
        .symlink("lib/modules/6.1.0-9-test/build", "/usr/src/not-there")
        .file("lib/modules/6.1.0-9-test/kernel/text.ko", "no module");
    let error = refusal(archive);
    assert!(error.contains("nothing of kernel 6.1.0-9-test"), "{error}");
}

#[test]
fn the_kernels_own_modules_tell_what_headers_leave_open_and_others_do_not() {
    let own = in_tree("own");
    let archive =
        |path: &str| headers(Archive::default(), DEBIAN, RELEASE, CONFIG).entry(b'0', path, "", &own);
    let surveyed = facts(archive("lib/modules/6.1.0-9-test/kernel/own.ko")).unwrap();
    assert_eq!((surveyed.this_module_size, surveyed.sources.modules), (Some(64), true));
    let outside = facts(archive("lib/modules/6.1.0-9-test/updates/own.ko")).unwrap();
    assert_eq!((outside.this_module_size, outside.sources.modules), (None, false));
}

/// A module that says that it is the kernel's own.
fn in_tree(name: &str) -> Vec<u8> {
    let kernel = format!("{RELEASE} SMP mod_unload modversions \0intree=Y\0x=");
    crate::testing::module(62, name, &kernel)
}

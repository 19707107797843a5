use rstest::rstest;

use super::*;
use crate::fixture::{KERNEL, minimal_module, module};

fn kernel(release: &str) -> KernelRelease {
    release.parse().expect("a kernel release")
}

fn image(container: &str, release: &str) -> Result<String, ResolveError> {
    resolve(&module(container), &kernel(release)).map(|resolved| resolved.image)
}

#[rstest]
#[case::first_match_wins(
    "[{regexp: '^6', containerImage: 'a:1'}, {literal: 6.1.0-56-cloud-amd64, containerImage: 'a:2'}]",
    "a:1"
)]
#[case::literal_is_exact(
    "[{literal: 6.1.0-56, containerImage: 'a:1'}, {regexp: '.', containerImage: 'a:2'}]",
    "a:2"
)]
#[case::regexp_is_unanchored("[{regexp: 'cloud', containerImage: 'a:1'}]", "a:1")]
#[case::container_image_is_the_fallback("[{regexp: '.'}]", "c:6.1.0")]
fn the_first_mapping_that_fits_is_taken(#[case] mappings: &str, #[case] expected: &str) {
    let container = format!(
        "modprobe: {{moduleName: gauge}}\ncontainerImage: 'c:$KERNEL_XYZ'\nkernelMappings: {mappings}"
    );
    assert_eq!(image(&container, KERNEL).as_deref(), Ok(expected));
}

#[rstest]
#[case::debian("6.1.0-56-cloud-amd64", "${KERNEL_DEBIAN_RELEASE}/${KERNEL_DEBIAN_FLAVOR}", "56/cloud-amd64")]
#[case::old_debian("5.10.0-13-amd64", "${KERNEL_DEBIAN_RELEASE}/${KERNEL_DEBIAN_FLAVOR}", "13/amd64")]
#[case::ubuntu("5.4.0-104-generic", "${KERNEL_UBUNTU_RELEASE}/${KERNEL_UBUNTU_FLAVOR}", "104/generic")]
#[case::rhel(
    "4.18.0-348.23.1.el8_5.x86_64",
    "${KERNEL_RHEL_VERSION}/${KERNEL_RHEL_RELEASE}/${KERNEL_RHEL_ARCH}",
    "el8_5/348.23.1.el8_5/x86_64"
)]
#[case::numbers("4.18.0-348.23.1.el8_5.x86_64", "$KERNEL_X-$KERNEL_Y-$KERNEL_Z-$KERNEL_XYZ", "4-18-0-4.18.0")]
#[case::tag_alphabet("6.12.95+deb12-cloud-amd64", "$KERNEL_FULL_VERSION", "6.12.95_deb12-cloud-amd64")]
#[case::changed_tree("6.1.0-foo+", "$KERNEL_VERSION", "6.1.0-foo")]
#[case::names("6.1.0", "$MOD_NAMESPACE/$MOD_NAME", "lab/gauge")]
fn every_variable_has_its_value(#[case] release: &str, #[case] template: &str, #[case] expected: &str) {
    let container = format!(
        "modprobe: {{moduleName: gauge}}\ncontainerImage: 'r.test/{template}:1'\nkernelMappings: [{{regexp: '.'}}]"
    );
    assert_eq!(image(&container, release), Ok(format!("r.test/{expected}:1")));
}

#[rstest]
#[case::no_mapping(
    "containerImage: 'a:b'\nkernelMappings: [{literal: x}]",
    reasons::NO_MAPPING,
    "kernelMappings"
)]
#[case::no_image("kernelMappings: [{regexp: '.'}]", reasons::REFERENCE_INVALID, "kernelMappings[0]")]
#[case::regexp(
    "containerImage: 'a:b'\nkernelMappings: [{literal: x}, {regexp: '('}]",
    reasons::SPEC_INVALID,
    "kernelMappings[1].regexp"
)]
#[case::variable(
    "containerImage: 'a:$KERNEL_RHEL_ARCH'\nkernelMappings: [{regexp: '.'}]",
    reasons::REFERENCE_INVALID,
    "KERNEL_RHEL_ARCH"
)]
fn what_does_not_resolve_says_where_and_why(#[case] rest: &str, #[case] reason: &str, #[case] words: &str) {
    let error = image(&format!("modprobe: {{moduleName: gauge}}\n{rest}"), KERNEL).unwrap_err();
    assert_eq!(error.reason(), reason);
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn defect_18_a_kernel_with_a_trailing_plus_fits_a_mapping_without_it() {
    let container =
        "modprobe: {moduleName: gauge}\ncontainerImage: 'a:b'\nkernelMappings: [{literal: 5.4.1}]";
    assert_eq!(image(container, "5.4.1+").as_deref(), Ok("a:b"));
}

#[test]
fn defect_18_a_tag_has_no_plus_and_a_path_has_the_kernels_own_name() {
    let module = module(
        "modprobe: {moduleName: gauge}
containerImage: 'a:${KERNEL_FULL_VERSION}'
sign:
  keySecret: {name: k}
  certSecret: {name: c}
  unsignedImage: 'b:${KERNEL_FULL_VERSION}'
  filesToSign: ['/opt/lib/modules/${KERNEL_FULL_VERSION}/*.ko']
kernelMappings: [{regexp: '.'}]",
    );
    let resolved = resolve(&module, &kernel("6.12.95+deb12-amd64")).unwrap();
    let sign = resolved.sign.unwrap();
    assert_eq!(resolved.image, "a:6.12.95_deb12-amd64");
    assert_eq!(sign.unsigned_image.as_deref(), Some("b:6.12.95_deb12-amd64"));
    assert_eq!(sign.files_to_sign, ["/opt/lib/modules/6.12.95+deb12-amd64/*.ko"]);
}

#[test]
fn defect_14_a_mappings_build_is_merged_field_by_field() {
    let resolved = resolve(
        &module(
            "modprobe: {moduleName: gauge}
containerImage: 'a:b'
build:
  dockerfileConfigMap: {name: base}
  buildArgs: [{name: A, value: '1'}, {name: B, value: '2'}]
  secrets: [{name: s1}]
  selector: {disk: ssd}
kernelMappings:
- regexp: '.'
  build:
    dockerfileConfigMap: {name: other}
    buildArgs: [{name: B, value: '3'}, {name: C, value: '4'}]
    secrets: [{name: s2}]
    kanikoParams: {tag: v9}
    baseImageRegistryTLS: {insecure: true}",
        ),
        &kernel(KERNEL),
    )
    .unwrap();
    let build = resolved.build.unwrap();
    let args: Vec<_> = build.build_args.iter().map(|arg| format!("{}={}", arg.name, arg.value)).collect();
    assert_eq!(args, ["A=1", "B=3", "C=4"]);
    assert_eq!(build.dockerfile_config_map.unwrap().name, "other");
    assert_eq!(build.secrets.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(), ["s1", "s2"]);
    assert!(build.base_image_registry_tls.unwrap().insecure);
    assert_eq!(build.kaniko_params.unwrap().tag.as_deref(), Some("v9"));
    assert_eq!(build.selector.get("disk").map(String::as_str), Some("ssd"));
}

#[test]
fn defect_14_a_mappings_signing_is_merged_and_its_templates_expanded() {
    let resolved = resolve(
        &module(
            "modprobe: {moduleName: gauge}
containerImage: 'r.test/a:b'
sign:
  keySecret: {name: k}
  certSecret: {name: c}
  unsignedImage: '${CONTAINER_IMAGE}-unsigned'
  filesToSign: ['/opt/lib/modules/${KERNEL_FULL_VERSION}/a.ko']
kernelMappings:
- regexp: '.'
  sign: {keySecret: {name: k2}, certSecret: {name: ''}, unsignedImageRegistryTLS: {insecure: true}, filesToSign: ['/opt/b.ko']}",
        ),
        &kernel(KERNEL),
    )
    .unwrap();
    let sign = resolved.sign.unwrap();
    assert_eq!((sign.key_secret.name.as_str(), sign.cert_secret.name.as_str()), ("k2", "c"));
    assert_eq!(sign.unsigned_image.as_deref(), Some("r.test/a:b-unsigned"));
    assert_eq!(sign.files_to_sign, [format!("/opt/lib/modules/{KERNEL}/a.ko"), "/opt/b.ko".to_owned()]);
    assert!(sign.unsigned_image_registry_tls.unwrap().insecure);
}

#[rstest]
#[case::mapping_wins("[{regexp: '.', inTreeModulesToRemove: [x, y]}]", &["x", "y"])]
#[case::empty_list_counts("[{regexp: '.', inTreeModulesToRemove: []}]", &[])]
#[case::single("[{regexp: '.', inTreeModuleToRemove: z}]", &["z"])]
#[case::container("[{regexp: '.'}]", &["a", "b"])]
fn in_tree_modules_come_from_the_mapping_first(#[case] mappings: &str, #[case] expected: &[&str]) {
    let container = format!(
        "modprobe: {{moduleName: gauge}}\ncontainerImage: 'a:b'\ninTreeModulesToRemove: [a, b]\nkernelMappings: {mappings}"
    );
    let resolved = resolve(&module(&container), &kernel(KERNEL)).unwrap();
    assert_eq!(resolved.in_tree_to_remove, expected);
}

#[test]
fn raw_arguments_say_everything() {
    let resolved = resolve(
        &module(
            "modprobe: {rawArgs: {load: [-v, -d, /drivers, gauge, a=1, b=2], unload: [-rd, /drivers, gauge]}}
containerImage: 'a:b'
kernelMappings: [{regexp: '.'}]",
        ),
        &kernel(KERNEL),
    )
    .unwrap();
    assert_eq!(resolved.load.module.as_ref(), "gauge");
    assert_eq!(resolved.load.parameters, ["a=1", "b=2"]);
    assert_eq!(resolved.load.dir_name, "/drivers");
}

#[test]
fn raw_arguments_with_two_modules_are_refused() {
    let error = resolve(
        &module("modprobe: {rawArgs: {load: [a, b, c=1], unload: [a]}}\ncontainerImage: 'a:b'\nkernelMappings: [{regexp: '.'}]"),
        &kernel(KERNEL),
    )
    .unwrap_err();
    assert_eq!(error, ResolveError::RawModules(2));
}

#[test]
fn a_module_without_a_loader_has_nothing_to_load() {
    let mut module = minimal_module();
    module.spec.module_loader = None;
    assert_eq!(resolve(&module, &kernel(KERNEL)), Err(ResolveError::NoModuleLoader));
}

/// Each would be refused where it is written down: in the node's order, for all its Modules, or in the image's object, for ever.
#[rstest]
#[case::control("parameters: [\"a=b\\n\"]", "modprobe.parameters must")]
#[case::empty("parameters: ['']", "modprobe.parameters must")]
#[case::page(&format!("parameters: ['{}']", "a".repeat(4096)), "modprobe.parameters must")]
#[case::directory(&format!("args: {{load: ['-d', '/{}']}}", "a".repeat(1024)), "modprobe.dirName has")]
#[case::configuration("modprobedDir: /etc/modprobe.d", "modprobedDir is not read")]
fn what_no_order_can_hold_is_told_of_the_module_that_says_it(#[case] modprobe: &str, #[case] names: &str) {
    let container = format!(
        "modprobe: {{moduleName: gauge, {modprobe}}}\nkernelMappings: [{{regexp: '.', containerImage: 'a:1'}}]"
    );
    let error = resolve(&module(&container), &kernel(KERNEL)).unwrap_err();
    assert_eq!(error.reason(), reasons::SPEC_INVALID);
    assert!(error.to_string().contains(names), "{error}");
}

#[rstest]
#[case::raw("modprobe: {rawArgs: {load: [gauge, \"a=\\n\"], unload: [gauge]}}", "a:1", "rawArgs.load must")]
#[case::nothing("modprobe: {moduleName: gauge}", "${NOBODY+:}", "containerImage is empty")]
#[case::much("modprobe: {moduleName: gauge}", &format!("a:{}", "$KERNEL_VERSION".repeat(130)), "containerImage has")]
fn what_is_too_much_once_it_is_read_is_named(
    #[case] modprobe: &str,
    #[case] image: &str,
    #[case] names: &str,
) {
    let container = format!("{modprobe}\nkernelMappings: [{{regexp: '.', containerImage: '{image}'}}]");
    let error = resolve(&module(&container), &kernel(KERNEL)).unwrap_err();
    assert_eq!(error.reason(), reasons::SPEC_INVALID);
    assert!(error.to_string().contains(names), "{error}");
}

#[test]
fn lists_are_as_long_as_an_order_takes() {
    let names: Vec<_> = (0..129).map(|number| format!("m{number}")).collect();
    let container = format!(
        "modprobe: {{moduleName: gauge}}\ninTreeModulesToRemove: [{}]\nkernelMappings: [{{regexp: '.', containerImage: 'a:1'}}]",
        names.join(", ")
    );
    let error = resolve(&module(&container), &kernel(KERNEL)).unwrap_err();
    assert!(error.to_string().contains("inTreeModulesToRemove names more than 128"), "{error}");
}

#[test]
fn no_directory_is_the_images_root() {
    let container =
        "modprobe: {moduleName: gauge, dirName: ''}\nkernelMappings: [{regexp: '.', containerImage: 'a:1'}]";
    assert_eq!(resolve(&module(container), &kernel(KERNEL)).unwrap().load.dir_name, "/");
}

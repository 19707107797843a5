use proptest::prelude::*;
use rstest::rstest;

use super::*;

/// What other modules and the system say meanwhile.
const NOISE: [&str; 9] = [
    "other: Unknown symbol other_symbol (err -2)",
    "other: disagrees about version of symbol module_layout",
    "other: version magic '5.0 SMP ' should be '6.1 SMP '",
    "other: `x' invalid for parameter `y'",
    "lab_driver_2: exports duplicate symbol s (owned by t)",
    "Module other is blacklisted",
    "e1000e 0000:00:1f.6: Direct firmware load for e1000.bin failed with error -110",
    "audit: type=1400 op=appraise_data res=1",
    "usb 1-1: new high-speed USB device number 2 using xhci_hcd",
];

fn classify_with(errno: Errno, said: &[&str], change: impl Fn(&mut Attempt<'_>)) -> LoadFailure {
    let line = |text: &&str| LogLine { severity: Some(4), timestamp: Some(1), text: (*text).to_owned() };
    // The lines in question stand among the others'.
    let (before, after) = NOISE.split_at(5);
    let lines: Vec<LogLine> = before.iter().chain(said).chain(after).map(line).collect();
    let module = ModuleName::new("lab-driver").unwrap();
    let mut attempt = Attempt {
        module: &module,
        errno,
        lines: &lines,
        firmware: &[],
        modules_disabled: false,
        capable: true,
    };
    change(&mut attempt);
    LoadFailure::classify(&attempt)
}

fn classify(errno: Errno, said: &[&str]) -> LoadFailure {
    classify_with(errno, said, |_| {})
}

fn version(symbol: &str) -> Reason {
    Reason::SymbolVersion { symbol: symbol.into() }
}

fn unknown(names: &[&str]) -> Reason {
    Reason::UnknownSymbol { names: names.iter().map(|&name| name.into()).collect() }
}

#[rstest]
#[case::already_loaded(Errno::EEXIST, &[], Reason::AlreadyLoaded)]
#[case::vermagic(
    Errno::ENOEXEC,
    &["lab_driver: version magic '6.1.0-55 SMP mod_unload ' should be '6.1.0-56 SMP mod_unload '"],
    Reason::VermagicMismatch { module: "6.1.0-55 SMP mod_unload".into(), kernel: "6.1.0-56 SMP mod_unload".into() }
)]
#[case::structure_size(
    Errno::ENOEXEC,
    &["module lab_driver: .gnu.linkonce.this_module section size must match the kernel's built struct module size at run time"],
    Reason::StructModuleSize
)]
#[case::layout(Errno::ENOEXEC, &["lab_driver: disagrees about version of symbol module_layout"], version("module_layout"))]
#[case::symbol_version(
    Errno::EINVAL,
    &["lab_driver: disagrees about version of symbol param_ops_int", "lab_driver: Unknown symbol param_ops_int (err -22)"],
    version("param_ops_int")
)]
#[case::unknown_symbols(
    Errno::ENOENT,
    &["lab_driver: Unknown symbol lab_open (err -2)", "lab_driver: Unknown symbol lab_close (err -2)"],
    unknown(&["lab_open", "lab_close"])
)]
#[case::the_last_symbol_decides_missing(
    Errno::ENOENT,
    &[
        "lab_driver: disagrees about version of symbol a",
        "lab_driver: Unknown symbol a (err -22)",
        "lab_driver: Unknown symbol b (err -2)",
    ],
    unknown(&["b"])
)]
#[case::the_last_symbol_decides_version(
    Errno::EINVAL,
    &["lab_driver: Unknown symbol b (err -2)", "lab_driver: disagrees about version of symbol a", "lab_driver: Unknown symbol a (err -22)"],
    version("a")
)]
#[case::proprietary(
    Errno::ENOENT,
    &[
        "lab_driver: module using GPL-only symbols uses symbols lab_open from proprietary module lab_shut.",
        "lab_driver: Unknown symbol lab_open (err -2)",
    ],
    Reason::ProprietarySymbols { owner: "lab_shut".into() }
)]
#[case::namespace(
    Errno::EINVAL,
    &[
        "lab_driver: module uses symbol (lab_ns_open) from namespace LAB, but does not import it.",
        "lab_driver: Unknown symbol lab_ns_open (err -22)",
    ],
    Reason::NamespaceNotImported { symbol: "lab_ns_open".into(), namespace: "LAB".into() }
)]
#[case::duplicate(
    Errno::ENOEXEC,
    &["lab_driver: exports duplicate symbol lab_open (owned by lab_core)"],
    Reason::DuplicateSymbol { symbol: "lab_open".into(), owner: "lab_core".into() }
)]
#[case::text_file(Errno::ENOEXEC, &["Invalid ELF header magic: != \u{7f}ELF"], Reason::InvalidFormat)]
#[case::cut_off(Errno::ENOEXEC, &["Invalid ELF section header overflow"], Reason::InvalidFormat)]
#[case::other_machine(Errno::ENOEXEC, &["Invalid architecture in ELF header: 183"], Reason::InvalidFormat)]
#[case::executable(Errno::ENOEXEC, &["Invalid ELF header type: 2 != 1"], Reason::InvalidFormat)]
#[case::no_module(Errno::ENOEXEC, &["lab_driver: No module found in object"], Reason::InvalidFormat)]
#[case::packed(Errno::ENOEXEC, &[], Reason::InvalidFormat)]
#[case::empty(Errno::EINVAL, &["Invalid ELF header len 0"], Reason::InvalidFormat)]
#[case::relocation(Errno::ENOEXEC, &["module: overflow in relocation type 10 val ffff"], Reason::InvalidFormat)]
#[case::parameter(
    Errno::EINVAL,
    &["lab_driver: unknown parameter 'nosuch' ignored", "lab_driver: `abc' invalid for parameter `count'"],
    Reason::InvalidParameter { parameter: "count".into(), value: "abc".into() }
)]
#[case::parameter_out_of_range(
    Errno::ERANGE,
    &["lab_driver: `99999999999' invalid for parameter `count'"],
    Reason::InvalidParameter { parameter: "count".into(), value: "99999999999".into() }
)]
#[case::parameter_too_long(
    Errno::ENOSPC,
    &["lab_driver: `aaaaaaaaa' too large for parameter `label'"],
    Reason::InvalidParameter { parameter: "label".into(), value: "aaaaaaaaa".into() }
)]
#[case::too_many_items(
    Errno::EINVAL,
    &["list: can only take 4 arguments", "lab_driver: `1,2,3,4,5' invalid for parameter `list'"],
    Reason::InvalidParameter { parameter: "list".into(), value: "1,2,3,4,5".into() }
)]
#[case::type_information(Errno::EINVAL, &["failed to validate module [lab_driver] BTF: -22"], Reason::TypeInformation)]
#[case::blacklisted(Errno::EPERM, &["Module lab_driver is blacklisted"], Reason::Blacklisted)]
#[case::unsigned(
    Errno::EKEYREJECTED,
    &["Loading of unsigned module is rejected"],
    Reason::SignatureRejected { found: Some("unsigned module".into()) }
)]
#[case::other_key(
    Errno::EKEYREJECTED,
    &["Loading of module with unavailable key is rejected"],
    Reason::SignatureRejected { found: Some("module with unavailable key".into()) }
)]
#[case::body_changed(Errno::EKEYREJECTED, &[], Reason::SignatureRejected { found: None })]
#[case::broken_signature(Errno::EBADMSG, &[], Reason::SignatureRejected { found: None })]
#[case::lockdown(
    Errno::EPERM,
    &["Lockdown: tenon-loader: unsigned module loading is restricted; see man kernel_lockdown.7"],
    Reason::Lockdown { restricted: "unsigned module loading".into() }
)]
#[case::ima(
    Errno::EACCES,
    &["audit: type=1800 audit(1.2:3): pid=7 op=appraise_data cause=IMA-signature-required comm=\"x\" name=\"/a.ko\" res=0 errno=0"],
    Reason::ImaAppraisal
)]
#[case::ima_without_a_file(
    Errno::EACCES,
    &["ima: impossible to appraise a module without a file descriptor. sig_enforce kernel parameter might help"],
    Reason::ImaAppraisal
)]
#[case::selinux(
    Errno::EACCES,
    &["audit: type=1400 audit(1.2:3): avc:  denied  { module_load } for  pid=7 comm=\"x\" scontext=a tcontext=b tclass=system"],
    Reason::SecurityModule
)]
#[case::loadpin(Errno::EPERM, &["LoadPin: kernel-module denied obj=\"/a.ko\" pid=7 cmdline=\"x\""], Reason::SecurityModule)]
#[case::denied_in_silence(Errno::EACCES, &[], Reason::SecurityModule)]
#[case::firmware_of_a_device_of_that_name(
    Errno::ETIMEDOUT,
    &["misc lab_driver: Direct firmware load for lab/a.bin failed with error -2"],
    Reason::FirmwareMissing { name: "lab/a.bin".into() }
)]
#[case::firmware_with_the_same_error(
    Errno::ENOENT,
    &["pci 0000:00:03.0: Direct firmware load for lab/a.bin failed with error -2"],
    Reason::FirmwareMissing { name: "lab/a.bin".into() }
)]
#[case::firmware_on_debian(
    Errno::ENOENT,
    &["lab_driver 0000:00:03.0: firmware: failed to load lab/b.bin (-2)"],
    Reason::FirmwareMissing { name: "lab/b.bin".into() }
)]
#[case::no_device(Errno::ENODEV, &["lab_driver: no device found"], Reason::InitFailed { errno: Errno::ENODEV })]
#[case::init_said_no_entry(Errno::ENOENT, &[], Reason::InitFailed { errno: Errno::ENOENT })]
#[case::init_said_invalid(Errno::EINVAL, &["lab_driver: loading out-of-tree module taints kernel."], Reason::InitFailed { errno: Errno::EINVAL })]
#[case::init_said_not_permitted(Errno::EPERM, &[], Reason::InitFailed { errno: Errno::EPERM })]
#[case::unheard_of(Errno(4095), &[], Reason::InitFailed { errno: Errno(4095) })]
fn each_refusal_is_told_from_the_others(
    #[case] errno: Errno,
    #[case] said: &[&str],
    #[case] expected: Reason,
) {
    let failure = classify(errno, said);
    assert_eq!(failure.reason, expected);
    assert!(failure.to_string().starts_with("lab_driver did not load: "), "{failure}");
    let strangers = NOISE.iter().any(|line| failure.kernel_says.iter().any(|words| words == line));
    assert!(!strangers, "{failure}");
}

#[test]
fn switches_of_the_node_explain_a_silent_refusal() {
    let disabled = classify_with(Errno::EPERM, &[], |attempt| attempt.modules_disabled = true);
    assert_eq!(disabled.reason, Reason::ModulesDisabled);
    let incapable = classify_with(Errno::EPERM, &[], |attempt| attempt.capable = false);
    assert_eq!(incapable.reason, Reason::NoCapability);
}

#[test]
fn a_firmware_file_that_the_module_names_is_its_own() {
    let said = ["eth0: Direct firmware load for lab/a.bin failed with error -2"];
    let own = ["lab/a.bin".to_owned()];
    assert_eq!(classify(Errno::ENODEV, &said).reason, Reason::InitFailed { errno: Errno::ENODEV });
    let line = LogLine::parse(said[0]);
    let module = ModuleName::new("lab_driver").unwrap();
    let attempt = Attempt {
        module: &module,
        errno: Errno::ENODEV,
        lines: &[line],
        firmware: &own,
        modules_disabled: false,
        capable: true,
    };
    assert_eq!(LoadFailure::classify(&attempt).reason, Reason::FirmwareMissing { name: "lab/a.bin".into() });
}

#[test]
fn the_message_is_one_line_with_the_kernels_words() {
    let failure = classify(Errno::ENOENT, &["lab_driver: Unknown symbol lab_open (err -2)"]);
    assert_eq!(
        failure.to_string(),
        "lab_driver did not load: it needs lab_open, which neither the kernel nor a loaded module offers (another kernel, a \
         missing dependency, or a symbol for GPL modules only) [ENOENT]; the kernel says: \"lab_driver: Unknown symbol lab_open \
         (err -2)\""
    );
    let failure =
        classify(Errno::ENODEV, &["lab_driver: no device on bus 7", "lab_driver 0000:00:01.0: giving up"]);
    assert_eq!(
        failure.to_string(),
        "lab_driver did not load: its init failed (ENODEV: no such device); the kernel says: \
         \"lab_driver: no device on bus 7\", \"lab_driver 0000:00:01.0: giving up\""
    );
}

proptest! {
    #[test]
    fn no_line_panics(errno in -10..5000, lines in prop::collection::vec("(m: |Loading of |Unknown symbol |\\(err |Lockdown: |`|' |: Direct firmware load for | failed with error |-?[0-9]{1,10}|[a-z)(.])*", 0..5)) {
        let module = ModuleName::new("m").unwrap();
        let lines: Vec<LogLine> = lines.iter().map(|line| LogLine::parse(line)).collect();
        let attempt =
            Attempt { module: &module, errno: Errno(errno), lines: &lines, firmware: &[], modules_disabled: false, capable: true };
        prop_assert!(!LoadFailure::classify(&attempt).to_string().contains('\n'));
    }
}

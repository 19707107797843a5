//! `kubectl tenon check` and `facts` as a person runs them.

#![expect(clippy::unwrap_used, reason = "what a test is made of may fail like the test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tenon_image::testing::module;
use tenon_kmod::object::Architecture;
use tenon_kmod::vermagic::VerMagic;
use tenon_kmod::{KernelFacts, KernelRelease};

/// A kernel into which the test's module loads by force: it has no checksums.
fn kernel() -> KernelFacts {
    let mut facts = KernelFacts::new(KernelRelease::new("6.1.0-9-test").unwrap(), Architecture::Amd64);
    facts.vermagic = Some(VerMagic::new("6.1.0-9-test SMP mod_unload modversions "));
    facts.modversions = Some(true);
    facts.this_module_size = Some(64);
    facts.complete = true;
    facts.policy.force_load = Some(true);
    facts
}

struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    /// With one module, `dummy.ko`.
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(desk.path("dummy.ko"), module(62, "dummy", "6.1.0-9-test")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn facts(&self, facts: &KernelFacts) {
        fs::write(self.path("facts"), facts.encode()).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output: Output = Command::new(env!("CARGO_BIN_EXE_kubectl-tenon"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

#[test]
fn the_exit_code_is_the_answer() {
    let desk = Desk::new();
    let check = |facts: &KernelFacts| {
        desk.facts(facts);
        desk.run(&["check", "dummy.ko", "--kernel", "facts"])
    };
    let (code, said, _) = check(&kernel());
    assert_eq!((code, said.lines().next()), (Some(0), Some("dummy.ko: loads into 6.1.0-9-test")));
    let other = KernelFacts { vermagic: Some(VerMagic::new("6.1.0-9-test ")), ..kernel() };
    let (code, said, _) = check(&other);
    assert_eq!(code, Some(1));
    assert!(said.starts_with("dummy.ko: does not load into 6.1.0-9-test: ENOEXEC\n"), "{said}");
    assert!(said.contains("  VermagicMismatch: version magic '") && said.contains("    to do: "), "{said}");
    let (code, said, _) = check(&KernelFacts { this_module_size: None, ..kernel() });
    assert_eq!(code, Some(3), "{said}");
    let (code, said, complaint) = desk.run(&["check", "dummy.ko", "--kernel", "dummy.ko"]);
    assert_eq!((code, said.as_str()), (Some(2), ""), "{complaint}");
}

#[test]
fn programs_get_the_same_as_json() {
    let desk = Desk::new();
    fs::write(desk.path("text.ko"), "no module").unwrap();
    desk.facts(&kernel());
    let (code, said, _) = desk.run(&["check", ".", "--kernel", "facts", "-o", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &answer["kernel"]["release"]), (Some(1), &"6.1.0-9-test".into()));
    let verdicts: Vec<&str> =
        (0..2).map(|index| answer["modules"][index]["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["Loads", "Fails"]);
    assert_eq!(answer["modules"][1]["errnoName"], "ENOEXEC");
    assert_eq!(answer["modules"][1]["reasons"][0]["name"], "InvalidFormat");
}

#[test]
fn what_the_command_line_assumes_of_the_node_counts() {
    let desk = Desk::new();
    desk.facts(&kernel());
    let code = |more: &[&str]| desk.run(&[&["check", "dummy.ko", "--kernel", "facts"], more].concat()).0;
    assert_eq!(code(&["--sig-enforce"]), Some(1));
    assert_eq!(code(&["--lockdown"]), Some(1));
    assert_eq!(code(&["--param", "nosuch=1"]), Some(0));
    assert_eq!(code(&["--param", "=1"]), Some(2));
    assert_eq!(code(&["dummy.ko", "--param", "a=1"]), Some(2));
}

fn write_headers(folder: &Path) {
    fs::create_dir_all(folder.join("include/generated")).unwrap();
    fs::write(folder.join("Module.symvers"), "0x00000001\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n").unwrap();
    fs::write(folder.join("include/generated/utsrelease.h"), "#define UTS_RELEASE \"6.1.0-9-test\"\n")
        .unwrap();
    let config =
        "CONFIG_X86_64=y\nCONFIG_SMP=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_MODVERSIONS=y\nCONFIG_MODULE_SIG=y\n";
    fs::write(folder.join(".config"), config).unwrap();
}

#[test]
fn headers_are_a_kernel_and_become_a_file() {
    let desk = Desk::new();
    write_headers(&desk.path("headers"));
    let (code, said, complaint) = desk.run(&["facts", "headers", "-o", "written"]);
    assert_eq!(code, Some(0), "{complaint}");
    assert!(said.contains("kernel          6.1.0-9-test (amd64)\n"), "{said}");
    assert!(said.contains("version magic   6.1.0-9-test SMP mod_unload modversions\n"), "{said}");
    let written = KernelFacts::decode(&fs::read(desk.path("written")).unwrap()).unwrap();
    assert!(written.sources.headers && written.exports.contains_key("printk"));
    assert_eq!(desk.run(&["facts", "headers/Module.symvers"]).1, said);
    assert_eq!(desk.run(&["facts", "written"]).1, said);
}

#[test]
fn a_directory_of_modules_is_a_kernel_of_which_not_all_is_known() {
    let desk = Desk::new();
    let folder = desk.path("lib/modules/6.1.0-9-test");
    fs::create_dir_all(folder.join("kernel")).unwrap();
    write_headers(&folder.join("build"));
    let (code, said, complaint) = desk.run(&["facts", "lib/modules/6.1.0-9-test"]);
    assert_eq!(code, Some(0), "{complaint}");
    assert!(said.contains("from            headers\n"), "{said}");
    fs::remove_dir_all(folder.join("build")).unwrap();
    let (code, _, complaint) = desk.run(&["facts", "lib/modules/6.1.0-9-test"]);
    assert!(code == Some(1) && complaint.contains("no Module.symvers, no vmlinuz"), "{complaint}");
}

//! `kubectl tenon sign` as a person runs it.

#![expect(clippy::unwrap_used, reason = "what a test is made of may fail like the test")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tenon_image::testing::module;
use tenon_sign::{Certificate, Hash, Verdict, verify};

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sign/testdata");

struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    /// With two modules in `drivers`.
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(desk.path("drivers/net")).unwrap();
        fs::write(desk.path("drivers/one.ko"), module(62, "one", "6.1.0-9-test")).unwrap();
        fs::write(desk.path("drivers/net/two.ko"), module(62, "two", "6.1.0-9-test")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sign(&self, key: &str, certificate: &str, more: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-tenon"))
            .args(["sign", "--key", &format!("{KEYS}/{key}"), "--cert", &format!("{KEYS}/{certificate}")])
            .args(more)
            .current_dir(self.folder.path())
            .env_clear()
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn verdict(&self, file: &str) -> Verdict {
        let trusted = ["rsa.pem", "p384.pem"]
            .map(|name| Certificate::read(&fs::read(format!("{KEYS}/{name}")).unwrap()).unwrap());
        verify(&fs::read(self.path(file)).unwrap(), &trusted)
    }
}

#[test]
fn modules_are_signed_where_they_are_and_once() {
    let desk = Desk::new();
    let (code, out, _) = desk.sign("rsa.key", "rsa.pem", &["drivers"]);
    assert_eq!((code, out.as_str()), (Some(0), "signed drivers/net/two.ko\nsigned drivers/one.ko\n"));
    assert_eq!(desk.verdict("drivers/one.ko"), Verdict::Good { certificate: 0, hash: Hash::Sha256 });
    let before = fs::read(desk.path("drivers/one.ko")).unwrap();
    let (code, out, _) = desk.sign("rsa.key", "rsa.pem", &["drivers/one.ko"]);
    assert_eq!((code, out.as_str()), (Some(0), "was signed drivers/one.ko\n"));
    assert_eq!(fs::read(desk.path("drivers/one.ko")).unwrap(), before);
}

#[test]
fn signed_modules_go_where_they_are_wanted() {
    let desk = Desk::new();
    let arguments = ["--hash", "sha512", "--output", "signed", "drivers"];
    let (code, out, _) = desk.sign("p384.key", "p384.pem", &arguments);
    assert_eq!((code, out.as_str()), (Some(0), "signed signed/net/two.ko\nsigned signed/one.ko\n"));
    assert_eq!(desk.verdict("signed/net/two.ko"), Verdict::Good { certificate: 1, hash: Hash::Sha512 });
    assert_eq!(desk.verdict("drivers/net/two.ko"), Verdict::Unsigned);
}

#[test]
fn where_one_thing_is_wrong_nothing_is_written() {
    let desk = Desk::new();
    fs::write(desk.path("drivers/readme.ko"), "no module").unwrap();
    fs::create_dir(desk.path("empty")).unwrap();
    fs::write(desk.path("one.ko"), module(62, "one", "6.1.0-9-test")).unwrap();
    for (key, certificate, files, message) in [
        ("rsa.key", "rsa.pem", &["drivers"][..], "sign drivers/readme.ko: "),
        ("rsa.key", "p384.pem", &["drivers"], "does not belong to the certificate of CN=Tenon test P-384"),
        ("rsa.pem", "rsa.pem", &["drivers"], "no private key"),
        ("rsa.key", "rsa.key", &["drivers"], "no X.509 certificate"),
        ("nothing", "rsa.pem", &["drivers"], "testdata/nothing: "),
        ("rsa.key", "rsa.pem", &["empty"], "no modules are below it"),
        ("rsa.key", "rsa.pem", &["absent.ko"], "read absent.ko"),
        (
            "rsa.key",
            "rsa.pem",
            &["-o", "out", "one.ko", "drivers/one.ko"],
            "would both be written to out/one.ko",
        ),
    ] {
        let (code, out, err) = desk.sign(key, certificate, files);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.starts_with("error: ") && err.contains(message), "{err}");
    }
    assert_eq!(desk.verdict("drivers/one.ko"), Verdict::Unsigned);
    assert!(!desk.path("out").exists());
}

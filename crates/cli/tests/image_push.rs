//! `kubectl tenon image push` as a person runs it.

#![expect(clippy::unwrap_used, reason = "what a test is made of may fail like the test")]

use std::fs;
use std::path::Path;
use std::process::Output;

use tenon_image::testing::{Auth, TestRegistry, module};
use tokio::process::Command;

async fn push(arguments: &[&str], home: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-tenon"))
        .args(["image", "push"])
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .output()
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn modules() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let kernel = directory.path().join("6.1.0-9-test");
    fs::create_dir(&kernel).unwrap();
    fs::write(kernel.join("dummy.ko"), module(62, "dummy", "6.1.0-9-test")).unwrap();
    directory
}

#[tokio::test]
async fn the_reference_with_the_digest_is_the_result() {
    let (registry, home, directory) =
        (TestRegistry::start().await.unwrap(), tempfile::tempdir().unwrap(), modules());
    let to = format!("{}/acme/dummy:v1", registry.host());
    let dir = directory.path().to_str().unwrap();
    let output = push(&[dir, &to, "--plain-http"], home.path()).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let manifest = registry.manifest("acme/dummy", "v1").unwrap();
    assert_eq!(text(&output.stdout), format!("{to}@{}\n", tenon_order::Digest::of(&manifest)));
    assert!(said.contains("6.1.0-9-test: 1 module\n") && said.contains("linux/amd64"), "{said}");
}

#[tokio::test]
async fn credentials_come_from_the_usual_file_and_a_denial_says_how_to_get_some() {
    let (registry, home, directory) =
        (TestRegistry::start().await.unwrap(), tempfile::tempdir().unwrap(), modules());
    registry.require(Auth::Basic("ada".to_owned(), "hunter2".to_owned()));
    let to = format!("{}/acme/dummy:v1", registry.host());
    let arguments = [directory.path().to_str().unwrap(), &to, "--plain-http"];
    let output = push(&arguments, home.path()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("hint: log in with `docker login 127.0.0.1:"),
        "{}",
        text(&output.stderr)
    );

    fs::create_dir(home.path().join(".docker")).unwrap();
    let config =
        format!(r#"{{"auths": {{"{}": {{"username": "ada", "password": "hunter2"}}}}}}"#, registry.host());
    fs::write(home.path().join(".docker/config.json"), config).unwrap();
    let output = push(&arguments, home.path()).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[tokio::test]
async fn what_is_wrong_is_named_with_the_way_out() {
    let (home, directory) = (tempfile::tempdir().unwrap(), modules());
    let dir = directory.path().to_str().unwrap();
    let empty = home.path().to_str().unwrap();
    for (arguments, code, words) in [
        (vec![dir, "acme/x:6.1+rt"], 2, "write `6.1_rt`"),
        (vec![empty, "acme/x:v1"], 1, "found no modules in"),
        (vec![dir, "acme/x:v1", "--arch", "arm64"], 1, "not for --arch arm64"),
        (vec![dir, "acme/x:v1", "--authfile", "/no/such"], 1, "read --authfile /no/such"),
        (vec![dir, "acme/x:v1", "--ca-file", "/dev/null"], 1, "expected certificates in PEM form"),
        (vec![dir, "127.0.0.1:1/x:v1"], 3, "give --plain-http"),
    ] {
        let output = push(&arguments, home.path()).await;
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(words), "{arguments:?}: {said}");
    }
}

//! Layouts as an attacker would leave them: each is refused, with the file and the reason, without waiting for anything.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tenon_image::layout::{Layout, LayoutError};
use tenon_image::manifest::OCI_LAYER_GZIP;
use tenon_image::testing::TestLayout;
use tenon_order::Digest;

use super::{PLAIN, Spoil, chain, modules};

fn write_index(layout: &TestLayout, index: &Value) {
    fs::write(layout.folder().join("index.json"), index.to_string()).unwrap();
}

fn entries(layout: &TestLayout) -> Vec<Value> {
    let index: Value =
        serde_json::from_slice(&fs::read(layout.folder().join("index.json")).unwrap()).unwrap();
    index["manifests"].as_array().unwrap().clone()
}

/// `index.json` with another field of its one entry.
fn set_entry(layout: &TestLayout, key: &str, value: Value) {
    let mut entry = entries(layout).remove(0);
    entry[key] = value;
    write_index(layout, &json!({"schemaVersion": 2, "manifests": [entry]}));
}

/// Puts a pipe, which nobody writes to, in place of a file.
fn pipe(path: &Path) {
    fs::remove_file(path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn move_away(path: &Path) -> PathBuf {
    let elsewhere = path.parent().unwrap().join("elsewhere");
    fs::rename(path, &elsewhere).unwrap();
    elsewhere
}

/// What is done to a layout that was whole, which file is refused for it, and in which words.
type Case = (&'static str, Spoil, &'static str, &'static str);

const CASES: &[Case] = &[
    ("no folder", |layout, _| fs::remove_dir_all(layout.folder()).unwrap(), ".", "it is not there"),
    (
        "the folder is a link",
        |layout, _| symlink(move_away(layout.folder()), layout.folder()).unwrap(),
        ".",
        "symbolic link",
    ),
    (
        "no version",
        |layout, _| fs::remove_file(layout.folder().join("oci-layout")).unwrap(),
        "oci-layout",
        "not there",
    ),
    (
        "version of nothing",
        |layout, _| fs::write(layout.folder().join("oci-layout"), "{}").unwrap(),
        "oci-layout",
        "imageLayoutVersion",
    ),
    (
        "another version",
        |layout, _| {
            fs::write(layout.folder().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
        },
        "oci-layout",
        "\"2.0.0\"",
    ),
    (
        "version is a pipe",
        |layout, _| pipe(&layout.folder().join("oci-layout")),
        "oci-layout",
        "no plain file",
    ),
    (
        "version is a folder",
        |layout, _| {
            fs::remove_file(layout.folder().join("oci-layout")).unwrap();
            fs::create_dir(layout.folder().join("oci-layout")).unwrap();
        },
        "oci-layout",
        "no plain file",
    ),
    (
        "endless index",
        |layout, _| fs::File::create(layout.folder().join("index.json")).unwrap().set_len(1 << 40).unwrap(),
        "index.json",
        "larger than 4194304 bytes",
    ),
    (
        "index is a link",
        |layout, _| {
            fs::remove_file(layout.folder().join("index.json")).unwrap();
            symlink("/dev/zero", layout.folder().join("index.json")).unwrap();
        },
        "index.json",
        "symbolic link",
    ),
    (
        "deep json",
        |layout, _| fs::write(layout.folder().join("index.json"), "[".repeat(1 << 20)).unwrap(),
        "index.json",
        "the manifest is not one",
    ),
    ("index of nothing", |layout, _| layout.put_index(&[]).unwrap(), "index.json", "names 0 images"),
    (
        "two images",
        |layout, _| layout.put_index(&[entries(layout), entries(layout)].concat()).unwrap(),
        "index.json",
        "names 2 images",
    ),
    (
        "an image in place of the index",
        |layout, _| write_index(layout, &json!({"config": entries(layout)[0], "layers": []})),
        "index.json",
        "ambiguous",
    ),
    (
        "digest as a way out",
        |layout, _| set_entry(layout, "digest", json!("sha256:../../../../etc/passwd")),
        "index.json",
        "64 lower-case hex digits",
    ),
    (
        "another hash",
        |layout, _| set_entry(layout, "digest", json!(format!("sha512:{}", "0".repeat(128)))),
        "index.json",
        "64 lower-case",
    ),
    ("negative size", |layout, _| set_entry(layout, "size", json!(-1)), "index.json", "-1"),
    (
        "absurd size",
        |layout, _| set_entry(layout, "size", json!(u64::MAX)),
        "blobs/",
        "more than 33554432 bytes",
    ),
    ("wrong size", |layout, _| set_entry(layout, "size", json!(7)), "blobs/", "should have 7 bytes"),
    (
        "wrong digest",
        |layout, _| {
            let other = Digest::of(b"other");
            fs::write(layout.blob(&other), "{}").unwrap();
            layout.put_index(&[json!({"digest": Digest::of(b"other"), "size": 2})]).unwrap();
        },
        "blobs/",
        "it should be sha256:",
    ),
    (
        "an index in an index",
        |layout, _| {
            let inner = layout.put_nested_index(&entries(layout)).unwrap();
            let outer = layout.put_nested_index(&[inner]).unwrap();
            layout.put_index(&[outer]).unwrap();
        },
        "blobs/",
        "an index in an index",
    ),
    (
        "an index of attestations",
        |layout, _| {
            let mut entry = entries(layout).remove(0);
            entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
            let index = layout.put_nested_index(&[entry]).unwrap();
            layout.put_index(&[index]).unwrap();
        },
        "blobs/",
        "names 0 images",
    ),
    (
        "an index of one image many times",
        |layout, _| {
            let index = layout.put_nested_index(&vec![entries(layout).remove(0); 65]).unwrap();
            layout.put_index(&[index]).unwrap();
        },
        "blobs/",
        "more than 64 images",
    ),
    (
        "too many layers",
        |layout, layer| {
            let layer = json!({"mediaType": PLAIN, "digest": layer, "size": 1});
            let config = layout.put_blob("", b"{}").unwrap();
            let manifest = json!({"config": config, "layers": vec![layer; 1025]});
            layout.put_index(&[layout.put_blob("", manifest.to_string().as_bytes()).unwrap()]).unwrap();
        },
        "blobs/",
        "1025 layers",
    ),
    (
        "many large documents",
        |layout, _| {
            let config =
                layout.put_blob("", format!("{{{}}}", " ".repeat((4 << 20) - 2)).as_bytes()).unwrap();
            let image = |number| json!({"config": config, "layers": [], "number": number}).to_string();
            let manifests = (0..10).map(|number| layout.put_blob("", image(number).as_bytes()).unwrap());
            let manifests: Vec<_> = manifests.collect();
            layout.put_index(&[layout.put_nested_index(&manifests).unwrap()]).unwrap();
        },
        "blobs/",
        "more than 33554432 bytes together",
    ),
    (
        "a layer is missing",
        |layout, layer| fs::remove_file(layout.blob(layer)).unwrap(),
        "blobs/",
        "it is not there",
    ),
    (
        "a layer is longer",
        |layout, layer| {
            fs::OpenOptions::new().write(true).open(layout.blob(layer)).unwrap().set_len(1 << 40).unwrap();
        },
        "blobs/",
        "and has 1099511627776",
    ),
    (
        "a layer is a link",
        |layout, layer| symlink(move_away(&layout.blob(layer)), layout.blob(layer)).unwrap(),
        "blobs/",
        "symbolic link",
    ),
    ("a layer is a pipe", |layout, layer| pipe(&layout.blob(layer)), "blobs/", "no plain file"),
    (
        "a layer is a socket",
        |layout, layer| {
            fs::remove_file(layout.blob(layer)).unwrap();
            drop(std::os::unix::net::UnixListener::bind(layout.blob(layer)).unwrap());
        },
        "blobs/",
        "no plain file",
    ),
    (
        "blobs are elsewhere",
        |layout, _| {
            symlink(move_away(&layout.folder().join("blobs")), layout.folder().join("blobs")).unwrap();
        },
        "blobs",
        "symbolic link",
    ),
    (
        "blobs are a file",
        |layout, _| {
            fs::remove_dir_all(layout.folder().join("blobs")).unwrap();
            fs::write(layout.folder().join("blobs"), "").unwrap();
        },
        "blobs",
        "no folder",
    ),
];

#[test]
fn a_layout_that_is_none_is_refused() {
    for (name, spoil, file, reason) in CASES {
        let folder = tempfile::tempdir().unwrap();
        let layout = TestLayout::create(&folder.path().join("image")).unwrap();
        let image = layout.put_image("amd64", &[(OCI_LAYER_GZIP, modules())]).unwrap();
        layout.put_index(&[image]).unwrap();
        Layout::open(layout.folder()).unwrap();
        spoil(&layout, &Digest::of(&modules()));
        let error: LayoutError = Layout::open(layout.folder()).unwrap_err();
        let text = chain(&error);
        assert!(error.file.starts_with(file), "{name}: {text}");
        assert!(text.contains(reason) && text.contains(layout.folder().to_str().unwrap()), "{name}: {text}");
    }
}

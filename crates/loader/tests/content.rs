//! Which files an ordered content means: the bundle's, the host's, and in which order.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

mod fixture;

use std::fs;

use tempfile::TempDir;
use tenon_loader::bounded;
use tenon_loader::content::{ContentError, Host, resolve};
use tenon_loader::foresee::foresee;
use tenon_loader::kernel;
use tenon_loader::record::{Record, Source};
use tenon_loader::settings::Settings;
use tenon_loader::situation::{Kernel, Target};
use tenon_loader::store::Store;
use tenon_order::{Digest, KmodName, Load, Phase, Reason};

use self::fixture::{VERMAGIC, manifest, module};

const HOST_DEP: &str = "kernel/core.ko.xz:\nkernel/bus.ko: kernel/core.ko.xz\nkernel/helper.ko:\n";

struct Node {
    _directory: TempDir,
    store: Store,
    host: Host,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let command_line = "quiet nic.debug=1 lib.mode=slow".to_owned();
        let host = Host::new(HOST_DEP, "softdep bus pre: helper", "kernel/built.ko\n", command_line);
        Self { _directory: directory, store, host }
    }

    fn keep(&self, files: &[(&str, &[u8])]) {
        self.store.keep_manifest(&manifest(files)).unwrap();
        for (_, bytes) in files {
            assert!(self.store.receive(Digest::of(bytes), bytes.len() as u64, &mut &**bytes).unwrap());
        }
    }

    fn resolve(&self, content: &Load) -> Result<Target, ContentError> {
        resolve(content, &self.store, &self.host, &Record::new("drivers/nic".parse().unwrap()))
    }
}

fn load(files: &[(&str, &[u8])]) -> Load {
    Load {
        kernel: "6.1".to_owned(),
        bundle: manifest(files).digest(),
        module: "nic".parse().unwrap(),
        parameters: vec![],
        loading_order: vec![],
        in_tree_to_remove: vec![],
        firmware: false,
        retry: 0,
    }
}

fn names(target: &Target) -> Vec<&str> {
    target.pieces.iter().map(|piece| piece.name.as_ref()).collect()
}

fn kmods(names: &[&str]) -> Vec<KmodName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

#[test]
fn the_bundles_index_decides_and_the_host_has_the_rest() {
    let node = Node::new();
    let (nic, lib) = (module("nic", "ignored", *b"aaaa"), module("lib", "", *b"bbbb"));
    // As depmod writes it over the whole kernel, before the files were unpacked.
    let dep = "extra/nic.ko.xz: extra/lib.ko.xz kernel/bus.ko kernel/core.ko.xz\nextra/lib.ko.xz: kernel/built.ko\n\
               kernel/bus.ko: kernel/core.ko.xz\nkernel/core.ko.xz:\n";
    let files: [(&str, &[u8]); 3] = [
        ("modules/extra/nic.ko", &nic),
        ("modules/extra/lib.ko", &lib),
        ("modules/modules.dep", dep.as_bytes()),
    ];
    node.keep(&files);
    let target = node.resolve(&load(&files)).unwrap();
    let mut found = names(&target);
    assert_eq!(found.pop(), Some("nic"));
    found.sort_unstable();
    assert_eq!(found, ["bus", "core", "helper", "lib"]);
    let piece = |name: &str| target.pieces.iter().find(|piece| piece.name.as_ref() == name).unwrap();
    assert_eq!(piece("lib").source, Source::Store(Digest::of(&lib)));
    assert_eq!(piece("lib").build_id.as_deref(), Some("62626262"));
    assert_eq!(piece("bus").source, Source::Host("kernel/bus.ko".to_owned()));
    assert!(piece("helper").soft && !piece("core").soft);
}

#[test]
fn without_an_index_the_modules_say_what_they_need() {
    let node = Node::new();
    let (nic, lib) = (module("nic", "lib,built", *b"aaaa"), module("lib", "", *b"bbbb"));
    let files: [(&str, &[u8]); 2] = [("modules/nic.ko", &nic), ("modules/lib.ko", &lib)];
    node.keep(&files);
    assert_eq!(names(&node.resolve(&load(&files)).unwrap()), ["lib", "nic"]);
}

#[test]
fn the_first_of_a_loading_order_is_loaded_last() {
    let node = Node::new();
    let modules: Vec<_> = ["nic", "one", "two"].map(|name| module(name, "", *b"aaaa")).into();
    let files: [(&str, &[u8]); 3] =
        [("modules/nic.ko", &modules[0]), ("modules/one.ko", &modules[1]), ("modules/two.ko", &modules[2])];
    node.keep(&files);
    let ordered = Load { loading_order: kmods(&["nic", "two", "one"]), ..load(&files) };
    assert_eq!(names(&node.resolve(&ordered).unwrap()), ["one", "two", "nic"]);
}

#[test]
fn the_command_line_speaks_first_and_to_every_module() {
    let node = Node::new();
    let (nic, lib) = (module("nic", "lib", *b"aaaa"), module("lib", "", *b"bbbb"));
    let files: [(&str, &[u8]); 2] = [("modules/nic.ko", &nic), ("modules/lib.ko", &lib)];
    node.keep(&files);
    let parameters = vec!["debug=0".to_owned(), "label=a b".to_owned()];
    let target = node.resolve(&Load { parameters, ..load(&files) }).unwrap();
    assert_eq!(target.pieces[0].parameters, ["mode=slow"]);
    assert_eq!(target.pieces[1].parameters, ["debug=1", "debug=0", "label=\"a b\""]);
}

#[test]
fn firmware_is_part_of_it_where_it_is_ordered() {
    let node = Node::new();
    let nic = module("nic", "", *b"aaaa");
    let files: [(&str, &[u8]); 2] = [("modules/nic.ko", &nic), ("firmware/vendor/nic.bin", b"microcode")];
    node.keep(&files);
    assert!(node.resolve(&load(&files)).unwrap().firmware.is_empty());
    let target = node.resolve(&Load { firmware: true, ..load(&files) }).unwrap();
    assert_eq!(target.firmware, [("vendor/nic.bin".to_owned(), Digest::of(b"microcode"))].into());
}

#[test]
fn in_tree_modules_are_named_as_the_kernel_names_them() {
    let node = Node::new();
    let nic = module("nic", "", *b"aaaa");
    let files: [(&str, &[u8]); 1] = [("modules/nic.ko", &nic)];
    node.keep(&files);
    let target = node.resolve(&Load { in_tree_to_remove: kmods(&["old-nic"]), ..load(&files) }).unwrap();
    assert_eq!(target.in_tree_to_remove, kmods(&["old_nic"]).into_iter().collect());
}

#[test]
fn what_comes_back_comes_with_what_it_needs() {
    let node = Node::new();
    let pieces = node.host.pieces(&kmods(&["bus", "unknown", "core"]));
    let names: Vec<_> = pieces.iter().map(|piece| piece.name.as_ref()).collect();
    assert_eq!(names.len(), 3);
    let place = |name| names.iter().position(|found| *found == name).unwrap();
    assert!(place("core") < place("bus") && place("helper") < place("bus"));
}

#[test]
fn what_is_missing_is_named() {
    let node = Node::new();
    let nic = module("nic", "nowhere", *b"aaaa");
    let files: [(&str, &[u8]); 1] = [("modules/nic.ko", &nic)];
    let outcome = |content: &Load| {
        let error = node.resolve(content).unwrap_err();
        (error.outcome(), error.to_string())
    };
    let (waiting, _) = outcome(&load(&files));
    assert_eq!(waiting, (Phase::WaitingForBundle, Reason::BundleMissing));
    node.store.keep_manifest(&manifest(&files)).unwrap();
    let (waiting, message) = outcome(&load(&files));
    assert_eq!(waiting, (Phase::WaitingForBundle, Reason::BundleMissing));
    assert!(message.contains("1 files are missing"), "{message}");
    node.keep(&files);
    let (missing, message) = outcome(&load(&files));
    assert_eq!(missing, (Phase::Failed, Reason::DependencyMissing));
    assert!(message.contains("nowhere"), "{message}");
    let other = Load { module: "other".parse().unwrap(), ..load(&files) };
    let (missing, message) = outcome(&other);
    assert_eq!(missing, (Phase::Failed, Reason::ModuleInvalid));
    assert_eq!(message, "the bundle has no module other");
}

#[test]
fn a_broken_index_and_a_broken_module_are_named() {
    let node = Node::new();
    let nic = module("nic", "", *b"aaaa");
    let broken: [(&str, &[u8]); 1] = [("modules/nic.ko", &nic[..70])];
    node.keep(&broken);
    let error = node.resolve(&load(&broken)).unwrap_err();
    assert_eq!(error.outcome(), (Phase::Failed, Reason::ModuleInvalid));
    assert!(error.to_string().contains("nic.ko"), "{error}");
    let twice: [(&str, &[u8]); 2] = [("modules/nic.ko", &nic), ("modules/modules.dep", b"../nic.ko:\n")];
    node.keep(&twice);
    assert_eq!(node.resolve(&load(&twice)).unwrap_err().outcome(), (Phase::Failed, Reason::ModuleInvalid));
}

#[test]
fn an_index_larger_than_any_is_not_read() {
    let node = Node::new();
    let nic = module("nic", "", *b"aaaa");
    let mut index = vec![b'\n'; bounded::INDEX - 7];
    index.extend_from_slice(b"nic.ko:\n");
    let files: [(&str, &[u8]); 2] = [("modules/nic.ko", &nic), ("modules/modules.dep", &index)];
    node.keep(&files);
    let error = node.resolve(&load(&files)).unwrap_err();
    assert_eq!(error.outcome(), (Phase::Failed, Reason::StoreFailed));
    assert!(error.to_string().contains("more than the 16 MiB"), "{error}");
    // As large as that it may be.
    let files: [(&str, &[u8]); 2] = [("modules/nic.ko", &nic), ("modules/modules.dep", &index[1..])];
    node.keep(&files);
    node.resolve(&load(&files)).unwrap();
}

#[test]
fn of_two_files_with_one_name_the_index_chooses() {
    let node = Node::new();
    let (first, second) = (module("nic", "", *b"aaaa"), module("nic", "", *b"bbbb"));
    for dep in ["updates/nic.ko:\n", "updates/nic.ko.zst:\n"] {
        let files: [(&str, &[u8]); 3] = [
            ("modules/extra/nic.ko", &first),
            ("modules/updates/nic.ko", &second),
            ("modules/modules.dep", dep.as_bytes()),
        ];
        node.keep(&files);
        let target = node.resolve(&load(&files)).unwrap();
        assert_eq!(target.pieces[0].source, Source::Store(Digest::of(&second)));
        assert_eq!(target.pieces[0].build_id.as_deref(), Some("62626262"));
    }
}

#[test]
fn a_file_that_is_another_module_is_refused() {
    let node = Node::new();
    let other = module("other", "", *b"aaaa");
    let files: [(&str, &[u8]); 2] = [("modules/nic.ko", &other), ("modules/modules.dep", b"nic.ko:\n")];
    node.keep(&files);
    let error = node.resolve(&load(&files)).unwrap_err();
    assert_eq!(error.outcome(), (Phase::Failed, Reason::ModuleInvalid));
    assert_eq!(error.to_string(), "nic.ko of the bundle is module other, not nic");
}

#[test]
fn what_the_running_kernel_would_refuse_is_seen_beforehand() {
    let node = Node::new();
    let (nic, own) = (module("nic", "", *b"aaaa"), module("own", "", *b"bbbb"));
    // Built for another series: as long, so that nothing else changes.
    let text = String::from_utf8_lossy(&nic).into_owned();
    let at = text.find(VERMAGIC).unwrap();
    let mut other = nic.clone();
    other[at..at + 3].copy_from_slice(b"6.9");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let settings =
        Settings { lib_modules: at("lib"), proc: at("proc"), sys: at("sys"), ..Settings::default() };
    let foreseen = |bytes: &[u8]| {
        let files: [(&str, &[u8]); 1] = [("modules/nic.ko", bytes)];
        node.keep(&files);
        let target = node.resolve(&load(&files)).unwrap();
        let pieces: Vec<_> = target.pieces.iter().collect();
        foresee(&pieces, &Kernel::default(), "updates/x.ko:\nkernel/own.ko:\n", &node.store, &settings)
            .map_err(|refused| refused.reason())
    };
    assert_eq!(foreseen(&other), Ok(()), "without a module of the kernel's own, it is the kernel's to say");
    let modules = at("lib").join(kernel::release());
    fs::create_dir_all(modules.join("kernel")).unwrap();
    fs::write(modules.join("kernel/own.ko"), own).unwrap();
    assert_eq!((foreseen(&nic), foreseen(&other)), (Ok(()), Err(Reason::VersionMagic)));
    let parameters = at("sys/module/module/parameters");
    fs::create_dir_all(&parameters).unwrap();
    fs::write(parameters.join("sig_enforce"), "Y\n").unwrap();
    assert_eq!(foreseen(&nic), Err(Reason::SignatureRejected));
}

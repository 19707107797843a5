//! The store survives whatever an unlucky moment leaves behind.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;
use tenon_order::{BundleManifest, ManifestEntry, Phase, Reason};

use super::*;
use crate::record::Outcome;

fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

fn receive(store: &Store, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    assert!(store.receive(digest, bytes.len() as u64, &mut &bytes[..]).unwrap());
    digest
}

fn record(key: &str) -> Record {
    let mut record = Record::new(key.parse().unwrap());
    record.outcome = Outcome::new(Phase::Loaded, Reason::Loaded, "loaded");
    record
}

fn manifest(files: &[(&str, &[u8])]) -> BundleManifest {
    let entry = |(path, bytes): &(&str, &[u8])| ManifestEntry {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        path: path.parse().unwrap(),
    };
    BundleManifest::new(files.iter().map(entry).collect()).unwrap()
}

#[test]
fn the_id_is_drawn_once() {
    let (directory, store) = store();
    let id = store.id();
    drop(store);
    assert_eq!(Store::open(directory.path()).unwrap().id(), id);
    assert_eq!(Store::look(directory.path()).unwrap().id(), id);
    let (_other, other) = self::store();
    assert_ne!(other.id(), id);
}

#[test]
fn nobody_else_can_look_into_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("new/store");
    drop(Store::open(&root).unwrap());
    for path in [root.clone(), root.join("files"), root.join("firmware")] {
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700, "{}", path.display());
    }
}

#[test]
fn the_store_is_for_one_process_at_a_time() {
    let (directory, store) = store();
    let lock = File::open(directory.path().join("lock")).unwrap();
    let try_lock = || flock(&lock, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(try_lock(), Err(rustix::io::Errno::WOULDBLOCK));
    drop(Store::look(directory.path()).unwrap());
    drop(store);
    assert_eq!(try_lock(), Ok(()));
}

#[test]
fn damaged_state_is_named_and_never_believed() {
    for (path, text) in [
        ("id", "not an id"),
        ("node", "No Name"),
        ("order", "tenon-order-v1.x.y.z"),
        ("keys/0123456789abcdef", "no key"),
        ("modules/drivers/nic.json", "{\"key\":"),
        ("modules/drivers/nic.json", ""),
    ] {
        let (directory, store) = store();
        store.write_record(&record("drivers/nic")).unwrap();
        fs::write(directory.path().join(path), text).unwrap();
        drop(store);
        let read = || -> Result<(), StoreError> {
            let store = Store::open(directory.path())?;
            store.node()?;
            store.order()?;
            store.keys()?;
            for (_, record) in store.records()? {
                record?;
            }
            Ok(())
        };
        assert!(matches!(read(), Err(StoreError::Damaged(_) | StoreError::Order(_))), "{path}: {text:?}");
    }
}

#[test]
fn a_record_under_anothers_name_is_damaged() {
    let (directory, store) = store();
    store.write_record(&record("drivers/nic")).unwrap();
    let modules = directory.path().join("modules/drivers");
    fs::copy(modules.join("nic.json"), modules.join("other.json")).unwrap();
    let records = store.records().unwrap();
    let names: Vec<_> = records.iter().map(|(key, record)| (key.name(), record.is_ok())).collect();
    assert_eq!(names, [("nic", true), ("other", false)]);
}

#[test]
fn reset_makes_another_store_of_it_and_unloads_nothing() {
    let (directory, store) = store();
    let id = store.id();
    store.write_record(&record("drivers/nic")).unwrap();
    fs::write(directory.path().join("modules/drivers/bad.json"), "{").unwrap();
    store.write("order", b"damaged").unwrap();
    store.write("node", b"worker-1").unwrap();
    drop(store);
    let new = Store::reset(directory.path()).unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.id(), new);
    assert_ne!(new, id);
    assert!(store.order().unwrap().is_none() && store.node().unwrap().is_none());
    let records = store.records().unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].1.as_ref().unwrap(), &record("drivers/nic"));
}

#[test]
fn a_damaged_id_is_mended_by_reset() {
    let (directory, store) = store();
    drop(store);
    fs::write(directory.path().join("id"), "?").unwrap();
    assert!(Store::open(directory.path()).is_err());
    let id = Store::reset(directory.path()).unwrap();
    assert_eq!(Store::open(directory.path()).unwrap().id(), id);
}

#[test]
fn leftovers_of_a_crash_are_neither_read_nor_kept() {
    let (directory, store) = store();
    let path = |name: &str| directory.path().join(name);
    let whole = receive(&store, b"whole");
    let cut = Digest::of(b"cut off");
    for (name, bytes) in [
        (format!("files/.{}.tmp", cut.hex()), "cut"),
        ("files/.unpacked".to_owned(), "half"),
        ("bundles/.x.tmp".to_owned(), "half"),
        (".order.tmp".to_owned(), "tenon-order-v1.half"),
        (".id.tmp".to_owned(), ""),
        ("keys/.key.tmp".to_owned(), ""),
    ] {
        fs::write(path(&name), bytes).unwrap();
    }
    fs::create_dir_all(path("modules/drivers")).unwrap();
    fs::write(path("modules/drivers/.nic.json.tmp"), "{").unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert!(store.order().unwrap().is_none() && store.records().unwrap().is_empty());
    assert!(store.keys().unwrap().is_empty());
    store.verified(cut).unwrap_err();
    store.verified(whole).unwrap();
    let list = manifest(&[("modules/a.ko", b"whole")]);
    store.keep_manifest(&list).unwrap();
    store.collect(&[list.digest()].into()).unwrap();
    let files: Vec<_> =
        fs::read_dir(path("files")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, [std::ffi::OsString::from(whole.hex())]);
    // The next try of the file that was cut off starts over.
    assert_eq!(receive(&store, b"cut off"), cut);
    store.verified(cut).unwrap();
}

#[test]
fn bytes_with_another_digest_are_taken_from_the_stream_but_not_kept() {
    let (_directory, store) = store();
    let digest = Digest::of(b"expected");
    let mut stream = &b"surprisenext"[..];
    assert!(!store.receive(digest, 8, &mut stream).unwrap());
    assert_eq!(stream, b"next");
    store.verified(digest).unwrap_err();
    let mut short = &b"expec"[..];
    assert!(store.receive(digest, 8, &mut short).is_err());
    store.verified(digest).unwrap_err();
}

#[test]
fn a_file_that_rots_is_noticed_and_wanted_again() {
    let (directory, store) = store();
    let digest = receive(&store, b"driver");
    let list = manifest(&[("modules/a.ko", b"driver")]);
    store.keep_manifest(&list).unwrap();
    assert!(store.has_bundle(list.digest()));
    fs::write(directory.path().join("files").join(digest.hex()), b"drXver").unwrap();
    assert!(matches!(store.verified(digest), Err(StoreError::File(found)) if found == digest));
    assert!(!store.has_bundle(list.digest()));
    assert_eq!(store.missing_files(&list).len(), 1);
}

#[test]
fn a_manifest_that_rots_is_not_the_bundles() {
    let (directory, store) = store();
    let list = manifest(&[]);
    store.keep_manifest(&list).unwrap();
    fs::write(directory.path().join("bundles").join(list.digest().hex()), "x").unwrap();
    assert!(matches!(store.manifest(list.digest()), Err(StoreError::Damaged(_))));
    assert!(!store.has_bundle(list.digest()));
}

#[test]
fn only_what_is_needed_is_kept() {
    let (_directory, store) = store();
    let (shared, old, new) = (receive(&store, b"shared"), receive(&store, b"old"), receive(&store, b"new"));
    let first = manifest(&[("modules/a.ko", b"shared"), ("modules/b.ko", b"old")]);
    let second = manifest(&[("modules/a.ko", b"shared"), ("modules/b.ko", b"new")]);
    store.keep_manifest(&first).unwrap();
    store.keep_manifest(&second).unwrap();
    store.collect(&[second.digest()].into()).unwrap();
    assert!(store.has_bundle(second.digest()) && !store.has_bundle(first.digest()));
    store.verified(shared).unwrap();
    store.verified(new).unwrap();
    store.verified(old).unwrap_err();
    store.collect(&BTreeSet::new()).unwrap();
    store.verified(shared).unwrap_err();
}

#[test]
fn firmware_is_the_same_file_and_leaves_no_directory_behind() {
    let (directory, store) = store();
    let (one, two) = (receive(&store, b"one"), receive(&store, b"two"));
    let firmware = directory.path().join("firmware");
    store.link_firmware("vendor/nic/a.bin", one).unwrap();
    store.link_firmware("vendor/nic/a.bin", two).unwrap();
    store.link_firmware("vendor/b.bin", one).unwrap();
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(
        inode(firmware.join("vendor/nic/a.bin")),
        inode(directory.path().join("files").join(two.hex()))
    );
    store.unlink_firmware("vendor/nic/a.bin").unwrap();
    assert!(firmware.join("vendor/b.bin").exists() && !firmware.join("vendor/nic").exists());
    store.unlink_firmware("vendor/b.bin").unwrap();
    store.unlink_firmware("vendor/b.bin").unwrap();
    assert_eq!(fs::read_dir(firmware).unwrap().count(), 0);
}

#[test]
fn a_link_that_leads_elsewhere_is_seen() {
    let (directory, store) = store();
    let (one, two) = (receive(&store, b"one"), receive(&store, b"two"));
    assert!(!store.has_firmware("a.bin", one));
    store.link_firmware("a.bin", one).unwrap();
    assert!(store.has_firmware("a.bin", one) && !store.has_firmware("a.bin", two));
    fs::write(directory.path().join("other"), "one").unwrap();
    fs::remove_file(directory.path().join("firmware/a.bin")).unwrap();
    fs::hard_link(directory.path().join("other"), directory.path().join("firmware/a.bin")).unwrap();
    assert!(!store.has_firmware("a.bin", one), "equal for now, but not the store's");
}

#[test]
fn a_damaged_mark_keeps_no_other_from_being_read() {
    let (directory, store) = store();
    let (good, bad) = (Digest::of(b"good"), Digest::of(b"bad"));
    let mark = Mark::begin(None, "boot", 7, true).unwrap();
    store.write_mark(good, &mark).unwrap();
    fs::write(directory.path().join("marks").join(bad.hex()), "{").unwrap();
    let marks: std::collections::BTreeMap<_, _> = store.marks().unwrap().into_iter().collect();
    assert_eq!(marks[&good], mark);
    let settled = crate::mark::settle(&[(bad, marks[&bad].clone())], None, "next boot", 1);
    assert!(settled[0].1.as_ref().is_some_and(Mark::is_doubtful), "something went wrong: caution");
}

#[test]
fn an_unnamed_file_can_be_read_and_has_no_name() {
    let (directory, store) = store();
    let mut file = store.unnamed(|file| io::Write::write_all(file, b"unpacked")).unwrap();
    let mut text = String::new();
    io::Read::read_to_string(&mut file, &mut text).unwrap();
    assert_eq!(text, "unpacked");
    assert!(io::Write::write_all(&mut file, b"x").is_err());
    assert_eq!(fs::read_dir(directory.path().join("files")).unwrap().count(), 0);
}

#[test]
fn keys_change_only_with_a_list_that_has_some() {
    let (_directory, store) = store();
    let mounted = tempfile::tempdir().unwrap();
    let (one, two) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
    assert!(store.renew_keys(mounted.path()).unwrap().is_empty());
    let list =
        |key: &PublicKey| fs::write(mounted.path().join(key.id().to_string()), key.to_base64()).unwrap();
    list(&one);
    // What a mounted ConfigMap has beside its entries, and entries that are no keys, change nothing.
    fs::create_dir(mounted.path().join("..data")).unwrap();
    fs::write(mounted.path().join("README"), "text").unwrap();
    fs::write(mounted.path().join(two.id().to_string()), one.to_base64()).unwrap();
    assert_eq!(store.renew_keys(mounted.path()).unwrap().ids(), [one.id()]);
    fs::remove_file(mounted.path().join(one.id().to_string())).unwrap();
    assert_eq!(store.renew_keys(mounted.path()).unwrap().ids(), [one.id()], "none left: nothing changes");
    assert_eq!(store.renew_keys(&mounted.path().join("absent")).unwrap().ids(), [one.id()]);
    list(&two);
    assert_eq!(store.renew_keys(mounted.path()).unwrap().ids(), [two.id()]);
    assert_eq!(store.keys().unwrap().ids(), [two.id()]);
}

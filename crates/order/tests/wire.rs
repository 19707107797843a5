//! The protocol's frames: bounded, and never trusted.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;
use tenon_order::wire::{Client, MAX_MESSAGE, Reply, Request, WireError, read_message, write_message};
use tenon_order::{
    BundleManifest, Digest, Generation, MAX_MESSAGE as MAX_REPORT_MESSAGE, ManifestEntry, ModuleReport,
    NodeReport, Phase, Reason, StoreId, clip,
};

/// A peer whose answers are known beforehand.
struct Peer {
    answers: Cursor<Vec<u8>>,
    asked: Vec<u8>,
}

impl Peer {
    fn answering(replies: &[Reply]) -> Self {
        let mut bytes = Vec::new();
        for reply in replies {
            write_message(&mut bytes, reply).unwrap();
        }
        Self { answers: Cursor::new(bytes), asked: Vec::new() }
    }
}

impl Read for &mut Peer {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.answers.read(to)
    }
}

impl Write for &mut Peer {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.asked.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_follows_its_announcement_byte_for_byte() {
    let content = b"\0\x01raw bytes";
    let digest = Digest::of(content);
    let mut peer = Peer::answering(&[Reply::Stored]);
    let reply = Client::new(&mut peer).send_file(digest, content.len() as u64, &content[..]).unwrap();
    assert_eq!(reply, Reply::Stored);
    let mut asked = &peer.asked[..];
    let request: Request = read_message(&mut asked).unwrap();
    assert_eq!(request, Request::File { digest, size: content.len() as u64 });
    assert_eq!(asked, content);
}

#[test]
fn a_file_that_ends_early_is_an_error_and_one_that_goes_on_is_cut() {
    let digest = Digest::of(b"abc");
    let mut peer = Peer::answering(&[Reply::Stored]);
    let error = Client::new(&mut peer).send_file(digest, 4, &b"abc"[..]).unwrap_err();
    assert!(matches!(error, WireError::FileTooShort { size: 4, sent: 3, .. }));
    let mut peer = Peer::answering(&[Reply::Stored]);
    Client::new(&mut peer).send_file(digest, 3, &b"abcdef"[..]).unwrap();
    assert!(peer.asked.ends_with(b"abc"));
}

#[test]
fn an_announced_length_beyond_the_bound_is_refused_unread() {
    let frame = u32::try_from(MAX_MESSAGE + 1).unwrap().to_be_bytes();
    assert!(matches!(read_message::<Request>(&mut &frame[..]), Err(WireError::TooLong(_))));
    let order = Request::Order { order: "x".repeat(MAX_MESSAGE) };
    let mut nothing = Vec::new();
    assert!(matches!(write_message(&mut nothing, &order), Err(WireError::TooLong(_))));
    assert!(nothing.is_empty());
}

#[test]
fn an_end_between_messages_differs_from_one_inside() {
    assert!(matches!(read_message::<Request>(&mut &b""[..]), Err(WireError::Closed)));
    let mut frame = Vec::new();
    write_message(&mut frame, &Request::Apply).unwrap();
    for length in 1..frame.len() {
        assert!(
            matches!(read_message::<Request>(&mut &frame[..length]), Err(WireError::Io(_))),
            "{length} bytes"
        );
    }
}

#[test]
fn unknown_fields_are_refused() {
    let json = br#"{"File":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"mode":7}}"#;
    let mut frame = u32::try_from(json.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(json);
    assert!(matches!(read_message::<Request>(&mut &frame[..]), Err(WireError::Json(_))));
}

#[test]
fn a_report_comes_back() {
    let report = Reply::Report(NodeReport {
        store: StoreId::from_bytes([9; 16]),
        generation: Some(Generation(4)),
        boot_id: "b".to_owned(),
        kernel: "6.1.0".to_owned(),
        key_ids: vec![],
        modules: vec![ModuleReport {
            key: "drivers/nic".parse().unwrap(),
            phase: Phase::RolledBack,
            reason: Reason::UnknownSymbol,
            message: clip(&"é".repeat(400)).to_owned(),
            bundle: Some(Digest::of(b"old")),
            parameters: vec!["a=1".to_owned()],
            loaded_at: Some(1),
            modules: vec!["nic".parse().unwrap()],
            rolled_back: Some(Digest::of(b"new")),
        }],
    });
    let mut frame = Vec::new();
    write_message(&mut frame, &report).unwrap();
    assert_eq!(read_message::<Reply>(&mut &frame[..]).unwrap(), report);
}

proptest! {
    #[test]
    fn random_bytes_are_never_more_than_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut frame = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(&bytes);
        prop_assert!(read_message::<Request>(&mut &frame[..]).is_err());
        // Read as a frame themselves, random bytes announce more than they hold or are not JSON.
        prop_assert!(read_message::<Reply>(&mut &bytes[..]).is_err());
    }

    #[test]
    fn clipped_text_keeps_within_the_bound(text in ".{0,700}") {
        let clipped = clip(&text);
        prop_assert!(clipped.len() <= MAX_REPORT_MESSAGE && text.starts_with(clipped));
        prop_assert!(clipped.len() + 4 > MAX_REPORT_MESSAGE || clipped == text);
    }

    #[test]
    fn manifests_have_one_spelling(
        files in prop::collection::btree_map("[a-z]{1,3}(/[a-z ]{1,3}){0,2}", any::<u32>(), 0..8),
        at in any::<prop::sample::Index>(),
        byte in 0_u8..128,
    ) {
        let entries = files.iter().map(|(path, size)| ManifestEntry {
            digest: Digest::of(path.as_bytes()),
            size: u64::from(*size),
            path: path.parse().unwrap(),
        });
        let Ok(manifest) = BundleManifest::new(entries.collect()) else {
            // Only a file inside a file is refused.
            let inside = |file: &String| files.keys().any(|other| file.starts_with(&(other.clone() + "/")));
            prop_assert!(files.keys().any(inside));
            return Ok(());
        };
        let text = manifest.emit();
        prop_assert_eq!(BundleManifest::parse(&text), Ok(manifest));
        if !text.is_empty() {
            let mut changed = text.clone().into_bytes();
            changed[at.index(text.len())] = byte;
            let changed = String::from_utf8(changed).unwrap();
            if let Ok(read) = BundleManifest::parse(&changed) {
                prop_assert_eq!(read.emit(), changed);
            }
        }
    }
}

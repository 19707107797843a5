use proptest::prelude::*;

use super::*;

fn facts() -> KernelFacts {
    let mut facts = KernelFacts::new(KernelRelease::new("6.1.0-9-test").unwrap(), Architecture::Arm64);
    facts.build_id = Some(BuildId::new([1, 2, 3]).unwrap());
    facts.vermagic = Some(VerMagic::new("6.1.0-9-test SMP mod_unload modversions aarch64"));
    facts.this_module_size = Some(896);
    facts.modversions = Some(true);
    facts.complete = true;
    facts.sources.headers = true;
    facts.policy.force_load = Some(false);
    facts.policy.decompression = Some(Decompression::Of(Compression::Gzip));
    facts.policy.types_must_fit = Some(true);
    let stp = ModuleName::new("stp").unwrap();
    let symbol = |crc, gpl_only, namespace, provider| KernelSymbol { crc, gpl_only, namespace, provider };
    facts.exports.extend([
        ("module_layout".to_owned(), symbol(Some(7), Some(false), Namespace::Global, None)),
        ("mod_äpfel".to_owned(), symbol(Some(0xdead_beef), Some(true), Namespace::Named("A".into()), None)),
        ("stp_register".to_owned(), symbol(None, Some(true), Namespace::Unknown, Some(stp.clone()))),
        ("stp".to_owned(), symbol(None, None, Namespace::Named("module:x*".into()), Some(stp))),
    ]);
    facts
}

#[test]
fn facts_come_back_and_equal_facts_make_equal_bytes() {
    let bytes = facts().encode();
    assert_eq!(KernelFacts::decode(&bytes).unwrap(), facts());
    assert_eq!(KernelFacts::decode(&bytes).unwrap().encode(), bytes);
    let bare = KernelFacts::new(KernelRelease::new("7.2").unwrap(), Architecture::Amd64);
    assert_eq!(KernelFacts::decode(&bare.encode()).unwrap(), bare);
}

#[test]
fn a_field_of_a_later_tenon_is_skipped() {
    let packed = &facts().encode()[MAGIC.len()..];
    let mut body = Writer(Compression::Zstd.decompress(packed, MAX_DECODED).unwrap());
    body.field(999, b"later");
    let packed = ruzstd::encoding::compress_to_vec(&body.0[..], ruzstd::encoding::CompressionLevel::Fastest);
    assert_eq!(KernelFacts::decode(&[MAGIC, &packed[..]].concat()).unwrap(), facts());
}

#[test]
fn what_is_no_facts_is_named() {
    assert!(matches!(KernelFacts::decode(b"TENONKF2"), Err(DecodeError::Magic)));
    assert!(matches!(KernelFacts::decode(&vec![0; MAX_ENCODED + 1]), Err(DecodeError::TooLong(_))));
    let bomb = ruzstd::encoding::compress_to_vec(
        &vec![0; MAX_DECODED + 1][..],
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    assert!(matches!(KernelFacts::decode(&[MAGIC, &bomb[..]].concat()), Err(DecodeError::Unpack(_))));
    let empty = ruzstd::encoding::compress_to_vec(&[][..], ruzstd::encoding::CompressionLevel::Fastest);
    assert!(matches!(KernelFacts::decode(&[MAGIC, &empty[..]].concat()), Err(DecodeError::Field("release"))));
}

proptest! {
    #[test]
    fn damaged_facts_do_not_panic(
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let packed = &facts().encode()[MAGIC.len()..];
        let mut body = Compression::Zstd.decompress(packed, MAX_DECODED).unwrap();
        for (position, value) in mutations {
            let position = position.index(body.len());
            body[position] = value;
        }
        body.truncate(cut.index(body.len()) + 1);
        let packed = ruzstd::encoding::compress_to_vec(&body[..], ruzstd::encoding::CompressionLevel::Fastest);
        if let Ok(facts) = KernelFacts::decode(&[MAGIC, &packed[..]].concat()) {
            prop_assert_eq!(KernelFacts::decode(&facts.encode()).unwrap(), facts);
        }
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = KernelFacts::decode(&[&MAGIC[..], &bytes].concat());
        let _ = KernelFacts::decode(&bytes);
    }
}

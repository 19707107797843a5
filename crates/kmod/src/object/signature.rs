//! The signature appended to a module: data, then `struct module_signature`, then a magic text
//! (`include/linux/module_signature.h`, written by `scripts/sign-file`). Only its frame is read here; what stands inside
//! is CMS.

use std::ops::Range;

/// What ends a signed module.
pub const MAGIC: &[u8] = b"~Module signature appended~\n";

/// The size of `struct module_signature`.
const FRAME: usize = 12;

/// `PKEY_ID_PKCS7`: the only kind that kernels since 4.3 accept.
const PKCS7: u8 = 2;

/// What a module's end says about signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// None, or nothing that the kernel would recognize as one.
    Absent,
    /// An appended signature. Whether it is good and whose it is needs the CMS inside and a key.
    Appended(AppendedSignature),
    /// The magic is there but the frame is wrong. A kernel refuses most of these even where signatures are optional.
    Malformed(SignatureError),
}

/// Where the parts of an appended signature lie, as offsets in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendedSignature {
    /// What was signed ends here: everything before belongs to it, an earlier signature included.
    pub signed_length: usize,
    /// The signer's name in the format before 4.3; empty in PKCS#7.
    pub signer: Range<usize>,
    /// The key's identifier in the format before 4.3; empty in PKCS#7.
    pub key_id: Range<usize>,
    /// The signature itself: for PKCS#7 the CMS `SignedData`, which also names the signer.
    pub signature: Range<usize>,
    /// The kind of signature.
    pub id_type: SignatureType,
}

/// `enum pkey_id_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureType {
    /// A key identifier of PGP: never used by a release.
    Pgp,
    /// The bare signature of an X.509 key: kernels before 4.3.
    X509,
    /// A detached CMS message.
    Pkcs7,
    /// Nothing that a kernel knows: it says "module with unsupported crypto".
    Unknown(u8),
}

/// Why the frame of a signature is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The magic is there, but the file is too short for the frame before it.
    #[error("the file ends with the signature's magic but has no room for a signature")]
    NoFrame,
    /// The frame promises more bytes than the file has.
    #[error("the signature's frame promises {promised} bytes; the file has {available} before it")]
    Length {
        /// Signature, signer and key identifier together.
        promised: u64,
        /// What stands before the frame.
        available: usize,
    },
    /// Fields that must be zero in a PKCS#7 frame are not.
    #[error("the signature's frame has values in fields that PKCS#7 leaves zero")]
    Fields,
    /// What should be a CMS message is none: no DER sequence, or one that is longer than the frame says.
    #[error("the signature is no whole CMS message")]
    Message,
}

impl Signature {
    /// Reads the end of a file.
    pub fn parse(file: &[u8]) -> Self {
        match file.strip_suffix(MAGIC) {
            // Where there is nothing but the magic, the kernel sees none.
            None | Some([]) => Self::Absent,
            Some(framed) => AppendedSignature::parse(framed).map_or_else(Self::Malformed, Self::Appended),
        }
    }
}

impl AppendedSignature {
    /// `framed` is the file without the magic.
    fn parse(framed: &[u8]) -> Result<Self, SignatureError> {
        let (body, frame) = framed.split_last_chunk::<FRAME>().ok_or(SignatureError::NoFrame)?;
        let &[algorithm, hash, id_type, signer, key_id, p0, p1, p2, l0, l1, l2, l3] = frame;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let id_type = match id_type {
            0 => SignatureType::Pgp,
            1 => SignatureType::X509,
            PKCS7 => SignatureType::Pkcs7,
            other => SignatureType::Unknown(other),
        };
        if id_type == SignatureType::Pkcs7 && [algorithm, hash, signer, key_id, p0, p1, p2] != [0; 7] {
            return Err(SignatureError::Fields);
        }
        let promised = u64::from(length) + u64::from(signer) + u64::from(key_id);
        // The kernel wants something left to sign.
        let signed_length = usize::try_from(promised)
            .ok()
            .and_then(|promised| body.len().checked_sub(promised))
            .filter(|&left| left > 0)
            .ok_or(SignatureError::Length { promised, available: body.len() })?;
        let signer_end = signed_length + usize::from(signer);
        let key_end = signer_end + usize::from(key_id);
        if id_type == SignatureType::Pkcs7 && !body.get(key_end..).is_some_and(is_whole_sequence) {
            return Err(SignatureError::Message);
        }
        Ok(Self {
            signed_length,
            signer: signed_length..signer_end,
            key_id: signer_end..key_end,
            signature: key_end..body.len(),
            id_type,
        })
    }
}

/// Whether bytes begin with a DER sequence that does not go beyond them (X.690, 8.1; `asn1_ber_decoder` reads no more of
/// it before it gives up).
fn is_whole_sequence(bytes: &[u8]) -> bool {
    let Some((&[0x30, first], rest)) = bytes.split_first_chunk() else { return false };
    if first < 0x80 {
        return usize::from(first) <= rest.len();
    }
    let Some((length, content)) = rest.split_at_checked(usize::from(first & 0x7f)) else { return false };
    // An indefinite length has no bytes, and a signature of 4 GiB does not exist.
    let value = length.iter().try_fold(0_u32, |sum, byte| Some(sum.checked_mul(256)? + u32::from(*byte)));
    !length.is_empty() && value.is_some_and(|value| value as usize <= content.len())
}

/// A file without its last signature: what a new one would be made over after removing the old.
pub fn without_signature(file: &[u8]) -> &[u8] {
    match Signature::parse(file) {
        Signature::Appended(signature) => file.get(..signature.signed_length).unwrap_or(file),
        Signature::Absent | Signature::Malformed(_) => file,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn signed(body: &[u8], frame: [u8; 8], length: u32, payload: &[u8]) -> Vec<u8> {
        [body, payload, &frame, &length.to_be_bytes(), MAGIC].concat()
    }

    const FRAME_PKCS7: [u8; 8] = [0, 0, 2, 0, 0, 0, 0, 0];

    #[test]
    fn a_pkcs7_signature_is_found() {
        let file = signed(b"body", FRAME_PKCS7, 3, b"0\x01s");
        let expected = AppendedSignature {
            signed_length: 4,
            signer: 4..4,
            key_id: 4..4,
            signature: 4..7,
            id_type: SignatureType::Pkcs7,
        };
        assert_eq!(Signature::parse(&file), Signature::Appended(expected));
        assert_eq!(without_signature(&file), b"body");
    }

    #[test]
    fn the_old_format_has_a_signer_and_a_key() {
        let file = signed(b"body", [1, 4, 1, 3, 2, 0, 0, 0], 3, b"bobidsig");
        let Signature::Appended(signature) = Signature::parse(&file) else { panic!() };
        assert_eq!(signature.id_type, SignatureType::X509);
        assert_eq!((&file[signature.signer], &file[signature.key_id]), (&b"bob"[..], &b"id"[..]));
        assert_eq!(&file[signature.signature], b"sig");
    }

    #[test]
    fn of_two_signatures_the_last_counts() {
        let once = signed(b"body", FRAME_PKCS7, 3, b"0\x011");
        let twice = signed(&once, FRAME_PKCS7, 3, b"0\x012");
        assert_eq!(without_signature(&twice), once);
    }

    #[rstest]
    #[case::unsigned(b"body".to_vec(), Signature::Absent)]
    #[case::empty(Vec::new(), Signature::Absent)]
    #[case::a_byte_behind([signed(b"body", FRAME_PKCS7, 3, b"sig"), b"x".to_vec()].concat(), Signature::Absent)]
    #[case::bare_magic(MAGIC.to_vec(), Signature::Absent)]
    #[case::no_frame([b"x", MAGIC].concat(), Signature::Malformed(SignatureError::NoFrame))]
    #[case::all_of_it(signed(b"", FRAME_PKCS7, 3, b"sig"), Signature::Malformed(SignatureError::Length { promised: 3, available: 3 }))]
    #[case::too_long(signed(b"body", FRAME_PKCS7, u32::MAX, b"sig"), Signature::Malformed(SignatureError::Length { promised: 0xffff_ffff, available: 7 }))]
    #[case::algorithm_set(signed(b"body", [1, 0, 2, 0, 0, 0, 0, 0], 3, b"sig"), Signature::Malformed(SignatureError::Fields))]
    #[case::no_message(
        signed(b"body", FRAME_PKCS7, 3, b"sig"),
        Signature::Malformed(SignatureError::Message)
    )]
    #[case::cut_message(
        signed(b"body", FRAME_PKCS7, 3, b"0\x02s"),
        Signature::Malformed(SignatureError::Message)
    )]
    #[case::cut_length(
        signed(b"body", FRAME_PKCS7, 3, b"0\x82s"),
        Signature::Malformed(SignatureError::Message)
    )]
    #[case::endless(
        signed(b"body", FRAME_PKCS7, 3, b"0\x80s"),
        Signature::Malformed(SignatureError::Message)
    )]
    fn other_ends_are_told_apart(#[case] file: Vec<u8>, #[case] expected: Signature) {
        assert_eq!(Signature::parse(&file), expected);
        assert_eq!(without_signature(&file), file);
    }
}

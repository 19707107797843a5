//! `module_sig_check` of `kernel/module/signing.c`: the frame of a signature, and what its message was found to be worth.

use super::{Cause, Circumstances, Effect, Enforcement, Judgement, Reason, SignatureCheck};
use crate::facts::KernelFacts;
use crate::failure::Errno;
use crate::object::Signature;
use crate::object::signature::SignatureType;

impl Judgement<'_> {
    pub(super) fn signature(&mut self) {
        if let Some(Reason { cause, effect }) =
            finding(&self.module.signature, self.facts, self.circumstances)
        {
            self.found(effect, cause);
        }
    }
}

/// What is to be said of a file's signature, or of its lack.
pub(super) fn finding(
    signature: &Signature,
    facts: &KernelFacts,
    circumstances: &Circumstances,
) -> Option<Reason> {
    // Where somebody enforces signatures, the kernel looks at them.
    let looks = match circumstances.enforcement {
        Enforcement::Permissive => facts.policy.signatures,
        Enforcement::Enforced | Enforcement::Lockdown => facts.policy.signatures.or(Some(true)),
    };
    if looks == Some(false) {
        return None;
    }
    let refusal = refusal(facts, circumstances);
    let rejected = |found| {
        let cause = Cause::SignatureRejected { found };
        refusal.map(|errno| Reason { cause, effect: Effect::Fails(errno) })
    };
    match signature {
        Signature::Absent => rejected("unsigned module"),
        Signature::Malformed(error) => {
            let effect = if looks.is_some() { Effect::Fails(Errno::EBADMSG) } else { Effect::Unknown };
            Some(Reason { cause: Cause::SignatureMalformed { error: error.clone() }, effect })
        }
        Signature::Appended(signature) if signature.id_type != SignatureType::Pkcs7 => {
            rejected("module with unsupported crypto")
        }
        Signature::Appended(_) => match circumstances.signature {
            // Where nobody enforces signatures, only one that is wrong and made by a trusted key is refused.
            SignatureCheck::Unread => {
                let effect = if refusal.is_some() { Effect::Unknown } else { Effect::Note };
                Some(Reason { cause: Cause::SignatureUnverified, effect })
            }
            SignatureCheck::UnknownSigner => rejected("module with unavailable key"),
            SignatureCheck::Unsupported => rejected("module with unsupported crypto"),
            SignatureCheck::Bad => {
                let effect =
                    if looks.is_some() { Effect::Fails(Errno::EKEYREJECTED) } else { Effect::Unknown };
                Some(Reason { cause: Cause::SignatureBad, effect })
            }
            SignatureCheck::Good { elliptic, long_hash } => {
                let policy = &facts.policy;
                let needs =
                    [(elliptic, policy.ecdsa, "ECDSA"), (long_hash, policy.sha512, "SHA-384 or SHA-512")];
                needs.into_iter().filter(|(needed, ..)| *needed).find_map(|(_, known, algorithm)| {
                    let effect = match (known, refusal) {
                        (Some(true), _) | (_, None) => return None,
                        (Some(false), Some(errno)) => Effect::Fails(errno),
                        (None, Some(_)) => Effect::Unknown,
                    };
                    Some(Reason { cause: Cause::SignatureAlgorithm { algorithm }, effect })
                })
            }
        },
    }
}

/// What a module without a good signature gets; none where it loads.
fn refusal(facts: &KernelFacts, circumstances: &Circumstances) -> Option<Errno> {
    match (facts.policy.signatures_forced, circumstances.enforcement) {
        (Some(true), _) | (_, Enforcement::Enforced) => Some(Errno::EKEYREJECTED),
        (_, Enforcement::Lockdown) => Some(Errno::EPERM),
        (_, Enforcement::Permissive) => None,
    }
}

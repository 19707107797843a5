//! `module_sig_check` of `kernel/module/signing.c`, as far as it is about the frame of a signature.

use super::{Cause, Circumstances, Effect, Enforcement, Judgement, Reason};
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
        // Where nobody enforces signatures, only one that is wrong and made by a trusted key is refused.
        Signature::Appended(_) => {
            let effect = if refusal.is_some() { Effect::Unknown } else { Effect::Note };
            Some(Reason { cause: Cause::SignatureUnverified, effect })
        }
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

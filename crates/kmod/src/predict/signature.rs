//! `module_sig_check` of `kernel/module/signing.c`, as far as it is about the frame of a signature.

use super::{Cause, Effect, Enforcement, Judgement};
use crate::failure::Errno;
use crate::object::Signature;
use crate::object::signature::SignatureType;

impl Judgement<'_> {
    pub(super) fn signature(&mut self) {
        // Where somebody enforces signatures, the kernel looks at them.
        let looks = match self.circumstances.enforcement {
            Enforcement::Permissive => self.facts.policy.signatures,
            Enforcement::Enforced | Enforcement::Lockdown => self.facts.policy.signatures.or(Some(true)),
        };
        if looks == Some(false) {
            return;
        }
        match &self.module.signature {
            Signature::Absent => self.unsigned("unsigned module"),
            Signature::Malformed(error) => {
                let effect = if looks.is_some() { Effect::Fails(Errno::EBADMSG) } else { Effect::Unknown };
                self.found(effect, Cause::SignatureMalformed { error: error.clone() });
            }
            Signature::Appended(signature) if signature.id_type != SignatureType::Pkcs7 => {
                self.unsigned("module with unsupported crypto");
            }
            Signature::Appended(_) if self.refusal().is_some() => {
                self.found(Effect::Unknown, Cause::SignatureUnverified);
            }
            Signature::Appended(_) => {}
        }
    }

    /// What a module without a good signature gets; none where it loads.
    fn refusal(&self) -> Option<Errno> {
        match (self.facts.policy.signatures_forced, self.circumstances.enforcement) {
            (Some(true), _) | (_, Enforcement::Enforced) => Some(Errno::EKEYREJECTED),
            (_, Enforcement::Lockdown) => Some(Errno::EPERM),
            (_, Enforcement::Permissive) => None,
        }
    }

    fn unsigned(&mut self, found: &'static str) {
        if let Some(errno) = self.refusal() {
            self.found(Effect::Fails(errno), Cause::SignatureRejected { found });
        }
    }
}

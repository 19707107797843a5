//! Which of the rules for modules a kernel was built with.

use crate::compression::Compression;

/// The options of a kernel's configuration that decide over modules. None means that nobody said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelPolicy {
    /// `CONFIG_MODULE_SIG`: signatures are looked at.
    pub signatures: Option<bool>,
    /// `CONFIG_MODULE_SIG_FORCE`: nothing loads without a signature of a trusted key. The kernel command line and Secure
    /// Boot can ask for the same where this is off.
    pub signatures_forced: Option<bool>,
    /// `CONFIG_MODULE_FORCE_LOAD`: a module without version magic or without checksums loads, and taints the kernel.
    pub force_load: Option<bool>,
    /// `CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS`: a namespace that is not imported is only complained about.
    pub missing_imports_allowed: Option<bool>,
    /// `CONFIG_MODULE_DECOMPRESS`.
    pub decompression: Option<Decompression>,
    /// `CONFIG_DEBUG_INFO_BTF_MODULES` without `CONFIG_MODULE_ALLOW_BTF_MISMATCH`: a module whose type information does not
    /// fit the kernel's is refused.
    pub types_must_fit: Option<bool>,
    /// `CONFIG_CRYPTO_ECDSA=y`: signatures of elliptic keys are verified. None also where it is a module, which may be there
    /// when it is needed.
    pub ecdsa: Option<bool>,
    /// `CONFIG_CRYPTO_SHA512=y`: signatures over SHA-384 and SHA-512 are verified. None also where it is a module.
    pub sha512: Option<bool>,
}

/// Whether a kernel unpacks modules itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decompression {
    /// It does not.
    None,
    /// It does, of one kind that is not known.
    Some,
    /// It does, this kind only.
    Of(Compression),
}

impl KernelPolicy {
    /// What another source says, where this one is silent.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            signatures: self.signatures.or(other.signatures),
            signatures_forced: self.signatures_forced.or(other.signatures_forced),
            force_load: self.force_load.or(other.force_load),
            missing_imports_allowed: self.missing_imports_allowed.or(other.missing_imports_allowed),
            decompression: match (self.decompression, other.decompression) {
                (Some(Decompression::Some) | None, Some(told)) => Some(told),
                (told, _) => told,
            },
            types_must_fit: self.types_must_fit.or(other.types_must_fit),
            ecdsa: self.ecdsa.or(other.ecdsa),
            sha512: self.sha512.or(other.sha512),
        }
    }
}

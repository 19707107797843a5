//! Facts from the tree that modules are built against: `Module.symvers` (every exported symbol), the release, and the
//! configuration, from which the version magic follows.

use std::collections::HashMap;

use super::{Decompression, KernelFacts, KernelPolicy, KernelSymbol, Namespace, struct_module_size};
use crate::ModuleName;
use crate::compression::Compression;
use crate::name::ModuleNameError;
use crate::object::Architecture;
use crate::release::{KernelRelease, KernelReleaseError};
use crate::vermagic::VerMagic;

/// More lines than any kernel has.
const MAX_SYMBOLS: usize = 1 << 18;

/// The texts of a headers tree.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    /// `Module.symvers`.
    pub symvers: &'a str,
    /// `include/generated/utsrelease.h`, or the release itself. (`include/config/kernel.release` is not always right:
    /// Debian's has the upstream version.)
    pub release: &'a str,
    /// `.config` or `include/config/auto.conf`.
    pub config: Option<&'a str>,
    /// Where there is no configuration that tells it.
    pub architecture: Option<Architecture>,
}

/// The files of a headers tree, as whoever holds the tree has read them.
#[derive(Clone, Debug)]
pub struct HeaderFiles {
    symvers: Vec<u8>,
    release: Vec<u8>,
    config: Option<Vec<u8>>,
    types: Option<Vec<u8>>,
}

impl HeaderFiles {
    /// What makes a folder one of headers.
    pub const SYMVERS: &str = "Module.symvers";
    /// All that is read of such a folder; of two for one purpose the better one stands first.
    pub const ALL: [&str; 6] = [
        Self::SYMVERS,
        "include/generated/utsrelease.h",
        "include/config/kernel.release",
        ".config",
        "include/config/auto.conf",
        // Newer headers have the kernel's type information in a file of this name.
        "vmlinux",
    ];

    /// Asks for the files one after the other; none where it is no folder of headers. `file` says none where there is no
    /// such file.
    pub fn read<E>(mut file: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>) -> Result<Option<Self>, E> {
        let [symvers, utsrelease, release, config, auto, types] = Self::ALL;
        let Some(symvers) = file(symvers)? else { return Ok(None) };
        let mut first = |one: &str, other: &str| match file(one)? {
            None => file(other),
            found => Ok(found),
        };
        let release = first(utsrelease, release)?.unwrap_or_default();
        let config = first(config, auto)?;
        Ok(Some(Self { symvers, release, config, types: file(types)? }))
    }

    /// What they tell; `architecture` where there is no configuration that tells it.
    pub fn facts(&self, architecture: Option<Architecture>) -> Result<KernelFacts, HeadersError> {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let config = self.config.as_ref().map(text);
        let mut facts = KernelFacts::from_headers(&Headers {
            symvers: &text(&self.symvers),
            release: &text(&self.release),
            config: config.as_deref(),
            architecture,
        })?;
        facts.this_module_size = self.types.as_deref().and_then(struct_module_size);
        Ok(facts)
    }
}

/// Why headers give no facts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadersError {
    /// The release.
    #[error("read the release of the headers")]
    Release(#[from] KernelReleaseError),
    /// Neither the configuration nor the caller says for which machine they are.
    #[error("read the headers: the configuration does not tell the architecture")]
    NoArchitecture,
    /// A line that is not checksum, symbol, module, kind and perhaps namespace.
    #[error("read line {0} of Module.symvers")]
    Symvers(usize),
    /// A module's name.
    #[error("read line {line} of Module.symvers")]
    Module {
        /// Counted from one.
        line: usize,
        /// What is wrong with the name.
        #[source]
        source: ModuleNameError,
    },
    /// More lines than any kernel has.
    #[error("read Module.symvers: more than {MAX_SYMBOLS} lines")]
    TooMany,
}

impl KernelFacts {
    /// Reads headers.
    pub fn from_headers(headers: &Headers<'_>) -> Result<Self, HeadersError> {
        let config = headers.config.map(Config::parse);
        let release = KernelRelease::new(release_text(headers.release))?;
        let architecture = config.as_ref().and_then(Config::architecture).or(headers.architecture);
        let mut facts = Self::new(release, architecture.ok_or(HeadersError::NoArchitecture)?);
        facts.sources.headers = true;
        let mut symbols = 0;
        for (index, line) in headers.symvers.lines().enumerate() {
            let (name, symbol) = symbol(line, index + 1)?;
            facts.complete |= symbol.provider.is_none();
            facts.exports.insert(name.to_owned(), symbol);
            symbols += 1;
            if symbols > MAX_SYMBOLS {
                return Err(HeadersError::TooMany);
            }
        }
        facts.covers_modules = facts.complete;
        facts.modversions = match &config {
            Some(config) => Some(config.has("MODVERSIONS")),
            // Without checksums all of them are written as zero.
            None => facts.complete.then(|| facts.exports.values().any(|symbol| symbol.crc != Some(0))),
        };
        if facts.modversions != Some(true) {
            facts.exports.values_mut().for_each(|symbol| symbol.crc = None);
        }
        if let Some(config) = config {
            facts.vermagic = config.vermagic(facts.release.as_str(), facts.architecture);
            facts.policy = config.policy();
        }
        Ok(facts)
    }
}

/// `#define UTS_RELEASE "…"`, or the bare release.
fn release_text(text: &str) -> &str {
    let defined = text.lines().find_map(|line| line.trim().strip_prefix("#define UTS_RELEASE"));
    defined.unwrap_or(text).trim().trim_matches('"')
}

/// `crc symbol module kind [namespace]`, separated by tabs. (Kernels 5.4 and 5.5 had the namespace third.)
fn symbol(line: &str, number: usize) -> Result<(&str, KernelSymbol), HeadersError> {
    let broken = || HeadersError::Symvers(number);
    let columns: Vec<&str> = line.split('\t').collect();
    let (crc, name, namespace, module, kind) = match *columns.as_slice() {
        [crc, name, module, kind] => (crc, name, "", module, kind),
        [crc, name, namespace, module, kind] if kind.starts_with("EXPORT") => {
            (crc, name, namespace, module, kind)
        }
        [crc, name, module, kind, namespace] => (crc, name, namespace, module, kind),
        _ => return Err(broken()),
    };
    if name.is_empty() || !kind.starts_with("EXPORT") {
        return Err(broken());
    }
    let crc = crc.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let provider = match module {
        "vmlinux" => None,
        path => Some(
            ModuleName::from_path(path).map_err(|source| HeadersError::Module { line: number, source })?,
        ),
    };
    let symbol = KernelSymbol {
        crc: Some(crc.ok_or_else(broken)?),
        gpl_only: Some(kind.contains("_GPL")),
        namespace: Namespace::named(namespace),
        provider,
    };
    Ok((name, symbol))
}

/// A kernel's configuration; what is not set is not in it.
struct Config<'a>(HashMap<&'a str, &'a str>);

impl<'a> Config<'a> {
    fn parse(text: &'a str) -> Self {
        let option = |line: &'a str| line.trim().strip_prefix("CONFIG_")?.split_once('=');
        Self(text.lines().filter_map(option).collect())
    }

    fn has(&self, option: &str) -> bool {
        self.0.get(option) == Some(&"y")
    }

    /// Whether it is built in; none where it is a module.
    fn built_in(&self, option: &str) -> Option<bool> {
        (self.0.get(option) != Some(&"m")).then(|| self.has(option))
    }

    fn architecture(&self) -> Option<Architecture> {
        let little = self.has("CPU_LITTLE_ENDIAN");
        Some(match () {
            () if self.has("X86_64") => Architecture::Amd64,
            () if self.has("X86_32") => Architecture::I386,
            () if self.has("ARM64") => Architecture::Arm64,
            () if self.has("ARM") => Architecture::Arm,
            () if self.has("S390") => Architecture::S390x,
            () if self.has("PPC64") && little => Architecture::Ppc64le,
            () if self.has("PPC64") => Architecture::Ppc64,
            () if self.has("RISCV") && self.has("64BIT") => Architecture::Riscv64,
            () if self.has("LOONGARCH") && self.has("64BIT") => Architecture::Loong64,
            () => return None,
        })
    }

    /// `VERMAGIC_STRING` of `include/linux/vermagic.h`. On some architectures it has more words than the configuration
    /// tells, and with a randomized layout a hash: then it is unknown.
    fn vermagic(&self, release: &str, architecture: Architecture) -> Option<VerMagic> {
        let own = match architecture {
            Architecture::Amd64 | Architecture::S390x => "",
            Architecture::Arm64 => "aarch64",
            _ => return None,
        };
        if self.has("RANDSTRUCT") || self.has("GCC_PLUGIN_RANDSTRUCT") {
            return None;
        }
        let mut text = format!("{release} ");
        let preempt = self.has("PREEMPT_BUILD") || self.has("PREEMPT");
        let words = [
            (self.has("SMP"), "SMP "),
            (preempt, "preempt "),
            (!preempt && self.has("PREEMPT_RT"), "preempt_rt "),
            (self.has("MODULE_UNLOAD"), "mod_unload "),
            (self.has("MODVERSIONS"), "modversions "),
            (true, own),
        ];
        words.iter().filter(|(set, _)| *set).for_each(|(_, word)| text.push_str(word));
        Some(VerMagic::new(&text))
    }

    fn policy(&self) -> KernelPolicy {
        let kinds = [("XZ", Compression::Xz), ("ZSTD", Compression::Zstd), ("GZIP", Compression::Gzip)];
        let kind = kinds.into_iter().find(|(kind, _)| self.has(&format!("MODULE_COMPRESS_{kind}")));
        KernelPolicy {
            signatures: Some(self.has("MODULE_SIG")),
            signatures_forced: Some(self.has("MODULE_SIG_FORCE")),
            force_load: Some(self.has("MODULE_FORCE_LOAD")),
            missing_imports_allowed: Some(self.has("MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS")),
            decompression: Some(match (self.has("MODULE_DECOMPRESS"), kind) {
                (false, _) => Decompression::None,
                (true, Some((_, kind))) => Decompression::Of(kind),
                (true, None) => Decompression::Some,
            }),
            types_must_fit: Some(
                self.has("DEBUG_INFO_BTF_MODULES") && !self.has("MODULE_ALLOW_BTF_MISMATCH"),
            ),
            ecdsa: self.built_in("CRYPTO_ECDSA"),
            sha512: self.built_in("CRYPTO_SHA512"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SYMVERS: &str = "0x11111111\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n\
                           0x22222222\tspaced\tvmlinux\tEXPORT_SYMBOL_GPL\tSPACE\n\
                           0x33333333\tllc_add\tnet/llc/llc-core\tEXPORT_SYMBOL_GPL\t\n";
    const CONFIG: &str = "# a comment\nCONFIG_X86_64=y\nCONFIG_SMP=y\nCONFIG_PREEMPT_BUILD=y\n\
                          CONFIG_MODULE_UNLOAD=y\nCONFIG_MODVERSIONS=y\n# CONFIG_MODULE_SIG_FORCE is not set\n\
                          CONFIG_MODULE_SIG=y\nCONFIG_MODULE_COMPRESS_XZ=y\nCONFIG_MODULE_DECOMPRESS=y\n";

    fn headers() -> Headers<'static> {
        Headers {
            symvers: SYMVERS,
            release: "#define UTS_RELEASE \"6.1.0-9-test\"\n",
            config: Some(CONFIG),
            architecture: None,
        }
    }

    #[test]
    fn headers_tell_symbols_version_magic_and_rules() {
        let facts = KernelFacts::from_headers(&headers()).unwrap();
        assert_eq!((facts.release.as_str(), facts.architecture), ("6.1.0-9-test", Architecture::Amd64));
        let magic = facts.vermagic.unwrap();
        assert_eq!(magic.as_str(), "6.1.0-9-test SMP preempt mod_unload modversions ");
        assert!(facts.complete && facts.covers_modules && facts.modversions == Some(true));
        let spaced = KernelSymbol {
            crc: Some(0x2222_2222),
            gpl_only: Some(true),
            namespace: Namespace::Named("SPACE".into()),
            provider: None,
        };
        assert_eq!(facts.exports["spaced"], spaced);
        assert_eq!(facts.exports["llc_add"].provider, Some(ModuleName::new("llc_core").unwrap()));
        assert_eq!((facts.policy.signatures_forced, facts.policy.force_load), (Some(false), Some(false)));
        assert_eq!(facts.policy.decompression, Some(Decompression::Of(Compression::Xz)));
    }

    #[test]
    fn types_must_fit_where_modules_have_them_and_nothing_else_is_allowed() {
        let insists = |more: &str| {
            let config = format!("{CONFIG}{more}");
            let headers = Headers { config: Some(&config), ..headers() };
            KernelFacts::from_headers(&headers).unwrap().policy.types_must_fit
        };
        assert_eq!(insists(""), Some(false));
        assert_eq!(insists("CONFIG_DEBUG_INFO_BTF_MODULES=y\n"), Some(true));
        let allows = "CONFIG_DEBUG_INFO_BTF_MODULES=y\nCONFIG_MODULE_ALLOW_BTF_MISMATCH=y\n";
        assert_eq!(insists(allows), Some(false));
    }

    #[test]
    fn without_a_configuration_the_checksums_tell_whether_there_are_any() {
        let bare = Headers { config: None, architecture: Some(Architecture::Arm64), ..headers() };
        let facts = KernelFacts::from_headers(&bare).unwrap();
        assert_eq!((facts.modversions, facts.vermagic, facts.policy.signatures), (Some(true), None, None));
        let symvers = "0x00000000\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n";
        let facts = KernelFacts::from_headers(&Headers { symvers, ..bare }).unwrap();
        assert_eq!((facts.modversions, facts.exports["printk"].crc), (Some(false), None));
    }

    #[test]
    fn a_randomized_layout_leaves_the_version_magic_open() {
        let config = format!("{CONFIG}CONFIG_RANDSTRUCT=y\n");
        let facts = KernelFacts::from_headers(&Headers { config: Some(&config), ..headers() }).unwrap();
        assert_eq!((facts.vermagic, facts.modversions), (None, Some(true)));
    }

    #[test]
    fn the_namespace_may_stand_third() {
        let (name, symbol) = symbol("0x00000001\ta\tNS\tvmlinux\tEXPORT_SYMBOL", 1).unwrap();
        assert_eq!((name, symbol.namespace), ("a", Namespace::Named("NS".into())));
    }

    #[rstest]
    #[case("nonsense", HeadersError::Symvers(1))]
    #[case("0xzz\ta\tvmlinux\tEXPORT_SYMBOL\t", HeadersError::Symvers(1))]
    #[case("0x1\ta\tvmlinux\tother\t", HeadersError::Symvers(1))]
    #[case("0x1\ta\tb c\tEXPORT_SYMBOL\t", HeadersError::Module { line: 1, source: ModuleNameError::Character(' ') })]
    fn a_broken_line_is_named(#[case] symvers: &str, #[case] expected: HeadersError) {
        assert_eq!(KernelFacts::from_headers(&Headers { symvers, ..headers() }), Err(expected));
    }

    proptest! {
        #[test]
        fn no_text_panics(symvers in "([0x1-9\ta-z_]|EXPORT_SYMBOL|\n){0,40}", config in "(CONFIG_[A-Z0-9_]{1,9}=y\n){0,9}", release in "\\PC{0,20}") {
            let _ = KernelFacts::from_headers(&Headers {
                symvers: &symvers,
                release: &release,
                config: Some(&config),
                architecture: Some(Architecture::Amd64),
            });
        }
    }
}

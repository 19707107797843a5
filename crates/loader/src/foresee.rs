//! What the kernel would refuse, told before anything is taken away for it.
//!
//! What is compared with is what the node itself can show in a moment: one of the running kernel's own modules says which
//! version magic, structure and checksums it takes, and the kernel says what it enforces. What that does not decide is
//! left to the kernel: an attempt that fails is taken back.

use std::fs::{self, File};

use tenon_kmod::facts::{KernelFacts, KernelSymbol};
use tenon_kmod::object::Flaw;
use tenon_kmod::parameters::Parameter;
use tenon_kmod::predict::{Cause, Circumstances, Effect, Enforcement, Reason as Finding, predict};
use tenon_kmod::{KernelRelease, ModuleName, ModuleObject, compression};
use tenon_order::{KmodName, Reason};

use crate::record::{Piece, Source};
use crate::settings::Settings;
use crate::situation::Kernel;
use crate::store::Store;
use crate::{bounded, kernel};

/// A module that would not load.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not tried, and what is loaded stays: {finding}")]
pub struct Refused {
    name: KmodName,
    finding: Finding,
}

impl Refused {
    /// The reason to report.
    pub fn reason(&self) -> Reason {
        match self.finding.cause {
            Cause::Flaw { flaw: Flaw::TypeInformation } => Reason::TypeInformation,
            Cause::InvalidFormat { .. } | Cause::Flaw { .. } | Cause::Packed | Cause::Architecture { .. } => {
                Reason::InvalidFormat
            }
            Cause::ModulesDisabled => Reason::ModulesDisabled,
            Cause::Blacklisted => Reason::Blacklisted,
            Cause::SignatureRejected { .. }
            | Cause::SignatureMalformed { .. }
            | Cause::SignatureBad
            | Cause::SignatureAlgorithm { .. } => Reason::SignatureRejected,
            Cause::StructModuleSize { .. } => Reason::StructModuleSize,
            Cause::ModuleLayout { .. } | Cause::SymbolVersion { .. } => Reason::SymbolVersion,
            Cause::VermagicMismatch { .. } | Cause::NoVermagic => Reason::VersionMagic,
            Cause::NamespaceNotImported { .. } => Reason::NamespaceNotImported,
            Cause::InvalidParameter { .. } => Reason::InvalidParameter,
            _ => Reason::KernelRefused,
        }
    }
}

/// Looks at what came with a bundle and is to be loaded, in this order; `index` is the host's `modules.dep`.
pub fn foresee(
    pieces: &[&Piece],
    found: &Kernel,
    index: &str,
    store: &Store,
    settings: &Settings,
) -> Result<(), Refused> {
    if pieces.is_empty() {
        return Ok(());
    }
    let (Some(facts), mut circumstances) = (facts(index, settings), circumstances(pieces, found, settings))
    else {
        return Ok(());
    };
    for piece in pieces {
        let Some(module) = object(piece, store) else { continue };
        let parameters = piece.parameters.iter().filter_map(|text| Parameter::parse(text).ok());
        circumstances.parameters = parameters.collect();
        let prediction = predict(&module, &facts, &circumstances);
        circumstances.advance(&module, &prediction);
        // What is certain is a refusal, whatever else is not known.
        let certain = prediction.reasons.into_iter().find(|found| matches!(found.effect, Effect::Fails(_)));
        if let Some(finding) = certain {
            return Err(Refused { name: piece.name.clone(), finding });
        }
    }
    Ok(())
}

/// A piece's module; what cannot be read is another's to complain about.
fn object(piece: &Piece, store: &Store) -> Option<ModuleObject> {
    let Source::Store(digest) = piece.source else { return None };
    let bytes = bounded::read(store.verified(digest).ok()?, bounded::MODULE).ok()?;
    ModuleObject::parse(&bytes).ok()
}

/// What one of the kernel's own modules tells of it. One that needs no other: all that it uses is the kernel's.
fn facts(index: &str, settings: &Settings) -> Option<KernelFacts> {
    let release = kernel::release();
    let directory = settings.lib_modules.join(&release);
    let own = index.lines().filter_map(|line| line.split_once(':'));
    let alone = own.filter(|(path, needs)| path.starts_with("kernel/") && needs.trim().is_empty());
    // A few, should one not be there.
    let yardstick = alone.take(3).find_map(|(path, _)| {
        let packed = bounded::read(File::open(directory.join(path)).ok()?, bounded::MODULE).ok()?;
        let bytes = compression::decompress(&packed, bounded::MODULE).ok()?;
        ModuleObject::parse(&bytes).ok().filter(|module| module.info.is_in_tree())
    })?;
    let vermagic = yardstick.info.vermagic()?;
    let known = yardstick.versions.iter().flat_map(|versions| &versions.crcs);
    let symbol = |crc: &u32| KernelSymbol { crc: Some(*crc), ..KernelSymbol::default() };
    let mut facts = KernelFacts::new(KernelRelease::new(release).ok()?, yardstick.architecture);
    facts.modversions = Some(vermagic.has_modversions());
    facts.vermagic = Some(vermagic);
    facts.this_module_size = Some(yardstick.this_module_size);
    facts.exports = known.map(|(name, crc)| (name.clone(), symbol(crc))).collect();
    facts.sources.modules = true;
    Some(facts)
}

/// What will be loaded when these pieces are, and what the kernel enforces.
fn circumstances(pieces: &[&Piece], found: &Kernel, settings: &Settings) -> Circumstances {
    let stays = found.loaded.keys().filter(|name| !pieces.iter().any(|piece| piece.name == **name));
    let mut circumstances = Circumstances {
        modules_disabled: kernel::modules_disabled(settings),
        enforcement: enforcement(settings),
        ..Circumstances::default()
    };
    for name in stays.filter_map(|name| ModuleName::new(name.as_ref()).ok()) {
        circumstances.add_loaded(name);
    }
    circumstances
}

/// Lockdown alone cannot be seen from a container: what it refuses, the kernel says.
fn enforcement(settings: &Settings) -> Enforcement {
    let enforced = fs::read_to_string(settings.sys.join("module/module/parameters/sig_enforce"));
    if enforced.is_ok_and(|text| text.trim() == "Y") {
        Enforcement::Enforced
    } else {
        Enforcement::Permissive
    }
}

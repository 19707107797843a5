//! The loads to try on one kernel.

use std::fmt;

use tenon_kmod::predict::Enforcement;

use crate::broken::{self, Mutant};
use crate::random::Random;
use crate::shelf::{Module, Shelf};

/// One load.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it belongs to.
    pub set: Set,
    /// What it is.
    pub name: String,
    /// The file.
    pub file: Vec<u8>,
    /// The module's parameters.
    pub parameters: &'static str,
}

/// What loads are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// Our drivers.
    Drivers,
    /// The kernels' own modules.
    InTree,
    /// Broken files.
    Broken,
    /// Loads that are about what others have loaded.
    State,
    /// Parameters' values.
    Parameters,
    /// Signatures, whole and broken.
    Signatures,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Drivers => "drivers",
            Self::InTree => "in-tree",
            Self::Broken => "broken",
            Self::State => "state",
            Self::Parameters => "parameters",
            Self::Signatures => "signatures",
        })
    }
}

/// How many of the kernels' own modules are taken.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Of the kernel itself, each alone and with what it needs.
    pub own: usize,
    /// Of each other kernel.
    pub foreign: usize,
    /// Where the choice starts.
    pub seed: u64,
}

/// Loads that meet what those before them have loaded.
pub type Sequence = Vec<Case>;

/// Everything to try on a kernel that enforces nothing.
pub fn permissive(on: &Shelf, all: &[Shelf], size: Size) -> Vec<Sequence> {
    let mut random = Random::new(size.seed);
    let mut sequences = Vec::new();
    for from in all {
        let of = |module: &Module| format!("{} of {}", module.name, from.kernel.release);
        if !from.drivers.is_empty() {
            sequences
                .push(from.drivers.iter().map(|driver| case(Set::Drivers, of(driver), driver)).collect());
        }
        if from.kernel.origin == on.kernel.origin {
            for module in from.sample(&mut random, size.own) {
                sequences.push(vec![case(Set::InTree, of(&module), &module)]);
                let needed = from.with_dependencies(&module);
                if needed.len() > 1 {
                    sequences
                        .push(needed.iter().map(|module| case(Set::InTree, of(module), module)).collect());
                }
            }
        } else {
            let modules = from.sample(&mut random, size.foreign);
            sequences.extend(modules.iter().map(|module| vec![case(Set::InTree, of(module), module)]));
        }
    }
    sequences.extend(broken_files(on));
    sequences.extend(state(on));
    sequences.extend(parameters(on));
    let signed = on.in_tree("llc");
    sequences.extend(each(Set::Signatures, "llc", broken::badly_signed(&signed.file)));
    sequences
}

/// What to try on a kernel that wants signatures.
pub fn enforcing(on: &Shelf, all: &[Shelf]) -> Vec<Sequence> {
    let signed = on.in_tree("llc");
    let mut sequences = each(Set::Signatures, "llc", broken::badly_signed(&signed.file));
    let unsigned = broken::mutants(&signed.file);
    sequences.extend(each(Set::Signatures, "unsigned llc", unsigned));
    sequences.extend(each(Set::Signatures, "", broken::strangers()));
    for from in all {
        let of = |module: &Module| format!("{} of {}", module.name, from.kernel.release);
        sequences.extend(from.drivers.iter().map(|driver| vec![case(Set::Signatures, of(driver), driver)]));
        let own = from.in_tree("dummy");
        sequences.push(vec![case(Set::Signatures, of(&own), &own)]);
    }
    sequences
}

/// The command line's words for an enforcement.
pub fn arguments(enforcement: Enforcement) -> &'static [&'static str] {
    match enforcement {
        Enforcement::Permissive => &[],
        Enforcement::Enforced => &["module.sig_enforce=1"],
        Enforcement::Lockdown => &["lockdown=integrity"],
    }
}

fn broken_files(on: &Shelf) -> Vec<Sequence> {
    let mut bases = vec![on.in_tree("dummy"), on.in_tree("llc")];
    bases.extend(["simple-kmod", "lab-core"].into_iter().filter_map(|name| on.driver(name).cloned()));
    let mut sequences = each(Set::Broken, "", broken::strangers());
    for base in bases {
        // One that offers something, and one of ours.
        let more = ["llc", "simple-kmod"].contains(&base.name.as_str());
        let more = if more { broken::damaged(&base.file) } else { Vec::new() };
        let mutants = broken::mutants(&base.file).into_iter().chain(more);
        let mutants = mutants.filter(|mutant| !kills(&mutant.change, on));
        sequences.extend(each(Set::Broken, &base.name, mutants.collect()));
    }
    let packed = on.packed("dummy");
    sequences.push(vec![Case {
        set: Set::Broken,
        name: "dummy as it is shipped".to_owned(),
        file: packed,
        parameters: "",
    }]);
    sequences
}

/// Whether a kernel may die of a file that newer ones refuse.
fn kills(change: &str, on: &Shelf) -> bool {
    let version = on.facts.release.version().map(|(major, minor, _)| (major, minor));
    let since = |major, minor| version >= Some((major, minor));
    match change {
        "no struct module" => false,
        change if change.ends_with("struct module") => !since(6, 4),
        "a section's name beyond the names"
        | "a symbol's name beyond the names"
        | "symbols' names that do not begin with none"
        | "symbols' names that do not end" => !since(6, 13),
        _ => false,
    }
}

/// Twice the same, two that offer the same, one that lacks what it needs.
fn state(on: &Shelf) -> Vec<Sequence> {
    let mutant = |base: &Module, change: &str| {
        let found = broken::mutant(&base.file, change).unwrap();
        case(
            Set::State,
            format!("{}, {change}", base.name),
            &Module { name: base.name.clone(), file: found.file },
        )
    };
    let plain = |base: &Module| case(Set::State, base.name.clone(), base);
    let (llc, stp) = (on.in_tree("llc"), on.in_tree("stp"));
    let mut sequences = vec![
        vec![plain(&llc), plain(&llc)],
        vec![plain(&llc), mutant(&llc, "another name")],
        vec![mutant(&llc, "another name"), plain(&llc)],
        // What counts is the name in the structure.
        vec![mutant(&llc, "another name in .modinfo alone"), plain(&llc)],
        vec![mutant(&llc, "another name in the structure alone"), plain(&llc)],
        vec![mutant(&llc, "another name in the structure alone"), mutant(&llc, "another name")],
        vec![plain(&stp)],
        vec![plain(&llc), plain(&stp)],
        // What uses a proprietary module's symbols becomes proprietary itself.
        vec![mutant(&llc, "proprietary"), plain(&stp)],
        vec![plain(&llc), mutant(&stp, "proprietary")],
    ];
    if let (Some(core), Some(client)) = (on.driver("lab-core"), on.driver("lab-client")) {
        sequences.extend([
            vec![plain(client)],
            vec![plain(core), plain(core), plain(client), plain(client)],
            vec![plain(core), mutant(core, "another name"), plain(client)],
            vec![mutant(core, "another name"), plain(client)],
            vec![mutant(core, "proprietary"), plain(client)],
            vec![plain(core), mutant(client, "proprietary")],
            vec![plain(core), mutant(client, "no checksums")],
            vec![plain(core), mutant(client, "checksum of the last symbol")],
        ]);
    }
    sequences
}

const PARAMETERS: [&str; 22] = [
    "count=7",
    "count=abc",
    "count=",
    "count",
    "count=99999999999",
    "count=-1",
    "count=0x10",
    "count=010",
    "count=7x",
    "nosuch=1",
    "nosuch",
    "loud",
    "loud=1",
    "loud=maybe",
    "loud=off",
    "numbers=1,2",
    "numbers=1,x",
    "numbers=1,2,3,4,5,6,7,8,9",
    "numbers=",
    "greeting=hello",
    "greeting=\"two words\" count=3",
    "greeting",
];

fn parameters(on: &Shelf) -> Vec<Sequence> {
    let own = on.in_tree("dummy");
    let numdummies = ["numdummies=0", "numdummies=x", "numdummies=99999999999999999999", "nosuch=1"];
    let own = numdummies.map(|parameters| (parameters, &own));
    // Its description says that it is a boolean; its own function takes more.
    let mut last = on.with_dependencies(&on.in_tree("kvm"));
    let kvm = last.pop().map(|kvm| {
        let name = format!("{} nx_huge_pages=never", kvm.name);
        Case { parameters: "nx_huge_pages=never", ..case(Set::Parameters, name, &kvm) }
    });
    let needed = last.iter().map(|module| case(Set::Parameters, module.name.clone(), module));
    let own_reader: Sequence = needed.chain(kvm).collect();
    let driver = on.driver("simple-kmod").into_iter();
    let driver = driver.flat_map(|driver| PARAMETERS.map(|parameters| (parameters, driver)));
    let all = driver.chain(own);
    all.map(|(parameters, module)| {
        let name = format!("{} {parameters}", module.name);
        vec![Case { parameters, ..case(Set::Parameters, name, module) }]
    })
    .chain([own_reader])
    .collect()
}

fn each(set: Set, base: &str, mutants: Vec<Mutant>) -> Vec<Sequence> {
    let case = |mutant: Mutant| {
        let name = if base.is_empty() { mutant.change } else { format!("{base}, {}", mutant.change) };
        vec![Case { set, name, file: mutant.file, parameters: "" }]
    };
    mutants.into_iter().map(case).collect()
}

fn case(set: Set, name: String, module: &Module) -> Case {
    // Left to itself, this one takes the kernel down.
    let parameters = if module.name == "lab-panic" { "mode=slow delay=1" } else { "" };
    Case { set, name, file: module.file.clone(), parameters }
}

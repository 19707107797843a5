//! The order of loading, as `modprobe --show-depends` prints it: dependencies first, soft dependencies around.

use std::collections::BTreeSet;

use super::{DependencyIndex, Entry, Origin};
use crate::ModuleName;

/// One module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub module: ModuleName,
    /// Its file, relative to the directory that `origin` means.
    pub path: String,
    /// Whose directory the path belongs to.
    pub origin: Origin,
    /// Why it is loaded.
    pub role: Role,
}

/// Why a module is part of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It was asked for.
    Target,
    /// Without it, something asked for does not load.
    Dependency,
    /// A soft dependency, or needed by one: when it does not load, the rest is loaded all the same.
    Soft,
}

/// Why there is no order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// A module that is needed, or asked for, is nowhere.
    #[error("no module {}: needed by {}", last(.chain), arrows(.chain))]
    Missing {
        /// From the one asked for to the one that is missing.
        chain: Vec<ModuleName>,
    },
    /// Modules need each other.
    #[error("modules need each other: {}", arrows(.chain))]
    Cycle {
        /// From the one asked for to the one that comes a second time.
        chain: Vec<ModuleName>,
    },
    /// No real set of modules is like that.
    #[error(
        "the dependencies of {target} are nested deeper than {MAX_DEPTH}, or wish for each other in too many ways"
    )]
    TooComplex {
        /// The module asked for.
        target: ModuleName,
    },
}

/// How deep dependencies may be nested. In-tree modules reach about 15.
const MAX_DEPTH: usize = 256;

/// How many modules and wishes are looked at for one order. All modules of a distribution's kernel are about 5,000; soft
/// dependencies that fail are looked at again.
const MAX_VISITS: usize = 20_000;

impl DependencyIndex {
    /// What to load for a module, in order, itself included. Empty when it is part of the kernel.
    pub fn load_order(&self, target: &ModuleName) -> Result<Vec<Step>, OrderError> {
        let mut walk = Walk {
            index: self,
            steps: Vec::new(),
            done: BTreeSet::new(),
            path: Vec::new(),
            visits: 0,
            exceeded: false,
        };
        let visited = walk.visit(target, Role::Target);
        if walk.exceeded {
            return Err(OrderError::TooComplex { target: target.clone() });
        }
        visited.map(|()| walk.steps)
    }

    /// What to unload for a module, in order: the reverse of loading. What others still use must be skipped by the caller,
    /// who sees reference counts.
    pub fn unload_order(&self, target: &ModuleName) -> Result<Vec<Step>, OrderError> {
        let mut steps = self.load_order(target)?;
        steps.reverse();
        Ok(steps)
    }
}

struct Walk<'a> {
    index: &'a DependencyIndex,
    steps: Vec<Step>,
    done: BTreeSet<ModuleName>,
    /// The modules that wait for the one being visited. As deep as the longest chain.
    path: Vec<ModuleName>,
    visits: usize,
    exceeded: bool,
}

impl Walk<'_> {
    fn visit(&mut self, module: &ModuleName, role: Role) -> Result<(), OrderError> {
        if self.done.contains(module) || self.index.is_builtin(module) {
            return Ok(());
        }
        let chain = || self.path.iter().chain([module]).cloned().collect();
        if self.path.contains(module) {
            return Err(OrderError::Cycle { chain: chain() });
        }
        let wishes = self.index.get(module).map_or(0, |entry| entry.soft.pre.len() + entry.soft.post.len());
        self.visits += 1 + wishes;
        self.exceeded |= self.visits > MAX_VISITS || self.path.len() >= MAX_DEPTH;
        if self.exceeded {
            return Err(OrderError::TooComplex { target: module.clone() });
        }
        let Some(entry) = self.index.get(module) else { return Err(OrderError::Missing { chain: chain() }) };
        self.path.push(module.clone());
        let visited = self.visit_around(module, entry, role);
        self.path.pop();
        visited
    }

    fn visit_around(&mut self, module: &ModuleName, entry: &Entry, role: Role) -> Result<(), OrderError> {
        let needed = if role == Role::Soft { Role::Soft } else { Role::Dependency };
        for dependency in &entry.depends {
            self.visit(dependency, needed)?;
        }
        let wished =
            |names: &[String]| names.iter().flat_map(|name| self.index.resolve(name)).collect::<Vec<_>>();
        let (before, after) = (wished(&entry.soft.pre), wished(&entry.soft.post));
        // A wish for something that needs this very module can only be met afterwards.
        let postponed: Vec<ModuleName> = before.into_iter().filter(|wish| !self.try_visit(wish)).collect();
        self.steps.push(Step {
            module: module.clone(),
            path: entry.path.clone(),
            origin: entry.origin,
            role,
        });
        self.done.insert(module.clone());
        for wish in postponed.iter().chain(&after) {
            self.try_visit(wish);
        }
        Ok(())
    }

    /// Visits a soft dependency with all that it needs, or leaves no trace of it. Whether it is done.
    fn try_visit(&mut self, module: &ModuleName) -> bool {
        let kept = self.steps.len();
        if self.visit(module, Role::Soft).is_ok() {
            return true;
        }
        for step in self.steps.drain(kept..) {
            self.done.remove(&step.module);
        }
        false
    }
}

fn last(chain: &[ModuleName]) -> &str {
    chain.last().map_or("", ModuleName::as_str)
}

fn arrows(chain: &[ModuleName]) -> String {
    chain.iter().map(ModuleName::as_str).collect::<Vec<_>>().join(" -> ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> ModuleName {
        ModuleName::new(text).unwrap()
    }

    fn index(dep: &str, softdep: &str) -> DependencyIndex {
        let mut index = DependencyIndex::from_modules_dep(dep).unwrap();
        index.add_modules_softdep(softdep);
        index
    }

    fn order(index: &DependencyIndex, target: &str) -> Vec<(String, Role)> {
        let steps = index.load_order(&name(target)).unwrap();
        steps.into_iter().map(|step| (step.module.to_string(), step.role)).collect()
    }

    fn names(index: &DependencyIndex, target: &str) -> Vec<String> {
        order(index, target).into_iter().map(|(name, _)| name).collect()
    }

    fn text(numbers: std::ops::Range<u32>, line: impl Fn(u32) -> String) -> String {
        numbers.map(line).collect::<Vec<_>>().concat()
    }

    const BRIDGE: &str = "bridge.ko: stp.ko llc.ko\nstp.ko: llc.ko\nllc.ko:\n";

    #[test]
    fn dependencies_come_first() {
        let index = index(BRIDGE, "");
        let expected = [("llc", Role::Dependency), ("stp", Role::Dependency), ("bridge", Role::Target)];
        assert_eq!(order(&index, "bridge"), expected.map(|(name, role)| (name.to_owned(), role)));
        let unload = index.unload_order(&name("bridge")).unwrap();
        assert_eq!(
            unload.iter().map(|step| step.module.as_str()).collect::<Vec<_>>(),
            ["bridge", "stp", "llc"]
        );
    }

    #[test]
    fn soft_dependencies_stand_around_and_may_be_missing() {
        let index = index("a.ko:\nb.ko: c.ko\nc.ko:\nd.ko:\n", "softdep a pre: b gone post: d\n");
        let expected = [("c", Role::Soft), ("b", Role::Soft), ("a", Role::Target), ("d", Role::Soft)];
        assert_eq!(order(&index, "a"), expected.map(|(name, role)| (name.to_owned(), role)));
    }

    #[test]
    fn a_soft_dependency_whose_own_dependency_is_missing_leaves_no_trace() {
        let index = index("a.ko:\nb.ko: gone.ko c.ko\nc.ko:\n", "softdep a pre: b\n");
        assert_eq!(names(&index, "a"), ["a"]);
    }

    #[test]
    fn a_soft_dependency_that_needs_the_module_comes_after_it() {
        let index = index("a.ko:\nb.ko: a.ko\n", "softdep a pre: b\n");
        assert_eq!(names(&index, "a"), ["a", "b"]);
        assert_eq!(names(&index, "b"), ["a", "b"]);
    }

    #[test]
    fn modules_that_wish_for_each_other_are_loaded_once() {
        let index = index("a.ko:\nb.ko:\n", "softdep a pre: b\nsoftdep b pre: a\n");
        assert_eq!(names(&index, "a"), ["b", "a"]);
    }

    #[test]
    fn a_cycle_and_a_gap_name_their_chains() {
        let cycle = index("a.ko: b.ko\nb.ko: c.ko\nc.ko: b.ko\n", "").load_order(&name("a")).unwrap_err();
        assert_eq!(cycle.to_string(), "modules need each other: a -> b -> c -> b");
        let gap = index("a.ko: b.ko\nb.ko: c.ko\n", "").load_order(&name("a")).unwrap_err();
        assert_eq!(gap.to_string(), "no module c: needed by a -> b -> c");
        assert_eq!(
            DependencyIndex::default().load_order(&name("x")),
            Err(OrderError::Missing { chain: vec![name("x")] })
        );
    }

    #[test]
    fn what_is_part_of_the_kernel_needs_no_loading() {
        let mut index = index("a.ko: llc.ko\n", "");
        index.add_modules_builtin("kernel/net/llc/llc.ko\n").unwrap();
        assert_eq!(names(&index, "a"), ["a"]);
        assert_eq!(index.load_order(&name("llc")), Ok(Vec::new()));
    }

    #[test]
    fn a_loading_order_is_kept_where_the_modules_exist() {
        let mut index = index("a.ko:\nb.ko:\nc.ko:\n", "");
        index.add_loading_order(&[name("a"), name("b"), name("c")]);
        assert_eq!(names(&index, "a"), ["c", "b", "a"]);
    }

    #[test]
    fn made_up_complexity_ends_in_an_error() {
        let chain = text(0..100_000, |n| format!("m{n}.ko: m{}.ko\n", n + 1));
        assert_eq!(
            index(&chain, "").load_order(&name("m0")),
            Err(OrderError::TooComplex { target: name("m0") })
        );
        // Each wish fails, and is tried before and after.
        let gaps = text(0..62, |n| format!("m{n}.ko: {}\n", if n > 40 { "gone.ko" } else { "" }));
        let wishes = text(0..60, |n| format!("softdep m{n} pre: m{} m{}\n", n + 1, n + 2));
        assert!(index(&gaps, &wishes).load_order(&name("m0")).is_ok());
        let everyone = text(0..40, |n| format!("m{n} "));
        let rivals = text(0..40, |n| format!("softdep m{n} pre: {everyone}\n"));
        let needy = text(0..40, |n| format!("m{n}.ko: {}\n", if n % 2 == 1 { "m0.ko" } else { "" }));
        let loaded = index(&needy, &rivals).load_order(&name("m0"));
        assert!(loaded.as_ref().map_or(true, |steps| steps.len() == 40), "{loaded:?}");
    }

    proptest! {
        #[test]
        fn every_order_loads_each_module_once_and_after_its_dependencies(
            hard in prop::collection::vec((0..8_u8, 0..8_u8), 0..16),
            soft in prop::collection::vec((0..8_u8, 0..8_u8, any::<bool>()), 0..10),
        ) {
            let needs = |module| {
                let needed = hard.iter().filter(|(from, _)| u32::from(*from) == module);
                needed.map(|(_, to)| format!(" m{to}.ko")).collect::<Vec<_>>().concat()
            };
            let dep = text(0..8, |module| format!("m{module}.ko:{}\n", needs(module)));
            let wish = |&(from, to, pre)| format!("softdep m{from} {} m{to}\n", if pre { "pre:" } else { "post:" });
            let softdep = soft.iter().map(wish).collect::<Vec<String>>().concat();
            let index = index(&dep, &softdep);
            if let Ok(steps) = index.load_order(&name("m0")) {
                let mut loaded = BTreeSet::new();
                for step in steps {
                    let entry = index.get(&step.module).unwrap();
                    prop_assert!(entry.depends.iter().all(|dependency| loaded.contains(dependency)));
                    prop_assert!(loaded.insert(step.module));
                }
                prop_assert!(loaded.contains(&name("m0")));
            }
        }

        #[test]
        fn no_index_panics(text in "([ab./:\\- ]|post:|pre:|softdep |alias |\\.ko|\n){0,40}") {
            let mut index = DependencyIndex::from_modules_dep(&text).unwrap_or_default();
            index.add_modules_softdep(&text);
            index.add_modules_alias(&text);
            let _ = (index.add_modules_builtin(&text), index.load_order(&name("a")), index.resolve(&text));
        }
    }
}

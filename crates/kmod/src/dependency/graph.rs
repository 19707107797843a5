//! An index made from the modules themselves, for images that were made without `depmod`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{DependencyIndex, Entry, Origin};
use crate::name::ModuleName;
use crate::object::ModuleObject;

/// Why modules do not make an index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Two files are the same module.
    #[error("module {name} is there twice: {first} and {second}")]
    Duplicate {
        /// The module.
        name: ModuleName,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
}

impl DependencyIndex {
    /// Makes an index from modules and their paths. A module needs those that its `depends=` names, and those of the set
    /// that export what it imports: tools that strip or merge modules lose the first, never the second.
    pub fn from_objects<'a>(
        modules: impl IntoIterator<Item = (&'a str, &'a ModuleObject)>,
    ) -> Result<Self, GraphError> {
        let mut objects: BTreeMap<&ModuleName, (&str, &ModuleObject)> = BTreeMap::new();
        for (path, module) in modules {
            if let Some((first, _)) = objects.insert(&module.name, (path, module)) {
                let name = module.name.clone();
                return Err(GraphError::Duplicate { name, first: first.to_owned(), second: path.to_owned() });
            }
        }
        let mut providers: HashMap<&str, &ModuleName> = HashMap::new();
        for (name, (_, module)) in &objects {
            // Of two that offer one symbol only one can be loaded; the first by name is as good as the other.
            module.exports.iter().for_each(|export| {
                providers.entry(&export.symbol).or_insert(name);
            });
        }
        let mut index = Self::default();
        for (&name, &(path, module)) in &objects {
            let depends = dependencies(module, &providers);
            let soft = module.info.soft_dependencies();
            index
                .modules
                .insert(name.clone(), Entry { path: path.to_owned(), origin: Origin::Own, depends, soft });
        }
        for (name, (_, module)) in objects {
            index.add_aliases(name, module.info.aliases());
        }
        Ok(index)
    }
}

/// The order in which to load all modules of a set, as places in it: each behind what it needs of the set, otherwise as
/// they stand. Modules that need each other in a circle stay as they stand, too.
pub fn load_sequence(modules: &[&ModuleObject]) -> Vec<usize> {
    let mut providers: HashMap<&str, &ModuleName> = HashMap::new();
    for module in modules {
        module.exports.iter().for_each(|export| {
            providers.entry(&export.symbol).or_insert(&module.name);
        });
    }
    let in_set: BTreeSet<&ModuleName> = modules.iter().map(|module| &module.name).collect();
    let mut waiting: Vec<(usize, &ModuleName, Vec<ModuleName>)> = modules
        .iter()
        .enumerate()
        .map(|(place, module)| {
            let mut depends = dependencies(module, &providers);
            depends.retain(|name| in_set.contains(name) && *name != module.name);
            (place, &module.name, depends)
        })
        .collect();
    let mut placed = BTreeSet::new();
    let mut sequence = Vec::new();
    while !waiting.is_empty() {
        let ready = |(_, _, depends): &(usize, &ModuleName, Vec<ModuleName>)| {
            depends.iter().all(|name| placed.contains(name))
        };
        let next = waiting.iter().position(ready).unwrap_or(0);
        let (place, name, _) = waiting.remove(next);
        placed.insert(name);
        sequence.push(place);
    }
    sequence
}

fn dependencies(module: &ModuleObject, providers: &HashMap<&str, &ModuleName>) -> Vec<ModuleName> {
    let mut depends: Vec<ModuleName> = module.info.depends().collect();
    for import in &module.imports {
        if let Some(&provider) = providers.get(import.symbol.as_str())
            && *provider != module.name
            && !depends.contains(provider)
        {
            depends.push(provider.clone());
        }
    }
    depends
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::fixture::{AMD64, Fixture};

    fn object(fixture: Fixture) -> ModuleObject {
        ModuleObject::parse(&fixture.build()).unwrap()
    }

    fn order(index: &DependencyIndex, target: &str) -> Vec<String> {
        let steps = index.load_order(&ModuleName::new(target).unwrap()).unwrap();
        steps.into_iter().map(|step| step.path).collect()
    }

    #[test]
    fn a_set_is_loaded_in_the_order_of_its_needs_and_circles_end() {
        let module = |name: &str, needs: &str, offers: &str| {
            let fixture = Fixture::new(AMD64, name).import(needs, None).export(offers, None, false, 1);
            ModuleObject::parse(&fixture.build()).unwrap()
        };
        let (client, core, alone) =
            (module("client", "open", "x"), module("core", "printk", "open"), module("alone", "kfree", "y"));
        assert_eq!(load_sequence(&[&client, &alone, &core]), [1, 2, 0]);
        let (one, two) = (module("one", "b", "a"), module("two", "a", "b"));
        assert_eq!(load_sequence(&[&one, &two]), [0, 1]);
    }

    #[test]
    fn modules_are_ordered_by_what_they_say_and_by_what_they_use() {
        let base = object(Fixture::new(AMD64, "lab_base").export("lab_open", None, false, 1));
        let middle = object(
            Fixture::new(AMD64, "lab-middle")
                .info("depends", "lab_base")
                .info("softdep", "pre: lab-extra")
                .info("alias", "lab-thing"),
        );
        let top =
            object(Fixture::new(AMD64, "lab_top").info("depends", "lab_middle").import("lab_open", Some(1)));
        let extra = object(Fixture::new(AMD64, "lab_extra"));
        let index = DependencyIndex::from_objects([
            ("t.ko", &top),
            ("m.ko", &middle),
            ("b.ko", &base),
            ("x.ko", &extra),
        ])
        .unwrap();
        assert_eq!(order(&index, "lab_top"), ["b.ko", "x.ko", "m.ko", "t.ko"]);
        assert_eq!(index.resolve("lab-thing"), [ModuleName::new("lab_middle").unwrap()]);
    }

    #[test]
    fn an_import_is_enough() {
        let base = object(Fixture::new(AMD64, "base").export("lab_open", None, false, 1));
        let top = object(Fixture::new(AMD64, "top").import("lab_open", None).import("_printk", None));
        let index = DependencyIndex::from_objects([("top.ko", &top), ("base.ko", &base)]).unwrap();
        assert_eq!(order(&index, "top"), ["base.ko", "top.ko"]);
    }

    #[test]
    fn a_module_is_there_once() {
        let module = object(Fixture::new(AMD64, "a"));
        let error = DependencyIndex::from_objects([("x/a.ko", &module), ("y/a.ko", &module)]).unwrap_err();
        assert_eq!(error.to_string(), "module a is there twice: x/a.ko and y/a.ko");
    }
}

//! The index that `depmod` writes beside the modules: `modules.dep`, `modules.softdep`, `modules.alias` and
//! `modules.builtin`, as texts. (The `.bin` files of the same names only add speed.)

use std::collections::{BTreeMap, BTreeSet};

use super::pattern;
use crate::name::{ModuleName, ModuleNameError};
use crate::object::SoftDependencies;

/// The modules of one `lib/modules/<kernel>` directory, or of two laid over each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DependencyIndex {
    pub(super) modules: BTreeMap<ModuleName, Entry>,
    pub(super) builtin: BTreeSet<ModuleName>,
    /// In the file's order, with `_` for `-`: several modules may answer to one alias.
    aliases: Vec<(String, ModuleName)>,
}

/// One module of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its file, relative to the directory of the index.
    pub path: String,
    /// In which of two indexes it was found.
    pub origin: Origin,
    /// What must be loaded before it, first things first.
    pub depends: Vec<ModuleName>,
    /// What should be loaded around it where it exists.
    pub soft: SoftDependencies,
}

/// Whose directory a module's path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The index itself.
    Own,
    /// The index that was laid under it: the host's, under an image's.
    Fallback,
}

/// Why a text is not such an index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// A line has no colon.
    #[error("line {line} of modules.dep has no colon")]
    NoColon {
        /// Counted from 1.
        line: usize,
    },
    /// A path leaves the directory.
    #[error("line {line} of {file} names {path:?}, which leaves the directory")]
    Path {
        /// Which file.
        file: &'static str,
        /// Counted from 1.
        line: usize,
        /// The path.
        path: String,
    },
    /// A file's name is no module's.
    #[error("line {line} of {file} names {path:?}")]
    Name {
        /// Which file.
        file: &'static str,
        /// Counted from 1.
        line: usize,
        /// The path.
        path: String,
        /// What is wrong with the name.
        #[source]
        source: ModuleNameError,
    },
}

impl DependencyIndex {
    /// Reads a `modules.dep`: `<path>: <paths of what it needs, last things first>`.
    pub fn from_modules_dep(text: &str) -> Result<Self, IndexError> {
        let mut index = Self::default();
        for (line, content) in lines(text) {
            let (path, needs) = content.split_once(':').ok_or(IndexError::NoColon { line })?;
            let name = |path| checked_name("modules.dep", line, path);
            let depends = needs.split_ascii_whitespace().rev().map(name).collect::<Result<_, _>>()?;
            let entry = Entry {
                path: path.to_owned(),
                origin: Origin::Own,
                depends,
                soft: SoftDependencies::default(),
            };
            // modprobe, too, takes the first of two files of one name.
            index.modules.entry(name(path)?).or_insert(entry);
        }
        Ok(index)
    }

    /// Adds a `modules.softdep`: `softdep <module> pre: a b post: c`. All lines of a module count. Other lines are left
    /// out, as modprobe does.
    pub fn add_modules_softdep(&mut self, text: &str) {
        for (_, line) in lines(text) {
            let Some(("softdep", rest)) = line.split_once([' ', '\t']) else { continue };
            let Some((module, soft)) = rest.trim_start().split_once([' ', '\t']) else { continue };
            if let Some(entry) = ModuleName::new(module).ok().and_then(|name| self.modules.get_mut(&name)) {
                entry.soft.extend_from(soft);
            }
        }
    }

    /// Adds a `modules.alias`: `alias <pattern> <module>`. Other lines are left out.
    pub fn add_modules_alias(&mut self, text: &str) {
        for (_, line) in lines(text) {
            let mut words = line.split_ascii_whitespace();
            let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if let Ok(module) = ModuleName::new(module) {
                self.aliases.push((underscored(pattern), module));
            }
        }
    }

    pub(super) fn add_aliases<'a>(&mut self, module: &ModuleName, patterns: impl Iterator<Item = &'a str>) {
        self.aliases.extend(patterns.map(|pattern| (underscored(pattern), module.clone())));
    }

    /// Adds a `modules.builtin`: one path a line. Such modules are part of the kernel and need no loading.
    pub fn add_modules_builtin(&mut self, text: &str) -> Result<(), IndexError> {
        for (line, path) in lines(text) {
            self.builtin.insert(checked_name("modules.builtin", line, path)?);
        }
        Ok(())
    }

    /// Lays this index over another: what it does not have is taken from there.
    #[must_use]
    pub fn over(mut self, fallback: Self) -> Self {
        for (name, entry) in fallback.modules {
            self.modules.entry(name).or_insert(Entry { origin: Origin::Fallback, ..entry });
        }
        self.builtin.extend(fallback.builtin);
        self.aliases.extend(fallback.aliases);
        self
    }

    /// Wishes for an order: of `[a, b, c]`, `b` is loaded before `a` and `c` before `b`, each where it exists. The form
    /// of `modulesLoadingOrder`.
    pub fn add_loading_order(&mut self, order: &[ModuleName]) {
        for pair in order.windows(2) {
            if let [module, before] = pair
                && let Some(entry) = self.modules.get_mut(module)
            {
                entry.soft.pre.push(before.to_string());
            }
        }
    }

    /// A module's entry.
    pub fn get(&self, name: &ModuleName) -> Option<&Entry> {
        self.modules.get(name)
    }

    /// Whether a module is part of the kernel.
    pub fn is_builtin(&self, name: &ModuleName) -> bool {
        self.builtin.contains(name) && !self.modules.contains_key(name)
    }

    /// All modules, by name.
    pub fn modules(&self) -> impl Iterator<Item = (&ModuleName, &Entry)> {
        self.modules.iter()
    }

    /// The modules that a name means: the module itself, else every module with an alias that matches.
    pub fn resolve(&self, name: &str) -> Vec<ModuleName> {
        match ModuleName::new(name) {
            Ok(module) if self.modules.contains_key(&module) || self.builtin.contains(&module) => {
                vec![module]
            }
            _ => {
                let mut found = Vec::new();
                let wanted = name.replace('-', "_");
                for (alias, module) in &self.aliases {
                    if pattern::matches(alias, &wanted) && !found.contains(module) {
                        found.push(module.clone());
                    }
                }
                found
            }
        }
    }
}

/// A pattern with `_` for `-`, except between brackets, where `-` makes a range.
fn underscored(pattern: &str) -> String {
    let mut bracket = false;
    let letter = |c: char| {
        bracket = (bracket || c == '[') && c != ']';
        if c == '-' && !bracket { '_' } else { c }
    };
    pattern.chars().map(letter).collect()
}

/// The lines that hold something, counted from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn checked_name(file: &'static str, line: usize, path: &str) -> Result<ModuleName, IndexError> {
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(IndexError::Path { file, line, path: path.to_owned() });
    }
    ModuleName::from_path(path).map_err(|source| IndexError::Name {
        file,
        line,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn name(text: &str) -> ModuleName {
        ModuleName::new(text).unwrap()
    }

    #[test]
    fn modules_dep_lists_the_last_things_first() {
        let index = DependencyIndex::from_modules_dep(
            "kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\nkernel/net/llc/llc.ko:\n\n",
        )
        .unwrap();
        let bridge = index.get(&name("bridge")).unwrap();
        assert_eq!(bridge.path, "kernel/net/bridge/bridge.ko");
        assert_eq!(bridge.depends, [name("llc"), name("stp")]);
        assert_eq!(index.get(&name("llc")).unwrap().depends, []);
    }

    #[rstest]
    #[case("a.ko b.ko", IndexError::NoColon { line: 1 })]
    #[case("\na.ko: ../b.ko", IndexError::Path { file: "modules.dep", line: 2, path: "../b.ko".into() })]
    #[case("/a.ko:", IndexError::Path { file: "modules.dep", line: 1, path: "/a.ko".into() })]
    #[case("kernel/:", IndexError::Name { file: "modules.dep", line: 1, path: "kernel/".into(), source: ModuleNameError::Empty })]
    fn a_bad_modules_dep_is_refused(#[case] text: &str, #[case] expected: IndexError) {
        assert_eq!(DependencyIndex::from_modules_dep(text), Err(expected));
    }

    #[test]
    fn several_softdep_lines_of_a_module_add_up() {
        let mut index = DependencyIndex::from_modules_dep("my-fs.ko:\n").unwrap();
        index.add_modules_softdep("# comment\nsoftdep my_fs pre: crc32c\nsoftdep my-fs pre: b post: c\nsoftdep other pre: d\nsoftdep my_fs\n");
        let soft = &index.get(&name("my_fs")).unwrap().soft;
        assert_eq!(
            (soft.pre.as_slice(), soft.post.as_slice()),
            (&["crc32c".into(), "b".into()][..], &["c".into()][..])
        );
    }

    #[test]
    fn a_name_is_a_module_before_it_is_an_alias() {
        let mut index = DependencyIndex::from_modules_dep("a.ko:\nb.ko:\n").unwrap();
        index.add_modules_alias(
            "alias a b\nalias crypto-[a-c]rc32c* b\nalias crypto-crc32c a\nalias broken\n",
        );
        assert_eq!(index.resolve("a"), [name("a")]);
        assert_eq!(index.resolve("crypto_crc32c"), [name("b"), name("a")]);
        assert_eq!(index.resolve("nothing"), []);
    }

    #[test]
    fn an_image_is_laid_over_its_host() {
        let image = DependencyIndex::from_modules_dep("extra/a.ko:\n").unwrap();
        let mut host = DependencyIndex::from_modules_dep("kernel/a.ko:\nkernel/b.ko:\n").unwrap();
        host.add_modules_builtin("kernel/lib/libcrc32c.ko\n").unwrap();
        let both = image.over(host);
        let place = |module| both.get(&name(module)).map(|entry| (entry.path.as_str(), entry.origin));
        assert_eq!(place("a"), Some(("extra/a.ko", Origin::Own)));
        assert_eq!(place("b"), Some(("kernel/b.ko", Origin::Fallback)));
        assert!(both.is_builtin(&name("libcrc32c")) && !both.is_builtin(&name("b")));
    }
}

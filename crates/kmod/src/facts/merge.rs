//! Facts of one kernel from two sources.

use super::{KernelFacts, KernelSymbol, Namespace, Sources};

/// Why two sets of facts are not of one kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// They contradict one another.
    #[error("merge facts of kernel {release}: {what} is {first} in one and {second} in the other")]
    Contradiction {
        /// The kernel of the first.
        release: String,
        /// About what.
        what: String,
        /// What the first says.
        first: String,
        /// What the second says.
        second: String,
    },
}

impl KernelFacts {
    /// As [`Self::merge`], where there may be no first source yet.
    pub fn join(first: Option<Self>, other: Self) -> Result<Self, MergeError> {
        match first {
            Some(first) => first.merge(other),
            None => Ok(other),
        }
    }

    /// Joins what two sources say about one kernel: what one leaves open the other may fill. Where both speak they must
    /// agree; if not, they are of different kernels, and neither would be right for both.
    pub fn merge(mut self, other: Self) -> Result<Self, MergeError> {
        let release = self.release.to_string();
        let judge = Agreement { release: &release };
        judge.same("release", Some(&self.release), Some(&other.release))?;
        judge.same("architecture", Some(&self.architecture), Some(&other.architecture))?;
        judge.same("build identifier", self.build_id.as_ref(), other.build_id.as_ref())?;
        judge.same("version magic", self.vermagic.as_ref(), other.vermagic.as_ref())?;
        judge.same(
            "size of struct module",
            self.this_module_size.as_ref(),
            other.this_module_size.as_ref(),
        )?;
        judge.same("MODVERSIONS", self.modversions.as_ref(), other.modversions.as_ref())?;
        for (name, theirs) in other.exports {
            match self.exports.remove(&name) {
                None => self.exports.insert(name, theirs),
                Some(ours) => {
                    let joined = judge.symbol(&name, ours, theirs)?;
                    self.exports.insert(name, joined)
                }
            };
        }
        Ok(Self {
            build_id: self.build_id.or(other.build_id),
            vermagic: self.vermagic.or(other.vermagic),
            this_module_size: self.this_module_size.or(other.this_module_size),
            modversions: self.modversions.or(other.modversions),
            complete: self.complete || other.complete,
            covers_modules: self.covers_modules || other.covers_modules,
            sources: Sources {
                image: self.sources.image || other.sources.image,
                headers: self.sources.headers || other.sources.headers,
                modules: self.sources.modules || other.sources.modules,
            },
            policy: self.policy.or(other.policy),
            ..self
        })
    }
}

struct Agreement<'a> {
    release: &'a str,
}

impl Agreement<'_> {
    fn same<T: PartialEq + ToString>(
        &self,
        what: &str,
        first: Option<&T>,
        second: Option<&T>,
    ) -> Result<(), MergeError> {
        match (first, second) {
            (Some(first), Some(second)) if first != second => Err(MergeError::Contradiction {
                release: self.release.to_owned(),
                what: what.to_owned(),
                first: first.to_string(),
                second: second.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// A source that knows users of a symbol only does not know who provides it: a named provider wins over none.
    fn symbol(
        &self,
        name: &str,
        ours: KernelSymbol,
        theirs: KernelSymbol,
    ) -> Result<KernelSymbol, MergeError> {
        let about = |what: &str| format!("{what} of symbol {name}");
        self.same(&about("the checksum"), ours.crc.as_ref(), theirs.crc.as_ref())?;
        self.same(&about("the GPL flag"), ours.gpl_only.as_ref(), theirs.gpl_only.as_ref())?;
        self.same(&about("the module"), ours.provider.as_ref(), theirs.provider.as_ref())?;
        let text = |namespace: &Namespace| match namespace {
            Namespace::Unknown => None,
            Namespace::Global => Some(String::new()),
            Namespace::Named(name) => Some(name.clone()),
        };
        self.same(&about("the namespace"), text(&ours.namespace).as_ref(), text(&theirs.namespace).as_ref())?;
        Ok(KernelSymbol {
            crc: ours.crc.or(theirs.crc),
            gpl_only: ours.gpl_only.or(theirs.gpl_only),
            namespace: match ours.namespace {
                Namespace::Unknown => theirs.namespace,
                known => known,
            },
            provider: ours.provider.or(theirs.provider),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModuleName;
    use crate::facts::{BuildId, Decompression};
    use crate::object::Architecture;
    use crate::release::KernelRelease;

    fn facts(symbol: KernelSymbol) -> KernelFacts {
        let release = KernelRelease::new("6.1.0-9-test").unwrap();
        let mut facts = KernelFacts::new(release, Architecture::Amd64);
        facts.exports.insert("shared".to_owned(), symbol);
        facts
    }

    #[test]
    fn each_source_fills_what_the_other_leaves_open() {
        let mut first = facts(KernelSymbol { crc: Some(7), ..KernelSymbol::default() });
        first.sources.modules = true;
        first.this_module_size = Some(896);
        first.policy.decompression = Some(Decompression::Some);
        let provider = ModuleName::new("llc").unwrap();
        let mut second = facts(KernelSymbol {
            gpl_only: Some(true),
            namespace: Namespace::Named("N".into()),
            provider: Some(provider.clone()),
            crc: None,
        });
        second.sources.image = true;
        second.complete = true;
        second.build_id = Some(BuildId::new([1]).unwrap());
        second.policy.decompression = Some(Decompression::Of(crate::compression::Compression::Xz));
        second.exports.insert("own".to_owned(), KernelSymbol::default());
        let merged = first.clone().merge(second.clone()).unwrap();
        assert_eq!(merged, second.clone().merge(first).unwrap());
        assert!(merged.complete && merged.sources.image && merged.sources.modules);
        assert_eq!((merged.this_module_size, merged.build_id.clone()), (Some(896), second.build_id));
        assert_eq!(merged.policy.decompression, second.policy.decompression);
        let joined = KernelSymbol {
            crc: Some(7),
            gpl_only: Some(true),
            namespace: Namespace::Named("N".into()),
            provider: Some(provider),
        };
        assert_eq!((&merged.exports["shared"], merged.exports.len()), (&joined, 2));
    }

    #[test]
    fn facts_of_two_builds_are_not_joined() {
        let symbol = |crc| KernelSymbol { crc: Some(crc), ..KernelSymbol::default() };
        let error = facts(symbol(1)).merge(facts(symbol(2))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "merge facts of kernel 6.1.0-9-test: the checksum of symbol shared is 1 in one and 2 in the other"
        );
        let mut other = facts(symbol(1));
        other.release = KernelRelease::new("6.1.0-10-test").unwrap();
        assert!(facts(symbol(1)).merge(other).is_err());
    }
}

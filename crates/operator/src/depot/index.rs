//! What the cache holds, and what has to go when there is too much. Values only; the files are the cache's.

use std::collections::HashMap;

use tenon_order::Digest;

/// One bundle on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Bytes on disk.
    pub(super) size: u64,
    /// The digest of these bytes; none while nobody has checked them since the process started.
    pub(super) checked: Option<Digest>,
    /// Larger means used later.
    used: u64,
}

/// All bundles on disk.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<Digest, Entry>,
    bytes: u64,
    clock: u64,
}

impl Index {
    /// The bundle is there, and has just been used.
    pub(super) fn put(&mut self, bundle: Digest, size: u64, checked: Option<Digest>) {
        self.remove(&bundle);
        self.clock += 1;
        self.bytes = self.bytes.saturating_add(size);
        self.entries.insert(bundle, Entry { size, checked, used: self.clock });
    }

    /// The bundle, if it is there; it is used now.
    pub(super) fn touch(&mut self, bundle: &Digest) -> Option<Entry> {
        self.clock += 1;
        let entry = self.entries.get_mut(bundle)?;
        entry.used = self.clock;
        Some(*entry)
    }

    pub(super) fn contains(&self, bundle: &Digest) -> bool {
        self.entries.contains_key(bundle)
    }

    pub(super) fn remove(&mut self, bundle: &Digest) -> Option<Entry> {
        let entry = self.entries.remove(bundle)?;
        self.bytes = self.bytes.saturating_sub(entry.size);
        Some(entry)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes out what exceeds `limit`: what was used least recently first, what a node is assigned only when nothing
    /// else is left, and `keep` never.
    pub(super) fn make_room(
        &mut self,
        limit: u64,
        keep: &Digest,
        in_use: impl Fn(&Digest) -> bool,
    ) -> Vec<Digest> {
        let mut gone = Vec::new();
        while self.bytes > limit {
            let others = self.entries.iter().filter(|(bundle, _)| *bundle != keep);
            let Some(bundle) =
                others.min_by_key(|(bundle, entry)| (in_use(bundle), entry.used)).map(|(b, _)| *b)
            else {
                break;
            };
            self.remove(&bundle);
            gone.push(bundle);
        }
        gone
    }

    /// Takes out all that is not in use.
    pub(super) fn shed(&mut self, in_use: impl Fn(&Digest) -> bool) -> Vec<Digest> {
        let gone: Vec<_> = self.entries.keys().filter(|bundle| !in_use(bundle)).copied().collect();
        for bundle in &gone {
            self.remove(bundle);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(name: u8) -> Digest {
        Digest::of(&[name])
    }

    fn index(sizes: &[(u8, u64)]) -> Index {
        let mut index = Index::default();
        for (name, size) in sizes {
            index.put(digest(*name), *size, None);
        }
        index
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut index = index(&[(1, 10), (2, 10), (3, 10)]);
        index.touch(&digest(1));
        assert_eq!(index.make_room(20, &digest(3), |_| false), [digest(2)]);
        assert_eq!(index.bytes(), 20);
    }

    #[test]
    fn what_is_assigned_goes_last() {
        let mut index = index(&[(1, 10), (2, 10), (3, 10), (4, 10)]);
        let assigned = |bundle: &Digest| *bundle == digest(1) || *bundle == digest(2);
        assert_eq!(index.make_room(10, &digest(4), assigned), [digest(3), digest(1), digest(2)]);
    }

    #[test]
    fn what_is_put_again_is_counted_once() {
        let mut index = index(&[(1, 10), (1, 30)]);
        assert_eq!((index.bytes(), index.len()), (30, 1));
        assert_eq!(index.remove(&digest(1)).map(|entry| entry.size), Some(30));
        assert_eq!((index.bytes(), index.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn there_is_room_unless_only_the_newest_is_left(
            sizes in prop::collection::vec((0..20_u8, 1..50_u64), 1..40),
            limit in 1..200_u64,
            assigned in prop::collection::hash_set(0..20_u8, 0..20),
        ) {
            let mut index = index(&sizes);
            let keep = digest(sizes[sizes.len() - 1].0);
            let in_use = |bundle: &Digest| assigned.iter().any(|name| digest(*name) == *bundle);
            let gone = index.make_room(limit, &keep, in_use);
            prop_assert!(index.bytes() <= limit || index.len() == 1);
            prop_assert!(index.contains(&keep));
            // Nothing assigned has gone while something else but the newest is still there.
            let spared = index.entries.keys().any(|bundle| *bundle != keep && !in_use(bundle));
            prop_assert!(!(spared && gone.iter().any(in_use)));
        }
    }
}

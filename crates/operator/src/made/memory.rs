//! The `MadeImage`s as they are known: listed now and then, and kept by what is written. Nobody else writes them; who deletes one is
//! noticed before anything is done about it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tenon_api::made_image::MadeImageSpec;
use tenon_api::{Guarded, MadeImage};
use tenon_plan::made;
use tokio::time::Instant;
use tracing::warn;

use crate::run::Context;

/// Objects per page.
const PAGE: u32 = 500;
/// For so long this process must have seen that nothing needs an image before it deletes it, whatever an earlier one has noted:
/// of a cluster that was restored from a backup, not everything may be back at once.
const SETTLE: Duration = Duration::from_mins(10);

type Key = (String, String);

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(super) struct Memory {
    known: BTreeMap<Key, MadeImage>,
    listed: Option<Instant>,
    /// Since when this process has seen that nothing needs them.
    unneeded: BTreeMap<Key, Instant>,
    /// By the uid of a Job: what it is to make, by the object that it was made for.
    pub(super) vouched: BTreeMap<String, MadeImageSpec>,
    /// Jobs of which everything is noted.
    pub(super) recorded: BTreeSet<String>,
}

impl Memory {
    /// Lists them, unless that was done less than `every` ago.
    pub(super) async fn refresh(&mut self, context: &Context, every: Duration) -> Result<(), kube::Error> {
        if self.listed.is_some_and(|listed| listed.elapsed() < every) {
            return Ok(());
        }
        let api: Api<Guarded<MadeImage>> = Api::all(context.client.clone());
        let mut page = ListParams::default().limit(PAGE);
        let mut found = BTreeMap::new();
        loop {
            let list = api.list(&page).await?;
            for object in list.items {
                match object.0 {
                    // Somebody has deleted it: its image is kept, however long the object takes to go.
                    Ok(made) if made.metadata.deletion_timestamp.is_some() => {}
                    Ok(made) => {
                        found.insert(key(&made), made);
                    }
                    // Kept: nothing is done about what cannot be read.
                    Err(unreadable) => {
                        let name = unreadable.metadata.name.unwrap_or_default();
                        warn!(name, error = unreadable.error, "a MadeImage cannot be read");
                    }
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
        self.known = found;
        self.listed = Some(Instant::now());
        let known = &self.known;
        self.unneeded.retain(|key, _| known.contains_key(key));
        Ok(())
    }

    /// Has them listed anew before anything else is done: of one it is not known what it says.
    pub(super) fn doubt(&mut self) {
        self.listed = None;
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.listed.is_none()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &MadeImage> {
        self.known.values()
    }

    pub(super) fn put(&mut self, made: MadeImage) {
        self.known.insert(key(&made), made);
    }

    pub(super) fn remove(&mut self, made: &MadeImage) {
        self.known.remove(&key(made));
        self.unneeded.remove(&key(made));
    }

    /// Something needs an image.
    pub(super) fn is_needed(&mut self, made: &MadeImage) {
        self.unneeded.remove(&key(made));
    }

    /// How much longer it must be seen that nothing needs an image; `None` where it was for long enough.
    pub(super) fn settles(&mut self, made: &MadeImage, is_needed: bool, after: Duration) -> Option<Duration> {
        if is_needed {
            self.is_needed(made);
            return Some(after);
        }
        let since = *self.unneeded.entry(key(made)).or_insert_with(Instant::now);
        after.min(SETTLE).checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }

    /// What is too much to remember.
    pub(super) fn surplus(&self) -> Vec<MadeImage> {
        let mut by_namespace: BTreeMap<&str, Vec<&MadeImage>> = BTreeMap::new();
        for ((namespace, _), made) in &self.known {
            by_namespace.entry(namespace).or_default().push(made);
        }
        let surplus = by_namespace.into_values().flat_map(|all| made::surplus(all.into_iter()));
        surplus.cloned().collect()
    }
}

fn key(made: &MadeImage) -> Key {
    (made.namespace().unwrap_or_default(), made.name_any())
}

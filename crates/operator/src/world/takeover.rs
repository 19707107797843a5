//! What a replica does before it leads: the watch of a standby may lag, and nobody may be given a turn by what is no longer
//! so.
//!
//! What turns are counted by is listed anew: Nodes, Modules, nodes' objects. Plugins' pods and `DaemonSet`s are not, nor are images and
//! Jobs: every replica watches them all the time, and who leads goes by those watches, too. A watch that lags has there one price, before
//! a change of leaders as after it: a driver whose plugin has just come is asked to leave while that uses it, which its kernel refuses,
//! and it is asked again. A list could not be held against the watch: of a pod that is gone no version is known, so a list that had
//! set out before its end would bring it back for good.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_api::{Guarded, Module};
use tenon_order::NodeName;
use tracing::{info, warn};

use super::watch::Kind;
use super::{Node, World, is_newer};
use crate::client::readable;

/// Objects per page: what is in memory twice for a moment.
const PAGE: u32 = 500;
/// After a list that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// Brings what is known up to consistent lists of all Nodes, Modules and nodes' objects, however long it takes to get one.
///
/// The former leader's writes are among what is listed: its last one was given up before its lease ran out.
pub async fn catch_up(client: &Client, world: &World) {
    while let Err(error) = list(client, world).await {
        warn!(
            error = &error as &dyn std::error::Error,
            "nothing is changed before everything has been listed"
        );
        tokio::time::sleep(AGAIN).await;
    }
}

async fn list(client: &Client, world: &World) -> Result<(), kube::Error> {
    let mut nodes = Pages::of(Api::<Guarded<Node>>::all(client.clone()));
    while let Some(page) = nodes.next().await? {
        take_nodes(world, page);
    }
    let mut modules = Pages::of(Api::<Guarded<Module>>::all(client.clone()));
    while let Some(page) = modules.next().await? {
        take_modules(world, page);
    }
    let configs: Api<Guarded<NodeModulesConfig>> = Api::all(client.clone());
    let mut unclear = Unclear::before(world);
    let mut pages = Pages::of(configs.clone());
    while let Some(page) = pages.next().await? {
        unclear.take(world, page);
    }
    for name in &unclear.0 {
        reread(&configs, world, name).await?;
    }
    info!(read = unclear.0.len(), "everything has been listed anew");
    Ok(())
}

/// Takes in consistent lists of all Nodes, Modules and nodes' objects, read one after the other: a label of the former
/// leader's is withdrawn before the order that unloads. Returns the nodes whose objects are to be read one by one: the watch
/// has got ahead of the list, or time has gone back.
pub fn take_in(
    world: &World,
    nodes: Vec<Node>,
    modules: Vec<Module>,
    configs: Vec<NodeModulesConfig>,
) -> BTreeSet<NodeName> {
    take_nodes(world, nodes);
    take_modules(world, modules);
    let mut unclear = Unclear::before(world);
    unclear.take(world, configs);
    unclear.0
}

fn take_nodes(world: &World, page: Vec<Node>) {
    for node in page {
        world.node_listed(node);
    }
}

fn take_modules(world: &World, page: Vec<Module>) {
    for module in page {
        let Some(key) = Module::key(&module.metadata) else { continue };
        let _news = world.take_news();
        // One that is not known is new, and its event is on its way, or it is gone by now.
        let newer = world.read().module(&key).is_some_and(|known| is_newer(&module, &**known));
        if newer {
            module.seen(&key, world);
        }
    }
}

/// The nodes of whose objects a list has not shown what they are.
struct Unclear(BTreeSet<NodeName>);

impl Unclear {
    /// Before the list: all that are known.
    fn before(world: &World) -> Self {
        Self(world.read().configs().filter_map(|config| name(config)).collect())
    }

    /// With a page of it.
    fn take(&mut self, world: &World, page: Vec<NodeModulesConfig>) {
        for config in page {
            let Some(name) = name(&config) else { continue };
            let known = world.read().config(&name).cloned();
            let is_clear = match known {
                Some(known) if known.resource_version() == config.resource_version() => true,
                Some(known) if is_newer(&config, &*known) => {
                    world.wrote_config(config);
                    true
                }
                _ => false,
            };
            if is_clear {
                self.0.remove(&name);
            } else {
                self.0.insert(name);
            }
        }
    }
}

async fn reread(
    configs: &Api<Guarded<NodeModulesConfig>>,
    world: &World,
    name: &NodeName,
) -> Result<(), kube::Error> {
    let before = world.read().config(name).and_then(|config| config.resource_version());
    let config = configs.get_opt(name.as_ref()).await?.map(readable).transpose()?;
    world.config_read(name, before.as_deref(), config);
    Ok(())
}

fn name(config: &NodeModulesConfig) -> Option<NodeName> {
    config.metadata.name.as_deref()?.parse().ok()
}

/// A consistent list, page by page.
struct Pages<K> {
    api: Api<Guarded<K>>,
    next: Option<ListParams>,
}

impl<K: Clone + Debug + DeserializeOwned> Pages<K> {
    fn of(api: Api<Guarded<K>>) -> Self {
        Self { api, next: Some(ListParams::default().limit(PAGE)) }
    }

    async fn next(&mut self) -> Result<Option<Vec<K>>, kube::Error> {
        let Some(params) = self.next.take() else { return Ok(None) };
        let page = self.api.list(&params).await?;
        let token = page.metadata.continue_.filter(|token| !token.is_empty());
        self.next = token.map(|token| params.continue_token(&token));
        page.items.into_iter().map(readable).collect::<Result<_, _>>().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::depot::Assignments;
    use crate::world::fixture::{config, node};

    #[test]
    fn labels_that_the_former_leader_has_set_are_known_before_anything_is_decided() {
        let (world, pine) = (World::new(Assignments::default()), "pine".parse().unwrap());
        node(4, false).seen(&pine, &world);
        take_in(&world, vec![node(9, true)], Vec::new(), Vec::new());
        assert!(world.read().node(&pine).unwrap().labels.contains_key("ready"));
    }

    #[test]
    fn a_node_of_which_the_watch_has_not_told_yet_counts_as_it_is_listed_unless_its_end_was_told() {
        let (world, pine) = (World::new(Assignments::default()), "pine".parse().unwrap());
        take_in(&world, vec![node(9, true)], Vec::new(), Vec::new());
        assert!(world.read().node(&pine).is_some());
        assert!(node(4, false).is_outdated(&pine, &world));
        assert!(!node(9, true).is_outdated(&pine, &world));
        Node::gone(&pine, Some(12), &world);
        take_in(&world, vec![node(9, true)], Vec::new(), Vec::new());
        assert!(world.read().node(&pine).is_none());
    }

    #[test]
    fn only_what_neither_the_list_nor_the_watch_makes_clear_is_read() {
        let (world, pine) = (World::new(Assignments::default()), "pine".parse::<NodeName>().unwrap());
        config(5).seen(&pine, &world);
        let unclear =
            |configs| take_in(&world, Vec::new(), Vec::new(), configs).into_iter().collect::<Vec<_>>();
        assert_eq!(unclear(vec![config(5)]), []);
        assert_eq!(unclear(vec![config(7)]), []);
        assert_eq!(world.read().config(&pine).unwrap().resource_version().as_deref(), Some("7"));
        assert_eq!(unclear(vec![config(6)]), std::slice::from_ref(&pine), "the watch has got further");
        assert_eq!(unclear(Vec::new()), [pine], "it is gone, or time has gone back");
    }
}

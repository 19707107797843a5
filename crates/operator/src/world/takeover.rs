//! What a replica does before it leads: the watch of a standby may lag, and nobody may be given a turn by what is no longer
//! so.

use std::collections::HashSet;
use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tenon_api::Module;
use tenon_api::node_modules_config::NodeModulesConfig;
use tenon_order::NodeName;
use tracing::{info, warn};

use super::watch::Kind;
use super::{World, is_newer};

/// Objects per page.
const PAGE: u32 = 500;
/// After a list that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// Brings what is known up to a consistent list of all nodes' objects and Modules, however long it takes to get one.
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
    let modules: Vec<Module> = pages(&Api::all(client.clone())).await?;
    for module in modules {
        let Some(key) = Module::key(&module.metadata) else { continue };
        // One that is not known is new, and its event is on its way, or it is gone by now.
        let newer = world.read().module(&key).is_some_and(|known| is_newer(&module, &**known));
        if newer {
            module.seen(&key, world);
        }
    }
    let configs: Api<NodeModulesConfig> = Api::all(client.clone());
    let mut unlisted: HashSet<NodeName> = world.read().configs().filter_map(|config| name(config)).collect();
    let mut read = 0;
    for mut config in pages(&configs).await? {
        config.metadata.managed_fields = None;
        let Some(name) = name(&config) else { continue };
        unlisted.remove(&name);
        let known = world.read().config(&name).cloned();
        let version = config.resource_version();
        match known {
            Some(known) if known.resource_version() == version => {}
            Some(known) if is_newer(&config, &*known) => world.wrote_config(config),
            // The watch has got ahead of the list, or time has gone back.
            _ => read += reread(&configs, world, &name).await?,
        }
    }
    for name in &unlisted {
        read += reread(&configs, world, name).await?;
    }
    info!(read, "everything has been listed anew");
    Ok(())
}

async fn reread(
    configs: &Api<NodeModulesConfig>,
    world: &World,
    name: &NodeName,
) -> Result<usize, kube::Error> {
    let before = world.read().config(name).and_then(|config| config.resource_version());
    let mut config = configs.get_opt(name.as_ref()).await?;
    if let Some(config) = &mut config {
        config.metadata.managed_fields = None;
    }
    world.config_read(name, before.as_deref(), config);
    Ok(1)
}

fn name(config: &NodeModulesConfig) -> Option<NodeName> {
    config.metadata.name.as_deref()?.parse().ok()
}

/// A consistent list, page by page.
async fn pages<K>(api: &Api<K>) -> Result<Vec<K>, kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut page = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let list = api.list(&page).await?;
        all.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(all),
        }
    }
}

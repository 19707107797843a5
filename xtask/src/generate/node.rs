//! The node's workload, from the table in `tenon_api::node_pod`.

use anyhow::Result;
use tenon_api::node_pod::{self, Images};

use super::yaml;

/// `node.yaml`.
pub(super) fn file() -> Result<String> {
    let images =
        Images { agent: &super::operator::image("agent"), loader: &super::operator::image("loader") };
    yaml::documents([&node_pod::daemon_set(images)])
}

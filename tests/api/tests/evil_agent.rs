//! The enemy inside: everything that somebody tries who owns one node's agent, with its tokens, against the real API server
//! with what `deploy/` ships, the operator's depot, and a loader's process. Every attempt is denied and leaves everything as
//! it was; and what the agent may do works, so that a denial means something.

#[cfg(test)]
#[path = "evil_agent/api.rs"]
mod api;
#[cfg(test)]
#[path = "evil_agent/depot.rs"]
mod depot;
#[cfg(test)]
#[path = "evil_agent/loader.rs"]
mod loader;
#[cfg(test)]
#[path = "evil_agent/stand.rs"]
mod stand;

//! The loader: the only part of Tenon that may load kernel modules, and that is all it does.
//!
//! In come orders, signed by the operator and carried by an agent that is not trusted; out goes a report. Read in this
//! order: [`session`] (what is accepted from the agent), [`store`] (what is remembered), [`decide`] (what an order
//! means for a Module), [`content`] (which files that is), [`situation`] and [`plan`] (which steps), [`foresee`] and
//! [`mark`] (whether they should be tried), [`work`] (doing them and remembering) on a [`machine`], [`report`] (saying how it stands), [`steps`]
//! and [`kernel`] (the calls themselves), [`serve`], [`chores`], [`peer`] and [`filter`] (the resident process, what it
//! does unasked, whom it hears and for how long, and what it gives up).
//!
//! Deliberately absent: network, Kubernetes, threads, child processes, forced unloading, and any way to load something
//! that no signed order names.

pub mod bounded;
pub mod chores;
pub mod command;
pub mod content;
pub mod decide;
pub mod failure;
pub mod filter;
pub mod foresee;
pub mod kernel;
pub mod kernel_log;
pub mod machine;
pub mod mark;
pub mod patient;
pub mod peer;
pub mod plan;
pub mod record;
pub mod report;
pub mod serve;
pub mod session;
pub mod settings;
pub mod situation;
pub mod steps;
pub mod store;
pub mod work;

use std::io::{self, Write as _};

/// Says something on standard error. That nobody listens is no reason to stop.
pub fn log(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

//! A campaign over everything that a Module and a `PreflightValidation` can say, generated from their definitions: each leaf of the
//! schema absent, at its bounds and beyond, of another type, in odd text, far too long, and naming what does not exist.
//!
//! - [`dry`]: what the API server takes is taken whole, is read by Tenon's own types, and reaches the plugin's `DaemonSet`, which the
//!   API server takes in turn or refuses by the field's name; what it does not take is refused by that name. Nothing is written.
//! - [`wet`]: what Tenon decides by is tried to its end: no wish is without an answer, and the way to a wish (from another one, or
//!   by way of a bad one) makes no difference to what is there in the end. Of each leaf's values a user's and one more; it prints
//!   which are not tried.

#[cfg(test)]
#[path = "campaign/cases.rs"]
mod cases;
#[cfg(test)]
#[path = "campaign/dry.rs"]
mod dry;
#[cfg(test)]
#[path = "campaign/leaves.rs"]
mod leaves;
#[cfg(test)]
#[path = "campaign/manifests.rs"]
mod manifests;
#[cfg(test)]
#[path = "campaign/outcome.rs"]
mod outcome;
#[cfg(test)]
#[path = "campaign/preflights.rs"]
mod preflights;
#[cfg(test)]
#[path = "campaign/values.rs"]
mod values;
#[cfg(test)]
#[path = "campaign/wet.rs"]
mod wet;

//! What users and programs see of Tenon: the custom resources, the labels, the reasons, and the node pod's settings.
//!
//! The kinds [`Module`] and [`NodeModulesConfig`] belong to
//! the API of Kernel Module Management (`kmm.sigs.x-k8s.io`): every field of that API is here under its own name, and
//! the fields that Tenon adds are optional and documented as such. What is Tenon's alone is in `tenon.dev`.
//!
//! Nothing here talks to a cluster: types come in and go out as JSON, [`crds`] gives the definitions to install.
#![expect(unreachable_pub, reason = "the schema derive copies each public struct into a function")]

pub mod crd;
pub mod gather;
pub mod image_stream;
pub mod kernel_facts;
pub mod labels;
pub mod made_image;
pub mod message;
pub mod module;
pub mod module_image;
pub mod node_modules_config;
pub mod node_pod;
mod object;
pub mod preflight_validation;
pub mod pull;
pub mod reasons;
mod serde_forms;
pub mod task;

pub use crd::crds;
pub use made_image::{MadeImage, MadeImageSpec, MadeImageStatus};
pub use message::ShortMessage;
pub use module::{Module, ModuleSpec, ModuleStatus};
pub use module_image::{ModuleImage, ModuleImageSpec, ModuleImageStatus};
pub use node_modules_config::{NodeModulesConfig, NodeModulesConfigSpec, NodeModulesConfigStatus};
pub use object::{Guarded, Unreadable};
pub use preflight_validation::{PreflightValidation, PreflightValidationSpec, PreflightValidationStatus};

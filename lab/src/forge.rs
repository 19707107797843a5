//! A forge: where a lab's cluster makes images. A node on the host runs the Jobs; the registry has the images that they run from
//! and build on, by names that the operator, the pods and containerd share.

use std::collections::BTreeMap;

use crate::build_images::{self, BuildImageError};
use crate::cluster::{Lab, LabError};
use crate::program_images::{self, ProgramImage, ProgramImageError};
use crate::programs::{self, Program, ProgramError};

/// The node's name, and the value of its label `kubernetes.io/hostname`.
pub const NODE: &str = "forge";

/// A registry that does not exist: the lab's own is its mirror.
pub const MIRRORED: &str = "upstream.invalid";

/// Why there is no forge.
#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    /// The node.
    #[error(transparent)]
    Lab(Box<LabError>),
    /// The builder's image, or a toolkit's.
    #[error(transparent)]
    Image(#[from] BuildImageError),
    /// The image of the program that signs and publishes.
    #[error(transparent)]
    Maker(#[from] ProgramImageError),
    /// That program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Work that ran aside.
    #[error("the work was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl From<LabError> for ForgeError {
    fn from(error: LabError) -> Self {
        Self::Lab(Box::new(error))
    }
}

/// Adds a node on the host to the lab, pushes what Jobs need, and has the operator know their names when it starts next: give
/// the registry's. Toolkits are `<registry>/toolkit:<kernel>`.
pub async fn add(lab: &mut Lab) -> Result<String, ForgeError> {
    lab.add_host_node(NODE).await?;
    let registry = lab.registry_for_pods();
    let kernels = lab.supplies().kernels().to_vec();
    let images = tokio::task::spawn_blocking(move || {
        let mut images = vec![("builder:lab".to_owned(), build_images::builder()?)];
        for kernel in &kernels {
            let name = format!("toolkit:{}", build_images::toolkit_tag(kernel));
            images.push((name, build_images::toolkit(kernel)?));
        }
        Ok::<_, BuildImageError>(images)
    });
    for (name, image) in images.await?? {
        image.push(&format!("{registry}/{name}")).await?;
    }
    let program = tokio::task::spawn_blocking(|| programs::program(Program::Maker)).await??;
    let maker =
        ProgramImage { binary: &program, program: "/tenon-maker", arguments: &[], labels: BTreeMap::new() };
    program_images::push(&maker, &format!("{registry}/maker:lab")).await?;
    lab.tell_operator(arguments(&registry));
    Ok(registry)
}

/// Has everybody use another way to the registry, `host:port`, by plain HTTP: the operator from its next start on.
pub fn go_by(lab: &mut Lab, way: &str) -> Result<(), ForgeError> {
    if let Some(node) = lab.host_node() {
        node.trust(way, way).map_err(LabError::from)?;
    }
    lab.tell_operator([arguments(way), vec![format!("--registry={way},plain-http")]].concat());
    Ok(())
}

fn arguments(registry: &str) -> Vec<String> {
    vec![
        format!("--maker-image={registry}/maker:lab"),
        format!("--builder-image={registry}/builder:lab"),
        format!("--toolkit-image={registry}/toolkit:${{KERNEL_FULL_VERSION}}"),
        "--look-again=2".to_owned(),
        format!("--mirror={MIRRORED}={registry},only"),
    ]
}

//! Module images, made and pushed as a driver's vendor would: by `kubectl tenon image push`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Lab;
use crate::command::{self, CommandError};
use crate::drivers::{self, Driver, DriverError, FIRMWARE_PATH, ImageContent, Recipe};
use crate::programs::{self, ProgramError};
use crate::registry::User;

/// Why an image is not in a registry.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// A driver could not be built or laid out.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The plugin could not be built.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A file of it.
    #[error("write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// kubectl, or the plugin.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Work that ran aside.
    #[error("the work was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// A push: what it is called and what kubectl said.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The command as a person would type it.
    pub line: String,
    /// The reference with the digest.
    pub reference: String,
}

/// Where to push, and as whom.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// `host:port` of a registry that speaks plain HTTP.
    pub registry: &'a str,
    /// The image's name and tag.
    pub name: &'a str,
    /// Who pushes, where that matters.
    pub user: Option<&'a User>,
}

/// A driver for every kernel of the lab, as an image holds it.
pub async fn content(lab: &Lab, driver: Driver, version: &str) -> Result<ImageContent, PushError> {
    let (kernels, version) = (lab.supplies().kernels().to_vec(), version.to_owned());
    let built = tokio::task::spawn_blocking(move || {
        let mut content = ImageContent::new();
        for kernel in &kernels {
            let recipe = Recipe { version: &version, ..driver.into() };
            content = content.with(&kernel.release, &drivers::build(kernel, recipe)?);
        }
        Ok(content)
    });
    built.await?
}

/// Pushes an image.
pub async fn push(lab: &Lab, content: &ImageContent, to: Destination<'_>) -> Result<Pushed, PushError> {
    let folder = lab.folder().join("images").join(to.name.replace(':', "-"));
    content.write(&folder)?;
    let reference = format!("{}/{}", to.registry, to.name);
    let mut command = Command::new(lab.plane().kubectl_command().get_program());
    // A plugin is found by its name in PATH, and takes no flags before it.
    command.env("PATH", path_with_plugin().await?).env("KUBECONFIG", lab.plane().kubeconfig());
    command.args(["tenon", "image", "push"]).arg(&folder).args([&reference, "--plain-http"]);
    let firmware = folder.join(FIRMWARE_PATH.trim_start_matches('/'));
    if firmware.is_dir() {
        command.arg("--firmware").arg(firmware);
    }
    if let Some(user) = to.user {
        let path = lab.folder().join(format!("{}.auth.json", user.name));
        let text = user.docker_config(to.registry);
        fs::write(&path, text).map_err(|source| PushError::Write { path: path.clone(), source })?;
        command.arg("--authfile").arg(path);
    }
    let said = tokio::task::spawn_blocking(move || command::text(&mut command)).await??;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let line = format!("kubectl tenon image push {name} {reference} --plain-http");
    Ok(Pushed { line, reference: said.trim().to_owned() })
}

async fn path_with_plugin() -> Result<std::ffi::OsString, PushError> {
    let plugin = tokio::task::spawn_blocking(|| programs::program(programs::Program::Cli)).await??;
    let mut path = plugin.parent().unwrap_or(Path::new("/")).as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    Ok(path)
}

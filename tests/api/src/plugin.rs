//! `kubectl tenon`, as a person runs it.

use std::path::PathBuf;

use tenon_lab::programs::{Program, program};
use tokio::process::Command;

/// The plugin with these arguments, as whom the kubeconfig says.
pub async fn plugin(kubeconfig: PathBuf, args: &[&str]) -> Command {
    let plugin = tokio::task::spawn_blocking(|| program(Program::Cli)).await.expect("no panic");
    let mut command = Command::new(plugin.expect("the plugin"));
    command.args(args).arg("--kubeconfig").arg(kubeconfig).kill_on_drop(true);
    command
}

/// Its exit code, and what it says on standard output and, if it fails, on standard error.
pub async fn run(kubeconfig: PathBuf, args: &[&str]) -> (i32, String) {
    let output = plugin(kubeconfig, args).await.output().await.expect("the plugin runs");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code().expect("an exit code"), text)
}

//! `kubectl tenon`, as a person runs it.

use std::path::PathBuf;

use tenon_lab::programs::{Program, program};
use tokio::process::Command;

/// What it said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// On standard output.
    pub out: String,
    /// On standard error.
    pub err: String,
}

impl Said {
    /// All of it, the results first.
    pub fn whole(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// The plugin with these arguments, as whom the kubeconfig says.
pub async fn plugin(kubeconfig: PathBuf, args: &[&str]) -> Command {
    let plugin = tokio::task::spawn_blocking(|| program(Program::Cli)).await.expect("no panic");
    let mut command = Command::new(plugin.expect("the plugin"));
    command.args(args).arg("--kubeconfig").arg(kubeconfig).kill_on_drop(true);
    command
}

/// Runs it to its end.
pub async fn run(kubeconfig: PathBuf, args: &[&str]) -> Said {
    let output = plugin(kubeconfig, args).await.output().await.expect("the plugin runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        code: output.status.code().expect("an exit code"),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

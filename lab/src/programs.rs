//! The project's own programs, built when they are wanted: a test that boots a guest needs binaries of other packages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use crate::command::{self, CommandError};

/// One binary of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// PID 1 of guests.
    Init,
    /// The operator.
    Operator,
    /// The agent.
    Agent,
    /// The loader.
    Loader,
    /// What Jobs run that make images.
    Maker,
    /// `kubectl tenon`.
    Cli,
    /// `examples/device-plugin`.
    DevicePlugin,
    /// `examples/dra-driver`.
    DraDriver,
}

impl Program {
    const ALL: [Self; 8] = [
        Self::Init,
        Self::Operator,
        Self::Agent,
        Self::Loader,
        Self::Maker,
        Self::Cli,
        Self::DevicePlugin,
        Self::DraDriver,
    ];

    fn package(self) -> &'static str {
        match self {
            Self::Init => "tenon-lab",
            Self::Operator => "tenon-operator",
            Self::Agent => "tenon-agent",
            Self::Loader => "tenon-loader",
            Self::Maker => "tenon-maker",
            Self::Cli => "kubectl-tenon",
            Self::DevicePlugin => "tenon-example-device-plugin",
            Self::DraDriver => "tenon-example-dra-driver",
        }
    }

    /// Its file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "tenon-lab-init",
            other => other.package(),
        }
    }
}

/// Why there is no program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// cargo.
    #[error("build the project's programs")]
    Build(#[source] CommandError),
    /// cargo built it and did not say where.
    #[error("find {name} in cargo's messages")]
    NotNamed {
        /// Which.
        name: &'static str,
    },
}

/// Builds the programs, once per process, and says where one is. `TENON_LAB_PROGRAMS` names a folder with finished ones.
pub fn program(program: Program) -> Result<PathBuf, ProgramError> {
    static BUILT: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    if let Some(folder) = std::env::var_os("TENON_LAB_PROGRAMS") {
        return Ok(Path::new(&folder).join(program.name()));
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if built.is_empty() {
        *built = build()?;
    }
    let name = program.name();
    built.get(name).cloned().ok_or(ProgramError::NotNamed { name })
}

/// All at once, as the Makefile does: built one by one, what they share would be built for each, with different features.
fn build() -> Result<BTreeMap<&'static str, PathBuf>, ProgramError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.args(["build", "--quiet", "--message-format=json", "--bins"]);
    for program in Program::ALL {
        command.args(["--package", program.package()]);
    }
    let said = command::text(&mut command).map_err(ProgramError::Build)?;
    Ok(said.lines().filter_map(executable).collect())
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    executable: Option<PathBuf>,
}

/// Which program one of cargo's messages names, and where it is.
fn executable(message: &str) -> Option<(&'static str, PathBuf)> {
    let path = serde_json::from_str::<Message>(message).ok()?.executable?;
    let program = Program::ALL
        .into_iter()
        .find(|program| path.file_name().is_some_and(|name| name == program.name()))?;
    Some((program.name(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_a_program_is() {
        let message = r#"{"reason":"compiler-artifact","executable":"/t/debug/tenon-agent","fresh":true}"#;
        assert_eq!(executable(message), Some(("tenon-agent", "/t/debug/tenon-agent".into())));
        assert_eq!(executable(r#"{"executable":"/t/debug/xtask"}"#), None);
        assert_eq!(executable(r#"{"reason":"build-finished"}"#), None);
    }
}

//! The project's own programs, built when they are wanted: a test that boots a guest needs binaries of other packages.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde::Deserialize;

use crate::command::{self, CommandError};

/// One binary of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// PID 1 of guests.
    Init,
    /// The operator.
    Operator,
    /// The agent.
    Agent,
    /// The loader.
    Loader,
    /// `kubectl tenon`.
    Cli,
}

impl Program {
    fn package(self) -> &'static str {
        match self {
            Self::Init => "tenon-lab",
            Self::Operator => "tenon-operator",
            Self::Agent => "tenon-agent",
            Self::Loader => "tenon-loader",
            Self::Cli => "kubectl-tenon",
        }
    }

    fn name(self) -> &'static str {
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
    #[error("build {name}")]
    Build {
        /// Which.
        name: &'static str,
        /// What cargo said.
        #[source]
        source: CommandError,
    },
    /// cargo built it and did not say where.
    #[error("find {name} in cargo's messages")]
    NotNamed {
        /// Which.
        name: &'static str,
    },
}

/// Builds a program, once per process, and says where it is. `TENON_LAB_PROGRAMS` names a folder with finished ones.
pub fn program(program: Program) -> Result<PathBuf, ProgramError> {
    static BUILT: LazyLock<Mutex<HashMap<Program, PathBuf>>> = LazyLock::new(Mutex::default);
    if let Some(folder) = std::env::var_os("TENON_LAB_PROGRAMS") {
        return Ok(Path::new(&folder).join(program.name()));
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = built.get(&program) {
        return Ok(path.clone());
    }
    let path = build(program)?;
    built.insert(program, path.clone());
    Ok(path)
}

fn build(program: Program) -> Result<PathBuf, ProgramError> {
    let name = program.name();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let said =
        command::text(Command::new(cargo).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).args([
            "build",
            "--quiet",
            "--message-format=json",
            "--package",
            program.package(),
            "--bin",
            name,
        ]))
        .map_err(|source| ProgramError::Build { name, source })?;
    said.lines().rev().find_map(|line| executable(line, name)).ok_or(ProgramError::NotNamed { name })
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    executable: Option<PathBuf>,
}

/// The program that one of cargo's messages names, when it is this one.
fn executable(message: &str, name: &str) -> Option<PathBuf> {
    let path = serde_json::from_str::<Message>(message).ok()?.executable?;
    (path.file_name()? == name).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_a_program_is() {
        let message = r#"{"reason":"compiler-artifact","executable":"/t/debug/tenon-agent","fresh":true}"#;
        assert_eq!(executable(message, "tenon-agent"), Some("/t/debug/tenon-agent".into()));
        assert_eq!(executable(message, "tenon"), None);
        assert_eq!(executable(r#"{"reason":"build-finished"}"#, "tenon"), None);
    }
}

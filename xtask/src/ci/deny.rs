//! Whether what others supply is allowed in: duplicates, licences, sources (`deny.toml`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result};

use super::succeed;
use crate::repository;

/// Its checks differ between versions, so there is one for all of us.
const VERSION: &str = "0.20.2";

/// Runs cargo-deny, installing it first if need be.
pub(super) fn check() -> Result<String> {
    let program = program().context(
        "cargo-deny is not there and could not be built, so licences, duplicates and sources are NOT checked",
    )?;
    let mut command = Command::new(program);
    command.args(["--locked", "check", "bans", "licenses", "sources"]).current_dir(repository::root());
    succeed(&mut command)?;
    Ok(format!("supplies: 3 checks passed (cargo-deny {VERSION})"))
}

/// The program in the user's cache, built there when it is missing.
fn program() -> Result<PathBuf> {
    let folder = tools()?.join(format!("cargo-deny-{VERSION}"));
    let program = folder.join("bin/cargo-deny");
    if !program.is_file() {
        println!("supplies: building cargo-deny {VERSION} into {} (once, some minutes)", folder.display());
        install(&folder)?;
    }
    Ok(program)
}

fn install(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let mut command = repository::cargo(["install", "--locked", "cargo-deny", "--version"]);
    // Not at the repository's root: its settings are for its own programs.
    command.arg(format!("={VERSION}")).arg("--root").arg(folder).current_dir(folder);
    succeed(&mut command)
}

/// Where tools are kept.
fn tools() -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| env::home_dir().map(|home| home.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor a home directory is known")?.join("tenon/tools"))
}

//! The files of `deploy/`, from the types and tables of `tenon-api`.

mod admission;
mod flow;
mod monitoring;
mod node;
mod operator;
mod rbac;
mod yaml;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::repository;

pub(crate) use rbac::{Granted, granted};

/// The folder that is generated as a whole.
const FOLDER: &str = "deploy";

/// The operator's name: of its service account, its Deployment, its lease.
const OPERATOR: &str = "tenon-operator";

/// Every file, by its path below [`FOLDER`].
pub(crate) fn files() -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for crd in tenon_api::crds() {
        let name = crd.metadata.name.clone().context("a definition has a name")?;
        files.insert(format!("crds/{name}.yaml"), yaml::documents([&crd])?);
    }
    files.insert("flow-schemas.yaml".into(), flow::file()?);
    files.insert("monitoring/dashboard.json".into(), monitoring::dashboard_file()?);
    files.insert("monitoring/plain/rules.yaml".into(), monitoring::plain_rules_file()?);
    files.insert("monitoring/prometheus-rules.yaml".into(), monitoring::rules_file()?);
    files.insert("monitoring/service-monitor.yaml".into(), monitoring::service_monitor_file()?);
    files.insert("namespace.yaml".into(), operator::namespace_file()?);
    files.insert("node.yaml".into(), node::file()?);
    files.insert("openshift.yaml".into(), rbac::openshift_file()?);
    files.insert("operator.yaml".into(), operator::file()?);
    files.insert("rbac/agent.yaml".into(), rbac::agent_file()?);
    files.insert("rbac/operator.yaml".into(), rbac::operator_file()?);
    files.insert("rbac/puller.yaml".into(), rbac::puller_file()?);
    files.insert("rbac/admission.yaml".into(), admission::file()?);
    Ok(files)
}

/// Writes the files, and takes away those that are no longer generated.
pub(crate) fn write() -> Result<String> {
    let folder = repository::path(FOLDER);
    let files = files()?;
    let stale: Vec<String> = present(&folder)?.into_keys().filter(|path| !files.contains_key(path)).collect();
    for path in &stale {
        fs::remove_file(folder.join(path)).with_context(|| format!("remove {FOLDER}/{path}"))?;
    }
    for (path, text) in &files {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(format!("generate: {} files written, {} removed", files.len(), stale.len()))
}

/// Compares the files with what would be written.
pub(crate) fn check() -> Result<String> {
    let wanted = files()?;
    let wrong = differences(&wanted, &present(&repository::path(FOLDER))?);
    if !wrong.is_empty() {
        bail!("{FOLDER}/ is not what it should be; run `cargo xtask generate`:\n{}", wrong.join("\n"));
    }
    Ok(format!("check-generated: {} files are fresh", wanted.len()))
}

fn differences(wanted: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> Vec<String> {
    let stale = found.keys().filter(|path| !wanted.contains_key(*path));
    let stale = stale.map(|path| format!("  {path}: nothing generates it"));
    let wrong = wanted.iter().filter_map(|(path, text)| match found.get(path) {
        None => Some(format!("  {path}: missing")),
        Some(other) if other != text => Some(format!("  {path}: differs")),
        Some(_) => None,
    });
    wrong.chain(stale).collect()
}

/// The YAML and JSON files below a folder, by relative path.
fn present(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("list {}", next.display()))? {
            let path = entry.with_context(|| format!("list {}", next.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "json") {
                let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                let relative = path.strip_prefix(folder).unwrap_or(&path);
                files.insert(relative.to_string_lossy().into_owned(), text);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_are_fresh() {
        check().expect("fresh");
    }

    #[test]
    fn a_difference_names_the_file_and_what_is_wrong_with_it() {
        let files = |entries: &[(&str, &str)]| -> BTreeMap<String, String> {
            entries.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
        };
        let wanted = files(&[("a.yaml", "1"), ("b.yaml", "2"), ("c.yaml", "3")]);
        let found = files(&[("a.yaml", "1"), ("b.yaml", "other"), ("d.yaml", "4")]);
        let said = differences(&wanted, &found);
        assert_eq!(said, ["  b.yaml: differs", "  c.yaml: missing", "  d.yaml: nothing generates it"]);
    }
}

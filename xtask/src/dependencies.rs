//! Which crate may know which: the arrows of ARCHITECTURE, kept by force.
//!
//! The first table is about this repository's own packages and their direct dependencies; the second about libraries
//! that a package must not have even through others. Dependencies of tests count for neither.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::repository;

/// Packages of this repository, and those of it that each may use.
const OWN: &[(&str, &[&str])] = &[
    ("tenon-order", &[]),
    ("tenon-kmod", &[]),
    ("tenon-sign", &["tenon-kmod"]),
    ("tenon-api", &["tenon-order"]),
    ("tenon-image", &["tenon-order", "tenon-kmod"]),
    ("tenon-plan", &["tenon-api", "tenon-kmod", "tenon-order"]),
    (
        "tenon-operator",
        &["tenon-plan", "tenon-image", "tenon-kmod", "tenon-api", "tenon-order", "tenon-sign"],
    ),
    ("tenon-agent", &["tenon-api", "tenon-image", "tenon-kmod", "tenon-order"]),
    ("tenon-loader", &["tenon-kmod", "tenon-order"]),
    ("tenon-maker", &["tenon-api", "tenon-image", "tenon-order", "tenon-sign"]),
    (
        "kubectl-tenon",
        &["tenon-plan", "tenon-image", "tenon-kmod", "tenon-api", "tenon-maker", "tenon-order", "tenon-sign"],
    ),
    // Whoever begins with one of these copies its folder and nothing else.
    ("tenon-example-device-plugin", &[]),
    ("tenon-example-dra-driver", &[]),
];

/// Packages that stand outside: they put the others to the test, or write what they say.
const OUTSIDE: &[&str] = &[
    "tenon-lab",
    "tenon-test-api",
    "tenon-test-conformance",
    "tenon-test-kernel",
    "tenon-test-e2e",
    "tenon-test-sim",
    "xtask",
];

/// What decides without asking anybody: no client, no runtime, no network.
const NO_IO: &[&str] = &["tokio", "kube-client", "kube-runtime", "hyper", "reqwest", "rustls"];

/// What the loader must not hold: it is to be read in an hour, and it meets no network.
const NO_NETWORK_NO_KUBERNETES: &[&str] =
    &["tokio", "kube", "kube-core", "kube-client", "k8s-openapi", "hyper", "reqwest", "rustls"];

/// Libraries that a package must not have, not even through others.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("tenon-order", NO_NETWORK_NO_KUBERNETES),
    ("tenon-kmod", NO_NETWORK_NO_KUBERNETES),
    ("tenon-sign", NO_NETWORK_NO_KUBERNETES),
    ("tenon-loader", NO_NETWORK_NO_KUBERNETES),
    ("tenon-api", NO_IO),
    ("tenon-plan", NO_IO),
    // It has no token and asks nobody but registries.
    ("tenon-maker", &["kube-client", "kube-runtime"]),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// Checks both tables.
pub(crate) fn check() -> Result<String> {
    let metadata = repository::output_of(&mut repository::cargo([
        "metadata",
        "--format-version=1",
        "--no-deps",
        "--locked",
    ]))?;
    let packages: Metadata = serde_json::from_str(&metadata).context("read cargo's metadata")?;
    let arrows = arrows(&packages);
    let mut wrong = misdirected(&arrows);
    for (package, forbidden) in FORBIDDEN {
        wrong.extend(held(&libraries(package)?, package, forbidden));
    }
    if !wrong.is_empty() {
        bail!("dependencies that the design does not allow:\n{}", wrong.join("\n"));
    }
    let count: usize = arrows.values().map(BTreeSet::len).sum();
    Ok(format!(
        "check-dependencies: {} packages, {count} arrows between them, {} closures, all as they should be",
        arrows.len(),
        FORBIDDEN.len()
    ))
}

/// Which of the repository's packages each of them uses, tests apart.
fn arrows(metadata: &Metadata) -> BTreeMap<&str, BTreeSet<&str>> {
    let own: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let used = |package: &'_ Package| -> Vec<String> {
        let direct =
            package.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev"));
        direct.map(|dependency| dependency.name.clone()).collect()
    };
    let named = |package| used(package).iter().filter_map(|name| own.get(name.as_str()).copied()).collect();
    metadata.packages.iter().map(|package| (package.name.as_str(), named(package))).collect()
}

fn misdirected(arrows: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    let inside = arrows.iter().filter(|(package, _)| !OUTSIDE.contains(package));
    inside
        .flat_map(|(package, used)| {
            let Some((_, allowed)) = OWN.iter().find(|(name, _)| name == package) else {
                return vec![format!("  {package} stands in no table: say in xtask what it may use")];
            };
            let wrong = used.iter().filter(|name| !allowed.contains(name));
            wrong.map(|name| format!("  {package} must not use {name}")).collect()
        })
        .collect()
}

/// All libraries that a package is made of when it is built alone.
fn libraries(package: &str) -> Result<BTreeSet<String>> {
    let arguments =
        ["tree", "--locked", "--edges=normal", "--prefix=none", "--format={p}", "--package", package];
    let tree = repository::output_of(&mut repository::cargo(arguments))?;
    Ok(tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

fn held(libraries: &BTreeSet<String>, package: &str, forbidden: &[&str]) -> Vec<String> {
    let found = forbidden.iter().filter(|name| libraries.contains(**name));
    found
        .map(|name| format!("  {package} must not hold {name} (see `cargo tree -p {package} -i {name}`)"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_point_one_way() {
        check().expect("only arrows that are allowed");
    }

    #[test]
    fn an_arrow_that_is_not_allowed_is_named() {
        let arrows =
            [("tenon-loader", ["tenon-api", "tenon-kmod"].into()), ("tenon-new", BTreeSet::new())].into();
        assert_eq!(
            misdirected(&arrows),
            [
                "  tenon-loader must not use tenon-api",
                "  tenon-new stands in no table: say in xtask what it may use"
            ]
        );
    }

    #[test]
    fn dependencies_of_tests_do_not_count() {
        let metadata = r#"{"packages": [
            {"name": "tenon-kmod", "dependencies": [{"name": "tenon-lab", "kind": "dev"}, {"name": "serde", "kind": null}]},
            {"name": "tenon-lab", "dependencies": [{"name": "tenon-kmod", "kind": null}]}
        ]}"#;
        let metadata: Metadata = serde_json::from_str(metadata).expect("metadata");
        let arrows = arrows(&metadata);
        assert!(arrows["tenon-kmod"].is_empty());
        assert_eq!(arrows["tenon-lab"], ["tenon-kmod"].into());
    }

    #[test]
    fn a_library_that_must_not_be_held_is_named() {
        let libraries = ["serde", "tokio"].map(str::to_owned).into();
        assert_eq!(held(&libraries, "tenon-plan", NO_IO).len(), 1);
    }
}

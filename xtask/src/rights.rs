//! Whether Tenon's service accounts use every right that `deploy/rbac` gives them, over all tests: what API servers were asked is in
//! their audit logs, and the lab leaves it in a folder.
//!
//! A right that is neither used nor excused fails the run of all tests. Of some tiers it is told only, and so is an excuse for what is
//! used. `cargo xtask rights` judges a folder that such a run has left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::generate::{Granted, granted};

/// Names the folder to the lab (`tenon_lab::control_plane::accesses`).
pub(crate) const FOLDER: &str = "TENON_LAB_ACCESSES";

/// Why `create` of what is applied is never seen: the log knows the request as a patch.
const APPLIED: &str = "looked for by the API server where somebody applies what does not exist yet";

/// Rights that are given although no test is seen to use them, and why.
const EXCUSED: [(&str, &str, &str, &str); 6] = [
    (
        "tenon-operator",
        "update",
        "modules/finalizers",
        "looked for by the API server where an owner reference blocks the owner's deletion",
    ),
    ("tenon-operator", "create", "madeimages", APPLIED),
    ("tenon-operator", "create", "moduleimages", APPLIED),
    ("tenon-operator", "create", "nodemodulesconfigs", APPLIED),
    (
        "tenon-operator",
        "get",
        "nodes",
        "read only where nobody knows what became of a write, which not every run's faults bring about",
    ),
    (
        "tenon-operator",
        "update",
        "secrets",
        "the serving certificate is renewed after months; that is tested with the rights of whoever tests",
    ),
];

/// Something that an account did, or was denied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Access {
    account: String,
    verb: String,
    group: String,
    resource: String,
    namespace: String,
    name: String,
    allowed: bool,
}

/// A right of an account: one verb on one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    account: String,
    /// Nothing: everywhere.
    namespace: Option<String>,
    verb: String,
    group: String,
    resource: String,
    /// Nothing: whatever it is called.
    names: Vec<String>,
}

impl Right {
    fn covers(&self, access: &Access) -> bool {
        let is_there = self.namespace.as_ref().is_none_or(|namespace| *namespace == access.namespace);
        let is_it = self.names.is_empty() || self.names.contains(&access.name);
        is_there
            && is_it
            && (&self.account, &self.verb) == (&access.account, &access.verb)
            && (&self.group, &self.resource) == (&access.group, &access.resource)
    }

    fn excuse(&self) -> Option<&'static str> {
        let is_it = |(account, verb, resource, _): &&(&str, &str, &str, &str)| {
            (self.account.as_str(), self.verb.as_str(), self.resource.as_str())
                == (*account, *verb, *resource)
        };
        EXCUSED.iter().find(is_it).map(|(.., why)| *why)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.namespace.as_deref().unwrap_or("everywhere");
        write!(out, "{} {} {} ({place})", self.account, self.verb, named(&self.group, &self.resource))
    }
}

/// How the rights stand to what was seen.
struct Balance<'r> {
    used: BTreeSet<&'r Right>,
    /// By the table.
    excused: Vec<&'r Right>,
    /// Neither.
    unused: Vec<&'r Right>,
}

/// Where the tests of this repository leave what they asked.
pub(crate) fn folder() -> PathBuf {
    crate::repository::path("target").join("accesses")
}

/// Empties the folder: another run's is no proof of this one.
pub(crate) fn begin() -> Result<()> {
    let folder = folder();
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))
}

/// What was used of what is given, and what was denied, in lines.
pub(crate) fn report(folder: &Path) -> Result<String> {
    Ok(told(&rights(&granted()), &read(folder)?))
}

/// The same, as an error where a right is neither used nor excused.
pub(crate) fn judge(folder: &Path) -> Result<String> {
    let (rights, seen) = (rights(&granted()), read(folder)?);
    let told = told(&rights, &seen);
    if balance(&rights, &seen).unused.is_empty() { Ok(told) } else { bail!("{told}") }
}

fn told(rights: &[Right], seen: &BTreeSet<Access>) -> String {
    let Balance { used, excused, unused } = balance(rights, seen);
    let denied = denied(seen);
    let mut lines = vec![format!(
        "rights: {} of {} that deploy/rbac gives were used, {} are excused",
        used.len(),
        rights.len(),
        excused.len()
    )];
    lines.extend(unused.iter().map(|right| format!("  not used: {right}")));
    lines.extend(excused.iter().filter_map(|right| {
        let why = right.excuse()?;
        let but = if used.contains(right) { ", but it is used" } else { "" };
        Some(format!("  excused{but}: {right}: {why}"))
    }));
    lines.extend(denied.iter().map(|((account, verb, what), kinds)| {
        format!("  denied, in {kinds} places or names: {account} {verb} {what}")
    }));
    lines.join("\n")
}

fn named(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn read(folder: &Path) -> Result<BTreeSet<Access>> {
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        seen.extend(text.lines().filter_map(parse));
    }
    Ok(seen)
}

fn parse(line: &str) -> Option<Access> {
    let columns: [&str; 7] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
    let [account, verb, group, resource, namespace, name, decision] = columns.map(str::to_owned);
    Some(Access { account, verb, group, resource, namespace, name, allowed: decision == "allow" })
}

/// One for each verb on each resource.
fn rights(granted: &[Granted]) -> Vec<Right> {
    let mut rights = Vec::new();
    for Granted { account, namespace, rules } in granted {
        for rule in rules {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    rights.extend(rule.verbs.iter().map(|verb| Right {
                        account: (*account).to_owned(),
                        namespace: namespace.map(str::to_owned),
                        verb: verb.clone(),
                        group: group.clone(),
                        resource: resource.clone(),
                        names: rule.resource_names.clone().unwrap_or_default(),
                    }));
                }
            }
        }
    }
    rights
}

/// A right is used by an access that no narrower right allows as well.
fn balance<'r>(rights: &'r [Right], seen: &BTreeSet<Access>) -> Balance<'r> {
    let width = |right: &Right| (right.namespace.is_none(), right.names.is_empty());
    let mut used = BTreeSet::new();
    for access in seen.iter().filter(|access| access.allowed) {
        let narrowest = rights.iter().filter(|right| right.covers(access)).min_by_key(|right| width(right));
        used.extend(narrowest);
    }
    let excused: Vec<_> = rights.iter().filter(|right| right.excuse().is_some()).collect();
    let unused = rights.iter().filter(|right| !used.contains(right) && right.excuse().is_none()).collect();
    Balance { used, excused, unused }
}

/// What was denied, and how many kinds of it there were: tests try what must not be allowed, so these are for people to read.
fn denied(seen: &BTreeSet<Access>) -> BTreeMap<(String, String, String), usize> {
    let mut denied = BTreeMap::new();
    for access in seen.iter().filter(|access| !access.allowed) {
        let what = named(&access.group, &access.resource);
        *denied.entry((access.account.clone(), access.verb.clone(), what)).or_default() += 1;
    }
    denied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accesses(lines: &[&str]) -> BTreeSet<Access> {
        lines.iter().map(|line| parse(&line.replace(' ', "\t").replace('-', "")).expect("a line")).collect()
    }

    fn right(namespace: Option<&str>, verb: &str, resource: &str, names: &[&str]) -> Right {
        Right {
            account: "op".to_owned(),
            namespace: namespace.map(str::to_owned),
            verb: verb.to_owned(),
            group: String::new(),
            resource: resource.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn an_access_uses_the_narrowest_right_that_allows_it() {
        let rights = [
            right(None, "get", "secrets", &[]),
            right(Some("own"), "get", "secrets", &["key"]),
            right(None, "list", "pods", &[]),
        ];
        let seen = accesses(&["op get - secrets own key allow"]);
        assert_eq!(balance(&rights, &seen).unused, [&rights[0], &rights[2]]);
        let seen = accesses(&[
            "op get - secrets own key allow",
            "op get - secrets - - allow",
            "op list - pods - - forbid",
        ]);
        assert_eq!(balance(&rights, &seen).unused, [&rights[2]]);
        assert_eq!(denied(&seen).len(), 1);
    }

    #[test]
    fn nobody_may_list_or_watch_secrets() {
        let rights = rights(&granted());
        assert!(rights.iter().any(|right| right.resource == "secrets" && right.verb == "get"));
        let wide = |right: &&Right| {
            ["secrets", "*"].contains(&right.resource.as_str())
                && !["get", "create", "update"].contains(&right.verb.as_str())
        };
        assert_eq!(rights.iter().filter(wide).collect::<Vec<_>>(), Vec::<&Right>::new());
        let stars = |right: &&Right| [&right.verb, &right.group, &right.resource].contains(&&"*".to_owned());
        assert_eq!(rights.iter().filter(stars).collect::<Vec<_>>(), Vec::<&Right>::new());
    }

    #[test]
    fn what_is_excused_is_given() {
        let rights = rights(&granted());
        for (account, verb, resource, why) in EXCUSED {
            let given =
                |right: &Right| right.excuse() == Some(why) && right.account == account && right.verb == verb;
            assert!(rights.iter().any(given), "{account} {verb} {resource} ({why}) is not given any more");
        }
    }
}

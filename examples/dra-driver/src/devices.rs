//! Which device nodes there are, by the names that they have in the cluster.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::watch::Sender;
use tokio::time::sleep;

/// By name: the path of the node.
pub(crate) type Devices = BTreeMap<String, PathBuf>;

/// Paths with the shell's wildcards, such as `/dev/lab-*`.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(String);

impl FromStr for Pattern {
    type Err = glob::PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        glob::Pattern::new(text).map(|_| Self(text.to_owned()))
    }
}

/// Where device nodes are looked for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Search {
    /// The device nodes, with the shell's wildcards
    #[arg(long, value_name = "PATTERN")]
    device: Pattern,

    /// Where the node's root is seen from here; its /dev has to be mounted below. The /dev that a container has of its own
    /// holds what was there when it started
    #[arg(long, default_value = "/", value_name = "FOLDER")]
    host_root: PathBuf,
}

impl Search {
    /// The device nodes that match now, by their paths on the node.
    fn matching(&self) -> impl Iterator<Item = PathBuf> {
        let root = glob::Pattern::escape(&self.host_root.to_string_lossy());
        let pattern = format!("{}/{}", root.trim_end_matches('/'), self.device.0.trim_start_matches('/'));
        // It is a pattern, or it would not be here; what cannot be looked at is not there.
        let seen = glob::glob(&pattern).into_iter().flatten().filter_map(Result::ok);
        seen.filter(|path| is_device(path)).map(|path| match path.strip_prefix(&self.host_root) {
            Ok(below) => Path::new("/").join(below),
            Err(_) => path,
        })
    }
}

/// Looks for ever, and tells of every change.
pub(crate) async fn watch(search: &Search, found: &Sender<Devices>, every: Duration) {
    loop {
        found.send_if_modified(|devices| {
            let now = look(search);
            let changed = now != *devices;
            *devices = now;
            changed
        });
        sleep(every).await;
    }
}

fn look(search: &Search) -> Devices {
    search.matching().map(|path| (name(&path), path)).collect()
}

fn is_device(path: &Path) -> bool {
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| kind.is_char_device() || kind.is_block_device())
}

/// A device is named by a DNS label: small letters, digits and dashes. Two nodes of one name would be one device.
fn name(path: &Path) -> String {
    let below_dev = path.strip_prefix("/dev").unwrap_or(path).display().to_string().to_lowercase();
    let dashes = below_dev.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    dashes.trim_matches('-').chars().take(63).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_that_the_cluster_takes() {
        for (path, expected) in
            [("/dev/lab-chardev", "lab-chardev"), ("/dev/dri/card0", "dri-card0"), ("/dev/Lab_0", "lab-0")]
        {
            assert_eq!(name(Path::new(path)), expected);
        }
    }

    #[test]
    fn only_device_nodes_are_found() {
        let found = |pattern: &str| look(&Search { device: pattern.parse().unwrap(), host_root: "/".into() });
        assert_eq!(found("/dev/nul[l]"), [("null".to_owned(), "/dev/null".into())].into());
        assert_eq!(found("/de[v]"), Devices::new());
    }
}

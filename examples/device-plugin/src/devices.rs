//! Which device nodes there are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::watch::Sender;
use tokio::time::sleep;

/// Every device node that has been seen, and whether it is there now.
pub(crate) type Devices = BTreeMap<PathBuf, bool>;

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

fn is_device(path: &Path) -> bool {
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| kind.is_char_device() || kind.is_block_device())
}

/// Looks for ever, and tells of every change.
pub(crate) async fn watch(search: &Search, found: &Sender<Devices>, every: Duration) {
    loop {
        found.send_if_modified(|devices| look(search, devices));
        sleep(every).await;
    }
}

/// Brings what is known up to date, and says whether that changed anything. What has been there stays known when it is gone:
/// a pod may still hold it.
fn look(search: &Search, devices: &mut Devices) -> bool {
    let mut now: Devices = devices.keys().map(|path| (path.clone(), false)).collect();
    now.extend(search.matching().map(|path| (path, true)));
    for (path, there) in now.iter().filter(|(path, there)| devices.get(*path) != Some(there)) {
        tracing::info!(device = %path.display(), there, "a device came or went");
    }
    let changed = now != *devices;
    *devices = now;
    changed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_device_that_goes_stays_known_and_is_there_no_more() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("dev");
        fs::create_dir(&folder).unwrap();
        let (node, device) = (folder.join("lab-0"), PathBuf::from("/dev/lab-0"));
        // Not everybody may make a device node; a link to one is one.
        symlink("/dev/null", &node).unwrap();
        fs::write(folder.join("lab-1"), "not a device").unwrap();
        let search = Search { device: "/dev/lab-*".parse().unwrap(), host_root: root.path().to_owned() };

        let mut devices = Devices::default();
        assert!(look(&search, &mut devices));
        assert_eq!(devices, Devices::from([(device.clone(), true)]));
        assert!(!look(&search, &mut devices), "nothing has changed");

        fs::remove_file(&node).unwrap();
        assert!(look(&search, &mut devices));
        assert_eq!(devices, Devices::from([(device.clone(), false)]));
        symlink("/dev/null", &node).unwrap();
        assert!(look(&search, &mut devices));
        assert_eq!(devices, Devices::from([(device, true)]));
    }
}

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

impl Pattern {
    /// The device nodes that match now.
    fn matching(&self) -> impl Iterator<Item = PathBuf> {
        // It is a pattern, or it would not be here; what cannot be looked at is not there.
        glob::glob(&self.0).into_iter().flatten().filter_map(Result::ok).filter(|path| is_device(path))
    }
}

fn is_device(path: &Path) -> bool {
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    kind.is_ok_and(|kind| kind.is_char_device() || kind.is_block_device())
}

/// Looks for ever, and tells of every change.
pub(crate) async fn watch(pattern: &Pattern, found: &Sender<Devices>, every: Duration) {
    loop {
        found.send_if_modified(|devices| look(pattern, devices));
        sleep(every).await;
    }
}

/// Brings what is known up to date, and says whether that changed anything. What has been there stays known when it is gone:
/// a pod may still hold it.
fn look(pattern: &Pattern, devices: &mut Devices) -> bool {
    let mut now: Devices = devices.keys().map(|path| (path.clone(), false)).collect();
    now.extend(pattern.matching().map(|path| (path, true)));
    for (path, there) in now.iter().filter(|(path, there)| devices.get(*path) != Some(there)) {
        tracing::info!(device = %path.display(), there, "a device came or went");
    }
    let changed = now != *devices;
    *devices = now;
    changed
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_device_that_goes_stays_known_and_is_there_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (device, file) = (folder.path().join("lab-0"), folder.path().join("lab-1"));
        // Not everybody may make a device node; a link to one is one.
        symlink("/dev/null", &device).unwrap();
        fs::write(file, "not a device").unwrap();
        let pattern: Pattern = format!("{}/lab-*", folder.path().display()).parse().unwrap();

        let mut devices = Devices::default();
        assert!(look(&pattern, &mut devices));
        assert_eq!(devices, Devices::from([(device.clone(), true)]));
        assert!(!look(&pattern, &mut devices), "nothing has changed");

        fs::remove_file(&device).unwrap();
        assert!(look(&pattern, &mut devices));
        assert_eq!(devices, Devices::from([(device.clone(), false)]));
        symlink("/dev/null", &device).unwrap();
        assert!(look(&pattern, &mut devices));
        assert_eq!(devices, Devices::from([(device, true)]));
    }
}

//! Which paths of the host are there, as far as a pod sees it without the host's `/dev`: sysfs is the kernel's own, and
//! tells of every device node that the kernel asks devtmpfs for. Links that udev makes, and nodes that a program makes by
//! hand, are not in it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// Where the kernel tells of itself.
const SYS: &str = "/sys";
/// Below it, links to everything that has a device number.
const NUMBERED: [&str; 2] = ["dev/char", "dev/block"];

/// Those of `paths` that are there.
pub fn there(paths: &BTreeSet<String>) -> BTreeSet<String> {
    there_below(Path::new(SYS), paths)
}

fn there_below(sys: &Path, paths: &BTreeSet<String>) -> BTreeSet<String> {
    let asks_for_nodes = paths.iter().any(|path| path.starts_with("/dev/"));
    let nodes = if asks_for_nodes { device_nodes(sys) } else { BTreeSet::new() };
    let is_there = |path: &&String| match (path.strip_prefix("/dev/"), path.strip_prefix("/sys/")) {
        (Some(node), _) => nodes.contains(node),
        (_, Some(entry)) => sys.join(entry).exists(),
        _ => false,
    };
    paths.iter().filter(is_there).cloned().collect()
}

/// The names of all device nodes that the kernel has asked for, below `/dev`.
fn device_nodes(sys: &Path) -> BTreeSet<String> {
    let name = |entry: io::Result<fs::DirEntry>| {
        // A device may go while it is looked at.
        let uevent = fs::read_to_string(entry.ok()?.path().join("uevent")).ok()?;
        uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(str::to_owned)
    };
    let folders = NUMBERED.iter().filter_map(|folder| fs::read_dir(sys.join(folder)).ok());
    folders.flatten().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn node(sys: &Path, link: &str, device: &str, uevent: &str) {
        let folder = sys.join("devices/virtual").join(device);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("uevent"), uevent).unwrap();
        let link = sys.join("dev").join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(folder, link).unwrap();
    }

    #[test]
    fn device_nodes_are_known_by_the_kernels_own_names() {
        let sys = tempfile::tempdir().unwrap();
        node(sys.path(), "char/10:5", "gauge0", "MAJOR=10\nMINOR=5\nDEVNAME=gauges/gauge0\n");
        node(sys.path(), "block/8:0", "sda", "MAJOR=8\nMINOR=0\nDEVNAME=sda\nDEVTYPE=disk\n");
        node(sys.path(), "char/10:6", "nameless", "MAJOR=10\nMINOR=6\n");
        fs::create_dir_all(sys.path().join("class/gauge/gauge0")).unwrap();
        symlink("nowhere", sys.path().join("dev/char/10:7")).unwrap();
        symlink("nowhere", sys.path().join("class/gauge/dangling")).unwrap();
        let all = [
            "/dev/gauges/gauge0",
            "/dev/gauge0",
            "/dev/sda",
            "/dev/sd",
            "/sys/class/gauge/gauge0",
            "/sys/class/gauge/gauge1",
            "/sys/class/gauge/dangling",
            "/etc/passwd",
        ];
        let found = there_below(sys.path(), &all.map(str::to_owned).into());
        let found: Vec<_> = found.iter().map(String::as_str).collect();
        assert_eq!(found, ["/dev/gauges/gauge0", "/dev/sda", "/sys/class/gauge/gauge0"]);
    }

    #[test]
    fn a_host_that_shows_nothing_has_nothing() {
        let sys = tempfile::tempdir().unwrap();
        assert!(
            there_below(sys.path(), &["/dev/null".to_owned(), "/sys/class".to_owned()].into()).is_empty()
        );
    }

    #[test]
    fn the_running_kernel_has_a_null_device() {
        let asked = ["/dev/null", "/sys/kernel", "/dev/of-nobody"].map(str::to_owned).into();
        assert_eq!(there(&asked), ["/dev/null", "/sys/kernel"].map(str::to_owned).into());
    }
}

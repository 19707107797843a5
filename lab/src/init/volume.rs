//! Volumes as a kubelet writes them: files in a folder with a name of its own, a link `..data` to that folder, and a link
//! per file through `..data`. A change replaces `..data` by one rename, so that readers see all of it or nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use tenon_lab::guest::protocol::Bytes;

const DATA: &str = "..data";

/// Makes the folder hold just these files.
pub(crate) fn write(folder: &Path, files: &BTreeMap<String, Bytes>) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let old = fs::read_link(folder.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| holds(&folder.join(old), files)) {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let version = PathBuf::from(format!("..{}", now.as_nanos()));
    fill(&folder.join(&version), files)?;
    let aside = folder.join("..data_tmp");
    symlink(&version, &aside).context("link the new version")?;
    fs::rename(&aside, folder.join(DATA)).context("switch to the new version")?;
    link_files(folder, files).with_context(|| format!("link the files of {}", folder.display()))?;
    if let Some(old) = old {
        fs::remove_dir_all(folder.join(old)).context("remove the old version")?;
    }
    Ok(())
}

fn fill(folder: &Path, files: &BTreeMap<String, Bytes>) -> anyhow::Result<()> {
    fs::create_dir(folder).with_context(|| format!("create {}", folder.display()))?;
    for (name, Bytes(content)) in files {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).context("open a file to readers")?;
    }
    Ok(())
}

/// Whether a version holds these files and no others: then nothing changes, and nobody is woken.
fn holds(version: &Path, files: &BTreeMap<String, Bytes>) -> bool {
    let Ok(entries) = fs::read_dir(version) else { return false };
    let count = entries.count();
    count == files.len()
        && files
            .iter()
            .all(|(name, Bytes(content))| fs::read(version.join(name)).is_ok_and(|held| held == *content))
}

/// A link for each file; links of files that are gone go too.
fn link_files(folder: &Path, files: &BTreeMap<String, Bytes>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !files.contains_key(&name) {
            fs::remove_file(folder.join(name))?;
        }
    }
    for name in files.keys() {
        match symlink(Path::new(DATA).join(name), folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, Bytes> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), Bytes(text.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn a_change_replaces_all_files_at_once_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("v");
        write(&volume, &files(&[("a", "1"), ("b", "2")])).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        let before = fs::read_link(volume.join(DATA)).unwrap();
        write(&volume, &files(&[("a", "1"), ("b", "2")])).unwrap();
        assert_eq!(fs::read_link(volume.join(DATA)).unwrap(), before, "equal content changes nothing");
        write(&volume, &files(&[("a", "3")])).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        let mut names: Vec<String> = fs::read_dir(&volume)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let after = fs::read_link(volume.join(DATA)).unwrap().to_string_lossy().into_owned();
        assert_eq!(names, [after, DATA.to_owned(), "a".to_owned()]);
    }

    #[test]
    fn an_empty_volume_is_an_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &BTreeMap::new()).unwrap();
        assert_eq!(fs::read_dir(folder.path().join(DATA)).unwrap().count(), 0);
    }
}

//! Plain files, copied from a volume that others may write to at the same time: each part of a path is opened from the folder above
//! it, and no link is followed. One could lead to the credentials that are mounted beside.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

/// Directories below each other.
const MAX_DEPTH: usize = 64;
/// What a file system has of its own, at its root.
const OF_FILE_SYSTEMS: &str = "lost+found";

/// Why it was not copied.
#[derive(Debug, thiserror::Error)]
pub enum PlainError {
    /// Nothing has that name.
    #[error("there is no {0}")]
    Absent(PathBuf),
    /// A link, a device, a way out; or too deep.
    #[error("{0} is neither a file nor a directory, or too deep: copy what a link leads to")]
    NotPlain(PathBuf),
    /// Anything else.
    #[error("copy {path}", path = path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Copies a file or a directory of `root` as `to`, which does not exist; says how many files that were. Blocks.
pub(crate) fn copy(root: &Path, path: &str, to: &Path) -> Result<usize, PlainError> {
    let mut here = open(CWD, root, root, OFlags::DIRECTORY)?;
    let (mut shown, mut depth) = (PathBuf::new(), 0);
    for part in Path::new(path).components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::RootDir | Component::CurDir => continue,
            Component::ParentDir | Component::Prefix(_) => return Err(PlainError::NotPlain(path.into())),
        };
        shown.push(name);
        depth += 1;
        here = open(&here, Path::new(name), &shown, OFlags::empty())?;
    }
    if let Some(above) = to.parent() {
        fs::create_dir_all(above).map_err(|source| io_error(&shown, source))?;
    }
    tree(here, &shown, to, depth)
}

fn tree(from: OwnedFd, shown: &Path, to: &Path, depth: usize) -> Result<usize, PlainError> {
    let failed = |error: Errno| io_error(shown, error.into());
    let status = fstat(&from).map_err(failed)?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => {
            return file(from.into(), to).map(|()| 1).map_err(|error| io_error(shown, error));
        }
        FileType::Directory if depth <= MAX_DEPTH => {}
        _ => return Err(PlainError::NotPlain(shown.to_owned())),
    }
    fs::create_dir(to).map_err(|source| io_error(shown, source))?;
    let mut files = 0;
    for entry in Dir::read_from(&from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = Path::new(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()));
        if matches!(name.as_os_str().as_bytes(), b"." | b"..")
            || (depth == 0 && name == Path::new(OF_FILE_SYSTEMS))
        {
            continue;
        }
        let below = shown.join(name);
        files += tree(open(&from, name, &below, OFlags::empty())?, &below, &to.join(name), depth + 1)?;
    }
    Ok(files)
}

fn file(mut from: File, to: &Path) -> io::Result<()> {
    let runs = from.metadata()?.permissions().mode() & 0o111 != 0;
    let mode = if runs { 0o755 } else { 0o644 };
    let mut to = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    io::copy(&mut from, &mut to).map(drop)
}

fn open(above: impl AsFd, name: &Path, shown: &Path, flags: OFlags) -> Result<OwnedFd, PlainError> {
    // Without NONBLOCK a pipe is opened only once somebody opens its other end.
    let flags =
        flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(above, name, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR => PlainError::Absent(shown.to_owned()),
        // A link; a socket.
        Errno::LOOP | Errno::NXIO => PlainError::NotPlain(shown.to_owned()),
        other => io_error(shown, other.into()),
    })
}

fn io_error(path: &Path, source: io::Error) -> PlainError {
    PlainError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn volume() -> tempfile::TempDir {
        let volume = tempfile::tempdir().unwrap();
        fs::create_dir_all(volume.path().join("data/deep")).unwrap();
        fs::create_dir(volume.path().join("lost+found")).unwrap();
        fs::write(volume.path().join("data/a"), "a").unwrap();
        fs::write(volume.path().join("data/deep/run"), "b").unwrap();
        fs::set_permissions(volume.path().join("data/deep/run"), fs::Permissions::from_mode(0o700)).unwrap();
        volume
    }

    #[test]
    fn files_and_directories_are_copied() {
        let (volume, out) = (volume(), tempfile::tempdir().unwrap());
        assert_eq!(copy(volume.path(), "/", &out.path().join("all")).unwrap(), 2);
        assert!(!out.path().join("all/lost+found").exists());
        assert_eq!(copy(volume.path(), "data/a", &out.path().join("x/one")).unwrap(), 1);
        assert_eq!(fs::read_to_string(out.path().join("x/one")).unwrap(), "a");
        let mode = out.path().join("all/data/deep/run").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111);
    }

    #[test]
    fn no_link_is_followed_and_nothing_outside_is_reached() {
        let (volume, out) = (volume(), tempfile::tempdir().unwrap());
        let to = |name: &str| out.path().join(name);
        fs::write(out.path().join("secret"), "secret").unwrap();
        symlink(out.path(), volume.path().join("away")).unwrap();
        symlink(out.path().join("secret"), volume.path().join("data/secret")).unwrap();
        for (number, path) in ["away/secret", "away", "data/secret", "data", "../secret"].iter().enumerate() {
            let refused = copy(volume.path(), path, &to(&number.to_string())).unwrap_err();
            assert!(matches!(refused, PlainError::NotPlain(_) | PlainError::Absent(_)), "{path}: {refused}");
        }
        assert!(matches!(copy(volume.path(), "none", &to("none")), Err(PlainError::Absent(_))));
    }
}

//! The running kernel: what it has loaded, and the only two calls that change that.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use tenon_order::KmodName;

use crate::settings::Settings;
use crate::situation::{Kernel, Loaded};

/// The kernel could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("read {path}: {source}")]
pub struct ObserveError {
    path: PathBuf,
    source: io::Error,
}

/// What is loaded now. Build ids, parameters and instances are read of `names` only.
pub fn observe(settings: &Settings, names: &BTreeSet<KmodName>) -> Result<Kernel, ObserveError> {
    let modules = settings.sys.join("module");
    let mut loaded = parse_modules(&list(&settings.proc.join("modules"))?);
    for (name, module) in loaded.iter_mut().filter(|(name, _)| names.contains(*name)) {
        let directory = modules.join(name.as_ref());
        module.build_id = build_id(&directory.join("notes/.note.gnu.build-id"));
        module.parameters = parameters(&directory.join("parameters"));
        module.instance = instance(settings, name);
    }
    Ok(Kernel {
        release: release(),
        boot_id: boot_id(settings)?,
        loaded,
        // Absent where the kernel was built without firmware loading: nothing is set there.
        firmware_path: fs::read_to_string(settings.firmware_class.join("path"))
            .map(|text| text.trim_end_matches('\n').to_owned())
            .unwrap_or_default(),
    })
}

/// Which module has the name now. A directory of sysfs keeps its number as long as it is there, and no later one gets
/// it (`kernfs_new_node` in `fs/kernfs/dir.c`), so a module that was unloaded and loaded again has another.
pub fn instance(settings: &Settings, name: &KmodName) -> Option<u64> {
    fs::metadata(settings.sys.join("module").join(name.as_ref())).ok().map(|directory| directory.ino())
}

/// `uname -r`.
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The random id of this boot.
pub fn boot_id(settings: &Settings) -> Result<String, ObserveError> {
    Ok(read(&settings.proc.join("sys/kernel/random/boot_id"))?.trim().to_owned())
}

/// Whether `kernel.modules_disabled` is set: nothing can be loaded or unloaded before a reboot.
pub fn modules_disabled(settings: &Settings) -> bool {
    fs::read_to_string(settings.proc.join("sys/kernel/modules_disabled")).is_ok_and(|text| text.trim() == "1")
}

/// The kernel's command line.
pub fn command_line(settings: &Settings) -> Result<String, ObserveError> {
    read(&settings.proc.join("cmdline"))
}

/// Seconds since boot, those asleep included.
pub fn uptime() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0)
}

/// Milliseconds since 1970 by the node's clock.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * 1000 + nanoseconds.unwrap_or(0) / 1_000_000
}

/// Neither version magic nor symbol versions are ever ignored.
pub const LOAD_FLAGS: i32 = 0;

/// Nothing is unloaded by force (`O_TRUNC`): the kernel would panic later.
pub const UNLOAD_FLAGS: i32 = libc::O_NONBLOCK;

/// Loads a module from an open file that nobody has open for writing.
pub fn insert(file: &File, parameters: &[String]) -> Result<(), Errno> {
    // Orders hold no zero bytes; what came from the host's command line cannot either.
    let parameters = CString::new(parameters.join(" ")).map_err(|_| Errno::INVAL)?;
    rustix::system::finit_module(file, &parameters, LOAD_FLAGS)
}

/// Unloads a module, if nothing uses it. There is no forcing.
pub fn remove(name: &KmodName) -> Result<(), Errno> {
    let name = CString::new(name.as_ref()).map_err(|_| Errno::INVAL)?;
    rustix::system::delete_module(&name, UNLOAD_FLAGS)
}

/// Tells the kernel where else to look for firmware; an empty path is nowhere.
pub fn set_firmware_path(settings: &Settings, path: &str) -> io::Result<()> {
    // An empty write changes nothing, a line end clears; behind a path older kernels would take it for a part of it.
    let text = if path.is_empty() { "\n" } else { path };
    let mut file = fs::OpenOptions::new().write(true).open(settings.firmware_class.join("path"))?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// `/proc/modules`: name, size, references, users, state, address, taints. The format of `m_show` in
/// `kernel/module/procfs.c`.
fn parse_modules(text: &str) -> BTreeMap<KmodName, Loaded> {
    let module = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let name: KmodName = fields.next()?.parse().ok()?;
        let references = fields.nth(1)?.parse().unwrap_or(0);
        // `a,b,` or `-`, and `[permanent]` among them.
        let users: Vec<_> = fields.next()?.split(',').collect();
        let (state, taints) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        let loaded = Loaded {
            references,
            holders: users.iter().filter_map(|user| user.parse().ok()).collect(),
            starting: state == "Loading",
            permanent: users.contains(&"[permanent]"),
            out_of_tree: taints.contains('O'),
            ..Loaded::default()
        };
        Some((name, loaded))
    };
    text.lines().filter_map(module).collect()
}

/// The description of the first note, in hex. Three 32-bit numbers, then the name `GNU\0`, then the build id.
fn build_id(path: &Path) -> Option<String> {
    let note = fs::read(path).ok()?;
    let length = u32::from_ne_bytes(note.get(4..8)?.try_into().ok()?);
    let id = note.get(16..16_usize.checked_add(usize::try_from(length).ok()?)?)?;
    Some(hex(id))
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The parameters that can be read.
fn parameters(directory: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeMap::new() };
    let parameter = |entry: fs::DirEntry| {
        let value = fs::read_to_string(entry.path()).ok()?;
        Some((entry.file_name().into_string().ok()?, value.trim_end_matches('\n').to_owned()))
    };
    entries.flatten().filter_map(parameter).collect()
}

/// The list of modules; empty for a kernel that was built without them.
fn list(path: &Path) -> Result<String, ObserveError> {
    match read(path) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        list => list,
    }
}

fn read(path: &Path) -> Result<String, ObserveError> {
    let bytes = fs::read(path).map_err(|source| ObserveError { path: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_modules_is_read() {
        let text = "nvme 65536 3 - Live 0x0\n\
                    lab_core 16384 2 lab_b,lab_a, Live 0x0 (OE)\n\
                    efivarfs 24576 1 - Live 0x0\n\
                    stuck 100 1 [permanent], Loading 0x0\n";
        let loaded = parse_modules(text);
        let core = loaded.get(&"lab_core".parse().unwrap()).unwrap();
        assert_eq!(core.references, 2);
        let holders: Vec<_> = core.holders.iter().map(AsRef::as_ref).collect();
        assert_eq!(holders, ["lab_a", "lab_b"]);
        assert!(loaded.get(&"nvme".parse().unwrap()).unwrap().holders.is_empty());
        let stuck = loaded.get(&"stuck".parse().unwrap()).unwrap();
        assert!(stuck.holders.is_empty() && stuck.permanent && stuck.starting);
        assert!(!core.permanent && !core.starting);
        assert!(core.out_of_tree && !stuck.out_of_tree);
    }

    #[test]
    fn a_note_without_its_build_id_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("note");
        let mut note = vec![4, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0];
        note.extend_from_slice(b"GNU\0\xab\xcd\xef");
        fs::write(&path, &note).unwrap();
        assert_eq!(build_id(&path).as_deref(), Some("abcdef"));
        for length in 0..note.len() {
            fs::write(&path, &note[..length]).unwrap();
            assert_eq!(build_id(&path), None, "{length} bytes");
        }
    }
}

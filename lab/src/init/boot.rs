//! From the kernel's first program to a node that waits for orders.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{WaitOptions, chroot};
use tenon_lab::guest::initramfs::MODULES;
use tenon_lab::guest::protocol::{DISK, LOADER_PORT, VOLUMES};

/// The disks in the order in which QEMU is given them.
const ROOT_DISK: &str = "/dev/vda";
const MODULES_DISK: &str = "/dev/vdb";
const STORE_DISK: &str = "/dev/vdc";
/// The user that the loader's socket expects at its other end.
const AGENT: u32 = 65531;

/// As the kernel starts it.
pub(crate) fn in_initramfs() -> anyhow::Result<()> {
    mount_kind("devtmpfs", "/dev")?;
    mount_kind("proc", "/proc")?;
    mount_kind("sysfs", "/sys")?;
    load_modules(Path::new("/").join(MODULES).as_path())?;
    wait_for(ROOT_DISK)?;
    mount_disk(ROOT_DISK, "/root", MountFlags::empty())?;
    if !Path::new("/root/init").exists() {
        // A root disk that is older than this program; what is written to it ends with the guest.
        fs::copy("/init", "/root/init").context("copy this program to the root disk")?;
    }
    for folder in ["/dev", "/proc", "/sys"] {
        mount_move(folder, format!("/root{folder}"))
            .with_context(|| format!("move {folder} to the root disk"))?;
    }
    std::env::set_current_dir("/root").context("enter the root disk")?;
    mount_move(".", "/").context("make the root disk the root")?;
    chroot(".").context("change to the root disk")?;
    std::env::set_current_dir("/").context("enter the new root")?;
    Err(Command::new("/init").arg("root").exec()).context("start again in the root disk")
}

/// As it starts itself on the root disk, still PID 1.
pub(crate) fn in_root_disk() -> anyhow::Result<()> {
    mount_node()?;
    configure_network()?;
    let mut server = Command::new("/init").arg("serve").spawn().context("start the server")?;
    Command::new("/init")
        .args(["forward", &LOADER_PORT.to_string(), &format!("{VOLUMES}/run/loader.sock")])
        .uid(AGENT)
        .gid(AGENT)
        .spawn()
        .context("start the way to the loader")?;
    bury_the_dead(&mut server)
}

/// Orphans fall to PID 1; without the server the guest is of no use.
fn bury_the_dead(server: &mut std::process::Child) -> anyhow::Result<()> {
    let server = i32::try_from(server.id()).context("read the server's id")?;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == server => {
                anyhow::bail!("the server ended: {status:?}")
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("wait for children"),
        }
    }
}

fn load_modules(folder: &Path) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).context("list the boot modules")?;
    let mut modules: Vec<PathBuf> =
        entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    modules.sort();
    for module in modules {
        let file = File::open(&module).with_context(|| format!("open {}", module.display()))?;
        // Soft dependencies may fail; the lack of what matters shows at the next step.
        if let Err(errno) = rustix::system::finit_module(&file, c"", 0) {
            eprintln!("tenon-lab-init: load {}: {errno}", module.display());
        }
    }
    Ok(())
}

/// What systemd, the runtime and the kubelet would have mounted on a node.
fn mount_node() -> anyhow::Result<()> {
    mount_kind("tmpfs", "/run")?;
    mount_kind("tmpfs", "/tmp")?;
    for folder in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        fs::create_dir_all(folder).with_context(|| format!("create {folder}"))?;
    }
    mount_kind("devpts", "/dev/pts")?;
    mount_kind("tmpfs", "/dev/shm")?;
    mount_kind("cgroup2", "/sys/fs/cgroup")?;
    mount_kind("securityfs", "/sys/kernel/security")?;
    mount_kind("debugfs", "/sys/kernel/debug")?;
    mount_disk(MODULES_DISK, "/lib/modules", MountFlags::RDONLY)?;
    mount_disk(STORE_DISK, DISK, MountFlags::empty())?;
    let store = format!("{DISK}/store");
    for folder in [store.as_str(), VOLUMES] {
        fs::create_dir_all(folder).with_context(|| format!("create {folder}"))?;
    }
    fs::set_permissions(&store, fs::Permissions::from_mode(0o700)).context("close the store to others")?;
    mount_bind(&store, "/var/lib/tenon").context("bind the store")
}

fn configure_network() -> anyhow::Result<()> {
    for line in [
        "link set lo up",
        "link set eth0 up",
        "addr add 10.0.2.15/24 dev eth0",
        "route add default via 10.0.2.2",
    ] {
        let status = Command::new("/bin/busybox").arg("ip").args(line.split(' ')).status();
        let status = status.context("run busybox")?;
        anyhow::ensure!(status.success(), "ip {line}: {status}");
    }
    Ok(())
}

pub(crate) fn mount_kind(kind: &str, target: &str) -> anyhow::Result<()> {
    mount(kind, target, kind, MountFlags::empty(), None::<&CStr>)
        .with_context(|| format!("mount {kind} at {target}"))
}

fn mount_disk(disk: &str, target: &str, flags: MountFlags) -> anyhow::Result<()> {
    let options = CString::new("").context("no options")?;
    mount(disk, target, "ext4", flags, options.as_c_str())
        .with_context(|| format!("mount {disk} at {target}"))
}

/// Disks appear a moment after their driver.
fn wait_for(disk: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !Path::new(disk).exists() {
        anyhow::ensure!(Instant::now() < deadline, "no {disk} after 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

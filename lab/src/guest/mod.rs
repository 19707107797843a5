//! A virtual machine with a stock kernel: QEMU's emulation, no privileges, real `finit_module`.

pub mod channel;
pub mod cpio;
pub mod firmware;
pub mod initramfs;
pub mod oci;
pub mod protocol;
pub mod root_disk;
pub mod seccomp;
pub mod volatile;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

pub use channel::{Channel, ChannelError};
pub use protocol::{ContainerState, Hello, Output};
pub use root_disk::{Program, root_disk};
pub use volatile::Loss;

use tenon_api::node_pod::{Container, MountSource};

use crate::child::{Child, ChildError};
use crate::command::Tail;
use crate::control_plane::free_ports;
use crate::kernel::{DiskError, Kernel, ext4};
use crate::wait::{self, TimedOut};
use firmware::{FirmwareError, SecureBoot};
use protocol::{Bytes, LOADER_PORT, Operation, Outcome, READY};

/// An idle machine boots a guest in three seconds.
const BOOT: Duration = Duration::from_mins(2);
/// What a guest needs beside what it loads, in MiB.
pub const MEMORY: u32 = 320;
/// Room for a few generations of drivers, in MiB.
pub const DISK: u64 = 256;

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name: also that of its folder.
    pub name: String,
    /// Its kernel.
    pub kernel: Kernel,
    /// PID 1, a static program.
    pub init: PathBuf,
    /// The root file system's image.
    pub root: PathBuf,
    /// Its memory, in MiB.
    pub memory: u32,
    /// The size of the disk that outlives its boots, in MiB; what is not written takes no room on the host.
    pub disk_size: u64,
    /// More words for the kernel's command line: `module.sig_enforce=1`, `lockdown=integrity`, …
    pub kernel_arguments: Vec<String>,
    /// What becomes of its disk when its power is cut.
    pub disk: Disk,
    /// The firmware that starts it; without any, QEMU starts the kernel itself, which takes a quarter of the time.
    pub secure_boot: Option<SecureBoot>,
}

/// What becomes of a guest's disk when its power is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// It holds whatever was written to it.
    Steady,
    /// It holds what was flushed, and of the rest what chance has left ([`Guest::cut_power`]).
    Volatile,
}

/// A guest: its disk outlives its boots.
#[derive(Debug)]
pub struct Guest {
    settings: Settings,
    folder: PathBuf,
    boots: u32,
    running: Option<Running>,
}

/// One boot.
#[derive(Debug)]
struct Running {
    qemu: Child,
    channel: Arc<Channel>,
    hello: Hello,
    loader_port: u16,
}

/// Why a guest does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// Its folder, its initramfs.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its initramfs.
    #[error("make the initramfs of {name}")]
    Initramfs {
        /// The guest.
        name: String,
        /// Why.
        #[source]
        source: initramfs::InitramfsError,
    },
    /// Its disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its firmware.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// QEMU.
    #[error(transparent)]
    Qemu(#[from] ChildError),
    /// It never became ready.
    #[error("guest {name} does not come up; its console {console} ends with\n{tail}")]
    NotReady {
        /// The guest.
        name: String,
        /// Its console's log.
        console: PathBuf,
        /// The log's last lines.
        tail: Tail,
        /// What was waited for.
        #[source]
        source: TimedOut,
    },
    /// It died, by a panic most likely.
    #[error("guest {name} died{}; its console {console} ends with\n{tail}", panic.as_ref().map(|line| format!(" ({line})")).unwrap_or_default())]
    Died {
        /// The guest.
        name: String,
        /// The kernel's own word for it.
        panic: Option<String>,
        /// Its console's log.
        console: PathBuf,
        /// The log's last lines.
        tail: Tail,
    },
    /// It was asked for something while switched off.
    #[error("guest {name} is switched off")]
    Off {
        /// The guest.
        name: String,
    },
    /// An operation in it.
    #[error("guest {name} (console {console})")]
    Channel {
        /// The guest.
        name: String,
        /// Its console's log.
        console: PathBuf,
        /// Why.
        #[source]
        source: Box<ChannelError>,
    },
    /// A program in it said no.
    #[error("in guest {name}: {program}: status {status}\n{tail}", status = output.status, tail = Tail::of(&output.stderr))]
    Program {
        /// The guest.
        name: String,
        /// The program and its arguments.
        program: String,
        /// What it left behind.
        output: Output,
    },
}

impl Guest {
    /// Makes a guest's folder and disk, and boots it.
    pub async fn boot(settings: Settings, folder: &Path) -> Result<Self, GuestError> {
        let folder = folder.join(&settings.name);
        fs::create_dir_all(&folder).map_err(at("create", &folder))?;
        let archive = initramfs::initramfs(&settings.kernel, &settings.init)
            .map_err(|source| GuestError::Initramfs { name: settings.name.clone(), source })?;
        let path = folder.join("initramfs");
        fs::write(&path, archive).map_err(at("write", &path))?;
        if let Some(firmware) = &settings.secure_boot {
            firmware.enroll(&settings.kernel, &folder)?;
        }
        let mut guest = Self { settings, folder, boots: 0, running: None };
        guest.wipe_disk()?;
        guest.switch_on().await?;
        Ok(guest)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// The kernel it boots.
    pub fn kernel(&self) -> &Kernel {
        &self.settings.kernel
    }

    /// Boots another kernel from now on.
    pub fn set_kernel(&mut self, kernel: Kernel) -> Result<(), GuestError> {
        let archive = initramfs::initramfs(&kernel, &self.settings.init)
            .map_err(|source| GuestError::Initramfs { name: self.settings.name.clone(), source })?;
        let path = self.folder.join("initramfs");
        fs::write(&path, archive).map_err(at("write", &path))?;
        self.settings.kernel = kernel;
        Ok(())
    }

    /// What it said of itself at this boot.
    pub fn hello(&self) -> Result<&Hello, GuestError> {
        self.running().map(|running| &running.hello)
    }

    /// Everything that the kernel, PID 1 and the containers said at this boot.
    pub fn console(&self) -> PathBuf {
        self.folder.join(format!("console-{}.log", self.boots))
    }

    /// The line to it, for a task of its own; it breaks when the guest ends.
    pub fn channel(&self) -> Result<Arc<Channel>, GuestError> {
        Ok(self.running()?.channel.clone())
    }

    /// Where the host reaches the loader's socket, as the agent's user.
    pub fn loader_address(&self) -> Result<SocketAddrV4, GuestError> {
        Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.running()?.loader_port))
    }

    /// Runs a program in the guest's own root and gives what it left behind.
    pub async fn exec(&self, argv: &[&str]) -> Result<Output, GuestError> {
        let argv = argv.iter().map(ToString::to_string).collect();
        match self.call(Operation::Exec { argv }).await? {
            Outcome::Exec(output) => Ok(output),
            answer => Err(self.unexpected("Exec", answer)),
        }
    }

    /// Runs a shell's line and gives its output; another status than 0 is an error.
    pub async fn shell(&self, line: &str) -> Result<String, GuestError> {
        let output = self.exec(&["/bin/sh", "-c", line]).await?;
        if output.status == 0 {
            return Ok(output.stdout);
        }
        Err(GuestError::Program { name: self.settings.name.clone(), program: line.to_owned(), output })
    }

    /// Reads a file.
    pub async fn read_file(&self, path: &str) -> Result<Vec<u8>, GuestError> {
        match self.call(Operation::ReadFile { path: path.to_owned() }).await? {
            Outcome::Content(Bytes(content)) => Ok(content),
            answer => Err(self.unexpected("ReadFile", answer)),
        }
    }

    /// Writes a file; its folder is made.
    pub async fn write_file(&self, path: &str, mode: u32, content: &[u8]) -> Result<(), GuestError> {
        let content = Bytes(content.to_vec());
        self.order(Operation::WriteFile { path: path.to_owned(), mode, content }).await
    }

    /// Makes a folder.
    pub async fn make_folder(&self, path: &str, mode: u32) -> Result<(), GuestError> {
        self.order(Operation::MakeFolder { path: path.to_owned(), mode }).await
    }

    /// Makes a volume's folder hold just these files, as a kubelet does.
    pub async fn write_volume(&self, path: &str, files: BTreeMap<String, Vec<u8>>) -> Result<(), GuestError> {
        let files = files.into_iter().map(|(name, content)| (name, Bytes(content))).collect();
        self.order(Operation::WriteVolume { path: path.to_owned(), files }).await
    }

    /// Makes the folders behind a container's mounts that do not exist of themselves: empty directories and volumes, the
    /// latter still without files.
    pub async fn prepare_volumes(&self, container: &Container) -> Result<(), GuestError> {
        for mount in container.mounts {
            let path = oci::source(mount);
            match mount.source {
                MountSource::EmptyDir { .. } => self.make_folder(&path, 0o777).await?,
                MountSource::HostPath { create: true, .. } => {
                    self.shell(&format!("mkdir -p {path}")).await?;
                }
                MountSource::HostPath { create: false, .. } => {}
                MountSource::ConfigMap { .. } | MountSource::ApiToken | MountSource::Token { .. } => {
                    self.make_folder(&path, 0o755).await?;
                }
            }
        }
        Ok(())
    }

    /// Runs a container by such a configuration, and again whenever it ends.
    pub async fn start_container(&self, name: &str, config: &serde_json::Value) -> Result<(), GuestError> {
        let path = format!("{}/{name}/config.json", protocol::CONTAINERS);
        self.write_file(&path, 0o600, config.to_string().as_bytes()).await?;
        self.order(Operation::StartContainer { name: name.to_owned() }).await
    }

    /// Runs a container that was stopped, by the configuration it had.
    pub async fn resume_container(&self, name: &str) -> Result<(), GuestError> {
        self.order(Operation::StartContainer { name: name.to_owned() }).await
    }

    /// Kills a container's processes; it is run again, as a kubelet does.
    pub async fn kill_container(&self, name: &str) -> Result<(), GuestError> {
        self.signal_container(name, 9).await
    }

    /// Sends a container's first process a signal.
    pub async fn signal_container(&self, name: &str, signal: i32) -> Result<(), GuestError> {
        self.order(Operation::SignalContainer { name: name.to_owned(), signal }).await
    }

    /// Ends a container and does not run it again.
    pub async fn stop_container(&self, name: &str) -> Result<(), GuestError> {
        self.order(Operation::StopContainer { name: name.to_owned() }).await
    }

    /// How the containers are.
    pub async fn containers(&self) -> Result<BTreeMap<String, ContainerState>, GuestError> {
        match self.call(Operation::Containers).await? {
            Outcome::Containers(containers) => Ok(containers),
            answer => Err(self.unexpected("Containers", answer)),
        }
    }

    /// Opens a file in the guest and keeps it open: a device in use.
    pub async fn hold(&self, path: &str) -> Result<(), GuestError> {
        self.order(Operation::Hold { path: path.to_owned() }).await
    }

    /// Closes what was held.
    pub async fn let_go(&self, path: &str) -> Result<(), GuestError> {
        self.order(Operation::LetGo { path: path.to_owned() }).await
    }

    /// Switches it off in good order.
    pub async fn power_off(&mut self) -> Result<(), GuestError> {
        self.order(Operation::PowerOff).await?;
        self.wait_for_end().await
    }

    /// Waits until it has ended by itself: after a panic, say.
    pub async fn wait_for_end(&mut self) -> Result<(), GuestError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let ended =
            wait::until("the guest's end", BOOT, async || (!running.qemu.is_running()).then_some(())).await;
        ended.map_err(|source| self.not_ready(source))
    }

    /// Pulls the plug.
    pub fn unplug(&mut self) {
        self.running = None;
    }

    /// Pulls the plug from a guest with a volatile disk: of what was written since the last flush it loses some, chosen
    /// by this seed. Boot it to see what is left.
    pub fn cut_power(&mut self, seed: u64) -> Result<Loss, GuestError> {
        self.running = None;
        let loss = volatile::lose(&self.disk_before(), &self.disk_log(), &self.disk(), seed);
        loss.map_err(at("lose a part of", &self.disk()))
    }

    /// Whether it runs.
    pub fn is_on(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| running.qemu.is_running())
    }

    /// Boots it with the disk it has.
    pub async fn switch_on(&mut self) -> Result<(), GuestError> {
        self.boots += 1;
        self.running = None;
        if self.settings.disk == Disk::Volatile {
            volatile::begin(&self.disk_before(), &self.disk_log(), &self.disk())
                .map_err(at("remember", &self.disk()))?;
        }
        let [loader_port] = free_ports().map_err(at("find a port for", &self.folder))?;
        let command = self.qemu(loader_port);
        let mut qemu = Child::start(&format!("qemu-{}", self.boots), &command, &self.folder)?;
        let console = self.console();
        let ready = wait::until("its PID 1 to say that it is ready", BOOT, async || {
            if fs::read(&console).is_ok_and(|bytes| contains(&bytes, READY.as_bytes())) {
                return Some(true);
            }
            (!qemu.is_running()).then_some(false)
        })
        .await
        .map_err(|source| self.not_ready(source))?;
        if !ready {
            return Err(match qemu.check() {
                // QEMU's own complaint comes first: a wrong option, no memory. A panic ends it without any.
                Err(ChildError::Ended { status, .. }) if status.success() => self.died(),
                Err(error) => error.into(),
                Ok(()) => self.died(),
            });
        }
        let channel = Channel::connect(&self.socket()).await.map_err(|source| self.talk(source))?;
        let hello = match channel.call(Operation::Hello).await.map_err(|source| self.talk(source))? {
            Outcome::Hello(hello) => hello,
            answer => return Err(self.unexpected("Hello", answer)),
        };
        self.running = Some(Running { qemu, channel: Arc::new(channel), hello, loader_port });
        Ok(())
    }

    /// Pulls the plug and boots again.
    pub async fn reset(&mut self) -> Result<(), GuestError> {
        self.unplug();
        self.switch_on().await
    }

    /// Replaces the disk by an empty one; the guest must be off.
    pub fn wipe_disk(&mut self) -> Result<(), GuestError> {
        self.running = None;
        let disk = self.disk();
        // A file of its own, not the old one's blocks.
        match fs::remove_file(&disk) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at("remove", &disk)(error));
            }
            _ => {}
        }
        Ok(ext4(&disk, self.settings.disk_size)?)
    }

    fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }

    /// As it was at the last boot.
    fn disk_before(&self) -> PathBuf {
        self.folder.join("disk-before.img")
    }

    /// What was written to it since.
    fn disk_log(&self) -> PathBuf {
        self.folder.join("disk.log")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("channel")
    }

    fn qemu(&self, loader_port: u16) -> Command {
        let Settings { kernel, root, kernel_arguments, memory, .. } = &self.settings;
        let path = |path: PathBuf| path.display().to_string();
        let drive = |file: String, more: &str| format!("file={file},format=raw,if=virtio,{more}");
        let mut command = Command::new("qemu-system-x86_64");
        command
            // Emulation alone: it is everywhere. Without cx16, which emulations got wrong.
            .args(["-accel", "tcg", "-cpu", "max,-cx16", "-smp", "1"])
            .args(self.machine())
            .args(["-m", &memory.to_string(), "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-chardev", &format!("file,id=console,path={}", path(self.console()))])
            .args(["-chardev", &format!("socket,id=channel,path={},server=on,wait=off", path(self.socket()))])
            .args(["-serial", "chardev:console", "-serial", "chardev:channel"])
            .arg("-initrd")
            .arg(self.folder.join("initramfs"))
            .args(["-append", &kernel_command_line(kernel_arguments)])
            .args(["-drive", &drive(root.display().to_string(), "snapshot=on")])
            .args(["-drive", &drive(path(kernel.modules_disk()), "readonly=on")])
            .args(self.store_disk())
            .args([
                "-netdev",
                &format!("user,id=net,hostfwd=tcp:127.0.0.1:{loader_port}-10.0.2.15:{LOADER_PORT}"),
            ])
            .args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        command
    }

    /// What starts which kernel.
    fn machine(&self) -> Vec<String> {
        let kernel = &self.settings.kernel;
        let (mut arguments, kernel) = match &self.settings.secure_boot {
            None => (vec!["-M".to_owned(), "pc".to_owned()], kernel.vmlinux()),
            Some(firmware) => (firmware.arguments(&self.folder), kernel.boot_image()),
        };
        arguments.extend(["-kernel".to_owned(), kernel.display().to_string()]);
        arguments
    }

    /// The third disk, on which the store is.
    fn store_disk(&self) -> Vec<String> {
        let disk = self.disk().display().to_string();
        match self.settings.disk {
            Disk::Steady => {
                vec!["-drive".to_owned(), format!("file={disk},format=raw,if=virtio,cache=writeback")]
            }
            Disk::Volatile => volatile::arguments(&disk, &self.disk_log().display().to_string()),
        }
    }

    fn running(&self) -> Result<&Running, GuestError> {
        self.running.as_ref().ok_or_else(|| GuestError::Off { name: self.settings.name.clone() })
    }

    async fn call(&self, operation: Operation) -> Result<Outcome, GuestError> {
        let answer = self.running()?.channel.call(operation).await;
        answer.map_err(|source| match source {
            ChannelError::HungUp { .. } => self.died(),
            source => self.talk(source),
        })
    }

    async fn order(&self, operation: Operation) -> Result<(), GuestError> {
        let name = channel::name(&operation);
        match self.call(operation).await? {
            Outcome::Done => Ok(()),
            answer => Err(self.unexpected(&name, answer)),
        }
    }

    fn not_ready(&self, source: TimedOut) -> GuestError {
        let console = self.console();
        let tail = Tail::of_file(&console);
        GuestError::NotReady { name: self.settings.name.clone(), console, tail, source }
    }

    fn died(&self) -> GuestError {
        let console = self.console();
        let tail = Tail::of_file(&console);
        let said = fs::read(&console).unwrap_or_default();
        let panic = panic_line(&String::from_utf8_lossy(&said));
        GuestError::Died { name: self.settings.name.clone(), panic, console, tail }
    }

    fn talk(&self, source: ChannelError) -> GuestError {
        let source = Box::new(source);
        GuestError::Channel { name: self.settings.name.clone(), console: self.console(), source }
    }

    fn unexpected(&self, operation: &str, answer: Outcome) -> GuestError {
        self.talk(ChannelError::Unexpected { operation: operation.to_owned(), answer })
    }
}

fn kernel_command_line(more: &[String]) -> String {
    // A panic ends QEMU at once, by panic=-1 and -no-reboot. Ten ticks of the timer must come within ten milliseconds, or
    // the kernel gives up ("IO-APIC + timer doesn't work", arch/x86/kernel/apic/io_apic.c, 6.1): a busy host may be late.
    let words = ["console=ttyS0", "panic=-1", "quiet", "loglevel=4", "no_timer_check"];
    words.into_iter().chain(more.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

/// The line in which the kernel says why it gives up.
fn panic_line(console: &str) -> Option<String> {
    let at = console.find("Kernel panic - ")?;
    console.get(at..)?.lines().next().map(|line| line.trim_end().to_owned())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GuestError {
    let path = path.to_owned();
    move |source| GuestError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_panic_is_found_among_the_traces() {
        let console = "noise\r\n[    3.6] Kernel panic - not syncing: sysrq triggered crash\r\n[    3.7] Call Trace:\r\n";
        assert_eq!(panic_line(console).unwrap(), "Kernel panic - not syncing: sysrq triggered crash");
        assert_eq!(panic_line("all is well"), None);
    }
}

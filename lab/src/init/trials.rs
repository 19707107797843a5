//! A guest that only tries loads: hands each file to the kernel, writes what came of it to the second serial port, and
//! switches off.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::OFlags;
use rustix::system::{RebootCommand, delete_module, finit_module, reboot};
use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};
use tenon_lab::trial::plan::{Attempt, FILES, Line, PLAN, Plan, Tried};

use crate::boot::mount_kind;

const PORT: &str = "/dev/ttyS1";
/// The kernel keeps a reference of its own for a moment after a load (an asynchronous probe, a registration in progress).
const UNLOADS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(5);

/// Works the plan off and switches off.
pub(crate) fn run() -> anyhow::Result<()> {
    mount_kind("devtmpfs", "/dev")?;
    mount_kind("proc", "/proc")?;
    mount_kind("sysfs", "/sys")?;
    let mut port = port()?;
    let last = match work(&mut port) {
        Ok(()) => Line::Through,
        Err(error) => Line::Broken { message: format!("{error:#}") },
    };
    say(&mut port, &last)?;
    tcdrain(&port).context("wait for the port")?;
    reboot(RebootCommand::PowerOff).context("switch off")
}

fn port() -> anyhow::Result<File> {
    let port = File::options().read(true).write(true).open(PORT).with_context(|| format!("open {PORT}"))?;
    let mut settings = tcgetattr(&port).context("read the port's settings")?;
    settings.make_raw();
    tcsetattr(&port, OptionalActions::Now, &settings).context("make the port raw")?;
    Ok(port)
}

fn work(port: &mut File) -> anyhow::Result<()> {
    let plan = fs::read(format!("/{PLAN}")).context("read the plan")?;
    let plan: Plan = serde_json::from_slice(&plan).context("understand the plan")?;
    let mut log = KernelLog::open()?;
    // Noise on the line ends here.
    port.write_all(b"\n").context("write the port")?;
    let mut kept: BTreeSet<String> = loaded()?.into_iter().collect();
    for attempts in &plan.sequences {
        for attempt in attempts {
            let tried = attempt_load(attempt, &mut log)?;
            say(port, &Line::Tried(tried))?;
        }
        let left = unload(&kept)?;
        kept.extend(left.iter().cloned());
        say(port, &Line::Ended { left })?;
    }
    Ok(())
}

fn attempt_load(attempt: &Attempt, log: &mut KernelLog) -> anyhow::Result<Tried> {
    let path = format!("/{FILES}/{}", attempt.file);
    let file = File::open(&path).with_context(|| format!("open {path}"))?;
    let parameters = CString::new(attempt.parameters.as_str()).context("parameters without a zero byte")?;
    log.skip()?;
    let errno =
        finit_module(&file, &parameters, attempt.flags).err().map_or(0, rustix::io::Errno::raw_os_error);
    Ok(Tried { errno, log: log.fresh()?, loaded: loaded()? })
}

/// Unloads, newest first, all but what is kept; gives what would not go.
fn unload(kept: &BTreeSet<String>) -> anyhow::Result<Vec<String>> {
    for _ in 0..UNLOADS {
        let mut gone = false;
        for name in loaded()?.iter().filter(|name| !kept.contains(*name)) {
            let name = CString::new(name.as_str()).context("a name without a zero byte")?;
            gone |= delete_module(&name, OFlags::NONBLOCK.bits().cast_signed()).is_ok();
        }
        if loaded()?.iter().all(|name| kept.contains(name)) {
            return Ok(Vec::new());
        }
        if !gone {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(loaded()?.into_iter().filter(|name| !kept.contains(name)).collect())
}

fn loaded() -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string("/proc/modules").context("read /proc/modules")?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn say(port: &mut File, line: &Line) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    port.write_all(&line).context("write the port")
}

/// `/dev/kmsg`: a record per read (Linux, Documentation/ABI/testing/dev-kmsg).
struct KernelLog(File);

impl KernelLog {
    fn open() -> anyhow::Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open("/dev/kmsg");
        Ok(Self(file.context("open /dev/kmsg")?))
    }

    /// What was said before does not count.
    fn skip(&mut self) -> anyhow::Result<()> {
        self.0.seek(SeekFrom::End(0)).map(drop).context("skip the kernel's log")
    }

    fn fresh(&mut self) -> anyhow::Result<Vec<String>> {
        let mut texts = Vec::new();
        let mut record = vec![0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return Ok(texts),
                Ok(length) => texts.extend(record.get(..length).and_then(text)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(texts),
                // The oldest records were overwritten: the next read goes on behind them.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error).context("read the kernel's log"),
            }
        }
    }
}

/// Behind the priority, number and time of a record, its first line; those after it name devices.
fn text(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (_, text) = record.split_once(';')?;
    text.lines().next().map(str::to_owned)
}

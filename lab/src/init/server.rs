//! The guest's end of the second serial port.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tenon_lab::guest::protocol::{Bytes, Hello, Operation, Outcome, Output, READY, Reply, Request};

use crate::containers::Containers;
use crate::volume;

const PORT: &str = "/dev/ttyS1";

/// What requests share.
#[derive(Debug, Clone)]
struct Server {
    containers: Containers,
    held: Arc<Mutex<BTreeMap<String, File>>>,
    line: Arc<Mutex<File>>,
}

/// Obeys until the guest ends; each request has a thread of its own.
pub(crate) fn serve() -> anyhow::Result<()> {
    let port = File::options().read(true).write(true).open(PORT).with_context(|| format!("open {PORT}"))?;
    let mut settings = tcgetattr(&port).context("read the port's settings")?;
    settings.make_raw();
    tcsetattr(&port, OptionalActions::Now, &settings).context("make the port raw")?;
    let reader = BufReader::new(port.try_clone().context("share the port")?);
    let server =
        Server { containers: Containers::default(), held: Arc::default(), line: Arc::new(Mutex::new(port)) };
    println!("{READY}");
    for line in reader.split(b'\n') {
        let line = line.context("read the port")?;
        match serde_json::from_slice::<Request>(&line) {
            Ok(request) => {
                let server = server.clone();
                std::thread::spawn(move || server.answer(request));
            }
            Err(error) => println!("tenon-lab-init: no request: {error}"),
        }
    }
    Ok(())
}

impl Server {
    fn answer(&self, Request { id, operation }: Request) {
        let off = operation == Operation::PowerOff;
        let outcome =
            self.run(operation).unwrap_or_else(|error| Outcome::Failed { message: format!("{error:#}") });
        if let Err(error) = self.reply(&Reply { id, outcome }) {
            println!("tenon-lab-init: reply: {error:#}");
        }
        if off {
            rustix::fs::sync();
            if let Err(errno) = reboot(RebootCommand::PowerOff) {
                println!("tenon-lab-init: power off: {errno}");
            }
        }
    }

    fn reply(&self, reply: &Reply) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        let mut port = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        port.write_all(&line).context("write the port")
    }

    fn run(&self, operation: Operation) -> anyhow::Result<Outcome> {
        match operation {
            Operation::Hello => return Ok(Outcome::Hello(hello()?)),
            Operation::Exec { argv } => return Ok(Outcome::Exec(exec(&argv)?)),
            Operation::ReadFile { path } => {
                return Ok(Outcome::Content(Bytes(fs::read(&path).with_context(|| format!("read {path}"))?)));
            }
            Operation::Containers => return Ok(Outcome::Containers(self.containers.states())),
            Operation::WriteFile { path, mode, content } => write_file(Path::new(&path), mode, &content)?,
            Operation::MakeFolder { path, mode } => make_folder(Path::new(&path), mode)?,
            Operation::WriteVolume { path, files } => volume::write(Path::new(&path), &files)?,
            Operation::StartContainer { name } => self.containers.start(&name),
            Operation::SignalContainer { name, signal } => self.containers.signal(&name, signal)?,
            Operation::StopContainer { name } => self.containers.stop(&name)?,
            Operation::Hold { path } => {
                let file = File::open(&path).with_context(|| format!("open {path}"))?;
                self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(path, file);
            }
            Operation::LetGo { path } => {
                let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
                anyhow::ensure!(held.is_some(), "{path} is not held");
            }
            Operation::PowerOff => {
                for name in self.containers.states().keys() {
                    self.containers.stop(name)?;
                }
            }
        }
        Ok(Outcome::Done)
    }
}

fn hello() -> anyhow::Result<Hello> {
    let uname = rustix::system::uname();
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(Hello {
        release: uname.release().to_string_lossy().into_owned(),
        machine: uname.machine().to_string_lossy().into_owned(),
        boot_id: fs::read_to_string(path).context("read the boot id")?.trim().to_owned(),
    })
}

fn exec(argv: &[String]) -> anyhow::Result<Output> {
    let (program, arguments) = argv.split_first().context("run nothing")?;
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {program}"))?;
    Ok(Output {
        status: status_of(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// As a shell counts: 128 and the signal's number when a signal ended it.
pub(crate) fn status_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn write_file(path: &Path, mode: u32, Bytes(content): &Bytes) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
    set_mode(path, mode)
}

fn make_folder(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("change the permissions of {}", path.display()))
}

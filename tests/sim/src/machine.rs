//! One node's store and kernel, on which the loader's own work is done.
//!
//! Every call that changes something is a step; a fuse can blow at any of them, before or after it took effect. What
//! follows on a dead machine changes nothing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use tenon_kmod::ModuleName;
use tenon_kmod::failure::{Attempt, Errno, LoadFailure};
use tenon_loader::content::ContentError;
use tenon_loader::kernel::ObserveError;
use tenon_loader::machine::Machine;
use tenon_loader::mark::Mark;
use tenon_loader::plan::Step;
use tenon_loader::record::{Piece, Record, Source, fingerprint};
use tenon_loader::situation::{Kernel, Loaded, Target};
use tenon_loader::steps::StepError;
use tenon_loader::store::{ReadRecord, StoreError};
use tenon_order::{Digest, KeyId, KmodName, Load, ModuleKey, NodeName, Order, StoreId, Wish};

use crate::planted::Bug;
use crate::registry::{self, Temper};
use crate::seal::{self, Key};

/// The in-tree module that makes room for drivers where they ask for it.
pub const IN_TREE: &str = "simple_gauge";

/// What survives a power cut.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// The store's id.
    pub store: Option<StoreId>,
    /// Whose store it is.
    pub node: Option<NodeName>,
    /// The order held.
    pub order: Option<(String, Order)>,
    /// The keys last seen.
    pub keys: Vec<Key>,
    /// What is remembered of Modules.
    pub records: BTreeMap<ModuleKey, Record>,
    /// Marks of loads.
    pub marks: BTreeMap<Digest, Mark>,
    /// Complete bundles.
    pub bundles: BTreeSet<Digest>,
}

/// A loaded module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kmod {
    /// Its file, where it came with a bundle.
    pub file: Option<Digest>,
    /// Its build id.
    pub build_id: Option<String>,
    /// The modules that it uses.
    pub needs: Vec<KmodName>,
    /// Programs that use it.
    pub users: u32,
    /// Whether somebody else loaded it.
    pub foreign: bool,
    /// Which of all modules that had the name in this boot.
    pub instance: u64,
}

/// What was done to a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A load was tried.
    Insert {
        /// What.
        name: KmodName,
        /// Which file, where it came with a bundle.
        file: Option<Digest>,
        /// What the kernel said, 0 for success.
        errno: i32,
    },
    /// An unload was tried.
    Remove {
        /// What.
        name: KmodName,
        /// What was there.
        was: Option<Kmod>,
        /// Whether it is gone.
        gone: bool,
        /// The loaded modules that used it.
        holders: Vec<KmodName>,
    },
    /// The kernel panicked in this module's init.
    Panic {
        /// Which file.
        file: Digest,
        /// Of what was ordered, settings and all.
        content: Digest,
    },
}

/// The kernel, and what is about to happen to it.
#[derive(Debug, Default)]
struct State {
    disk: Disk,
    loaded: BTreeMap<KmodName, Kmod>,
    firmware_path: String,
    effects: Vec<Effect>,
    /// How many modules were loaded in this boot.
    instances: u64,
}

/// One machine.
#[derive(Debug)]
pub struct SimMachine {
    state: RefCell<State>,
    release: &'static str,
    boot_id: String,
    /// When it booted, and now, in simulated time.
    booted: u64,
    now: Cell<u64>,
    /// Steps left before the power goes, or the process is killed.
    fuse: Cell<Option<u32>>,
    dead: Cell<bool>,
    bug: Option<Bug>,
}

impl SimMachine {
    /// A machine that has just booted this kernel with this disk.
    pub fn boot(disk: Disk, release: &'static str, boot_id: String, now: u64, bug: Option<Bug>) -> Self {
        let mut state = State { disk, ..State::default() };
        if let Ok(name) = IN_TREE.parse() {
            let in_tree = Kmod {
                file: None,
                build_id: Some(IN_TREE.to_owned()),
                needs: Vec::new(),
                users: 0,
                foreign: true,
                instance: 0,
            };
            state.loaded.insert(name, in_tree);
        }
        Self {
            state: RefCell::new(state),
            release,
            boot_id,
            booted: now,
            now: Cell::new(now),
            fuse: Cell::new(None),
            dead: Cell::new(false),
            bug,
        }
    }

    /// What would survive a power cut.
    pub fn disk(&self) -> Disk {
        self.state.borrow().disk.clone()
    }

    /// A look at the disk.
    pub fn with_disk<T>(&self, look: impl FnOnce(&Disk) -> T) -> T {
        look(&self.state.borrow().disk)
    }

    /// A change of the disk by the session, not by the work.
    pub fn change_disk<T>(&self, change: impl FnOnce(&mut Disk) -> T) -> T {
        change(&mut self.state.borrow_mut().disk)
    }

    /// The running kernel.
    pub fn kernel(&self) -> &'static str {
        self.release
    }

    /// The running boot.
    pub fn boot_name(&self) -> &str {
        &self.boot_id
    }

    /// What is loaded.
    pub fn with_loaded<T>(&self, look: impl FnOnce(&BTreeMap<KmodName, Kmod>) -> T) -> T {
        look(&self.state.borrow().loaded)
    }

    /// A change by somebody else: `rmmod` by hand, a foreign module, an open device.
    pub fn change_loaded(&self, change: impl FnOnce(&mut BTreeMap<KmodName, Kmod>)) {
        change(&mut self.state.borrow_mut().loaded);
    }

    /// The time is this.
    pub fn at(&self, now: u64) {
        self.now.set(now);
    }

    /// The power goes, or the process dies, after so many more steps.
    pub fn set_fuse(&self, steps: Option<u32>) {
        self.fuse.set(steps);
    }

    /// Whether the fuse has blown, or the kernel has panicked.
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// The process that died is started anew: the machine did not go down with it.
    pub fn revive(&self) {
        self.dead.set(false);
        self.fuse.set(None);
    }

    /// What was done since this was last asked.
    pub fn take_effects(&self) -> Vec<Effect> {
        std::mem::take(&mut self.state.borrow_mut().effects)
    }

    /// Whether a change is still made; the fuse may blow right before it or right after.
    fn is_alive(&self) -> bool {
        if self.dead.get() {
            return false;
        }
        match self.fuse.get() {
            Some(0 | 1) => {
                self.dead.set(true);
                // An odd fuse blows after the change.
                self.fuse.get() == Some(1)
            }
            Some(left) => {
                self.fuse.set(Some(left - 2));
                true
            }
            None => true,
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> Result<(), StoreError> {
        if !self.is_alive() {
            return Err(StoreError::NoRandomness);
        }
        change(&mut self.state.borrow_mut());
        Ok(())
    }

    fn insert(&self, piece: &Piece) -> Result<(), StepError> {
        if !self.is_alive() {
            return Err(StepError::Store(StoreError::NoRandomness));
        }
        let mut state = self.state.borrow_mut();
        let file = match piece.source {
            Source::Store(digest) => Some(digest),
            Source::Host(_) => None,
        };
        let known = file.and_then(registry::file);
        let missing = |name: &KmodName| !state.loaded.contains_key(name);
        let errno = if state.loaded.contains_key(&piece.name) {
            Errno::EEXIST
        } else if known.is_some_and(|file| file.kernel != self.release || file.temper == Temper::Refused) {
            Errno::ENOEXEC
        } else if known.is_some_and(|file| file.needs.iter().any(missing)) {
            Errno::ENOENT
        } else if known.is_some_and(|file| file.temper == Temper::GivesUp) {
            Errno::ENODEV
        } else {
            Errno(0)
        };
        state.effects.push(Effect::Insert { name: piece.name.clone(), file, errno: errno.0 });
        if errno != Errno(0) {
            return Err(refused(&piece.name, errno));
        }
        if let Some(file) = known.filter(|file| file.temper == Temper::Panics) {
            let content = ordered_content(&state.disk, file.digest);
            state.effects.push(Effect::Panic { file: file.digest, content });
            self.dead.set(true);
            return Err(StepError::Store(StoreError::NoRandomness));
        }
        let kmod = Kmod {
            file,
            build_id: known.map(|file| file.build_id.clone()),
            needs: known.map(|file| file.needs.clone()).unwrap_or_default(),
            users: 0,
            foreign: false,
            instance: state.instances + 1,
        };
        state.instances += 1;
        state.loaded.insert(piece.name.clone(), kmod);
        Ok(())
    }

    fn remove(&self, name: &KmodName) -> Result<(), StepError> {
        if !self.is_alive() {
            return Err(StepError::Store(StoreError::NoRandomness));
        }
        let mut state = self.state.borrow_mut();
        let was = state.loaded.get(name).cloned();
        let holders = holders(&state.loaded, name);
        let error = match &was {
            None => Some(2),
            Some(kmod) if kmod.users > 0 || !holders.is_empty() => Some(11),
            Some(_) => None,
        };
        let gone = error.is_none();
        state.effects.push(Effect::Remove { name: name.clone(), was, gone, holders });
        if let Some(error) = error {
            let error = std::io::Error::from_raw_os_error(error);
            return Err(StepError::Remove { name: name.clone(), error: errno_of(&error), disabled: false });
        }
        state.loaded.remove(name);
        Ok(())
    }
}

/// What is ordered, and the fingerprints of it.
pub fn contents(order: &Order) -> impl Iterator<Item = (&Load, Digest)> {
    order.modules.iter().filter_map(|module| match &module.wish {
        Wish::Loaded(load) => Some((load, fingerprint(&module.key, load))),
        Wish::Removed => None,
    })
}

/// What the order says of the Module that this file is of.
fn ordered_content(disk: &Disk, file: Digest) -> Digest {
    let mut contents = disk.order.iter().flat_map(|(_, order)| contents(order));
    let has = |load: &Load| {
        let bundle = registry::by_digest(load.bundle);
        bundle.is_some_and(|bundle| bundle.files.iter().any(|known| known.digest == file))
    };
    contents.find(|(load, _)| has(load)).map_or(file, |(_, content)| content)
}

fn errno_of(error: &std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::INVAL)
}

/// The loaded modules that use this one.
pub fn holders(loaded: &BTreeMap<KmodName, Kmod>, name: &KmodName) -> Vec<KmodName> {
    let uses = |(_, kmod): &(&KmodName, &Kmod)| kmod.needs.contains(name);
    loaded.iter().filter(uses).map(|(name, _)| name.clone()).collect()
}

fn refused(name: &KmodName, errno: Errno) -> StepError {
    match ModuleName::new(name.as_ref()) {
        Ok(module) => {
            let attempt = Attempt {
                module: &module,
                errno,
                lines: &[],
                firmware: &[],
                modules_disabled: false,
                capable: true,
            };
            StepError::Insert(Box::new(LoadFailure::classify(&attempt)))
        }
        Err(error) => StepError::Name(error),
    }
}

impl Machine for SimMachine {
    fn store_id(&self) -> StoreId {
        self.state.borrow().disk.store.unwrap_or(StoreId::from_bytes([0; 16]))
    }

    fn order(&self) -> Result<Option<Order>, StoreError> {
        let state = self.state.borrow();
        let mut order = state.disk.order.as_ref().map(|(_, order)| order.clone());
        match (&mut order, self.bug) {
            (Some(order), Some(Bug::UnloadsOnAbsence)) => {
                let unnamed: Vec<_> =
                    state.disk.records.keys().filter(|key| order.wish(key).is_none()).cloned().collect();
                let removed = |key| tenon_order::OrderedModule { key, wish: Wish::Removed };
                order.modules.extend(unnamed.into_iter().map(removed));
            }
            (Some(order), Some(Bug::IgnoresKernel)) => {
                for module in &mut order.modules {
                    if let Wish::Loaded(load) = &mut module.wish {
                        self.release.clone_into(&mut load.kernel);
                    }
                }
            }
            _ => {}
        }
        Ok(order)
    }

    fn key_ids(&self) -> Vec<KeyId> {
        self.state.borrow().disk.keys.iter().map(|key| seal::id(*key)).collect()
    }

    fn records(&self) -> Result<Vec<(ModuleKey, ReadRecord)>, StoreError> {
        let state = self.state.borrow();
        Ok(state.disk.records.iter().map(|(key, record)| (key.clone(), Ok(record.clone()))).collect())
    }

    fn write_record(&self, record: &Record) -> Result<(), StoreError> {
        self.change(|state| drop(state.disk.records.insert(record.key.clone(), record.clone())))
    }

    fn forget(&self, key: &ModuleKey) -> Result<(), StoreError> {
        self.change(|state| drop(state.disk.records.remove(key)))
    }

    fn marks(&self) -> Result<Vec<(Digest, Mark)>, StoreError> {
        let state = self.state.borrow();
        Ok(state.disk.marks.iter().map(|(digest, mark)| (*digest, mark.clone())).collect())
    }

    fn mark(&self, fingerprint: Digest) -> Result<Option<Mark>, StoreError> {
        Ok(self.state.borrow().disk.marks.get(&fingerprint).cloned())
    }

    fn write_mark(&self, fingerprint: Digest, mark: &Mark) -> Result<(), StoreError> {
        if self.bug == Some(Bug::WritesNoMark) {
            return Ok(());
        }
        self.change(|state| drop(state.disk.marks.insert(fingerprint, mark.clone())))
    }

    fn clear_mark(&self, fingerprint: Digest) -> Result<(), StoreError> {
        self.change(|state| drop(state.disk.marks.remove(&fingerprint)))
    }

    fn has_bundle(&self, bundle: Digest) -> bool {
        self.state.borrow().disk.bundles.contains(&bundle)
    }

    fn collect(&self, bundles: &BTreeSet<Digest>, marks: &BTreeSet<Digest>) -> Result<(), StoreError> {
        self.change(|state| {
            state.disk.bundles.retain(|bundle| bundles.contains(bundle));
            state.disk.marks.retain(|mark, _| marks.contains(mark));
        })
    }

    fn firmware_directory(&self) -> String {
        "/var/lib/tenon/firmware".to_owned()
    }

    fn release(&self) -> String {
        self.release.to_owned()
    }

    fn boot_id(&self) -> Result<String, ObserveError> {
        Ok(self.boot_id.clone())
    }

    fn uptime(&self) -> u64 {
        (self.now.get().saturating_sub(self.booted)) / 1000
    }

    fn now(&self) -> u64 {
        crate::clock::EPOCH + self.now.get()
    }

    fn observe(&self, names: &BTreeSet<KmodName>) -> Result<Kernel, ObserveError> {
        let state = self.state.borrow();
        let loaded = state.loaded.iter().map(|(name, kmod)| {
            let holders: BTreeSet<_> = holders(&state.loaded, name).into_iter().collect();
            let references = u32::try_from(holders.len()).unwrap_or(u32::MAX).saturating_add(kmod.users);
            let build_id = kmod.build_id.clone().filter(|_| names.contains(name));
            let instance = Some(kmod.instance);
            (name.clone(), Loaded { references, holders, build_id, instance, ..Loaded::default() })
        });
        Ok(Kernel {
            release: self.release.to_owned(),
            boot_id: self.boot_id.clone(),
            loaded: loaded.collect(),
            firmware_path: state.firmware_path.clone(),
        })
    }

    fn resolve(&self, content: &Load, _: &Record) -> Result<Target, ContentError> {
        let here = self.has_bundle(content.bundle);
        let bundle = registry::by_digest(content.bundle)
            .filter(|_| here)
            .ok_or(ContentError::NoBundle(content.bundle))?;
        let pieces = bundle.files.iter().map(|file| Piece {
            name: file.name.clone(),
            source: Source::Store(file.digest),
            parameters: if bundle.main().is_some_and(|main| main.name == file.name) {
                content.parameters.clone()
            } else {
                Vec::new()
            },
            build_id: Some(file.build_id.clone()),
            soft: false,
        });
        Ok(Target {
            pieces: pieces.collect(),
            firmware: BTreeMap::new(),
            in_tree_to_remove: tenon_loader::content::kernel_names(&content.in_tree_to_remove),
        })
    }

    fn host_pieces(&self, names: &BTreeSet<KmodName>) -> Vec<Piece> {
        let in_tree = names.iter().filter(|name| name.as_ref() == IN_TREE);
        in_tree
            .map(|name| Piece {
                name: name.clone(),
                source: Source::Host(format!("kernel/{IN_TREE}.ko")),
                parameters: Vec::new(),
                build_id: None,
                soft: false,
            })
            .collect()
    }

    fn verify(&self, file: Digest) -> Result<(), StoreError> {
        let state = self.state.borrow();
        let mut here = state.disk.bundles.iter().filter_map(|bundle| registry::by_digest(*bundle));
        if here.any(|bundle| bundle.files.iter().any(|known| known.digest == file)) {
            Ok(())
        } else {
            Err(StoreError::File(file))
        }
    }

    fn perform(&self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::Insert(piece) => self.insert(piece),
            Step::Remove { name, .. } => self.remove(name),
            Step::Link { .. } | Step::Unlink { .. } => Ok(()),
            Step::FirmwarePath { to, .. } => Ok(self.change(|state| state.firmware_path.clone_from(to))?),
        }
    }
}

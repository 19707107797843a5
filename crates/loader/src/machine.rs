//! What the work is done on: the store and the kernel of one machine, behind one face.
//!
//! [`work`](crate::work) decides and remembers through it and through nothing else, so that the same work can be
//! followed step by step on a machine that loses its power between any two calls. [`Here`] is the machine that this
//! program runs on.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use tenon_order::{Digest, KeyId, KmodName, Load, ModuleKey, Order, StoreId};

use crate::content::{self, ContentError, Host};
use crate::foresee::{self, Refused};
use crate::kernel::{self, ObserveError};
use crate::mark::Mark;
use crate::plan::Step;
use crate::record::{Piece, Record};
use crate::settings::Settings;
use crate::situation::{Kernel, Target};
use crate::steps::{self, StepError};
use crate::store::{ReadRecord, Store, StoreError};

/// The store and the kernel of one machine. What each method means is said where [`Here`] takes it from.
pub trait Machine {
    /// [`Store::id`].
    fn store_id(&self) -> StoreId;
    /// [`Store::order`], read.
    fn order(&self) -> Result<Option<Order>, StoreError>;
    /// The ids of [`Store::keys`].
    fn key_ids(&self) -> Vec<KeyId>;
    /// [`Store::records`].
    fn records(&self) -> Result<Vec<(ModuleKey, ReadRecord)>, StoreError>;
    /// [`Store::write_record`].
    fn write_record(&self, record: &Record) -> Result<(), StoreError>;
    /// [`Store::forget`].
    fn forget(&self, key: &ModuleKey) -> Result<(), StoreError>;
    /// [`Store::marks`].
    fn marks(&self) -> Result<Vec<(Digest, Mark)>, StoreError>;
    /// [`Store::mark`].
    fn mark(&self, fingerprint: Digest) -> Result<Option<Mark>, StoreError>;
    /// [`Store::write_mark`].
    fn write_mark(&self, fingerprint: Digest, mark: &Mark) -> Result<(), StoreError>;
    /// [`Store::clear_mark`].
    fn clear_mark(&self, fingerprint: Digest) -> Result<(), StoreError>;
    /// [`Store::ended`]; a machine that is never told to end has nothing to say.
    fn ended(&self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }
    /// [`Store::has_bundle`].
    fn has_bundle(&self, bundle: Digest) -> bool;
    /// Keeps the files of these bundles, and the marks of these contents, and nothing else.
    fn collect(&self, bundles: &BTreeSet<Digest>, marks: &BTreeSet<Digest>) -> Result<(), StoreError>;
    /// [`Store::has_firmware`]; where nobody disturbs the links, they are as they were made.
    fn has_firmware(&self, path: &str, digest: Digest) -> bool {
        let _ = (path, digest);
        true
    }
    /// [`Store::firmware_directory`].
    fn firmware_directory(&self) -> String;
    /// [`kernel::release`].
    fn release(&self) -> String;
    /// [`kernel::boot_id`].
    fn boot_id(&self) -> Result<String, ObserveError>;
    /// [`kernel::uptime`].
    fn uptime(&self) -> u64;
    /// [`kernel::now`].
    fn now(&self) -> u64;
    /// [`kernel::observe`].
    fn observe(&self, names: &BTreeSet<KmodName>) -> Result<Kernel, ObserveError>;
    /// [`content::resolve`].
    fn resolve(&self, content: &Load, record: &Record) -> Result<Target, ContentError>;
    /// [`Host::pieces`].
    fn host_pieces(&self, names: &BTreeSet<KmodName>) -> Vec<Piece>;
    /// Looks at every byte of a file of the store.
    fn verify(&self, file: Digest) -> Result<(), StoreError>;
    /// [`foresee::foresee`]; without files to look into, nothing is foreseen.
    fn foresee(&self, pieces: &[&Piece], kernel: &Kernel) -> Result<(), Refused> {
        let _ = (pieces, kernel);
        Ok(())
    }
    /// Looks whether a file of the host is there, by its path below the running kernel's `/lib/modules`.
    fn verify_host(&self, path: &str) -> Result<(), StepError> {
        let _ = path;
        Ok(())
    }
    /// Does one step.
    fn perform(&self, step: &Step) -> Result<(), StepError>;
}

/// The machine that this program runs on.
#[derive(Debug)]
pub struct Here<'a> {
    store: &'a Store,
    settings: &'a Settings,
    /// Read when it is first asked for.
    host: OnceCell<Host>,
}

impl<'a> Here<'a> {
    /// With this store.
    pub fn new(store: &'a Store, settings: &'a Settings) -> Self {
        Self { store, settings, host: OnceCell::new() }
    }

    fn host(&self) -> &Host {
        self.host.get_or_init(|| Host::read(self.settings))
    }
}

impl Machine for Here<'_> {
    fn store_id(&self) -> StoreId {
        self.store.id()
    }

    fn order(&self) -> Result<Option<Order>, StoreError> {
        Ok(self.store.order()?.map(|(_, order)| order))
    }

    fn key_ids(&self) -> Vec<KeyId> {
        self.store.keys().unwrap_or_default().ids()
    }

    fn records(&self) -> Result<Vec<(ModuleKey, ReadRecord)>, StoreError> {
        self.store.records()
    }

    fn write_record(&self, record: &Record) -> Result<(), StoreError> {
        self.store.write_record(record)
    }

    fn forget(&self, key: &ModuleKey) -> Result<(), StoreError> {
        self.store.forget(key)
    }

    fn marks(&self) -> Result<Vec<(Digest, Mark)>, StoreError> {
        self.store.marks()
    }

    fn mark(&self, fingerprint: Digest) -> Result<Option<Mark>, StoreError> {
        self.store.mark(fingerprint)
    }

    fn write_mark(&self, fingerprint: Digest, mark: &Mark) -> Result<(), StoreError> {
        self.store.write_mark(fingerprint, mark)
    }

    fn clear_mark(&self, fingerprint: Digest) -> Result<(), StoreError> {
        self.store.clear_mark(fingerprint)
    }

    fn ended(&self) -> Result<Option<String>, StoreError> {
        self.store.ended()
    }

    fn has_bundle(&self, bundle: Digest) -> bool {
        self.store.has_bundle(bundle)
    }

    fn collect(&self, bundles: &BTreeSet<Digest>, marks: &BTreeSet<Digest>) -> Result<(), StoreError> {
        self.store.collect(bundles)?;
        self.store.collect_marks(marks)
    }

    fn has_firmware(&self, path: &str, digest: Digest) -> bool {
        self.store.has_firmware(path, digest)
    }

    fn firmware_directory(&self) -> String {
        self.store.firmware_directory()
    }

    fn release(&self) -> String {
        kernel::release()
    }

    fn boot_id(&self) -> Result<String, ObserveError> {
        kernel::boot_id(self.settings)
    }

    fn uptime(&self) -> u64 {
        kernel::uptime()
    }

    fn now(&self) -> u64 {
        kernel::now()
    }

    fn observe(&self, names: &BTreeSet<KmodName>) -> Result<Kernel, ObserveError> {
        kernel::observe(self.settings, names)
    }

    fn resolve(&self, content: &Load, record: &Record) -> Result<Target, ContentError> {
        content::resolve(content, self.store, self.host(), record)
    }

    fn host_pieces(&self, names: &BTreeSet<KmodName>) -> Vec<Piece> {
        self.host().pieces(names)
    }

    fn verify(&self, file: Digest) -> Result<(), StoreError> {
        self.store.verified(file).map(drop)
    }

    fn foresee(&self, pieces: &[&Piece], kernel: &Kernel) -> Result<(), Refused> {
        foresee::foresee(pieces, kernel, self.host().index_text(), self.store, self.settings)
    }

    fn verify_host(&self, path: &str) -> Result<(), StepError> {
        steps::open_host_file(path, self.settings).map(drop)
    }

    fn perform(&self, step: &Step) -> Result<(), StepError> {
        steps::perform(step, self.store, self.settings)
    }
}

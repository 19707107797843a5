//! The loader's memory, on the host's disk: whose it is, what was ordered, what is loaded, and every file.
//!
//! Only the loader reads and writes here. Each file is written aside, synced and renamed, so at any moment the store
//! is what it was before or after a write. A file that is damaged all the same is an error that names it: nothing is
//! loaded on its word.

mod durable;
mod files;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use tenon_order::{
    Digest, KeyError, KeyId, KeySet, ManifestError, ModuleKey, NodeName, Order, PublicKey, SignedOrderError,
    StoreId, read_unverified,
};

use crate::mark::Mark;
use crate::record::Record;

/// The store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("{attempt} {path}: {source}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{0} is damaged; `tenon-loader reset` starts anew without unloading anything")]
    Damaged(PathBuf),
    /// The stored order cannot be read.
    #[error("the stored order is damaged; `tenon-loader reset` starts anew without unloading anything")]
    Order(#[source] Box<SignedOrderError>),
    /// A stored manifest cannot be read.
    #[error("the manifest of bundle {bundle} is damaged")]
    Manifest {
        /// Whose manifest.
        bundle: Digest,
        /// How.
        source: ManifestError,
    },
    /// A stored file has changed.
    #[error("file {0} is damaged: its bytes have another digest")]
    File(Digest),
    /// The system has no randomness for a store id.
    #[error("draw a store id: no randomness")]
    NoRandomness,
}

/// A Module's record, or why it cannot be read.
pub type ReadRecord = Result<Record, StoreError>;

/// The store, locked: no other process changes it while this exists.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    id: StoreId,
    /// Held as long as this lives; a look without it changes nothing.
    _lock: Option<File>,
}

impl Store {
    /// Opens the store, waiting for another process to finish with it, and makes it on the first start.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        for directory in ["", "keys", "files", "bundles", "modules", "marks", "firmware"] {
            let path = root.join(directory);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(at("make", &path))?;
        }
        let path = root.join("lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(at("open", &path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| at("lock", &path)(error.into()))?;
        let path = root.join("id");
        let id = match read_text(&path)? {
            Some(text) => text.trim().parse().map_err(|_| StoreError::Damaged(path))?,
            None => draw_id(&path)?,
        };
        Ok(Self { root: root.to_owned(), id, _lock: Some(lock) })
    }

    /// Opens an existing store for a look, whatever another process does with it.
    pub fn look(root: &Path) -> Result<Self, StoreError> {
        let path = root.join("id");
        let text = read_text(&path)?.unwrap_or_default();
        let id = text.trim().parse().map_err(|_| StoreError::Damaged(path))?;
        Ok(Self { root: root.to_owned(), id, _lock: None })
    }

    /// Forgets every order, and whose node this was, under a new id: earlier orders are void for good. The keys stay,
    /// what is loaded stays loaded and remembered; only records that cannot be read go.
    pub fn reset(root: &Path) -> Result<StoreId, StoreError> {
        let path = root.join("id");
        if read_text(&path)?.is_some_and(|text| text.trim().parse::<StoreId>().is_err()) {
            durable::remove(&path).map_err(at("remove", &path))?;
        }
        let store = Self::open(root)?;
        for name in ["order", "node"] {
            let path = root.join(name);
            durable::remove(&path).map_err(at("remove", &path))?;
        }
        for (_, record) in store.records()? {
            if let Err(StoreError::Damaged(path)) = record {
                durable::remove(&path).map_err(at("remove", &path))?;
            }
        }
        draw_id(&path)
    }

    /// The store's id.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// The node that the store belongs to, once an order was accepted.
    pub fn node(&self) -> Result<Option<NodeName>, StoreError> {
        let path = self.root.join("node");
        let text = read_text(&path)?;
        text.map(|text| text.trim().parse().map_err(|_| StoreError::Damaged(path))).transpose()
    }

    /// The order held, as text and read.
    pub fn order(&self) -> Result<Option<(String, Order)>, StoreError> {
        let Some(text) = read_text(&self.root.join("order"))? else { return Ok(None) };
        let order = read_unverified(&text).map_err(|error| StoreError::Order(Box::new(error)))?;
        Ok(Some((text, order)))
    }

    /// Keeps an accepted order, and that the store belongs to its node.
    pub fn keep_order(&self, text: &str, node: &NodeName) -> Result<(), StoreError> {
        // The node first: an order without a node would be one that any node accepts.
        self.write("node", node.as_ref().as_bytes())?;
        self.write("order", text.as_bytes())
    }

    /// The keys that were last seen.
    pub fn keys(&self) -> Result<KeySet, StoreError> {
        let mut keys = KeySet::default();
        for (name, path) in entries(&self.root.join("keys"))? {
            let text = read_text(&path)?.unwrap_or_default();
            keys.insert_listed(&name, &text).map_err(|_| StoreError::Damaged(path))?;
        }
        Ok(keys)
    }

    /// The keys of the mounted list, remembered. A list that is absent or empty changes nothing.
    pub fn renew_keys(&self, mounted: &Path) -> Result<KeySet, StoreError> {
        let listed = mounted_keys(mounted)?;
        if listed.is_empty() {
            return self.keys();
        }
        let known = self.keys().unwrap_or_default();
        if known == listed {
            return Ok(listed);
        }
        for (id, key) in listed.iter() {
            self.write(&format!("keys/{id}"), key.to_base64().as_bytes())?;
        }
        for (name, path) in entries(&self.root.join("keys"))? {
            if name.parse::<KeyId>().ok().is_none_or(|id| listed.get(id).is_none()) {
                durable::remove(&path).map_err(at("remove", &path))?;
            }
        }
        Ok(listed)
    }

    /// Everything remembered of Modules; for each that cannot be read, why.
    pub fn records(&self) -> Result<Vec<(ModuleKey, ReadRecord)>, StoreError> {
        let mut records = Vec::new();
        for (namespace, directory) in entries(&self.root.join("modules"))? {
            for (file, path) in entries(&directory)? {
                let key = file.strip_suffix(".json").and_then(|name| ModuleKey::new(&namespace, name).ok());
                let Some(key) = key else { continue };
                let record = read_json::<Record>(&path).and_then(|record| {
                    record.filter(|record| record.key == key).ok_or(StoreError::Damaged(path))
                });
                records.push((key, record));
            }
        }
        records.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(records)
    }

    /// Remembers this of a Module.
    pub fn write_record(&self, record: &Record) -> Result<(), StoreError> {
        let directory = self.root.join("modules").join(record.key.namespace());
        fs::create_dir_all(&directory).map_err(at("make", &directory))?;
        let json = serde_json::to_vec(record).map_err(|error| at("write", &directory)(error.into()))?;
        self.write(&record_name(&record.key), &json)
    }

    /// Forgets a Module.
    pub fn forget(&self, key: &ModuleKey) -> Result<(), StoreError> {
        let path = self.root.join(record_name(key));
        durable::remove(&path).map_err(at("remove", &path))
    }

    /// The mark of a load, by its fingerprint. One that cannot be read is a reason for caution.
    pub fn mark(&self, fingerprint: Digest) -> Result<Option<Mark>, StoreError> {
        match read_json(&self.mark_path(fingerprint)) {
            Err(StoreError::Damaged(_)) => Ok(Some(Mark::unreadable())),
            mark => mark,
        }
    }

    /// All marks.
    pub fn marks(&self) -> Result<Vec<(Digest, Mark)>, StoreError> {
        let mut marks = Vec::new();
        for (name, _) in entries(&self.root.join("marks"))? {
            if let Ok(fingerprint) = Digest::from_hex(&name)
                && let Some(mark) = self.mark(fingerprint)?
            {
                marks.push((fingerprint, mark));
            }
        }
        Ok(marks)
    }

    /// Remembers that the loader was told to end in this boot, or forgets it.
    pub fn set_ended(&self, boot_id: Option<&str>) -> Result<(), StoreError> {
        let path = self.root.join("ended");
        match boot_id {
            Some(boot_id) => self.write("ended", boot_id.as_bytes()),
            None => durable::remove(&path).map_err(at("remove", &path)),
        }
    }

    /// The last boot whose loader was told to end. What cannot be read was not written.
    pub fn ended(&self) -> Result<Option<String>, StoreError> {
        match read_text(&self.root.join("ended")) {
            Err(StoreError::Damaged(_)) => Ok(None),
            ended => ended,
        }
    }

    /// Marks a load.
    pub fn write_mark(&self, fingerprint: Digest, mark: &Mark) -> Result<(), StoreError> {
        let path = self.mark_path(fingerprint);
        let json = serde_json::to_vec(mark).map_err(|error| at("write", &path)(error.into()))?;
        durable::write(&path, &json).map_err(at("write", &path))
    }

    /// Clears the mark of a load.
    pub fn clear_mark(&self, fingerprint: Digest) -> Result<(), StoreError> {
        let path = self.mark_path(fingerprint);
        durable::remove(&path).map_err(at("remove", &path))
    }

    fn mark_path(&self, fingerprint: Digest) -> PathBuf {
        self.root.join("marks").join(fingerprint.hex())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.root.join(name);
        durable::write(&path, bytes).map_err(at("write", &path))
    }
}

fn record_name(key: &ModuleKey) -> String {
    format!("modules/{}/{}.json", key.namespace(), key.name())
}

fn draw_id(path: &Path) -> Result<StoreId, StoreError> {
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).map_err(|_| StoreError::NoRandomness)?;
    let id = StoreId::from_bytes(random);
    durable::write(path, id.to_string().as_bytes()).map_err(at("write", path))?;
    Ok(id)
}

/// The keys of a mounted ConfigMap. An entry that is no key is skipped: it must not take the good ones with it.
fn mounted_keys(directory: &Path) -> Result<KeySet, StoreError> {
    let listed = match entries(directory) {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(KeySet::default());
        }
        listed => listed?,
    };
    let key = |(name, path): (String, PathBuf)| -> Option<PublicKey> {
        let id: Result<KeyId, KeyError> = name.parse();
        let key = PublicKey::from_base64(&fs::read_to_string(path).ok()?).ok()?;
        (id == Ok(key.id())).then_some(key)
    };
    Ok(listed.into_iter().filter_map(key).collect())
}

/// The finished entries of a directory, by name.
fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let read = || -> io::Result<Vec<(String, PathBuf)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().filter(|name| !durable::is_aside(name)) {
                entries.push((name.to_owned(), entry.path()));
            }
        }
        Ok(entries)
    };
    read().map_err(at("list", directory))
}

fn read_text(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| StoreError::Damaged(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", path)(error)),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let text = read_text(path)?;
    text.map(|text| serde_json::from_str(&text).map_err(|_| StoreError::Damaged(path.to_owned()))).transpose()
}

fn at(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { attempt, path, source }
}

#[cfg(test)]
mod tests;

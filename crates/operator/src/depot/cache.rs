//! The bundles on disk: `<hex>.tar.zst` in one directory, complete and checked or not there at all.
//!
//! A file gets its name only once all of it was read and fits that name. What an earlier process has left is adopted,
//! and checked when it is asked for the first time. Half-made files lie in `staging`, which is emptied at the start.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tenon_image::bundle::{BundleReader, ReadError};
use tenon_order::{Digest, Hasher};
use tracing::{info, warn};

use super::assignments::Assignments;
use super::index::Index;
use crate::args::ByteSize;
use crate::metrics::Metrics;

const SUFFIX: &str = ".tar.zst";

/// The cache could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Nothing can be kept there.
    #[error("use {path} for bundles (--cache-dir)")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A bundle's file could not be handled.
    #[error("{verb} the bundle {bundle}")]
    File {
        /// What was attempted.
        verb: &'static str,
        /// Which bundle.
        bundle: Digest,
        /// Why it did not work.
        #[source]
        source: io::Error,
    },
    /// The file is not that bundle.
    #[error("check the bundle {bundle}")]
    Wrong {
        /// Which bundle.
        bundle: Digest,
        /// What is wrong with it.
        #[source]
        source: ReadError,
    },
    /// It would not fit if it were alone.
    #[error(
        "keep the bundle {bundle}: its {size} bytes are more than all bundles may take ({limit}, --cache-limit)"
    )]
    TooLarge {
        /// Which bundle.
        bundle: Digest,
        /// Its bytes.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// The process is ending.
    #[error("check a bundle: the process is ending")]
    Ending,
}

/// A bundle that can be sent. It stays readable when it is evicted meanwhile.
#[derive(Debug)]
pub struct CachedBundle {
    /// At its beginning.
    pub file: File,
    /// Bytes of the file.
    pub size: u64,
    /// The digest of the file, which unlike the bundle's name depends on its compression.
    pub bytes: Digest,
}

/// The bundles on disk.
#[derive(Debug)]
pub struct BundleCache {
    inner: Arc<Inner>,
    /// Files are checked one after the other: it takes a processor and the disk.
    checking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    staging: PathBuf,
    limit: u64,
    assignments: Assignments,
    metrics: Arc<Metrics>,
    index: Mutex<Index>,
}

impl BundleCache {
    /// Opens the directory, makes it if need be, adopts what lies there.
    pub async fn open(
        directory: &Path,
        limit: ByteSize,
        assignments: Assignments,
        metrics: Arc<Metrics>,
    ) -> Result<Self, CacheError> {
        let inner = Inner {
            directory: directory.to_owned(),
            staging: directory.join("staging"),
            limit: limit.0,
            assignments,
            metrics,
            index: Mutex::default(),
        };
        let inner = Arc::new(inner);
        let opened = inner.clone();
        blocking(move || opened.adopt()).await?;
        Ok(BundleCache { inner, checking: tokio::sync::Mutex::default() })
    }

    /// A directory for bundles that are being made: [`Self::insert`] takes them from there without copying.
    pub fn staging(&self) -> &Path {
        &self.inner.staging
    }

    /// Whether the bundle is on disk, checked or not.
    pub fn contains(&self, bundle: &Digest) -> bool {
        self.inner.index().contains(bundle)
    }

    /// The bundle, if it is there.
    pub async fn get(&self, bundle: &Digest) -> Result<Option<CachedBundle>, CacheError> {
        let Some(entry) = self.inner.index().touch(bundle) else { return Ok(None) };
        if entry.checked.is_none() {
            let _one_at_a_time = self.checking.lock().await;
            let (inner, bundle) = (self.inner.clone(), *bundle);
            blocking(move || {
                inner.check_adopted(&bundle);
                Ok(())
            })
            .await?;
        }
        let (inner, bundle) = (self.inner.clone(), *bundle);
        blocking(move || inner.open(&bundle)).await
    }

    /// Takes over the file at `from`, which is consumed, as the bundle. It should lie in [`Self::staging`].
    pub async fn insert(&self, bundle: Digest, from: &Path) -> Result<(), CacheError> {
        let _one_at_a_time = self.checking.lock().await;
        let (inner, from) = (self.inner.clone(), from.to_owned());
        blocking(move || inner.insert(bundle, &from)).await
    }

    /// The volume is full: gives up all bundles that no node is assigned. They can be made again.
    pub async fn shed(&self) -> Result<(), CacheError> {
        let _one_at_a_time = self.checking.lock().await;
        let inner = self.inner.clone();
        blocking(move || {
            inner.shed();
            Ok(())
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
) -> Result<T, CacheError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(CacheError::Ending))
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        // Nothing panics while it holds the lock.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, bundle: &Digest) -> PathBuf {
        self.directory.join(format!("{}{SUFFIX}", bundle.hex()))
    }

    fn adopt(&self) -> Result<(), CacheError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| CacheError::Directory { path, source }
        };
        match fs::remove_dir_all(&self.staging) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(error(&self.staging)(source));
            }
            _ => {}
        }
        fs::create_dir_all(&self.staging).map_err(error(&self.staging))?;
        let mut found = Vec::new();
        for file in fs::read_dir(&self.directory).map_err(error(&self.directory))? {
            found.extend(bundle_file(&file.map_err(error(&self.directory))?));
        }
        found.sort_unstable();
        let mut index = self.index();
        for (_, bundle, size) in found {
            index.put(bundle, size, None);
        }
        info!(bundles = index.len(), bytes = index.bytes(), "bundles found on disk");
        self.show(&index);
        Ok(())
    }

    /// Checks a file that an earlier process left, and removes it if it is not what its name says.
    fn check_adopted(&self, bundle: &Digest) {
        // Somebody else may have checked it while this waited for its turn.
        if self.index().touch(bundle).is_none_or(|entry| entry.checked.is_some()) {
            return;
        }
        let path = self.path(bundle);
        match check(&path, bundle) {
            Ok((size, bytes)) => {
                let mut index = self.index();
                index.put(*bundle, size, Some(bytes));
                self.show(&index);
            }
            Err(error) => {
                warn!(%bundle, error = &error as &dyn std::error::Error, "an old bundle is unusable and removed");
                self.drop_file(bundle);
                let mut index = self.index();
                index.remove(bundle);
                self.show(&index);
            }
        }
    }

    fn open(&self, bundle: &Digest) -> Result<Option<CachedBundle>, CacheError> {
        let Some((size, bytes)) =
            self.index().touch(bundle).and_then(|entry| Some((entry.size, entry.checked?)))
        else {
            return Ok(None);
        };
        match File::open(self.path(bundle)) {
            Ok(file) => Ok(Some(CachedBundle { file, size, bytes })),
            // Somebody has cleaned up the directory.
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                let mut index = self.index();
                index.remove(bundle);
                self.show(&index);
                Ok(None)
            }
            Err(source) => Err(CacheError::File { verb: "open", bundle: *bundle, source }),
        }
    }

    fn insert(&self, bundle: Digest, from: &Path) -> Result<(), CacheError> {
        let kept = self.keep(bundle, from);
        if kept.is_err() {
            // What cannot be used is not left lying about; if it cannot be removed either, the next start does it.
            let _ = fs::remove_file(from);
        }
        kept
    }

    fn keep(&self, bundle: Digest, from: &Path) -> Result<(), CacheError> {
        let error = |verb| move |source| CacheError::File { verb, bundle, source };
        let size = fs::metadata(from).map_err(error("read"))?.len();
        if size > self.limit {
            return Err(CacheError::TooLarge { bundle, size, limit: self.limit });
        }
        let (size, bytes) = check(from, &bundle)?;
        File::open(from).and_then(|file| file.sync_all()).map_err(error("sync"))?;
        let gone = {
            // The name appears in the index and on disk together: a reader sees both or neither.
            let mut index = self.index();
            fs::rename(from, self.path(&bundle)).map_err(error("keep"))?;
            index.put(bundle, size, Some(bytes));
            let gone = index.make_room(self.limit, &bundle, |other| self.assignments.in_use(other));
            for other in &gone {
                self.drop_file(other);
            }
            self.show(&index);
            gone
        };
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(error("sync"))?;
        self.metrics.evictions.inc_by(gone.len() as u64);
        Ok(())
    }

    fn shed(&self) {
        let mut index = self.index();
        let gone = index.shed(|bundle| self.assignments.in_use(bundle));
        for bundle in &gone {
            self.drop_file(bundle);
        }
        self.show(&index);
        self.metrics.evictions.inc_by(gone.len() as u64);
        warn!(bundles = gone.len(), "the volume is full: what no node is assigned is given up");
    }

    fn drop_file(&self, bundle: &Digest) {
        if let Err(error) = fs::remove_file(self.path(bundle)) {
            warn!(%bundle, %error, "an unneeded bundle could not be removed");
        }
    }

    fn show(&self, index: &Index) {
        self.metrics.cached_bytes.set(index.bytes());
        self.metrics.cached_bundles.set(index.len() as u64);
    }
}

/// When it was written, which bundle its name says it is, and its size; nothing for other files.
fn bundle_file(file: &fs::DirEntry) -> Option<(SystemTime, Digest, u64)> {
    let name = file.file_name();
    let bundle = Digest::from_hex(name.to_str()?.strip_suffix(SUFFIX)?).ok()?;
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    Some((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), bundle, metadata.len()))
}

/// Reads the whole file: it must be the bundle, to the last byte. Gives its size and the digest of its bytes.
fn check(path: &Path, bundle: &Digest) -> Result<(u64, Digest), CacheError> {
    let file =
        File::open(path).map_err(|source| CacheError::File { verb: "open", bundle: *bundle, source })?;
    let mut counted =
        Counted { from: io::BufReader::with_capacity(256 * 1024, file), size: 0, hasher: Hasher::new() };
    BundleReader::open(&mut counted, bundle)
        .and_then(BundleReader::verify_rest)
        .map_err(|source| CacheError::Wrong { bundle: *bundle, source })?;
    Ok((counted.size, counted.hasher.finish()))
}

/// Counts and digests what is read through it.
struct Counted<R> {
    from: R,
    size: u64,
    hasher: Hasher,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bundle, bundle_of_size, file};
    use super::*;
    use tempfile::TempDir;

    async fn cache(directory: &Path, limit: u64) -> (BundleCache, Assignments) {
        let assignments = Assignments::default();
        let metrics = Arc::new(Metrics::new());
        (
            BundleCache::open(directory, ByteSize(limit), assignments.clone(), metrics).await.unwrap(),
            assignments,
        )
    }

    async fn insert(cache: &BundleCache, bundle: &(Digest, Vec<u8>)) -> Result<(), CacheError> {
        let from = file(cache.staging(), "new", &bundle.1);
        let kept = cache.insert(bundle.0, &from).await;
        assert!(!from.exists(), "the source is consumed in any case");
        kept
    }

    #[tokio::test]
    async fn what_was_inserted_is_found_again_by_the_next_process() {
        let directory = TempDir::new().unwrap();
        let made = bundle(b"driver", 3);
        let (first, _) = cache(directory.path(), 1 << 20).await;
        insert(&first, &made).await.unwrap();
        let found = first.get(&made.0).await.unwrap().unwrap();
        assert_eq!((found.size, found.bytes), (made.1.len() as u64, Digest::of(&made.1)));
        let (second, _) = cache(directory.path(), 1 << 20).await;
        assert!(second.contains(&made.0));
        let mut bytes = Vec::new();
        second.get(&made.0).await.unwrap().unwrap().file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, made.1);
    }

    #[tokio::test]
    async fn a_crashs_leftovers_are_cleared_and_foreign_files_left() {
        let directory = TempDir::new().unwrap();
        std::fs::create_dir(directory.path().join("staging")).unwrap();
        let half = file(&directory.path().join("staging"), "half", b"half a bundle");
        let foreign = file(directory.path(), "lost+found.txt", b"not ours");
        let (cache, _) = cache(directory.path(), 1 << 20).await;
        assert!(!half.exists() && foreign.exists());
        assert_eq!(cache.inner.index().len(), 0);
    }

    #[tokio::test]
    async fn an_adopted_file_that_is_not_what_its_name_says_is_removed() {
        let directory = TempDir::new().unwrap();
        let (name, bytes) = bundle(b"driver", 3);
        let other = bundle(b"another driver", 3).1;
        for wrong in [&bytes[..bytes.len() - 5], &other, b"", &[bytes.as_slice(), b"more"].concat()] {
            let path = file(directory.path(), &format!("{}.tar.zst", name.hex()), wrong);
            let (cache, _) = cache(directory.path(), 1 << 20).await;
            assert!(cache.contains(&name));
            assert!(cache.get(&name).await.unwrap().is_none());
            assert!(!path.exists() && !cache.contains(&name));
        }
    }

    #[tokio::test]
    async fn nothing_wrong_is_inserted() {
        let directory = TempDir::new().unwrap();
        let (cache, _) = cache(directory.path(), 1 << 20).await;
        let (name, bytes) = (bundle(b"driver", 3).0, bundle(b"another driver", 3).1);
        assert!(matches!(insert(&cache, &(name, bytes)).await, Err(CacheError::Wrong { .. })));
        assert!(!cache.contains(&name));
    }

    #[tokio::test]
    async fn the_unassigned_make_room_first() {
        let directory = TempDir::new().unwrap();
        let (cache, assignments) = cache(directory.path(), 100_000).await;
        let bundles: Vec<_> = (0..4).map(|seed| bundle_of_size(40_000, seed)).collect();
        assignments.set(&"pine".parse().unwrap(), [bundles[0].0]);
        for bundle in &bundles {
            insert(&cache, bundle).await.unwrap();
        }
        let held: Vec<_> = bundles.iter().map(|bundle| cache.contains(&bundle.0)).collect();
        assert_eq!(held, [true, false, false, true]);
        let files = std::fs::read_dir(directory.path()).unwrap().filter(|file| {
            file.as_ref().is_ok_and(|file| file.path().extension().is_some_and(|suffix| suffix == "zst"))
        });
        assert_eq!(files.count(), 2);
    }

    #[tokio::test]
    async fn however_many_are_assigned_the_bound_holds_and_the_newest_stays() {
        let directory = TempDir::new().unwrap();
        let (cache, assignments) = cache(directory.path(), 100_000).await;
        let bundles: Vec<_> = (0..6).map(|seed| bundle_of_size(40_000, seed)).collect();
        assignments.set(&"pine".parse().unwrap(), bundles.iter().map(|bundle| bundle.0));
        for bundle in &bundles {
            insert(&cache, bundle).await.unwrap();
            assert!(cache.contains(&bundle.0), "who has just asked for it gets it");
            let on_disk: u64 = std::fs::read_dir(directory.path())
                .unwrap()
                .filter_map(|file| bundle_file(&file.unwrap()))
                .map(|(_, _, size)| size)
                .sum();
            assert!(on_disk <= 100_000, "{on_disk} bytes");
        }
    }

    #[tokio::test]
    async fn on_a_full_volume_only_what_nodes_are_assigned_stays() {
        let directory = TempDir::new().unwrap();
        let (cache, assignments) = cache(directory.path(), 1 << 20).await;
        let bundles: Vec<_> = (0..3).map(|seed| bundle_of_size(40_000, seed)).collect();
        assignments.set(&"pine".parse().unwrap(), [bundles[1].0]);
        for bundle in &bundles {
            insert(&cache, bundle).await.unwrap();
        }
        cache.shed().await.unwrap();
        let held: Vec<_> = bundles.iter().map(|bundle| cache.contains(&bundle.0)).collect();
        assert_eq!(held, [false, true, false]);
        assert!(cache.get(&bundles[1].0).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_bundle_larger_than_the_cache_throws_nothing_out() {
        let directory = TempDir::new().unwrap();
        let (cache, _) = cache(directory.path(), 10_000).await;
        let small = bundle(b"driver", 3);
        insert(&cache, &small).await.unwrap();
        let large = insert(&cache, &bundle_of_size(20_000, 1)).await;
        assert!(matches!(large, Err(CacheError::TooLarge { limit: 10_000, .. })));
        assert!(cache.contains(&small.0));
    }

    #[tokio::test]
    async fn an_evicted_bundle_is_still_sent_to_its_end() {
        let directory = TempDir::new().unwrap();
        let (cache, _) = cache(directory.path(), 60_000).await;
        let (old, new) = (bundle_of_size(40_000, 1), bundle_of_size(40_000, 2));
        insert(&cache, &old).await.unwrap();
        let mut found = cache.get(&old.0).await.unwrap().unwrap();
        insert(&cache, &new).await.unwrap();
        assert!(!cache.contains(&old.0));
        let mut bytes = Vec::new();
        found.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, old.1);
    }
}

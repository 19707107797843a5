//! The store's files: by digest, as the bundles list them, and as firmware under the names that drivers ask for.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tenon_order::wire::NeededFile;
use tenon_order::{BundleManifest, Digest};

use super::{Store, StoreError, at, durable, entries, read_text};

impl Store {
    /// The files of a bundle; `None` when its list is not here.
    pub fn manifest(&self, bundle: Digest) -> Result<Option<BundleManifest>, StoreError> {
        let path = self.root.join("bundles").join(bundle.hex());
        let Some(text) = read_text(&path)? else { return Ok(None) };
        if Digest::of(text.as_bytes()) != bundle {
            return Err(StoreError::Damaged(path));
        }
        let manifest =
            BundleManifest::parse(&text).map_err(|source| StoreError::Manifest { bundle, source })?;
        Ok(Some(manifest))
    }

    /// Keeps a bundle's list. Its digest is the bundle's name.
    pub fn keep_manifest(&self, manifest: &BundleManifest) -> Result<(), StoreError> {
        self.write(&format!("bundles/{}", manifest.digest().hex()), manifest.emit().as_bytes())
    }

    /// The files of the list that are not here, each once. A file of another size is not the file.
    pub fn missing_files(&self, manifest: &BundleManifest) -> Vec<NeededFile> {
        let mut seen = BTreeSet::new();
        let wanted = manifest.entries().iter().filter(|entry| seen.insert(entry.digest));
        let missing = wanted.filter(|entry| {
            let found = fs::metadata(self.file_path(entry.digest));
            found.map_or(true, |found| found.len() != entry.size)
        });
        missing.map(|entry| NeededFile { digest: entry.digest, size: entry.size }).collect()
    }

    /// Whether the bundle's list and all its files are here. A list that cannot be read is not here.
    pub fn has_bundle(&self, bundle: Digest) -> bool {
        let manifest = self.manifest(bundle).ok().flatten();
        manifest.is_some_and(|manifest| self.missing_files(&manifest).is_empty())
    }

    /// Takes a file's bytes; returns whether they had the digest, and were kept.
    pub fn receive(&self, digest: Digest, size: u64, from: &mut impl Read) -> Result<bool, StoreError> {
        let path = self.file_path(digest);
        durable::receive(&path, digest, size, from).map_err(at("receive", &path))
    }

    /// Opens a file for reading after a look at all its bytes. A damaged one is removed, so that it is brought again.
    pub fn verified(&self, digest: Digest) -> Result<File, StoreError> {
        let path = self.file_path(digest);
        let file = File::open(&path).map_err(at("open", &path))?;
        if durable::digest(&file).map_err(at("read", &path))? == digest {
            return Ok(file);
        }
        durable::remove(&path).map_err(at("remove", &path))?;
        Err(StoreError::File(digest))
    }

    /// A file without a name that holds what `fill` writes, open for reading only.
    pub fn unnamed(&self, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<File, StoreError> {
        let path = self.root.join("files/.unpacked");
        let make = || -> io::Result<File> {
            let mut writer = durable::create(&path)?;
            fill(&mut writer)?;
            // The kernel refuses a file that anyone has open for writing.
            drop(writer);
            let reader = File::open(&path)?;
            durable::remove(&path)?;
            Ok(reader)
        };
        make().map_err(at("unpack into", &path))
    }

    /// Puts a file where the kernel looks for firmware.
    pub fn link_firmware(&self, path: &str, digest: Digest) -> Result<(), StoreError> {
        drop(self.verified(digest)?);
        let link = self.root.join("firmware").join(path);
        let directory = link.parent().unwrap_or(&self.root);
        fs::create_dir_all(directory).map_err(at("make", directory))?;
        durable::remove(&link).map_err(at("remove", &link))?;
        fs::hard_link(self.file_path(digest), &link).map_err(at("link", &link))?;
        durable::sync_directory(directory).map_err(at("sync", directory))
    }

    /// Whether the kernel finds this file under that name: the bytes are the store's own, whatever they are.
    pub fn has_firmware(&self, path: &str, digest: Digest) -> bool {
        let inode = |path: &Path| fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let link = inode(&self.root.join("firmware").join(path));
        link.is_some() && link == inode(&self.file_path(digest))
    }

    /// Takes a firmware file away, and the directories that hold nothing else.
    pub fn unlink_firmware(&self, path: &str) -> Result<(), StoreError> {
        let top = self.root.join("firmware");
        let link = top.join(path);
        durable::remove(&link).map_err(at("remove", &link))?;
        // A directory with something in it ends the walk; so does the top.
        let inner = link.ancestors().skip(1).take_while(|directory| *directory != top);
        let last = inner.take_while(|directory| fs::remove_dir(directory).is_ok()).last();
        let kept = last.and_then(Path::parent).or(link.parent()).unwrap_or(&top);
        if kept.exists() { durable::sync_directory(kept).map_err(at("sync", kept)) } else { Ok(()) }
    }

    /// Where the kernel is to look for firmware.
    pub fn firmware_directory(&self) -> String {
        self.root.join("firmware").to_string_lossy().into_owned()
    }

    /// Removes every list but those of `bundles`, every file that they do not name, and whatever was never finished.
    pub fn collect(&self, bundles: &BTreeSet<Digest>) -> Result<(), StoreError> {
        let mut files = BTreeSet::new();
        for bundle in bundles {
            if let Some(manifest) = self.manifest(*bundle)? {
                files.extend(manifest.entries().iter().map(|entry| entry.digest));
            }
        }
        self.retain("bundles", bundles)?;
        self.retain("files", &files)
    }

    /// Removes marks of anything but these contents.
    pub fn collect_marks(&self, fingerprints: &BTreeSet<Digest>) -> Result<(), StoreError> {
        self.retain("marks", fingerprints)
    }

    fn retain(&self, directory: &str, keep: &BTreeSet<Digest>) -> Result<(), StoreError> {
        let directory = self.root.join(directory);
        for (name, path) in entries(&directory)? {
            if Digest::from_hex(&name).is_ok_and(|digest| !keep.contains(&digest)) {
                durable::remove(&path).map_err(at("remove", &path))?;
            }
        }
        // What was written aside is in nobody's hands while the store is locked.
        for entry in fs::read_dir(&directory).map_err(at("list", &directory))?.flatten() {
            if entry.file_name().to_str().is_some_and(durable::is_aside) {
                durable::remove(&entry.path()).map_err(at("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    fn file_path(&self, digest: Digest) -> std::path::PathBuf {
        self.root.join("files").join(digest.hex())
    }
}

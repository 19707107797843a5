//! A cluster's past: etcd's data, kept and brought back.

use std::fs;
use std::io;
use std::path::Path;

use super::{ControlPlane, ControlPlaneError, blocking, flags};
use crate::child::Child;

impl ControlPlane {
    /// Keeps everything that the cluster knows, as a backup of etcd does. The cluster is silent meanwhile.
    pub async fn back_up(&mut self, to: &Path) -> Result<(), ControlPlaneError> {
        self.stop();
        self.copy(&self.folder.join(flags::ETCD_DATA), to).await?;
        self.resume().await
    }

    /// Brings back what was kept: whatever the cluster has learnt since is forgotten, and its versions go back.
    pub async fn restore(&mut self, from: &Path) -> Result<(), ControlPlaneError> {
        self.stop();
        let data = self.folder.join(flags::ETCD_DATA);
        let failed = |source| ControlPlaneError::Write { path: data.clone(), source };
        fs::remove_dir_all(&data).map_err(failed)?;
        self.copy(from, &data).await?;
        self.resume().await
    }

    /// Those that ask before those that answer.
    fn stop(&mut self) {
        while let Some(mut child) = self.children.pop() {
            child.kill();
        }
    }

    async fn resume(&mut self) -> Result<(), ControlPlaneError> {
        let etcd = flags::etcd(&self.binaries, &self.folder, self.ports);
        self.children.push(Child::start("etcd", &etcd, &self.folder)?);
        self.start_apiserver().await?;
        self.start_controllers()
    }

    async fn copy(&self, from: &Path, to: &Path) -> Result<(), ControlPlaneError> {
        let (from, to) = (from.to_owned(), to.to_owned());
        let path = to.clone();
        let copied = blocking(move || copy_all(&from, &to)).await?;
        copied.map_err(|source| ControlPlaneError::Write { path, source })
    }
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    // etcd refuses data that others can read.
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

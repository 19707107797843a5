//! Where drivers find their firmware: the Module's files in the store, and the kernel's search path that leads there.
//!
//! The path is one for the whole kernel, and someone else may have set it. What the kernel would do without it as well is
//! replaced, and put back when the last Module with firmware goes. Any other value is someone's wish: nothing is loaded
//! against it, and what is loaded already does not go for it.

use super::{Block, Sorted, Step};
use crate::situation::{Situation, Target};

/// What becomes of the Module's firmware.
#[derive(Debug, Default)]
pub(super) struct Firmware {
    /// Files to take away.
    pub(super) unlink: Vec<Step>,
    /// Files to put there.
    pub(super) link: Vec<Step>,
    /// [`Plan::path_before`](super::Plan::path_before).
    pub(super) path_before: Option<String>,
}

impl Firmware {
    pub(super) fn of(target: &Target, sorted: &Sorted, situation: &Situation<'_>) -> Result<Self, Block> {
        let mut firmware = Self::files(target, situation)?;
        let (found, ours) = (situation.kernel.firmware_path.as_str(), situation.firmware_dir);
        let before = path_before(situation);
        let step = |from: &str, to: &str| Step::FirmwarePath { from: from.to_owned(), to: to.to_owned() };
        if target.firmware.is_empty() {
            if found == ours && situation.others.firmware.is_empty() {
                firmware.unlink.insert(0, step(ours, before.unwrap_or_default()));
            }
        } else if found == ours {
            firmware.path_before = before.map(ToOwned::to_owned);
        } else if found.is_empty() || is_searched_anyway(found, &situation.kernel.release) {
            firmware.link.push(step(found, ours));
            firmware.path_before = Some(found.to_owned());
        } else if target.pieces.iter().any(|piece| !piece.soft && !sorted.stays(&piece.name)) {
            return Err(Block::FirmwarePathTaken(found.to_owned()));
        }
        // Else what is loaded has found its firmware where someone else put it, and is taken over as it is.
        Ok(firmware)
    }

    fn files(target: &Target, situation: &Situation<'_>) -> Result<Self, Block> {
        let (mine, others) = (&situation.record.firmware, &situation.others.firmware);
        for (path, digest) in &target.firmware {
            if let Some((other, _)) = others.get(path).filter(|(_, theirs)| theirs != digest) {
                return Err(Block::FirmwareConflict { path: path.clone(), other: other.clone() });
            }
        }
        let unlink = mine.iter().filter(|(path, digest)| target.firmware.get(*path) != Some(digest));
        let unlink = unlink.filter(|(path, _)| !others.contains_key(*path));
        let unlink: Vec<_> =
            unlink.map(|(path, digest)| Step::Unlink { path: path.clone(), digest: *digest }).collect();
        // Of an interrupted run it is not known how far it came.
        let unsure = situation.record.pending.is_some();
        let link = target.firmware.iter().filter(|(path, digest)| {
            unsure || mine.get(*path) != Some(digest) || !situation.linked.contains(*path)
        });
        let had = |path: &String, digest| mine.get(path) == Some(digest) || others.contains_key(path);
        let link = link.map(|(path, digest)| Step::Link {
            path: path.clone(),
            digest: *digest,
            had: had(path, digest),
        });
        Ok(Self { unlink, link: link.collect(), path_before: None })
    }
}

/// What the path was in this boot before the store took its place, as this Module or another remembers it.
fn path_before<'a>(situation: &Situation<'a>) -> Option<&'a str> {
    let own = situation.record.path_before_in(&situation.kernel.boot_id);
    own.or(situation.others.path_before.as_deref())
}

/// Whether the kernel looks there without being told (`fw_path` in `drivers/base/firmware_loader/main.c`): naming it as
/// well, as KMM does, changes nothing but the order.
fn is_searched_anyway(path: &str, release: &str) -> bool {
    let path = path.trim_end_matches('/');
    let below = |folder: &str| path.strip_prefix(folder);
    let rests = [below("/lib/firmware/updates"), below("/lib/firmware")];
    rests.into_iter().flatten().any(|rest| rest.is_empty() || rest.strip_prefix('/') == Some(release))
}

//! A disk with a cache that forgets, as real ones have: when its power is cut, what was flushed is there, and of what was
//! written since the last flush any part may be missing, in any order.
//!
//! QEMU's driver `blklogwrites` logs each write and flush in the order in which the guest asked for them, in the format of
//! the kernel's dm-log-writes. From the disk as it was at boot and this log the disk after the cut is made.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

/// The unit of the log, and of its addresses.
const SECTOR: usize = 512;
/// `WRITE_LOG_MAGIC` of `drivers/md/dm-log-writes.c`.
const MAGIC: u64 = 0x006a_7366_7773_6872;
/// `LOG_FLUSH_FLAG` and `LOG_FUA_FLAG`, there, too: what was written before is kept, and this write is.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
/// `LOG_DISCARD_FLAG`: no bytes follow.
const DISCARD: u64 = 4;

/// What a cut has taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// Writes since the boot.
    pub writes: usize,
    /// Of these, those after the last flush: each of them may be lost.
    pub unsafe_writes: usize,
    /// Of these, those that are.
    pub lost: usize,
}

/// The disk's part of QEMU's command line.
pub(super) fn arguments(disk: &str, log: &str) -> Vec<String> {
    [
        "-blockdev".to_owned(),
        format!("driver=file,node-name=store-file,filename={disk}"),
        "-blockdev".to_owned(),
        "driver=raw,node-name=store-raw,file=store-file".to_owned(),
        "-blockdev".to_owned(),
        format!("driver=file,node-name=store-log,filename={log}"),
        "-blockdev".to_owned(),
        "driver=blklogwrites,node-name=store,file=store-raw,log=store-log".to_owned(),
        "-device".to_owned(),
        // Far behind the other disks: the guest names them by their place.
        "virtio-blk-pci,drive=store,write-cache=on,addr=0x1e".to_owned(),
    ]
    .into()
}

/// Remembers the disk as it is and begins an empty log.
pub(super) fn begin(before: &Path, log: &Path, disk: &Path) -> io::Result<()> {
    let copied = Command::new("cp").arg("--sparse=always").args([disk, before]).status()?;
    if !copied.success() {
        return Err(io::Error::other(format!("cp: {copied}")));
    }
    File::create(log).map(drop)
}

/// Makes the disk what it is after the cut.
pub(super) fn lose(before: &Path, log: &Path, disk: &Path, seed: u64) -> io::Result<Loss> {
    let log = fs::read(log)?;
    let entries = entries(&log)?;
    fs::rename(before, disk)?;
    let mut disk = File::options().write(true).open(disk)?;
    let safe = entries.iter().rposition(|entry| entry.flags & FLUSH != 0).unwrap_or(0);
    let (mut loss, mut chance) = (Loss::default(), Chance(seed));
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| !entry.bytes.is_empty()) {
        loss.writes += 1;
        if index > safe && entry.flags & FUA == 0 {
            loss.unsafe_writes += 1;
            if chance.even() {
                loss.lost += 1;
                continue;
            }
        }
        disk.seek(SeekFrom::Start(entry.sector * SECTOR as u64))?;
        disk.write_all(entry.bytes)?;
    }
    Ok(loss)
}

struct Entry<'a> {
    sector: u64,
    flags: u64,
    bytes: &'a [u8],
}

/// The log's entries. One that was cut off never happened: neither had the guest an answer to it.
fn entries(log: &[u8]) -> io::Result<Vec<Entry<'_>>> {
    let mut rest = log;
    let mut entries = Vec::new();
    let Some(head) = take(&mut rest, SECTOR) else { return Ok(entries) };
    // Before the first flush QEMU has not written it.
    if ![0, MAGIC].contains(&number(head, 0)) {
        return Err(io::Error::other("the log of the disk's writes has another format"));
    }
    while let Some(head) = take(&mut rest, SECTOR) {
        let (sector, sectors, flags) = (number(head, 0), number(head, 1), number(head, 2));
        if sectors == 0 && flags == 0 {
            break;
        }
        let sectors = if flags & DISCARD == 0 { usize::try_from(sectors).unwrap_or(usize::MAX) } else { 0 };
        let Some(bytes) = take(&mut rest, sectors.saturating_mul(SECTOR)) else { break };
        entries.push(Entry { sector, flags, bytes });
    }
    Ok(entries)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// The nth little-endian number of an entry's head.
fn number(head: &[u8], index: usize) -> u64 {
    let mut bytes = [0; 8];
    // A head is a whole sector.
    let read = head.get(index * 8..).unwrap_or_default().read_exact(&mut bytes);
    read.map_or(0, |()| u64::from_le_bytes(bytes))
}

/// Chance that repeats itself: a step of `SplitMix64` at a time.
struct Chance(u64);

impl Chance {
    fn even(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 63) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(numbers: [u64; 3]) -> Vec<u8> {
        let mut head: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        head.resize(SECTOR, 0);
        head
    }

    #[test]
    fn what_was_flushed_stays_and_of_the_rest_some_goes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut log = head([MAGIC, 1, 0]);
        let mut write = |sector: u64, flags, byte: u8| {
            log.extend(head([sector, 1, flags]));
            log.extend([byte; SECTOR]);
        };
        write(0, 0, 1);
        write(9, FLUSH, 1);
        for sector in 1..9 {
            write(sector, 0, 2);
        }
        write(10, FUA, 3);
        // Cut off in the middle.
        log.extend(head([11, 1, 0]));
        log.extend([4; 100]);
        fs::write(at("log"), &log).unwrap();
        let mut counts = Vec::new();
        for seed in 0..4 {
            fs::write(at("before"), [0; 12 * SECTOR]).unwrap();
            let loss = lose(&at("before"), &at("log"), &at("disk"), seed).unwrap();
            assert_eq!((loss.writes, loss.unsafe_writes), (11, 8));
            let disk = fs::read(at("disk")).unwrap();
            let first = |sector: usize| disk[sector * SECTOR];
            assert_eq!((first(0), first(9), first(10), first(11)), (1, 1, 3, 0));
            assert_eq!((1..9).filter(|sector| first(*sector) == 0).count(), loss.lost);
            counts.push(loss.lost);
        }
        assert!(counts.iter().any(|lost| *lost > 0) && counts.iter().any(|lost| *lost < 8), "{counts:?}");
    }
}

//! A bundle's list of files: the bytes whose SHA-256 is the bundle's name.
//!
//! One line per file, `<sha256 hex> <size decimal> <path>\n`, sorted by the path's bytes. Every set of files has
//! exactly one spelling; any other is refused.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use crate::Digest;

/// The most bytes of a manifest: with its line ends escaped, or as the list of all its files, it fits one [`crate::wire`]
/// message.
pub(crate) const MAX_BYTES: usize = 736 * 1024;

/// A list of files that is not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than a message can carry.
    #[error("read the manifest: longer than {MAX_BYTES} bytes")]
    TooLong,
    /// A line is not digest, size and path, or the last one is not ended.
    #[error("read the manifest: line {0} is not `<sha256> <size> <path>`")]
    Line(usize),
    /// A path that could leave the bundle, or has more than one spelling.
    #[error(
        "read the manifest: path {0:?} is absolute, has empty, `.` or `..` parts, control characters or is too long"
    )]
    Path(String),
    /// Not in ascending order, named twice, or one path is a directory of another.
    #[error("read the manifest: {0} is out of order, named twice or inside another file")]
    Order(BundlePath),
    /// The sizes do not add up to a number.
    #[error("read the manifest: the sizes add up to more than 2^63")]
    TooLarge,
}

/// A file's path in a bundle: relative, in one spelling, without a way out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundlePath(String);

impl BundlePath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path below `modules/`, that is below `lib/modules/<kernel>/` of the image.
    pub fn in_modules(&self) -> Option<&str> {
        self.0.strip_prefix("modules/")
    }

    /// The path below `firmware/`: the name by which a driver asks for it.
    pub fn in_firmware(&self) -> Option<&str> {
        self.0.strip_prefix("firmware/")
    }
}

impl FromStr for BundlePath {
    type Err = ManifestError;

    fn from_str(text: &str) -> Result<Self, ManifestError> {
        let part = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
        if text.len() <= 4095 && text.split('/').all(part) && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ManifestError::Path(text.to_owned()))
        }
    }
}

impl fmt::Display for BundlePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestEntry {
    /// Of the file's bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Where it is in the bundle.
    pub path: BundlePath,
}

/// The files of a bundle, sorted by path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BundleManifest {
    entries: Vec<ManifestEntry>,
}

impl BundleManifest {
    /// A manifest of these files, given in any order.
    pub fn new(mut entries: Vec<ManifestEntry>) -> Result<Self, ManifestError> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = Self::checked(entries)?;
        if manifest.emit().len() > MAX_BYTES { Err(ManifestError::TooLong) } else { Ok(manifest) }
    }

    /// Reads the canonical text; no other is accepted.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MAX_BYTES {
            return Err(ManifestError::TooLong);
        }
        let mut entries = Vec::new();
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let line = line.strip_suffix('\n').ok_or(ManifestError::Line(index + 1))?;
            entries.push(entry(line, index + 1)?);
        }
        Self::checked(entries)
    }

    /// The canonical text.
    pub fn emit(&self) -> String {
        self.entries.iter().fold(String::new(), |mut text, entry| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {} {}", entry.digest.hex(), entry.size, entry.path);
            text
        })
    }

    /// The bundle's name: the SHA-256 of the canonical text.
    pub fn digest(&self) -> Digest {
        Digest::of(self.emit().as_bytes())
    }

    /// The files, sorted by path.
    pub fn entries(&self) -> &[ManifestEntry] {
        &self.entries
    }

    /// The sum of the sizes, in bytes.
    pub fn size(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size).sum()
    }

    fn checked(entries: Vec<ManifestEntry>) -> Result<Self, ManifestError> {
        for (first, second) in entries.iter().zip(entries.iter().skip(1)) {
            if first.path >= second.path {
                return Err(ManifestError::Order(second.path.clone()));
            }
        }
        // `a`, `a-b`, `a/b`: a directory need not stand next to what lies in it, so every parent is looked up.
        for entry in &entries {
            let parents = entry.path.0.match_indices('/').map(|(end, _)| entry.path.0.split_at(end).0);
            for parent in parents {
                if entries.binary_search_by(|other| other.path.as_str().cmp(parent)).is_ok() {
                    return Err(ManifestError::Order(entry.path.clone()));
                }
            }
        }
        let size = entries.iter().try_fold(0_u64, |sum, entry| sum.checked_add(entry.size));
        match size {
            Some(size) if i64::try_from(size).is_ok() => Ok(Self { entries }),
            _ => Err(ManifestError::TooLarge),
        }
    }
}

fn entry(line: &str, number: usize) -> Result<ManifestEntry, ManifestError> {
    let wrong = || ManifestError::Line(number);
    let mut parts = line.splitn(3, ' ');
    let (Some(digest), Some(size), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    let digest = Digest::from_hex(digest).map_err(|_| wrong())?;
    let bytes: u64 = size.parse().map_err(|_| wrong())?;
    // `+5` and `05` are numbers too, but not the one spelling.
    if bytes.to_string() != size {
        return Err(wrong());
    }
    Ok(ManifestEntry { digest, size: bytes, path: path.parse()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> ManifestEntry {
        ManifestEntry { digest: Digest::of(path.as_bytes()), size: 3, path: path.parse().unwrap() }
    }

    #[test]
    fn the_order_of_files_does_not_change_the_name() {
        let one = BundleManifest::new(vec![file("modules/b.ko"), file("modules/a.ko")]).unwrap();
        let two = BundleManifest::new(vec![file("modules/a.ko"), file("modules/b.ko")]).unwrap();
        assert_eq!(one.digest(), two.digest());
        assert_eq!(one.digest(), Digest::of(one.emit().as_bytes()));
        assert_eq!(BundleManifest::parse(&one.emit()), Ok(one));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["", "/a", "a/", "a//b", "./a", "a/../b", "..", "a\nb", "a\u{7f}", &"a".repeat(256)] {
            assert_eq!(path.parse::<BundlePath>(), Err(ManifestError::Path(path.to_owned())));
        }
    }

    #[test]
    fn a_file_is_no_directory() {
        let files = vec![file("firmware/x"), file("firmware/x-y"), file("firmware/x/z")];
        assert_eq!(BundleManifest::new(files), Err(ManifestError::Order("firmware/x/z".parse().unwrap())));
    }

    #[test]
    fn only_the_canonical_spelling_is_read() {
        let hex = Digest::of(b"").hex();
        for (text, error) in [
            (format!("{hex} 0 a"), ManifestError::Line(1)),
            (format!("{hex} 00 a\n"), ManifestError::Line(1)),
            (format!("{hex} +1 a\n"), ManifestError::Line(1)),
            (format!("{hex}  1 a\n"), ManifestError::Line(1)),
            (format!("{hex} 1 a\n\n"), ManifestError::Line(2)),
            (format!("{hex} 1 b\n{hex} 1 a\n"), ManifestError::Order("a".parse().unwrap())),
            (format!("{hex} 1 a\n{hex} 1 a\n"), ManifestError::Order("a".parse().unwrap())),
            (format!("{hex} {} a\n{hex} 1 b\n", u64::MAX), ManifestError::TooLarge),
            (format!("{hex} 1 a\r\n"), ManifestError::Path("a\r".to_owned())),
        ] {
            assert_eq!(BundleManifest::parse(&text), Err(error), "{text:?}");
        }
        assert_eq!(BundleManifest::parse(""), Ok(BundleManifest::default()));
    }

    #[test]
    fn paths_with_blanks_survive() {
        let manifest = BundleManifest::new(vec![file("firmware/a b.bin")]).unwrap();
        assert_eq!(BundleManifest::parse(&manifest.emit()), Ok(manifest));
    }
}

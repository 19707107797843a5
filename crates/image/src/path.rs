//! Absolute paths inside an image, such as `/opt` and `/opt/lib/modules/6.1.0-53-amd64`.

use std::fmt;
use std::str::FromStr;

/// Text that is no path inside an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "read the path {0:?}: it must be absolute, without `..` or control characters, and at most 4095 bytes long"
)]
pub struct PathError(String);

/// An absolute path inside an image, in its shortest spelling.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImagePath(String);

impl ImagePath {
    /// `/`.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// The path, starting with `/` and ending without one (but for the root itself).
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This path and one more part or relative path.
    pub fn join(&self, below: &str) -> Result<Self, PathError> {
        format!("{}/{below}", self.0).parse()
    }

    /// The parts between the slashes.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }
}

impl FromStr for ImagePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let wrong = || PathError(text.to_owned());
        if !text.starts_with('/') || text.len() > 4095 || text.chars().any(char::is_control) {
            return Err(wrong());
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") { Err(wrong()) } else { Ok(Self(format!("/{}", parts.join("/")))) }
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_spelling_is_kept() {
        for (text, path) in [("/opt/", "/opt"), ("//a/./b", "/a/b"), ("/", "/"), ("/a b", "/a b")] {
            assert_eq!(text.parse::<ImagePath>().unwrap().as_str(), path);
        }
        assert_eq!(ImagePath::root().join("lib").unwrap().as_str(), "/lib");
    }

    #[test]
    fn ways_out_are_refused() {
        for text in ["", "opt", "/a/../b", "/..", "/a\nb", "/a\0"] {
            assert_eq!(text.parse::<ImagePath>(), Err(PathError(text.to_owned())));
        }
    }
}

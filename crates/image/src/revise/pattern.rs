//! Which files of an image are meant: a path, or one with the shell's wildcards.

use std::fmt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};

use crate::path::{ImagePath, PathError};

/// What makes a path a pattern.
const WILDCARDS: [char; 3] = ['*', '?', '['];

/// Text that names no files.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// No path inside an image.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Wildcards that mean nothing.
    #[error("read the pattern {text:?}")]
    Wildcards {
        /// As it was given.
        text: String,
        /// What is wrong.
        source: globset::Error,
    },
}

/// Files of an image, by an absolute path in which `*`, `?` and `[…]` stand for what they do in a shell: never for a slash.
#[derive(Debug, Clone)]
pub struct FilePattern {
    path: ImagePath,
    matcher: Option<GlobMatcher>,
}

impl FilePattern {
    /// The one path, where there is only one.
    pub(super) fn literal(&self) -> Option<&ImagePath> {
        self.matcher.is_none().then_some(&self.path)
    }

    /// The directory below which all files of the pattern lie.
    pub(super) fn root(&self) -> ImagePath {
        let fixed = self.path.parts().take_while(|part| !part.contains(WILDCARDS));
        let path = fixed.fold("/".to_owned(), |path, part| path + part + "/");
        // What begins a path is one.
        path.parse().unwrap_or_else(|_| self.path.clone())
    }

    /// Whether a path, from the image's root on, is meant.
    pub(super) fn matches(&self, path: &str) -> bool {
        self.matcher.as_ref().map_or_else(|| self.path.as_str() == path, |matcher| matcher.is_match(path))
    }
}

impl fmt::Display for FilePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

impl FromStr for FilePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let path: ImagePath = text.parse()?;
        if !path.as_str().contains(WILDCARDS) {
            return Ok(Self { path, matcher: None });
        }
        let glob = GlobBuilder::new(path.as_str()).literal_separator(true).build();
        let glob = glob.map_err(|source| PatternError::Wildcards { text: text.to_owned(), source })?;
        Ok(Self { path, matcher: Some(glob.compile_matcher()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stop_at_slashes() {
        let pattern: FilePattern = "/opt/lib/modules/6.1*/[a-m]*.ko".parse().unwrap();
        assert!(pattern.matches("/opt/lib/modules/6.1.0/dummy.ko"));
        assert!(!pattern.matches("/opt/lib/modules/6.1.0/zram.ko"));
        assert!(!pattern.matches("/opt/lib/modules/6.1.0/net/dummy.ko"));
        assert_eq!((pattern.root().as_str(), pattern.literal()), ("/opt/lib/modules", None));
        let literal: FilePattern = "/opt//a.ko".parse().unwrap();
        assert_eq!(literal.literal().unwrap().as_str(), "/opt/a.ko");
        assert_eq!("/*".parse::<FilePattern>().unwrap().root().as_str(), "/");
    }

    #[test]
    fn what_names_nothing_is_refused() {
        assert!(matches!("opt/a.ko".parse::<FilePattern>(), Err(PatternError::Path(_))));
        assert!(matches!("/opt/[a.ko".parse::<FilePattern>(), Err(PatternError::Wildcards { .. })));
    }
}

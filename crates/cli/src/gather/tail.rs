//! The end of a log: its newest lines, in bounded memory.
//!
//! The API server counts its own limit of bytes from where it begins, so that with it the newest lines would be missing.

/// Stands first where lines are missing.
const OLDER: &str = "<older lines are left out>\n";

/// Takes a log piece by piece, and keeps its end.
#[derive(Debug)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    most: usize,
    is_cut: bool,
}

impl Tail {
    /// So many bytes are kept.
    pub(super) fn new(most: usize) -> Self {
        Self { bytes: Vec::new(), most, is_cut: false }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
        // Not at each piece: what is kept is moved.
        if self.bytes.len() > 2 * self.most {
            self.cut();
        }
    }

    /// What is kept, in whole lines: half a secret would not be known as one.
    pub(super) fn into_text(mut self) -> String {
        self.cut();
        if !self.is_cut {
            return String::from_utf8_lossy(&self.bytes).into_owned();
        }
        let line = self.bytes.iter().position(|byte| *byte == b'\n').map_or(self.bytes.len(), |end| end + 1);
        let lines = self.bytes.get(line..).unwrap_or_default();
        format!("{OLDER}{}", String::from_utf8_lossy(lines))
    }

    fn cut(&mut self) {
        let over = self.bytes.len().saturating_sub(self.most);
        self.is_cut |= over > 0;
        self.bytes.drain(..over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::all_of_it("one\ntwo\n", 8, "one\ntwo\n")]
    #[case::whole_lines("one\ntwo\nthree\n", 8, "<older lines are left out>\nthree\n")]
    #[case::not_a_line_s_end("one\nsecret", 4, "<older lines are left out>\n")]
    #[case::nothing("", 8, "")]
    fn the_end_is_kept(
        #[case] log: &str,
        #[case] most: usize,
        #[case] expected: &str,
        #[values(1, 3, 100)] piece: usize,
    ) {
        let mut tail = Tail::new(most);
        for piece in log.as_bytes().chunks(piece) {
            tail.push(piece);
            assert!(tail.bytes.len() <= 2 * most + piece.len());
        }
        assert_eq!(tail.into_text(), expected);
    }

    #[test]
    fn the_newest_of_long_lines_is_there() {
        let mut tail = Tail::new(1000);
        for line in 0..100 {
            tail.push(format!("{line} {}\n", "x".repeat(400)).as_bytes());
        }
        let text = tail.into_text();
        let lines: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(lines, ["<older", "98", "99"]);
    }
}

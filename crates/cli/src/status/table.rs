//! Rows of cells, as `kubectl get` shows them.

use std::fmt::Write as _;

use crate::terminal::{Look, Tone, plain};

/// Between columns.
const GAP: &str = "   ";

/// One cell: plain text, and its colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self { text: plain(text.as_ref()), tone: None }
    }

    pub(crate) fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { tone: Some(tone), ..Self::new(text) }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// Rows that belong together, and a line below them that is no row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) rows: Vec<Vec<Cell>>,
    pub(crate) note: Option<String>,
}

/// The heading, then each block, as text: columns are as wide as they must be.
pub(crate) fn render(headings: &[&str], blocks: &[Block], look: Look) -> Vec<String> {
    let heading: Vec<_> = headings.iter().map(Cell::new).collect();
    let all = || std::iter::once(&heading).chain(blocks.iter().flat_map(|block| &block.rows));
    let widths: Vec<_> = (0..headings.len())
        .map(|column| all().filter_map(|row| row.get(column)).map(Cell::width).max().unwrap_or_default())
        .collect();
    let first = line(&heading, &widths, look);
    std::iter::once(first)
        .chain(blocks.iter().map(|block| {
            let mut text: String = block.rows.iter().map(|row| line(row, &widths, look)).collect();
            if let Some(note) = &block.note {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "  {}", look.fitted(&plain(note), 2));
            }
            text
        }))
        .collect()
}

fn line(row: &[Cell], widths: &[usize], look: Look) -> String {
    let mut line = String::new();
    let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or_default();
    for (place, (cell, width)) in row.iter().zip(widths).enumerate().take(last + 1) {
        if place > 0 {
            line.push_str(GAP);
        }
        line.push_str(&cell.tone.map_or_else(|| cell.text.clone(), |tone| look.paint(tone, &cell.text)));
        if place < last {
            line.extend(std::iter::repeat_n(' ', width - cell.width()));
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_lines_end_with_their_last_word() {
        let row = |cells: &[&str]| cells.iter().map(Cell::new).collect::<Vec<_>>();
        let blocks = [
            Block {
                rows: vec![row(&["one", "ü"]), row(&["", "two"])],
                note: Some("why\u{1b}[2J".to_owned()),
            },
            Block { rows: vec![row(&["three", ""])], note: None },
        ];
        let text = render(&["A", "LONG"], &blocks, Look::PLAIN);
        assert_eq!(text, ["A       LONG\n", "one     ü\n        two\n  why�[2J\n", "three\n"]);
    }
}

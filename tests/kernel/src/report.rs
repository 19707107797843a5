//! Counts of loads by kernel and set, and every disagreement with both sides' reasons.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use tenon_kmod::failure::Errno;
use tenon_kmod::predict::{Prediction, Verdict};

use crate::cases::Set;
use crate::verdict::{Judged, Standing};

/// Lines of the kernel's log that are shown of a disagreement.
const LOG_LINES: usize = 6;

/// What came of all loads.
#[derive(Debug, Default)]
pub struct Report {
    counts: BTreeMap<(String, Set), Count>,
    errnos: BTreeMap<i32, usize>,
    wrong: Vec<String>,
    pairs: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    agreed: usize,
    linked: usize,
    open: usize,
    wrong: usize,
}

impl Count {
    fn tried(self) -> usize {
        self.agreed + self.linked + self.open + self.wrong
    }

    fn plus(self, other: Self) -> Self {
        Self {
            agreed: self.agreed + other.agreed,
            linked: self.linked + other.linked,
            open: self.open + other.open,
            wrong: self.wrong + other.wrong,
        }
    }
}

impl Report {
    /// Adds what was tried in one boot: `kernel` names the kernel and how it was booted.
    pub fn add(&mut self, kernel: &str, judged: &[Judged<'_>]) {
        for one in judged {
            let count = self.counts.entry((kernel.to_owned(), one.case.set)).or_default();
            match one.standing {
                Standing::Agreed => count.agreed += 1,
                Standing::Linked => count.linked += 1,
                Standing::Open => count.open += 1,
                Standing::Wrong => count.wrong += 1,
            }
            *self.errnos.entry(one.tried.errno).or_default() += 1;
            if one.standing == Standing::Wrong {
                self.wrong.push(disagreement(kernel, one));
            }
        }
        let mut files: Vec<(&[u8], &str)> =
            judged.iter().map(|one| (one.case.file.as_slice(), one.case.parameters)).collect();
        files.sort_unstable();
        files.dedup();
        self.pairs += files.len();
    }

    /// How many loads were tried.
    pub fn tried(&self) -> usize {
        self.total().tried()
    }

    /// How many different files, with their parameters, met a kernel.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// How many loads no fact decides about.
    pub fn open(&self) -> usize {
        self.total().open
    }

    /// The predictions that were wrong, each with the reasons of both sides.
    pub fn disagreements(&self) -> &[String] {
        &self.wrong
    }

    fn total(&self) -> Count {
        self.counts.values().copied().fold(Count::default(), Count::plus)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:44} {:11} {:>5} {:>6} {:>6} {:>5} {:>5}",
            "kernel", "set", "tries", "agreed", "linked", "open", "wrong"
        )?;
        let line = |f: &mut fmt::Formatter<'_>, kernel: &str, set: &str, count: Count| {
            let Count { agreed, linked, open, wrong } = count;
            writeln!(
                f,
                "{kernel:44} {set:11} {:>5} {agreed:>6} {linked:>6} {open:>5} {wrong:>5}",
                count.tried()
            )
        };
        for ((kernel, set), count) in &self.counts {
            line(f, kernel, &set.to_string(), *count)?;
        }
        line(f, "all", "", self.total())?;
        let errnos = self.errnos.iter().map(|(errno, count)| format!("{} {count}", name(*errno)));
        writeln!(f, "the kernels said: {}", errnos.collect::<Vec<_>>().join(", "))?;
        self.wrong.iter().try_for_each(|text| writeln!(f, "\n{text}"))
    }
}

fn name(errno: i32) -> String {
    match (errno, Errno(errno).describe()) {
        (0, _) => "loaded".to_owned(),
        (_, Some((name, _))) => name.to_owned(),
        (_, None) => format!("error {errno}"),
    }
}

fn disagreement(kernel: &str, one: &Judged<'_>) -> String {
    let mut text = format!("{kernel}: {} {}", one.case.set, one.case.name);
    let Prediction { verdict, reasons, .. } = &one.prediction;
    let verdict = match verdict {
        Verdict::Loads => "loads".to_owned(),
        Verdict::Fails { errno } => name(errno.0),
        Verdict::Unknown => "unknown".to_owned(),
    };
    // Writing to a string cannot go wrong.
    let _ = write!(text, "\n  predicted {verdict}");
    for reason in reasons {
        let _ = write!(text, "\n    {}: {reason} ({:?})", reason.name(), reason.effect);
    }
    let _ = write!(text, "\n  the kernel: {}", name(one.tried.errno));
    for line in one.tried.log.iter().take(LOG_LINES) {
        let _ = write!(text, "\n    {line}");
    }
    text
}

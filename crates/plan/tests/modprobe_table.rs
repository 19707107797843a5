//! `docs/modprobe.md` prints the table of modprobe's options that decides; when one changes, so must the other.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::fmt::Write as _;
use std::fs;

use tenon_plan::modprobe::{Effect, OPTIONS, Opt};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/modprobe.md");

/// The table as the page shows it.
fn rendered() -> String {
    let mut table = "| option | what it comes to |\n| --- | --- |\n".to_owned();
    for option in OPTIONS {
        writeln!(table, "| {} | {} |", spelling(option), meaning(option.effect)).expect("text grows");
    }
    table
}

fn spelling(option: &Opt) -> String {
    let value = if option.value { " VALUE" } else { "" };
    let short = option.short.map(|letter| format!("`-{letter}`, ")).unwrap_or_default();
    format!("{short}`--{}{value}`", option.long)
}

fn meaning(effect: Effect) -> String {
    match effect {
        Effect::None(why) => format!("accepted without effect: {why}"),
        Effect::DirName => "accepted: the same as `dirName`".to_owned(),
        Effect::Refused(why) => format!("**refused**: {why}"),
    }
}

#[test]
fn the_page_prints_the_table_that_decides() {
    let page = fs::read_to_string(PAGE).expect("docs/modprobe.md");
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with('|')).collect();
    let wanted = rendered();
    let same = rows == wanted.lines().collect::<Vec<_>>();
    assert!(same, "replace the table in docs/modprobe.md by:\n\n{wanted}");
}

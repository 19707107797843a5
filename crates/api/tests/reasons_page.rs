//! `docs/status.md` explains every reason that a status can give: none is missing, and none is there that does not exist.
//! Of events it names none that does not exist.
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeSet;
use std::fs;

fn read(path: &str) -> String {
    let path = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

/// The operator's words: the constants of `reasons.rs`, those of condition types and events apart.
fn operators() -> BTreeSet<String> {
    let source = read("crates/api/src/reasons.rs");
    let constants = source.lines().filter(|line| line.starts_with("pub const "));
    constants.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// The loader's words: the variants of its `Reason`.
fn loaders() -> BTreeSet<String> {
    let source = read("crates/order/src/report.rs");
    let body = source.split("pub enum Reason {").nth(1).and_then(|rest| rest.split('}').next());
    let lines = body.expect("the enum").lines().map(str::trim);
    let names = lines.filter(|line| !line.starts_with("//")).filter_map(|line| line.strip_suffix(','));
    names.map(str::to_owned).collect()
}

/// The reasons of events: the constants below `mod event`.
fn events() -> BTreeSet<String> {
    let source = read("crates/api/src/reasons.rs");
    let constants = source.lines().filter(|line| line.starts_with("    pub const "));
    constants.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

#[test]
fn every_reason_is_explained_on_the_page() {
    let page = read("docs/status.md");
    let tables = page.split_once("\n## Reasons of ").expect("the page's tables of reasons").1;
    let (tables, of_events) = tables.split_once("\n## Events").expect("the page's table of events");
    let first_cells = of_events.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let named: BTreeSet<_> =
        first_cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`').to_owned()).collect();
    assert!(named.len() > 5 && named.is_subset(&events()), "{named:?}");
    let rows = tables.lines().filter_map(|line| line.strip_prefix("| `"));
    let explained: BTreeSet<String> =
        rows.filter_map(|row| row.split('`').next()).map(str::to_owned).collect();
    let known: BTreeSet<String> = operators().union(&loaders()).cloned().collect();
    assert!(known.len() > 40, "the sources are understood");
    let missing: Vec<_> = known.difference(&explained).collect();
    let unknown: Vec<_> = explained.difference(&known).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/status.md lacks {missing:?}, and explains {unknown:?} which nothing says"
    );
}

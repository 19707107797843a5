//! How far KMM's contract is tested: which of its paragraphs and defects the tests that ran are about, by their names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The defects of KMM that our inventory of it counts.
const DEFECTS: u8 = 26;

/// Paragraphs that are shown where the thing itself is tested, beside what is named after them: most of these need a kernel, a kubelet
/// or a builder, and one of each is enough.
const SHOWN: [(&[u32], &[&str]); 6] = [
    // Whether an image is there; what is missing; what is made once and then used.
    (
        &[2, 2],
        &[
            "every_bad_image_is_a_named_state_of_its_own_module_and_heals",
            "what_exists_is_used_whoever_made_it",
            "what_a_pod_brings_is_packed_and_a_restart_at_any_step_converges",
        ],
    ),
    // Building and signing, one after the other, again when it fails.
    (
        &[2, 3],
        &[
            "builds_wait_for_their_turn",
            "a_build_that_fails_says_why_and_is_tried_again",
            "what_fails_is_noted_and_tried_again",
        ],
    ),
    // What a worker does on a node: in-tree removal, order, parameters, firmware, unloading, boots.
    (
        &[5],
        &[
            "every_driver_loads_and_leaves_nothing_behind",
            "the_kernels_own_modules_come_and_go",
            "changes_are_made_or_taken_back",
            "what_cannot_be_loaded_says_why",
            "what_is_in_use_stays",
            "the_store_is_enough_to_boot",
            "firmware_is_in_its_place_after_a_boot",
        ],
    ),
    // The contract of builds and signatures, up to a kernel that loads nothing else.
    (
        &[6],
        &[
            "an_image_is_made_once_and_anew_when_what_it_is_made_from_changes",
            "drivers_are_built_signed_and_loaded_by_kernels_that_load_nothing_else",
            "what_only_a_mirror_has_is_read_there_and_what_is_made_is_published_where_its_name_says",
        ],
    ),
    // Upgrades and plugins, with pods that use the device.
    (
        &[7],
        &[
            "defect_07_a_module_with_dots_is_upgraded_in_order_and_may_begin_and_cease_to_be",
            "a_device_plugin_comes_after_its_driver_and_leaves_before_it",
            "every_field_of_the_user_reaches_the_pod",
            "a_pod_uses_a_drivers_device_by_a_device_plugin_and_by_a_resource_claim",
        ],
    ),
    // Everything that a Module and a PreflightValidation can say.
    (&[1], &["every_value_of_every_leaf_is_taken_whole_or_refused_by_name"]),
];

/// Paragraphs that have no test, and why.
const NOT_TESTED: [(&[u32], &str); 9] = [
    (&[1, 3], "how KMM does it inside: ModuleImagesConfig is no contract, a ModuleImage takes its place"),
    (&[1, 4], "how KMM does it inside: ModuleBuildSignConfig is no contract"),
    (&[1, 6], "ManagedClusterModule is the hub's, which comes later"),
    (&[1, 7], "BootModuleConfig is OpenShift's alone"),
    (&[2, 5], "how KMM keeps its finished pods: ours are a Job's, which Kubernetes deletes after a while"),
    (&[2, 12], "ClusterClaims are the hub's, which comes later"),
    (&[2, 13], "the hub comes later"),
    (&[2, 14], "OpenShift's alone"),
    (&[11], "counts and times are tenon-lab's (`bench`), and the test of a fleet's"),
];

/// Reports of KMM's users that concern behaviour (§10 of our inventory), all of them.
const REPORTED: [&str; 61] = [
    // Upgrades, drains, the life of nodes.
    "k#116", "k#263", "k#744", "k#1271", "k#1274", "rh#1801", "k#1328", "k#1332", "k#1330", "k#494", "k#911",
    "k#913", "k#945", "k#1083", "R#66", "R#110", "R#227", "R#605", // Builds.
    "k#1244", "k#1245", "rh#1769", "k#1149", "k#140", "k#325", "rh#1729", "k#1314", "k#1198", "R#345",
    "R#375", "R#333", "k#1308", // Registries.
    "k#1186", "R#213", "R#224", "R#243", "rh#992", // What a Module means.
    "k#104", "k#253", "k#458", "k#1189", "k#1301", "k#109", "k#246", "k#737", "k#77", "k#824", "k#1319",
    // Names and ends.
    "k#444", "k#607", "k#1306", "k#708", "k#719", "k#590", // Plugins' pods.
    "k#1321", "k#1320", "R#25", "R#55", // Installing.
    "k#171", "k#770", "k#408", "rh#43",
];

/// Reports of which there is no test, and why.
const REPORTS_NOT_TESTED: [(&str, &str); 6] = [
    ("k#171", "a Helm chart is packaging, which comes later"),
    ("k#325", "what is built runs on its own architecture; a builder for another one is no part of Tenon"),
    ("k#408", "KMM renamed an argument of its builds; ours have had both names from the start"),
    ("k#770", "there is no webhook, so nothing needs cert-manager"),
    (
        "k#1189",
        "no module's place in the node's file system is written, so nothing brings the other one back at a reload of the host's",
    ),
    ("k#1244", "builds never ran by kaniko here"),
];

/// Reports of KMM's users, by the tests that show what Tenon does; beside those named after them (`k444_…`).
const REPORTS: [(&str, &[&str]); 25] = [
    ("one_node_after_the_other_by_default_and_a_lost_node_does_not_hold_the_others_up", &["k#116", "k#263"]),
    ("defect_07_a_module_with_dots_is_upgraded_in_order_and_may_begin_and_cease_to_be", &["k#744"]),
    ("defect_04_a_cordon_a_taint_a_silent_api_server_and_a_lost_discovery_label_unload_nothing", &["k#1271"]),
    ("a_device_plugin_comes_after_its_driver_and_leaves_before_it", &["k#1274", "k#590", "rh#1801", "R#55"]),
    ("a_pod_uses_a_drivers_device_by_a_device_plugin_and_by_a_resource_claim", &["k#1328", "k#1332"]),
    ("without_a_driver_the_plugin_runs_on_all_nodes_and_with_one_where_it_is_ready", &["k#1330"]),
    ("an_image_is_made_once_and_anew_when_what_it_is_made_from_changes", &["k#1245", "rh#1769", "k#1198"]),
    (
        "defect_09_13_15_16_what_is_built_is_signed_before_anybody_sees_it_and_where_the_module_says",
        &["k#140"],
    ),
    (
        "what_a_pod_brings_is_packed_and_a_restart_at_any_step_converges",
        &["k#1186", "R#213", "R#224", "rh#992"],
    ),
    ("the_kernels_own_modules_come_and_go", &["k#104", "k#253", "k#458"]),
    ("every_driver_loads_and_leaves_nothing_behind", &["k#1301"]),
    ("firmware_is_in_its_place_after_a_boot", &["k#109", "k#246"]),
    ("changes_are_made_or_taken_back", &["k#737"]),
    ("the_store_is_enough_to_boot", &["R#66", "R#110", "R#227", "R#605"]),
    ("drivers_are_built_signed_and_loaded_by_kernels_that_load_nothing_else", &["k#1149"]),
    ("what_cannot_be_made_says_so_and_begins_nothing", &["rh#1729"]),
    (
        "what_only_a_mirror_has_is_read_there_and_what_is_made_is_published_where_its_name_says",
        &["R#345", "R#375"],
    ),
    ("tls_is_verified_unless_told_otherwise", &["R#243"]),
    ("two_zstd_frames_are_one_file_and_skippable_frames_are_skipped", &["R#333"]),
    ("what_no_order_can_hold_is_told_of_the_module_that_says_it", &["k#1319"]),
    ("defect_18_a_kernel_with_a_trailing_plus_fits_a_mapping_without_it", &["k#77", "k#824"]),
    ("a_namespace_with_modules_is_kept_and_one_without_goes", &["k#708", "k#719"]),
    ("every_field_of_the_user_reaches_the_pod", &["k#1320", "k#1321", "R#25"]),
    ("what_exists_is_used_whoever_made_it", &["rh#43"]),
    ("a_dockerfile_gets_the_toolkit_that_the_cluster_has_for_the_nodes_system_once_it_is_there", &["k#1308"]),
];

/// What ran of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    paragraphs: BTreeMap<Paragraph, Tally>,
    defects: BTreeSet<u8>,
    reports: BTreeSet<String>,
}

/// Its numbers: `2.15` is `[2, 15]`.
type Paragraph = Vec<u32>;

#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    cases: usize,
    passed: usize,
}

impl Ledger {
    /// Takes in what test programs said.
    pub(crate) fn read(&mut self, output: &str) {
        let tests = output.lines().filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "));
        for (name, outcome) in tests {
            self.defects.extend(defects(name));
            self.reports.extend(reports(name));
            for paragraph in paragraph(name).into_iter().chain(shown(name)) {
                let tally = self.paragraphs.entry(paragraph).or_default();
                tally.cases += 1;
                tally.passed += usize::from(outcome == "ok");
            }
        }
    }

    /// For the end of a run.
    pub(crate) fn table(&self) -> String {
        let mut table = String::from("KMM's contract   cases  passed");
        for (paragraph, Tally { cases, passed }) in &self.paragraphs {
            let _ = write!(table, "\n  {:<15}{cases:>5}{passed:>8}", numbers(paragraph));
        }
        let (with, without): (Vec<u8>, Vec<u8>) =
            (1..=DEFECTS).partition(|number| self.defects.contains(number));
        let _ = write!(table, "\nits defects: a test for {}", list(&with));
        if !without.is_empty() {
            let _ = write!(table, "; none for {}", list(&without));
        }
        for (paragraph, why) in NOT_TESTED {
            let _ = write!(table, "\n  {:<15}none: {why}", numbers(paragraph));
        }
        let (with, without) = self.reported();
        let _ = write!(table, "\nits users' reports: a test for {}", with.join(", "));
        if !without.is_empty() {
            let _ = write!(table, "; none for {}", without.join(", "));
        }
        for (report, why) in REPORTS_NOT_TESTED {
            let _ = write!(table, "\n  {report:<15}none: {why}");
        }
        table
    }
}

impl Ledger {
    /// Those of the users' reports that a test was about, and those that should have had one.
    fn reported(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let is_excused = |report: &&str| REPORTS_NOT_TESTED.iter().any(|(excused, _)| excused == report);
        let (with, without): (Vec<_>, Vec<_>) =
            REPORTED.into_iter().partition(|report| self.reports.contains(*report));
        (with, without.into_iter().filter(|report| !is_excused(report)).collect())
    }
}

fn numbers(paragraph: &[u32]) -> String {
    paragraph.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

/// The name of the function: without modules, and without the case.
fn function(name: &str) -> &str {
    let mut parts = name.rsplit("::").filter(|part| !part.starts_with("case_"));
    parts.next().unwrap_or(name)
}

/// The paragraphs that a test shows without being named after them.
fn shown(name: &str) -> impl Iterator<Item = Paragraph> {
    let function = function(name);
    SHOWN.iter().filter(move |(_, tests)| tests.contains(&function)).map(|(paragraph, _)| paragraph.to_vec())
}

/// The users' reports that a test is about: `k444_k607_…`, or by the table.
fn reports(name: &str) -> Vec<String> {
    let function = function(name);
    let numbers = function.split('_').map_while(|part| part.strip_prefix('k')?.parse::<u32>().ok());
    let named = numbers.map(|number| format!("k#{number}"));
    let listed = REPORTS.iter().filter(|(test, _)| *test == function).flat_map(|(_, reports)| *reports);
    named.chain(listed.map(|report| (*report).to_owned())).collect()
}

fn list(numbers: &[u8]) -> String {
    if numbers.is_empty() {
        return "none".to_owned();
    }
    numbers.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

/// `s2_15_defects::…` is about 2.15.
fn paragraph(name: &str) -> Option<Paragraph> {
    let (module, _) = name.split_once("::")?;
    let numbers: Paragraph =
        module.strip_prefix('s')?.split('_').map_while(|part| part.parse().ok()).collect();
    (!numbers.is_empty()).then_some(numbers)
}

/// `defect_09_13_what_is_right` is about two of them.
fn defects(name: &str) -> Vec<u8> {
    let function = name.split("::").find_map(|part| part.strip_prefix("defect_"));
    let numbers = function.into_iter().flat_map(|rest| rest.split('_'));
    numbers.map_while(|part| part.parse().ok().filter(|_| part.len() == 2)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_and_defects_are_read_off_the_names_of_tests() {
        let output = "running 5 tests\n\
            test s1_8_admission::what_is_refused ... ok\n\
            test s1_8_admission::what_is_kept ... FAILED\n\
            test s2_15_defects::defect_04_a_cordon_unloads_nothing ... ok\n\
            test s2_1_modules::one has been running for over 60 seconds\n\
            test s10_user_reports::k444_long_names ... ok\n\
            test resolve::tests::defect_09_13_two_at_once ... ok\n\
            test resolve::tests::defect_14_a_case::case_01 ... ok\n\
            test serve::tests::other ... ok\n";
        let mut ledger = Ledger::default();
        ledger.read(output);
        let paragraphs: Vec<_> = ledger.paragraphs.keys().cloned().collect();
        assert_eq!(paragraphs, [vec![1, 8], vec![2, 15], vec![10]]);
        assert_eq!(ledger.paragraphs.get(&vec![1, 8]), Some(&Tally { cases: 2, passed: 1 }));
        assert_eq!(ledger.defects, [4, 9, 13, 14].into());
        let table = ledger.table();
        assert!(table.contains("1.8                2       1"), "{table}");
        assert!(table.contains("2.13           none: "), "{table}");
        assert!(table.contains("a test for k#444"), "{table}");
        assert!(table.contains("a test for 4, 9, 13, 14; none for 1, 2, 3, 5"), "{table}");
    }

    #[test]
    fn a_test_counts_for_what_it_shows_wherever_it_is() {
        let mut ledger = Ledger::default();
        ledger.read(
            "test scenarios::what_is_in_use_stays ... ok\n\
             test the_kernels_own_modules_come_and_go::case_1_once ... FAILED\n",
        );
        assert_eq!(ledger.paragraphs.get(&vec![5]), Some(&Tally { cases: 2, passed: 1 }));
        assert_eq!(ledger.reports, ["k#104", "k#253", "k#458"].map(str::to_owned).into());
    }

    #[test]
    fn what_the_tables_name_is_there() {
        let mut sources = String::new();
        for folder in ["crates", "tests"] {
            read_sources(&crate::repository::path(folder), &mut sources);
        }
        let named = SHOWN.iter().flat_map(|(_, tests)| *tests).chain(REPORTS.iter().map(|(test, _)| test));
        for test in named {
            assert!(sources.contains(&format!("fn {test}(")), "there is no test {test}");
        }
    }

    /// What no test is named after and no table lists would be missing from every run.
    #[test]
    fn every_report_has_a_test_or_a_reason_why_not() {
        let mut sources = String::new();
        for folder in ["crates", "tests"] {
            read_sources(&crate::repository::path(folder), &mut sources);
        }
        let functions = sources.split("fn ").filter_map(|rest| rest.split_once('('));
        let mut ledger = Ledger::default();
        for (name, _) in functions {
            ledger.reports.extend(reports(name));
        }
        let (with, without) = ledger.reported();
        assert_eq!(without, Vec::<&str>::new());
        assert_eq!(with.len() + REPORTS_NOT_TESTED.len(), REPORTED.len(), "nothing is tested and excused");
        let others: Vec<_> =
            ledger.reports.iter().filter(|report| !REPORTED.contains(&report.as_str())).collect();
        assert_eq!(others, Vec::<&String>::new());
    }

    fn read_sources(folder: &std::path::Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                read_sources(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push_str(&std::fs::read_to_string(&path).expect("a source"));
            }
        }
    }
}

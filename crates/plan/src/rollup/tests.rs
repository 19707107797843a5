use proptest::prelude::*;
use tenon_api::reasons::condition::{DEGRADED, PREDICTED, READY, UNSUPPORTED, WAITING};

use super::*;
use crate::fixture::{KERNEL, Play, default_image};

fn time(text: &str) -> Time {
    serde_json::from_str(&format!("\"{text}\"")).expect("a time")
}

fn rolled_up(module: &Module, plays: &[&Play]) -> ModuleStatus {
    status(&Observed {
        module,
        nodes: plays
            .iter()
            .map(|play| NodeView { facts: &play.node, config: play.config.as_ref() })
            .collect(),
        images: plays.iter().filter_map(|play| play.image.as_ref()).take(1).collect(),
        plugin_problem: None,
        leaving: Vec::new(),
        rivals: Vec::new(),
        now: time("2026-01-01T00:00:00Z"),
    })
}

fn said<'s>(status: &'s ModuleStatus, type_: &str) -> Option<(&'s str, &'s str, &'s str)> {
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((&condition.status, &condition.reason, &condition.message))
}

fn numbers(status: &ModuleStatus) -> (i32, i32, i32) {
    let numbers = status.module_loader.unwrap();
    (numbers.nodes_matching_selector_number, numbers.desired_number, numbers.available_number)
}

#[test]
fn a_loaded_module_is_ready_and_says_so_once() {
    let mut play = Play::registered();
    play.settle();
    let mut module = play.module.clone().unwrap();
    let first = rolled_up(&module, &[&play]);
    assert_eq!(numbers(&first), (1, 1, 1));
    assert_eq!(said(&first, READY), Some(("True", reasons::LOADED, "loaded on 1 node")));
    assert_eq!(said(&first, DEGRADED).unwrap().0, "False");
    assert_eq!(first.conditions.iter().filter_map(|c| c.observed_generation).collect::<Vec<_>>(), [3, 3, 3]);
    module.status = Some(first.clone());
    let later = status(&Observed {
        module: &module,
        nodes: vec![NodeView { facts: &play.node, config: play.config.as_ref() }],
        images: play.image.iter().collect(),
        plugin_problem: None,
        leaving: Vec::new(),
        rivals: Vec::new(),
        now: time("2027-01-01T00:00:00Z"),
    });
    assert_eq!(later, first, "the time of a change is not the time of looking");
}

#[test]
fn what_has_to_leave_a_node_first_is_named_also_of_a_deleted_module() {
    let mut play = Play::registered();
    play.settle();
    let waiting = crate::assign::Waiting {
        reason: reasons::WAITING_FOR_CLAIMS.into(),
        message: "pod hall/x uses claim hall/c".to_owned(),
    };
    let (one, two) = ("n1".parse().unwrap(), "n2".parse().unwrap());
    let told = |play: &Play| {
        status(&Observed {
            module: play.module.as_ref().unwrap(),
            nodes: vec![NodeView { facts: &play.node, config: play.config.as_ref() }],
            images: play.image.iter().collect(),
            plugin_problem: None,
            leaving: vec![(&one, &waiting), (&two, &waiting)],
            rivals: Vec::new(),
            now: time("2026-01-01T00:00:00Z"),
        })
    };
    let waits = ("True", reasons::WAITING_FOR_CLAIMS, "n1 (and 1 more): pod hall/x uses claim hall/c");
    assert_eq!(said(&told(&play), WAITING), Some(waits));
    play.delete_module();
    let deleted = told(&play);
    assert_eq!(said(&deleted, WAITING), Some(waits));
    let (_, reason, message) = said(&deleted, READY).unwrap();
    assert_eq!(reason, reasons::UNLOADING);
    assert!(
        message.ends_with("1 node left (n1); n1 (and 1 more): pod hall/x uses claim hall/c"),
        "{message}"
    );
}

#[test]
fn a_former_dra_driver_that_is_still_used_is_named_whatever_is_wished_now() {
    let mut play = Play::registered();
    play.settle();
    let problem = Problem {
        reason: reasons::WAITING_FOR_CLAIMS,
        message: "n1: pod hall/x uses claim hall/c".to_owned(),
    };
    let told = |play: &Play| {
        status(&Observed {
            module: play.module.as_ref().unwrap(),
            nodes: vec![NodeView { facts: &play.node, config: play.config.as_ref() }],
            images: play.image.iter().collect(),
            plugin_problem: Some(&problem),
            leaving: Vec::new(),
            rivals: Vec::new(),
            now: time("2026-01-01T00:00:00Z"),
        })
    };
    let (claims, message) = (reasons::WAITING_FOR_CLAIMS, problem.message.as_str());
    let status = told(&play);
    assert_eq!(said(&status, WAITING), Some(("True", claims, message)));
    assert_eq!(said(&status, reasons::condition::PLUGIN_READY), Some(("False", claims, message)));
    assert_eq!(said(&status, DEGRADED).unwrap().0, "False", "it ends by itself");
    play.delete_module();
    assert_eq!(said(&told(&play), WAITING), Some(("True", claims, message)));
}

#[test]
fn an_image_that_has_vanished_is_missed_only_where_a_node_is_without_it() {
    let mut play = Play::registered();
    let vanished = |play: &mut Play| {
        let status = play.image.as_mut().unwrap().status.as_mut().unwrap();
        status.reason = Some(reasons::IMAGE_ABSENT.to_owned());
        status.message = Some("gone".into());
    };
    vanished(&mut play);
    let module = play.module.clone().unwrap();
    let missed = rolled_up(&module, &[&play]);
    let message = format!("kernel {KERNEL}: gone");
    assert_eq!(said(&missed, WAITING), Some(("True", reasons::IMAGE_ABSENT, message.as_str())));
    play.settle();
    vanished(&mut play);
    let loaded = rolled_up(&module, &[&play]);
    assert_eq!((said(&loaded, WAITING).unwrap().0, said(&loaded, READY).unwrap().0), ("False", "True"));
}

#[test]
fn a_kernels_refusal_shows_with_the_kernels_words() {
    let mut play = Play::registered();
    play.decide_and_apply();
    play.answer(ModulePhase::Failed);
    let status = rolled_up(play.module.as_ref().unwrap(), &[&play]);
    assert_eq!(numbers(&status), (1, 1, 0));
    assert_eq!(said(&status, DEGRADED), Some(("True", reasons::LOAD_FAILED, "n1: the kernel's words")));
    assert_eq!(said(&status, READY).unwrap().1, reasons::LOAD_FAILED);
    assert_eq!(status.failures.first().unwrap().node, "n1");
}

#[test]
fn what_is_missing_is_waited_for_by_name() {
    let mut play = Play::registered();
    let module = play.module.clone().unwrap();
    play.image = None;
    let status = rolled_up(&module, &[&play]);
    assert_eq!(said(&status, WAITING).unwrap().1, reasons::RESOLVING);
    let mut image = default_image('a');
    let absent = image.status.as_mut().unwrap();
    (absent.phase, absent.bundle) = (Some(ImagePhase::Waiting), None);
    (absent.reason, absent.message) = (Some(reasons::IMAGE_ABSENT.to_owned()), Some("no such tag".into()));
    play.image = Some(image);
    let status = rolled_up(&module, &[&play]);
    let expected = format!("kernel {KERNEL}: no such tag");
    assert_eq!(said(&status, WAITING), Some(("True", reasons::IMAGE_ABSENT, expected.as_str())));
    assert_eq!(status.kernels.first().unwrap().phase, KernelPhase::Waiting);
}

#[test]
fn an_unfit_image_degrades() {
    let mut play = Play::registered();
    let mut image = default_image('a');
    let unfit = image.status.as_mut().unwrap();
    (unfit.phase, unfit.bundle) = (Some(ImagePhase::Failed), None);
    (unfit.reason, unfit.message) =
        (Some(reasons::IMAGE_INVALID.to_owned()), Some("a.ko is truncated".into()));
    play.image = Some(image);
    let status = rolled_up(play.module.as_ref().unwrap(), &[&play]);
    assert_eq!(said(&status, DEGRADED).unwrap().1, reasons::IMAGE_INVALID);
}

#[test]
fn an_image_that_cannot_be_made_anew_degrades_what_works() {
    let mut play = Play::registered();
    play.settle();
    let module = play.module.clone().unwrap();
    let told = |play: &mut Play, failures| {
        let status = play.image.as_mut().and_then(|image| image.status.as_mut()).unwrap();
        status.making = Some(Making { renewing: true, failures, ..Making::default() });
        (status.reason, status.message) =
            (Some(reasons::BUILD_FAILED.to_owned()), Some("no such file".into()));
        rolled_up(&module, &[play])
    };
    let begun = told(&mut play, 0);
    assert_eq!(said(&begun, DEGRADED).unwrap().0, "False");
    assert_eq!(
        begun.kernels.first().unwrap().message.as_ref().map(ShortMessage::as_str),
        Some("no such file")
    );
    let failed = told(&mut play, 1);
    let expected = format!("kernel {KERNEL}: the image of before is used: no such file");
    assert_eq!(said(&failed, DEGRADED), Some(("True", reasons::BUILD_FAILED, expected.as_str())));
    assert_eq!(said(&failed, READY), Some(("True", reasons::LOADED, "loaded on 1 node")));
}

#[test]
fn a_deleted_module_says_which_nodes_are_left_and_why() {
    let mut play = Play::registered();
    play.settle();
    play.module.as_mut().unwrap().metadata.deletion_timestamp = Some(time("2026-01-01T00:00:00Z"));
    play.decide_and_apply();
    play.image = None;
    let module = play.module.clone().unwrap();
    let status = rolled_up(&module, &[&play]);
    assert_eq!(said(&status, READY), Some(("False", reasons::UNLOADING, "being unloaded, 1 node left (n1)")));
    assert_eq!(said(&status, WAITING).unwrap().0, "False", "nobody waits for the image of a deleted Module");
    let reported = play.status().modules.first_mut().unwrap();
    (reported.phase, reported.message) = (Some(ModulePhase::InUse), Some("opened by 1".into()));
    let status = rolled_up(&module, &[&play]);
    let expected = "being unloaded, 1 node left (n1); n1: opened by 1";
    assert_eq!(said(&status, READY), Some(("False", reasons::UNLOADING, expected)));
    assert_eq!(said(&status, DEGRADED).unwrap().1, reasons::IN_USE);
}

#[test]
fn no_node_and_no_loader_are_told_apart() {
    let play = Play::registered();
    let mut module = play.module.clone().unwrap();
    assert_eq!(said(&rolled_up(&module, &[]), READY).unwrap().1, reasons::NO_NODES);
    module.spec.module_loader = None;
    let status = rolled_up(&module, &[]);
    assert_eq!(said(&status, READY).unwrap().0, "True");
    assert_eq!((status.module_loader, status.kernels.len()), (None, 0));
}

/// k#744 and its like: a version on a Module whose nodes have no label yet.
#[test]
fn nodes_are_counted_whatever_their_version_label_says_and_the_label_that_is_missing_is_named() {
    let (mut none, mut other) = (Play::registered(), Play::registered());
    other.node.name = "n2".parse().unwrap();
    let mut module = none.module.clone().unwrap();
    module.spec.module_loader.as_mut().unwrap().container.version = Some("2".to_owned());
    let label = "kmm.node.kubernetes.io/version-module.lab.gauge";
    let waits = |status: &ModuleStatus, ends: &str| {
        let (is_ready, reason, message) = said(status, READY).unwrap();
        assert_eq!((is_ready, reason), ("False", reasons::WAITING_FOR_VERSION_LABEL));
        assert!(message.ends_with(ends), "{message}");
    };
    let status = rolled_up(&module, &[&none, &other]);
    assert_eq!(numbers(&status), (2, 0, 0));
    waits(
        &status,
        &format!("none of 2 nodes is to have this version: kubectl label --overwrite node NODE {label}=2"),
    );

    other.node.labels.insert(label.to_owned(), "1".to_owned());
    let status = rolled_up(&module, &[&none, &other]);
    assert_eq!(numbers(&status), (2, 0, 0));
    let labelling = format!("kubectl label --overwrite node NODE {label}=2 when its turn has come");
    waits(&status, &format!("1 node has the label of another version, or none: {labelling} (n2)"));

    // A taint keeps a node out, with a label or without.
    none.node.taints = vec![
        serde_json::from_str(r#"{"key":"node.kubernetes.io/unschedulable","effect":"NoSchedule"}"#).unwrap(),
    ];
    assert_eq!(numbers(&rolled_up(&module, &[&none, &other])), (1, 0, 0));
}

/// The key may be another than one would think: names of Modules may be longer than labels.
#[test]
fn nodes_that_wait_for_their_version_s_label_are_named_with_the_step_that_helps() {
    let mut module = Play::registered().module.unwrap();
    module.metadata.name = Some("gauge".repeat(20));
    let label = node::version_label(&module);
    assert!(!label.contains(&"gauge".repeat(20)), "{label}");
    let plays: Vec<_> = (10..22)
        .map(|number| {
            let mut play = Play::registered();
            play.node.name = format!("n{number}").parse().unwrap();
            // Half of them have what came without a version, the others a former one.
            if number % 2 == 0 {
                play.module = Some(module.clone());
                play.settle();
                let modules = &mut play.config.as_mut().unwrap().spec.modules;
                modules.first_mut().unwrap().name.clone_from(module.metadata.name.as_ref().unwrap());
            } else {
                play.node.labels.insert(label.clone(), "1".to_owned());
            }
            play
        })
        .collect();
    module.spec.module_loader.as_mut().unwrap().container.version = Some("2".to_owned());
    let status = rolled_up(&module, &plays.iter().collect::<Vec<_>>());
    let message = format!(
        "12 nodes have the label of another version, or none: kubectl label --overwrite node NODE {label}=2 when its \
         turn has come (n10, n11, n12, n13, n14, n15, n16, n17 and 4 more)"
    );
    assert_eq!(said(&status, WAITING), Some(("True", reasons::WAITING_FOR_VERSION_LABEL, message.as_str())));
}

#[test]
fn a_cordoned_node_that_has_the_module_does_not_stand_in_for_one_that_has_not() {
    let mut cordoned = Play::registered();
    cordoned.settle();
    cordoned.node.taints = vec![
        serde_json::from_str(r#"{"key":"node.kubernetes.io/unschedulable","effect":"NoSchedule"}"#).unwrap(),
    ];
    let mut fresh = Play::registered();
    fresh.node.name = "n2".parse().unwrap();
    fresh.decide_and_apply();
    let status = rolled_up(cordoned.module.as_ref().unwrap(), &[&cordoned, &fresh]);
    assert_eq!(said(&status, READY).unwrap().0, "False");
    assert_eq!(numbers(&status), (1, 2, 1));
}

#[test]
fn what_is_loaded_of_a_former_spec_is_no_answer_to_the_present_one() {
    let mut play = Play::registered();
    play.settle();
    play.image = Some(default_image('b'));
    let status = rolled_up(play.module.as_ref().unwrap(), &[&play]);
    assert_eq!(said(&status, READY).unwrap().1, reasons::LOADING);
}

#[test]
fn fields_without_effect_are_named() {
    let mut module = Play::registered().module.unwrap();
    module.spec.module_loader.as_mut().unwrap().service_account_name = Some("loader".to_owned());
    let status = rolled_up(&module, &[]);
    let (holds, reason, message) = said(&status, UNSUPPORTED).unwrap();
    assert_eq!((holds, reason), ("True", reasons::FIELDS_WITHOUT_EFFECT));
    assert!(message.contains("moduleLoader.serviceAccountName"), "{message}");
}

#[test]
fn only_a_pull_policy_that_was_chosen_is_named_as_without_effect() {
    let unsupported = |policy: &str| {
        let module = crate::fixture::module(&format!(
            "imagePullPolicy: {policy}\nmodprobe: {{moduleName: gauge}}\nkernelMappings: [{{regexp: '^.+$', containerImage: 'registry.test/gauge'}}]"
        ));
        said(&rolled_up(&module, &[]), UNSUPPORTED).map(|(_, _, message)| message.to_owned())
    };
    assert_eq!(unsupported("IfNotPresent"), None);
    assert!(unsupported("Always").unwrap().contains("container.imagePullPolicy"));
}

#[test]
fn a_kernel_without_a_mapping_does_not_hide_the_others() {
    let mut loaded = Play::registered();
    loaded.module = Some(crate::fixture::module(&format!(
        "modprobe: {{moduleName: gauge}}\nkernelMappings: [{{literal: {KERNEL}, containerImage: 'registry.test/gauge:{KERNEL}'}}]"
    )));
    loaded.settle();
    let mut other = Play::registered();
    other.node.name = "n2".parse().unwrap();
    other.node.kernel = "7.2.0".parse().unwrap();
    let status = rolled_up(loaded.module.as_ref().unwrap(), &[&loaded, &other]);
    let kernels: Vec<_> =
        status.kernels.iter().map(|kernel| (kernel.kernel.as_str(), kernel.phase, kernel.loaded)).collect();
    assert_eq!(kernels, [("7.2.0", KernelPhase::NoMapping, 0), (KERNEL, KernelPhase::Ready, 1)]);
    assert_eq!(said(&status, WAITING).unwrap().1, reasons::NO_MAPPING);
}

#[test]
fn a_status_is_bounded_however_many_nodes_fail() {
    let mut play = Play::registered();
    play.decide_and_apply();
    play.answer(ModulePhase::Failed);
    let module = play.module.clone().unwrap();
    let nodes: Vec<NodeFacts> = (0..200)
        .map(|number| NodeFacts {
            name: format!("n{number}").parse().unwrap(),
            kernel: format!("6.1.{number}").parse().unwrap(),
            ..play.node.clone()
        })
        .collect();
    let status = status(&Observed {
        module: &module,
        nodes: nodes.iter().map(|facts| NodeView { facts, config: play.config.as_ref() }).collect(),
        images: Vec::new(),
        plugin_problem: None,
        leaving: Vec::new(),
        rivals: Vec::new(),
        now: time("2026-01-01T00:00:00Z"),
    });
    assert_eq!((status.kernels.len(), status.failures.len()), (MAX_KERNELS, MAX_FAILURES));
    assert!(said(&status, DEGRADED).unwrap().2.contains("and 199 more"));
}

proptest! {
    #[test]
    fn the_order_of_nodes_does_not_matter(phases in proptest::collection::vec(0..4_u8, 1..8), seed in any::<u64>()) {
        let plays: Vec<Play> = phases.iter().enumerate().map(|(number, phase)| {
            let mut play = Play::registered();
            play.node.name = format!("n{number}").parse().unwrap();
            if *phase > 0 { play.decide_and_apply(); }
            match phase {
                2 => play.answer(ModulePhase::Failed),
                3 => play.obey(),
                _ => {}
            }
            play
        }).collect();
        let module = plays[0].module.clone().unwrap();
        let mut shuffled: Vec<&Play> = plays.iter().collect();
        shuffled.sort_by_key(|play| play.node.name.to_string().bytes().fold(seed, |sum, byte| sum.rotate_left(7) ^ u64::from(byte)));
        prop_assert_eq!(rolled_up(&module, &plays.iter().collect::<Vec<_>>()), rolled_up(&module, &shuffled));
    }
}

/// The image for the kernel of the plays, which an administrator's facts say the kernel will refuse.
fn refused_image(module: &Module) -> ModuleImage {
    use crate::inspect::{Evidence, Question};
    use tenon_api::module_image::{KernelVerdict, VerdictReason};
    let load = crate::resolve::resolve(module, &KERNEL.parse().unwrap()).unwrap().load;
    let evidence =
        Evidence { build_id: None, source: tenon_api::kernel_facts::Source::Admin, version: String::new() };
    let mut image = default_image('b');
    let status = image.status.as_mut().unwrap();
    status.verdicts = vec![KernelVerdict {
        build_id: None,
        result: Predicted::Fails,
        errno: Some("ENOEXEC".to_owned()),
        reasons: vec![VerdictReason { reason: "Vermagic".to_owned(), message: "another kernel's".into() }],
        source: "admin".to_owned(),
        question: Question::new(
            &status.bundle.as_ref().unwrap().digest,
            &load,
            &evidence,
            &crate::inspect::Surroundings::default(),
        )
        .into_text(),
    }];
    image
}

/// A node that has registered and reported what it runs.
fn reported() -> Play {
    let mut play = Play::registered();
    let boot = play.node.boot_id.clone();
    let status = play.status();
    (status.kernel_version, status.boot_id) = (Some(KERNEL.to_owned()), Some(boot));
    play
}

#[test]
fn a_predicted_refusal_degrades_with_error_and_reason_and_touches_no_node() {
    let mut play = reported();
    play.image = Some(refused_image(play.module.as_ref().unwrap()));
    let before = play.config.clone();
    play.decide_and_apply();
    assert_eq!(play.config, before);
    let status = rolled_up(play.module.as_ref().unwrap(), &[&play]);
    let (truth, reason, message) = said(&status, DEGRADED).unwrap();
    assert_eq!((truth, reason), ("True", reasons::WILL_NOT_LOAD));
    for part in ["n1", KERNEL, "ENOEXEC", "another kernel's"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(said(&status, PREDICTED).unwrap().0, "False");
    assert_eq!(status.kernels.first().unwrap().prediction, Some(Predicted::Fails));
}

#[test]
fn with_warn_the_prediction_is_told_and_the_node_is_assigned() {
    let mut play = reported();
    play.module.as_mut().unwrap().spec.inspection = Some(tenon_api::module::Inspection::Warn);
    play.image = Some(refused_image(play.module.as_ref().unwrap()));
    play.decide_and_apply();
    assert_eq!(play.config.as_ref().unwrap().spec.modules.len(), 1);
    let status = rolled_up(play.module.as_ref().unwrap(), &[&play]);
    assert_eq!(said(&status, DEGRADED).unwrap().0, "False");
    assert_eq!(said(&status, PREDICTED).unwrap().1, reasons::WILL_NOT_LOAD);
    // The kernel has the last word.
    play.obey();
    play.decide_and_apply();
    let status = rolled_up(play.module.as_ref().unwrap(), &[&play]);
    assert_eq!((said(&status, PREDICTED), said(&status, READY).unwrap().0), (None, "True"));
}

#[test]
fn a_successor_that_will_not_load_degrades_although_its_predecessor_is_loaded() {
    let mut play = reported();
    play.settle();
    let before = play.config.clone();
    play.image = Some(refused_image(play.module.as_ref().unwrap()));
    play.decide_and_apply();
    assert_eq!(play.config, before, "what is loaded stays");
    let status = rolled_up(play.module.as_ref().unwrap(), &[&play]);
    assert_eq!(said(&status, DEGRADED).unwrap().1, reasons::WILL_NOT_LOAD);
    assert_eq!(numbers(&status), (1, 1, 1));
}

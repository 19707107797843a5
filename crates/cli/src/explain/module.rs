//! Why a Module stands as it stands: its conditions, its image for each kernel, its nodes.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use tenon_api::module::Predicted;
use tenon_api::module_image::{KernelVerdict, Making};
use tenon_api::{Module, reasons};
use tenon_order::ModuleKey;
use tenon_plan::inspect;
use tenon_plan::provision::job::progress;

use super::finding::Finding;
use super::{apart, plugin};
use crate::seen::{self, Seen};
use crate::standing::advice::Subject;
use crate::standing::{self, NodeStanding, Offer, State, Why, counted};

/// Nodes that are named of a group.
const MOST_NAMED: usize = 8;
/// Groups of nodes of one kernel that are told of.
const MOST_GROUPS: usize = 8;

/// A Module, from the top down.
pub(crate) fn explain(seen: &Seen, module: &Module) -> Finding {
    let key = seen::key(module);
    let (nodes, offers) = standing::nodes_of(seen, module);
    let subject = Subject { module: Some(&key), ..Subject::default() };
    let mut why = standing::of_module(module, seen.now);
    let mut causes: Vec<_> = offers
        .iter()
        .map(|offer| {
            let own: Vec<_> = nodes.iter().filter(|node| is_of(node, offer)).collect();
            kernel(seen, &key, offer, &own)
        })
        .collect();
    let without: Vec<_> =
        nodes.iter().filter(|node| !offers.iter().any(|offer| is_of(node, offer))).collect();
    causes.extend(groups(&key, &without));
    if module.spec.module_loader.is_none() {
        // No kernel is asked for anything.
        causes.retain(|cause| cause.state != State::Ready);
    }
    causes.extend(plugin::explain(seen, module, None));
    causes.extend(conflict(module, why.state, subject));
    let kept_away = apart::groups(seen, module);
    if nodes.is_empty() && why.reason == reasons::NO_NODES {
        causes.push(near_misses(seen, module, &kept_away));
    } else {
        causes.extend(kept_away);
    }
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.state));
    // What the conditions say is said again, better and at times sooner, by what it comes from.
    let is_told = |cause: &Finding| cause.state != State::Ready && cause.state >= why.state;
    if causes.iter().any(is_told) {
        why.message = String::new();
    }
    let mut root = Finding::new(format!("Module {key}"), why, subject);
    let wanted = nodes.iter().filter(|node| node.wanted).count();
    let loaded = nodes.iter().filter(|node| node.loaded).count();
    if root.state != State::Ready && wanted > 0 && module.spec.module_loader.is_some() {
        root.facts.push(format!("loaded as wished on {loaded} of {}", counted(wanted)));
    }
    root.facts.extend(rollout(module));
    root.facts.extend(without_effect(module));
    root.because(causes)
}

fn is_of(node: &NodeStanding, offer: &Offer<'_>) -> bool {
    node.kernel == offer.kernel.as_str() && node.architecture == offer.architecture
}

/// Another Module that is in this one's way, or in whose way this one is. Where all is loaded, that hurts the other.
fn conflict(module: &Module, state: State, subject: Subject<'_>) -> Option<Finding> {
    let conditions = &module.status.as_ref()?.conditions;
    let conflict = conditions.iter().find(|condition| condition.type_ == reasons::condition::CONFLICT)?;
    if conflict.status != "True" {
        return None;
    }
    let why = Why::of(&conflict.reason, conflict.message.clone());
    let why = if state == State::Ready { why.in_state(State::Ready) } else { why };
    Some(Finding::new("other Modules", why, subject))
}

/// How far a change is, while there is one.
fn rollout(module: &Module) -> Option<String> {
    let rollout = module.status.as_ref()?.rollout?;
    (rollout.waiting_number > 0 || rollout.unavailable_number > 0).then(|| {
        format!(
            "rollout: {} with the present content, {} being changed ({} may be at a time), {} still to come",
            rollout.updated_number,
            rollout.unavailable_number,
            rollout.allowed_number,
            rollout.waiting_number
        )
    })
}

fn without_effect(module: &Module) -> Option<String> {
    let conditions = &module.status.as_ref()?.conditions;
    let unsupported =
        conditions.iter().find(|condition| condition.type_ == reasons::condition::UNSUPPORTED)?;
    (unsupported.status == "True").then(|| unsupported.message.clone())
}

/// One kernel of the nodes: its image, whether it will load, its nodes.
fn kernel(seen: &Seen, key: &ModuleKey, offer: &Offer<'_>, nodes: &[&NodeStanding]) -> Finding {
    let subject = Subject { module: Some(key), kernel: Some(offer.kernel.as_str()), node: None };
    let wanted = nodes.iter().filter(|node| node.wanted).count();
    let loaded = nodes.iter().filter(|node| node.loaded).count();
    let about = format!("kernel {} ({})", offer.kernel, offer.architecture);
    let message = format!("loaded on {loaded} of {}", counted(wanted));
    let mut causes = vec![image(seen, key, offer)];
    causes.extend(verdicts(offer, nodes, subject));
    // Nodes that wait for nothing but the image are counted already.
    let told: Vec<_> = nodes.iter().copied().filter(|node| !waits_for(node, offer)).collect();
    causes.extend(groups(key, &told));
    let why = Why { state: State::Ready, reason: String::new(), message };
    let mut finding = Finding::new(about, why, subject).because(causes);
    if finding.state == State::Ready
        && let Ok(resolved) = &offer.resolved
    {
        finding.message = format!("{} from {}", finding.message, resolved.image);
        finding.message.push_str(match offer.image.map(|image| inspect::summary(image).0) {
            Some(Predicted::Loads) => ", as predicted",
            Some(Predicted::Fails) => ", although predicted to be refused",
            Some(Predicted::Unknown) | None => "",
        });
        if !offer.why.message.is_empty() {
            finding.facts.push(offer.why.message.clone());
        }
    }
    finding.in_one_line()
}

fn waits_for(node: &NodeStanding, offer: &Offer<'_>) -> bool {
    offer.bundle().is_none() && node.why.reason == offer.why.reason
}

/// The image for one kernel, and how it is made.
pub(crate) fn image(seen: &Seen, key: &ModuleKey, offer: &Offer<'_>) -> Finding {
    let subject = Subject { module: Some(key), kernel: Some(offer.kernel.as_str()), node: None };
    let about = match &offer.resolved {
        Ok(resolved) => format!("image {}", resolved.image),
        Err(_) => "image".to_owned(),
    };
    let (message, words) = apart(&offer.why.message);
    let why = Why { message, ..offer.why.clone() };
    let mut finding = Finding { words, ..Finding::new(about, why, subject) };
    if finding.state == State::Ready {
        return finding;
    }
    if let Some((index, says)) = &offer.mapping {
        finding.facts.push(format!("chosen by spec.moduleLoader.container.kernelMappings[{index}] ({says})"));
    }
    let status = offer.image.and_then(|image| image.status.as_ref());
    if let Some(making) = status.and_then(|status| status.making.as_ref()) {
        finding.facts.extend(job(seen, key, making));
    }
    if let Some(at) = status.and_then(|status| status.retry_at.as_ref()) {
        finding.facts.push(format!("tried again {}", when(at.0, seen.now)));
    }
    finding
}

/// What stands before the last words of a build, in the message of its image.
const LAST_WORDS: &str = "; its last words: ";

/// What is said in a message, and, line by line, somebody else's words in it: those that are called so, or all lines but the first.
fn apart(message: &str) -> (String, Vec<String>) {
    let (said, last) = message.split_once(LAST_WORDS).unwrap_or((message, ""));
    let mut lines =
        said.lines().chain(last.lines()).map(str::trim_end).filter(|line| !line.trim().is_empty());
    (lines.next().unwrap_or_default().to_owned(), lines.map(str::to_owned).collect())
}

/// The Job that makes an image, and its pod.
fn job(seen: &Seen, key: &ModuleKey, making: &Making) -> Vec<String> {
    let failures = match making.failures {
        0 => String::new(),
        1 => "; it has failed once".to_owned(),
        times => format!("; it has failed {times} times"),
    };
    let name = &making.job;
    let mut facts = vec![match seen.job(name) {
        Some(job) => format!("Job {}/{name} {}{failures}", key.namespace(), job_state(job)),
        None => format!("Job {}/{name} is not there any more, or not to be seen{failures}", key.namespace()),
    }];
    facts.extend(seen.pod_of(name).map(pod));
    facts
}

fn job_state(job: &Job) -> &'static str {
    let status = job.status.clone().unwrap_or_default();
    let has = |type_: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|condition| condition.type_ == type_ && condition.status == "True")
    };
    if has("Complete") {
        "has done its work"
    } else if has("Failed") {
        "has failed"
    } else if status.active.unwrap_or_default() > 0 {
        "is at work"
    } else {
        "has begun"
    }
}

fn pod(pod: &Pod) -> String {
    let name = pod.name_any();
    if let Some(hindrance) = progress::hindrance(pod) {
        return format!("pod {name} cannot run: {hindrance}");
    }
    let mut running = progress::containers(pod)
        .filter(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()));
    if let Some(container) = running.next() {
        return format!("pod {name} runs container {}", container.name);
    }
    let ended = progress::containers(pod).find_map(|container| {
        let ended = container.state.as_ref()?.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
        Some((container.name.as_str(), ended.exit_code))
    });
    if let Some((container, code)) = ended {
        return format!("pod {name}: container {container} ended with code {code}");
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    format!("pod {name} is {}", phase.unwrap_or("Pending"))
}

/// A time, and how far it is away.
fn when(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.duration_since(now).as_secs();
    match seconds {
        ..=0 => "now".to_owned(),
        1..=119 => format!("in {seconds} s"),
        _ => format!("in {} min", seconds / 60),
    }
}

/// What was predicted, where that is not simply that it will load.
pub(crate) fn verdicts(offer: &Offer<'_>, nodes: &[&NodeStanding], subject: Subject<'_>) -> Vec<Finding> {
    let status = offer.image.and_then(|image| image.status.as_ref());
    let verdicts = status.map(|status| status.verdicts.as_slice()).unwrap_or_default();
    let counts = nodes.iter().any(|node| {
        node.why.reason == reasons::WILL_NOT_LOAD || node.why.reason == reasons::WAITING_FOR_FIRST_NODE
    });
    let bad = verdicts.iter().filter(|verdict| verdict.result != Predicted::Loads);
    bad.filter(|verdict| verdict.result == Predicted::Fails || !verdict.reasons.is_empty())
        .map(|verdict| verdict_finding(verdict, counts, subject))
        .collect()
}

fn verdict_finding(verdict: &KernelVerdict, counts: bool, subject: Subject<'_>) -> Finding {
    let build = verdict.build_id.as_deref().map(|id| format!(" of build {}", short(id))).unwrap_or_default();
    let about = format!("inspection{build} (by {})", verdict.source);
    let why = match (verdict.result, verdict.errno.as_deref()) {
        (Predicted::Fails, errno) => {
            let with = errno.map(|errno| format!(" with {errno}")).unwrap_or_default();
            let why = Why::of(reasons::WILL_NOT_LOAD, format!("the kernel will refuse it{with}"));
            // Where it is tried all the same, and works, it is nobody's trouble.
            if counts { why } else { why.in_state(State::Ready) }
        }
        _ => Why::of(reasons::NOT_PREDICTED, "whether it will load is not known"),
    };
    let reasons = verdict.reasons.iter().map(|reason| format!("{}: {}", reason.reason, reason.message));
    Finding { facts: reasons.collect(), ..Finding::new(about, why, subject) }
}

/// The beginning of a build-id or digest.
fn short(id: &str) -> &str {
    let digits = id.trim_start_matches("sha256:");
    digits.get(..12).unwrap_or(digits)
}

/// Nodes, those together of which the same is to be said.
fn groups(key: &ModuleKey, nodes: &[&NodeStanding]) -> Vec<Finding> {
    let mut groups: Vec<(&Why, Vec<&NodeStanding>)> = Vec::new();
    for node in nodes {
        match groups.iter_mut().find(|(why, _)| **why == node.why) {
            Some((_, members)) => members.push(node),
            None => groups.push((&node.why, vec![node])),
        }
    }
    groups.sort_by_key(|(why, _)| std::cmp::Reverse(why.state));
    let left = groups.len().saturating_sub(MOST_GROUPS);
    let mut findings: Vec<_> =
        groups.iter().take(MOST_GROUPS).map(|(why, nodes)| group(key, why, nodes)).collect();
    if left > 0
        && let Some(last) = findings.last_mut()
    {
        last.facts.push(format!(
            "and {left} more nodes or groups of nodes: kubectl tenon status {} -n {}",
            key.name(),
            key.namespace()
        ));
    }
    findings
}

/// Some nodes by their names, and how many they are.
pub(super) fn named(nodes: &[&str]) -> String {
    let names: Vec<_> = nodes.iter().take(MOST_NAMED).copied().collect();
    let names = names.join(", ");
    match nodes.len() {
        1 => format!("node {names}"),
        count if count <= MOST_NAMED => format!("{count} nodes: {names}"),
        count => format!("{count} nodes: {names}, …"),
    }
}

fn group(key: &ModuleKey, why: &Why, nodes: &[&NodeStanding]) -> Finding {
    let about = named(&nodes.iter().map(|node| node.node.as_str()).collect::<Vec<_>>());
    let first = nodes.first();
    let subject = Subject {
        module: Some(key),
        node: first.map(|node| node.node.as_str()),
        kernel: first.map(|node| node.kernel.as_str()),
    };
    let mut finding = Finding::new(about, why.clone(), subject);
    if first.is_some_and(|node| node.quoted) {
        finding.words =
            why.message.lines().map(str::to_owned).filter(|line| !line.trim().is_empty()).collect();
        finding.message = String::new();
    }
    finding
}

/// What a selector might have meant that selects no node.
fn near_misses(seen: &Seen, module: &Module, kept_away: &[Finding]) -> Finding {
    let mut facts = Vec::new();
    let all: Vec<&Node> = seen.others.iter().chain(seen.nodes.values()).collect();
    for (key, value) in &module.spec.selector {
        let having = all.iter().filter(|node| node.labels().get(key).is_some_and(|has| has == value)).count();
        let other = all.iter().find_map(|node| Some((node.name_any(), node.labels().get(key)?)));
        facts.push(match (having, other) {
            (0, Some((node, has))) => format!("no node has the label {key}={value}; {node} has {key}={has}"),
            (0, None) => format!("no node has a label {key}"),
            (count, _) => format!("{} with the label {key}={value}", counted(count)),
        });
    }
    facts.extend(kept_away.iter().map(|apart| format!("{}: {}", apart.about, apart.message)));
    let about = format!("selector, compared with {}", counted(all.len()));
    let why = Why::of(reasons::NO_NODES, "");
    Finding { facts, ..Finding::new(about, why, Subject::default()) }
}

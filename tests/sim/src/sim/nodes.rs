//! Events of nodes: boots, agents, loaders, kernels.

use k8s_openapi::api::core::v1::Taint;
use tenon_agent::cycle::Step;
use tenon_agent::watch::Seen;
use tenon_operator::depot::Verdict;
use tenon_order::Digest;

use super::{Event, From, Request, Sim};
use crate::api::{Answer, Change, Kind, Write};
use crate::clock;
use crate::invariants;
use crate::machine::SimMachine;
use crate::node::{Talk, Talked};
use crate::replica::{Call, Heard};

/// The taint of a node whose kubelet does not report any more.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

impl Sim {
    pub(super) fn node_event(&mut self, event: Event) {
        match event {
            Event::Boot(at) => self.boot(at),
            Event::Kubelet(at, boots) => self.kubelet(at, boots),
            Event::Unreachable(at, boots) => self.unreachable(at, boots),
            Event::StartLoader(at, boots) if self.is_boot(at, boots) => self.start_loader(at),
            Event::StartAgent(at, boots) if self.is_boot(at, boots) => self.start_agent(at),
            Event::AgentWatch(at, epoch) if self.is_epoch(at, epoch) => self.agent_watch(at),
            Event::AgentTick(at, epoch) if self.is_epoch(at, epoch) => self.pump(at),
            Event::Talk(at, epoch, talk) if self.is_epoch(at, epoch) => self.talk(at, &talk),
            Event::Talked(at, epoch, talked) if self.is_epoch(at, epoch) => self.talked(at, talked),
            Event::Fetched(at, epoch, bundle) if self.is_epoch(at, epoch) => self.fetched(at, bundle),
            Event::Chores(at, epoch) if self.is_epoch(at, epoch) => self.chores(at),
            _ => {}
        }
    }

    fn is_epoch(&self, at: usize, epoch: u32) -> bool {
        self.nodes.get(at).is_some_and(|node| node.epoch == epoch)
    }

    fn is_boot(&self, at: usize, boots: u32) -> bool {
        self.nodes.get(at).is_some_and(|node| node.boots == boots && node.machine.is_some())
    }

    /// A node boots: kernel, kubelet, and our two processes, each in its time.
    pub(crate) fn boot(&mut self, at: usize) {
        let (now, bug) = (self.now, self.setup.bug);
        let Some(node) = self.nodes.get_mut(at).filter(|node| node.machine.is_none()) else { return };
        node.boot(now, bug);
        let boots = node.boots;
        self.tell(|| format!("node {at} boots, boot {boots}"));
        for event in [Event::Kubelet(at, boots), Event::StartLoader(at, boots), Event::StartAgent(at, boots)]
        {
            let delay = self.rng.between(10, 200) + self.latency();
            self.after(delay, event);
        }
    }

    /// The kubelet says which kernel and boot there is; where there is no such Node, it registers.
    fn kubelet(&mut self, at: usize, boots: u32) {
        let Some(node) = self.nodes.get(at).filter(|node| node.boots == boots) else { return };
        let (name, kernel, boot_id) = (node.name.clone(), node.kernel, node.boot_id());
        let Ok(kernel) = kernel.parse() else { return };
        if let Some(known) = self.api.nodes.get(&name) {
            let mut facts = (**known).clone();
            facts.kernel = kernel;
            facts.boot_id = boot_id;
            facts.taints.retain(|taint| taint.key != UNREACHABLE);
            self.api.set_node(&name, Some(facts));
        } else if self.script.registers.contains(&at) {
            let facts = self.new_facts(&name, kernel, boot_id);
            self.api.set_node(&name, Some(facts));
        }
        self.restart_pods(&name);
    }

    /// The node lifecycle controller taints what is silent.
    fn unreachable(&mut self, at: usize, boots: u32) {
        let Some(node) = self.nodes.get(at).filter(|node| node.boots == boots && node.machine.is_none())
        else {
            return;
        };
        if let Some(known) = self.api.nodes.get(&node.name) {
            let (name, mut facts) = (node.name.clone(), (**known).clone());
            facts.taints.push(Taint {
                key: UNREACHABLE.to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Taint::default()
            });
            self.api.set_node(&name, Some(facts));
            self.unready_pods(&name);
        }
    }

    pub(crate) fn start_loader(&mut self, at: usize) {
        let (now, high, low) = (self.now, self.rng.next(), self.rng.next());
        let draw = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
        let Some(node) = self.nodes.get_mut(at) else { return };
        let agent = node.agent.is_some();
        node.start_loader(now, draw);
        self.void(at, agent, "the loader has closed the connection");
        self.plan_chores(at);
    }

    pub(crate) fn start_agent(&mut self, at: usize) {
        let (now, dice) = (self.now, self.rng.next());
        let Some(node) = self.nodes.get_mut(at) else { return };
        node.start_agent(now, dice);
        let epoch = node.epoch;
        let delay = self.latency();
        self.after(delay, Event::AgentWatch(at, epoch));
        self.plan_chores(at);
        self.pump(at);
    }

    /// What was under way between agent and loader is void; the agent notices.
    fn void(&mut self, at: usize, agent: bool, problem: &str) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(at) else { return };
        let epoch = node.epoch;
        let Some(agent) = node.agent.as_mut().filter(|_| agent) else { return };
        agent.link = false;
        agent.fetching = None;
        agent.cycle.lost(problem.to_owned(), clock::instant(now));
        agent.tick = None;
        if agent.writing {
            // Its write goes on; what comes of it is not heard.
            agent.writing = false;
            agent.cycle.write_failed(clock::instant(now));
        }
        agent.moving = false;
        let delay = self.latency();
        if let Some(agent) = self.nodes.get_mut(at).and_then(|node| node.agent.as_mut()) {
            agent.moving = true;
        }
        self.after(delay, Event::AgentWatch(at, epoch));
        self.pump(at);
    }

    /// Agents whose objects have changed will hear of it.
    pub(super) fn spread_to_agents(&mut self) {
        let head = self.api.head(Kind::Config);
        for at in 0..self.nodes.len() {
            let Some(node) = self.nodes.get_mut(at) else { continue };
            let epoch = node.epoch;
            let Some(agent) = &mut node.agent else { continue };
            let is_behind = |from| {
                (from..head).any(|at| matches!(self.api.change(Kind::Config, at), Some(Change::Config(name, ..)) if *name == node.name))
            };
            if agent.moving || !agent.watch.is_some_and(is_behind) {
                if !agent.moving && agent.watch.is_some() {
                    agent.watch = Some(head);
                }
                continue;
            }
            agent.moving = true;
            let delay = self.lag();
            self.after(delay, Event::AgentWatch(at, epoch));
        }
    }

    fn agent_watch(&mut self, at: usize) {
        let head = self.api.head(Kind::Config);
        let breaks = self.fault(5);
        let Some(node) = self.nodes.get_mut(at) else { return };
        let Some(agent) = &mut node.agent else { return };
        agent.moving = false;
        let seen = |config: Option<&std::sync::Arc<tenon_api::NodeModulesConfig>>| match config {
            Some(config) => Seen::Present(Box::new((**config).clone())),
            None => Seen::Absent,
        };
        match agent.watch {
            Some(from) if !breaks => {
                let next = (from..head).find_map(|at| match self.api.change(Kind::Config, at) {
                    Some(Change::Config(name, config, _)) if *name == node.name => Some((at, config)),
                    _ => None,
                });
                if let Some((at, config)) = next {
                    agent.watch = Some(at + 1);
                    agent.inbox = Some(seen(config.as_ref()));
                } else {
                    agent.watch = Some(head);
                }
            }
            _ => {
                agent.watch = Some(head);
                agent.inbox = Some(seen(self.api.configs.get(&node.name)));
            }
        }
        self.pump(at);
    }

    /// Does what the agent's cycle says, until it rests.
    pub(crate) fn pump(&mut self, at: usize) {
        let now = clock::instant(self.now);
        let wall = clock::timestamp(clock::EPOCH + self.now);
        for _ in 0..50 {
            let Some(node) = self.nodes.get_mut(at) else { return };
            let epoch = node.epoch;
            let Some(agent) = &mut node.agent else { return };
            if agent.writing {
                return;
            }
            if let Some(seen) = agent.inbox.take() {
                agent.cycle.see(seen);
            }
            let talk = match agent.cycle.next(now, wall) {
                Step::Rest(rest) => {
                    let until = rest.until.map(clock::millis);
                    if agent.fetching != rest.fetch {
                        agent.fetching = rest.fetch;
                        if let Some(bundle) = rest.fetch {
                            agent.cycle.began_fetch(bundle);
                            let delay = self.latency();
                            self.after(delay, Event::Fetched(at, epoch, bundle));
                            // Its beginning changes what there is to wait for.
                            continue;
                        }
                    }
                    if let Some(until) =
                        until.filter(|until| agent.tick.is_none_or(|tick| tick <= self.now || *until < tick))
                    {
                        agent.tick = Some(until);
                        let delay = until.saturating_sub(self.now).max(1);
                        self.after(delay, Event::AgentTick(at, epoch));
                    }
                    return;
                }
                Step::Write(status) => {
                    let Some(object) = agent.cycle.object() else { return };
                    let write = Write::Report {
                        node: node.name.clone(),
                        uid: object.metadata.uid.clone(),
                        version: object.metadata.resource_version.clone(),
                        status,
                    };
                    agent.writing = true;
                    let from = From::Agent { node: at, epoch };
                    return self.send(Request { from, call: Call::Write(write), awaited: true });
                }
                // Whatever a load is to bring is there.
                Step::Validate(paths) => {
                    agent.cycle.found(&paths, now);
                    continue;
                }
                Step::Connect => Talk::Connect,
                _ if !agent.link => {
                    agent.cycle.lost("there is no connection".to_owned(), now);
                    continue;
                }
                Step::Tell(order) => Talk::Tell(order),
                Step::Supply(bundle) => Talk::Supply(bundle),
                Step::Apply => Talk::Apply,
                Step::Silent => Talk::Silent,
                Step::Look => Talk::Look,
            };
            agent.cycle.began_talk(now);
            let delay = self.rng.between(1, 10);
            self.after(delay, Event::Talk(at, epoch, talk));
        }
        self.violated("L1", format!("the agent of node {at} goes round and round"));
    }

    pub(super) fn agent_wrote(&mut self, at: usize, epoch: u32, heard: Heard) {
        if !self.is_epoch(at, epoch) {
            return;
        }
        let now = clock::instant(self.now);
        let Some(node) = self.nodes.get_mut(at) else { return };
        let Some(agent) = &mut node.agent else { return };
        agent.writing = false;
        match heard {
            Heard::Written(Answer::Done(Some(Change::Config(_, Some(config), _)))) => {
                agent.cycle.wrote(Box::new((*config).clone()));
            }
            Heard::Written(Answer::Conflict | Answer::NotFound) => {
                let current = self.api.configs.get(&node.name);
                agent
                    .cycle
                    .see(current.map_or(Seen::Absent, |config| Seen::Present(Box::new((**config).clone()))));
                agent.cycle.write_failed(now);
            }
            _ => agent.cycle.write_failed(now),
        }
        self.pump(at);
    }

    /// Something was done on a machine; whether it is still up.
    fn after_work(&mut self, at: usize) -> bool {
        invariants::after_work(self, at);
        let Some(node) = self.nodes.get_mut(at) else { return false };
        if !node.machine.as_ref().is_some_and(SimMachine::is_dead) {
            return true;
        }
        if self.script.kills.remove(&at) {
            // Only the process died.
            let boots = node.boots;
            node.epoch += 1;
            node.boot_at = None;
            node.mark_at = None;
            self.after(300, Event::StartLoader(at, boots));
            let agent = self.nodes.get(at).is_some_and(|node| node.agent.is_some());
            self.void(at, agent, "the loader is gone");
            return false;
        }
        self.power_cut(at);
        false
    }

    /// The power goes, and comes back.
    pub(crate) fn power_cut(&mut self, at: usize) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.power_off();
        }
        self.tell(|| format!("node {at} goes down"));
        let delay = self.rng.between(1000, 8000);
        self.after(delay, Event::Boot(at));
    }

    fn talk(&mut self, at: usize, talk: &Talk) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(at) else { return };
        invariants::before_work(node, &mut self.script.before);
        let talked = node.answer(talk, &self.keys, &self.seals, now);
        self.tell(|| format!("node {at}: {} -> {}", told_talk(talk), told_talked(&talked)));
        if !self.after_work(at) {
            return;
        }
        self.plan_chores(at);
        let lost = self.fault(5);
        let delay = self.rng.between(1, 10);
        let Some(node) = self.nodes.get(at) else { return };
        let talked = if lost { Talked::Lost } else { talked };
        self.after(delay, Event::Talked(at, node.epoch, talked));
    }

    fn talked(&mut self, at: usize, talked: Talked) {
        let now = clock::instant(self.now);
        let Some(agent) = self.nodes.get_mut(at).and_then(|node| node.agent.as_mut()) else { return };
        let cycle = &mut agent.cycle;
        match talked {
            Talked::Connected(report) => {
                agent.link = true;
                cycle.connected(report, now);
            }
            Talked::Accepted(order, missing) => cycle.accepted(order, missing, now),
            Talked::Refused(order, refusal) => cycle.refused(order, refusal, "no".to_owned(), now),
            Talked::Supplied(bundle) => cycle.supplied(bundle, now),
            Talked::Applied(report) => cycle.applied(report, now),
            Talked::LoadedFromStore(report) => cycle.loaded_from_store(report, now),
            Talked::Looked(report) => cycle.looked(report, now),
            Talked::CannotFollow => {
                cycle.cannot_follow(tenon_order::wire::Refusal::StoreFailed, "no".to_owned(), now);
            }
            Talked::Lost => {
                agent.link = false;
                agent.cycle.lost("the connection broke".to_owned(), now);
            }
        }
        self.pump(at);
    }

    /// A transfer from a depot: any replica that is up may be asked.
    fn fetched(&mut self, at: usize, bundle: Digest) {
        let now = clock::instant(self.now);
        let busy = self.fault(20);
        let asked = usize::try_from(self.rng.below(self.replicas.len() as u64)).unwrap_or_default();
        let frozen = self.frozen.get(asked).is_some_and(|until| *until > self.now);
        let Some(node) = self.nodes.get_mut(at) else { return };
        let Some(agent) = node.agent.as_mut().filter(|agent| agent.fetching == Some(bundle)) else { return };
        let Some(replica) = self.replicas.get_mut(asked) else { return };
        agent.fetching = None;
        let assigned = replica.assignments.verdict(&node.name, &bundle) == Verdict::Assigned;
        if !frozen && !busy && assigned && replica.cache.contains(&bundle) {
            agent.cycle.fetched(bundle);
        } else {
            // `Images::supply`: what nodes are assigned and the depot lacks is made again.
            let made = crate::registry::by_digest(bundle)
                .filter(|bundle| self.registry.has(&bundle.image).is_some());
            if assigned && made.is_some() {
                replica.cache.insert(bundle);
            }
            agent.cycle.fetch_failed(bundle, "the depot is busy".to_owned(), None, now);
        }
        self.pump(at);
    }

    fn chores(&mut self, at: usize) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(at) else { return };
        invariants::before_work(node, &mut self.script.before);
        node.chores(now);
        if self.after_work(at) {
            self.plan_chores(at);
        }
    }

    fn plan_chores(&mut self, at: usize) {
        let Some(node) = self.nodes.get(at) else { return };
        let epoch = node.epoch;
        if let Some(due) = node.chore_at() {
            let delay = due.saturating_sub(self.now);
            self.after(delay, Event::Chores(at, epoch));
        }
    }
}

fn told_talk(talk: &Talk) -> String {
    match talk {
        Talk::Tell(order) => {
            let read = tenon_order::read_unverified(order).ok();
            format!("Tell {:?}", read.map(|order| order.generation.0))
        }
        other => format!("{other:?}"),
    }
}

fn told_talked(talked: &Talked) -> String {
    match talked {
        Talked::Connected(report)
        | Talked::Applied(report)
        | Talked::LoadedFromStore(report)
        | Talked::Looked(report) => {
            let modules: Vec<_> = report
                .modules
                .iter()
                .map(|m| format!("{} {:?} {:?} {}", m.key, m.phase, m.reason, m.message))
                .collect();
            format!("report generation {:?} boot {} {modules:?}", report.generation, report.boot_id)
        }
        other => format!("{other:?}"),
    }
}

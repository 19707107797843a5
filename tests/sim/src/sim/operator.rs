//! Events of the operator's replicas, and of the requests that they make.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::api::resource::v1::DeviceClass;
use tenon_operator::lease::election::{Intent, Timing};

use super::{Event, From, Request, Sim, name_of};
use crate::api::{Answer, Change, KINDS};
use crate::clock;
use crate::planted::Bug;
use crate::replica::{Call, Heard, Job, Replica};

/// How long a client waits for an answer.
const TIMEOUT: u64 = 15_000;

impl Sim {
    pub(super) fn operator_event(&mut self, event: Event) {
        match event {
            Event::StartReplica(at) => self.start_replica(at),
            Event::Claim { at, epoch, name, expected, sent } => self.claim(at, epoch, name, expected, sent),
            Event::Election(at, epoch) if self.is_process(at, epoch) => self.election(at),
            Event::Claimed { at, epoch, version, sent } if self.is_process(at, epoch) => {
                self.claimed(at, version, sent);
            }
            Event::Listed { at, epoch, kind, opened, objects, head } if self.is_process(at, epoch) => {
                self.enter(at);
                let replica = self.replicas.get_mut(at);
                if let Some(replica) = replica.filter(|replica| replica.is_open(kind, opened)) {
                    replica.listed(kind, &objects, head);
                }
                self.work(at);
            }
            Event::Watched(at, epoch, kind, opened) if self.is_process(at, epoch) => {
                self.enter(at);
                let (breaks, delay) = (self.fault(5), self.latency());
                let replica = self.replicas.get_mut(at);
                let Some(replica) = replica.filter(|replica| replica.is_open(kind, opened)) else { return };
                let Some(watch) = replica.watches.get_mut(kind as usize) else { return };
                watch.moving = false;
                let Some(next) = watch.at else { return };
                if breaks {
                    // The watch is opened anew with a list: what happened between is not told one by one.
                    return self.list(at, kind, delay);
                }
                watch.at = Some(next + 1);
                if let Some(change) = self.api.change(kind, next).cloned() {
                    replica.watched(&change);
                    self.tell(|| format!("replica {at} sees {}", name_of(&change)));
                }
                self.work(at);
            }
            Event::Work(at, epoch) if self.is_process(at, epoch) => self.work(at),
            _ => {}
        }
    }

    fn is_process(&self, at: usize, epoch: u32) -> bool {
        self.replicas.get(at).is_some_and(|replica| replica.epoch == epoch)
    }

    /// From now on it is the replica's own time.
    fn enter(&self, at: usize) {
        let skew = self.replicas.get(at).map_or(0, |replica| replica.skew);
        clock::set(self.now, skew);
    }

    pub(crate) fn start_replica(&mut self, at: usize) {
        let (epoch, skew) = self.replicas.get(at).map_or((1, 0), |replica| (replica.epoch + 1, replica.skew));
        self.tell(|| format!("replica {at} starts, process {epoch}"));
        clock::set(self.now, skew);
        let replica =
            Replica::start(format!("replica-{at}-{epoch}"), epoch, skew, self.keys.clone(), self.setup.bug);
        if at < self.replicas.len() {
            if let Some(place) = self.replicas.get_mut(at) {
                *place = replica;
            }
        } else {
            self.replicas.push(replica);
        }
        for kind in KINDS {
            let delay = self.latency();
            self.list(at, kind, delay);
        }
        let delay = self.latency();
        self.after(delay, Event::Election(at, epoch));
    }

    /// A watch is opened with a list of what there is now, which arrives after `delay`.
    pub(super) fn list(&mut self, at: usize, kind: crate::api::Kind, delay: u64) {
        let objects = self.api.list(kind);
        let head = self.api.head(kind);
        let Some(replica) = self.replicas.get_mut(at) else { return };
        let (epoch, opened) = (replica.epoch, replica.open(kind));
        self.after(delay, Event::Listed { at, epoch, kind, opened, objects, head });
    }

    /// One round of `Candidate::elect`.
    fn election(&mut self, at: usize) {
        let now = self.now;
        let moment = Duration::from_millis(now);
        let api = &self.api;
        let Some(replica) = self.replicas.get_mut(at) else { return };
        let until = replica.election.leads_until().filter(|until| moment < *until);
        if replica.led && until.is_none() && replica.bug() != Some(Bug::DeposedLeaderWrites) {
            self.tell(|| format!("replica {at} has lost the lease"));
            return self.after(1000, Event::StartReplica(at));
        }
        let (name, epoch) = (replica.name.clone(), replica.epoch);
        let expected = if let Some(version) = replica.lease.take() {
            Some(Some(version))
        } else {
            let spec = api.lease.as_ref().map(|(spec, _)| spec);
            match replica.election.observe(spec, moment) {
                Intent::Claim | Intent::Renew => Some(api.lease.as_ref().map(|(_, version)| *version)),
                Intent::Wait => None,
            }
        };
        if let Some(expected) = expected {
            let delay = self.latency();
            self.after(delay, Event::Claim { at, epoch, name, expected, sent: now });
        }
        let interval = u64::try_from(Timing::default().interval.as_millis()).unwrap_or(2000);
        let left = until.map_or(interval, |until| {
            u64::try_from(until.saturating_sub(moment).as_millis()).unwrap_or(interval).max(1)
        });
        self.after(interval.min(left), Event::Election(at, epoch));
    }

    fn claim(&mut self, at: usize, epoch: u32, name: String, expected: Option<u64>, sent: u64) {
        let found = self.api.lease.as_ref().map(|(_, version)| *version);
        let version = (found == expected).then(|| found.unwrap_or_default() + 1);
        if let Some(version) = version {
            let spec = LeaseSpec {
                holder_identity: Some(name),
                lease_transitions: i32::try_from(version).ok(),
                ..LeaseSpec::default()
            };
            self.api.lease = Some((spec, version));
        }
        if !self.fault(20) {
            let delay = self.latency();
            self.after(delay, Event::Claimed { at, epoch, version, sent });
        }
    }

    fn claimed(&mut self, at: usize, version: Option<u64>, sent: u64) {
        let (now, api) = (Duration::from_millis(self.now), &self.api);
        let Some(replica) = self.replicas.get_mut(at) else { return };
        match version {
            Some(version) => {
                replica.election.written(Duration::from_millis(sent));
                replica.lease = Some(version);
                replica.led |= replica.election.leads_until().is_some_and(|until| now < until);
            }
            None => drop(replica.election.observe(api.lease.as_ref().map(|(spec, _)| spec), now)),
        }
        self.work(at);
    }

    /// Begins all the work that can begin.
    pub(crate) fn work(&mut self, at: usize) {
        self.enter(at);
        let Some(replica) = self.replicas.get_mut(at) else { return };
        if !replica.led || !replica.is_complete() {
            return;
        }
        let epoch = replica.epoch;
        if !replica.caught_up {
            if !std::mem::replace(&mut replica.taking_over, true) {
                self.begin(at, Job::TakeOver);
            }
            return;
        }
        loop {
            let Some(replica) = self.replicas.get_mut(at) else { return };
            let job = match replica.take() {
                Ok(job) => job,
                Err(due) => {
                    if let Some(due) =
                        due.filter(|due| replica.woken_at.is_none_or(|at| *due < at || at <= self.now))
                    {
                        replica.woken_at = Some(due);
                        let delay = due.saturating_sub(self.now);
                        self.after(delay, Event::Work(at, epoch));
                    }
                    return;
                }
            };
            self.begin(at, job);
        }
    }

    fn begin(&mut self, at: usize, job: Job) {
        let Some(replica) = self.replicas.get_mut(at) else { return };
        self.task += 1;
        let number = self.task;
        let task = replica.begin(job);
        replica.tasks.insert(number, task);
        self.go_on(at, number);
    }

    /// The next request of a piece of work.
    fn go_on(&mut self, at: usize, task: u64) {
        let Some(replica) = self.replicas.get_mut(at) else { return };
        let Some(call) = replica.advance(task, &mut self.seals) else { return };
        let (epoch, name) = (replica.epoch, replica.name.clone());
        let is_write = matches!(call, Call::Write(_));
        let refused = is_write && !replica.may_write(self.now);
        let request = Request { from: From::Replica { at, epoch, name, task }, call, awaited: true };
        if refused {
            return self.after(1, Event::Answer(Box::new(request), Heard::NotLeader));
        }
        self.send(request);
    }

    /// A request sets out. It may arrive, arrive twice, or never.
    pub(crate) fn send(&mut self, request: Request) {
        self.tell(|| format!("{:?} asks {}", request.from, told(&request.call)));
        let delay = self.latency();
        if self.fault(10) {
            // A repetition overtakes nothing that its sender asks after it has heard the answer.
            let again = delay;
            let copy = Request { awaited: false, ..request.clone() };
            self.after(again, Event::Arrive(Box::new(copy)));
        }
        if self.fault(10) {
            return self.after(TIMEOUT, Event::Answer(Box::new(request), Heard::Lost));
        }
        self.after(delay, Event::Arrive(Box::new(request)));
    }

    pub(super) fn arrive(&mut self, request: Request) {
        clock::set(self.now, 0);
        let is_write = matches!(request.call, Call::Write(_));
        let heard =
            if is_write && self.fault(10) { Heard::Written(Answer::Busy) } else { self.serve(&request) };
        if !request.awaited {
            return;
        }
        let (lost, delay) = (self.fault(10), self.latency());
        let request = Box::new(request);
        if lost {
            self.after(TIMEOUT, Event::Answer(request, Heard::Lost));
        } else {
            self.after(delay, Event::Answer(request, heard));
        }
    }

    fn serve(&mut self, request: &Request) -> Heard {
        match &request.call {
            Call::Write(write) => {
                let writer = match &request.from {
                    From::Replica { name, .. } => Some(name.as_str()),
                    From::Agent { .. } => None,
                };
                crate::invariants::before_write(self, writer, write);
                let before = self.api.writes;
                let answer = self.api.write(write);
                let effective = self.api.writes != before;
                self.operator_writes += u64::from(effective && writer.is_some());
                crate::invariants::after_write(self, writer, write, effective);
                self.tell(|| format!("{:?} -> {}", told_write(write), told_answer(&answer)));
                Heard::Written(answer)
            }
            Call::ListNodes => Heard::Nodes(self.api.list(crate::api::Kind::Node)),
            Call::GetNode(name) => {
                let nodes = self.api.list(crate::api::Kind::Node);
                let is_it = |node: &Change| matches!(node, Change::Node(found, ..) if found == name);
                Heard::Nodes(nodes.into_iter().filter(is_it).collect())
            }
            Call::ListModules => Heard::Modules(self.api.modules.values().cloned().collect()),
            Call::ListConfigs => Heard::Listed(self.api.configs.values().cloned().collect()),
            Call::GetConfig(name) => Heard::Read(self.api.configs.get(name).cloned()),
            Call::ListClasses => Heard::Classes(self.api.classes.values().cloned().collect()),
            Call::GetClasses(mark, names) => {
                self.unseen_classes.retain(|name| !names.contains(name));
                let labels = |class: &DeviceClass| class.metadata.labels.clone().unwrap_or_default();
                let is_marked = |class: &DeviceClass| crate::pod::fits(mark, &labels(class));
                let asked =
                    self.api.classes.iter().filter(|(name, class)| is_marked(class) || names.contains(name));
                Heard::Classes(asked.map(|(_, class)| class.clone()).collect())
            }
            Call::Find(image) => Heard::Found(Box::new(Replica::find(image, &self.registry))),
        }
    }

    pub(super) fn answered(&mut self, request: &Request, heard: Heard) {
        match request.from {
            From::Replica { at, epoch, task, .. } if self.is_process(at, epoch) => {
                self.enter(at);
                if let Some(replica) = self.replicas.get_mut(at) {
                    replica.heard(task, &request.call, heard, &self.seals);
                }
                self.go_on(at, task);
                self.work(at);
            }
            From::Replica { .. } => {}
            From::Agent { node, epoch } => self.agent_wrote(node, epoch, heard),
        }
    }
}

fn told(call: &Call) -> String {
    match call {
        Call::Write(write) => told_write(write),
        Call::ListNodes => "list Nodes".to_owned(),
        Call::GetNode(name) => format!("get Node {name}"),
        Call::ListModules => "list Modules".to_owned(),
        Call::ListConfigs => "list NodeModulesConfigs".to_owned(),
        Call::GetConfig(name) => format!("get NodeModulesConfig {name}"),
        Call::Find(image) => format!("look for {}", image.spec.image),
        Call::ListClasses => "list DeviceClasses".to_owned(),
        Call::GetClasses(_, names) => format!("get DeviceClasses {names:?}"),
    }
}

fn told_write(write: &crate::api::Write) -> String {
    use crate::api::Write;
    match write {
        Write::Labels { node, labels, .. } => format!("labels of {node}: {labels:?}"),
        Write::Config(config) => {
            let order = config.spec.order.as_ref().and_then(|order| tenon_order::read_unverified(order).ok());
            format!(
                "config {:?} v{:?}: modules {:?}, order {:?}",
                config.metadata.name,
                config.metadata.resource_version,
                config
                    .spec
                    .modules
                    .iter()
                    .map(|m| format!("{} {}", m.name, m.config.container_image))
                    .collect::<Vec<_>>(),
                order.map(|order| (
                    order.generation.0,
                    order
                        .modules
                        .iter()
                        .map(|m| (m.key.to_string(), m.wish == tenon_order::Wish::Removed))
                        .collect::<Vec<_>>()
                ))
            )
        }
        Write::Finalizers { key, finalizers, .. } => format!("finalizers of {key}: {finalizers:?}"),
        Write::Image(image) => format!("image {:?} {}", image.metadata.name, image.spec.image),
        Write::DeleteImage { key, .. } => format!("delete image {key}"),
        Write::Set(set) => format!("DaemonSet {:?}", set.metadata.name),
        Write::DeleteSet { key, .. } => format!("delete DaemonSet {}/{}", key.0, key.1),
        Write::Class { class, force } => format!("DeviceClass {:?}, force {force}", class.metadata.name),
        Write::DeleteClass { name, .. } => format!("delete DeviceClass {name}"),
        Write::PreflightStatus { name, status, .. } => {
            format!("status of preflight {name}: {:?} {:?}", status.result, status.message)
        }
        Write::ImageStatus { key, status, .. } => format!("status of image {key}: {:?}", status.reason),
        Write::ModuleStatus { key, status, .. } => {
            let conditions = status.conditions.iter();
            let told: Vec<_> = conditions.map(|told| (&told.type_, &told.status, &told.reason)).collect();
            format!("status of {key}: {:?} {told:?}", status.module_loader)
        }
        Write::Report { node, status, .. } => format!(
            "report of {node}: boot {:?} generation {:?} {:?}",
            status.boot_id,
            status.order_generation,
            status.modules.iter().map(|m| (&m.name, m.phase, &m.reason)).collect::<Vec<_>>()
        ),
    }
}

fn told_answer(answer: &Answer) -> &'static str {
    match answer {
        Answer::Done(_) => "done",
        Answer::Conflict => "conflict",
        Answer::NotFound => "not found",
        Answer::Busy => "busy",
    }
}

//! What a stretch of time cost: requests as the API server logged them, processor time and memory as the kernel accounts
//! them to processes, changes as etcd counts them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;

use super::ScaleError;
use crate::ControlPlane;
use crate::control_plane::{Mark, Request};

/// Who asks the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Party {
    /// The operator.
    Operator,
    /// All agents.
    Agents,
    /// The bench, who plays users and kubelets.
    Others,
}

impl Party {
    fn of(user: &str) -> Self {
        match user.rsplit_once(':') {
            Some(("system:serviceaccount:tenon-system", "tenon-operator")) => Self::Operator,
            Some(("system:serviceaccount:tenon-system", _)) => Self::Agents,
            _ => Self::Others,
        }
    }
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Processor time, in seconds, user's and system's.
    pub cpu_seconds: f64,
    /// Memory in use, in KiB.
    pub resident: u64,
    /// The most that it ever was.
    pub peak: u64,
}

/// What a process uses, by `/proc/<pid>/stat` and `status`.
pub fn usage(process: u32) -> io::Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    // A name may hold spaces and brackets; what follows it does not (proc_pid_stat(5)). utime is field 14, stime 15.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: u32 = fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
    let line = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    Ok(Usage {
        cpu_seconds: f64::from(ticks) / f64::from(per_second),
        resident: line("VmRSS").unwrap_or_default(),
        peak: line("VmHWM").unwrap_or_default(),
    })
}

/// The processes that are watched.
#[derive(Debug, Clone, Copy)]
pub struct Processes {
    /// The operator, when it runs.
    pub operator: Option<u32>,
    /// The API server.
    pub server: Option<u32>,
    /// etcd.
    pub etcd: Option<u32>,
}

/// What all of them have used.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Usages {
    /// The operator.
    pub operator: Usage,
    /// All agents, their simulated loaders, and the bench itself.
    pub agents: Usage,
    /// The API server.
    pub server: Usage,
    /// etcd.
    pub etcd: Usage,
}

impl Processes {
    fn usages(&self) -> io::Result<Usages> {
        let of = |process: Option<u32>| process.map_or(Ok(Usage::default()), usage);
        Ok(Usages {
            operator: of(self.operator)?,
            agents: usage(std::process::id())?,
            server: of(self.server)?,
            etcd: of(self.etcd)?,
        })
    }
}

impl Usages {
    /// The processor time since then, and memory as it is now.
    fn since(self, before: &Self) -> Self {
        let since = |now: Usage, before: Usage| Usage {
            // A process that was started anew meanwhile has a clock of its own.
            cpu_seconds: if now.cpu_seconds < before.cpu_seconds {
                now.cpu_seconds
            } else {
                now.cpu_seconds - before.cpu_seconds
            },
            ..now
        };
        Self {
            operator: since(self.operator, before.operator),
            agents: since(self.agents, before.agents),
            server: since(self.server, before.server),
            etcd: since(self.etcd, before.etcd),
        }
    }
}

/// A beginning.
#[derive(Debug)]
pub struct Meter {
    mark: Mark,
    revision: u64,
    usages: Usages,
    begin: Instant,
}

/// What was between a beginning and an end.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bill {
    /// How long it was, in seconds, the wait for rest included.
    pub seconds: f64,
    /// Requests by party, and by kind: `patch nodes/status 200`.
    pub requests: BTreeMap<Party, BTreeMap<String, u64>>,
    /// Writes that were answered with success and changed nothing: etcd saw fewer changes than the API server wrote.
    pub no_op_writes: u64,
    /// Processor time and memory.
    pub usages: Usages,
}

impl Meter {
    /// Begins.
    pub async fn start(plane: &ControlPlane, processes: Processes) -> Result<Self, ScaleError> {
        Ok(Self {
            revision: revision(plane.client()).await?,
            usages: processes.usages().map_err(ScaleError::Proc)?,
            mark: plane.audit().mark(),
            begin: Instant::now(),
        })
    }

    /// When it began.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Ends. The processes may be others than they were.
    pub async fn stop(self, plane: &ControlPlane, processes: Processes) -> Result<Bill, ScaleError> {
        let seconds = self.begin.elapsed().as_secs_f64();
        let usages = processes.usages().map_err(ScaleError::Proc)?.since(&self.usages);
        let audit = plane.audit();
        let counted = tokio::task::spawn_blocking(move || audit.requests_since(self.mark)).await??;
        // Afterwards: a lease or an event that is written meanwhile must not look like a write without a change.
        let changes = revision(plane.client()).await?.saturating_sub(self.revision);
        let kept: u64 =
            counted.iter().filter(|(request, _)| changes_etcd(request)).map(|(_, count)| count).sum();
        let mut requests: BTreeMap<Party, BTreeMap<String, u64>> = BTreeMap::new();
        for (request, count) in counted {
            *requests.entry(Party::of(&request.user)).or_default().entry(name(&request)).or_default() +=
                count;
        }
        Ok(Bill { seconds, requests, no_op_writes: kept.saturating_sub(changes), usages })
    }
}

impl Bill {
    /// How many requests of a party are of kinds that begin so.
    pub fn count(&self, party: Party, is_it: impl Fn(&str) -> bool) -> u64 {
        let kinds = self.requests.get(&party).into_iter().flatten();
        kinds.filter(|(kind, _)| is_it(kind)).map(|(_, count)| count).sum()
    }

    /// Writes of a party, whatever became of them; events apart, and what is no object of the cluster's.
    pub fn writes(&self, party: Party) -> u64 {
        self.count(party, |kind| is_write(kind) && !kind.contains(" events ") && !kind.contains(" leases "))
    }

    /// Writes of the operator and the agents to what there is one of per node.
    pub fn writes_to_nodes(&self) -> u64 {
        let is_of_node = |kind: &str| {
            let resource = kind.split(' ').nth(1).unwrap_or_default();
            let resource = resource.split('/').next().unwrap_or_default();
            is_write(kind) && ["nodes", "nodemodulesconfigs", "pods"].contains(&resource)
        };
        self.count(Party::Operator, is_of_node) + self.count(Party::Agents, is_of_node)
    }

    /// All others but events: to Modules, images and the like, which must not grow with the nodes.
    pub fn writes_to_others(&self) -> u64 {
        self.writes(Party::Operator) + self.writes(Party::Agents) - self.writes_to_nodes()
    }

    /// All that the operator and the agents wrote, events too; leases apart, which whoever leads or lives has to renew.
    pub fn all_writes(&self) -> u64 {
        let is_it = |kind: &str| is_write(kind) && !kind.contains(" leases ");
        self.count(Party::Operator, is_it) + self.count(Party::Agents, is_it)
    }

    /// Requests of a party that were refused.
    pub fn refused(&self, party: Party) -> u64 {
        self.count(party, |kind| kind.rsplit(' ').next().is_some_and(|code| code >= "400"))
    }
}

fn is_write(kind: &str) -> bool {
    ["create", "update", "patch", "delete"].iter().any(|verb| kind.starts_with(verb))
        && !NOT_KEPT.iter().any(|resource| kind.contains(resource))
}

/// What is created to be answered and not to be kept.
const NOT_KEPT: [&str; 5] = [
    "serviceaccounts/token",
    "tokenreviews",
    "subjectaccessreviews",
    "selfsubjectaccessreviews",
    "selfsubjectreviews",
];

fn changes_etcd(request: &Request) -> bool {
    is_write(&name(request)) && request.code < 400
}

fn name(request: &Request) -> String {
    let Request { verb, resource, subresource, code, .. } = request;
    let slash = if subresource.is_empty() { "" } else { "/" };
    format!("{verb} {resource}{slash}{subresource} {code}")
}

/// How many changes etcd has seen: the version of a list made now.
pub async fn revision(client: Client) -> Result<u64, ScaleError> {
    let namespaces: Api<Namespace> = Api::all(client);
    let list = namespaces.list(&ListParams::default().limit(1)).await?;
    Ok(list.metadata.resource_version.and_then(|version| version.parse().ok()).unwrap_or_default())
}

/// The sum of a metric's series in the text that a program serves, whatever their labels.
pub fn series(text: &str, metric: &str) -> u64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()?.parse::<u64>().ok())?
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_metric_are_added_up() {
        let text = "# TYPE sent counter\nsent_total{a=\"b c\"} 4\nsent_total 3\nsent_total_2 9\n";
        assert_eq!((series(text, "sent_total"), series(text, "other")), (7, 0));
    }

    #[test]
    fn parties_are_told_by_their_service_accounts() {
        let party = |user| Party::of(user);
        assert_eq!(party("system:serviceaccount:tenon-system:tenon-operator"), Party::Operator);
        assert_eq!(party("system:serviceaccount:tenon-system:tenon-node"), Party::Agents);
        assert_eq!(party("system:serviceaccount:other:tenon-operator"), Party::Others);
        assert_eq!(party("lab-admin"), Party::Others);
    }

    #[test]
    fn this_process_uses_memory_and_has_not_used_more_than_its_peak() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.resident > 0 && usage.resident <= usage.peak, "{usage:?}");
    }

    #[test]
    fn writes_are_told_from_what_is_only_asked() {
        let requests = [
            ("patch nodes 200", 3),
            ("patch nodes 409", 1),
            ("create events 201", 5),
            ("update leases 200", 2),
            ("create tokenreviews 201", 7),
            ("watch nodes 200", 1),
        ];
        let requests = requests.map(|(kind, count)| (kind.to_owned(), count)).into_iter().collect();
        let bill = Bill {
            seconds: 0.0,
            requests: BTreeMap::from([(Party::Operator, requests)]),
            no_op_writes: 0,
            usages: Usages::default(),
        };
        assert_eq!((bill.writes(Party::Operator), bill.refused(Party::Operator)), (4, 1));
        assert_eq!((bill.writes(Party::Agents), bill.all_writes()), (0, 9));
        assert_eq!((bill.writes_to_nodes(), bill.writes_to_others()), (4, 0));
    }
}

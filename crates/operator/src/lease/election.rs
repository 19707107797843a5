//! Who leads, decided from what was seen of the lease. Values in, values out: the clock is an argument.
//!
//! Two rules keep two replicas from leading at once, as long as their clocks run at rates that differ by less than
//! `duration / deadline`:
//!
//! - A holder leads only until `deadline` has passed since it *sent* the last renewal that was accepted.
//! - Another takes over only after it has looked at one and the same record for `duration`, counted from when it first
//!   *had* it, and only by a write that fails if the record has changed since.
//!
//! The times that stand in the lease are for people. They are written by another machine's clock and never compared.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::LeaseSpec;

/// Time since this machine started, sleep included. Comparable only with moments of the same machine.
pub type Moment = Duration;

/// The times of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long an unchanged record is respected.
    pub duration: Duration,
    /// How long a holder leads after its last accepted renewal; shorter than `duration`.
    pub deadline: Duration,
    /// Time between two renewals, or two looks.
    pub interval: Duration,
    /// How long a lease of KMM's operator is looked at before it counts as a leftover: that operator renews every 2 s
    /// and gives up after 10 s without success.
    pub foreign_patience: Duration,
    /// Time between two looks at KMM's leases while all is well.
    pub foreign_interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            interval: Duration::from_secs(2),
            foreign_patience: Duration::from_secs(15),
            foreign_interval: Duration::from_secs(30),
        }
    }
}

/// What to do after a look at the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Write our name into it.
    Claim,
    /// Confirm that it is ours.
    Renew,
    /// Leave it alone and look again later.
    Wait,
}

/// One replica's view of the lease.
#[derive(Debug)]
pub struct Election {
    me: String,
    timing: Timing,
    /// Another's record and when it was first seen.
    rival: Option<(LeaseSpec, Moment)>,
    /// When the last accepted write of ours was sent.
    held: Option<Moment>,
}

impl Election {
    /// Nothing is known yet. `me` must be unlike any other replica's name, also unlike an earlier process' of this pod.
    pub fn new(me: String, timing: Timing) -> Self {
        Election { me, timing, rival: None, held: None }
    }

    /// The lease was read and is `spec`, or there is none. `now` is not before the answer came.
    pub fn observe(&mut self, spec: Option<&LeaseSpec>, now: Moment) -> Intent {
        let holder =
            spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
        let (Some(spec), Some(holder)) = (spec, holder) else {
            self.rival = None;
            return Intent::Claim;
        };
        if holder == self.me {
            self.rival = None;
            return Intent::Renew;
        }
        self.held = None;
        match &self.rival {
            Some((seen, since)) if seen == spec => {
                if now.saturating_sub(*since) >= self.timing.duration {
                    Intent::Claim
                } else {
                    Intent::Wait
                }
            }
            _ => {
                self.rival = Some((spec.clone(), now));
                Intent::Wait
            }
        }
    }

    /// A write of ours that was sent at `sent` has been accepted.
    pub fn written(&mut self, sent: Moment) {
        self.rival = None;
        self.held = Some(sent);
    }

    /// Until when this replica leads, unless it renews; `None` if it does not.
    pub fn leads_until(&self) -> Option<Moment> {
        self.held.map(|sent| sent + self.timing.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held_by(holder: &str, renewals: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_transitions: Some(renewals),
            ..LeaseSpec::default()
        }
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_absent_or_released_lease_is_claimed_at_once() {
        let mut election = Election::new("crow".into(), Timing::default());
        assert_eq!(election.observe(None, seconds(1)), Intent::Claim);
        assert_eq!(election.observe(Some(&held_by("", 3)), seconds(2)), Intent::Claim);
        assert_eq!(election.leads_until(), None);
    }

    #[test]
    fn a_renewed_record_is_respected_however_old_its_times_are() {
        let mut election = Election::new("crow".into(), Timing::default());
        for renewal in 0..20 {
            let now = seconds(10 * u64::try_from(renewal).unwrap());
            assert_eq!(election.observe(Some(&held_by("rook", renewal)), now), Intent::Wait);
        }
    }

    #[test]
    fn an_unchanged_record_is_taken_over_after_its_duration() {
        let mut election = Election::new("crow".into(), Timing::default());
        let record = held_by("rook", 7);
        assert_eq!(election.observe(Some(&record), seconds(100)), Intent::Wait);
        assert_eq!(election.observe(Some(&record), seconds(114)), Intent::Wait);
        assert_eq!(election.observe(Some(&record), seconds(115)), Intent::Claim);
        election.written(seconds(116));
        assert_eq!(election.leads_until(), Some(seconds(126)));
    }

    #[test]
    fn seeing_another_holder_ends_leadership_before_the_deadline() {
        let mut election = Election::new("crow".into(), Timing::default());
        election.written(seconds(1));
        assert_eq!(election.observe(Some(&held_by("rook", 0)), seconds(2)), Intent::Wait);
        assert_eq!(election.leads_until(), None);
    }

    #[test]
    fn a_write_whose_answer_was_lost_is_confirmed_before_it_counts() {
        let mut election = Election::new("crow".into(), Timing::default());
        assert_eq!(election.observe(Some(&held_by("crow", 0)), seconds(5)), Intent::Renew);
        assert_eq!(election.leads_until(), None);
    }

    /// The API server's side of a lease: a record and its version.
    #[derive(Default)]
    struct Server {
        spec: Option<LeaseSpec>,
        version: u64,
        writes: i32,
    }

    /// What one replica sends and when, in true milliseconds.
    #[derive(Clone, Copy, Debug)]
    struct Round {
        pause: u64,
        there: u64,
        back: u64,
        lost: bool,
    }

    fn round() -> impl Strategy<Value = Round> {
        // Mostly brisk, at times slower than any deadline: a network that stalls, a process that is stopped.
        let delay = || prop_oneof![9 => 0..400_u64, 2 => 0..8_000_u64, 1 => 0..40_000_u64];
        (delay(), delay(), delay(), prop::bool::weighted(0.1)).prop_map(|(pause, there, back, lost)| Round {
            pause: 500 + pause,
            there,
            back,
            lost,
        })
    }

    /// A message of one replica that is under way.
    enum Step {
        Read,
        Answered { seen: Option<LeaseSpec>, version: u64 },
        Write { version: u64, sent: Moment },
        Accepted { sent: Moment },
    }

    struct Replica {
        election: Election,
        /// This replica's clock: thousandths of its rate, and where it began.
        rate: u64,
        offset: u64,
        script: std::vec::IntoIter<Round>,
        now_in: Round,
    }

    impl Replica {
        fn clock(&self, true_time: u64) -> Moment {
            Duration::from_millis(self.offset + true_time * self.rate / 1000)
        }

        /// The true time at which this replica's clock shows `moment`.
        fn true_time(&self, moment: Moment) -> u64 {
            u64::try_from(moment.as_millis()).unwrap().saturating_sub(self.offset) * 1000 / self.rate
        }
    }

    /// Plays all scripts against one server; gives each replica's spans of leadership in true time.
    fn play(replicas: &mut [Replica]) -> Vec<(usize, u64, u64)> {
        let (mut server, mut spans) = (Server::default(), Vec::new());
        let mut queue = std::collections::BTreeMap::new();
        let mut serial = 0_u64;
        let mut send = |queue: &mut std::collections::BTreeMap<_, _>, at: u64, who: usize, step: Step| {
            serial += 1;
            queue.insert((at, serial), (who, step));
        };
        for who in 0..replicas.len() {
            send(&mut queue, 0, who, Step::Read);
        }
        while let Some(((now, _), (who, step))) = queue.pop_first() {
            let replica = &mut replicas[who];
            let Round { there, back, lost, .. } = replica.now_in;
            match step {
                // Reads reach the server where they are queued: the delays before it change nothing.
                Step::Read => {
                    let answer = Step::Answered { seen: server.spec.clone(), version: server.version };
                    send(&mut queue, now + back, who, answer);
                }
                Step::Answered { seen, version } => {
                    let local = replica.clock(now);
                    let intent = replica.election.observe(seen.as_ref(), local);
                    let Some(next) = replica.script.next() else { continue };
                    replica.now_in = next;
                    if intent != Intent::Wait {
                        send(&mut queue, now + there, who, Step::Write { version, sent: local });
                    }
                    // The next look does not wait for the write: a client that has timed out goes on as well.
                    send(&mut queue, now + next.pause, who, Step::Read);
                }
                Step::Write { version, sent } => {
                    if server.version == version {
                        server.version += 1;
                        server.writes += 1;
                        server.spec = Some(held_by(&replica.election.me, server.writes));
                        if !lost {
                            send(&mut queue, now + back, who, Step::Accepted { sent });
                        }
                    }
                }
                Step::Accepted { sent } => {
                    replica.election.written(sent);
                    let until = replica.election.leads_until().map_or(0, |moment| replica.true_time(moment));
                    spans.push((who, now, until));
                }
            }
        }
        spans
    }

    fn overlap(spans: &[(usize, u64, u64)]) -> Option<[(usize, u64, u64); 2]> {
        for a in spans {
            let other = spans.iter().find(|b| b.0 != a.0 && a.1.max(b.1) < a.2.min(b.2));
            if let Some(b) = other {
                return Some([*a, *b]);
            }
        }
        None
    }

    fn replicas(scripts: Vec<Vec<Round>>, rates: &[u64]) -> Vec<Replica> {
        let timing = Timing::default();
        scripts
            .into_iter()
            .zip(rates)
            .enumerate()
            .map(|(index, (script, rate))| Replica {
                election: Election::new(format!("replica-{index}"), timing),
                rate: *rate,
                offset: 1_000_000 * u64::try_from(index).unwrap(),
                now_in: script[0],
                script: script.into_iter(),
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Clocks that run between 0.85 and 1.2 times as fast as they should: their ratio stays below 15 / 10.
        #[test]
        fn never_two_lead_at_once(
            scripts in prop::collection::vec(prop::collection::vec(round(), 60), 3),
            rates in prop::collection::vec(850..1200_u64, 3),
        ) {
            let spans = play(&mut replicas(scripts, &rates));
            prop_assert_eq!(overlap(&spans), None);
        }

        #[test]
        fn on_a_brisk_network_somebody_soon_leads(rates in prop::collection::vec(850..1200_u64, 3)) {
            let brisk = Round { pause: 2000, there: 20, back: 20, lost: false };
            let spans = play(&mut replicas(vec![vec![brisk; 30]; 3], &rates));
            let first = spans.iter().map(|span| span.1).min();
            prop_assert!(first.is_some_and(|first| first < 1000));
            let leaders: std::collections::BTreeSet<_> = spans.iter().map(|span| span.0).collect();
            prop_assert_eq!(leaders.len(), 1, "nobody takes over from a healthy leader");
        }
    }

    #[test]
    fn clocks_beyond_the_bound_are_what_the_bound_is_for() {
        // The holder's clock is three times too slow: its ten seconds outlast the other's fifteen.
        let brisk = Round { pause: 1000, there: 10, back: 10, lost: false };
        let silent = Round { pause: 600_000, ..brisk };
        let mut scripts = vec![vec![brisk; 60]; 2];
        scripts[0] = [vec![brisk; 5], vec![silent; 5]].concat();
        let spans = play(&mut replicas(scripts, &[300, 1000]));
        assert!(overlap(&spans).is_some());
    }
}

//! When to ask whom, and what the answers mean: thresholds, and the one backend that is kept. No I/O, no clock.
//!
//! Invariant: a backend changes only after as many answers of one kind in a row as its check says; a target is never asked twice at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use fairlead_model::ServiceName;

use crate::settings::Check;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// For whom.
    pub service: ServiceName,
    /// The backend.
    pub addr: IpAddr,
    /// Where it is asked.
    pub port: u16,
}

/// What became of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// As it should be.
    Good,
    /// In a few words.
    Bad(String),
}

/// A target that turned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turned {
    /// Which.
    pub target: Target,
    /// `None`: it answers again. Otherwise the latest failure.
    pub failure: Option<String>,
}

/// What the answers of a Service's backends come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Backends that take new flows, and those that do not.
    pub is_ready: BTreeMap<IpAddr, bool>,
    /// Backends that fail, with the latest failure; those kept are among them.
    pub failing: BTreeMap<IpAddr, String>,
    /// Backends that fail and are ready nevertheless, being the last of their family.
    pub kept: BTreeSet<IpAddr>,
}

#[derive(Debug)]
struct State {
    check: Arc<Check>,
    due: Instant,
    is_asked: bool,
    /// Answers in a row that speak against `failing_since`.
    streak: u32,
    /// The number of its turn, if it fails: later turns have higher ones.
    failing_since: Option<u64>,
    failure: String,
}

/// Every target.
#[derive(Debug, Default)]
pub struct Engine {
    targets: BTreeMap<Target, State>,
    /// Those that are not being asked, by when they will be.
    queue: BTreeSet<(Instant, Target)>,
    turns: u64,
}

impl Engine {
    /// Replaces what is checked; the flag is whether the target is ready now, for one that is new. What stays keeps its history.
    pub fn set(&mut self, wanted: BTreeMap<Target, (Arc<Check>, bool)>, now: Instant) {
        self.targets.retain(|target, state| {
            let stays = wanted.contains_key(target);
            if !stays {
                self.queue.remove(&(state.due, target.clone()));
            }
            stays
        });
        for (target, (check, is_ready)) in wanted {
            if let Some(state) = self.targets.get_mut(&target) {
                state.check = check;
                continue;
            }
            let due = now + spread(&target, check.interval);
            self.queue.insert((due, target.clone()));
            let failing_since = (!is_ready).then(|| {
                self.turns += 1;
                self.turns
            });
            let state = State {
                check,
                due,
                is_asked: false,
                streak: 0,
                failing_since,
                failure: "it failed before".to_owned(),
            };
            self.targets.insert(target, state);
        }
    }

    /// When the next one is to be asked.
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// One that is to be asked by `now`; its answer must be [reported](Self::report).
    pub fn take_due(&mut self, now: Instant) -> Option<(Target, Arc<Check>)> {
        if self.next_due()? > now {
            return None;
        }
        let (_, target) = self.queue.pop_first()?;
        let state = self.targets.get_mut(&target)?;
        state.is_asked = true;
        // From beginning to beginning; one that was late is not made up for.
        state.due = now + state.check.interval;
        Some((target, state.check.clone()))
    }

    /// Takes an answer. One about a target that is gone changes nothing.
    pub fn report(&mut self, target: &Target, answer: Answer, now: Instant) -> Option<Turned> {
        let state = self.targets.get_mut(target)?;
        if !std::mem::take(&mut state.is_asked) {
            return None;
        }
        state.due = state.due.max(now);
        self.queue.insert((state.due, target.clone()));
        let failure = match answer {
            Answer::Good => None,
            Answer::Bad(failure) => Some(failure),
        };
        if let Some(failure) = &failure {
            state.failure.clone_from(failure);
        }
        if failure.is_some() == state.failing_since.is_some() {
            state.streak = 0;
            return None;
        }
        state.streak += 1;
        let needed = if failure.is_some() {
            state.check.failures
        } else {
            state.check.successes
        };
        if state.streak < needed {
            return None;
        }
        state.streak = 0;
        state.failing_since = failure.is_some().then(|| {
            self.turns += 1;
            self.turns
        });
        Some(Turned {
            target: target.clone(),
            failure,
        })
    }

    /// What is known of a Service's backends.
    pub fn verdict(&self, service: &ServiceName) -> Verdict {
        let mut backends: BTreeMap<IpAddr, Option<(u64, &str)>> = BTreeMap::new();
        let first = Target {
            service: service.clone(),
            addr: IpAddr::from([0, 0, 0, 0]),
            port: 0,
        };
        let of_it = self.targets.range(first..);
        let of_it = of_it.take_while(|(target, _)| target.service == *service);
        for (target, state) in of_it {
            let entry = backends.entry(target.addr).or_default();
            let failing = state
                .failing_since
                .map(|since| (since, state.failure.as_str()));
            // Failing since its first target failed.
            *entry = match (*entry, failing) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        let mut verdict = Verdict::default();
        for (addr, failing) in &backends {
            verdict.is_ready.insert(*addr, failing.is_none());
            if let Some((_, failure)) = failing {
                verdict.failing.insert(*addr, (*failure).to_owned());
            }
        }
        for is_v4 in [true, false] {
            let family = || {
                backends
                    .iter()
                    .filter(move |(addr, _)| addr.is_ipv4() == is_v4)
            };
            if family().any(|(_, failing)| failing.is_none()) {
                continue;
            }
            let last = family().max_by_key(|(_, failing)| failing.map(|(since, _)| since));
            if let Some((addr, _)) = last {
                verdict.is_ready.insert(*addr, true);
                verdict.kept.insert(*addr);
            }
        }
        verdict
    }
}

/// Targets that appear together are not asked together; the same on every run.
fn spread(target: &Target, interval: Duration) -> Duration {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    target.hash(&mut hasher);
    let share = u32::try_from(hasher.finish() % 1000).unwrap_or(0);
    interval * share / 1000
}

#[cfg(test)]
mod tests;

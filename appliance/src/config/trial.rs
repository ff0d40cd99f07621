//! Whether a changed configuration may stay: what was reachable before must be again, in time and for a while. No I/O, no clock.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// How long it must all be reachable.
const STEADY: Duration = Duration::from_secs(5);

/// What a node reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The API answers.
    pub api: bool,
    /// Other nodes whose heartbeats are heard.
    pub peers: BTreeSet<String>,
    /// The default route's gateway answers.
    pub gateway: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Look again.
    Wait,
    /// It stays.
    Confirm,
    /// The former one comes back; what is missing.
    Revert(String),
}

/// One trial.
#[derive(Debug)]
pub struct Trial {
    before: Evidence,
    deadline: Instant,
    whole_since: Option<Instant>,
}

impl Trial {
    /// Begins; `before` is what the former configuration reached.
    pub fn new(before: Evidence, now: Instant, within: Duration) -> Self {
        Self {
            before,
            deadline: now + within,
            whole_since: None,
        }
    }

    /// Takes a look; `None` if the agent does not answer yet.
    pub fn observe(&mut self, seen: Option<&Evidence>, now: Instant) -> Step {
        let missing = match seen {
            Some(seen) => self.missing(seen),
            None => vec!["the agent does not answer".to_owned()],
        };
        if missing.is_empty() {
            let since = *self.whole_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= STEADY {
                return Step::Confirm;
            }
        } else {
            self.whole_since = None;
        }
        // What is whole but young is given its time.
        if now >= self.deadline && self.whole_since.is_none() {
            return Step::Revert(missing.join(", "));
        }
        Step::Wait
    }

    /// Peers come and go: one of those heard before is enough.
    fn missing(&self, seen: &Evidence) -> Vec<String> {
        let mut missing = Vec::new();
        if self.before.api && !seen.api {
            missing.push("the API does not answer".to_owned());
        }
        if !self.before.peers.is_empty() && self.before.peers.is_disjoint(&seen.peers) {
            let peers: Vec<&str> = self.before.peers.iter().map(String::as_str).collect();
            missing.push(format!("no heartbeat of {} is heard", peers.join(", ")));
        }
        if self.before.gateway && !seen.gateway {
            missing.push("the gateway does not answer".to_owned());
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Evidence, Step, Trial};

    fn evidence(api: bool, peers: &[&str], gateway: bool) -> Evidence {
        Evidence {
            api,
            peers: peers.iter().map(|peer| (*peer).to_owned()).collect(),
            gateway,
        }
    }

    /// What comes of looking every second, until it is decided.
    fn judged(before: Evidence, seen: impl Fn(u64) -> Option<Evidence>) -> (u64, Step) {
        let now = fairlead_rt::clock::now();
        let mut trial = Trial::new(before, now, Duration::from_mins(1));
        let at = |s: u64| -> Instant { now + Duration::from_secs(s) };
        let mut each = (0..200).map(|s| (s, trial.observe(seen(s).as_ref(), at(s))));
        each.find(|(_, step)| *step != Step::Wait).unwrap()
    }

    #[test]
    fn what_reaches_all_it_reached_stays_after_a_while() {
        let before = evidence(true, &["lb2", "lb3"], true);
        let now = evidence(true, &["lb3", "new"], true);
        assert_eq!(
            judged(before.clone(), |_| Some(now.clone())),
            (5, Step::Confirm)
        );
        let flapping = |s: u64| {
            Some(if s < 57 {
                evidence(!s.is_multiple_of(3), &["lb2"], true)
            } else {
                now.clone()
            })
        };
        assert_eq!(judged(before.clone(), flapping).1, Step::Confirm);
        assert_eq!(
            judged(Evidence::default(), |s| (s > 9).then(Evidence::default)),
            (15, Step::Confirm)
        );
    }

    #[test]
    fn what_is_cut_off_goes_back_and_says_from_what() {
        let before = evidence(true, &["lb2"], true);
        for (seen, says) in [
            (None, "agent"),
            (Some(evidence(false, &["lb2"], true)), "API"),
            (Some(evidence(true, &["lb9"], true)), "lb2"),
            (Some(evidence(true, &["lb2"], false)), "gateway"),
        ] {
            let (when, step) = judged(before.clone(), |_| seen.clone());
            assert_eq!(when, 60);
            assert!(
                matches!(&step, Step::Revert(why) if why.contains(says)),
                "{step:?}"
            );
        }
    }
}

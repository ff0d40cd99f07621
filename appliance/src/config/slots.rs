//! What is remembered of configurations: the last good one, what it reached, the one on trial, the one that was rejected.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::trial::Evidence;
use crate::cluster::disk;

/// Where it is by default.
pub const DIR: &str = "/var/lib/fairlead/config";
/// So often a configuration on trial may end its process before it counts as rejected.
const MAX_STARTS: u32 = 3;

/// The folder.
#[derive(Debug, Clone)]
pub struct Slots {
    dir: PathBuf,
}

/// The one on trial, and how often it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// SHA-256 of its text.
    pub sha: String,
    /// Starts that neither ended in order nor were decided.
    pub starts: u32,
}

/// What was found at a start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The configured text, or why there is none.
    pub candidate: Option<String>,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// The last good text.
    pub good: Option<String>,
    /// The one on trial.
    pub mark: Option<Mark>,
    /// SHA-256 of the one that was rejected.
    pub rejected: Option<String>,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// The configured one, as last time.
    Same,
    /// The configured one, on trial.
    Trial,
    /// The configured one; there is none to go back to.
    First,
    /// The last good one, and why.
    Good {
        /// Closed word.
        reason: &'static str,
        /// In full.
        why: String,
    },
    /// Nothing can be run, and why.
    Nothing(String),
}

/// Decides.
pub fn pick(found: &Found) -> Pick {
    let (problem, sha) = match (&found.candidate, &found.problem) {
        (Some(text), None) => (None, sha(text)),
        (_, Some(problem)) => (Some(problem.clone()), String::new()),
        (None, None) => (Some("it is not there".to_owned()), String::new()),
    };
    let rejected = found.rejected.as_ref() == Some(&sha);
    let crashed = found
        .mark
        .as_ref()
        .is_some_and(|mark| mark.sha == sha && mark.starts >= MAX_STARTS);
    match (&found.good, problem) {
        (None, Some(problem)) => Pick::Nothing(problem),
        (Some(_), Some(problem)) => Pick::Good {
            reason: "ConfigInvalid",
            why: problem,
        },
        (None, None) => Pick::First,
        (Some(good), None) if found.candidate.as_ref() == Some(good) => Pick::Same,
        (Some(_), None) if rejected => Pick::Good {
            reason: "ConfigRejected",
            why: "it was tried and cut this node off; change it to have it tried again".to_owned(),
        },
        (Some(_), None) if crashed => Pick::Good {
            reason: "ConfigRejected",
            why: format!("the process ended {MAX_STARTS} times while it was tried"),
        },
        (Some(_), None) => Pick::Trial,
    }
}

/// In hex.
pub fn sha(text: &str) -> String {
    fairlead_apiserver::member::hash(text)
}

impl Slots {
    /// Nothing is read yet.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Everything; what cannot be read counts as absent, and is said.
    pub fn found(&self, candidate: Option<String>, problem: Option<String>) -> Found {
        Found {
            candidate,
            problem,
            good: self.read("good.yaml"),
            mark: self.json("trial.json"),
            rejected: self.read("rejected").map(|text| text.trim().to_owned()),
        }
    }

    /// What the good one reached.
    pub fn evidence(&self) -> Evidence {
        self.json("evidence.json").unwrap_or_default()
    }

    /// Keeps what the good one reaches.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep_evidence(&self, evidence: &Evidence) -> Result<()> {
        self.write("evidence.json", &serde_json::to_string(evidence)?)
    }

    /// Counts a start of the one on trial.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin_trial(&self, text: &str) -> Result<()> {
        let sha = sha(text);
        let before: Option<Mark> = self.json("trial.json");
        let starts = before
            .filter(|mark| mark.sha == sha)
            .map_or(0, |mark| mark.starts)
            + 1;
        self.write("trial.json", &serde_json::to_string(&Mark { sha, starts })?)
    }

    /// An orderly end decides nothing.
    ///
    /// # Errors
    /// The disk's.
    pub fn end_trial(&self) -> Result<()> {
        self.remove("trial.json")
    }

    /// It is the good one from now on.
    ///
    /// # Errors
    /// The disk's.
    pub fn confirm(&self, text: &str) -> Result<()> {
        self.write("good.yaml", text)?;
        self.remove("rejected")?;
        self.end_trial()
    }

    /// It is not tried again as it is.
    ///
    /// # Errors
    /// The disk's.
    pub fn reject(&self, text: &str) -> Result<()> {
        self.write("rejected", &sha(text))?;
        self.end_trial()
    }

    fn read(&self, name: &str) -> Option<String> {
        let path = self.dir.join(name);
        disk::read(&path).unwrap_or_else(|error| {
            tracing::warn!(reason = "ConfigStateUnreadable", %error, "cannot read {}", path.display());
            None
        })
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str(&self.read(name)?).ok()
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        disk::replace(&path, text.as_bytes()).with_context(|| format!("write {}", path.display()))
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        disk::remove(&path)
            .map(drop)
            .with_context(|| format!("remove {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Pick, Slots, pick};

    #[test]
    fn a_configuration_lives_through_trial_and_confirmation_or_is_rejected() {
        let dir = tempfile::TempDir::new().unwrap();
        let slots = Slots::new(&dir.path().join("config"));
        let of = |text: &str| pick(&slots.found(Some(text.to_owned()), None));
        assert_eq!(of("a: 1"), Pick::First);
        slots.confirm("a: 1").unwrap();
        assert_eq!(of("a: 1"), Pick::Same);
        assert_eq!(of("a: 2"), Pick::Trial);
        slots.begin_trial("a: 2").unwrap();
        slots.begin_trial("a: 2").unwrap();
        assert_eq!(of("a: 2"), Pick::Trial);
        slots.end_trial().unwrap();
        for _ in 0..3 {
            slots.begin_trial("a: 2").unwrap();
        }
        assert!(matches!(
            of("a: 2"),
            Pick::Good {
                reason: "ConfigRejected",
                ..
            }
        ));
        assert_eq!(of("a: 3"), Pick::Trial, "a change is tried again");
        slots.reject("a: 3").unwrap();
        assert!(matches!(
            of("a: 3"),
            Pick::Good {
                reason: "ConfigRejected",
                ..
            }
        ));
        slots.confirm("a: 4").unwrap();
        assert_eq!((of("a: 3"), of("a: 4")), (Pick::Trial, Pick::Same));
    }

    #[test]
    fn what_cannot_be_used_is_not_used_while_there_is_a_good_one() {
        let dir = tempfile::TempDir::new().unwrap();
        let slots = Slots::new(dir.path());
        let bad = || slots.found(Some("x".to_owned()), Some("--x is no flag".to_owned()));
        assert_eq!(pick(&bad()), Pick::Nothing("--x is no flag".to_owned()));
        slots.confirm("a: 1").unwrap();
        assert!(
            matches!(pick(&bad()), Pick::Good { reason: "ConfigInvalid", why } if why.contains("--x"))
        );
        let gone = slots.found(None, None);
        assert!(matches!(
            pick(&gone),
            Pick::Good {
                reason: "ConfigInvalid",
                ..
            }
        ));
    }
}

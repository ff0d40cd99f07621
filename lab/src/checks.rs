//! Checks of running labs: each reads "within 10 s, X holds", and a failure leaves evidence.

use std::time::Duration;

use crate::clock;
use crate::error::LabError;
use crate::runner::Lab;

pub mod evidence;
pub mod main;

/// How long a check waits for what it asserts.
pub const WITHIN: Duration = Duration::from_secs(10);

/// Why something does not hold yet; `None` when it does.
pub type Missing = Box<dyn Fn(&Lab) -> Result<Option<String>, LabError>>;

/// One check of a running lab.
pub struct Check {
    /// What must hold, as a sentence that follows "within 10 s,".
    pub holds: String,
    /// How to tell.
    pub missing: Missing,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check")
            .field("holds", &self.holds)
            .finish_non_exhaustive()
    }
}

/// A check that did not hold in time.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("within {} s, {holds}: it does not: {missing}", WITHIN.as_secs())]
#[diagnostic(help("evidence is in {evidence}"))]
pub struct Failed {
    /// See [`Check::holds`].
    pub holds: String,
    /// What was missing at the end.
    pub missing: String,
    /// Folder with neighbour tables, map dumps and logs.
    pub evidence: String,
}

impl Failed {
    /// The closed word for this failure.
    pub const fn reason(&self) -> &'static str {
        "CheckFailed"
    }
}

/// The checks of the topology named `topology`.
pub fn of(topology: &str) -> Option<Vec<Check>> {
    match topology {
        "main" => Some(main::checks()),
        _ => None,
    }
}

/// Polls `check` until it holds or [`WITHIN`] has passed; what is missing then.
pub fn poll(lab: &Lab, check: &Check) -> Option<String> {
    let mut missing = String::new();
    let held = clock::poll(WITHIN, || match (check.missing)(lab) {
        Ok(None) => Some(()),
        Ok(Some(what)) => {
            missing = what;
            None
        }
        Err(e) => {
            missing = crate::report::chain(&e);
            None
        }
    });
    held.is_none().then_some(missing)
}

//! What a running lab consists of, kept in `/run/fairlead/lab/NAME/state.json`.
//!
//! Invariant: a thing is written down before it is made, so that `down` finds it also after a crash
//! in between; a process is named by id and start time, so that `down` never ends a stranger that
//! got a recycled id.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::LabError;

/// Where labs keep their state.
pub const ROOT: &str = "/run/fairlead/lab";

/// The file's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Name of the lab.
    pub lab: String,
    /// The topology file.
    pub file: PathBuf,
    /// The plan as text: a second `up` of the same plan is a no-op.
    pub plan: String,
    /// All steps have succeeded.
    pub ready: bool,
    /// Network namespace and mount view of each node.
    pub nodes: BTreeMap<String, NodeState>,
    /// Processes started by the runner or registered by a driver.
    pub processes: Vec<Process>,
    /// Empty files and folders made on the host as targets of binds.
    pub files: Vec<PathBuf>,
    /// Folder of the binaries that nodes find on their PATH.
    pub bin_dir: PathBuf,
}

/// What a node is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Name under `/run/netns`.
    pub namespace: String,
    /// File that holds the mount namespace.
    pub view: PathBuf,
}

/// A process that belongs to the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The node it runs in.
    pub node: String,
    /// What it is, for people.
    pub name: String,
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot, from `/proc/PID/stat`.
    pub started: u64,
}

impl Process {
    /// Whether the very process that was started still runs (a zombie does not).
    pub fn alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && state != 'Z')
    }
}

/// State letter and start time of a process.
pub fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and brackets; fields count from the last one.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some((
        fields.first()?.chars().next()?,
        fields.get(19)?.parse().ok()?,
    ))
}

/// Folder of the lab named `lab`.
pub fn dir(lab: &str) -> PathBuf {
    Path::new(ROOT).join(lab)
}

impl State {
    /// Reads the state of a lab; `None` when there is none.
    pub fn read(lab: &str) -> Result<Option<Self>, LabError> {
        let file = dir(lab).join("state.json");
        match fs::read(&file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes)
                    .map(Some)
                    .map_err(|source| LabError::State {
                        file: file.display().to_string(),
                        source,
                    })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(LabError::io(|| format!("read {}", file.display()))(e)),
        }
    }

    /// Replaces the state file.
    pub fn write(&self) -> Result<(), LabError> {
        let (dir, what) = (dir(&self.lab), || {
            format!("write the state of lab {}", self.lab)
        });
        fs::create_dir_all(&dir).map_err(LabError::io(what))?;
        let bytes = serde_json::to_vec_pretty(self).expect("state is plain data with string keys");
        let new = dir.join("state.json.new");
        fs::write(&new, bytes).map_err(LabError::io(what))?;
        fs::rename(&new, dir.join("state.json")).map_err(LabError::io(what))
    }
}

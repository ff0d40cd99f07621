//! The kernel counts neighbour entries over all namespaces together (`gc_thresh3`, 1,024 by default):
//! labs raise the limit, and the last one that goes puts back what was there before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::state;

/// Limits while a lab is up; they leave room for a thousand neighbours in each of 60 namespaces.
const RAISED: [(&str, u64); 3] = [
    ("gc_thresh3", 65_536),
    ("gc_thresh2", 32_768),
    ("gc_thresh1", 8_192),
];

/// Who needs the raised limits, and what they were.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Held {
    labs: BTreeSet<String>,
    before: BTreeMap<PathBuf, u64>,
}

/// Raises the limits for `lab`.
pub(super) fn hold(lab: &str) -> Result<(), LabError> {
    with_held(|held| {
        held.labs.insert(lab.to_owned());
        for (path, raised) in limits() {
            let now = read(&path)?;
            if now < raised {
                held.before.entry(path.clone()).or_insert(now);
                write(&path, raised)?;
            }
        }
        Ok(())
    })
}

/// `lab` is gone; restores the limits when no other lab needs them.
pub(super) fn release(lab: &str) -> Result<(), LabError> {
    with_held(|held| {
        held.labs.remove(lab);
        // A lab whose state is gone (a reboot of /run, a hand-made cleanup) holds nothing.
        held.labs.retain(|other| state::dir(other).exists());
        if held.labs.is_empty() {
            // Lowest first, so that the three never cross.
            for (path, _) in limits().into_iter().rev() {
                if let Some(before) = held.before.remove(&path) {
                    write(&path, before)?;
                }
            }
        }
        Ok(())
    })
}

fn limits() -> Vec<(PathBuf, u64)> {
    let of = |family: &str| {
        let dir = Path::new("/proc/sys/net")
            .join(family)
            .join("neigh/default");
        RAISED.map(|(name, raised)| (dir.join(name), raised))
    };
    ["ipv4", "ipv6"]
        .into_iter()
        .flat_map(of)
        .filter(|(path, _)| path.exists())
        .collect()
}

fn read(path: &Path) -> Result<u64, LabError> {
    let text =
        fs::read_to_string(path).map_err(LabError::io(|| format!("read {}", path.display())))?;
    Ok(text.trim().parse().unwrap_or(u64::MAX))
}

fn write(path: &Path, value: u64) -> Result<(), LabError> {
    fs::write(path, value.to_string()).map_err(LabError::io(|| format!("write {}", path.display())))
}

/// Runs `change` on the shared record while no other process can.
fn with_held(change: impl FnOnce(&mut Held) -> Result<(), LabError>) -> Result<(), LabError> {
    let root = Path::new(state::ROOT);
    let what = || "keep the record of neighbour limits".to_owned();
    fs::create_dir_all(root).map_err(LabError::io(what))?;
    let lock: File = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(root.join(".lock"))
        .map_err(LabError::io(what))?;
    let locked = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| LabError::io(what)(errno.into()))?;
    let file = root.join(".neigh.json");
    let mut held: Held = fs::read(&file)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let outcome = change(&mut held);
    let bytes = serde_json::to_vec(&held).expect("the record is plain data with string keys");
    fs::write(&file, bytes).map_err(LabError::io(what))?;
    drop(locked);
    outcome
}

/// Holds for a lab that is down, whatever other labs are up meanwhile.
#[cfg(test)]
pub(super) fn assert_released(lab: &str) {
    with_held(|held| {
        assert!(!held.labs.contains(lab));
        assert!(!held.labs.is_empty() || held.before.is_empty(), "{held:?}");
        for (path, raised) in limits()
            .into_iter()
            .filter(|(path, _)| held.before.contains_key(path))
        {
            assert!(read(&path)? >= raised, "{}", path.display());
        }
        Ok(())
    })
    .expect("the record can be read");
}

//! What a node knows of its group between two starts: `STATE_DIR/cluster`.
//!
//! | File | Holds |
//! | --- | --- |
//! | `membership.json` | its role, the latest reign it knows, where the others serve if they do |
//! | `ca.crt`, `node.pem` | whom it trusts; its key and certificate |
//! | `copy` | everything the API held last ([`super::copy`]) |
//!
//! Invariant: the role here beats the command line, which speaks of the first start only: a node that was promoted goes on serving, and
//! one that gave way goes on following.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use fairlead_apiserver::Fence;
use serde::{Deserialize, Serialize};

use super::disk;

/// Of `membership.json`.
const FORMAT: u32 = 1;

/// What a node does for the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// It serves the API.
    Api,
    /// It follows whoever does.
    Member,
}

/// `membership.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// Of the file.
    pub format: u32,
    /// What it does.
    pub role: Role,
    /// The latest reign it has heard of, its own if it serves.
    pub fence: Fence,
    /// Where the node of that reign serves.
    pub api: Vec<SocketAddr>,
    /// Where each node serves, if it does.
    pub peers: BTreeMap<String, Vec<SocketAddr>>,
}

impl Membership {
    /// Of a node that knows no others yet.
    pub const fn new(role: Role, fence: Fence, api: Vec<SocketAddr>) -> Self {
        Self {
            format: FORMAT,
            role,
            fence,
            api,
            peers: BTreeMap::new(),
        }
    }

    /// Wherever the API could be served, but for `node` itself.
    pub fn candidates(&self, node: &str) -> Vec<SocketAddr> {
        let others = self.peers.iter().filter(|(name, _)| *name != node);
        let mut all: Vec<_> = others.flat_map(|(_, at)| at.iter().copied()).collect();
        if self.fence.node != node {
            all.extend(&self.api);
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Home {
    state_dir: PathBuf,
}

impl Home {
    /// Nothing is read yet.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
        }
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.state_dir.join("cluster").join(name)
    }

    /// The folder that everything lies in.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The embedded API's folder.
    pub fn api_dir(&self) -> PathBuf {
        self.state_dir.join("api")
    }

    /// `None` before the first start.
    ///
    /// # Errors
    /// A file that cannot be read, or was written by a later version.
    pub fn membership(&self) -> Result<Option<Membership>> {
        let path = self.file("membership.json");
        let at = || format!("read {}", path.display());
        let Some(text) = disk::read(&path).with_context(at)? else {
            return Ok(None);
        };
        let membership: Membership = serde_json::from_str(&text).with_context(at)?;
        if membership.format > FORMAT {
            bail!(
                "{} has format {}, this program reads up to {FORMAT}: use the version that wrote it, or a newer one",
                path.display(),
                membership.format
            );
        }
        Ok(Some(membership))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, membership: &Membership) -> Result<()> {
        let text = serde_json::to_string_pretty(membership).context("write the membership")?;
        self.write("membership.json", &text)
    }

    /// Writes a file of the folder.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.file(name);
        disk::replace(&path, text.as_bytes()).with_context(|| format!("write {}", path.display()))
    }

    /// Reads a file of the folder.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.file(name);
        disk::read(&path).with_context(|| format!("read {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use fairlead_apiserver::Fence;

    use super::{Home, Membership, Role};

    fn fence(number: u64, node: &str) -> Fence {
        Fence {
            number,
            node: node.to_owned(),
        }
    }

    #[test]
    fn of_two_reigns_the_later_counts_and_of_two_at_once_one() {
        assert!(fence(2, "a") > fence(1, "b"));
        assert!(fence(2, "b") > fence(2, "a"));
    }

    #[test]
    fn a_membership_reads_back_and_a_newer_format_is_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let home = Home::new(dir.path());
        assert_eq!(home.membership().unwrap(), None);
        let at = |text: &str| text.parse().unwrap();
        let mut membership =
            Membership::new(Role::Member, fence(1, "lb1"), vec![at("192.0.2.1:6443")]);
        membership
            .peers
            .insert("lb2".to_owned(), vec![at("192.0.2.2:6443")]);
        home.keep(&membership).unwrap();
        assert_eq!(home.membership().unwrap(), Some(membership.clone()));
        assert_eq!(membership.candidates("lb2"), [at("192.0.2.1:6443")]);
        assert_eq!(membership.candidates("lb1"), [at("192.0.2.2:6443")]);
        membership.format = 2;
        home.keep(&membership).unwrap();
        let said = home.membership().unwrap_err().to_string();
        assert!(said.contains("format 2"), "{said}");
    }
}

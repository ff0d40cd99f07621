//! Where objects survive: one small trait, redb behind it.
//!
//! Invariants: a commit is all or nothing and on disk when it returns; revisions only grow, one per change; the last
//! changes of every resource are kept with the objects, so that watches resume across a restart.
//!
//! The trait is shaped for a store that other writers share (etcd, a later issue): each change names the revision it
//! expects, and the store hands out the revisions.
//! Next: `store/redb.rs` is the embedded implementation, `engine.rs` the only caller.

mod redb;

use std::path::Path;
use std::sync::Arc;

pub(crate) use self::redb::RedbStore;
use crate::config::OpenError;

/// Names one object: the resource (`services`, `ciliumloadbalancerippools.cilium.io`), its namespace (empty for objects
/// of the cluster) and its name. Ordered as lists are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) resource: Arc<str>,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// An object at rest: JSON, whose `metadata.resourceVersion` readers overwrite with `revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) revision: u64,
    pub(crate) json: Vec<u8>,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) key: Key,
    /// The revision the object has now; `None` when it must not exist. A change earlier in the same batch counts.
    pub(crate) expected: Option<u64>,
    /// The new object, or `None` to delete it.
    pub(crate) value: Option<Vec<u8>>,
    /// The object before, for the watches of those it no longer concerns.
    pub(crate) previous: Option<Vec<u8>>,
}

/// A change that happened, as watches will hear of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PastChange {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) previous: Option<Vec<u8>>,
}

/// The remembered changes of one resource, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// Changes up to and including this revision may have been forgotten.
    pub(crate) floor: u64,
    pub(crate) changes: Vec<PastChange>,
}

/// Why the store did not do it. Nothing of the batch is visible then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// No room; works again once there is.
    #[error("{detail}")]
    Full { detail: String },
    /// An object was not at the expected revision.
    #[error("{namespace}/{name} of {resource} changed meanwhile")]
    Raced {
        resource: String,
        namespace: String,
        name: String,
    },
    #[error("{detail}")]
    Failed { detail: String },
}

/// Whether the API can write, as of its latest write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    Writable,
    /// No room on the disk: reads go on, writes are answered with 507 until there is room again.
    Full {
        detail: String,
    },
    /// The disk or the database fails: reads go on, writes are answered with 500.
    Failed {
        detail: String,
    },
}

impl StoreState {
    /// A closed, CamelCase word for conditions, metrics and the runbook.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Writable => "StorageWritable",
            Self::Full { .. } => "StorageFull",
            Self::Failed { .. } => "StorageFailed",
        }
    }
}

/// Durable objects with revisions and a bounded history.
pub(crate) trait Store: Send {
    /// The revision of the latest change; at least 1.
    fn revision(&self) -> Result<u64, StoreError>;

    /// All objects, in key order.
    fn list(&self) -> Result<Vec<(Key, Record)>, StoreError>;

    /// The remembered changes of `resource`.
    fn history(&self, resource: &str) -> Result<History, StoreError>;

    /// Makes the store usable again after a failed commit. Whether that commit happened after all, `revision` tells.
    fn recover(&mut self) -> Result<(), StoreError>;

    /// Applies all changes or none. The n-th gets the returned revision plus n. On disk when it returns.
    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError>;
}

/// Bytes of remembered changes per resource, objects before and after together: large objects that change often would
/// otherwise fill disk and memory with their past.
pub(crate) const HISTORY_BYTES: usize = 8 * 1024 * 1024;

/// What a resource's history may grow to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
}

impl Bound {
    /// Whether a history of `changes` and `bytes` must forget its oldest change. The latest is always kept.
    pub(crate) const fn exceeded(self, changes: usize, bytes: usize) -> bool {
        changes > 1 && (changes > self.changes || bytes > self.bytes)
    }
}

/// Opens the default store in `data_dir`, keeping changes of each resource up to `history`.
pub(crate) fn open(data_dir: &Path, history: Bound) -> Result<RedbStore, OpenError> {
    RedbStore::open(&data_dir.join("objects.redb"), history)
}

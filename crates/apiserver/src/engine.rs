//! The state of the API: objects in memory for readers, one writer, and a window of past changes for watches.
//!
//! ```text
//!  handlers ──Op, oneshot──▶ mpsc(WRITE_QUEUE) ──▶ Writer (one thread) ──commit──▶ Store
//!     ▲                                              │ publishes, after the commit
//!     └──────── read locks ────── Shared ◀───────────┘──▶ watch::Sender<revision> per resource ──▶ watches
//! ```
//! When the queue is full, handlers wait, with a deadline. Watches pull from the window, so a slow one costs nothing but its
//! place: when the window has passed it by, it ends with 410.
//!
//! Invariants: nobody sees a change that is not on disk; writes are serial; a batch is one commit, so that many small writes
//! share one fsync. Reads never wait for the disk.
//! Next: `engine/tx.rs` (the state as a write sees it), `engine/writer.rs` (who writes).

mod tx;
mod writer;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::Value;
use tokio::sync::{oneshot, watch};

pub(crate) use self::tx::Tx;
pub(crate) use self::writer::{Writer, open};
use crate::status::ApiError;
use crate::store::Bound;

/// What a write did.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The object as it is now.
    Object {
        object: Arc<Value>,
        created: bool,
        warnings: Vec<String>,
    },
    /// The object as it was when it went.
    Deleted(Arc<Value>),
    /// Several objects as they were when they went.
    DeletedMany(Vec<Arc<Value>>),
}

/// A write: looks at the state, stages changes, or refuses. Runs on the writer's thread.
pub(crate) type Op = Box<dyn FnOnce(&mut Tx<'_>) -> Result<Outcome, ApiError> + Send>;

pub(crate) struct Job {
    pub(crate) op: Op,
    /// Do everything but keep it.
    pub(crate) dry_run: bool,
    pub(crate) reply: oneshot::Sender<Result<Outcome, ApiError>>,
}

/// A change as watches see it.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) namespace: String,
    pub(crate) after: Option<Arc<Value>>,
    pub(crate) before: Option<Arc<Value>>,
    /// Size of both as JSON.
    pub(crate) bytes: usize,
}

/// Objects by namespace and name.
type Objects = BTreeMap<(String, String), Arc<Value>>;

struct Resource {
    objects: Objects,
    window: VecDeque<Arc<Event>>,
    /// Size of the window's objects as JSON.
    bytes: usize,
    /// Changes up to and including this revision may have left the window.
    floor: u64,
    changed: watch::Sender<u64>,
}

struct State {
    revision: u64,
    resources: HashMap<Arc<str>, Resource>,
}

/// What readers and the writer share.
pub(crate) struct Shared {
    state: RwLock<State>,
    history: Bound,
}

/// A watch asked for changes that are no longer known, or not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) asked: u64,
    pub(crate) oldest: u64,
}

/// One page of a list.
pub(crate) struct Page {
    pub(crate) revision: u64,
    pub(crate) objects: Vec<Arc<Value>>,
    /// There is more after the last object.
    pub(crate) more: bool,
    /// How many more, when `more`.
    pub(crate) remaining: usize,
}

// === impl Shared ===

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        // A panic while holding the lock ends the writer, and with it the process: readers may still answer until then.
        self.state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.read().revision
    }

    pub(crate) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let state = self.read();
        let key = (namespace.to_owned(), name.to_owned());
        state.resources.get(resource)?.objects.get(&key).cloned()
    }

    /// Objects of one namespace (all when `None`) that `keep` keeps, in key order, after `after`, at most `limit`.
    pub(crate) fn list(
        &self,
        resource: &str,
        namespace: Option<&str>,
        after: Option<(String, String)>,
        limit: usize,
        keep: impl Fn(&Value) -> bool,
    ) -> Page {
        let state = self.read();
        let mut page = Page {
            revision: state.revision,
            objects: Vec::new(),
            more: false,
            remaining: 0,
        };
        let Some(table) = state.resources.get(resource) else {
            return page;
        };
        let start = match (after, namespace) {
            (Some(key), _) => std::ops::Bound::Excluded(key),
            (None, Some(namespace)) => {
                std::ops::Bound::Included((namespace.to_owned(), String::new()))
            }
            (None, None) => std::ops::Bound::Unbounded,
        };
        for (key, object) in table.objects.range((start, std::ops::Bound::Unbounded)) {
            if namespace.is_some_and(|namespace| namespace != key.0) {
                break;
            }
            if !keep(object) {
                continue;
            }
            if page.objects.len() < limit {
                page.objects.push(object.clone());
            } else {
                page.more = true;
                page.remaining += 1;
            }
        }
        page
    }

    /// The revision of the latest change to any of `resources` that is still known.
    pub(crate) fn latest<'a>(&self, resources: impl Iterator<Item = &'a str>) -> u64 {
        self.read().latest(resources)
    }

    /// The revision, the latest change to any of `resources`, and all their objects, of one moment: resource, namespace, name.
    #[expect(
        clippy::type_complexity,
        reason = "rows of one list, taken apart at once"
    )]
    pub(crate) fn dump<'a>(
        &self,
        resources: impl Iterator<Item = &'a str>,
    ) -> (u64, u64, Vec<(String, String, String, Arc<Value>)>) {
        let state = self.read();
        let mut resources: Vec<&str> = resources.collect();
        resources.sort_unstable();
        let mut objects = Vec::new();
        for resource in &resources {
            let Some(table) = state.resources.get(*resource) else {
                continue;
            };
            for ((namespace, name), object) in &table.objects {
                let resource = (*resource).to_owned();
                objects.push((resource, namespace.clone(), name.clone(), object.clone()));
            }
        }
        let latest = state.latest(resources.into_iter());
        (state.revision, latest, objects)
    }

    /// Wakes with each change of `resource`.
    pub(crate) fn changes(&self, resource: &str) -> Option<watch::Receiver<u64>> {
        self.read()
            .resources
            .get(resource)
            .map(|table| table.changed.subscribe())
    }

    /// Changes of `resource` after `revision`, and the revision that a reader who has them has reached.
    pub(crate) fn since(
        &self,
        resource: &str,
        revision: u64,
    ) -> Result<(Vec<Arc<Event>>, u64), Gone> {
        let state = self.read();
        let Some(table) = state.resources.get(resource) else {
            return Ok((Vec::new(), state.revision));
        };
        // A revision from the future belongs to another database: waiting for it would hide every change until then.
        if revision < table.floor || revision > state.revision {
            return Err(Gone {
                asked: revision,
                oldest: table.floor,
            });
        }
        let from = table
            .window
            .partition_point(|event| event.revision <= revision);
        Ok((
            table.window.range(from..).cloned().collect(),
            state.revision,
        ))
    }
}

// === impl State ===

impl State {
    fn latest<'a>(&self, resources: impl Iterator<Item = &'a str>) -> u64 {
        let tables = resources.filter_map(|resource| self.resources.get(resource));
        let latest = tables.map(|table| table.window.back().map_or(table.floor, |e| e.revision));
        latest.max().unwrap_or(0)
    }

    fn publish(
        &mut self,
        resource: &Arc<str>,
        namespace: &str,
        name: &str,
        event: Event,
        history: Bound,
    ) {
        self.revision = event.revision;
        let table = self
            .resources
            .entry(resource.clone())
            .or_insert_with(Resource::new);
        let key = (namespace.to_owned(), name.to_owned());
        match &event.after {
            Some(object) => table.objects.insert(key, object.clone()),
            None => table.objects.remove(&key),
        };
        table.bytes += event.bytes;
        table.window.push_back(Arc::new(event));
        while history.exceeded(table.window.len(), table.bytes) {
            if let Some(oldest) = table.window.pop_front() {
                table.floor = oldest.revision;
                table.bytes -= oldest.bytes;
            }
        }
    }
}

impl Resource {
    fn new() -> Self {
        Self {
            objects: Objects::new(),
            window: VecDeque::new(),
            bytes: 0,
            floor: 0,
            changed: watch::Sender::new(0),
        }
    }
}

#[cfg(test)]
mod tests;

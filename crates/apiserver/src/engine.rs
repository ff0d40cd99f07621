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
use crate::object;
use crate::status::ApiError;
use crate::store::Bound;
pub(crate) use crate::store::StoreState;

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

type Edge = std::ops::Bound<(String, String)>;

/// What was there before, by namespace and name; `None` for what was not.
type Undone = BTreeMap<(String, String), Option<Arc<Value>>>;

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
    /// Set by the writer alone.
    store: watch::Sender<StoreState>,
}

/// A watch asked for changes that are no longer known, or not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) asked: u64,
    pub(crate) oldest: u64,
}

/// What a list is to hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope<'a> {
    /// All namespaces when `None`.
    pub(crate) namespace: Option<&'a str>,
    /// Namespace and name of the object before the first.
    pub(crate) after: Option<(String, String)>,
    pub(crate) limit: usize,
    /// A past revision; now when `None`.
    pub(crate) at: Option<u64>,
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

    pub(crate) fn store_state(&self) -> StoreState {
        self.store.borrow().clone()
    }

    pub(crate) fn watch_store(&self) -> watch::Receiver<StoreState> {
        self.store.subscribe()
    }

    /// The objects that `scope` asks for and `keep` keeps, in key order: as they are, or as they were at a past revision.
    pub(crate) fn list(
        &self,
        resource: &str,
        scope: Scope<'_>,
        keep: impl Fn(&Value) -> bool,
    ) -> Result<Page, Gone> {
        let state = self.read();
        let mut page = Page {
            revision: scope.at.unwrap_or(state.revision),
            objects: Vec::new(),
            more: false,
            remaining: 0,
        };
        let Some(table) = state.resources.get(resource) else {
            return Ok(page);
        };
        let namespace = scope.namespace;
        let start = match (scope.after, namespace) {
            (Some(key), _) => Edge::Excluded(key),
            (None, Some(namespace)) => Edge::Included((namespace.to_owned(), String::new())),
            (None, None) => Edge::Unbounded,
        };
        let range = (start, Edge::Unbounded);
        let undone = match scope.at {
            Some(at) => table.undo(at, state.revision)?,
            None => Undone::new(),
        };
        let present = table
            .objects
            .range(range.clone())
            .filter(|(key, _)| !undone.contains_key(*key));
        let past = undone
            .range(range)
            .filter_map(|(key, object)| Some((key, object.as_ref()?)));
        let all = merge_sorted(present, past)
            .take_while(|(key, _)| namespace.is_none_or(|namespace| namespace == key.0));
        for (_, object) in all.filter(|(_, object)| keep(object)) {
            if page.objects.len() < scope.limit {
                page.objects.push(object.clone());
            } else {
                page.more = true;
                page.remaining += 1;
            }
        }
        Ok(page)
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

/// Two sorted sequences without a common key as one.
fn merge_sorted<'a, K: Ord + 'a, V: 'a>(
    a: impl Iterator<Item = (&'a K, &'a V)>,
    b: impl Iterator<Item = (&'a K, &'a V)>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some((left, _)), Some((right, _))) if right < left => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    })
}

impl Resource {
    /// What must be put in the place of the present objects to have those of revision `at`; `None` for those that were not
    /// there.
    fn undo(&self, at: u64, newest: u64) -> Result<Undone, Gone> {
        if at < self.floor || at > newest {
            return Err(Gone {
                asked: at,
                oldest: self.floor,
            });
        }
        let mut undone = Undone::new();
        let from = self.window.partition_point(|event| event.revision <= at);
        for event in self.window.range(from..) {
            let named = event.after.as_ref().or(event.before.as_ref());
            let name = named.map_or("", |object| object::name(object)).to_owned();
            // The first change after `at` knows what was there then.
            undone
                .entry((event.namespace.clone(), name))
                .or_insert_with(|| event.before.clone());
        }
        Ok(undone)
    }

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

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

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::object;
use crate::service::Allocated;
use crate::status::ApiError;
use crate::store::{Change, Key, Store, StoreError};

/// Writes that may wait for the disk. With the batch below, a full queue is a few commits, well under a second.
const WRITE_QUEUE: usize = 256;
/// Writes that share one commit: enough to make the fsync cheap, few enough that none waits long.
const BATCH: usize = 64;

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
    /// Carries the revision of the change, so that it can be sent as the last state of a deleted object.
    pub(crate) before: Option<Arc<Value>>,
}

/// Objects by namespace and name.
type Objects = BTreeMap<(String, String), Arc<Value>>;

struct Resource {
    objects: Objects,
    window: VecDeque<Arc<Event>>,
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
    history: usize,
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
            (Some(key), _) => Bound::Excluded(key),
            (None, Some(namespace)) => Bound::Included((namespace.to_owned(), String::new())),
            (None, None) => Bound::Unbounded,
        };
        for (key, object) in table.objects.range((start, Bound::Unbounded)) {
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
    fn publish(
        &mut self,
        resource: &Arc<str>,
        namespace: &str,
        name: &str,
        event: Event,
        history: usize,
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
        table.window.push_back(Arc::new(event));
        while table.window.len() > history {
            if let Some(oldest) = table.window.pop_front() {
                table.floor = oldest.revision;
            }
        }
    }
}

impl Resource {
    fn new() -> Self {
        Self {
            objects: Objects::new(),
            window: VecDeque::new(),
            floor: 0,
            changed: watch::Sender::new(0),
        }
    }
}

// === impl Tx ===

struct Staged {
    key: Key,
    before: Option<Arc<Value>>,
    after: Option<Arc<Value>>,
}

/// The state as a write sees it: what is committed, and what was staged before it in the same batch.
pub(crate) struct Tx<'a> {
    state: RwLockReadGuard<'a, State>,
    staged: Vec<Staged>,
    latest: HashMap<Key, usize>,
    /// Cluster IPs and node ports in use, derived from the Services as they are staged.
    pub(crate) allocated: &'a mut Allocated,
}

impl Tx<'_> {
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        if let Some(&at) = self.latest.get(key) {
            return self.staged[at].after.clone();
        }
        let table = self.state.resources.get(&key.resource)?;
        table
            .objects
            .get(&(key.namespace.clone(), key.name.clone()))
            .cloned()
    }

    /// The objects of `resource` in `namespace` (all when `None`), in key order.
    pub(crate) fn list(&self, resource: &Arc<str>, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let inside = |ns: &str| namespace.is_none_or(|wanted| wanted == ns);
        let mut found = Objects::new();
        if let Some(table) = self.state.resources.get(resource) {
            let committed = table.objects.iter().filter(|((ns, _), _)| inside(ns));
            found.extend(committed.map(|(key, object)| (key.clone(), object.clone())));
        }
        for (key, &at) in self
            .latest
            .iter()
            .filter(|(key, _)| key.resource == *resource && inside(&key.namespace))
        {
            let place = (key.namespace.clone(), key.name.clone());
            match &self.staged[at].after {
                Some(object) => found.insert(place, object.clone()),
                None => found.remove(&place),
            };
        }
        found.into_values().collect()
    }

    /// Every resource that holds something in `namespace`.
    pub(crate) fn resources(&self) -> Vec<Arc<str>> {
        let mut all: Vec<Arc<str>> = self.state.resources.keys().cloned().collect();
        all.extend(self.latest.keys().map(|key| key.resource.clone()));
        all.sort();
        all.dedup();
        all
    }

    /// Stages a new state of an object and returns it with its `resourceVersion`.
    pub(crate) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        object::set_revision(&mut object, self.next_revision());
        let object = Arc::new(object);
        self.stage(key, Some(object.clone()));
        object
    }

    /// Stages a deletion and returns the object's last state.
    pub(crate) fn delete(&mut self, key: Key) -> Option<Arc<Value>> {
        let mut last = (*self.get(&key)?).clone();
        object::set_revision(&mut last, self.next_revision());
        self.stage(key, None);
        Some(Arc::new(last))
    }

    fn next_revision(&self) -> u64 {
        self.state.revision + self.staged.len() as u64 + 1
    }

    fn stage(&mut self, key: Key, after: Option<Arc<Value>>) {
        let before = self.get(&key);
        self.allocated
            .replace(&key, before.as_deref(), after.as_deref());
        self.latest.insert(key.clone(), self.staged.len());
        self.staged.push(Staged { key, before, after });
    }

    /// Forgets what was staged after the first `n`.
    fn roll_back(&mut self, n: usize) {
        while self.staged.len() > n {
            let Some(undone) = self.staged.pop() else {
                break;
            };
            self.allocated.replace(
                &undone.key,
                undone.after.as_deref(),
                undone.before.as_deref(),
            );
            match self
                .staged
                .iter()
                .rposition(|staged| staged.key == undone.key)
            {
                Some(at) => self.latest.insert(undone.key, at),
                None => self.latest.remove(&undone.key),
            };
        }
    }
}

// === impl Writer ===

/// The only one who writes. Owns the store.
pub(crate) struct Writer<S> {
    store: S,
    shared: Arc<Shared>,
    allocated: Allocated,
    jobs: mpsc::Receiver<Job>,
    /// The last commit failed, so the store must recover, and may hold more than we know.
    suspect: bool,
}

/// What readers share, where writes are sent, and who does them.
pub(crate) type Opened<S> = (Arc<Shared>, mpsc::Sender<Job>, Writer<S>);

/// Loads what the store holds. `resources` are all that will ever be asked for.
pub(crate) fn open<S: Store>(
    store: S,
    resources: &[Arc<str>],
    history: usize,
    allocated: Allocated,
) -> Result<Opened<S>, StoreError> {
    let mut state = State {
        revision: store.revision()?,
        resources: HashMap::new(),
    };
    let mut allocated = allocated;
    for resource in resources {
        let past = store.history(resource)?;
        let table = state
            .resources
            .entry(resource.clone())
            .or_insert_with(Resource::new);
        table.floor = past.floor;
        for change in past.changes {
            table.window.push_back(Arc::new(Event {
                revision: change.revision,
                namespace: change.key.namespace,
                after: decode(change.value.as_deref(), change.revision)?,
                before: decode(change.previous.as_deref(), change.revision)?,
            }));
        }
    }
    for (key, record) in store.list()? {
        let object = decode(Some(&record.json), record.revision)?;
        allocated.replace(&key, None, object.as_deref());
        // Objects of a resource that is no longer served stay in the store, unseen, until it is served again.
        if let (Some(table), Some(object)) = (state.resources.get_mut(&key.resource), object) {
            table.objects.insert((key.namespace, key.name), object);
        }
    }
    let shared = Arc::new(Shared {
        state: RwLock::new(state),
        history,
    });
    let (sender, jobs) = mpsc::channel(WRITE_QUEUE);
    let writer = Writer {
        store,
        shared: shared.clone(),
        allocated,
        jobs,
        suspect: false,
    };
    Ok((shared, sender, writer))
}

fn decode(json: Option<&[u8]>, revision: u64) -> Result<Option<Arc<Value>>, StoreError> {
    let Some(json) = json else { return Ok(None) };
    let mut object: Value = serde_json::from_slice(json).map_err(|error| StoreError::Failed {
        detail: format!("object at revision {revision}: {error}"),
    })?;
    object::set_revision(&mut object, revision);
    Ok(Some(Arc::new(object)))
}

impl<S: Store> Writer<S> {
    /// Works until every sender is gone.
    pub(crate) fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.work(std::mem::take(&mut batch));
        }
    }

    /// Runs one write now, before `run` has the thread.
    pub(crate) fn apply(&mut self, op: Op) -> Result<Outcome, ApiError> {
        let (reply, mut answer) = oneshot::channel();
        self.work(vec![Job {
            op,
            dry_run: false,
            reply,
        }]);
        answer.try_recv().unwrap_or(Err(ApiError::ShuttingDown))
    }

    fn work(&mut self, jobs: Vec<Job>) {
        if self.suspect
            && let Err(error) = self.recover()
        {
            let error = refusal(&error);
            for job in jobs {
                answer(job.reply, Err(error.clone()));
            }
            return;
        }
        let shared = self.shared.clone();
        let mut tx = Tx {
            state: shared.read(),
            staged: Vec::new(),
            latest: HashMap::new(),
            allocated: &mut self.allocated,
        };
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            let before = tx.staged.len();
            let result = (job.op)(&mut tx);
            if result.is_err() || job.dry_run {
                tx.roll_back(before);
            }
            let wrote = tx.staged.len() > before;
            answers.push((job.reply, result, wrote));
        }
        let changes: Vec<Change> = tx.staged.iter().map(change_of).collect();
        let committed = if changes.is_empty() {
            Ok(0)
        } else {
            self.store.commit(&changes)
        };
        match committed {
            Ok(_) => {
                let staged = std::mem::take(&mut tx.staged);
                drop(tx);
                self.publish(staged);
                for (reply, result, _) in answers {
                    answer(reply, result);
                }
            }
            Err(error) => {
                tx.roll_back(0);
                drop(tx);
                self.suspect = true;
                tracing::warn!(error = %error, "the store refused a commit of {} changes", changes.len());
                for (reply, result, wrote) in answers {
                    answer(reply, if wrote { Err(refusal(&error)) } else { result });
                }
            }
        }
    }

    fn publish(&self, staged: Vec<Staged>) {
        let mut state = self.shared.write();
        let mut touched: Vec<Arc<str>> = Vec::new();
        for Staged { key, before, after } in staged {
            let revision = state.revision + 1;
            let before = before.map(|object| {
                let mut last = (*object).clone();
                object::set_revision(&mut last, revision);
                Arc::new(last)
            });
            let event = Event {
                revision,
                namespace: key.namespace.clone(),
                after,
                before,
            };
            state.publish(
                &key.resource,
                &key.namespace,
                &key.name,
                event,
                self.shared.history,
            );
            if !touched.contains(&key.resource) {
                touched.push(key.resource);
            }
        }
        let revision = state.revision;
        for resource in touched {
            if let Some(table) = state.resources.get(&resource) {
                table.changed.send_replace(revision);
            }
        }
    }

    /// Opens the store again, and learns of a commit that was reported as failed but is on disk after all.
    fn recover(&mut self) -> Result<(), StoreError> {
        self.store.recover()?;
        let known = self.shared.revision();
        if self.store.revision()? > known {
            let resources: Vec<Arc<str>> = self.shared.read().resources.keys().cloned().collect();
            let mut missed = Vec::new();
            for resource in resources {
                let past = self.store.history(&resource)?;
                missed.extend(
                    past.changes
                        .into_iter()
                        .filter(|change| change.revision > known),
                );
            }
            missed.sort_by_key(|change| change.revision);
            let mut staged = Vec::with_capacity(missed.len());
            for change in missed {
                let before = decode(change.previous.as_deref(), change.revision)?;
                let after = decode(change.value.as_deref(), change.revision)?;
                self.allocated
                    .replace(&change.key, before.as_deref(), after.as_deref());
                staged.push(Staged {
                    key: change.key,
                    before,
                    after,
                });
            }
            self.publish(staged);
        }
        self.suspect = false;
        Ok(())
    }
}

fn change_of(staged: &Staged) -> Change {
    let bytes = |object: &Option<Arc<Value>>| {
        object
            .as_ref()
            .map(|object| object.to_string().into_bytes())
    };
    let expected = staged
        .before
        .as_ref()
        .and_then(|object| object::meta(object, "resourceVersion").parse().ok());
    Change {
        key: staged.key.clone(),
        expected,
        value: bytes(&staged.after),
        previous: bytes(&staged.before),
    }
}

fn refusal(error: &StoreError) -> ApiError {
    match error {
        StoreError::Full { detail } => ApiError::StorageFull {
            detail: detail.clone(),
        },
        other => ApiError::StorageFailed {
            detail: other.to_string(),
        },
    }
}

fn answer(reply: oneshot::Sender<Result<Outcome, ApiError>>, result: Result<Outcome, ApiError>) {
    // The client may have gone; the write has happened all the same, as with any server.
    drop(reply.send(result));
}

#[cfg(test)]
mod tests;

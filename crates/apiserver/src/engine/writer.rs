//! The one thread that writes: takes writes in batches, commits each batch, then publishes it.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::tx::Staged;
use super::{Event, Job, Op, Outcome, Resource, Shared, State, Tx};
use crate::object;
use crate::removal::{self, Owners};
use crate::service::Allocated;
use crate::status::ApiError;
use crate::store::{Bound, Change, PastChange, Store, StoreError, StoreState};

/// Writes that may wait for the disk. With the batch below, a full queue is a few commits, well under a second.
const WRITE_QUEUE: usize = 256;
/// Writes that share one commit: enough to make the fsync cheap, few enough that none waits long.
const BATCH: usize = 64;

/// The only one who writes. Owns the store.
pub(crate) struct Writer<S> {
    pub(super) store: S,
    shared: Arc<Shared>,
    allocated: Allocated,
    owners: Owners,
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
    history: Bound,
    (allocated, owners): (Allocated, Owners),
) -> Result<Opened<S>, StoreError> {
    let mut state = State {
        revision: store.revision()?,
        resources: HashMap::new(),
    };
    let (mut allocated, mut owners) = (allocated, owners);
    for resource in resources {
        let past = store.history(resource)?;
        let table = state
            .resources
            .entry(resource.clone())
            .or_insert_with(Resource::new);
        table.floor = past.floor;
        for change in past.changes {
            let bytes = size_of_past(&change);
            table.bytes += bytes;
            table.window.push_back(Arc::new(Event {
                bytes,
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
        owners.replace(&key, None, object.as_deref());
        // Objects of a resource that is no longer served stay in the store, unseen, until it is served again.
        if let (Some(table), Some(object)) = (state.resources.get_mut(&key.resource), object) {
            table.objects.insert((key.namespace, key.name), object);
        }
    }
    let shared = Arc::new(Shared {
        state: RwLock::new(state),
        history,
        store: watch::Sender::new(StoreState::Writable),
    });
    let (sender, jobs) = mpsc::channel(WRITE_QUEUE);
    let writer = Writer {
        store,
        shared: shared.clone(),
        allocated,
        owners,
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

    pub(super) fn work(&mut self, jobs: Vec<Job>) {
        if self.suspect
            && let Err(error) = self.recover()
        {
            self.tell(state_after(&error));
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
            owners: &mut self.owners,
        };
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            let before = tx.staged.len();
            let mut result = (job.op)(&mut tx);
            if result.is_ok() {
                removal::settle(&mut tx, before);
            }
            if job.dry_run
                && let Ok(Outcome::Object { object, .. }) = &mut result
            {
                tx.keep_revision(object, before);
            }
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
                let size = |json: &Option<Vec<u8>>| json.as_ref().map_or(0, Vec::len);
                let sizes = changes
                    .iter()
                    .map(|change| size(&change.value) + size(&change.previous));
                let staged = std::mem::take(&mut tx.staged)
                    .into_iter()
                    .zip(sizes)
                    .collect();
                drop(tx);
                self.publish(staged);
                if !changes.is_empty() {
                    self.tell(StoreState::Writable);
                }
                for (reply, result, _) in answers {
                    answer(reply, result);
                }
            }
            Err(error) => {
                tx.roll_back(0);
                drop(tx);
                self.suspect = true;
                self.tell(state_after(&error));
                tracing::warn!(error = %error, "the store refused a commit of {} changes", changes.len());
                for (reply, result, wrote) in answers {
                    answer(reply, if wrote { Err(refusal(&error)) } else { result });
                }
            }
        }
    }

    /// Says whether writes work, when that changes.
    fn tell(&self, state: StoreState) {
        self.shared.store.send_if_modified(|known| {
            let is_news = *known != state;
            if is_news {
                tracing::info!(reason = state.reason(), "the API's store changed its state");
                *known = state;
            }
            is_news
        });
    }

    /// Shows committed changes, each with its size.
    fn publish(&self, staged: Vec<(Staged, usize)>) {
        let mut state = self.shared.write();
        let mut touched: Vec<Arc<str>> = Vec::new();
        for (Staged { key, before, after }, bytes) in staged {
            let revision = state.revision + 1;
            let event = Event {
                revision,
                namespace: key.namespace.clone(),
                after,
                before,
                bytes,
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
                let bytes = size_of_past(&change);
                let before = decode(change.previous.as_deref(), change.revision)?;
                let after = decode(change.value.as_deref(), change.revision)?;
                self.allocated
                    .replace(&change.key, before.as_deref(), after.as_deref());
                self.owners
                    .replace(&change.key, before.as_deref(), after.as_deref());
                staged.push((
                    Staged {
                        key: change.key,
                        before,
                        after,
                    },
                    bytes,
                ));
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

fn size_of_past(change: &PastChange) -> usize {
    let size = |json: &Option<Vec<u8>>| json.as_ref().map_or(0, Vec::len);
    size(&change.value) + size(&change.previous)
}

fn state_after(error: &StoreError) -> StoreState {
    match error {
        StoreError::Full { detail } => StoreState::Full {
            detail: detail.clone(),
        },
        other => StoreState::Failed {
            detail: other.to_string(),
        },
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

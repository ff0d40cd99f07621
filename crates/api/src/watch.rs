//! From watch streams to complete snapshots.
//!
//! ```text
//! Services ────────┐
//! EndpointSlices ──┤ kube watchers   SnapshotDriver              watch::channel (newest wins)
//! Nodes ───────────┼───(merged)────▶ SnapshotBuilder ──────────▶ Arc<Snapshot>, generation n, n+1, ...
//! L2 policies ─────┘                      └────────────────────▶ Problems: what cannot be read
//! ```
//!
//! Invariant (style.md I6): a [`Snapshot`] leaves here only after every initial list is complete, and a cut watch or a
//! new list never shows fewer objects than there are. One task owns everything; there is no queue that could fill:
//! a slow reader sees the newest snapshot and skips those between. Read [`builder`] for the joining, which is pure.

pub mod builder;
mod claims;
pub mod feed;
pub mod table;

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use fairlead_model::Snapshot;
use futures::{FutureExt as _, StreamExt as _};
use kube::Client;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::convert::ConvertError;
use builder::{Change, SnapshotBuilder};

/// Most events taken together before a snapshot is published, so that an endless storm still publishes.
const BATCH: usize = 8192;

/// An object that a problem is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace; empty for objects without.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// What cannot be read, in the order of objects.
pub type Problems = Arc<Vec<(ObjectRef, ConvertError)>>;

/// Four whole lists from before, for a start without the API server.
#[derive(Clone)]
pub struct Kept(Arc<dyn Fn() -> Option<Vec<Change>> + Send + Sync>);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Kept {
    /// `load` may block on the disk, briefly; `None` if there is nothing.
    pub fn new(load: impl Fn() -> Option<Vec<Change>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(load))
    }
}

/// How long an API server is waited for where there is a [`Kept`] list: one that answers is always fresher.
const PATIENCE: Duration = Duration::from_secs(2);

/// Watches of everything that an agent acts on, before the first lists are complete.
pub struct SnapshotSource {
    pump: Pump,
    kept: Option<Kept>,
}

impl SnapshotSource {
    /// Begins nothing yet; [`Self::ready`] does.
    pub fn new(client: &Client) -> Self {
        Self {
            pump: Pump {
                client: client.clone(),
                again: Arc::default(),
                feed: feed::all(client),
                builder: SnapshotBuilder::default(),
                problems: watch::Sender::new(Problems::default()),
            },
            kept: None,
        }
    }

    /// What cannot be read, now and later.
    pub fn problems(&self) -> watch::Receiver<Problems> {
        self.pump.problems.subscribe()
    }

    /// Makes every watch begin anew at each notice, without showing fewer objects meanwhile. For who knows that the API
    /// server was away: a watch on a connection that died silently notices only after minutes.
    #[must_use]
    pub fn again(mut self, notice: Arc<Notify>) -> Self {
        self.pump.again = notice;
        self
    }

    /// What [`Self::ready`] begins with if the API server has not sent its lists within [`PATIENCE`].
    #[must_use]
    pub fn or_kept(mut self, kept: Option<Kept>) -> Self {
        self.kept = kept;
        self
    }

    /// Waits until every initial list is complete: then the receiver holds the first snapshot, and the driver, to be
    /// run by the caller's supervisor, keeps it current. `None` if `stop` fires first. An API server that is away, a
    /// missing permission or a CRD not yet installed is logged and tried again for as long as it takes.
    ///
    /// # Cancel safety
    /// Dropping the future ends the watches.
    pub async fn ready(
        self,
        stop: &CancellationToken,
    ) -> Option<(watch::Receiver<Arc<Snapshot>>, SnapshotDriver)> {
        let Self { mut pump, mut kept } = self;
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                batch = pump.next_batch(stop) => batch?,
                () = &mut patience, if kept.is_some() => pump.begin_with(kept.take()),
            }
            if let Some(first) = pump.builder.build() {
                let (snapshots, receiver) = watch::channel(first);
                return Some((receiver, SnapshotDriver { pump, snapshots }));
            }
        }
    }
}

/// Keeps the snapshot current.
pub struct SnapshotDriver {
    pump: Pump,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

impl SnapshotDriver {
    /// Runs until `stop` fires; fits a supervisor's `spawn`.
    ///
    /// # Cancel safety
    /// Dropping the future ends the watches; the last snapshot stays readable.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        while self.pump.next_batch(&stop).await.is_some() {
            if let Some(next) = self.pump.builder.build() {
                tracing::debug!(r#gen = next.generation.0, "snapshot");
                self.snapshots.send_replace(next);
            }
        }
        Ok(())
    }
}

/// The streams and what has been made of them.
struct Pump {
    client: Client,
    again: Arc<Notify>,
    feed: feed::Feed,
    builder: SnapshotBuilder,
    problems: watch::Sender<Problems>,
}

impl Pump {
    /// Waits for one event, then takes whatever has already arrived with it; `None` when told to stop.
    async fn next_batch(&mut self, stop: &CancellationToken) -> Option<()> {
        let first = tokio::select! {
            () = stop.cancelled() => return None,
            () = self.again.notified() => {
                self.feed = feed::all(&self.client);
                None
            }
            change = self.feed.next() => change.expect("watchers never end"),
        };
        self.take(first);
        for _ in 1..BATCH {
            match self.feed.next().now_or_never() {
                Some(Some(change)) => self.take(change),
                Some(None) | None => break,
            }
        }
        if let Some(problems) = self.builder.take_problems() {
            for (object, error) in &problems {
                tracing::warn!(reason = error.reason(), %error, "cannot read all of {object}");
            }
            self.problems.send_replace(Arc::new(problems));
        }
        Some(())
    }

    /// Takes lists from before. The watches begin anew: one that was in the middle of its list would go on as if these were its own.
    fn begin_with(&mut self, kept: Option<Kept>) {
        let Some(changes) = kept.and_then(|kept| kept.0()) else {
            return;
        };
        tracing::warn!(
            reason = "SnapshotFromDisk",
            "the API server does not answer: working with the last complete snapshot kept on this node"
        );
        self.feed = feed::all(&self.client);
        for change in changes {
            self.builder.apply(change);
        }
    }

    fn take(&mut self, change: Option<Change>) {
        if let Some(change) = change {
            self.builder.apply(change);
        }
    }
}

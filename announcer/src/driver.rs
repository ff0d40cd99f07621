//! Runs the engines: a heartbeat thread of its own, and a control side that tells it what may be owned.
//!
//! ```text
//! snapshot  watch ─┐                   Command, 64 + eventfd
//! programmed watch ┼─▶ control (task) ─────────────────────────▶ heartbeat (thread, SCHED_FIFO): engines, sockets, maps
//! links     events ┘       ▲    │     ◀─────────────────────────   full: the control side waits
//! leases    watch ─────────┘    │      Report, 8192 + Notify       full: the row comes again at the next tick
//!                               ├─▶ watch<Arc<L2Status>> ─▶ lease (task), policies (task), agent
//!                               └─▶ neighbour groups by netlink
//! ```
//!
//! Invariant: the thread decides and acts alone; the control side, the API and the disk may all stand still, and addresses still move. If
//! the control side stands still for 10 s, the thread stops renewing, so that a half-dead agent loses what it owns.

use std::{collections::BTreeMap, sync::Arc};

use fairlead_datapath::maps::{L2Maps, MapError};
use fairlead_model::{NodeName, Snapshot, Vip};
use fairlead_netlink::{Netlink, NetlinkError};
use fairlead_rt::{CancellationToken, ExitError, Supervisor, metrics::Metrics as Registry};
use tokio::sync::{mpsc, oneshot, watch};

mod control;
mod metrics;
mod network;
mod realtime;
mod responder;
mod sockets;
mod thread;

use crate::{
    conditions, events, lease,
    ownership::{MoveError, Settings},
    policy::Programmed,
    status::{History, L2Status},
};
pub use sockets::SocketError;

/// What an announcer is told once.
#[derive(Clone)]
pub struct AnnouncerConfig {
    /// This node.
    pub node: NodeName,
    /// Announcing interfaces by name; an interface's place is its deadline cell (`Iface::l2_cell`), at most 16.
    pub interfaces: Vec<String>,
    /// Timers.
    pub settings: Settings,
    /// Where and how Leases are written.
    pub lease: lease::LeaseConfig,
}

/// What an announcer works with.
pub struct AnnouncerInputs {
    /// Heartbeat keys, never none: all are accepted, and while there are several every message is sent once with each, so that peers that have
    /// not heard of the new one yet, or of the old one any more, go on hearing us.
    pub keys: watch::Receiver<Vec<Vec<u8>>>,
    /// Where changes of owners are kept; it outlives the announcer.
    pub history: watch::Sender<History>,
    /// Moves on request.
    pub moves: mpsc::Receiver<MoveRequest>,
    /// What is wanted; `None` until it is known. Adopted addresses are kept meanwhile.
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    /// What the datapath serves.
    pub programmed: watch::Receiver<Programmed>,
    /// The announcer's maps.
    pub maps: L2Maps,
    /// Links, addresses, neighbours.
    pub netlink: Netlink,
    /// Where Leases and policy conditions are written; without it, nothing is.
    pub client: Option<kube::Client>,
    /// Where metrics are registered.
    pub metrics: Registry,
}

/// Somebody wants an address elsewhere.
#[derive(Debug)]
pub struct MoveRequest {
    /// The address; its whole group goes.
    pub vip: Vip,
    /// Where.
    pub to: NodeName,
    /// Whether it was offered. That it was taken shows in the status.
    pub answer: oneshot::Sender<Result<(), MoveError>>,
}

/// Why the announcer ended.
#[derive(Debug, thiserror::Error)]
pub enum AnnouncerError {
    /// Heartbeats cannot be signed.
    #[error("no heartbeat key: put at least one into the Secret")]
    NoKey,
    /// The programs have cells for so many.
    #[error("{n} announcing interfaces, at most {max} are possible: name fewer")]
    TooManyInterfaces {
        /// Asked for.
        n: usize,
        /// Possible.
        max: usize,
    },
    /// The wake-up descriptor of the heartbeat thread.
    #[error("eventfd for the heartbeat thread")]
    EventFd(#[source] nix::Error),
    /// The kernel's answers about links.
    #[error("network state of the announcing interfaces")]
    Netlink(#[from] NetlinkError),
    /// The announcer's maps.
    #[error("maps of the announcer")]
    Maps(#[from] MapError),
    /// A task failed.
    #[error("announcer stopped")]
    Task(#[from] ExitError),
}

impl AnnouncerError {
    /// The closed word for conditions, metrics and the runbook.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoKey => "NoHeartbeatKey",
            Self::TooManyInterfaces { .. } => "TooManyInterfaces",
            Self::EventFd(_) => "EventFdFailed",
            Self::Netlink(_) => "NetworkUnavailable",
            Self::Maps(_) => "MapUnavailable",
            Self::Task(_) => "TaskFailed",
        }
    }
}

/// Announces addresses on the LAN.
pub struct Announcer {
    config: AnnouncerConfig,
    inputs: AnnouncerInputs,
    status: watch::Sender<Arc<L2Status>>,
}

impl Announcer {
    /// Does nothing yet; [`Self::run`] does.
    ///
    /// # Errors
    /// [`AnnouncerError::NoKey`], [`AnnouncerError::TooManyInterfaces`].
    pub fn new(config: AnnouncerConfig, inputs: AnnouncerInputs) -> Result<Self, AnnouncerError> {
        if inputs.keys.borrow().is_empty() {
            return Err(AnnouncerError::NoKey);
        }
        let (n, max) = (config.interfaces.len(), thread::MAX_SEGMENTS);
        if n > max {
            return Err(AnnouncerError::TooManyInterfaces { n, max });
        }
        let (status, _) = watch::channel(Arc::default());
        Ok(Self {
            config,
            inputs,
            status,
        })
    }

    /// Who owns what and why, now and later.
    pub fn status(&self) -> watch::Receiver<Arc<L2Status>> {
        self.status.subscribe()
    }

    /// Runs until `stop` fires, then hands everything over and lets go; what nobody takes goes on being answered by the kernel.
    ///
    /// # Errors
    /// What ended it before `stop` fired.
    ///
    /// # Cancel safety
    /// Dropping the future is a kill: the kernel goes on answering until the deadline, or for ever if no peer is heard.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AnnouncerError> {
        let mut tasks = Supervisor::new("announcer", stop);
        let (leases, seen) = watch::channel(BTreeMap::new());
        if let Some(client) = self.inputs.client.clone() {
            let (node, config) = (self.config.node.clone(), self.config.lease.clone());
            let lease = lease::run(
                client.clone(),
                node,
                config,
                self.inputs.snapshot.clone(),
                self.status.subscribe(),
                leases,
                tasks.token(),
            );
            tasks.spawn("lease", lease);
            let policies = conditions::run(
                client.clone(),
                self.config.node.clone(),
                self.inputs.snapshot.clone(),
                self.status.subscribe(),
                tasks.token(),
            );
            tasks.spawn("policies", policies);
            let (node, status) = (self.config.node.clone(), self.status.subscribe());
            tasks.spawn("events", events::run(client, node, status, tasks.token()));
        }
        let (control, heart) = control::start(self.config, self.inputs, self.status, seen)?;
        tasks.spawn_thread("heartbeat", move |_| heart.run());
        let token = tasks.token();
        tasks.spawn("control", control.run(token));
        tasks.first_exit().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! The heartbeat thread: engines, their sockets and maps, one loop. Nothing in it waits but `ppoll`, and in steady state nothing allocates.
//!
//! Sockets are read before engines tick, so that a late tick judges with everything that had arrived. Tables come built and go back whole
//! for the control side to drop. Queues that are full delay status, never decisions.

use std::{
    convert::Infallible,
    net::IpAddr,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError},
    },
    time::Duration,
};

use fairlead_rt::clock;
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{eventfd::EventFd, time::TimeSpec},
};
use tokio::sync::{Notify, oneshot};

use super::{
    metrics::Metrics,
    realtime,
    responder::Responder,
    sockets::{MAX_FDS, Sockets},
};
use crate::{
    BootTime,
    frames::{self, Sender},
    heartbeat::{self, CLAIMS_PER_CHUNK, Key, MAX_LEN},
    ownership::{
        Action, Engine, GroupReport, MoveError, PeerReport, Table, VipReport, order::NodeId,
    },
};

/// Most interfaces: the cells that the programs have.
pub(super) const MAX_SEGMENTS: usize = fairlead_abi::l2::N_L2_CELLS as usize;
/// The control side has not answered for so long: it is stuck, and nothing is renewed.
const WATCHDOG: Duration = Duration::from_secs(10);
/// A wake-up that comes later than this is counted.
const LATE: Duration = Duration::from_millis(10);
/// Messages read from one interface before engines tick: 64 peers' beats and claim lists of a second.
const READ_BATCH: usize = 2_048;
/// Actions of one tick that find room without allocation.
const ACTIONS: usize = 16_384;
/// Longest frame that is looked at.
const FRAME_LEN: usize = 256;
/// Between two reports of peers.
const PEERS_EVERY: Duration = Duration::from_millis(500);

/// From the control side.
pub(super) enum Command {
    /// Begin on an interface.
    Add(Box<Segment>),
    /// End on it; entries stay as they are.
    Remove { cell: u16 },
    /// What may be owned.
    Table { cell: u16, table: Box<Table> },
    /// Carrier.
    Link { cell: u16, is_up: bool },
    /// Addresses, gateways and who may be asked for a sign of life.
    Network { cell: u16, network: Box<Network> },
    /// Sockets opened anew, since the interface's addresses changed.
    Sockets { cell: u16, sockets: Box<Sockets> },
    /// Offer an address that is ours to another node.
    Move {
        cell: u16,
        vip: IpAddr,
        node: NodeId,
        answer: oneshot::Sender<Result<(), MoveError>>,
    },
    /// What signs, and what is accepted.
    Keys(Vec<Key>),
    /// Hand over and end.
    Leave,
}

/// To the control side.
#[derive(Debug)]
pub(super) enum Report {
    Group {
        cell: u16,
        key: IpAddr,
        report: GroupReport,
    },
    Vip {
        cell: u16,
        vip: IpAddr,
        report: VipReport,
    },
    Peer {
        cell: u16,
        report: PeerReport,
    },
    /// The same name and index is heartbeating from another machine.
    Twin {
        cell: u16,
        mac: fairlead_model::MacAddr,
    },
    /// No longer needed here.
    Retired(Retired),
}

/// Memory to be freed where freeing may take its time.
#[derive(Debug)]
#[expect(dead_code, reason = "held only to be dropped by the receiver")]
pub(super) enum Retired {
    Table(Box<Table>),
    Sockets(Box<Sockets>),
    Network(Box<Network>),
    Keys(Vec<Key>),
}

/// What is known of an interface's network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Network {
    pub sender: Sender,
    pub gateways: Vec<IpAddr>,
    pub witnesses: Vec<IpAddr>,
}

/// One interface.
pub(super) struct Segment {
    pub cell: u16,
    pub engine: Engine,
    pub sockets: Box<Sockets>,
    pub responder: Responder,
    pub network: Box<Network>,
    pub peers_at: BootTime,
    /// Tables installed so far; the control side compares.
    pub installed: Arc<AtomicU64>,
}

/// The thread's state.
pub(super) struct Heart {
    pub keys: Vec<Key>,
    pub commands: Receiver<Command>,
    pub wake: Arc<EventFd>,
    pub reports: SyncSender<Report>,
    pub news: Arc<Notify>,
    /// When the control side answered last, in nanoseconds since boot.
    pub control: Arc<AtomicU64>,
    pub metrics: Metrics,
    segments: Vec<Segment>,
    actions: Vec<Action>,
    is_leaving: bool,
    has_news: bool,
}

fn now() -> BootTime {
    BootTime::from_nanos(clock::boottime_ns())
}

impl Heart {
    pub(super) fn new(
        keys: Vec<Key>,
        (commands, wake): (Receiver<Command>, Arc<EventFd>),
        (reports, news): (SyncSender<Report>, Arc<Notify>),
        control: Arc<AtomicU64>,
        metrics: Metrics,
    ) -> Self {
        Self {
            keys,
            commands,
            wake,
            reports,
            news,
            control,
            metrics,
            segments: Vec::with_capacity(MAX_SEGMENTS),
            actions: Vec::with_capacity(ACTIONS),
            is_leaving: false,
            has_news: false,
        }
    }

    /// Beats until the control side has gone, or everything has been handed over after [`Command::Leave`].
    pub(super) fn run(mut self) -> Result<(), Infallible> {
        self.metrics
            .is_realtime
            .set(i64::from(realtime::make_realtime()));
        let is_locked = realtime::lock_stack() && realtime::lock(self.actions.spare_capacity_mut());
        self.metrics.is_locked.set(i64::from(is_locked));
        loop {
            self.wait();
            if !self.obey() || self.has_left() {
                return Ok(());
            }
            for at in 0..self.segments.len() {
                self.read(at);
            }
            let computed = now();
            let control = BootTime::from_nanos(self.control.load(Ordering::Relaxed));
            let now = now();
            let may_renew = now.since(control) < WATCHDOG;
            for at in 0..self.segments.len() {
                let engine = &mut self.segments[at].engine;
                engine.tick(computed, now, may_renew, &mut self.actions);
                self.perform(at);
                self.report(at, now);
            }
            if std::mem::take(&mut self.has_news) {
                self.news.notify_one();
            }
        }
    }

    /// Sleeps until something arrives or an engine wants to wake.
    fn wait(&self) {
        let due = self.segments.iter().map(|s| s.engine.wake_at()).min();
        let due = due.unwrap_or(BootTime::NEVER);
        let left = due.since(now()).min(Duration::from_secs(1));
        let wake = |_| PollFd::new(self.wake.as_fd(), PollFlags::POLLIN);
        let mut fds: [PollFd<'_>; 1 + MAX_SEGMENTS * MAX_FDS] = std::array::from_fn(wake);
        let mut n = 1;
        for fd in self.segments.iter().flat_map(|s| s.sockets.fds()) {
            fds[n] = PollFd::new(fd, PollFlags::POLLIN);
            n += 1;
        }
        // An interrupted wait is one that ends early.
        if ppoll(&mut fds[..n], Some(TimeSpec::from_duration(left)), None) == Ok(0)
            && now().since(due) > LATE
        {
            self.metrics.late_ticks.inc();
        }
    }

    /// Carries out what the control side wants; false when it has gone.
    fn obey(&mut self) -> bool {
        // Nothing to read is as good as read.
        let _n_rings = self.wake.read();
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.command(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn at(&self, cell: u16) -> Option<usize> {
        self.segments.iter().position(|s| s.cell == cell)
    }

    fn command(&mut self, command: Command) {
        let now = now();
        match command {
            Command::Add(segment) => {
                if self.segments.len() < MAX_SEGMENTS && self.at(segment.cell).is_none() {
                    self.segments.push(*segment);
                }
            }
            Command::Remove { cell } => self.segments.retain(|s| s.cell != cell),
            Command::Table { cell, table } => {
                if let Some(at) = self.at(cell) {
                    let engine = &mut self.segments[at].engine;
                    let old = engine.install(table, now, &mut self.actions);
                    self.perform(at);
                    self.segments[at].installed.fetch_add(1, Ordering::Release);
                    self.retire(Retired::Table(old));
                }
            }
            Command::Link { cell, is_up } => {
                if let Some(at) = self.at(cell) {
                    let engine = &mut self.segments[at].engine;
                    engine.on_link(is_up, now, &mut self.actions);
                    self.perform(at);
                }
            }
            Command::Network { cell, mut network } => {
                if let Some(at) = self.at(cell) {
                    let segment = &mut self.segments[at];
                    segment.engine.set_gateways(&network.gateways, now);
                    segment.engine.set_mac(network.sender.mac, now);
                    segment.responder.mac = network.sender.mac;
                    std::mem::swap(&mut segment.network, &mut network);
                    self.retire(Retired::Network(network));
                }
            }
            Command::Sockets { cell, mut sockets } => {
                if let Some(at) = self.at(cell) {
                    std::mem::swap(&mut self.segments[at].sockets, &mut sockets);
                    self.retire(Retired::Sockets(sockets));
                }
            }
            Command::Move {
                cell,
                vip,
                node,
                answer,
            } => {
                // Whoever asked may have gone.
                let _gone = answer.send(self.move_away(cell, vip, node));
            }
            Command::Keys(mut keys) => {
                std::mem::swap(&mut self.keys, &mut keys);
                self.retire(Retired::Keys(keys));
            }
            Command::Leave => {
                self.is_leaving = true;
                for segment in &mut self.segments {
                    segment.engine.leave(now);
                }
            }
        }
    }

    fn move_away(&mut self, cell: u16, vip: IpAddr, node: NodeId) -> Result<(), MoveError> {
        let at = self.at(cell).ok_or(MoveError::Unknown)?;
        self.segments[at].engine.move_to(vip, node, now())
    }

    /// Freed by the control side; here only if it does not keep up.
    fn retire(&mut self, retired: Retired) {
        self.has_news = true;
        drop(self.reports.try_send(Report::Retired(retired)));
    }

    fn has_left(&self) -> bool {
        let now = now();
        self.is_leaving && self.segments.iter().all(|s| s.engine.has_left(now))
    }

    /// Reads everything that has arrived.
    fn read(&mut self, at: usize) {
        let segment = &mut self.segments[at];
        let mut datagram = [0; MAX_LEN + 1];
        let mut frame = [0; FRAME_LEN];
        for _ in 0..READ_BATCH {
            let Some(len) = segment.sockets.read_heartbeat(&mut datagram) else {
                break;
            };
            match heartbeat::decode(&datagram[..len], &self.keys) {
                Ok(message) => {
                    self.metrics.beats_heard.inc();
                    segment
                        .engine
                        .on_message(&message, now(), &mut self.actions);
                }
                Err(error) => self.metrics.refuse(error),
            }
        }
        for _ in 0..READ_BATCH {
            let Some(len) = segment.sockets.read_frame(&mut frame) else {
                break;
            };
            if let Some(seen) = frames::parse(&frame[..len]) {
                segment.engine.on_frame(&seen, now(), &mut self.actions);
            }
        }
        self.perform(at);
    }

    /// Carries out what an engine wants, in its order.
    fn perform(&mut self, at: usize) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in &actions {
            self.act(at, action);
        }
        actions.clear();
        self.actions = actions;
    }

    fn act(&mut self, at: usize, action: &Action) {
        let segment = &mut self.segments[at];
        let written = match *action {
            Action::SendBeat => return self.send_beat(at),
            Action::SendClaims => return self.send_claims(at),
            Action::Probe { vip, to } => {
                self.metrics.probes_sent.inc();
                let frame = frames::probe(&segment.network.sender, vip, to);
                return self.send_frame(at, frame.as_bytes());
            }
            Action::AskWitnesses => return self.ask_witnesses(at),
            Action::Announce { vip } => {
                self.metrics.announcements_sent.inc();
                let announcement = frames::announcement(&segment.network.sender, vip);
                for frame in announcement.iter().flatten() {
                    self.send_frame(at, frame.as_bytes());
                }
                return;
            }
            Action::Program {
                vip,
                epoch,
                cell_epoch,
                candidates,
            } => segment
                .responder
                .program(vip, epoch, cell_epoch, candidates),
            Action::Unprogram { vip } => segment.responder.unprogram(vip),
            Action::Renew {
                deadline,
                cell_epoch,
            } => {
                segment.responder.renew(deadline, cell_epoch);
                Ok(())
            }
            Action::Peer { slot, mac } => segment.responder.peer(slot, mac),
            Action::NoPeer { mac, .. } => segment.responder.no_peer(mac),
        };
        if written.is_err() {
            self.metrics.map_failures.inc();
        }
    }

    fn send_frame(&self, at: usize, frame: &[u8]) {
        if self.segments[at].sockets.send_frame(frame).is_err() {
            self.metrics.send_failures.inc();
        }
    }

    fn ask_witnesses(&self, at: usize) {
        let network = &self.segments[at].network;
        let asked = network.gateways.iter().chain(&network.witnesses);
        for witness in asked {
            let frame = frames::probe(&network.sender, *witness, None);
            self.send_frame(at, frame.as_bytes());
        }
    }

    fn send_beat(&mut self, at: usize) {
        let now = now();
        let segment = &mut self.segments[at];
        let header = segment.engine.beat_header(now);
        let mut buffer = [0; MAX_LEN];
        self.metrics.beats_sent.inc();
        for key in &self.keys {
            let len = heartbeat::encode_beat(&mut buffer, key, &header, segment.engine.heard(now));
            if segment.sockets.send_heartbeat(&buffer[..len]).is_err() {
                self.metrics.send_failures.inc();
            }
        }
    }

    fn send_claims(&mut self, at: usize) {
        let now = now();
        let segment = &mut self.segments[at];
        let n_chunks = segment.engine.n_claim_chunks();
        for chunk in 0..n_chunks {
            let header = segment.engine.claims_header(now);
            let mut buffer = [0; MAX_LEN];
            let narrow = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
            let part = (narrow(chunk), narrow(n_chunks));
            for key in &self.keys {
                let claims = segment.engine.claims().skip(chunk * CLAIMS_PER_CHUNK);
                let len = heartbeat::encode_claims(&mut buffer, key, &header, part, claims);
                if segment.sockets.send_heartbeat(&buffer[..len]).is_err() {
                    self.metrics.send_failures.inc();
                }
            }
        }
    }

    /// Tells the control side what changed, as far as its queue has room.
    fn report(&mut self, at: usize, now: BootTime) {
        let Self {
            segments,
            reports,
            metrics,
            has_news,
            ..
        } = self;
        let segment = &mut segments[at];
        let cell = segment.cell;
        let mut send = |report| {
            *has_news = true;
            let is_sent = reports.try_send(report).is_ok();
            if !is_sent {
                metrics.reports_deferred.inc();
            }
            is_sent
        };
        segment
            .engine
            .vip_reports(|vip, report| send(Report::Vip { cell, vip, report }));
        segment
            .engine
            .reports(|key, report| send(Report::Group { cell, key, report }));
        if now < segment.peers_at {
            return;
        }
        segment.peers_at = now + PEERS_EVERY;
        for report in segment.engine.peer_reports(now) {
            send(Report::Peer { cell, report });
        }
        if let Some(mac) = segment.engine.twin() {
            send(Report::Twin { cell, mac });
        }
    }
}

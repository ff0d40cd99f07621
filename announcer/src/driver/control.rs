//! The control side: tells the heartbeat thread what may be owned, and people what is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    time::Duration,
};

use fairlead_abi::l2::{HEARTBEAT_GROUP4, HEARTBEAT_GROUP6};
use fairlead_model::{NodeName, ServiceName, Snapshot, Vip};
use fairlead_netlink::{Event, Events, Link};
use fairlead_rt::{BoxError, CancellationToken, clock};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::{
    AnnouncerConfig, AnnouncerError, AnnouncerInputs, MoveRequest,
    metrics::Metrics,
    network::Kernel,
    realtime::Locked,
    responder::{self, Responder},
    sockets::{Families, Sockets},
    thread::{Command, Heart, Network, Report, Segment},
};
use crate::{
    BootTime,
    driver::control::book::Book,
    frames::solicited_node,
    heartbeat::Key,
    ownership::{Engine, GroupSpec, Me, MoveError, Table, VipReport, order::NodeId},
    policy::{self, Gate, Plan, Wanted},
    status::{InterfaceStatus, L2Status, Names},
};

mod book;

/// Commands that wait for the thread, which reads them at each wake-up.
const COMMANDS: usize = 64;
/// Status rows that wait for the control side: a thousand addresses change state a few times within its reaction time.
const REPORTS: usize = 8_192;
/// Between two signs of life to the thread.
const PULSE: Duration = Duration::from_millis(500);
/// Between two looks at the kernel's network state without an event.
const LOOK: Duration = Duration::from_secs(10);
/// Events are gathered for so long before the kernel is asked.
const GATHER: Duration = Duration::from_millis(50);
/// How long a clean stop waits for the thread after its own limit.
const LEAVE: Duration = Duration::from_secs(2);

/// An interface as the control side knows it.
struct Known {
    ifindex: u32,
    families: Families,
    has_carrier: bool,
    network: Network,
    /// What the latest table was built from.
    groups: Vec<GroupSpec>,
    /// Tables sent, and installed as the thread says.
    sent: u64,
    installed: Arc<AtomicU64>,
}

/// The control side, to be run as a task.
pub(super) struct Control {
    config: AnnouncerConfig,
    inputs: AnnouncerInputs,
    status: watch::Sender<Arc<L2Status>>,
    leases: watch::Receiver<BTreeMap<String, NodeName>>,
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
    reports: Receiver<Report>,
    news: Arc<Notify>,
    pulse: Arc<AtomicU64>,
    metrics: Metrics,
    known: BTreeMap<u16, Known>,
    troubles: BTreeMap<u16, String>,
    /// Addresses of other nodes and of backends at the last look.
    looked_for: Vec<IpAddr>,
    gate: Gate,
    plan: Plan,
    names: Names,
    book: Book,
    /// Solicited-node groups that the kernel holds, by interface index.
    joined: BTreeMap<u32, BTreeSet<IpAddr>>,
}

/// Makes both sides.
pub(super) fn start(
    config: AnnouncerConfig,
    inputs: AnnouncerInputs,
    status: watch::Sender<Arc<L2Status>>,
    leases: watch::Receiver<BTreeMap<String, NodeName>>,
) -> Result<(Control, Heart), AnnouncerError> {
    let metrics = Metrics::default();
    inputs
        .metrics
        .register("announcer", |registry| metrics.register(registry));
    let (commands, obeyed) = sync_channel(COMMANDS);
    let (sent, reports) = sync_channel(REPORTS);
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake = EventFd::from_value_and_flags(0, flags).map_err(AnnouncerError::EventFd)?;
    let (wake, news) = (Arc::new(wake), Arc::new(Notify::new()));
    let pulse = Arc::new(AtomicU64::new(clock::boottime_ns()));
    let heart = Heart::new(
        keys_of(&inputs.keys.borrow()),
        (obeyed, Arc::clone(&wake)),
        (sent, Arc::clone(&news)),
        Arc::clone(&pulse),
        metrics.clone(),
    );
    let mut names = Names::default();
    names.learn(std::iter::once(&config.node));
    let control = Control {
        config,
        inputs,
        status,
        leases,
        commands,
        wake,
        reports,
        news,
        pulse,
        metrics,
        known: BTreeMap::new(),
        troubles: BTreeMap::new(),
        looked_for: Vec::new(),
        gate: Gate::default(),
        plan: Plan::default(),
        names,
        book: Book::default(),
        joined: BTreeMap::new(),
    };
    Ok((control, heart))
}

impl Control {
    /// Runs until `stop` fires, then lets the thread hand over.
    ///
    /// # Cancel safety
    /// Dropping the future ends the thread without a hand-over.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        // Subscribed before the first look, so that nothing falls between.
        let mut events = Events::open()?;
        self.look().await?;
        self.take_snapshot().await;
        // The first snapshot names the nodes and backends that are asked whether the segment lives.
        if self.has_new_witnesses() {
            self.look().await?;
        }
        let mut pulse = tokio::time::interval(PULSE);
        let mut look = tokio::time::interval(LOOK);
        let mut look_at: Option<tokio::time::Instant> = None;
        let (mut snapshots, mut programmed, mut leases) = (true, true, true);
        let (mut keys, mut moves) = (true, true);
        let news = Arc::clone(&self.news);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = pulse.tick() => {}
                () = news.notified() => self.read_reports(),
                changed = self.inputs.snapshot.changed(), if snapshots => {
                    snapshots = changed.is_ok();
                    self.take_snapshot().await;
                    if self.has_new_witnesses() && look_at.is_none() {
                        look_at = Some(tokio::time::Instant::now() + GATHER);
                    }
                }
                changed = self.inputs.programmed.changed(), if programmed => {
                    programmed = changed.is_ok();
                    self.replan().await;
                }
                changed = self.leases.changed(), if leases => {
                    leases = changed.is_ok();
                    self.replan().await;
                }
                request = self.inputs.moves.recv(), if moves => moves = self.asked(request).await,
                changed = self.inputs.keys.changed(), if keys => {
                    keys = changed.is_ok();
                    self.take_keys().await;
                }
                event = events.next() => {
                    // Neighbours come and go all the time; the regular look sees them early enough.
                    let is_neighbour =
                        matches!(event?, Event::Neighbour(_) | Event::NeighbourRemoved { .. });
                    if !is_neighbour && look_at.is_none() {
                        look_at = Some(tokio::time::Instant::now() + GATHER);
                    }
                }
                () = until(look_at), if look_at.is_some() => {
                    look_at = None;
                    self.look().await?;
                }
                _ = look.tick() => self.look().await?,
            }
            self.pulse.store(clock::boottime_ns(), Ordering::Relaxed);
            self.publish();
        }
        self.leave().await;
        Ok(())
    }

    /// A clean stop: the thread hands over and ends, which shows by its end of the reports.
    async fn leave(&mut self) {
        self.command(Command::Leave).await;
        let limit = clock::now() + self.config.settings.leave_wait + LEAVE;
        loop {
            match self.reports.try_recv() {
                Ok(report) => self.book.take(report, &self.names),
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) if clock::now() > limit => {
                    warn!("the heartbeat thread did not end in time");
                    break;
                }
                Err(TryRecvError::Empty) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
        self.publish();
    }

    /// Hands a command to the thread; waits while its queue is full.
    async fn command(&mut self, mut command: Command) {
        loop {
            match self.commands.try_send(command) {
                Ok(()) => break,
                // The thread has ended; the supervisor knows.
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(back)) => {
                    command = back;
                    self.ring();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        self.ring();
    }

    /// Wakes the thread; a counter at its limit is a bell that rings already.
    fn ring(&self) {
        let _rung = self.wake.write(1);
    }

    fn read_reports(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.book.take(report, &self.names);
        }
    }

    /// Passes new heartbeat keys on.
    async fn take_keys(&mut self) {
        let keys = keys_of(&self.inputs.keys.borrow_and_update());
        if !keys.is_empty() {
            info!(n = keys.len(), "heartbeat keys have changed");
            self.command(Command::Keys(keys)).await;
        }
    }

    /// False when nobody can ask any more.
    async fn asked(&mut self, request: Option<MoveRequest>) -> bool {
        let Some(request) = request else {
            return false;
        };
        self.move_away(request).await;
        true
    }

    /// Has the thread offer an address elsewhere, if it is ours.
    async fn move_away(&mut self, request: MoveRequest) {
        let MoveRequest { vip, to, answer } = request;
        let status = Arc::clone(&self.status.borrow());
        let mut rows = status.vips.iter().filter(|((of, _), _)| *of == vip);
        let is_known = rows.clone().next().is_some();
        let own = rows.find(|(_, row)| row.is_self);
        let own = own.map(|((_, interface), _)| interface);
        let mut cells = (0u16..).zip(&self.config.interfaces);
        let cell = cells.find(|(_, name)| own == Some(*name));
        let Some((cell, _)) = cell else {
            let why = if is_known {
                MoveError::NotOwner
            } else {
                MoveError::Unknown
            };
            // Whoever asked may have gone.
            let _gone = answer.send(Err(why));
            return;
        };
        let node = NodeId::of(&to);
        self.command(Command::Move {
            cell,
            vip,
            node,
            answer,
        })
        .await;
    }

    // === what is wanted ===

    async fn take_snapshot(&mut self) {
        let snapshot = self.inputs.snapshot.borrow_and_update().clone();
        if let Some(snapshot) = &snapshot {
            self.gate.note(snapshot);
            self.names.learn(snapshot.nodes.keys());
        }
        self.replan().await;
    }

    /// Builds the tables that changed.
    async fn replan(&mut self) {
        let Some(snapshot) = self.inputs.snapshot.borrow().clone() else {
            return;
        };
        let programmed = self.inputs.programmed.borrow_and_update().clone();
        let leases = self.holders(&snapshot);
        let (config, gate) = (&self.config, &self.gate);
        self.plan = policy::plan(
            &snapshot,
            &config.node,
            &config.interfaces,
            |vip| gate.is_open(vip, &programmed),
            &leases,
        );
        for cell in self.known.keys().copied().collect::<Vec<u16>>() {
            self.send_table(cell).await;
        }
        self.join_groups().await;
    }

    fn holders(&self, snapshot: &Snapshot) -> BTreeMap<ServiceName, NodeName> {
        let leases = self.leases.borrow();
        let services = snapshot.services.keys();
        services
            .filter_map(|service| {
                let holder = leases.get(&fairlead_api::names::lease_name(service))?;
                Some((service.clone(), holder.clone()))
            })
            .collect()
    }

    fn wanted(&self, cell: u16) -> Option<&Wanted> {
        wanted(&self.config, &self.plan, cell)
    }

    async fn send_table(&mut self, cell: u16) {
        let groups = self.wanted(cell).map(|wanted| wanted.groups.clone());
        let (Some(groups), Some(known)) = (groups, self.known.get_mut(&cell)) else {
            return;
        };
        if known.sent > 0 && known.groups == groups {
            return;
        }
        let specs = groups.clone();
        known.groups = groups;
        known.sent += 1;
        let sent = known.sent;
        let table = fairlead_rt::blocking(move || {
            let table = Box::new(Table::new(&specs));
            table.keep_resident(&Locked);
            table
        })
        .await;
        self.book.expect(cell, sent, &table);
        self.command(Command::Table { cell, table }).await;
    }

    // === the network ===

    /// Whether the snapshot names stations that the last look did not know.
    fn has_new_witnesses(&self) -> bool {
        self.known_addresses() != self.looked_for
    }

    /// Asks the kernel and passes on what changed.
    async fn look(&mut self) -> Result<(), AnnouncerError> {
        let kernel = Kernel::ask(&self.inputs.netlink).await?;
        self.looked_for = self.known_addresses();
        let interfaces = self.config.interfaces.clone();
        for (cell, name) in (0u16..).zip(&interfaces) {
            let link = kernel.link(name);
            let index = link.map(|link| link.index);
            if let Some(known) = self.known.get(&cell)
                && Some(known.ifindex) != index
            {
                info!(interface = %name, "interface is gone, or another of the same name came");
                self.known.remove(&cell);
                self.book.forget(cell);
                self.command(Command::Remove { cell }).await;
            }
            let master = link.and_then(|link| kernel.master(link));
            let outcome = match link {
                Some(link) if master.is_some() => {
                    self.forsake(cell).await;
                    Err(format!(
                        "{} is a port of {}: announce on that instead",
                        link.name,
                        master.unwrap_or_default()
                    ))
                }
                Some(link) if self.known.contains_key(&cell) => {
                    self.update(cell, link, &kernel).await
                }
                Some(link) => self.add(cell, link, &kernel).await,
                None => Err(format!("no interface is called {name}")),
            };
            match outcome {
                Ok(()) => drop(self.troubles.remove(&cell)),
                Err(trouble) => {
                    let before = self.troubles.insert(cell, trouble.clone());
                    if before.as_ref() != Some(&trouble) {
                        warn!(interface = %name, error = %trouble, "not announcing");
                    }
                }
            }
        }
        self.joined = self
            .known
            .values()
            .map(|known| (known.ifindex, kernel.joined_groups(known.ifindex).collect()))
            .collect();
        self.join_groups().await;
        Ok(())
    }

    /// Begins on an interface: adopts what still answers, then listens.
    async fn add(&mut self, cell: u16, link: &Link, kernel: &Kernel) -> Result<(), String> {
        let Some(mac) = link.mac else {
            return Err(format!("{} has no hardware address", link.name));
        };
        let families = kernel.families(link.index);
        let sockets = Sockets::open(&link.name, link.index, families).map_err(|e| chain(&e))?;
        let responder = Responder::new(self.inputs.maps.clone(), link.index, cell, mac);
        let now = BootTime::from_nanos(clock::boottime_ns());
        let found = responder.find(now).map_err(|e| chain(&e))?;
        if !found.answering.is_empty() {
            info!(interface = %link.name, n = found.answering.len(), "adopting addresses that still answer");
        }
        // Held from the first status on, so that nothing that serves them is unprogrammed meanwhile.
        for (vip, _) in &found.answering {
            let report = VipReport {
                is_held: true,
                ..VipReport::default()
            };
            let report = Report::Vip {
                cell,
                vip: *vip,
                report,
            };
            self.book.take(report, &self.names);
        }
        let me = Me {
            node: NodeId::of(&self.config.node),
            ifindex: link.index,
            mac,
            boot: rand::random(),
            seq: rand::random(),
        };
        let engine = Engine::new(self.config.settings.clone(), me, &found, now);
        let network = kernel.network(link.index, mac, &self.known_addresses());
        let installed = Arc::new(AtomicU64::new(0));
        let segment = Segment {
            cell,
            engine,
            sockets: Box::new(sockets),
            responder,
            network: Box::new(network.clone()),
            peers_at: BootTime::ZERO,
            installed: Arc::clone(&installed),
        };
        let known = Known {
            ifindex: link.index,
            families,
            has_carrier: true,
            network: Network::default(),
            groups: Vec::new(),
            sent: 0,
            installed,
        };
        self.known.insert(cell, known);
        self.command(Command::Add(Box::new(segment))).await;
        self.update(cell, link, kernel).await?;
        self.sweep();
        self.send_table(cell).await;
        Ok(())
    }

    /// Ends on an interface that became a port of another: what it owned is let go of, frames arrive there no more.
    async fn forsake(&mut self, cell: u16) {
        if self.known.remove(&cell).is_none() {
            return;
        }
        self.command(Command::Link { cell, is_up: false }).await;
        self.command(Command::Remove { cell }).await;
        self.book.forget(cell);
    }

    /// Passes on what changed on an interface.
    async fn update(&mut self, cell: u16, link: &Link, kernel: &Kernel) -> Result<(), String> {
        let Some(mac) = link.mac else {
            return Err(format!("{} has no hardware address", link.name));
        };
        let network = kernel.network(link.index, mac, &self.known_addresses());
        let families = kernel.families(link.index);
        let has_carrier = link.is_up && link.has_carrier;
        let Some(known) = self.known.get_mut(&cell) else {
            return Ok(());
        };
        let link_changed = std::mem::replace(&mut known.has_carrier, has_carrier) != has_carrier;
        let network_changed = known.network != network;
        known.network.clone_from(&network);
        let families_changed = known.families != families;
        if link_changed {
            let is_up = has_carrier;
            self.command(Command::Link { cell, is_up }).await;
        }
        if network_changed {
            let network = Box::new(network);
            self.command(Command::Network { cell, network }).await;
        }
        if families_changed {
            let sockets = Sockets::open(&link.name, link.index, families).map_err(|e| chain(&e))?;
            if let Some(known) = self.known.get_mut(&cell) {
                known.families = families;
            }
            let sockets = Box::new(sockets);
            self.command(Command::Sockets { cell, sockets }).await;
        }
        self.join_heartbeats(link.index, families, kernel).await;
        Ok(())
    }

    /// Joins the heartbeat groups for the kernel besides the sockets: a dead agent's programs must go on hearing its peers behind a filter
    /// of the network card or a snooping switch, else they would never learn that a successor is there.
    async fn join_heartbeats(&mut self, ifindex: u32, families: Families, kernel: &Kernel) {
        let groups = [
            (families.has_v4, IpAddr::from(HEARTBEAT_GROUP4)),
            (families.has_v6, IpAddr::from(HEARTBEAT_GROUP6)),
        ];
        for (is_used, group) in groups {
            if !is_used || kernel.is_joined(ifindex, group) {
                continue;
            }
            if let Err(error) = self.inputs.netlink.join_group(ifindex, group).await {
                // The next look at the kernel shows that it is still to be done.
                warn!(%group, error = %chain(&error), "heartbeat group");
            }
        }
    }

    /// Deletes entries of interfaces that announce no more.
    fn sweep(&self) {
        let announcing: Vec<u32> = self.known.values().map(|known| known.ifindex).collect();
        if announcing.len() < self.config.interfaces.len() {
            return;
        }
        match responder::sweep(&self.inputs.maps, &announcing) {
            Ok(0) => {}
            Ok(n) => info!(n, "deleted entries of interfaces that announce no more"),
            Err(error) => warn!(error = %chain(&error), "entries of other interfaces stay"),
        }
    }

    /// Addresses of other nodes and of backends: whoever of them is on the link can give a sign of life.
    fn known_addresses(&self) -> Vec<IpAddr> {
        let Some(snapshot) = self.inputs.snapshot.borrow().clone() else {
            return Vec::new();
        };
        let nodes = snapshot.nodes.values();
        let others = nodes.filter(|node| node.name != self.config.node);
        let backends = snapshot.services.values();
        let backends = backends.flat_map(|s| s.backends.values().flatten());
        let known = others
            .flat_map(|node| node.addresses.iter().copied())
            .chain(backends.map(|backend| backend.addr));
        known.collect::<BTreeSet<IpAddr>>().into_iter().collect()
    }

    /// Joins the solicited-node groups of every address that this node may come to own, so that a takeover waits for no membership, and
    /// leaves those of addresses that are gone. The kernel keeps them when this process dies.
    async fn join_groups(&mut self) {
        if self.inputs.snapshot.borrow().is_none() {
            return;
        }
        let mut changes = Vec::new();
        for (cell, known) in &self.known {
            let Some(wanted) = wanted(&self.config, &self.plan, *cell) else {
                continue;
            };
            let groups: BTreeSet<IpAddr> = wanted.services.keys().filter_map(group_of).collect();
            let joined = self.joined.entry(known.ifindex).or_default();
            let new = groups.difference(joined).map(|g| (known.ifindex, *g, true));
            let old = joined
                .difference(&groups)
                .map(|g| (known.ifindex, *g, false));
            changes.extend(new.chain(old));
        }
        for (ifindex, group, is_join) in changes {
            let netlink = &self.inputs.netlink;
            let joined = self.joined.entry(ifindex).or_default();
            let outcome = if is_join {
                joined.insert(group);
                netlink.join_group(ifindex, group).await
            } else {
                joined.remove(&group);
                netlink.leave_group(ifindex, group).await
            };
            if let Err(error) = outcome {
                // The next look at the kernel shows that it is still to be done.
                warn!(%group, is_join, error = %chain(&error), "solicited-node group");
            }
        }
    }

    // === what is shown ===

    fn publish(&mut self) {
        self.book.prune(BootTime::from_nanos(clock::boottime_ns()));
        let counts = self
            .known
            .iter()
            .map(|(cell, known)| (*cell, known.installed.load(Ordering::Acquire)));
        self.book.settle(counts);
        self.metrics.owned_groups.set(self.book.n_owned());
        let (history, interfaces) = (&self.inputs.history, &self.config.interfaces);
        let (book, names) = (&mut self.book, &self.names);
        history.send_if_modified(|history| book.tell(history, interfaces, names));
        let (began, conflicting) = self.book.conflicts();
        self.metrics.conflicts.inc_by(began);
        self.metrics.conflicting.set(conflicting);
        let interfaces = (0u16..).zip(&self.config.interfaces).map(|(cell, name)| {
            let known = self.known.get(&cell);
            let status = InterfaceStatus {
                trouble: self.troubles.get(&cell).cloned(),
                cell,
                ifindex: known.map(|known| known.ifindex),
                has_carrier: known.is_some_and(|known| known.has_carrier),
            };
            (name.clone(), status)
        });
        let interfaces = interfaces.collect();
        let ifindex_of = |cell| self.known.get(&cell).map(|known| known.ifindex);
        let names = &self.names;
        let status = L2Status {
            interfaces,
            policies: self.plan.policies.clone(),
            ..self
                .book
                .status(&self.config.interfaces, &self.plan, names, ifindex_of)
        };
        self.status.send_if_modified(|shown| {
            let is_news = **shown != status;
            if is_news {
                *shown = Arc::new(status);
            }
            is_news
        });
    }
}

fn keys_of(secrets: &[Vec<u8>]) -> Vec<Key> {
    secrets.iter().map(|secret| Key::new(secret)).collect()
}

fn wanted<'a>(config: &AnnouncerConfig, plan: &'a Plan, cell: u16) -> Option<&'a Wanted> {
    let name = config.interfaces.get(usize::from(cell))?;
    plan.wanted.get(name)
}

/// The group that solicitations for an address go to.
fn group_of(vip: &Vip) -> Option<IpAddr> {
    match vip {
        IpAddr::V6(ip) => Some(IpAddr::V6(solicited_node(*ip))),
        IpAddr::V4(_) => None,
    }
}

async fn until(at: Option<tokio::time::Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

/// An error with its sources.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    fairlead_rt::root::chain(error)
}

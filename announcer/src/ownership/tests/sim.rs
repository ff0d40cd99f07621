//! A segment in memory: engines with their kernels, datagrams with loss and delay, broken paths, frozen and dead machines.
//!
//! Deterministic: time is a number, chance comes from a seed. Datagrams pass through the real codec.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use fairlead_model::MacAddr;

use crate::{
    BootTime,
    heartbeat::{self, CLAIMS_PER_CHUNK, Key, MAX_LEN},
    ownership::{
        Action, Engine, Found, Frame, GroupReport, GroupSpec, Me, Settings, Table, VipReport,
        order::NodeId,
    },
};

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn vip(n: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, u8::try_from(n).unwrap()))
}

fn mac(n: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, u8::try_from(n).unwrap()])
}

/// The station that answers when the segment is asked for a sign of life.
pub(super) const WITNESS: usize = 200;
const WITNESS_ADDR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));

/// How late what is late arrives: behind what was said after it.
const LATE: Duration = ms(60);

/// What becomes of datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Fate {
    /// They arrive.
    #[default]
    Prompt,
    /// They are lost, and so are frames.
    Lost,
    /// They arrive after later ones.
    Late,
    /// They arrive, and again after later ones.
    Twice,
}

/// What survives the agent: pinned maps and the programs.
#[derive(Default, Clone)]
pub(super) struct Kernel {
    pub deadline: BootTime,
    pub cell_epoch: u64,
    pub entries: BTreeMap<IpAddr, (u64, u64, u64)>,
    pub peers: BTreeMap<MacAddr, u8>,
    pub seen: BTreeMap<u8, BootTime>,
}

impl Kernel {
    /// The rule of `logic::l2::may_answer`.
    fn may_answer(&self, vip: IpAddr, now: BootTime) -> bool {
        let Some((_, cell_epoch, candidates)) = self.entries.get(&vip) else {
            return false;
        };
        let is_heard = |slot: &u8| self.seen.get(slot).is_some_and(|at| *at > self.deadline);
        *cell_epoch == self.cell_epoch
            && (now <= self.deadline
                || !(0..64).any(|slot| candidates >> slot & 1 != 0 && is_heard(&slot)))
    }
}

#[derive(Clone)]
pub(super) struct Node {
    pub engine: Option<Engine>,
    pub kernel: Kernel,
    /// The machine has power.
    pub is_powered: bool,
    /// The agent does not run until then; what arrives waits.
    pub agent_frozen: BootTime,
    /// The machine does not run until then; what arrives is lost.
    pub machine_frozen: BootTime,
    pub has_link: bool,
    pub waiting: Vec<Arrival>,
    pub boots: u32,
    pub control_answers: bool,
    pub reports: BTreeMap<IpAddr, GroupReport>,
    pub vips: BTreeMap<IpAddr, VipReport>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Arrival {
    Datagram(Vec<u8>),
    /// Sender, address that it has, address that it begins to use.
    Frame(usize, Option<IpAddr>, Option<IpAddr>),
    /// Somebody asks for an address.
    Query(usize, IpAddr),
}

#[derive(Clone)]
pub(super) struct Sim {
    pub now: BootTime,
    pub nodes: Vec<Node>,
    pub settings: Settings,
    pub specs: Vec<Vec<GroupSpec>>,
    pub queue: BinaryHeap<Reverse<(BootTime, u64, usize, Arrival)>>,
    n_sent: u64,
    random: u64,
    /// Nothing is left to chance: what becomes of a datagram is said by `fates`.
    pub is_steady: bool,
    /// What becomes of the datagrams that a node sends, and of those that it is sent.
    pub fates: BTreeMap<usize, Fate>,
    /// Lost datagrams and frames of 1,000.
    pub loss: u64,
    /// Paths that are down, by sender and receiver.
    pub broken: BTreeSet<(usize, usize)>,
    pub has_witness: bool,
    /// Stations that are none of ours and what they answer for.
    pub strangers: Vec<(usize, IpAddr)>,
    /// Announcements: when, who, what.
    pub announced: Vec<(BootTime, usize, IpAddr)>,
    /// Probes: when, who, what.
    pub probed: Vec<(BootTime, usize, IpAddr)>,
    /// When each VIP lost its last answering node; since when two that hear each other answer.
    pub dark_since: BTreeMap<IpAddr, BootTime>,
    pub twice_since: BTreeMap<IpAddr, BootTime>,
    pub twice_hung_since: BTreeMap<IpAddr, BootTime>,
    /// Two that hear each other and whose agents run.
    pub longest_twice: Duration,
    /// The same with dead and hung agents, whose kernels go on until their deadline.
    pub longest_twice_hung: Duration,
    pub longest_dark: Duration,
    pub key: Key,
    /// Keeps every datagram of node 0 and 1 for [`Sim::replay`].
    pub record: bool,
    recorded: Vec<(usize, Vec<u8>)>,
}

impl Sim {
    /// `n` nodes, each eligible for each of the single-address groups 1..=`n_vips`; agents not started.
    pub(super) fn new(n: usize, n_vips: usize, seed: u64) -> Self {
        let specs: Vec<GroupSpec> = (1..=n_vips)
            .map(|v| GroupSpec {
                vips: vec![(vip(v), true)],
                eligible: (0..n).map(Self::node_id).collect(),
                weights: Vec::new(),
                lease_holder: None,
            })
            .collect();
        let nodes = (0..n).map(|_| Node {
            engine: None,
            kernel: Kernel::default(),
            is_powered: true,
            agent_frozen: BootTime::ZERO,
            machine_frozen: BootTime::ZERO,
            has_link: true,
            waiting: Vec::new(),
            boots: 0,
            control_answers: true,
            reports: BTreeMap::new(),
            vips: BTreeMap::new(),
        });
        Self {
            now: BootTime::from_nanos(1_000_000_000_000),
            nodes: nodes.collect(),
            settings: Settings::default(),
            specs: vec![specs; n],
            queue: BinaryHeap::new(),
            n_sent: 0,
            random: seed.wrapping_mul(2).wrapping_add(1),
            is_steady: false,
            fates: BTreeMap::new(),
            loss: 0,
            broken: BTreeSet::new(),
            has_witness: true,
            strangers: Vec::new(),
            announced: Vec::new(),
            probed: Vec::new(),
            dark_since: BTreeMap::new(),
            twice_since: BTreeMap::new(),
            twice_hung_since: BTreeMap::new(),
            longest_twice: Duration::ZERO,
            longest_twice_hung: Duration::ZERO,
            longest_dark: Duration::ZERO,
            key: Key::new(b"shared"),
            record: false,
            recorded: Vec::new(),
        }
    }

    /// The same with every agent started.
    pub(super) fn started(n: usize, n_vips: usize, seed: u64) -> Self {
        let mut sim = Self::new(n, n_vips, seed);
        for node in 0..n {
            sim.start(node);
        }
        sim
    }

    /// Started and left alone until every node is settled and every group owned.
    pub(super) fn settled(n: usize, n_vips: usize, seed: u64) -> Self {
        let mut sim = Self::started(n, n_vips, seed);
        sim.run(ms(8_000));
        for v in 1..=n_vips {
            assert!(sim.owner(v).is_some(), "{v}: {:?}", sim.why(0, v));
        }
        sim.forget_measures();
        sim
    }

    pub(super) const fn node_id(node: usize) -> NodeId {
        NodeId(node as u64 + 1)
    }

    pub(super) fn forget_measures(&mut self) {
        self.announced.clear();
        self.probed.clear();
        self.dark_since.clear();
        self.twice_since.clear();
        self.twice_hung_since.clear();
        self.longest_twice_hung = Duration::ZERO;
        self.longest_dark = Duration::ZERO;
        self.longest_twice = Duration::ZERO;
    }

    fn chance(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    // === what happens to nodes ===

    /// Starts the agent; it finds what its kernel holds.
    pub(super) fn start(&mut self, node: usize) {
        let (mut boot, mut seq) = (0, 0);
        if !self.is_steady {
            boot = u32::try_from(self.chance() >> 33).unwrap();
            seq = u32::try_from(self.chance() >> 33).unwrap();
        }
        let at = &mut self.nodes[node];
        if at.engine.is_some() {
            return;
        }
        at.is_powered = true;
        at.boots += 1;
        if self.is_steady {
            (boot, seq) = (at.boots, at.boots << 16);
        }
        let answering: Vec<(IpAddr, u64)> = at
            .kernel
            .entries
            .iter()
            .filter(|(vip, _)| at.kernel.may_answer(**vip, self.now))
            .map(|(vip, (epoch, ..))| (*vip, *epoch))
            .collect();
        at.kernel
            .entries
            .retain(|vip, _| answering.iter().any(|(a, _)| a == vip));
        let found = Found {
            deadline: at.kernel.deadline,
            cell_epoch: at.kernel.cell_epoch,
            answering,
        };
        let me = Me {
            node: Self::node_id(node),
            ifindex: 2,
            mac: mac(node),
            boot,
            seq,
        };
        at.engine = Some(Engine::new(self.settings.clone(), me, &found, self.now));
        at.reports.clear();
        at.waiting.clear();
        if !at.has_link {
            let link = at.engine.as_mut().unwrap();
            link.on_link(false, self.now, &mut Vec::new());
        }
        self.install(node);
    }

    /// Gives a node its table again.
    pub(super) fn install(&mut self, node: usize) {
        let table = Box::new(Table::new(&self.specs[node]));
        let mut out = Vec::new();
        if let Some(engine) = &mut self.nodes[node].engine {
            drop(engine.install(table, self.now, &mut out));
        }
        self.perform(node, &out);
        self.tick(node);
    }

    /// Changes what all nodes are told, from now on.
    pub(super) fn configure(&mut self, change: impl Fn(usize, &mut Vec<GroupSpec>)) {
        for node in 0..self.nodes.len() {
            change(node, &mut self.specs[node]);
            self.install(node);
        }
    }

    /// kill -9: the kernel goes on.
    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].engine = None;
    }

    /// Power fails: nothing goes on, nothing is kept.
    pub(super) fn crash(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.engine = None;
        node.is_powered = false;
        node.kernel = Kernel::default();
    }

    pub(super) fn set_link(&mut self, node: usize, is_up: bool) {
        self.nodes[node].has_link = is_up;
        let mut out = Vec::new();
        let now = self.now;
        if let Some(engine) = &mut self.nodes[node].engine {
            engine.on_link(is_up, now, &mut out);
        }
        self.perform(node, &out);
        self.tick(node);
    }

    pub(super) fn freeze_agent(&mut self, node: usize, time: Duration) {
        self.nodes[node].agent_frozen = self.now + time;
    }

    pub(super) fn freeze_machine(&mut self, node: usize, time: Duration) {
        self.nodes[node].machine_frozen = self.now + time;
    }

    pub(super) fn break_both(&mut self, a: usize, b: usize) {
        self.broken.insert((a, b));
        self.broken.insert((b, a));
    }

    /// The paths between a node and the segment's other station.
    pub(super) fn break_witness(&mut self, node: usize) {
        self.break_both(node, WITNESS);
    }

    /// The other station's address.
    pub(super) const fn gateway(&self) -> IpAddr {
        let _ = self;
        WITNESS_ADDR
    }

    /// The other station sends something by itself.
    pub(super) fn sign_of_life(&mut self, to: usize) {
        self.send(WITNESS, to, Arrival::Frame(WITNESS, None, None));
    }

    /// A station that is none of ours announces an address.
    pub(super) fn foreign_announcement(&mut self, station: usize, to: usize, vip: IpAddr) {
        self.send(station, to, Arrival::Frame(station, Some(vip), None));
    }

    /// A station that is none of ours begins to use an address.
    pub(super) fn foreign_probe(&mut self, station: usize, to: usize, vip: IpAddr) {
        self.send(station, to, Arrival::Frame(station, None, Some(vip)));
    }

    /// Plays back what was recorded, to everybody.
    pub(super) fn replay(&mut self) {
        for (_, bytes) in self.recorded.clone() {
            for to in 0..self.nodes.len() {
                self.send(WITNESS, to, Arrival::Datagram(bytes.clone()));
            }
        }
    }

    // === time ===

    /// Lets `time` pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = end;
        self.measure();
    }

    /// Lets time pass until `done`; panics after `limit`.
    pub(super) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            let at = self.next_event().expect("engines always wake");
            assert!(at <= end, "not within {limit:?}");
            self.now = self.now.max(at);
            self.step();
        }
    }

    fn next_event(&self) -> Option<BootTime> {
        let arrival = self.queue.peek().map(|Reverse((at, ..))| *at);
        let wakes = (0..self.nodes.len()).filter_map(|n| self.wake_of(n));
        wakes.chain(arrival).min()
    }

    /// When a node does something by itself.
    fn wake_of(&self, node: usize) -> Option<BootTime> {
        let at = &self.nodes[node];
        let engine = at.engine.as_ref()?;
        let wake = if at.waiting.is_empty() {
            engine.wake_at()
        } else {
            self.now
        };
        Some(wake.max(at.agent_frozen).max(at.machine_frozen))
    }

    fn step(&mut self) {
        while let Some(Reverse((at, ..))) = self.queue.peek() {
            if *at > self.now {
                break;
            }
            let Reverse((_, _, to, arrival)) = self.queue.pop().unwrap();
            self.arrive(to, arrival);
        }
        for node in 0..self.nodes.len() {
            if self.wake_of(node).is_some_and(|at| at <= self.now) {
                self.read(node);
                self.tick(node);
            }
        }
        self.measure();
    }

    fn arrive(&mut self, to: usize, arrival: Arrival) {
        let now = self.now;
        if to == WITNESS {
            let Arrival::Query(from, asked) = arrival else {
                return;
            };
            if asked != WITNESS_ADDR {
                return;
            }
            self.send(
                WITNESS,
                from,
                Arrival::Frame(WITNESS, Some(WITNESS_ADDR), None),
            );
            return;
        }
        if let Some((stranger, addr)) = self.strangers.iter().copied().find(|(s, _)| *s == to) {
            if let Arrival::Query(from, asked) = arrival
                && asked == addr
            {
                self.send(stranger, from, Arrival::Frame(stranger, Some(addr), None));
            }
            return;
        }
        let at = &mut self.nodes[to];
        if !at.is_powered || !at.has_link || now < at.machine_frozen {
            return;
        }
        let arrival = match arrival {
            Arrival::Query(from, addr) if at.kernel.may_answer(addr, now) => {
                self.send(to, from, Arrival::Frame(to, Some(addr), None));
                return;
            }
            Arrival::Query(from, addr) => Arrival::Frame(from, None, Some(addr)),
            Arrival::Datagram(bytes) => {
                let header = heartbeat::decode(&bytes, std::slice::from_ref(&self.key)).unwrap();
                if let Some(slot) = at.kernel.peers.get(&header.header.mac) {
                    at.kernel.seen.insert(*slot, now);
                }
                Arrival::Datagram(bytes)
            }
            frame @ Arrival::Frame(..) => frame,
        };
        if at.engine.is_some() {
            at.waiting.push(arrival);
        }
    }

    /// The agent reads its sockets.
    fn read(&mut self, node: usize) {
        let mut out = Vec::new();
        let now = self.now;
        let at = &mut self.nodes[node];
        let Some(engine) = &mut at.engine else {
            return;
        };
        for arrival in at.waiting.drain(..) {
            match arrival {
                Arrival::Datagram(bytes) => {
                    let message =
                        heartbeat::decode(&bytes, std::slice::from_ref(&self.key)).unwrap();
                    engine.on_message(&message, now, &mut out);
                }
                Arrival::Frame(from, claims, probes) => {
                    let frame = Frame {
                        mac: mac(from),
                        claims,
                        probes,
                    };
                    engine.on_frame(&frame, now, &mut out);
                }
                Arrival::Query(..) => unreachable!("answered or turned into a frame"),
            }
        }
        self.perform(node, &out);
    }

    pub(super) fn tick(&mut self, node: usize) {
        let mut out = Vec::new();
        let now = self.now;
        let at = &mut self.nodes[node];
        let Some(engine) = &mut at.engine else {
            return;
        };
        engine.tick(now, now, at.control_answers, &mut out);
        engine.reports(|key, report| {
            at.reports.insert(key, report);
            true
        });
        engine.vip_reports(|vip, report| {
            at.vips.insert(vip, report);
            true
        });
        self.perform(node, &out);
    }

    fn perform(&mut self, node: usize, actions: &[Action]) {
        for action in actions {
            match *action {
                Action::SendBeat => self.send_beat(node),
                Action::SendClaims => self.send_claims(node),
                Action::Probe { vip, to } => {
                    self.probed.push((self.now, node, vip));
                    let stations = self.stations();
                    for other in stations {
                        if to.is_none_or(|to| to == mac(other)) {
                            self.send(node, other, Arrival::Query(node, vip));
                        }
                    }
                }
                Action::AskWitnesses => {
                    self.send(node, WITNESS, Arrival::Query(node, WITNESS_ADDR));
                }
                Action::Announce { vip } => {
                    self.announced.push((self.now, node, vip));
                    for other in 0..self.nodes.len() {
                        self.send(node, other, Arrival::Frame(node, Some(vip), None));
                    }
                }
                _ => self.write_maps(node, action),
            }
        }
    }

    fn write_maps(&mut self, node: usize, action: &Action) {
        let at = &mut self.nodes[node];
        match *action {
            Action::Program {
                vip,
                epoch,
                cell_epoch,
                candidates,
            } => {
                at.kernel
                    .entries
                    .insert(vip, (epoch, cell_epoch, candidates));
            }
            Action::Unprogram { vip } => {
                at.kernel.entries.remove(&vip);
            }
            Action::Renew {
                deadline,
                cell_epoch,
            } => {
                at.kernel.cell_epoch = cell_epoch;
                at.kernel.deadline = deadline;
            }
            Action::Peer { slot, mac } => {
                at.kernel.peers.insert(mac, slot);
            }
            Action::NoPeer { mac, .. } => {
                at.kernel.peers.remove(&mac);
            }
            _ => {}
        }
    }

    fn send_beat(&mut self, node: usize) {
        let now = self.now;
        let engine = self.nodes[node].engine.as_mut().unwrap();
        let header = engine.beat_header(now);
        let mut buffer = [0; MAX_LEN];
        let len = heartbeat::encode_beat(&mut buffer, &self.key, &header, engine.heard(now));
        self.broadcast(node, &buffer[..len]);
    }

    fn send_claims(&mut self, node: usize) {
        let now = self.now;
        let engine = self.nodes[node].engine.as_mut().unwrap();
        let n = engine.n_claim_chunks();
        for chunk in 0..n {
            let engine = self.nodes[node].engine.as_mut().unwrap();
            let header = engine.claims_header(now);
            let mut buffer = [0; MAX_LEN];
            let claims = engine.claims().skip(chunk * CLAIMS_PER_CHUNK);
            let part = (u16::try_from(chunk).unwrap(), u16::try_from(n).unwrap());
            let len = heartbeat::encode_claims(&mut buffer, &self.key, &header, part, claims);
            self.broadcast(node, &buffer[..len]);
        }
    }

    fn broadcast(&mut self, node: usize, bytes: &[u8]) {
        if self.record {
            self.recorded.push((node, bytes.to_vec()));
        }
        for other in 0..self.nodes.len() {
            self.send(node, other, Arrival::Datagram(bytes.to_vec()));
        }
    }

    fn stations(&self) -> Vec<usize> {
        let strangers = self.strangers.iter().map(|(s, _)| *s);
        (0..self.nodes.len())
            .chain(strangers)
            .chain([WITNESS])
            .collect()
    }

    fn send(&mut self, from: usize, to: usize, arrival: Arrival) {
        let (lost, jitter) = if self.is_steady {
            (1_000, 0)
        } else {
            (self.chance() % 1_000, self.chance() % 400_000)
        };
        let is_off = |n: usize| {
            self.nodes.get(n).is_some_and(|node| {
                !node.has_link || !node.is_powered || self.now < node.machine_frozen
            })
        };
        let is_silent = (to == WITNESS || from == WITNESS) && !self.has_witness;
        if from == to
            || lost < self.loss
            || is_off(from)
            || is_silent
            || self.broken.contains(&(from, to))
        {
            return;
        }
        let at = self.now + Duration::from_nanos(100_000 + jitter);
        let fate = |n: usize| self.fates.get(&n).copied().unwrap_or_default();
        let is_datagram = matches!(arrival, Arrival::Datagram(_));
        let (is_prompt, is_late) = match (fate(from), fate(to)) {
            (Fate::Lost, _) | (_, Fate::Lost) => (false, false),
            (Fate::Late, _) if is_datagram => (false, true),
            (Fate::Twice, _) if is_datagram => (true, true),
            _ => (true, false),
        };
        let mut push = |at: BootTime, arrival: Arrival| {
            self.n_sent += 1;
            self.queue.push(Reverse((at, self.n_sent, to, arrival)));
        };
        if is_late {
            push(at + LATE, arrival.clone());
        }
        if is_prompt {
            push(at, arrival);
        }
    }

    // === what an onlooker sees ===

    /// Nodes whose kernel answers for a VIP now.
    pub(super) fn answering(&self, v: usize) -> Vec<usize> {
        let answers = |at: &Node| {
            at.is_powered
                && at.has_link
                && self.now >= at.machine_frozen
                && at.kernel.may_answer(vip(v), self.now)
        };
        (0..self.nodes.len())
            .filter(|n| answers(&self.nodes[*n]))
            .collect()
    }

    /// The one node that answers.
    pub(super) fn owner(&self, v: usize) -> Option<usize> {
        match self.answering(v)[..] {
            [owner] => Some(owner),
            _ => None,
        }
    }

    pub(super) fn why(&self, node: usize, v: usize) -> Option<GroupReport> {
        self.nodes[node].reports.get(&vip(v)).copied()
    }

    fn measure(&mut self) {
        for v in 1..=self.specs[0].len() {
            let answering = self.answering(v);
            let hears = |a: usize, b: usize| !self.broken.contains(&(a, b));
            let now = self.now;
            let runs =
                |n: &usize| self.nodes[*n].engine.is_some() && now >= self.nodes[*n].agent_frozen;
            let is_twice = |runs: &dyn Fn(&usize) -> bool| {
                answering.iter().filter(|a| runs(a)).any(|a| {
                    let others = answering.iter().filter(|b| *b != a && runs(b));
                    others.into_iter().any(|b| hears(*a, *b) && hears(*b, *a))
                })
            };
            let (twice, twice_hung) = (is_twice(&runs), is_twice(&|_| true));
            let track = |since: &mut BTreeMap<IpAddr, BootTime>, holds: bool| {
                if !holds {
                    since.remove(&vip(v));
                    return Duration::ZERO;
                }
                now.since(*since.entry(vip(v)).or_insert(now))
            };
            let twice = track(&mut self.twice_since, twice);
            self.longest_twice = self.longest_twice.max(twice);
            let twice = track(&mut self.twice_hung_since, twice_hung);
            self.longest_twice_hung = self.longest_twice_hung.max(twice);
            let dark = track(&mut self.dark_since, answering.is_empty());
            self.longest_dark = self.longest_dark.max(dark);
        }
    }
}

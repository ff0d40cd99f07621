//! A node for tests: maps in memory, the packet logic on the host, clients that notice when they are misdirected.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use fairlead_abi::lb::{self, Iface, SLOT_UNCHANGED, iface_flags, mode};
use fairlead_datapath::{HashMap, Insert, LbMaps, PerCpuArray, Window};
use fairlead_logic::{Insert as LogicInsert, Verdict, hash, host::World};
use fairlead_model::{Frontend, MacAddr, Protocol, ServiceName, Vip};

use crate::{
    desired::{Desired, DesiredBackend, DesiredFrontend, DesiredHop, DesiredVip},
    maglev,
    op::{self, Key, MapOp, read_table},
    plan::Plan,
    state::{State, Times},
    sweep,
};

pub(crate) const SECOND: u64 = 1_000_000_000;
const IFINDEX: u32 = 3;
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Maps of a size that a test can make many of.
pub(crate) fn small_maps() -> LbMaps {
    LbMaps {
        ifaces: Window::in_memory(lb::N_IFACES),
        vips4: Window::in_memory(lb::N_VIP_BUCKETS),
        vips6: Window::in_memory(lb::N_VIP_BUCKETS),
        vip_state: Window::in_memory(64),
        frontends: Window::in_memory(64),
        maglev: Window::in_memory(1024),
        backends4: Window::in_memory(512),
        backends6: Window::in_memory(512),
        fe_stats: PerCpuArray::in_memory(64),
        reasons: PerCpuArray::in_memory(64),
        flows: HashMap::in_memory(65_536),
        flows_new: HashMap::in_memory(16_384),
        snat: HashMap::in_memory(65_536),
        snat_new: HashMap::in_memory(16_384),
    }
}

pub(crate) fn iface() -> Iface {
    Iface {
        ifindex: IFINDEX,
        mtu: 1500,
        mac: OUR_MAC,
        flags: iface_flags::FORWARD | iface_flags::ANNOUNCE,
        addr4: [10, 0, 0, 1],
        l2_cell: 0,
        addr6: [0; 16],
    }
}

/// What a test wants: one backend is one number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) mode: u64,
    pub(crate) table_size: u32,
    /// Number and whether it takes new flows.
    pub(crate) backends: BTreeMap<u8, bool>,
}

impl Wish {
    pub(crate) fn of(mode: u64, backends: impl IntoIterator<Item = u8>) -> Self {
        Self {
            mode,
            table_size: 251,
            backends: backends.into_iter().map(|n| (n, true)).collect(),
        }
    }

    fn desired(&self, frontend: Frontend) -> Arc<DesiredFrontend> {
        let mut backends: Vec<DesiredBackend> = self
            .backends
            .iter()
            .map(|(n, accepts_new)| DesiredBackend {
                identity: backend(frontend, *n),
                accepts_new: *accepts_new,
                hop: Some(DesiredHop {
                    mac: mac_of(*n),
                    iface: u8::try_from(IFINDEX).unwrap(),
                    source4: iface().addr4,
                    is_node_source: false,
                }),
                is_awaited: false,
            })
            .collect();
        backends.sort_by_key(|b| b.identity);
        Arc::new(DesiredFrontend {
            service: ServiceName::new("shop", "web").unwrap(),
            mode: self.mode,
            table_size: self.table_size,
            backends,
        })
    }
}

pub(crate) fn backend(frontend: Frontend, n: u8) -> SocketAddr {
    let ip = if frontend.vip.is_ipv4() {
        IpAddr::from([10, 0, 1, n])
    } else {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, n.into()))
    };
    SocketAddr::new(ip, frontend.port)
}

pub(crate) fn mac_of(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 1, 0, n])
}

pub(crate) fn frontend(vip: &str, port: u16, protocol: Protocol) -> Frontend {
    Frontend {
        vip: vip.parse().unwrap(),
        protocol,
        port,
    }
}

pub(crate) fn wish_all(wishes: &BTreeMap<Frontend, Wish>) -> Desired {
    let mut desired = Desired {
        ifaces: BTreeMap::from([(IFINDEX, iface())]),
        ..Desired::default()
    };
    for (frontend, wish) in wishes {
        desired.vips.insert(frontend.vip, DesiredVip::default());
        desired.frontends.insert(*frontend, wish.desired(*frontend));
    }
    desired
}

/// A client's connection and where it belongs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conn {
    pub(crate) number: u16,
    pub(crate) frontend: Frontend,
    /// Which backend answered the first packet.
    pub(crate) backend: u8,
}

/// One node.
pub(crate) struct Node {
    pub(crate) maps: LbMaps,
    pub(crate) world: World,
    pub(crate) state: State,
    pub(crate) now: u64,
}

impl Node {
    pub(crate) fn new() -> Self {
        let maps = small_maps();
        let now = 1000 * SECOND;
        let back = State::read_back(&maps, Times::default(), now).unwrap();
        let world = World::new();
        Self {
            maps,
            world,
            state: back.state,
            now,
        }
    }

    pub(crate) fn plan(&mut self, desired: &Desired) -> Plan {
        self.state.plan(desired, &self.maps.maglev, self.now)
    }

    /// One step, in the maps and in the packet logic's view of them.
    pub(crate) fn apply(&mut self, op: &MapOp) {
        op::apply(&self.maps, std::slice::from_ref(op)).unwrap();
        let (maps, world) = (&self.maps, &mut self.world);
        match op {
            MapOp::Iface { slot, .. } => assert!(world.ifaces.set(*slot, maps.ifaces.read(*slot))),
            MapOp::Backend { record, value } => assert!(match value {
                op::BackendValue::V4(_) => {
                    world.backends4.set(*record, maps.backends4.read(*record))
                }
                op::BackendValue::V6(_) => {
                    world.backends6.set(*record, maps.backends6.read(*record))
                }
            }),
            MapOp::Lines { line, slots } => {
                for line in *line..*line + op::n_lines(u32::try_from(slots.len()).unwrap()) {
                    assert!(world.lines.set(line, maps.maglev.read(line)));
                }
            }
            MapOp::PatchLine { line, .. } => {
                assert!(world.lines.set(*line, maps.maglev.read(*line)));
            }
            MapOp::Frontend { record, .. } | MapOp::FrontendWord { record, .. } => {
                assert!(world.frontends.set(*record, maps.frontends.read(*record)));
            }
            MapOp::VipState { record, .. } => {
                assert!(world.vip_states.set(*record, maps.vip_state.read(*record)));
            }
            MapOp::Set { place, key, .. } => {
                self.mirror_bucket(place.bucket, matches!(key, Key::V4(_)));
            }
            MapOp::Clear { place, is_v4 } => self.mirror_bucket(place.bucket, *is_v4),
            MapOp::ResetStats { .. } => {}
        }
    }

    fn mirror_bucket(&mut self, bucket: u32, is_v4: bool) {
        if is_v4 {
            assert!(self.world.vips4.set(bucket, self.maps.vips4.read(bucket)));
        } else {
            assert!(self.world.vips6.set(bucket, self.maps.vips6.read(bucket)));
        }
    }

    pub(crate) fn apply_all(&mut self, ops: &[MapOp]) {
        for op in ops {
            self.apply(op);
        }
    }

    /// Plans and applies until nothing is left to wait for; panics if something stays blocked.
    pub(crate) fn settle(&mut self, desired: &Desired) {
        for _ in 0..10 {
            let plan = self.plan(desired);
            self.apply_all(&plan.ops);
            if plan.blocked.is_empty() && plan.blocked_vips.is_empty() {
                return;
            }
            self.now = plan
                .wake_at
                .expect("what is blocked has a time to try again");
        }
        panic!("blocked for ever: {:?}", self.plan(desired));
    }

    /// The process dies; another takes over.
    pub(crate) fn restart(&mut self) {
        self.flows_to_maps();
        let back = State::read_back(&self.maps, Times::default(), self.now).unwrap();
        self.state = back.state;
        self.apply_all(&back.repairs);
    }

    /// A sweep with all its conclusions. How many slots folded.
    pub(crate) fn sweep(&mut self) -> usize {
        self.flows_to_maps();
        let scan = sweep::scan(&self.maps, &self.state.question(), self.now).unwrap();
        let fold = self.state.fold(&scan, &self.maps.maglev, self.now);
        self.apply_all(&fold.ops);
        fold.remove_entries(&self.maps).unwrap();
        self.flows_from_maps();
        fold.n_folded
    }

    fn flows_to_maps(&self) {
        fn copy<K: fairlead_datapath::Plain + Eq + std::hash::Hash, V: fairlead_datapath::Plain>(
            from: &fairlead_logic::host::Hashed<K, V>,
            to: &HashMap<K, V>,
        ) {
            for (key, _) in to.entries().unwrap() {
                to.remove(&key).unwrap();
            }
            for (key, value) in from.entries() {
                to.insert(&key, &value, Insert::New).unwrap();
            }
        }
        copy(&self.world.flows, &self.maps.flows);
        copy(&self.world.flows_new, &self.maps.flows_new);
        copy(&self.world.snat, &self.maps.snat);
        copy(&self.world.snat_new, &self.maps.snat_new);
    }

    fn flows_from_maps(&self) {
        fn copy<K: fairlead_datapath::Plain + Eq + std::hash::Hash, V: fairlead_datapath::Plain>(
            from: &HashMap<K, V>,
            to: &fairlead_logic::host::Hashed<K, V>,
        ) {
            for (key, _) in to.entries() {
                to.remove(&key);
            }
            for (key, value) in from.entries().unwrap() {
                assert!(to.insert(key, value, LogicInsert::Any));
            }
        }
        copy(&self.maps.flows, &self.world.flows);
        copy(&self.maps.flows_new, &self.world.flows_new);
        copy(&self.maps.snat, &self.world.snat);
        copy(&self.maps.snat_new, &self.world.snat_new);
    }

    /// A client's packet. Which backend gets it, by its hardware address.
    pub(crate) fn send(&mut self, frontend: Frontend, number: u16, tcp_flags: u8) -> Option<u8> {
        self.world.now.set(self.now);
        let frame = frame(frontend, number, tcp_flags);
        let (verdict, out) = self.world.run(IFINDEX, &frame);
        match verdict {
            Verdict::Tx if out[..5] == mac_of(0).0[..5] => Some(out[5]),
            _ => None,
        }
    }

    /// A backend's answer to a translated flow, as SNAT needs it to count the flow as established.
    pub(crate) fn reply(&mut self, frontend: Frontend, number: u16, n: u8) -> bool {
        let records = self
            .world
            .snat_new
            .entries()
            .into_iter()
            .chain(self.world.snat.entries());
        let client_port = client_port(number).to_be_bytes();
        let record = records.into_iter().find(|(_, v)| {
            v.client_port == client_port && v.vip_port == frontend.port.to_be_bytes()
        });
        let Some((key, _)) = record else { return false };
        let source = backend(frontend, n);
        let ports = (source.port(), u16::from_be_bytes(key.snat_port));
        let frame = packet(
            mac_of(n).0,
            source.ip(),
            frontend.vip,
            frontend.protocol,
            ports,
            ACK,
        );
        matches!(self.world.run(IFINDEX, &frame), (Verdict::Tx, out) if out[..6] == CLIENT_MAC)
    }

    /// Opens a connection: first packet, answer, second packet. `None` if nobody took it.
    pub(crate) fn open(&mut self, frontend: Frontend, number: u16, mode: u64) -> Option<Conn> {
        let backend = self.send(frontend, number, SYN)?;
        if mode == mode::SNAT {
            assert!(
                self.reply(frontend, number, backend),
                "the answer reaches the client"
            );
        }
        let again = self.send(frontend, number, ACK);
        assert_eq!(again, Some(backend), "the second packet follows the first");
        Some(Conn {
            number,
            frontend,
            backend,
        })
    }

    /// Where a later packet of the connection goes.
    pub(crate) fn talk(&mut self, conn: &Conn) -> Option<u8> {
        self.send(conn.frontend, conn.number, ACK)
    }

    /// Asserts that the maps are as wished: every frontend reachable with the table that all nodes have, and nothing left to plan.
    pub(crate) fn assert_is(&mut self, wishes: &BTreeMap<Frontend, Wish>) {
        let again = self.plan(&wish_all(wishes));
        assert_eq!(again.ops, [], "a second plan is empty");
        assert!(again.problems.is_empty(), "{:?}", again.problems);
        let infos = self.state.infos();
        assert_eq!(
            infos.keys().collect::<Vec<_>>(),
            wishes.keys().collect::<Vec<_>>()
        );
        for (frontend, wish) in wishes {
            let index = self.find(frontend).expect("the frontend is reachable");
            let fe = self.maps.frontends.read(index);
            assert_eq!(fairlead_logic::select::mode(&fe), wish.mode);
            let slots = read_table(&self.maps.maglev, fe.current);
            let identities: Vec<SocketAddr> = slots
                .iter()
                .map(|slot| self.identity(frontend, fe.backend_base + u32::from(*slot)))
                .collect();
            assert_eq!(identities, table_of(*frontend, wish));
        }
    }

    fn find(&self, frontend: &Frontend) -> Option<u32> {
        let proto = frontend.protocol.number();
        match frontend.vip {
            IpAddr::V4(ip) => {
                fairlead_logic::select::find4(&self.world, u32::from(ip), frontend.port, proto)
            }
            IpAddr::V6(ip) => {
                fairlead_logic::select::find6(&self.world, &ip.octets(), frontend.port, proto)
            }
        }
    }

    fn identity(&self, frontend: &Frontend, record: u32) -> SocketAddr {
        if frontend.vip.is_ipv4() {
            let b = self.maps.backends4.read(record);
            SocketAddr::from((Ipv4Addr::from(b.addr), u16::from_be_bytes(b.port)))
        } else {
            let b = self.maps.backends6.read(record);
            SocketAddr::from((Ipv6Addr::from(b.addr), u16::from_be_bytes(b.port)))
        }
    }

    /// Entries of both flow tables.
    pub(crate) fn n_entries(&self) -> usize {
        self.world.flows.len() + self.world.flows_new.len()
    }

    pub(crate) fn in_transition(&self, frontend: &Frontend) -> bool {
        let fe = self
            .find(frontend)
            .map(|index| self.maps.frontends.read(index));
        fe.is_some_and(|fe| fe.previous.len != 0)
    }

    /// Whether the connection's slot has changed since its last fold.
    pub(crate) fn slot_changed(&self, conn: &Conn) -> bool {
        let fe = self.maps.frontends.read(self.find(&conn.frontend).unwrap());
        if fe.previous.len == 0 {
            return false;
        }
        let slots = read_table(&self.maps.maglev, fe.previous);
        let slot = hash::slot(conn.hash(), fe.previous.len);
        slots[slot as usize] != SLOT_UNCHANGED
    }
}

impl Conn {
    fn hash(&self) -> u32 {
        let (port, proto) = (self.frontend.port, self.frontend.protocol.number());
        match client(self.frontend.vip) {
            IpAddr::V4(ip) => {
                hash::flow_hash4(u32::from(ip), client_port(self.number), port, proto)
            }
            IpAddr::V6(ip) => hash::flow_hash6(&ip.octets(), client_port(self.number), port, proto),
        }
    }
}

/// The table that every node must have for this wish.
fn table_of(frontend: Frontend, wish: &Wish) -> Vec<SocketAddr> {
    let taking: BTreeSet<u8> = wish
        .backends
        .iter()
        .filter(|(_, a)| **a)
        .map(|(n, _)| *n)
        .collect();
    let members: Vec<maglev::Member> = taking
        .iter()
        .map(|n| maglev::Member {
            identity: backend(frontend, *n),
            index: (*n).into(),
        })
        .collect();
    let slots = maglev::build(&members, wish.table_size).unwrap();
    slots
        .iter()
        .map(|n| backend(frontend, u8::try_from(*n).unwrap()))
        .collect()
}

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

fn client(vip: Vip) -> IpAddr {
    if vip.is_ipv4() {
        "198.51.100.9".parse().unwrap()
    } else {
        "2001:db8:c::9".parse().unwrap()
    }
}

const fn client_port(number: u16) -> u16 {
    20_000 + number
}

fn frame(frontend: Frontend, number: u16, tcp_flags: u8) -> Vec<u8> {
    let ports = (client_port(number), frontend.port);
    packet(
        CLIENT_MAC,
        client(frontend.vip),
        frontend.vip,
        frontend.protocol,
        ports,
        tcp_flags,
    )
}

/// A packet to our interface, without payload; checksums are nobody's business here.
fn packet(
    src_mac: [u8; 6],
    src: IpAddr,
    dst: IpAddr,
    protocol: Protocol,
    (sport, dport): (u16, u16),
    tcp_flags: u8,
) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(sport.to_be_bytes());
    l4.extend(dport.to_be_bytes());
    if protocol == Protocol::Tcp {
        l4.extend([
            0, 0, 0, 1, 0, 0, 0, 1, 0x50, tcp_flags, 0xff, 0xff, 0, 0, 0, 0,
        ]);
    } else {
        l4.extend([0, 8, 0, 0]);
    }
    let l4_len = u16::try_from(l4.len()).unwrap();
    let mut frame = [OUR_MAC, src_mac].concat();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + l4_len).to_be_bytes());
            frame.extend([0, 1, 0x40, 0, 64, protocol.number(), 0, 0]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(l4_len.to_be_bytes());
            frame.extend([protocol.number(), 64]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        _ => panic!("both ends are of one family"),
    }
    frame.extend(l4);
    frame
}

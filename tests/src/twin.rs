//! The same configuration and the same frames for the programs in the kernel and for their logic on the host.
//!
//! [`Twin::check`] compares verdicts and bytes frame by frame, then counters and map contents. The kernel's clock runs, so the host's is set to
//! it before each frame, and times of day are compared only as set or not set.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairlead_abi::l2::{DeadlineCell, L2Entry, L2Key, N_PEER_SLOTS, PeerKey, PeerSeen};
use fairlead_abi::lb::{
    Backend4, Backend6, Counter, Iface, SlotTable, VipState, backend_flags, frontend_flags,
    iface_flags, mode, vip_flags,
};
use fairlead_abi::reasons;
use fairlead_datapath::{Datapath, DatapathConfig, HashMap, Insert, Plain};
use fairlead_logic::Verdict;
use fairlead_logic::hash;
use fairlead_logic::host::{Hashed, World, octets};
use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::fill::{self, FrontendSpec};
use crate::pins::PinDir;
use crate::random::{self, OWN_MAC, PORTS, Record, Sketch, vip};

/// The loopback device: test-run presents packets as received there.
const LO: u32 = 1;
/// Another interface, with another MTU.
const FAR: u32 = 5;
/// Slots per table; a prime, as Maglev's are.
const N_SLOTS: usize = 13;
/// Backends per frontend.
const N_BACKENDS: u16 = 6;

/// What varies between cases.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a condition of its own"
)]
#[derive(Clone, Debug)]
pub struct Setup {
    /// Slots of frontends in transition: now, and before (0xffff = unchanged).
    pub current: [u16; N_SLOTS],
    pub previous: [u16; N_SLOTS],
    /// Whether UDP still takes `previous`.
    pub udp_previous: bool,
    /// Per backend: alive, accepts new flows.
    pub backends: [(bool, bool); N_BACKENDS as usize],
    /// Whether frames go back by redirect.
    pub redirect_back: bool,
    /// Whether a former owner takes replies without record.
    pub handoff: bool,
    /// Whether the responder's deadline lies ahead, and whether a candidate was heard since.
    pub deadline_ahead: bool,
    pub candidate_heard: bool,
}

/// Setups of every kind.
pub fn setup() -> impl Strategy<Value = Setup> {
    let slot = 0..N_BACKENDS;
    let before = prop_oneof![2 => Just(0xffff_u16), 1 => 0..N_BACKENDS];
    let alive =
        prop_oneof![6 => Just((true, true)), 1 => Just((true, false)), 1 => Just((false, false))];
    (
        prop::array::uniform13(slot),
        prop::array::uniform13(before),
        prop::array::uniform6(alive),
        any::<(bool, bool, bool, bool, bool)>(),
    )
        .prop_map(|(current, previous, backends, flags)| Setup {
            current,
            previous,
            backends,
            udp_previous: flags.0,
            redirect_back: flags.1,
            handoff: flags.2,
            deadline_ahead: flags.3,
            candidate_heard: flags.4,
        })
}

/// The two that must agree.
pub struct Twin {
    datapath: Datapath,
    run: u32,
    counters: BTreeMap<(bool, u32), Counter>,
    // Last, so that the datapath lets go of the directory first.
    _pins: PinDir,
}

impl Twin {
    /// Loads the programs, with tables of `n_flows` and `n_records` entries (the half-open SNAT records keep their size: which of them the
    /// kernel evicts is its own affair).
    pub fn new(n_flows: u32, n_records: u32) -> anyhow::Result<Self> {
        let pins = PinDir::new();
        let cfg = DatapathConfig {
            n_flows,
            n_flows_new: n_flows,
            n_snat: n_records,
            ..DatapathConfig::new(pins.path())
        };
        let datapath = Datapath::open(&cfg)?;
        Ok(Self {
            datapath,
            run: 0,
            counters: BTreeMap::new(),
            _pins: pins,
        })
    }

    /// Runs the frames through both. Returns how often each verdict was reached.
    pub fn check(
        &mut self,
        setup: &Setup,
        sketches: &[Sketch],
    ) -> Result<BTreeMap<u32, u64>, TestCaseError> {
        let failed = |error: anyhow::Error| TestCaseError::fail(format!("{error:#}"));
        self.run += 1;
        self.empty().map_err(failed)?;
        let frontends = self.write(setup).map_err(failed)?;
        let mut world = self.mirror(setup, frontends);
        self.counters = self.read_counters(frontends).map_err(failed)?;
        let mut verdicts = BTreeMap::new();
        for (n, sketch) in sketches.iter().enumerate() {
            let record = match sketch {
                Sketch::Reply { nth, .. } | Sketch::Again { nth, .. } => nth_record(&world, *nth),
                _ => None,
            };
            let frame = sketch.frame(self.run, record);
            world.now.set(boottime());
            let (host, bytes) = world.run(LO, &frame);
            let kernel = self
                .datapath
                .test_run("lb_ingress", &frame)
                .map_err(|e| failed(e.into()))?;
            let host = number(host);
            prop_assert_eq!(
                host,
                kernel.verdict,
                "verdict of frame {} ({:?}): host, kernel",
                n,
                sketch
            );
            prop_assert_eq!(
                &bytes,
                &kernel.packet,
                "bytes of frame {} ({:?}, verdict {})",
                n,
                sketch,
                host
            );
            *verdicts.entry(host).or_default() += 1;
        }
        self.compare_counters(&world, frontends)?;
        self.compare_maps(&world)?;
        Ok(verdicts)
    }

    /// Labels of the reasons that the kernel has counted so far.
    pub fn reasons_seen(&self) -> anyhow::Result<Vec<&'static str>> {
        let mut seen = Vec::new();
        for reason in reasons::ALL {
            if self.datapath.lb().reasons.sum(reason.number)?.packets > 0 {
                seen.push(reason.label);
            }
        }
        Ok(seen)
    }

    /// Removes what the programs wrote for the case before.
    fn empty(&self) -> anyhow::Result<()> {
        fn all<K: Plain, V: Plain>(map: &HashMap<K, V>) -> anyhow::Result<()> {
            for (key, _) in map.entries()? {
                map.remove(&key)?;
            }
            Ok(())
        }
        let lb = self.datapath.lb();
        all(&lb.flows)?;
        all(&lb.flows_new)?;
        all(&lb.snat)?;
        all(&lb.snat_new)?;
        all(&self.datapath.l2().entries)?;
        for slot in 0..N_PEER_SLOTS {
            self.datapath
                .l2()
                .peer_seen
                .write(slot, &PeerSeen { at: 0 });
        }
        Ok(())
    }

    /// Writes the configuration to the kernel; returns the number of frontends.
    fn write(&self, setup: &Setup) -> anyhow::Result<u32> {
        let lb = self.datapath.lb();
        let flags = iface_flags::FORWARD
            | iface_flags::ANNOUNCE
            | if setup.redirect_back {
                iface_flags::REDIRECT_BACK
            } else {
                0
            };
        let near = Iface {
            ifindex: LO,
            mtu: 1500,
            mac: OWN_MAC,
            flags,
            addr4: random::NODE4,
            l2_cell: 0,
            addr6: random::NODE6,
        };
        fill::iface(lb, &near);
        fill::iface(
            lb,
            &Iface {
                ifindex: FAR,
                mtu: 1400,
                mac: [2, 0, 0, 0, 5, 5],
                flags: 0,
                ..near
            },
        );
        let current = fill::slots(lb, 1, &setup.current);
        let previous = fill::slots(lb, 2, &setup.previous);
        let steady = fill::slots(
            lb,
            3,
            &std::array::from_fn::<u16, N_SLOTS, _>(|i| u16::try_from(i % 3).expect("small")),
        );
        let mut index = 1;
        for v6 in [false, true] {
            let base = if v6 { 100 } else { 10 };
            self.write_backends(setup, v6, base);
            for n in 0..3_u8 {
                let state = u32::from(n) + if v6 { 4 } else { 1 };
                let flags = [
                    vip_flags::HAS_SNAT | vip_flags::ANSWER_ECHO,
                    0,
                    vip_flags::PASS_TO_HOST,
                ][usize::from(n)];
                let handoff_mac = if setup.handoff {
                    random::peer_mac(0)
                } else {
                    [0; 6]
                };
                let vip_state = VipState {
                    flags,
                    _pad: 0,
                    handoff_mac,
                    handoff_iface: 1,
                };
                fill::vip(lb, vip(n, v6), state, &vip_state)?;
                for shape in shapes(n) {
                    let in_transition = shape.flags & frontend_flags::IN_TRANSITION != 0;
                    let spec = FrontendSpec {
                        vip: vip(n, v6),
                        port: shape.port,
                        proto: shape.proto,
                        index,
                        vip_state: state,
                        mode: shape.mode,
                        current: match (shape.is_empty, in_transition) {
                            (true, _) => SlotTable::default(),
                            (false, true) => current,
                            (false, false) => SlotTable {
                                line: steady.line,
                                len: steady.len,
                            },
                        },
                        previous: if in_transition {
                            previous
                        } else {
                            SlotTable::default()
                        },
                        flags: shape.flags,
                        backend_base: base + shape.backend_offset,
                        n_backends: u32::from(N_BACKENDS),
                        udp_previous_until: if setup.udp_previous { u64::MAX } else { 0 },
                    };
                    fill::frontend(lb, &spec)?;
                    index += 1;
                }
            }
        }
        self.write_l2(setup)?;
        Ok(index)
    }

    fn write_backends(&self, setup: &Setup, v6: bool, base: u32) {
        let lb = self.datapath.lb();
        let flags = |(alive, new): (bool, bool)| {
            let alive = if alive { backend_flags::ALIVE } else { 0 };
            let new = if new { backend_flags::ACCEPTS_NEW } else { 0 };
            alive | new
        };
        // Four groups: reached through the same interface, without next hop, through the other interface, and such as see the node's address.
        for (group, (mac, iface, kind)) in [
            ([2, 0, 0, 0, 8, 1], LO, 0),
            ([0; 6], LO, 0),
            ([2, 0, 0, 0, 8, 2], FAR, 0),
            ([2, 0, 0, 0, 8, 3], LO, backend_flags::NODE_SOURCE),
        ]
        .into_iter()
        .enumerate()
        {
            for (n, state) in setup.backends.iter().enumerate() {
                let last = u8::try_from(group * 32 + n).expect("small");
                let index = base + u32::try_from(group * 20 + n).expect("small");
                let iface = u8::try_from(iface).expect("small");
                let flags = flags(*state) | kind;
                if v6 {
                    let addr = [0xfd, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
                    let port = [0x1f, 0x90];
                    lb.backends6.write(
                        index,
                        &Backend6 {
                            addr,
                            mac,
                            port,
                            iface,
                            flags,
                            _pad: [0; 6],
                        },
                    );
                } else {
                    let addr = [192, 0, 2, 100 + last];
                    let csum = fill::outer_sum(addr, [192, 0, 2, 1]);
                    lb.backends4.write(
                        index,
                        &Backend4 {
                            addr,
                            mac,
                            csum,
                            port: [0x1f, 0x90],
                            iface,
                            flags,
                        },
                    );
                }
            }
        }
    }

    fn write_l2(&self, setup: &Setup) -> anyhow::Result<()> {
        let l2 = self.datapath.l2();
        let deadline = if setup.deadline_ahead {
            u64::MAX
        } else {
            1_000
        };
        l2.cells.write(0, &DeadlineCell { deadline, epoch: 7 });
        for n in 0..2_u8 {
            l2.peers.insert(
                &PeerKey {
                    mac: random::peer_mac(n),
                    cell: 0,
                },
                &u32::from(n),
                Insert::Any,
            )?;
        }
        l2.peer_seen.write(
            0,
            &PeerSeen {
                at: if setup.candidate_heard { 2_000 } else { 0 },
            },
        );
        for (n, epoch) in [(0, 7), (1, 6)] {
            for v6 in [false, true] {
                let key = L2Key {
                    addr: octets(vip(n, v6)),
                    ifindex: LO,
                };
                let entry = L2Entry {
                    cell_epoch: epoch,
                    candidates: 1,
                    mac: OWN_MAC,
                    ..L2Entry::default()
                };
                l2.entries.insert(&key, &entry, Insert::Any)?;
            }
        }
        Ok(())
    }

    /// The host's copy of what was written.
    fn mirror(&self, setup: &Setup, frontends: u32) -> World {
        let (lb, l2) = (self.datapath.lb(), self.datapath.l2());
        let mut world = World::new();
        world.flows.capacity = lb.flows.capacity() as usize;
        world.flows_new.capacity = lb.flows_new.capacity() as usize;
        world.snat.capacity = lb.snat.capacity() as usize;
        for slot in [LO, FAR] {
            world.ifaces.set(slot, lb.ifaces.read(slot));
        }
        for line in 1..4 {
            world.lines.set(line, lb.maglev.read(line));
        }
        for index in 10..180 {
            world.backends4.set(index, lb.backends4.read(index));
            world.backends6.set(index, lb.backends6.read(index));
        }
        for index in 1..frontends {
            world.frontends.set(index, lb.frontends.read(index));
        }
        for index in 1..8 {
            world.vip_states.set(index, lb.vip_state.read(index));
        }
        for n in 0..3 {
            for (port, proto) in [(0, 0)]
                .into_iter()
                .chain(PORTS.into_iter().flat_map(|port| [(port, 6), (port, 17)]))
            {
                if let IpAddr::V4(addr) = vip(n, false) {
                    let (a, b) = hash::bucket_pair4(hash::vip_key4(addr.into(), port, proto));
                    for bucket in [a, b] {
                        world.vips4.set(bucket, lb.vips4.read(bucket));
                    }
                }
                let (a, b) = hash::bucket_pair6(&octets(vip(n, true)), port, proto);
                for bucket in [a, b] {
                    world.vips6.set(bucket, lb.vips6.read(bucket));
                }
            }
        }
        world.l2_cells.set(0, l2.cells.read(0));
        for n in 0..2_u8 {
            let key = PeerKey {
                mac: random::peer_mac(n),
                cell: 0,
            };
            world
                .peers
                .insert(key, u32::from(n), fairlead_logic::Insert::Any);
        }
        for (key, entry) in l2.entries.entries().unwrap_or_default() {
            world
                .l2_entries
                .insert(key, entry, fairlead_logic::Insert::Any);
        }
        if setup.candidate_heard {
            world.peer_seen.borrow_mut().insert(0, 2_000);
        }
        world
    }

    fn read_counters(&self, frontends: u32) -> anyhow::Result<BTreeMap<(bool, u32), Counter>> {
        let lb = self.datapath.lb();
        let mut counters = BTreeMap::new();
        for index in 0..frontends {
            counters.insert((true, index), lb.fe_stats.sum(index)?);
        }
        for reason in reasons::ALL {
            counters.insert((false, reason.number), lb.reasons.sum(reason.number)?);
        }
        Ok(counters)
    }

    fn compare_counters(&self, world: &World, frontends: u32) -> Result<(), TestCaseError> {
        let now = self
            .read_counters(frontends)
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        let of_reasons = world.reasons();
        for ((is_frontend, index), after) in now {
            let before = self.counters[&(is_frontend, index)];
            let kernel = Counter {
                packets: after.packets - before.packets,
                bytes: after.bytes - before.bytes,
            };
            let host = if is_frontend {
                world.frontend_counter(index)
            } else {
                of_reasons.get(&index).copied().unwrap_or_default()
            };
            let name = if is_frontend {
                "frontend"
            } else {
                reasons::ALL[index as usize].label
            };
            prop_assert_eq!(host, kernel, "counter {} {}: host, kernel", name, index);
        }
        Ok(())
    }

    fn compare_maps(&self, world: &World) -> Result<(), TestCaseError> {
        let (lb, l2) = (self.datapath.lb(), self.datapath.l2());
        same("FLOWS", &world.flows, &lb.flows, |value| {
            value.last_seen = u64::from(value.last_seen != 0);
        })?;
        same("FLOWS_NEW", &world.flows_new, &lb.flows_new, |value| {
            value.last_seen = u64::from(value.last_seen != 0);
        })?;
        same("SNAT", &world.snat, &lb.snat, |value| {
            value.last_seen = u64::from(value.last_seen != 0);
        })?;
        same("SNAT_NEW", &world.snat_new, &lb.snat_new, |value| {
            value.last_seen = u64::from(value.last_seen != 0);
        })?;
        same("L2_ENTRIES", &world.l2_entries, &l2.entries, |_| ())?;
        for slot in 0..4 {
            let host = world
                .peer_seen
                .borrow()
                .get(&slot)
                .is_some_and(|at| *at > 2_000);
            prop_assert_eq!(
                host,
                l2.peer_seen.read(slot).at > 2_000,
                "PEER_SEEN {}: host, kernel",
                slot
            );
        }
        Ok(())
    }
}

/// One frontend of a VIP.
struct Shape {
    port: u16,
    proto: u8,
    mode: u64,
    flags: u64,
    backend_offset: u32,
    is_empty: bool,
}

/// The frontends of the n-th VIP.
fn shapes(n: u8) -> Vec<Shape> {
    const TRANSITION: u64 = frontend_flags::IN_TRANSITION;
    const ASK: u64 = frontend_flags::ASK_RECORDS;
    // Port, mode, flags, first backend, no backends at all.
    let rows: &[(u16, u64, u64, u32, bool)] = match n {
        0 => &[
            (80, mode::SNAT, 0, 0, false),
            (443, mode::SNAT, TRANSITION, 0, false),
            (2000, mode::SNAT, ASK, 0, false),
            (81, mode::DSR_L2, 0, 0, false),
            (82, mode::SNAT, 0, 0, true),
            (83, mode::SNAT, 0, 20, false),
            (84, mode::SNAT, 0, 40, false),
            (85, mode::SNAT, 0, 60, false),
            (86, mode::SNAT, TRANSITION, 60, false),
        ],
        1 => &[
            (81, mode::DSR_L2, 0, 0, false),
            (82, mode::DSR_IPIP, 0, 0, false),
            (83, mode::DSR_L2, TRANSITION, 0, false),
            (84, mode::DSR_IPIP, TRANSITION, 0, false),
            (85, mode::DSR_IPIP, 0, 0, true),
            (86, mode::DSR_L2, 0, 20, false),
            (87, mode::DSR_IPIP, 0, 40, false),
            (88, mode::DSR_L2, 0, 40, false),
            (89, 3, 0, 0, false),
        ],
        _ => &[],
    };
    let both = |row: &(u16, u64, u64, u32, bool)| {
        let (port, mode, flags, backend_offset, is_empty) = *row;
        [6, 17].map(|proto| Shape {
            port,
            proto,
            mode,
            flags,
            backend_offset,
            is_empty,
        })
    };
    rows.iter().flat_map(both).collect()
}

/// Both tables hold the same, after `normalise` took the time of day out of the values.
fn same<K, V>(
    name: &str,
    host: &Hashed<K, V>,
    kernel: &HashMap<K, V>,
    normalise: impl Fn(&mut V),
) -> Result<(), TestCaseError>
where
    K: Plain + Eq + std::hash::Hash + std::fmt::Debug,
    V: Plain + PartialEq + std::fmt::Debug,
{
    let sorted = |entries: Vec<(K, V)>| {
        let mut entries: Vec<(Vec<u8>, V)> = entries
            .into_iter()
            .map(|(key, value)| (key.as_bytes().to_vec(), value))
            .collect();
        for (_, value) in &mut entries {
            normalise(value);
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries
    };
    let kernel = kernel
        .entries()
        .map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(
        sorted(host.entries()),
        sorted(kernel),
        "{}: host, kernel",
        name
    );
    Ok(())
}

/// The n-th of the records that live on the host, in the order of their keys.
fn nth_record(world: &World, nth: u8) -> Option<Record> {
    let mut records = world.snat.entries();
    records.extend(world.snat_new.entries());
    records.sort_unstable_by_key(|(key, _)| *key);
    let (key, value) = records.get(usize::from(nth) % records.len().max(1))?;
    let addr = |bytes: [u8; 16]| std::net::Ipv6Addr::from(bytes).to_canonical();
    Some(Record {
        vip: addr(key.vip),
        backend: addr(key.backend),
        snat_port: u16::from_be_bytes(key.snat_port),
        backend_port: u16::from_be_bytes(key.backend_port),
        proto: key.proto,
        client: addr(value.client),
        client_port: u16::from_be_bytes(value.client_port),
        client_mac: value.client_mac,
        dialled: addr(value.vip),
        dialled_port: u16::from_be_bytes(value.vip_port),
    })
}

/// The number that XDP gives to a verdict.
const fn number(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Drop => 1,
        Verdict::Pass => 2,
        Verdict::Tx => 3,
        Verdict::Redirect(_) => 4,
        // Not a verdict that `World::run` settles on.
        Verdict::Tail(_) => u32::MAX,
    }
}

fn boottime() -> u64 {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every supported kernel has this clock");
    u64::try_from(now.tv_sec()).expect("after boot") * 1_000_000_000
        + u64::try_from(now.tv_nsec()).expect("below 1 s")
}

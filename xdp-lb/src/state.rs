//! What the maps hold: the planner's memory of them, which a restart reads back from the maps themselves.
//!
//! Tables are not kept here, only where they are; the planner reads their slots from the array. What cannot be read back is time: after a
//! restart every slot in transition counts as changed just now, and removed backends linger anew. Both err on the side of keeping flows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    sync::Arc,
};

use fairlead_abi::lb::{
    self, Backend4, Backend6, FrontendValue, Iface, SlotTable, VipState, backend_flags,
};
use fairlead_logic::{csum::Sum, hash, wire};
use fairlead_model::{Frontend, Protocol, Vip};

use crate::{
    buckets::Buckets,
    desired::DesiredFrontend,
    op::{BackendValue, Key, MapOp, n_lines},
    ranges::Ranges,
};

mod read_back;

pub use read_back::ReadBack;

/// Times that are settings; all in ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// A slot folds at the earliest this long after its last change.
    pub fold_after: u64,
    /// How long a TCP backend that the API has removed keeps its flows.
    pub linger: u64,
    /// How long UDP without an entry takes `previous` after a change.
    pub udp_previous: u64,
}

impl Default for Times {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            fold_after: 3600 * SECOND,
            linger: 60 * SECOND,
            udp_previous: 30 * SECOND,
        }
    }
}

/// Sizes of the arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Records of `FRONTENDS`.
    pub frontends: u32,
    /// Records of `VIP_STATE`.
    pub vips: u32,
    /// Lines of `MAGLEV`.
    pub lines: u32,
    /// Records of `BACKENDS4`.
    pub backends4: u32,
    /// Records of `BACKENDS6`.
    pub backends6: u32,
}

/// The planner's memory.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) times: Times,
    pub(crate) ifaces: BTreeMap<u32, Iface>,
    pub(crate) vips: BTreeMap<Vip, VipEntry>,
    pub(crate) frontends: BTreeMap<Frontend, FrontendState>,
    pub(crate) buckets4: Buckets<u64>,
    pub(crate) buckets6: Buckets<([u8; 16], u32)>,
    pub(crate) records: Ranges,
    pub(crate) vip_records: Ranges,
    pub(crate) lines: Ranges,
    pub(crate) windows4: Ranges,
    pub(crate) windows6: Ranges,
    /// Frontend records without a frontend, since when: a sweep removes what flows still name them, then they are free.
    pub(crate) draining: BTreeMap<u32, u64>,
}

/// A VIP in the maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VipEntry {
    pub(crate) record: u32,
    pub(crate) value: VipState,
}

/// A frontend in the maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrontendState {
    pub(crate) record: u32,
    pub(crate) vip_record: u32,
    pub(crate) current: SlotTable,
    pub(crate) previous: SlotTable,
    pub(crate) flags: u64,
    pub(crate) udp_until: u64,
    pub(crate) base: u32,
    /// One for each record of the window.
    pub(crate) members: Vec<Option<Member>>,
    /// Indices that `current` holds, sorted.
    pub(crate) in_table: Vec<u16>,
    /// When slots of `previous` changed last; `Some` exactly while there is a `previous`.
    pub(crate) changed: Option<Changed>,
    /// What was wanted when this was planned last.
    pub(crate) applied: Option<Arc<DesiredFrontend>>,
    /// When this must be planned again even if nothing changes.
    pub(crate) due: Option<u64>,
    /// It goes on as it is until the next hop of a backend that came has answered, at the latest until then.
    pub(crate) held_until: Option<u64>,
}

/// Since when slots differ, CLOCK_BOOTTIME ns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changed {
    /// `previous` has the length of `current`: one time for each slot (0 = unchanged).
    PerSlot(Vec<u64>),
    /// `previous` has (or had) its own length: one time for all of it.
    Whole(u64),
}

/// A backend in a frontend's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) identity: SocketAddr,
    /// `abi::lb::backend_flags`.
    pub(crate) flags: u8,
    pub(crate) mac: [u8; 6],
    pub(crate) iface: u8,
    pub(crate) csum: u16,
    /// The API has removed it; until then its flows are kept.
    pub(crate) linger_until: Option<u64>,
    /// Since when neither desired nor in `current`; it may be forgotten when nothing names it any more.
    pub(crate) out_since: Option<u64>,
}

// === impl State ===

impl State {
    /// Of empty maps.
    pub fn new(sizes: &Sizes, times: Times) -> Self {
        Self {
            times,
            ifaces: BTreeMap::new(),
            vips: BTreeMap::new(),
            frontends: BTreeMap::new(),
            buckets4: Buckets::new(4, |key| hash::bucket_pair4(*key)),
            buckets6: Buckets::new(2, |(addr, tag)| {
                let (port, proto) = ports_of(*tag);
                hash::bucket_pair6(addr, port, proto)
            }),
            records: Ranges::new(1..sizes.frontends),
            vip_records: Ranges::new(1..sizes.vips),
            lines: Ranges::new(0..sizes.lines),
            windows4: Ranges::new(0..sizes.backends4),
            windows6: Ranges::new(0..sizes.backends6),
            draining: BTreeMap::new(),
        }
    }

    pub(crate) fn windows(&mut self, is_v4: bool) -> &mut Ranges {
        if is_v4 {
            &mut self.windows4
        } else {
            &mut self.windows6
        }
    }

    /// Frontend records that no frontend has, and that flows may still name.
    pub fn draining(&self) -> BTreeSet<u32> {
        self.draining.keys().copied().collect()
    }

    /// Frontends that ask the SNAT records first.
    pub fn asking(&self) -> BTreeSet<Frontend> {
        let asking = self
            .frontends
            .iter()
            .filter(|(_, fe)| fe.flags & lb::frontend_flags::ASK_RECORDS != 0);
        asking.map(|(frontend, _)| *frontend).collect()
    }

    /// Every VIP in the maps.
    pub fn vips(&self) -> impl Iterator<Item = Vip> {
        self.vips.keys().copied()
    }

    /// Whether a VIP is in the maps.
    pub fn has_vip(&self, vip: &Vip) -> bool {
        self.vips.contains_key(vip)
    }

    /// Record in `FRONTENDS` and `FE_STATS`.
    pub fn record_of(&self, frontend: &Frontend) -> Option<u32> {
        self.frontends.get(frontend).map(|fe| fe.record)
    }

    /// For views: every frontend with its record.
    pub fn infos(&self) -> BTreeMap<Frontend, Arc<FrontendInfo>> {
        let infos = self.frontends.iter();
        infos
            .map(|(frontend, fe)| (*frontend, Arc::new(fe.info())))
            .collect()
    }

    /// One of them.
    pub fn info(&self, frontend: &Frontend) -> Option<FrontendInfo> {
        self.frontends.get(frontend).map(FrontendState::info)
    }

    /// Frontend of each record, to tell whose flow an entry is.
    pub(crate) fn by_record(&self) -> HashMap<u32, Frontend> {
        let all = self.frontends.iter();
        all.map(|(frontend, fe)| (fe.record, *frontend)).collect()
    }
}

/// What views show of a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendInfo {
    /// Record in `FRONTENDS` and `FE_STATS`.
    pub record: u32,
    /// Slots of the table for new flows; 0 = no backend.
    pub table_size: u32,
    /// `abi::lb::mode`.
    pub mode: u64,
    /// Flows are looked up in the flow table.
    pub in_transition: bool,
    /// Backends whose flows continue, with their flags (`abi::lb::backend_flags`).
    pub backends: Vec<(SocketAddr, u8)>,
}

// === impl FrontendState ===

impl FrontendState {
    /// The members' record window.
    pub(crate) fn window(&self) -> Range<u32> {
        self.base..self.base + n_u32(self.members.len())
    }

    pub(crate) fn member_ids(&self) -> impl Iterator<Item = (u16, &Member)> {
        (0_u16..)
            .zip(&self.members)
            .filter_map(|(i, m)| m.as_ref().map(|m| (i, m)))
    }

    /// The record as it is in the map.
    pub(crate) fn value(&self) -> FrontendValue {
        FrontendValue {
            current: self.current,
            previous: self.previous,
            flags: self.flags,
            udp_previous_until: self.udp_until,
            backend_base: self.base,
            vip: self.vip_record,
            n_backends: n_u32(self.members.len()),
            _pad: [0; 5],
        }
    }

    /// `abi::lb::mode`.
    pub(crate) const fn mode(&self) -> u64 {
        (self.flags >> lb::frontend_flags::MODE_SHIFT) & lb::frontend_flags::MODE_MASK
    }

    fn info(&self) -> FrontendInfo {
        let alive = self.member_ids();
        let alive = alive.filter(|(_, m)| m.flags & backend_flags::ALIVE != 0);
        FrontendInfo {
            record: self.record,
            table_size: self.current.len,
            mode: self.mode(),
            in_transition: self.flags & lb::frontend_flags::IN_TRANSITION != 0,
            backends: alive.map(|(_, m)| (m.identity, m.flags)).collect(),
        }
    }
}

// === impl Member ===

impl Member {
    /// The record as it is in the map.
    pub(crate) fn value(&self) -> BackendValue {
        let port = self.identity.port().to_be_bytes();
        match self.identity.ip() {
            IpAddr::V4(ip) => BackendValue::V4(Backend4 {
                addr: ip.octets(),
                mac: self.mac,
                csum: self.csum,
                port,
                iface: self.iface,
                flags: self.flags,
            }),
            IpAddr::V6(ip) => BackendValue::V6(Backend6 {
                addr: ip.octets(),
                mac: self.mac,
                port,
                iface: self.iface,
                flags: self.flags,
                _pad: [0; 6],
            }),
        }
    }

    pub(crate) fn op(&self, base: u32, index: u16) -> MapOp {
        MapOp::Backend {
            record: base + u32::from(index),
            value: self.value(),
        }
    }
}

/// An empty record.
pub(crate) fn no_backend(is_v4: bool) -> BackendValue {
    if is_v4 {
        BackendValue::V4(Backend4::default())
    } else {
        BackendValue::V6(Backend6::default())
    }
}

/// Sum over the constant words of an outer IPIP header (`abi::lb::Backend4::csum`).
pub(crate) fn outer_csum(source: [u8; 4], backend: Ipv4Addr) -> u16 {
    const IPIP: u8 = 4;
    Sum(0)
        .word(0x4500)
        .word(u16::from_be_bytes([wire::TTL, IPIP]))
        .bytes4(source)
        .bytes4(backend.octets())
        .fold()
}

/// Port and protocol in a tag of `VIPS6`.
pub(crate) fn ports_of(tag: u32) -> (u16, u8) {
    let [lo, hi, proto, _] = tag.to_le_bytes();
    (u16::from_le_bytes([lo, hi]), proto)
}

/// The key of a frontend.
pub(crate) fn key_of(frontend: &Frontend) -> Key {
    key(frontend.vip, frontend.port, frontend.protocol.number())
}

/// The key of a VIP itself.
pub(crate) fn vip_key(vip: Vip) -> Key {
    key(vip, 0, 0)
}

fn key(vip: Vip, port: u16, proto: u8) -> Key {
    match vip {
        IpAddr::V4(ip) => Key::V4(hash::vip_key4(u32::from(ip), port, proto)),
        IpAddr::V6(ip) => Key::V6(ip.octets(), hash::vip_tag6(port, proto)),
    }
}

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Vip(Vip),
    Frontend(Frontend),
    /// Written by nobody we know.
    Unknown,
}

pub(crate) fn name_of(key: &Key) -> Named {
    let (vip, port, proto) = match key {
        Key::V4(key) => {
            let [a, b, c, d, port_lo, port_hi, proto, _] = key.to_le_bytes();
            let ip = Ipv4Addr::from(u32::from_le_bytes([a, b, c, d]));
            (
                IpAddr::V4(ip),
                u16::from_le_bytes([port_lo, port_hi]),
                proto,
            )
        }
        Key::V6(addr, tag) => {
            let (port, proto) = ports_of(*tag);
            (IpAddr::V6(Ipv6Addr::from(*addr)), port, proto)
        }
    };
    let protocol = match (port, proto) {
        (0, 0) => return Named::Vip(vip),
        (1.., 6) => Protocol::Tcp,
        (1.., 17) => Protocol::Udp,
        _ => return Named::Unknown,
    };
    Named::Frontend(Frontend {
        vip,
        protocol,
        port,
    })
}

pub(crate) fn n_u32(n: usize) -> u32 {
    u32::try_from(n).expect("arrays have fewer than 2^32 elements")
}

/// Lines of a table.
pub(crate) fn lines_of(table: SlotTable) -> Range<u32> {
    table.line..table.line + n_lines(table.len)
}

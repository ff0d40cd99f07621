//! Typed access to the kernel's hash and per-CPU maps, and the groups of maps that each feature works with.
//!
//! Every map type also exists in memory (`in_memory`), with the same behaviour and no kernel: features test their map contents without root.
//! Arrays that are written through a mapping are [`Window`]s.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use fairlead_abi::flow::{FlowKey, FlowValue, SnatKey, SnatValue};
use fairlead_abi::l2::{DeadlineCell, L2Entry, L2Key, PeerKey, PeerSeen};
use fairlead_abi::lb::{
    Backend4, Backend6, Counter, FrontendValue, Iface, MaglevLine, VipBucket4, VipBucket6, VipState,
};
use fairlead_abi::{flow, l2, lb, reasons};

pub use crate::hash::{HashMap, Insert};
pub use crate::per_cpu::PerCpuArray;
pub use crate::window::Window;

/// Bytes that may cross the border to the kernel: no padding, every bit pattern valid.
pub trait Plain:
    FromBytes + IntoBytes + Immutable + KnownLayout + Copy + Send + Sync + 'static
{
}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy + Send + Sync + 'static> Plain
    for T
{
}

/// Why a map operation failed.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// No room for another element.
    #[error("map {map} is full: raise its number of entries in the settings")]
    Full { map: &'static str },
    /// [`Insert::New`] met an element that exists.
    #[error("map {map} already has this key")]
    Exists { map: &'static str },
    /// [`Insert::Replace`] met no element.
    #[error("map {map} has no such key")]
    Missing { map: &'static str },
    /// The kernel refused for another reason.
    #[error("map {map}: {call} failed")]
    System {
        map: &'static str,
        call: &'static str,
        source: std::io::Error,
    },
}

impl MapError {
    /// The closed word for conditions, metrics and the runbook.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Full { .. } => "MapFull",
            Self::Exists { .. } => "MapEntryExists",
            Self::Missing { .. } => "MapEntryMissing",
            Self::System { .. } => "MapUnavailable",
        }
    }
}

/// What the load balancer writes and reads. Clones share the maps and may live on other threads.
#[derive(Clone, Debug)]
pub struct LbMaps {
    /// Interfaces, by `ifindex & (N_IFACES - 1)`.
    pub ifaces: Window<Iface>,
    pub vips4: Window<VipBucket4>,
    pub vips6: Window<VipBucket6>,
    pub vip_state: Window<VipState>,
    pub frontends: Window<FrontendValue>,
    pub maglev: Window<MaglevLine>,
    pub backends4: Window<Backend4>,
    pub backends6: Window<Backend6>,
    /// By record number of the frontend.
    pub fe_stats: PerCpuArray<Counter>,
    /// By reason number.
    pub reasons: PerCpuArray<Counter>,
    pub flows: HashMap<FlowKey, FlowValue>,
    pub flows_new: HashMap<FlowKey, FlowValue>,
    pub snat: HashMap<SnatKey, SnatValue>,
    pub snat_new: HashMap<SnatKey, SnatValue>,
}

impl LbMaps {
    /// Empty maps of the default sizes in this process only.
    pub fn in_memory() -> Self {
        Self {
            ifaces: Window::in_memory(lb::N_IFACES),
            vips4: Window::in_memory(lb::N_VIP_BUCKETS),
            vips6: Window::in_memory(lb::N_VIP_BUCKETS),
            vip_state: Window::in_memory(lb::N_VIP_STATES),
            frontends: Window::in_memory(lb::N_FRONTENDS),
            maglev: Window::in_memory(lb::N_MAGLEV_LINES),
            backends4: Window::in_memory(lb::N_BACKENDS4),
            backends6: Window::in_memory(lb::N_BACKENDS6),
            fe_stats: PerCpuArray::in_memory(lb::N_FRONTENDS),
            reasons: PerCpuArray::in_memory(reasons::N_REASONS),
            flows: HashMap::in_memory(flow::N_FLOWS),
            flows_new: HashMap::in_memory(flow::N_FLOWS_NEW),
            snat: HashMap::in_memory(flow::N_SNAT),
            snat_new: HashMap::in_memory(flow::N_SNAT_NEW),
        }
    }
}

/// What the announcer writes and reads. Clones share the maps and may live on the heartbeat thread.
#[derive(Clone, Debug)]
pub struct L2Maps {
    pub entries: HashMap<L2Key, L2Entry>,
    pub cells: Window<DeadlineCell>,
    /// Slot of a peer on its interface, `0..N_PEER_SLOTS`.
    pub peers: HashMap<PeerKey, u32>,
    /// `PEER_SEEN[cell * N_PEER_SLOTS + slot]`; written by the programs.
    pub peer_seen: Window<PeerSeen>,
}

impl L2Maps {
    /// Empty maps of the default sizes in this process only.
    pub fn in_memory() -> Self {
        Self {
            entries: HashMap::in_memory(l2::N_L2_ENTRIES),
            cells: Window::in_memory(l2::N_L2_CELLS),
            peers: HashMap::in_memory(l2::N_PEERS),
            peer_seen: Window::in_memory(l2::N_PEERS),
        }
    }
}

/// What the decapsulator of a server reads.
#[derive(Clone, Debug)]
pub struct DecapMaps {
    /// Interfaces, by `ifindex & (N_IFACES - 1)`.
    pub ifaces: Window<Iface>,
    /// Addresses (IPv4 mapped) that packets may be unwrapped for. The value is not used.
    pub vips: HashMap<[u8; 16], u32>,
    /// Outer source addresses (IPv4 mapped) that are load balancers of ours. The value is not used.
    pub senders: HashMap<[u8; 16], u32>,
    /// By reason number.
    pub reasons: PerCpuArray<Counter>,
}

//! The map table: every map of the programs, who writes it, who reads it. `datapath` loads and pins by it, `tests/` compares the built object with it.

use core::mem::size_of;

use crate::{flow, l2, lb, reasons};

/// Kind of a map, as far as layouts and pinning go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `BPF_MAP_TYPE_ARRAY` with `BPF_F_MMAPABLE`: user space writes through a mapping.
    MappedArray,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray,
    /// `BPF_MAP_TYPE_HASH`, preallocated.
    Hash,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash,
    /// `BPF_MAP_TYPE_PROG_ARRAY`.
    ProgArray,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRow {
    /// At most 15 characters.
    pub name: &'static str,
    pub kind: Kind,
    /// Bytes.
    pub key: usize,
    /// Bytes.
    pub value: usize,
    pub max_entries: u32,
    /// Who writes it.
    pub writer: &'static str,
    /// Who reads it.
    pub readers: &'static str,
}

macro_rules! maps {
    ($($name:literal: $kind:ident, $key:ty => $value:ty, $max:expr, $writer:literal, $readers:literal;)+) => {
        /// Every pinned map.
        pub const MAPS: &[MapRow] = &[$(MapRow {
            name: $name, kind: Kind::$kind, key: size_of::<$key>(), value: size_of::<$value>(), max_entries: $max,
            writer: $writer, readers: $readers,
        }),+];
    };
}

maps! {
    "IFACES": MappedArray, u32 => lb::Iface, lb::N_IFACES, "agent", "all programs";
    "VIPS4": MappedArray, u32 => lb::VipBucket4, lb::N_VIP_BUCKETS, "xdp-lb", "lb_ingress, lb_rare, lb_snat";
    "VIPS6": MappedArray, u32 => lb::VipBucket6, lb::N_VIP_BUCKETS, "xdp-lb", "lb_ingress, lb_rare, lb_snat";
    "VIP_STATE": MappedArray, u32 => lb::VipState, lb::N_VIP_STATES, "xdp-lb", "lb_rare, lb_snat";
    "FRONTENDS": MappedArray, u32 => lb::FrontendValue, lb::N_FRONTENDS, "xdp-lb", "lb_ingress, lb_rare, lb_snat";
    "MAGLEV": MappedArray, u32 => lb::MaglevLine, lb::N_MAGLEV_LINES, "xdp-lb", "lb_ingress, lb_rare, lb_snat";
    "BACKENDS4": MappedArray, u32 => lb::Backend4, lb::N_BACKENDS4, "xdp-lb", "lb_ingress, lb_rare, lb_snat";
    "BACKENDS6": MappedArray, u32 => lb::Backend6, lb::N_BACKENDS6, "xdp-lb", "lb_ingress, lb_rare, lb_snat";
    "FE_STATS": PerCpuArray, u32 => lb::Counter, lb::N_FRONTENDS, "programs", "agent";
    "REASONS": PerCpuArray, u32 => lb::Counter, reasons::N_REASONS, "programs", "agent";
    "FLOWS": Hash, flow::FlowKey => flow::FlowValue, flow::N_FLOWS, "lb_rare, xdp-lb (sweep)", "lb_rare, xdp-lb";
    "FLOWS_NEW": Hash, flow::FlowKey => flow::FlowValue, flow::N_FLOWS_NEW, "lb_rare, xdp-lb (sweep)", "lb_rare, xdp-lb";
    "SNAT": Hash, flow::SnatKey => flow::SnatValue, flow::N_SNAT, "lb_snat, xdp-lb (sweep)", "lb_snat, xdp-lb";
    "SNAT_NEW": LruHash, flow::SnatKey => flow::SnatValue, flow::N_SNAT_NEW, "lb_snat", "lb_snat, xdp-lb";
    "FRAGS": LruHash, flow::FragKey => flow::FragValue, flow::N_FRAGS, "lb_rare", "lb_rare";
    "L2_ENTRIES": Hash, l2::L2Key => l2::L2Entry, l2::N_L2_ENTRIES, "announcer", "l2_respond";
    "L2_CELLS": MappedArray, u32 => l2::DeadlineCell, l2::N_L2_CELLS, "announcer", "l2_respond";
    "PEERS": Hash, l2::PeerKey => u32, l2::N_PEERS, "announcer", "lb_rare";
    "PEER_SEEN": MappedArray, u32 => l2::PeerSeen, l2::N_PEERS, "lb_rare", "l2_respond, announcer";
    "PROGS": ProgArray, u32 => u32, N_PROGS, "datapath", "lb_ingress";
    "DECAP_VIPS": Hash, [u8; 16] => u32, 4096, "datapath (decap)", "decap_ingress";
    "SCRATCH": PerCpuArray, u32 => u64, 1, "lb_ingress, lb_rare, lb_snat", "lb_icmp";
    "DECAP_SENDERS": Hash, [u8; 16] => u32, 1024, "datapath (decap)", "decap_ingress";
}

/// Slots of `PROGS`.
pub const N_PROGS: u32 = 8;

/// Slots of the tail-call array `PROGS`.
pub mod slots {
    /// IPv4/IPv6 that the fast path leaves: transition, fragments, options, ICMP, heartbeats, VIPs without frontend.
    pub const RARE: u32 = 0;
    /// SNAT, both directions.
    pub const SNAT: u32 = 1;
    /// ARP and neighbour discovery.
    pub const L2: u32 = 2;
    /// ICMP to VIPs, and ICMP errors that we send (too big).
    pub const ICMP: u32 = 3;
    /// ICMP errors about translated packets: program `lb_icmp_snat`.
    pub const ICMP_SNAT: u32 = 4;
    /// ICMP to the node's own address: program `lb_node`.
    pub const NODE: u32 = 5;
}

#[cfg(test)]
mod tests {
    use super::MAPS;

    #[test]
    fn names_fit_the_kernel() {
        for row in MAPS {
            assert!(row.name.len() <= 15, "{}", row.name);
        }
    }
}

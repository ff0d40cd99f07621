//! Per-flow state: the flow table of frontends in transition and the SNAT records.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Established entries of `FLOWS`; a setting at load time.
pub const N_FLOWS: u32 = 65_536;
/// Half-open entries of `FLOWS_NEW`.
pub const N_FLOWS_NEW: u32 = 16_384;
/// Established records of `SNAT`; a setting at load time.
pub const N_SNAT: u32 = 65_536;
/// Half-open records of `SNAT_NEW` (LRU: a SYN flood evicts only its own kind).
pub const N_SNAT_NEW: u32 = 16_384;
/// Entries of `FRAGS`.
pub const N_FRAGS: u32 = 4_096;
/// Lowest port that SNAT gives to a flow: `SNAT_PORT_MIN + (client port + hash) % SNAT_PORTS`.
pub const SNAT_PORT_MIN: u16 = 1024;
/// Number of SNAT ports.
pub const SNAT_PORTS: u32 = 64_512;
/// Lowest port of a node's own address that SNAT gives to a flow. From here to the end no kernel hands out ports by default
/// (`net.ipv4.ip_local_port_range` ends at 60999), so that no socket of the host has a flow of ours.
pub const NODE_PORT_MIN: u16 = 61_000;
/// Number of those ports.
pub const NODE_PORTS: u32 = 4_536;
/// How often another port is tried before the packet is dropped.
pub const SNAT_PROBES: u32 = 8;
/// Lifetime of a half-open entry, ns.
pub const HALF_OPEN_NS: u64 = 10_000_000_000;
/// How long a closed SNAT record stays, ns.
pub const CLOSED_NS: u64 = 60_000_000_000;
/// How long a flow that one side has closed may be silent, ns.
pub const HALF_CLOSED_NS: u64 = 300_000_000_000;
/// An established UDP record may be given to another flow after this silence, ns.
pub const UDP_IDLE_NS: u64 = 180_000_000_000;
/// An established TCP record may be given to another flow after this silence, ns (RFC 5382 REQ-5 asks for at least 2 h 4 min).
pub const TCP_IDLE_NS: u64 = 7_500_000_000_000;

/// A client's flow to a frontend, as the client sends it.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct FlowKey {
    /// IPv6, or IPv4-mapped IPv6; network order.
    pub client: [u8; 16],
    /// Likewise.
    pub vip: [u8; 16],
    /// Network order.
    pub client_port: [u8; 2],
    /// Network order.
    pub vip_port: [u8; 2],
    /// IANA protocol number.
    pub proto: u8,
    /// Zero.
    pub _pad: [u8; 3],
}
layout!(FlowKey: size 40, align 1; client 0, vip 16, client_port 32, vip_port 34, proto 36, _pad 37);

/// The backend that a flow keeps while its slot is in transition.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FlowValue {
    /// CLOCK_BOOTTIME ns of the latest packet.
    pub last_seen: u64,
    /// Record in `FRONTENDS`.
    pub frontend: u32,
    /// Index relative to the frontend's `backend_base`.
    pub backend: u16,
    /// See [`flow_state`].
    pub state: u16,
}
layout!(FlowValue: size 16, align 8; last_seen 0, frontend 8, backend 12, state 14);

/// Values of [`FlowValue::state`] and [`SnatValue::state`].
pub mod flow_state {
    /// A first packet was seen; ends after [`super::HALF_OPEN_NS`].
    pub const NEW: u16 = 0;
    /// Both sides (SNAT) or a later packet of the client (DSR) were seen.
    pub const ESTABLISHED: u16 = 1;
    /// FIN from both sides or RST; stays [`super::CLOSED_NS`].
    pub const CLOSED: u16 = 2;
    /// FIN of the client seen.
    pub const FIN_CLIENT: u16 = 3;
    /// FIN of the backend seen.
    pub const FIN_BACKEND: u16 = 4;
    /// SNAT only: the backend has answered, the client not yet again; ends like [`NEW`].
    pub const REPLIED: u16 = 5;
}

/// A translated flow, keyed as the backend's reply arrives.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct SnatKey {
    /// Destination of the reply: the VIP (or the node's address); IPv4 mapped; network order.
    pub vip: [u8; 16],
    /// Source of the reply.
    pub backend: [u8; 16],
    /// Destination port of the reply: the SNAT port; network order.
    pub snat_port: [u8; 2],
    /// Source port of the reply; network order.
    pub backend_port: [u8; 2],
    /// IANA protocol number.
    pub proto: u8,
    /// Zero.
    pub _pad: [u8; 3],
}
layout!(SnatKey: size 40, align 1; vip 0, backend 16, snat_port 32, backend_port 34, proto 36, _pad 37);

/// What a reply needs, and what a request checks before it uses the port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SnatValue {
    /// CLOCK_BOOTTIME ns of the latest packet of either side.
    pub last_seen: u64,
    /// IPv4 mapped; network order.
    pub client: [u8; 16],
    /// The address that the client dialled.
    pub vip: [u8; 16],
    /// Network order.
    pub client_port: [u8; 2],
    /// The port that the client dialled; network order.
    pub vip_port: [u8; 2],
    /// Record in `FRONTENDS`.
    pub frontend: u32,
    /// Index relative to the frontend's `backend_base`.
    pub backend: u16,
    /// See [`flow_state`].
    pub state: u16,
    /// Source MAC of the client's latest packet: where replies go.
    pub client_mac: [u8; 6],
    /// Slot in `IFACES` of the client's latest packet.
    pub client_iface: u16,
    /// Zero.
    pub _pad: [u8; 4],
}
layout!(SnatValue: size 64, align 8; last_seen 0, client 8, vip 24, client_port 40, vip_port 42, frontend 44, backend 48, state 50, client_mac 52, client_iface 58, _pad 60);

/// A fragmented datagram; later fragments follow the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FragKey {
    pub src: [u8; 16],
    pub dst: [u8; 16],
    /// IPv4 identification (low 16 bits) or IPv6 fragment identification, host order.
    pub id: u32,
    /// IANA protocol number.
    pub proto: u8,
    /// Zero.
    pub _pad: [u8; 3],
}
layout!(FragKey: size 40, align 4; src 0, dst 16, id 32, proto 36, _pad 37);

/// The L4 ports of a fragmented datagram's first fragment.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FragValue {
    /// Network order.
    pub src_port: [u8; 2],
    /// Network order.
    pub dst_port: [u8; 2],
}
layout!(FragValue: size 4, align 1; src_port 0, dst_port 2);

//! Forwarding: interfaces, frontends, Maglev lines, backends, counters.
//!
//! Publish order (writer: `xdp-lb`): backends, then Maglev lines, then the frontend's `previous`, `flags`, `current` — each one aligned
//! 8-byte store — and last the bucket slot's word that makes the frontend reachable. Removal runs the other way. Freed lines and records rest
//! one second before they are used again, because stores through a mapping have no RCU.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Slots of [`Iface`] in `IFACES`; the slot of an interface is `ifindex & (N_IFACES - 1)`.
pub const N_IFACES: u32 = 256;
/// Buckets of `VIPS4` and of `VIPS6`; a key lives in one of two buckets (`logic::hash`).
pub const N_VIP_BUCKETS: u32 = 16_384;
/// Records of `FRONTENDS` and `FE_STATS`. Record 0 is never used, so that a zeroed slot names nothing.
pub const N_FRONTENDS: u32 = 65_536;
/// Records of `VIP_STATE`. Record 0 is never used.
pub const N_VIP_STATES: u32 = 16_384;
/// Default number of [`MaglevLine`]s (32 slots of 2 bytes each); a setting at load time.
pub const N_MAGLEV_LINES: u32 = 1 << 19;
/// Records of `BACKENDS4`.
pub const N_BACKENDS4: u32 = 131_072;
/// Records of `BACKENDS6`.
pub const N_BACKENDS6: u32 = 65_536;
/// Slots in one [`MaglevLine`].
pub const SLOTS_PER_LINE: u32 = 32;
/// A `previous` slot that has not changed since its last fold.
pub const SLOT_UNCHANGED: u16 = 0xffff;

/// One network interface as the programs see it. Zero `ifindex` = empty slot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Iface {
    /// Kernel interface index, host order.
    pub ifindex: u32,
    /// Largest L3 packet that may leave, in bytes.
    pub mtu: u32,
    /// Hardware address; frames for another unicast address are left alone.
    pub mac: [u8; 6],
    /// See [`iface_flags`].
    pub flags: u16,
    /// Primary IPv4 address (outer source of IPIP), network order; zero = none.
    pub addr4: [u8; 4],
    /// Deadline cell of this interface in `L2_CELLS`.
    pub l2_cell: u32,
    /// Outer source of ip6ip6, network order; zero = none.
    pub addr6: [u8; 16],
}
layout!(Iface: size 40, align 4; ifindex 0, mtu 4, mac 8, flags 14, addr4 16, l2_cell 20, addr6 24);

/// Bits of [`Iface::flags`].
pub mod iface_flags {
    /// The load balancer forwards packets that arrive here.
    pub const FORWARD: u16 = 1;
    /// The ARP/NDP responder answers here.
    pub const ANNOUNCE: u16 = 1 << 1;
    /// Frames that go back leave by redirect: `XDP_TX` on a veth lies in the peer's ring until something else wakes the peer, unless
    /// that runs an XDP program itself (`veth_xdp_flush`, Linux 6.18); a redirect needs only its NAPI (generic receive offload).
    pub const REDIRECT_BACK: u16 = 1 << 2;
}

/// One IPv4 frontend or VIP in a bucket. Zero `key` = empty.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct VipSlot4 {
    /// `addr | port << 32 | proto << 48 | 1 << 56`, numbers in host order (`logic::hash::vip_key4`). Port and proto 0 = the VIP itself.
    pub key: u64,
    /// Record in `FRONTENDS`, or in `VIP_STATE` for the VIP itself.
    pub index: u32,
    /// Zero.
    pub _pad: u32,
}
layout!(VipSlot4: size 16, align 8; key 0, index 8, _pad 12);

/// Four IPv4 slots: one cache line.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VipBucket4 {
    pub slots: [VipSlot4; 4],
}
layout!(VipBucket4: size 64, align 8; slots 0);

/// One IPv6 frontend or VIP in a bucket. Zero `word` = empty.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct VipSlot6 {
    /// Network order.
    pub addr: [u8; 16],
    /// `port | proto << 16 | 1 << 24 | index << 32` (`logic::hash::vip_word6`); written last, cleared first.
    pub word: u64,
    /// Zero.
    pub _pad: u64,
}
layout!(VipSlot6: size 32, align 8; addr 0, word 16, _pad 24);

/// Two IPv6 slots: one cache line.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VipBucket6 {
    pub slots: [VipSlot6; 2],
}
layout!(VipBucket6: size 64, align 8; slots 0);

/// What every frontend of one VIP shares. Writer: `xdp-lb` (flags), `announcer` through `xdp-lb`'s port (MAC of the former owner).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct VipState {
    /// See [`vip_flags`].
    pub flags: u32,
    /// Zero.
    pub _pad: u32,
    /// Where a reply without a record is passed on once: MAC of the VIP's previous or present owner; zero = nowhere.
    pub handoff_mac: [u8; 6],
    /// Interface slot in `IFACES` for the hand-off.
    pub handoff_iface: u16,
}
layout!(VipState: size 16, align 4; flags 0, _pad 4, handoff_mac 8, handoff_iface 14);

/// Bits of [`VipState::flags`].
pub mod vip_flags {
    /// At least one frontend of the VIP is in SNAT mode: packets to unknown ports from 1024 up may be replies.
    pub const HAS_SNAT: u32 = 1;
    /// Forwarding is left to the host (kube-proxy): every packet to the VIP passes.
    pub const PASS_TO_HOST: u32 = 1 << 1;
    /// The programs answer ICMP echo requests to the VIP.
    pub const ANSWER_ECHO: u32 = 1 << 2;
}

/// A Maglev table inside the flat array: first line and number of slots. Fits one 8-byte store.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct SlotTable {
    /// First line in `MAGLEV`.
    pub line: u32,
    /// Slots (a prime, the Maglev M); 0 = no table.
    pub len: u32,
}
layout!(SlotTable: size 8, align 8; line 0, len 4);

/// One frontend (Vip, protocol, port): one cache line.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FrontendValue {
    /// Slots that new flows take. `len == 0`: the frontend has no backend.
    pub current: SlotTable,
    /// Read only in transition: [`SLOT_UNCHANGED`] or the index the slot had at its last fold. Own length while the size changes.
    pub previous: SlotTable,
    /// See [`frontend_flags`].
    pub flags: u64,
    /// CLOCK_BOOTTIME ns until which UDP without an entry takes `previous`.
    pub udp_previous_until: u64,
    /// Record in `BACKENDS4` or `BACKENDS6` of the service's index 0; a slot holds an index relative to it.
    pub backend_base: u32,
    /// Record in `VIP_STATE`.
    pub vip: u32,
    /// Number of records from `backend_base` on that belong to this frontend.
    pub n_backends: u32,
    /// Zero.
    pub _pad: [u32; 5],
}
layout!(FrontendValue: size 64, align 8; current 0, previous 8, flags 16, udp_previous_until 24, backend_base 32, vip 36, n_backends 40, _pad 44);

/// Bits of [`FrontendValue::flags`].
pub mod frontend_flags {
    /// Some slots of `previous` differ: flows must be asked for.
    pub const IN_TRANSITION: u64 = 1;
    /// A frontend added on a port that live SNAT records use: ask the records first.
    pub const ASK_RECORDS: u64 = 1 << 1;
    /// Two bits: the mode, see [`super::mode`].
    pub const MODE_SHIFT: u64 = 8;
    /// Mask of the mode bits after the shift.
    pub const MODE_MASK: u64 = 0x3;
}

/// How packets reach the backend. Per frontend.
pub mod mode {
    /// Source translated to the VIP (or the node), replies return through the owner.
    pub const SNAT: u64 = 0;
    /// Destination MAC rewritten; the server holds the VIP itself.
    pub const DSR_L2: u64 = 1;
    /// IPIP or ip6ip6 to a server that holds the VIP itself, or to a node with our decapsulator.
    pub const DSR_IPIP: u64 = 2;
}

/// 32 slots, one cache line: the kernel rounds array elements up to 8 bytes, so single slots would lie 8 bytes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct MaglevLine {
    /// Index of a backend relative to the frontend's `backend_base`, host order.
    pub slots: [u16; 32],
}
layout!(MaglevLine: size 64, align 8; slots 0);

/// The hot part of an IPv4 backend.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Backend4 {
    /// Network order.
    pub addr: [u8; 4],
    /// MAC of the next hop; zero = not resolved, drop with `NoNextHop`.
    pub mac: [u8; 6],
    /// Ones' complement sum over the constant words of the outer IPIP header (version/ihl, ttl/protocol, source, destination), folded,
    /// not inverted, as a host-order number of big-endian words.
    pub csum: u16,
    /// Target port, network order (`[hi, lo]`).
    pub port: [u8; 2],
    /// Slot of the egress interface in `IFACES`.
    pub iface: u8,
    /// See [`backend_flags`].
    pub flags: u8,
}
layout!(Backend4: size 16, align 2; addr 0, mac 4, csum 10, port 12, iface 14, flags 15);

/// The hot part of an IPv6 backend.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Backend6 {
    /// Network order.
    pub addr: [u8; 16],
    /// MAC of the next hop; zero = not resolved.
    pub mac: [u8; 6],
    /// Target port, network order.
    pub port: [u8; 2],
    /// Slot of the egress interface in `IFACES`.
    pub iface: u8,
    /// See [`backend_flags`].
    pub flags: u8,
    /// Zero.
    pub _pad: [u8; 6],
}
layout!(Backend6: size 32, align 1; addr 0, mac 16, port 22, iface 24, flags 25, _pad 26);

/// Bits of the backends' `flags`.
pub mod backend_flags {
    /// The record is in use; flows may continue.
    pub const ALIVE: u8 = 1;
    /// New flows may start (not terminating, not quarantined).
    pub const ACCEPTS_NEW: u8 = 1 << 1;
    /// SNAT: the source is the node's address on the backend's interface, not the VIP, so that replies come back here by themselves.
    pub const NODE_SOURCE: u8 = 1 << 2;
}

/// Per-CPU counter pair.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Counter {
    pub packets: u64,
    /// L3 bytes as received, before encapsulation.
    pub bytes: u64,
}
layout!(Counter: size 16, align 8; packets 0, bytes 8);

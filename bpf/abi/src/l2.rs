//! Announcing: responder entries, deadline cells, peers.
//!
//! An entry answers while its interface's cell names the entry's epoch and the deadline lies ahead — and beyond the deadline as long as none
//! of its candidates was heard since (design: a killed agent goes on answering if it is alone; a hung one falls silent and the VIP moves).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Deadline cells in `L2_CELLS`: announcing interfaces per node.
pub const N_L2_CELLS: u32 = 16;
/// Peers per announcing interface that the programs can tell apart.
pub const N_PEER_SLOTS: u32 = 64;
/// Entries of `L2_ENTRIES`.
pub const N_L2_ENTRIES: u32 = 16_384;
/// Entries of `PEERS`.
pub const N_PEERS: u32 = N_L2_CELLS * N_PEER_SLOTS;
/// UDP port of heartbeats.
pub const HEARTBEAT_PORT: u16 = 7_432;
/// IPv4 group of heartbeats (link-local scope, RFC 5771).
pub const HEARTBEAT_GROUP4: [u8; 4] = [224, 0, 0, 174];
/// IPv6 group of heartbeats (link-local scope, RFC 4291).
pub const HEARTBEAT_GROUP6: [u8; 16] = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x46, 0x4c];

/// An address and the interface on which it is answered.
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
pub struct L2Key {
    /// IPv6, or IPv4-mapped IPv6; network order.
    pub addr: [u8; 16],
    /// Host order.
    pub ifindex: u32,
}
layout!(L2Key: size 20, align 4; addr 0, ifindex 16);

/// How an address is answered. Writer: `announcer`. Reader: the responder.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct L2Entry {
    /// Epoch of the interface's cell at the time the entry was (re)acquired; another epoch in the cell silences it.
    pub cell_epoch: u64,
    /// Peer slots (bit n = slot n of this interface) that could own the address instead.
    pub candidates: u64,
    /// Answers sent; the programs count.
    pub responses: u64,
    /// MAC to answer with.
    pub mac: [u8; 6],
    /// Cell in `L2_CELLS`.
    pub cell: u16,
    /// Epoch of the claim under which the address is owned; the programs do not read it, a restarted agent claims with it again.
    pub epoch: u64,
}
layout!(L2Entry: size 40, align 8; cell_epoch 0, candidates 8, responses 16, mac 24, cell 30, epoch 32);

/// One interface's deadline. Writer: the heartbeat thread, through the mapping; each field is one aligned 8-byte store.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct DeadlineCell {
    /// CLOCK_BOOTTIME ns up to which entries answer without further question.
    pub deadline: u64,
    /// Changes when a deadline was missed: all entries of the former epoch stay silent until acquired anew.
    pub epoch: u64,
}
layout!(DeadlineCell: size 16, align 8; deadline 0, epoch 8);

/// A peer's hardware address on one announcing interface.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PeerKey {
    pub mac: [u8; 6],
    /// Cell of the interface.
    pub cell: u16,
}
layout!(PeerKey: size 8, align 2; mac 0, cell 6);

/// When a peer was last heard. `PEER_SEEN[cell * N_PEER_SLOTS + slot]`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PeerSeen {
    /// CLOCK_BOOTTIME ns of the latest heartbeat frame; written by the programs.
    pub at: u64,
}
layout!(PeerSeen: size 8, align 8; at 0);

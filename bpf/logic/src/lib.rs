//! What happens to a packet: pure decisions, run by the kernel programs and by host tests alike.
//!
//! Each program of `bpf/kern` is one function here, generic over [`Packet`] and [`Maps`]: [`ingress`] is the entry and the fast path, which
//! leaves by tail call for [`rare`], [`snat`], [`icmp`] and [`l2`]; [`decap`] is the servers' end. [`hash`] is shared with user space.
//! Nothing here reads a clock, allocates, panics or indexes: the verifier must be able to follow every line.
#![cfg_attr(not(any(test, feature = "host")), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]
#![expect(
    clippy::inline_always,
    reason = "the verifier follows inlined code; a call per leaf costs more than the leaf"
)]
#![expect(
    clippy::many_single_char_names,
    reason = "bytes of an address, taken apart without indexing"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "offsets and lengths of a frame fit 16 bits, and a conversion that can fail is a branch for each packet"
)]

use fairlead_abi::{
    flow::{FlowKey, FlowValue, FragKey, FragValue, SnatKey, SnatValue},
    l2::{DeadlineCell, L2Entry, L2Key, PeerKey},
    lb::{Backend4, Backend6, FrontendValue, Iface, MaglevLine, VipBucket4, VipBucket6, VipState},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub mod csum;
pub mod decap;
pub mod floor;
pub mod hash;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod icmp;
pub mod icmp_snat;
pub mod ingress;
pub mod l2;
pub mod node;
pub mod output;
pub mod parse;
pub mod quote;
pub mod rare;
pub mod record;
pub mod refusal;
pub mod rewrite;
pub mod select;
pub mod snat;
#[cfg(test)]
mod testing;
pub mod transition;
pub mod tunnel;
pub mod wire;

/// A received frame. Offsets count from the start of the Ethernet header.
pub trait Packet {
    /// Views `T` at `off`; `None` if the frame ends before its end.
    fn view<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self, off: usize) -> Option<&T>;
    /// Writes `value` at `off`; `None` if the frame ends before its end, and nothing is written.
    #[must_use]
    fn put<T: IntoBytes + Immutable + Unaligned + Copy>(
        &mut self,
        off: usize,
        value: T,
    ) -> Option<()>;
    /// Length in bytes.
    fn len(&self) -> usize;
    /// Whether the frame holds no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Interface that received the frame, host order.
    fn ifindex(&self) -> u32;
    /// Moves the start: `n > 0` makes room in front, `n < 0` cuts. `None`: no room, nothing moved.
    #[must_use]
    fn grow_head(&mut self, n: i32) -> Option<()>;
    /// Moves the end likewise.
    #[must_use]
    fn grow_tail(&mut self, n: i32) -> Option<()>;
}

/// Which table of half-open or established state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `FLOWS` or `SNAT`.
    Established,
    /// `FLOWS_NEW` or `SNAT_NEW`.
    New,
}

/// How an entry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// Only if the key is absent.
    NoExist,
    /// Whether present or absent.
    Any,
}

/// The maps of `abi::maps`, the clock, and the cell that carries a path MTU across a tail call.
pub trait Maps {
    /// A SNAT record in place.
    type Record: Copy;

    fn iface(&self, slot: u32) -> Option<&Iface>;
    fn vips4(&self, bucket: u32) -> Option<&VipBucket4>;
    fn vips6(&self, bucket: u32) -> Option<&VipBucket6>;
    fn vip_state(&self, index: u32) -> Option<&VipState>;
    /// A copy whose `current` was read before `flags` and these before `previous`, each in one piece (publish order of `abi::lb`).
    fn frontend(&self, index: u32) -> Option<FrontendValue>;
    fn line(&self, index: u32) -> Option<&MaglevLine>;
    fn backend4(&self, index: u32) -> Option<&Backend4>;
    fn backend6(&self, index: u32) -> Option<&Backend6>;

    /// Counts a forwarded packet of `bytes` L3 bytes.
    fn count_frontend(&self, index: u32, bytes: u64);
    /// Counts a packet in `REASONS`.
    fn count(&self, reason: u32, bytes: u64);

    /// CLOCK_BOOTTIME in ns.
    fn now(&self) -> u64;

    fn flow(&self, table: Table, key: &FlowKey) -> Option<FlowValue>;
    /// Whether the entry was written.
    fn put_flow(&self, table: Table, key: &FlowKey, value: &FlowValue, how: Insert) -> bool;
    fn remove_flow(&self, table: Table, key: &FlowKey);

    fn record(&self, table: Table, key: &SnatKey) -> Option<Self::Record>;
    /// The record's content.
    fn load(&self, record: Self::Record) -> SnatValue;
    /// Notes a packet of either side.
    fn touch(&self, record: Self::Record, now: u64);
    fn set_state(&self, record: Self::Record, state: u16);
    /// Notes where the client's latest packet came from.
    fn set_client_hop(&self, record: Self::Record, mac: [u8; 6], iface: u16);
    /// Whether the record was written.
    fn put_record(&self, table: Table, key: &SnatKey, value: &SnatValue, how: Insert) -> bool;
    fn remove_record(&self, table: Table, key: &SnatKey);

    fn fragment(&self, key: &FragKey) -> Option<FragValue>;
    fn put_fragment(&self, key: &FragKey, value: &FragValue);

    fn l2_entry(&self, key: &L2Key) -> Option<L2Entry>;
    fn count_response(&self, key: &L2Key);
    fn l2_cell(&self, cell: u32) -> Option<DeadlineCell>;
    /// Slot of a peer in `PEER_SEEN`, counted over all cells.
    fn peer(&self, key: &PeerKey) -> Option<u32>;
    fn peer_seen(&self, index: u32) -> u64;
    fn set_peer_seen(&self, index: u32, at: u64);

    fn decap_vip(&self, addr: &[u8; 16]) -> bool;
    fn decap_sender(&self, addr: &[u8; 16]) -> bool;

    /// Keeps the path MTU for `lb_icmp`.
    fn set_mtu(&self, mtu: u32);
    /// The path MTU kept before the tail call.
    fn mtu(&self) -> u32;

    /// Counts the reason and drops.
    #[inline(always)]
    fn drop<P: Packet>(&self, p: &P, reason: u32) -> Verdict {
        self.count(reason, p.len() as u64);
        Verdict::Drop
    }
}

/// What happens to the frame.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the host's own stack.
    Pass,
    Drop,
    /// Back out of the interface that received it.
    Tx,
    /// Out of the interface with this index.
    Redirect(u32),
    /// On to the program in this slot of `PROGS`; `TAIL_CALL_MISSED` and drop if there is none.
    Tail(u32),
}

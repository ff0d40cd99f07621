//! The benchmark's own maps: what the generator program sends, and what it counts. Never part of the shipped object.
//!
//! Protocol: user space writes [`BenchFlow`]s (headers with valid checksums, in the order in which they are to be sent) and [`BenchState`], puts the
//! program under test into slot 0 of `BENCH_PROGS`, and runs `bench_gen` with `BPF_PROG_TEST_RUN` and a repeat count on a frame of
//! `frame_len` bytes. Each repetition undoes the head move of the one before, counts whether that one was forwarded, writes the next flow's headers,
//! and tail-calls. With an empty slot it measures itself.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Default number of elements of `BENCH_FLOWS`; a setting at load time.
pub const N_BENCH_FLOWS: u32 = 1 << 20;
/// Outer source of the floor program; give `IFACES` the same one and the outputs can be compared byte for byte.
pub const FLOOR_SOURCE4: [u8; 4] = [172, 31, 0, 1];
/// Likewise for IPv6.
pub const FLOOR_SOURCE6: [u8; 16] = [0xfd, 0, 0x17, 0x2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// L3 and L4 headers of one packet: IPv4 and TCP take 40 bytes, IPv6 and TCP 60. The rest is written, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct BenchFlow {
    pub headers: [u8; 64],
}
layout!(BenchFlow: size 64, align 8; headers 0);

/// The generator's state. Writer: user space before a run, the generator during it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BenchState {
    /// Next element of `BENCH_FLOWS`.
    pub next: u64,
    /// Elements in use; `next` wraps there.
    pub flows: u64,
    /// Length of a frame before the program under test; at least 78.
    pub frame_len: u64,
    /// How much longer a forwarded frame is: 20, 40, or 0 for MAC rewriting (then a changed destination MAC counts).
    pub grows: u64,
    /// Frames that were forwarded, as seen at the next repetition (the last one of a run is not counted).
    pub forwarded: u64,
    /// Repetitions.
    pub runs: u64,
    /// Ethernet header to write.
    pub eth: [u8; 14],
    /// Zero.
    pub _pad: [u8; 2],
}
layout!(BenchState: size 64, align 8; next 0, flows 8, frame_len 16, grows 24, forwarded 32, runs 40, eth 48, _pad 62);

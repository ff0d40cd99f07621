//! What clients say to the lab's servers.
//!
//! TCP: the first line states the wish, and the answer's first line is the server's name.
//! - `HELLO`: then every byte comes back;
//! - `TALK`: then the server sends a counting byte every [`TALK_EVERY`] and the client is silent;
//! - `SINK n`: the client sends n bytes; then a line `n sum` comes, `sum` as in [`checksum`].
//!
//! UDP: the datagram comes back with a blank and the server's name behind it.

use std::time::Duration;

/// Pause between the bytes of a `TALK` connection.
pub const TALK_EVERY: Duration = Duration::from_millis(50);

/// Longest first line.
pub const MAX_LINE: usize = 128;

/// A sum that notices lost, doubled and swapped bytes: FNV-1a.
pub fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |sum, b| {
        (sum ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The first seed of [`checksum`].
pub const CHECKSUM_SEED: u64 = 0xcbf2_9ce4_8422_2325;

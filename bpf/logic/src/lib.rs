//! What happens to a packet: pure decisions, run by the kernel programs and by host tests alike.
//!
//! Start with [`hash`], which user space shares.
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

pub mod hash;

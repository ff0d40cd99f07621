//! Who announces what, where and when.
//!
//! [`ownership`] decides, without sockets or clocks, which node answers for which addresses of a segment; [`heartbeat`] and [`frames`] are the
//! bytes it speaks. Invariant: at most one node answers for an address (style.md I4), and none before its datapath serves it (I1).
#![deny(unsafe_code)]

pub mod frames;
pub mod heartbeat;
pub mod ownership;
pub mod policy;
mod time;

pub use time::BootTime;

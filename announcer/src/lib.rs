//! Who announces what, where and when.
//!
//! [`ownership`] decides, without sockets or clocks, which node answers for which addresses of a segment; [`heartbeat`] and [`frames`] are the
//! bytes it speaks; [`policy`] says what may be owned; [`driver`] runs it all. Invariant: at most one node answers for an address
//! (style.md I4), and none before its datapath serves it (I1). Read [`ownership`] first.
#![deny(unsafe_code)]

pub mod conditions;
pub mod driver;
pub mod events;
pub mod frames;
pub mod heartbeat;
pub mod lease;
pub mod ownership;
pub mod policy;
pub mod status;
mod time;

pub use driver::{Announcer, AnnouncerConfig, AnnouncerError, AnnouncerInputs, MoveRequest};
pub use policy::Programmed;
pub use status::{History, L2Status};
pub use time::BootTime;

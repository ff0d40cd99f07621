//! Links, addresses, routes and neighbours of this node, by rtnetlink.
//!
//! The only user of rtnetlink. Each question opens its own socket, drives it itself and closes it, so that there is no task to keep alive and
//! a question is asked in the network namespace of the thread that asks. [`Events`] is the exception: one socket that listens until it is
//! dropped. Open it **before** the first reading, so that nothing falls between, and read everything again after [`Event::Resync`].
//!
//! Start with [`Netlink`] for questions and changes, [`types`] for the answers.
#![forbid(unsafe_code)]

mod client;
mod error;
mod events;
pub mod types;

pub use client::Netlink;
pub use error::NetlinkError;
pub use events::Events;
pub use types::{Address, Event, Link, Neighbour, NextHop, NudState, Upkeep};

#[cfg(test)]
mod tests;

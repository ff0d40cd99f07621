//! LB-IPAM: which Service gets which address.
//!
//! Halves: [`alloc`] decides and is pure (API state in, changes out, same in, same out); [`controller`] watches, writes what was
//! decided and is the only I/O. Invariant: no address has two owners without a sharing agreement, and nobody moves who need not.
//! [`forecast`] answers what a change of pools would do; [`node_ipam`] gives other Services the addresses of nodes.
//! The state is the API: what a Service's status holds, it has; a restart reads it back and changes nothing.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod alloc;
pub mod controller;
pub mod forecast;
pub mod node_ipam;
pub mod request;

pub use alloc::{DefaultIpam, Inputs, Plan, Settings, engine::Engine, plan};
pub use controller::Controller;
pub use node_ipam::NodeIpam;

//! Topologies as data, checks as code, and the network-namespace runner.
//!
//! `clab.rs` reads containerlab's format, `plan.rs` turns it into steps, `runner.rs` applies them;
//! `traffic.rs` holds clients and servers that measure, `drive.rs` the main job on a running lab.
#![forbid(unsafe_code)]

pub mod capture;
pub mod checks;
pub mod clab;
pub mod clock;
pub mod cmd;
pub mod drive;
pub mod error;
pub mod node;
pub mod plan;
pub mod report;
pub mod runner;
pub mod state;
pub mod traffic;

//! Load-balancer map contents: Maglev, transitions, plan and apply.
//!
//! [`desired`] says what the maps should hold, [`state`] what they do hold (a restart reads it back from them), [`plan`] makes the ordered
//! steps between the two, [`op`] applies them. [`sweep`] and [`fold`] end transitions. [`maglev`], [`buckets`] and [`ranges`] are its tools; [`network`] is what it knows about the
//! node.
#![forbid(unsafe_code)]

pub mod audit;
pub mod buckets;
pub mod desired;
pub mod fold;
pub mod maglev;
pub mod network;
pub mod nexthop;
pub mod op;
pub mod plan;
pub mod problem;
pub mod ranges;
pub mod state;
pub mod sweep;

#[cfg(test)]
mod sim;

//! Load-balancer map contents: Maglev, transitions, plan and apply.
//!
//! [`desired`] says what the maps should hold, [`state`] what they do hold (a restart reads it back from them), [`plan`] makes the ordered
//! steps between the two, [`op`] applies them. [`sweep`] and [`fold`] end transitions, [`audit`] looks after drift. All of that is pure or
//! nearly so; [`engine`] puts it in order, [`driver`] runs it, [`nexthop`] keeps it informed about the node ([`network`]). [`maglev`],
//! [`buckets`] and [`ranges`] are tools.
#![forbid(unsafe_code)]

pub mod audit;
pub mod buckets;
pub mod desired;
pub mod driver;
pub mod engine;
pub mod fold;
pub mod maglev;
pub mod network;
pub mod nexthop;
pub mod op;
pub mod plan;
pub mod ports;
pub mod problem;
pub mod ranges;
pub mod state;
pub mod sweep;

pub use driver::{Config, XdpLb};
pub use engine::{Announcements, Figures, Handoff, Programmed};
pub use network::InterfaceConfig;
pub use problem::{Problem, ProblemReason};
pub use state::{FrontendInfo, Times};

/// Packets and bytes of every frontend, summed over the CPUs.
///
/// # Errors
/// [`fairlead_datapath::MapError`] of `FE_STATS`.
///
/// # Complexity
/// One system call for each frontend.
pub fn counters(
    maps: &fairlead_datapath::LbMaps,
    programmed: &Programmed,
) -> Result<
    std::collections::BTreeMap<fairlead_model::Frontend, fairlead_abi::lb::Counter>,
    fairlead_datapath::MapError,
> {
    let frontends = programmed.frontends.iter();
    frontends
        .map(|(frontend, info)| Ok((*frontend, maps.fe_stats.sum(info.record)?)))
        .collect()
}

#[cfg(test)]
mod lan;
#[cfg(test)]
mod sim;

//! The allocator: pure, deterministic, and in proportion to what exists, not to how large the pools are.
//!
//! [`plan`] reads in order: pools and their conflicts ([`pools`]), who keeps what it holds, who gets what is missing
//! ([`decide`]), then what differs from what the API says ([`outcome`]). Ranges are never expanded: an IPv6 /64 costs
//! what a /32 costs. [`holders`] knows who holds an address and who may share it.
//!
//! Rules, in the words of the specification: import before allocation; oldest pool first, then name; lowest free address;
//! requested addresses before chosen ones; an address that any Service's status holds is taken, whatever the pool;
//! an address is given on only after its former holder's status no longer names it.

pub mod holders;
pub mod outcome;
pub mod pools;

pub mod decide;

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_api::condition::Wanted;
use fairlead_model::{Labels, LoadBalancerClass, Pool, Protocol, ServiceName, TrafficPolicy};
use num_bigint::BigUint;

/// Who serves Services without a class (`default-lb-service-ipam`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DefaultIpam {
    /// LB-IPAM.
    #[default]
    LbIpam,
    /// Node IPAM: not us.
    NodeIpam,
    /// Nobody: only Services with a class of ours are served.
    None,
}

/// Cluster-wide settings.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of Cilium's"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Who serves Services without a class.
    pub default_ipam: DefaultIpam,
    /// IPv4 is in use (`enable-ipv4`).
    pub ipv4: bool,
    /// IPv6 is in use (`enable-ipv6`).
    pub ipv6: bool,
    /// Class `io.cilium/l2-announcer` is served.
    pub l2: bool,
    /// Class `io.cilium/bgp-control-plane` is served.
    pub bgp: bool,
    /// Say `no_pool` on Services even before the first pool exists. Off, we are dormant until then, so that another
    /// controller of the cluster is left alone.
    pub report_without_pools: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_ipam: DefaultIpam::LbIpam,
            ipv4: true,
            ipv6: true,
            l2: true,
            bgp: false,
            report_without_pools: false,
        }
    }
}

impl Settings {
    /// Whether LB-IPAM serves Services of this class.
    pub const fn serves(&self, class: &LoadBalancerClass) -> bool {
        match class {
            LoadBalancerClass::Unset => matches!(self.default_ipam, DefaultIpam::LbIpam),
            LoadBalancerClass::L2Announcer => self.l2,
            LoadBalancerClass::BgpControlPlane => self.bgp,
            LoadBalancerClass::Node | LoadBalancerClass::Other(_) => false,
        }
    }
}

/// `spec.ipFamilyPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FamilyPolicy {
    /// One family; also when unset.
    #[default]
    SingleStack,
    /// Both where possible.
    PreferDualStack,
    /// All enabled families.
    RequireDualStack,
}

/// IPv4 or IPv6; orders IPv4 first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Namespaces that a Service shares with, beside its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    /// `*`.
    All,
    /// These.
    Listed(Vec<String>),
}

/// What decides whether a Service may share an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// The key; empty = never.
    pub key: String,
    /// Whom it lets in.
    pub namespaces: Namespaces,
    /// Its ports.
    pub ports: Vec<(Protocol, u16)>,
    /// `spec.externalTrafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// `spec.selector`.
    pub pods: BTreeMap<String, String>,
}

/// A condition as the API has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
    /// Its generation.
    pub observed_generation: Option<i64>,
}

/// A Service as LB-IPAM sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInput {
    /// Its name.
    pub name: ServiceName,
    /// Seconds since the Unix epoch.
    pub created: i64,
    /// `metadata.generation`; Kubernetes gives Services none.
    pub generation: Option<i64>,
    /// Its labels with the special ones.
    pub labels: Labels,
    /// `spec.type == LoadBalancer`.
    pub is_load_balancer: bool,
    /// Who implements it.
    pub class: LoadBalancerClass,
    /// Requested addresses, each once: `spec.loadBalancerIP` first, then the annotation.
    pub requested: Vec<IpAddr>,
    /// Items of the request that are no address.
    pub bad_requests: Vec<String>,
    /// `spec.ipFamilies`.
    pub families: Vec<Family>,
    /// `spec.ipFamilyPolicy`.
    pub family_policy: FamilyPolicy,
    /// Sharing.
    pub sharing: Sharing,
    /// Addresses in its status, in order; a write under way counts as done.
    pub ingress: Vec<IpAddr>,
    /// Entries of its status that are no address (hostnames): dropped at the next write.
    pub has_foreign_entries: bool,
    /// Addresses that a write under way is about to remove: nobody else's yet.
    pub releasing: Vec<IpAddr>,
    /// Its condition `cilium.io/IPAMRequestSatisfied`.
    pub condition: Option<Seen>,
    /// Unchanged since it got what it holds: stays when an edit of another Service ends their sharing.
    pub is_settled: bool,
}

impl ServiceInput {
    /// Whether the addresses in its status are ours. While a pool exists we replace any other; and once the last pool is
    /// gone we say so, after which they are somebody else's.
    pub fn has_our_addresses(&self) -> bool {
        self.condition
            .as_ref()
            .is_some_and(|c| c.message != decide::NO_POOL_AT_ALL)
    }
}

/// A pool with what the API says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolInput {
    /// The pool.
    pub pool: Pool,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// Its conditions by type.
    pub conditions: BTreeMap<String, Seen>,
}

/// Everything the decision depends on. Complete: built only after every list is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Settings.
    pub settings: Settings,
    /// Every pool.
    pub pools: Vec<PoolInput>,
    /// Every Service of the cluster.
    pub services: Vec<ServiceInput>,
}

/// What a Service's status becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceChange {
    /// The Service.
    pub name: ServiceName,
    /// All of its addresses, in order.
    pub ingress: Vec<IpAddr>,
    /// Its condition; `None` removes it.
    pub condition: Option<Wanted>,
}

/// What a pool's conditions become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolChange {
    /// The pool.
    pub name: String,
    /// Every condition of ours, changed or not.
    pub conditions: Vec<Wanted>,
}

/// Addresses of a pool, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolCounts {
    /// All.
    pub total: BigUint,
    /// Held, reserved or never given out.
    pub used: BigUint,
    /// The rest.
    pub available: BigUint,
}

/// What to write, in the order of names, and figures for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Services whose status differs.
    pub services: Vec<ServiceChange>,
    /// Pools whose conditions differ.
    pub pools: Vec<PoolChange>,
    /// Counts of every pool.
    pub counts: BTreeMap<String, PoolCounts>,
    /// Pools in conflict.
    pub n_conflicting: usize,
    /// Services that LB-IPAM serves.
    pub n_matching: usize,
    /// Of these, those that lack an address.
    pub n_unsatisfied: usize,
}

/// Decides who gets what. Same inputs, same plan.
///
/// # Complexity
/// `O((services + pools²) log services)`; the size of pools does not matter.
pub fn plan(inputs: &Inputs) -> Plan {
    let views = pools::views(&inputs.pools);
    let decided = decide::decide(inputs, &views);
    outcome::outcome(inputs, &views, decided)
}

#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

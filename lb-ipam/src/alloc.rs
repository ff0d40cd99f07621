//! The allocator: pure, deterministic, and in proportion to what changed, not to what exists or how large the pools are.
//!
//! [`engine::Engine`] takes Services and pools as the API has them, one by one, and says what differs from what they should
//! say. Read in order: pools, their conflicts and refusals ([`pools`]), who may share an address ([`sharing`]), what a
//! Service wants and why it lacks it ([`decide`]), who holds what ([`engine`]), and what is written ([`outcome`]). Ranges are
//! never expanded ([`runs`]): an IPv6 /64 costs what a /32 costs. [`plan`] is one run of a fresh engine.
//!
//! Rules, in the words of the specification: import before allocation; highest priority first, then oldest pool, then name; lowest free address;
//! requested addresses before chosen ones; an address that any Service's status holds is taken, whatever the pool;
//! an address is given on only after its former holder's status no longer names it.

pub mod decide;
pub mod engine;
pub mod outcome;
pub mod pools;
pub mod runs;
pub mod sharing;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use fairlead_api::condition::Wanted;
use fairlead_model::{
    IpRange, Labels, LoadBalancerClass, Pool, Protocol, ServiceName, TrafficPolicy,
};
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
    /// Pools that it may use (`fairlead.io/ip-pool`); empty = every pool that selects it.
    pub pools: Vec<String>,
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
    /// Edited since it got what it holds: leaves when the edit ends a sharing, though it be the older one.
    pub is_edited: bool,
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
    /// Higher ones are searched first (`fairlead.io/priority`).
    pub priority: i32,
    /// How long a deleted Service's address is kept for one of the same name (`fairlead.io/sticky`).
    pub sticky: Option<Duration>,
    /// Addresses of the cluster's own that its blocks may hold (`fairlead.io/allow-in-use`).
    pub allows: Vec<InUseKind>,
    /// Annotations of ours that cannot be read: field and message.
    pub problems: Vec<(String, String)>,
}

/// Whose address it is that no Service should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InUseKind {
    /// A node's.
    Node,
    /// A router's.
    Gateway,
    /// A pod's, or it may become one.
    Pod,
}

impl InUseKind {
    /// As in the annotation.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Gateway => "gateway",
            Self::Pod => "pod",
        }
    }
}

/// Addresses that the cluster itself uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InUse {
    /// Which.
    pub range: IpRange,
    /// What for.
    pub kind: InUseKind,
    /// Who says so, as in `address of ...`.
    pub owner: String,
}

/// An `AddressReservation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationInput {
    /// Object name.
    pub name: String,
    /// Seconds since the Unix epoch; the older one counts where two overlap.
    pub created: i64,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// Its readable ranges.
    pub ranges: Vec<IpRange>,
    /// What is wrong with the others: field and message.
    pub problems: Vec<(String, String)>,
    /// For whom; `None` = nobody gets them.
    pub service: Option<ServiceName>,
    /// Its conditions by type.
    pub conditions: BTreeMap<String, Seen>,
}

impl ReservationInput {
    /// Whether it reserves the address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(ip))
    }
}

/// An address that a deleted Service held not long ago.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Former {
    /// Who held it.
    pub service: ServiceName,
    /// The address.
    pub ip: IpAddr,
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
    /// Every reservation.
    pub reservations: Vec<ReservationInput>,
    /// What the cluster itself uses.
    pub in_use: Vec<InUse>,
    /// What is kept for Services that were deleted.
    pub former: Vec<Former>,
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

/// What a reservation's conditions become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationChange {
    /// The reservation.
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
    /// Reservations whose conditions differ.
    pub reservations: Vec<ReservationChange>,
    /// Counts of every pool.
    pub counts: BTreeMap<String, PoolCounts>,
    /// Pools in conflict.
    pub n_conflicting: usize,
    /// Services that LB-IPAM serves.
    pub n_matching: usize,
    /// Of these, those that lack an address.
    pub n_unsatisfied: usize,
}

/// Decides who gets what, from nothing. Same inputs, same plan, whatever the order of the lists.
///
/// # Complexity
/// `O((services + blocks) log services)`, and services times pools where selectors must be asked; the size of pools does not matter.
pub fn plan(inputs: &Inputs) -> Plan {
    let mut engine = engine::Engine::new(inputs.settings);
    engine.load(inputs.clone());
    engine.run();
    engine.plan()
}

#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;

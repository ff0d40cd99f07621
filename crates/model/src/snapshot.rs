//! What an agent acts on: a complete view with a generation.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    name::{NodeName, ServiceName},
    policy::L2Policy,
    selector::Labels,
    service::Service,
};

/// Monotonic number of a snapshot (style.md I7: generations only grow).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl Generation {
    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A node of the cluster or of the appliance's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its labels.
    pub labels: Labels,
    /// `status.addresses` of type InternalIP and ExternalIP.
    pub addresses: Vec<IpAddr>,
    /// Cordoned or excluded from external load balancers: gives away what it owns, takes nothing.
    pub is_excluded: bool,
    /// A `NoExecute` taint repels what runs there. It owns only where every other node is excluded or repels too: nodes may be dedicated to
    /// load balancing by such a taint.
    pub is_repelling: bool,
}

/// A complete view: built only after every initial list has been read (style.md I6: no deletion is planned from an incomplete one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows by one with each change.
    pub generation: Generation,
    /// Every Service that has a VIP or wants one.
    pub services: BTreeMap<ServiceName, Service>,
    /// Every L2 policy.
    pub l2_policies: BTreeMap<String, L2Policy>,
    /// Every node.
    pub nodes: BTreeMap<NodeName, Node>,
}

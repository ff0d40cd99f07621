//! L2 announcement policies.

use crate::selector::Selector;

/// Nodes that are preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference {
    /// Over node labels.
    pub nodes: Selector,
    /// How much; never 0.
    pub weight: u32,
}

/// Which Services are announced from which nodes and interfaces. Unreadable parts are kept as messages for the policy's conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L2Policy {
    /// Object name.
    pub name: String,
    /// Over node labels.
    pub node_selector: Result<Selector, String>,
    /// Over service labels and the special name and namespace labels.
    pub service_selector: Result<Selector, String>,
    /// Regular expressions, unanchored, OR-ed; empty = every device. Compiled by the announcer.
    pub interfaces: Vec<String>,
    /// Nodes that shall rather own than others; those that several entries select weigh the sum.
    pub preferred: Result<Vec<Preference>, String>,
    /// Announce `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: bool,
    /// Announce `spec.externalIPs`.
    pub external_ips: bool,
}

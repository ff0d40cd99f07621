//! L2 announcement policies.

use crate::selector::Selector;

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
    /// Announce `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: bool,
    /// Announce `spec.externalIPs`.
    pub external_ips: bool,
}

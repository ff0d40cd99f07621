//! Every name that users, their tools or other controllers can meet, each written once.
//!
//! Cilium's words stay Cilium's; what we add is under `fairlead.io/`.

/// API group of the Cilium kinds.
pub const GROUP: &str = "cilium.io";

/// API group of our own kinds.
pub const GROUP_OURS: &str = "fairlead.io";

/// `spec.loadBalancerClass` values.
pub mod class {
    /// Announced on the LAN.
    pub const L2: &str = "io.cilium/l2-announcer";
    /// Announced by BGP.
    pub const BGP: &str = "io.cilium/bgp-control-plane";
    /// Addresses of nodes.
    pub const NODE: &str = "io.cilium/node";
}

/// Annotations on Services.
pub mod annotation {
    /// Requested addresses, a comma list. Hides [`IPS_OLD`] even when empty.
    pub const IPS: &str = "lbipam.cilium.io/ips";
    /// Former name of [`IPS`].
    pub const IPS_OLD: &str = "io.cilium/lb-ipam-ips";
    /// Services with equal keys may share an address.
    pub const SHARING_KEY: &str = "lbipam.cilium.io/sharing-key";
    /// Former name of [`SHARING_KEY`].
    pub const SHARING_KEY_OLD: &str = "io.cilium/lb-ipam-sharing-key";
    /// Namespaces that may share, a comma list or `*`.
    pub const SHARING_CROSS_NAMESPACE: &str = "lbipam.cilium.io/sharing-cross-namespace";
    /// Former name of [`SHARING_CROSS_NAMESPACE`].
    pub const SHARING_CROSS_NAMESPACE_OLD: &str = "io.cilium/lb-ipam-sharing-cross-namespace";
    /// Ours: names of the pools that a Service takes its addresses from, a comma list.
    pub const IP_POOL: &str = "fairlead.io/ip-pool";
    /// Ours, on a pool: a number; pools with higher ones are searched first. Without it, 0.
    pub const POOL_PRIORITY: &str = "fairlead.io/priority";
    /// Ours, on a pool: how long a deleted Service's address is kept for one of the same name, such as `15m`.
    pub const POOL_STICKY: &str = "fairlead.io/sticky";
    /// Ours, on a pool: which addresses of the cluster's own its blocks may hold, a comma list of `node`, `gateway` and `pod`.
    pub const POOL_ALLOW_IN_USE: &str = "fairlead.io/allow-in-use";
    /// Ours, on a Node: the routers that its agent found, a comma list.
    pub const NODE_GATEWAYS: &str = "fairlead.io/gateways";
    /// Cilium's node IPAM: a label selector for the nodes whose addresses a Service gets.
    pub const NODE_IPAM_MATCH: &str = "io.cilium.nodeipam/match-node-labels";
    /// Cilium's forwarding mode: `dsr` or `snat`.
    pub const FORWARDING_MODE_CILIUM: &str = "service.cilium.io/forwarding-mode";
    /// Ours: `auto`, `snat`, `dsr-l2` or `dsr-ipip`; wins over Cilium's.
    pub const FORWARDING_MODE: &str = "fairlead.io/forwarding-mode";
    /// Ours, on an L2 policy: nodes that shall rather own, a comma list of `LABEL=VALUE:WEIGHT` or `LABEL:WEIGHT`.
    pub const PREFER_NODES: &str = "fairlead.io/prefer-nodes";
    /// Length of the Service's Maglev table: written once by the operator, or by the user.
    pub const MAGLEV_TABLE_SIZE: &str = "fairlead.io/maglev-table-size";
    /// Appliance: how backends of static EndpointSlices are checked: `tcp`, `http` or `none`, the default.
    pub const HEALTH_CHECK: &str = "fairlead.io/health-check";
    /// What is asked for with `http`; `/` by default.
    pub const HEALTH_CHECK_PATH: &str = "fairlead.io/health-check-path";
    /// The `Host` header with `http`; the backend's address by default.
    pub const HEALTH_CHECK_HOST: &str = "fairlead.io/health-check-host";
    /// A port number instead of the backends' own TCP ports.
    pub const HEALTH_CHECK_PORT: &str = "fairlead.io/health-check-port";
    /// From one check to the next; `1s` by default.
    pub const HEALTH_CHECK_INTERVAL: &str = "fairlead.io/health-check-interval";
    /// An answer that takes longer is none; `1s` by default.
    pub const HEALTH_CHECK_TIMEOUT: &str = "fairlead.io/health-check-timeout";
    /// So many in a row take a backend out; 3 by default.
    pub const HEALTH_CHECK_FAILURES: &str = "fairlead.io/health-check-failures";
    /// So many in a row bring it back; 2 by default.
    pub const HEALTH_CHECK_SUCCESSES: &str = "fairlead.io/health-check-successes";
    /// On an EndpointSlice: addresses that are not ready because their check fails.
    pub const HEALTH_CHECK_FAILED: &str = "fairlead.io/health-check-failed";
}

/// Labels that mean something to us.
pub mod label {
    /// Kubernetes: the node takes no traffic of external load balancers.
    pub const NODE_EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
    /// Kubernetes: the Service that an EndpointSlice belongs to.
    pub const SLICE_SERVICE: &str = "kubernetes.io/service-name";
    /// Kubernetes: the controller that keeps an EndpointSlice; one without it was written by hand.
    pub const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
    /// Who keeps a CRD current.
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// On CRDs that Cilium's own operator keeps current: its schema version.
    pub const CILIUM_SCHEMA_VERSION: &str = "io.cilium.k8s.crd.schema.version";
    pub use fairlead_model::service::{LABEL_SERVICE_NAME, LABEL_SERVICE_NAMESPACE};
}

/// Taints that mean something to us.
pub mod taint {
    /// The node is about to go, or has gone: whatever the effect, it gives away what it owns.
    pub const LEAVING: [&str; 6] = [
        "ToBeDeletedByClusterAutoscaler",
        "karpenter.sh/disrupted",
        "node.cloudprovider.kubernetes.io/shutdown",
        "node.kubernetes.io/network-unavailable",
        "node.kubernetes.io/out-of-service",
        "node.kubernetes.io/unschedulable",
    ];
    /// What the control plane thinks of a node's health: no reason to move an address, the wire knows better.
    pub const HEALTH: [&str; 2] = [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ];
}

/// Condition types.
pub mod condition {
    /// On a Service: whether LB-IPAM gave it what it asked for.
    pub const IPAM_REQUEST_SATISFIED: &str = "cilium.io/IPAMRequestSatisfied";
    /// On a Service, ours: whether node IPAM gave it the addresses of nodes, and why not.
    pub const NODE_IPAM_SATISFIED: &str = "fairlead.io/NodeIPAMSatisfied";
    /// On a pool: it shares addresses with an older one and gives out nothing new.
    pub const POOL_CONFLICT: &str = "cilium.io/PoolConflict";
    /// On a pool: decimal count of addresses, in the message.
    pub const IPS_TOTAL: &str = "cilium.io/IPsTotal";
    /// On a pool: decimal count of free addresses, in the message.
    pub const IPS_AVAILABLE: &str = "cilium.io/IPsAvailable";
    /// On a pool: decimal count of used and reserved addresses, in the message.
    pub const IPS_USED: &str = "cilium.io/IPsUsed";
    /// On a pool, ours: a block or the selector cannot be read; the rest of the pool is in force.
    pub const POOL_INVALID: &str = "fairlead.io/PoolInvalid";
    /// On a pool, ours: blocks that give out nothing, because an address of a node, a gateway or a pod lies in them.
    pub const POOL_IN_USE: &str = "fairlead.io/PoolInUse";
    /// On a reservation, ours: whether its addresses are kept as it says.
    pub const RESERVED: &str = "fairlead.io/Reserved";
    /// On an L2 policy: `spec.nodeSelector` cannot be read.
    pub const BAD_NODE_SELECTOR: &str = "io.cilium/bad-node-selector";
    /// On an L2 policy: `spec.serviceSelector` cannot be read.
    pub const BAD_SERVICE_SELECTOR: &str = "io.cilium/bad-service-selector";
    /// On an L2 policy: an entry of `spec.interfaces` is no regular expression.
    pub const BAD_INTERFACE_REGEX: &str = "io.cilium/bad-interface-regex";
    /// On an L2 policy, ours: its annotation `fairlead.io/prefer-nodes` cannot be read, and no node is preferred.
    pub const BAD_PREFERENCE: &str = "fairlead.io/BadPreference";
    /// On an L2 policy, ours: `spec.nodeSelector` selects no node at all.
    pub const NO_NODE: &str = "fairlead.io/NoNode";
    /// On an L2 policy, ours: it selects no Service with an address of a kind that it announces.
    pub const NO_SERVICE: &str = "fairlead.io/NoService";
    /// On an L2 policy, ours: selected nodes have no announcing interface that `spec.interfaces` names; the message names the nodes.
    pub const NO_INTERFACE: &str = "fairlead.io/NoInterface";
    /// On a Service, ours: a foreign station answers for its address; the message holds its MAC.
    pub const ADDRESS_CONFLICT: &str = "fairlead.io/AddressConflict";
    /// On a Service, ours: programmed and announced, or what is in the way.
    pub const ANNOUNCED: &str = "fairlead.io/Announced";
    /// Service, ours: its packets are forwarded as it says.
    pub const FORWARDING: &str = "fairlead.io/Forwarding";
    /// On a Service, ours: whether established flows survive a move of the VIP, and why not.
    pub const FLOWS_SURVIVE: &str = "fairlead.io/FlowsSurvive";
    /// On a Service, ours: an annotation or field cannot be read and its default is used.
    pub const SERVICE_INVALID: &str = "fairlead.io/ServiceInvalid";
    /// On a Service, ours: whether every backend passes its check, who fails, and who is kept nevertheless.
    pub const BACKENDS_HEALTHY: &str = "fairlead.io/BackendsHealthy";
}

/// Field managers of our writes.
pub mod manager {
    /// LB-IPAM, in the operator.
    pub const LB_IPAM: &str = "cilium-operator-lb-ipam";
    /// Node IPAM, in the operator.
    pub const NODE_IPAM: &str = "cilium-operator-node-ipam";
    /// L2 announcements, in each agent.
    pub const L2: &str = "cilium-agent-l2-announcer";
    /// The operator's other writes: Maglev table sizes, CRDs.
    pub const OPERATOR: &str = "fairlead-operator";
    /// Health checks of backends, on the node that serves the API.
    pub const HEALTH: &str = "fairlead-health";
}

/// Prefix of the Lease that shows who owns a Service's addresses: then namespace, `-`, name.
pub const LEASE_PREFIX: &str = "cilium-l2announce-";

/// Name of the Lease for one ownership group, by its first Service.
pub fn lease_name(service: &fairlead_model::ServiceName) -> String {
    format!("{LEASE_PREFIX}{}-{}", service.namespace(), service.name())
}

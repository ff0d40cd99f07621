//! What a client dials (frontends) and where it goes (backends).

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;

use crate::{
    name::{NodeName, ServiceName},
    net::Vip,
    selector::Labels,
};

/// L4 protocol of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: known, given addresses, not forwarded by the load balancer.
    Sctp,
}

impl Protocol {
    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// What a client dials. Prints as `192.0.2.1:80/TCP` or `[2001:db8::1]:80/TCP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    /// The address.
    pub vip: Vip,
    /// The protocol.
    pub protocol: Protocol,
    /// The port, never 0.
    pub port: u16,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}/{}", self.port, self.protocol),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}/{}", self.port, self.protocol),
        }
    }
}

/// Whether a backend may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendState {
    /// Takes new flows.
    Active,
    /// Keeps its flows, takes new ones only if no active backend is left.
    Terminating,
    /// Not ready: keeps its flows, takes no new ones.
    NotReady,
}

/// A target of a frontend, on any node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// Where it listens.
    pub addr: IpAddr,
    /// Its port, never 0.
    pub port: u16,
    /// Whether it serves.
    pub state: BackendState,
    /// The node that hosts it, if the EndpointSlice says so.
    pub node: Option<NodeName>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty for a single unnamed port. Backends are joined by it.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// What clients dial.
    pub port: u16,
    /// Node port, 0 = none.
    pub node_port: u16,
}

/// `Cluster` or `Local`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TrafficPolicy {
    /// Any backend.
    #[default]
    Cluster,
    /// Only backends on the node where the packet arrives.
    Local,
}

/// Who implements a load balancer Service (`spec.loadBalancerClass`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LoadBalancerClass {
    /// Unset.
    Unset,
    /// `io.cilium/l2-announcer`.
    L2Announcer,
    /// `io.cilium/bgp-control-plane`.
    BgpControlPlane,
    /// `io.cilium/node`.
    Node,
    /// Somebody else's.
    Other(String),
}

impl LoadBalancerClass {
    /// From `spec.loadBalancerClass`.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            None => Self::Unset,
            Some("io.cilium/l2-announcer") => Self::L2Announcer,
            Some("io.cilium/bgp-control-plane") => Self::BgpControlPlane,
            Some("io.cilium/node") => Self::Node,
            Some(other) => Self::Other(other.to_owned()),
        }
    }
}

/// How packets reach the backends (annotation `service.cilium.io/forwarding-mode`, or ours `fairlead.io/forwarding-mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ForwardingMode {
    /// Chosen per backend; a plain server gets SNAT that survives a move.
    #[default]
    Auto,
    /// Source translation.
    Snat,
    /// Layer-2 DSR: destination MAC rewritten.
    DsrL2,
    /// DSR by IPIP or ip6ip6.
    DsrIpip,
}

/// A Service with what its EndpointSlices say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its labels, without the special ones.
    pub labels: Labels,
    /// `spec.type == LoadBalancer`.
    pub is_load_balancer: bool,
    /// Who implements it.
    pub class: LoadBalancerClass,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Vec<Vip>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Vip>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Backends by port name, each list sorted and free of duplicates.
    pub backends: BTreeMap<String, Vec<Backend>>,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// How packets reach the backends.
    pub forwarding: ForwardingMode,
    /// Maglev M written once by the operator (annotation `fairlead.io/maglev-table-size`) or set by the user; `None` = not known yet.
    pub table_size: Option<u32>,
    /// `spec.loadBalancerSourceRanges`: the only clients that may come in. `None` = everyone; a list without a range of a family lets
    /// nobody of that family in.
    pub source_ranges: Option<Vec<IpNet>>,
    /// `spec.sessionAffinity` is `ClientIP`: all connections of a client go to one backend.
    pub session_affinity: bool,
}

/// Cilium's Maglev table lengths, all prime: the only values of `table_size`.
pub const TABLE_SIZES: [u32; 10] = [
    251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071,
];

/// The smallest of [`TABLE_SIZES`] with at least 100 slots for each backend; the largest if none has.
pub fn table_size_for(n_backends: usize) -> u32 {
    let wanted = n_backends.saturating_mul(100);
    let fits = |size: &&u32| usize::try_from(**size).is_ok_and(|size| size >= wanted);
    let [.., largest] = TABLE_SIZES;
    TABLE_SIZES.iter().find(fits).copied().unwrap_or(largest)
}

/// Special label with the Service's name, as selectors see it.
pub const LABEL_SERVICE_NAME: &str = "io.kubernetes.service.name";
/// Special label with the Service's namespace, as selectors see it.
pub const LABEL_SERVICE_NAMESPACE: &str = "io.kubernetes.service.namespace";

impl Service {
    /// Labels as selectors of pools and policies see them: the Service's own and the two special ones.
    pub fn selector_labels(&self) -> Labels {
        let mut labels = self.labels.clone();
        labels.insert(LABEL_SERVICE_NAME.to_owned(), self.name.name().to_owned());
        labels.insert(
            LABEL_SERVICE_NAMESPACE.to_owned(),
            self.name.namespace().to_owned(),
        );
        labels
    }

    /// Every VIP of the Service, sorted, each once: load balancer and external addresses.
    pub fn vips(&self) -> Vec<Vip> {
        let mut vips: Vec<Vip> = self
            .load_balancer_ips
            .iter()
            .chain(&self.external_ips)
            .copied()
            .collect();
        vips.sort_unstable();
        vips.dedup();
        vips
    }

    /// Whether only some clients may reach this VIP; a range such as `0.0.0.0/0` lets all of its family in.
    pub fn is_restricted(&self, vip: &Vip) -> bool {
        let lets_all_in =
            |range: &IpNet| range.prefix_len() == 0 && range.addr().is_ipv4() == vip.is_ipv4();
        self.source_ranges
            .as_ref()
            .is_some_and(|ranges| !ranges.iter().any(lets_all_in))
    }

    /// Every frontend with its backends of the same family, in the order of VIPs, then ports.
    pub fn frontends(&self) -> impl Iterator<Item = (Frontend, Vec<&Backend>)> {
        self.vips().into_iter().flat_map(move |vip| {
            self.ports.iter().map(move |port| {
                let backends = self.backends.get(&port.name).map_or(&[][..], Vec::as_slice);
                let backends = backends
                    .iter()
                    .filter(|b| b.addr.is_ipv4() == vip.is_ipv4())
                    .collect();
                (
                    Frontend {
                        vip,
                        protocol: port.protocol,
                        port: port.port,
                    },
                    backends,
                )
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Backend, BackendState, ForwardingMode, LoadBalancerClass, Protocol, Service, ServicePort,
        TrafficPolicy,
    };
    use crate::{name::ServiceName, selector::Labels};

    #[test]
    fn table_sizes_leave_a_hundred_slots_a_backend() {
        let sizes = [0, 2, 3, 10, 655, 656, 1310, 1311, usize::MAX].map(super::table_size_for);
        assert_eq!(
            sizes,
            [
                251, 251, 509, 1021, 65521, 131_071, 131_071, 131_071, 131_071
            ]
        );
    }

    #[test]
    fn frontends_pair_families() {
        let backend = |addr: &str| Backend {
            addr: addr.parse().unwrap(),
            port: 8080,
            state: BackendState::Active,
            node: None,
        };
        let service = Service {
            name: ServiceName::new("shop", "web").unwrap(),
            labels: Labels::new(),
            is_load_balancer: true,
            class: LoadBalancerClass::Unset,
            load_balancer_ips: vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()],
            external_ips: vec!["192.0.2.1".parse().unwrap()],
            ports: vec![ServicePort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: 0,
            }],
            backends: [(
                "http".to_owned(),
                vec![backend("10.0.0.1"), backend("fd00::1")],
            )]
            .into(),
            external_traffic_policy: TrafficPolicy::Cluster,
            forwarding: ForwardingMode::Auto,
            table_size: None,
            source_ranges: None,
            session_affinity: false,
        };
        let seen: Vec<String> = service
            .frontends()
            .map(|(f, b)| format!("{f} -> {}", b[0].addr))
            .collect();
        assert_eq!(
            seen,
            [
                "192.0.2.1:80/TCP -> 10.0.0.1",
                "[2001:db8::1]:80/TCP -> fd00::1"
            ]
        );
        assert_eq!(
            service.selector_labels()["io.kubernetes.service.namespace"],
            "shop"
        );
    }
}

//! What the maps should hold: services, as the API has them, met with the node's network.
//!
//! Pure. Parts are shared and compared by pointer first, so that the cost of a change follows the change. Which backends are in a table
//! depends on the API alone, never on what this node can reach: tables must be equal on every node. The one exception is a backend that
//! lives on this node, which has no way out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use fairlead_abi::lb::{Iface, mode};
use fairlead_logic::select::iface_slot;
use fairlead_model::{
    Backend, BackendState, ForwardingMode, Frontend, LoadBalancerClass, MacAddr, Protocol, Service,
    ServiceName, Snapshot, TrafficPolicy, Vip,
    service::{TABLE_SIZES, table_size_for},
};

use crate::{
    network::{Hop, HopFailure, InterfaceConfig, Network},
    ports::NODE_RANGE,
    problem::{Problem, ProblemReason},
};

/// The whole wish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Every VIP, also of services without a forwardable frontend: packets to it belong to us.
    pub vips: BTreeMap<Vip, DesiredVip>,
    /// Every frontend.
    pub frontends: BTreeMap<Frontend, Arc<DesiredFrontend>>,
    /// Rows of `IFACES`.
    pub ifaces: BTreeMap<u32, Iface>,
    /// VIPs that are still announced: what is programmed for them stays, even if nothing wants it any more.
    pub held: BTreeSet<Vip>,
}

/// What the frontends of one VIP share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DesiredVip {
    /// Packets pass to the host (kube-proxy).
    pub pass_to_host: bool,
    /// Where a reply without a record is passed on: hardware address and slot in `IFACES`.
    pub handoff: Option<(MacAddr, u16)>,
}

/// One frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredFrontend {
    /// Whose.
    pub service: ServiceName,
    /// `abi::lb::mode`.
    pub mode: u64,
    /// Maglev M.
    pub table_size: u32,
    /// By identity, sorted.
    pub backends: Vec<DesiredBackend>,
}

/// One backend of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DesiredBackend {
    /// Address and port.
    pub identity: SocketAddr,
    /// New flows come here.
    pub accepts_new: bool,
    /// `None`: not known (yet); what the record has stays.
    pub hop: Option<DesiredHop>,
    /// The hop was asked for a moment ago; it is worth a short wait before flows are sent there.
    pub is_awaited: bool,
}

/// Where a backend's packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DesiredHop {
    /// Next hop.
    pub mac: MacAddr,
    /// Slot in `IFACES`.
    pub iface: u8,
    /// Outer source of IPIP; zero = none.
    pub source4: [u8; 4],
    /// SNAT: the backend sees this node's address, not the VIP.
    pub is_node_source: bool,
}

/// What one service comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredService {
    /// Its VIPs.
    pub vips: Vec<Vip>,
    /// Its frontends.
    pub frontends: Vec<(Frontend, Arc<DesiredFrontend>)>,
    /// VIPs that nobody may reach by this service, because it may not be open to everyone.
    pub closed: BTreeSet<Vip>,
    /// What is wrong, apart from what the planner finds.
    pub problems: Vec<Problem>,
    /// A next hop was asked for a moment ago and has not answered.
    pub is_pending: bool,
}

/// What all services meet.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The node's network.
    pub network: &'a Network,
    /// Interfaces of the configuration.
    pub interfaces: &'a [InterfaceConfig],
    /// Interfaces without a row (two share a slot).
    pub refused: &'a BTreeSet<u32>,
    /// Forwarding is left to the host.
    pub pass_to_host: bool,
}

/// Whether the load balancer serves this service: it has addresses and nobody else implements it.
pub fn is_ours(service: &Service) -> bool {
    let by_class = !matches!(service.class, LoadBalancerClass::Other(_));
    (service.is_load_balancer && by_class) || !service.external_ips.is_empty()
}

/// Addresses of every backend that a next hop is needed for.
pub fn backend_addresses(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let services = snapshot.services.values().filter(|s| is_ours(s));
    let backends = services.flat_map(|s| s.backends.values().flatten());
    backends.map(|backend| backend.addr).collect()
}

/// What a service comes to in this network.
pub fn service(service: &Service, context: &Context<'_>) -> DesiredService {
    let mut builder = Builder {
        service,
        context,
        out: DesiredService {
            vips: service.vips(),
            ..DesiredService::default()
        },
    };
    if context.pass_to_host {
        return builder.out;
    }
    if service.external_traffic_policy == TrafficPolicy::Local {
        builder.problem(
            ProblemReason::TrafficPolicyIgnored,
            None,
            None,
            "externalTrafficPolicy Local is treated as Cluster: backends on every node are used",
        );
    }
    if service.session_affinity {
        builder.problem(
            ProblemReason::SessionAffinityIgnored,
            None,
            None,
            "sessionAffinity ClientIP is ignored: each connection of a client chooses its own backend",
        );
    }
    for (frontend, backends) in service.frontends() {
        if service.is_restricted(&frontend.vip) {
            builder.close(frontend);
        } else {
            builder.frontend(frontend, &backends);
        }
    }
    let mut out = builder.out;
    out.problems.sort();
    out.problems.dedup();
    out
}

/// How a backend is reached.
enum Reach {
    /// Not in this mode, or not from here: it is left out.
    Never,
    /// Its next hop was asked for a moment ago.
    Awaited,
    /// Its next hop is not known.
    Unknown,
    By(DesiredHop),
}

struct Builder<'a> {
    service: &'a Service,
    context: &'a Context<'a>,
    out: DesiredService,
}

// === impl Builder ===

impl Builder<'_> {
    fn problem(
        &mut self,
        reason: ProblemReason,
        frontend: Option<Frontend>,
        backend: Option<SocketAddr>,
        message: impl Into<String>,
    ) {
        self.out.problems.push(Problem {
            service: self.service.name.clone(),
            reason,
            frontend,
            backend,
            message: message.into(),
        });
    }

    /// A restriction that cannot be kept closes the frontend: open to everyone is what its owner ruled out.
    fn close(&mut self, frontend: Frontend) {
        let message = format!(
            "{frontend} is open to nobody: loadBalancerSourceRanges is not enforced; remove it and filter at the backends or before this node"
        );
        let reason = ProblemReason::SourceRangesNotEnforced;
        self.problem(reason, Some(frontend), None, message);
        self.out.closed.insert(frontend.vip);
    }

    fn frontend(&mut self, frontend: Frontend, backends: &[&Backend]) {
        if frontend.protocol == Protocol::Sctp {
            let message =
                format!("{frontend} has an address and is not forwarded: only TCP and UDP are");
            self.problem(
                ProblemReason::ProtocolNotForwarded,
                Some(frontend),
                None,
                message,
            );
            return;
        }
        let mode = match self.service.forwarding {
            // Every backend is a plain server here: none runs our agent.
            ForwardingMode::Auto | ForwardingMode::Snat => mode::SNAT,
            ForwardingMode::DsrL2 => mode::DSR_L2,
            ForwardingMode::DsrIpip => mode::DSR_IPIP,
        };
        let table_size = self.table_size(frontend, backends.len());
        let no_active = backends.iter().all(|b| b.state != BackendState::Active);
        let mut wanted = Vec::with_capacity(backends.len());
        for backend in backends {
            let accepts_new = match backend.state {
                BackendState::Active => true,
                BackendState::Terminating => no_active,
                BackendState::NotReady => false,
            };
            let (hop, is_awaited) = match self.hop(frontend, mode, backend) {
                Reach::Never => continue,
                Reach::Awaited => (None, true),
                Reach::Unknown => (None, false),
                Reach::By(hop) => (Some(hop), false),
            };
            wanted.push(DesiredBackend {
                identity: SocketAddr::new(backend.addr, backend.port),
                accepts_new,
                hop,
                is_awaited,
            });
        }
        wanted.sort_unstable_by_key(|b| b.identity);
        wanted.dedup_by_key(|b| b.identity);
        if wanted.iter().all(|b| !b.accepts_new) {
            let message = format!("no backend of {frontend} takes new flows");
            self.problem(ProblemReason::NoBackend, Some(frontend), None, message);
        }
        let desired = DesiredFrontend {
            service: self.service.name.clone(),
            mode,
            table_size,
            backends: wanted,
        };
        self.out.frontends.push((frontend, Arc::new(desired)));
    }

    fn table_size(&mut self, frontend: Frontend, n_backends: usize) -> u32 {
        let fallback = table_size_for(n_backends);
        let Some(size) = self.service.table_size else {
            return fallback;
        };
        if TABLE_SIZES.contains(&size) && size as usize >= n_backends {
            return size;
        }
        let message = format!(
            "a Maglev table of {size} slots does not serve {n_backends} backends of {frontend}: {fallback} is used; set one of {TABLE_SIZES:?}"
        );
        self.problem(
            ProblemReason::MaglevTableTooSmall,
            Some(frontend),
            None,
            message,
        );
        fallback
    }

    /// Whether and how the backend can be reached in this mode.
    fn hop(&mut self, frontend: Frontend, mode: u64, backend: &Backend) -> Reach {
        let identity = SocketAddr::new(backend.addr, backend.port);
        if mode != mode::SNAT && backend.port != frontend.port {
            let message = format!(
                "direct return cannot change the port: {identity} must listen on {}, as clients dial; it is left out",
                frontend.port
            );
            self.refuse(
                ProblemReason::TargetPortMismatch,
                frontend,
                identity,
                message,
            );
            return Reach::Never;
        }
        match self.context.network.hops.get(&backend.addr) {
            None | Some(Hop::Pending) => {
                self.out.is_pending = true;
                Reach::Awaited
            }
            Some(Hop::Local) => {
                let message = format!(
                    "{identity} is this load balancer itself: it is left out here, other nodes reach it"
                );
                self.refuse(
                    ProblemReason::BackendOnLoadBalancer,
                    frontend,
                    identity,
                    message,
                );
                Reach::Never
            }
            Some(Hop::Unresolved(failure)) => {
                let message = match failure {
                    HopFailure::NoRoute => format!("no route leads to {identity}"),
                    HopFailure::NoAnswer(ip) => {
                        format!("{identity}: {ip} does not answer ARP or neighbour discovery")
                    }
                    HopFailure::Refused(ip) => format!(
                        "{identity}: the kernel takes no neighbour entry for {ip}; the log says why"
                    ),
                };
                self.refuse(
                    ProblemReason::NextHopUnresolved,
                    frontend,
                    identity,
                    message,
                );
                Reach::Unknown
            }
            Some(Hop::Resolved {
                ifindex,
                mac,
                is_on_link,
            }) => self.resolved(frontend, mode, identity, (*ifindex, *mac, *is_on_link)),
        }
    }

    fn resolved(
        &mut self,
        frontend: Frontend,
        mode: u64,
        identity: SocketAddr,
        (ifindex, mac, is_on_link): (u32, MacAddr, bool),
    ) -> Reach {
        if mode == mode::DSR_L2 && !is_on_link {
            let message = format!(
                "layer-2 direct return reaches only the link itself, and {identity} is behind a gateway; it is left out"
            );
            self.refuse(ProblemReason::BackendOffLink, frontend, identity, message);
            return Reach::Never;
        }
        let network = self.context.network;
        let interface = network.interfaces.get(&ifindex);
        if self.context.refused.contains(&ifindex) {
            let message = format!(
                "the interface that leads to {identity} (index {ifindex}) shares its slot of the interface table with another: recreate it to get another index"
            );
            let reason = ProblemReason::InterfaceSlotTaken;
            self.refuse(reason, frontend, identity, message);
            return Reach::Never;
        }
        let source4 = interface
            .and_then(|i| i.addr4)
            .map_or([0; 4], |ip| ip.octets());
        let has_source = match identity {
            SocketAddr::V4(_) => source4 != [0; 4],
            SocketAddr::V6(_) => interface.is_some_and(|i| i.addr6.is_some()),
        };
        if mode == mode::DSR_IPIP && !has_source {
            let message = format!(
                "packets to {identity} cannot be wrapped: the interface that leads there has no address of its family"
            );
            self.refuse(ProblemReason::NoSourceAddress, frontend, identity, message);
            return Reach::Never;
        }
        let is_elsewhere =
            mode == mode::SNAT && !network.is_announcing(ifindex, self.context.interfaces);
        let is_node_source =
            is_elsewhere && self.sees_node(frontend, identity, ifindex, has_source);
        let iface = u8::try_from(iface_slot(ifindex)).expect("there are 256 slots");
        Reach::By(DesiredHop {
            mac,
            iface,
            source4,
            is_node_source,
        })
    }

    /// Whether a backend where its VIP is not announced sees this node's address. Says what comes of it, or why not.
    fn sees_node(
        &mut self,
        frontend: Frontend,
        identity: SocketAddr,
        ifindex: u32,
        has_source: bool,
    ) -> bool {
        let Context {
            network,
            interfaces,
            ..
        } = self.context;
        let name = network
            .interfaces
            .get(&ifindex)
            .map_or("?", |i| i.name.as_str());
        let obstacle = if !network.is_forwarding(ifindex, interfaces) {
            Some(format!("add {name} to this node's devices"))
        } else if !has_source {
            Some(format!("give {name} an address of its family"))
        } else if !network.has_node_ports {
            let (low, high) = (NODE_RANGE.start(), NODE_RANGE.end());
            Some(format!(
                "set net.ipv4.ip_local_reserved_ports={low}-{high} or end net.ipv4.ip_local_port_range below {low}"
            ))
        } else {
            None
        };
        let vip = frontend.vip;
        let message = match &obstacle {
            None => format!(
                "{identity} is reached by {name}, where {vip} is not announced: it sees this node's address there, and its flows end when {vip} moves to another node"
            ),
            Some(remedy) => format!(
                "{identity} is reached by {name}, where {vip} is not announced: its replies arrive only if its network routes the address to a node that owns it; {remedy}"
            ),
        };
        let reason = ProblemReason::BackendOffAnnouncingInterface;
        self.refuse(reason, frontend, identity, message);
        obstacle.is_none()
    }

    fn refuse(
        &mut self,
        reason: ProblemReason,
        frontend: Frontend,
        identity: SocketAddr,
        message: String,
    ) {
        self.problem(reason, Some(frontend), Some(identity), message);
    }
}

// === impl Desired ===

impl Desired {
    /// Adds a service; a frontend that another service has already is not added.
    pub fn add(
        &mut self,
        name: &ServiceName,
        service: &DesiredService,
        pass_to_host: bool,
    ) -> Vec<Problem> {
        for vip in &service.vips {
            self.vips.entry(*vip).or_default().pass_to_host = pass_to_host;
        }
        let mut problems = Vec::new();
        for (frontend, desired) in &service.frontends {
            match self.frontends.get(frontend) {
                Some(other) => problems.push(Problem {
                    service: name.clone(),
                    reason: ProblemReason::FrontendTaken,
                    frontend: Some(*frontend),
                    backend: None,
                    message: format!(
                        "{frontend} belongs to {}: change one of the ports",
                        other.service
                    ),
                }),
                None => {
                    self.frontends.insert(*frontend, Arc::clone(desired));
                }
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests;

//! What the policies ask of this node: ownership groups per interface, and which parts of a policy say nothing.
//!
//! Pure: a snapshot and the names of the announcing interfaces go in. A Service is announced where a policy that selects this node and the
//! Service names the interface; it may be owned by every node of which the same holds.
//!
//! # Source
//! `CiliumL2AnnouncementPolicy`: unanchored regular expressions, OR-ed; class unset or ours; eTP Local only with a local backend.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fairlead_model::{
    BackendState, Generation, L2Policy, LoadBalancerClass, Node, NodeName, Service, ServiceName,
    Snapshot, TrafficPolicy, Vip,
};
use regex::Regex;

use crate::ownership::{GroupSpec, order::NodeId};

/// What the datapath serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programmed {
    /// Every snapshot up to this one is in the maps.
    pub generation: Generation,
    /// Except these: they could not be programmed and are not announced.
    pub refused: BTreeSet<Vip>,
}

/// What this node shall do on one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Groups, in the order of Services.
    pub groups: Vec<GroupSpec>,
    /// Which Services want each address.
    pub services: BTreeMap<Vip, BTreeSet<ServiceName>>,
}

/// What is to be said about a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyVerdict {
    /// Why `nodeSelector` cannot be read.
    pub bad_node_selector: Option<String>,
    /// Why `serviceSelector` cannot be read.
    pub bad_service_selector: Option<String>,
    /// Why the preferred nodes cannot be read. The policy is in force without them.
    pub bad_preference: Option<String>,
    /// Why an entry of `interfaces` cannot be read.
    pub bad_interface_regex: Option<String>,
    /// It selects this node.
    pub selects_this_node: bool,
    /// Nodes that it selects.
    pub n_nodes: usize,
    /// Services that it selects and that have an address of a kind that it announces.
    pub n_services: usize,
    /// Announcing interfaces of this node that it names.
    pub interfaces: Vec<String>,
}

impl PolicyVerdict {
    /// No part of it is unreadable.
    pub const fn is_readable(&self) -> bool {
        self.bad_node_selector.is_none()
            && self.bad_service_selector.is_none()
            && self.bad_interface_regex.is_none()
    }

    /// What keeps the policy from doing anything here, for people; `None` if it does something.
    pub fn idle_because(&self) -> Option<String> {
        let bad = self
            .bad_node_selector
            .as_ref()
            .or(self.bad_service_selector.as_ref())
            .or(self.bad_interface_regex.as_ref());
        if let Some(bad) = bad {
            return Some(bad.clone());
        }
        if self.n_nodes == 0 {
            return Some("spec.nodeSelector selects no node".to_owned());
        }
        if !self.selects_this_node {
            return Some("spec.nodeSelector selects other nodes than this one".to_owned());
        }
        if self.interfaces.is_empty() {
            return Some("spec.interfaces matches no announcing interface of this node".to_owned());
        }
        (self.n_services == 0).then(|| {
            "spec.serviceSelector selects no Service with an address that the policy announces \
             (loadBalancerIPs, externalIPs)"
                .to_owned()
        })
    }
}

/// The whole result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By interface name; every announcing interface has an entry.
    pub wanted: BTreeMap<String, Wanted>,
    /// By policy name.
    pub policies: BTreeMap<String, PolicyVerdict>,
}

/// Remembers since which generation an address is wanted without a break, so that the gate asks for that generation only.
#[derive(Debug, Default)]
pub struct Gate {
    since: BTreeMap<Vip, Generation>,
}

impl Gate {
    /// Notes the addresses of a snapshot; to be called for each one in turn.
    pub fn note(&mut self, snapshot: &Snapshot) {
        let mut now = BTreeMap::new();
        for vip in snapshot.services.values().flat_map(Service::vips) {
            let since = self.since.get(&vip).copied();
            now.insert(vip, since.unwrap_or(snapshot.generation));
        }
        self.since = now;
    }

    /// Whether the datapath serves an address (style.md I1).
    pub fn is_open(&self, vip: Vip, programmed: &Programmed) -> bool {
        let since = self.since.get(&vip);
        since.is_some_and(|since| *since <= programmed.generation)
            && !programmed.refused.contains(&vip)
    }
}

/// A policy with its expressions compiled.
struct Compiled<'a> {
    policy: &'a L2Policy,
    expressions: Vec<Regex>,
}

impl Compiled<'_> {
    fn names(&self, interface: &str) -> bool {
        self.policy.interfaces.is_empty() || self.expressions.iter().any(|e| e.is_match(interface))
    }

    fn selects_node(&self, node: &Node) -> bool {
        let selector = self.policy.node_selector.as_ref();
        selector.is_ok_and(|selector| selector.matches(&node.labels))
    }

    fn selects_service(&self, service: &Service) -> bool {
        let selector = self.policy.service_selector.as_ref();
        selector.is_ok_and(|selector| selector.matches(&service.selector_labels()))
    }

    /// Addresses of a Service that the policy announces.
    fn vips<'s>(&self, service: &'s Service) -> impl Iterator<Item = Vip> + use<'s> {
        let load_balancer = self
            .policy
            .load_balancer_ips
            .then_some(&service.load_balancer_ips);
        let external = self.policy.external_ips.then_some(&service.external_ips);
        load_balancer.into_iter().chain(external).flatten().copied()
    }
}

/// Works out what this node shall do. `leases` are the holders seen on the API.
///
/// # Complexity
/// O(policies × (Services + nodes)) selector matches.
pub fn plan(
    snapshot: &Snapshot,
    me: &NodeName,
    interfaces: &[String],
    is_programmed: impl Fn(Vip) -> bool,
    leases: &BTreeMap<ServiceName, NodeName>,
) -> Plan {
    let mut plan = Plan::default();
    let mut compiled = Vec::new();
    for (name, policy) in &snapshot.l2_policies {
        let (verdict, usable) = judge(policy, snapshot, me, interfaces);
        plan.policies.insert(name.clone(), verdict);
        compiled.extend(usable);
    }
    for interface in interfaces {
        plan.wanted.insert(interface.clone(), Wanted::default());
    }
    for service in snapshot.services.values().filter(|s| is_ours(&s.class)) {
        let selecting: Vec<&Compiled<'_>> = compiled
            .iter()
            .filter(|policy| policy.selects_service(service))
            .collect();
        if selecting.is_empty() {
            continue;
        }
        let holder = leases.get(&service.name).map(NodeId::of);
        for interface in interfaces {
            let spec = group(snapshot, service, &selecting, me, interface);
            let Some(Candidates {
                vips,
                eligible,
                weights,
            }) = spec
            else {
                continue;
            };
            let wanted = plan.wanted.entry(interface.clone()).or_default();
            for vip in &vips {
                let services = wanted.services.entry(*vip).or_default();
                services.insert(service.name.clone());
            }
            wanted.groups.push(GroupSpec {
                vips: vips.iter().map(|vip| (*vip, is_programmed(*vip))).collect(),
                eligible,
                weights,
                lease_holder: holder,
            });
        }
    }
    plan
}

/// What a Service is on one interface.
struct Candidates {
    vips: BTreeSet<IpAddr>,
    eligible: Vec<NodeId>,
    weights: Vec<(NodeId, u32)>,
}

/// The addresses of a Service on an interface of this node and who may own them; `None` if this node is no candidate there.
///
/// Interfaces of other nodes have names that we do not know: any policy that selects node and Service makes the node a candidate, and
/// whether it announces on this segment shows by its heartbeats there.
fn group(
    snapshot: &Snapshot,
    service: &Service,
    selecting: &[&Compiled<'_>],
    me: &NodeName,
    interface: &str,
) -> Option<Candidates> {
    let mine = snapshot.nodes.get(me)?;
    let here = selecting
        .iter()
        .filter(|policy| policy.selects_node(mine) && policy.names(interface));
    let vips: BTreeSet<IpAddr> = here.flat_map(|policy| policy.vips(service)).collect();
    if vips.is_empty() {
        return None;
    }
    let may = |node: &&Node| {
        let is_selected = selecting
            .iter()
            .any(|policy| policy.selects_node(node) && policy.vips(service).next().is_some());
        is_selected && has_backend(service, &node.name)
    };
    let may_own: Vec<&Node> = snapshot.nodes.values().filter(may).collect();
    // A node that is to own nothing gives away what it owns, but not into nothing: a tainted one goes before an excluded one.
    let tiers: [fn(&Node) -> bool; 3] = [
        |node| !node.is_excluded && !node.is_repelling,
        |node| !node.is_excluded,
        |_| true,
    ];
    let eligible = tiers.into_iter().find_map(|is_in| {
        let nodes = may_own.iter().filter(|node| is_in(node));
        let ids: Vec<NodeId> = nodes.map(|node| NodeId::of(&node.name)).collect();
        (!ids.is_empty()).then_some(ids)
    });
    let weights = may_own
        .iter()
        .map(|node| (NodeId::of(&node.name), weight(selecting, node)));
    let weights = weights.filter(|(_, weight)| *weight > 0).collect();
    Some(Candidates {
        vips,
        eligible: eligible.unwrap_or_default(),
        weights,
    })
}

/// How much a node is preferred by all policies that select the Service.
fn weight(selecting: &[&Compiled<'_>], node: &Node) -> u32 {
    let preferences = selecting
        .iter()
        .flat_map(|c| c.policy.preferred.iter().flatten());
    preferences
        .filter(|preference| preference.nodes.matches(&node.labels))
        .fold(0u32, |sum, preference| {
            sum.saturating_add(preference.weight)
        })
}

fn is_ours(class: &LoadBalancerClass) -> bool {
    matches!(
        class,
        LoadBalancerClass::Unset | LoadBalancerClass::L2Announcer
    )
}

/// With eTP Local a node without a ready backend of its own would drop the packets.
fn has_backend(service: &Service, node: &NodeName) -> bool {
    service.external_traffic_policy == TrafficPolicy::Cluster
        || service
            .backends
            .values()
            .flatten()
            .any(|b| b.state == BackendState::Active && b.node.as_ref() == Some(node))
}

fn judge<'a>(
    policy: &'a L2Policy,
    snapshot: &Snapshot,
    me: &NodeName,
    interfaces: &[String],
) -> (PolicyVerdict, Option<Compiled<'a>>) {
    let mut verdict = PolicyVerdict {
        bad_node_selector: policy.node_selector.as_ref().err().cloned(),
        bad_service_selector: policy.service_selector.as_ref().err().cloned(),
        bad_preference: policy.preferred.as_ref().err().cloned(),
        ..PolicyVerdict::default()
    };
    let mut expressions = Vec::new();
    for (index, text) in policy.interfaces.iter().enumerate() {
        match Regex::new(text) {
            Ok(expression) => expressions.push(expression),
            Err(error) => {
                let why = format!("spec.interfaces[{index}]: `{text}`: {error}");
                verdict.bad_interface_regex.get_or_insert(why);
            }
        }
    }
    if !verdict.is_readable() {
        // As Cilium: a policy that cannot be read in full announces nothing, rather than something else than was meant.
        return (verdict, None);
    }
    let compiled = Compiled {
        policy,
        expressions,
    };
    verdict.n_nodes = snapshot
        .nodes
        .values()
        .filter(|node| compiled.selects_node(node))
        .count();
    let mine = snapshot.nodes.get(me);
    verdict.selects_this_node = mine.is_some_and(|node| compiled.selects_node(node));
    verdict.interfaces = interfaces
        .iter()
        .filter(|name| compiled.names(name))
        .cloned()
        .collect();
    verdict.n_services = snapshot
        .services
        .values()
        .filter(|s| is_ours(&s.class) && compiled.selects_service(s))
        .filter(|s| compiled.vips(s).next().is_some())
        .count();
    (verdict, Some(compiled))
}

#[cfg(test)]
mod tests;

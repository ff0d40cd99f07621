//! What this node says on Service objects: pure, from the snapshot, the owners, and what the load balancer found.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_api::{
    condition::{Status, Wanted},
    convert::ConvertError,
    names, view,
    watch::ObjectRef,
};
use fairlead_model::{L2Policy, NodeName, Service, ServiceName, Snapshot};
use fairlead_observe::{ConditionView, InterfaceView, L2Row};
use fairlead_xdp_lb::problem::{Problem, ProblemReason};
use regex::Regex;

use crate::host_arp::HostArp;

/// Most findings in one message; the rest is counted.
const N_SHOWN: usize = 3;

/// Rows and findings by Service, and interfaces of this node that serve none.
#[derive(Debug)]
pub struct Found<'a> {
    rows: BTreeMap<&'a str, Vec<&'a L2Row>>,
    problems: BTreeMap<&'a ServiceName, Vec<&'a Problem>>,
    /// Nothing is attached there, and it is known why.
    unserved: Vec<&'a InterfaceView>,
    unreadable: &'a [(ObjectRef, ConvertError)],
    /// What this machine's kernel answers for by itself.
    host_arp: &'a [HostArp],
    /// kube-proxy forwards, not XDP.
    is_left_to_kube_proxy: bool,
}

impl<'a> Found<'a> {
    /// Sorts them.
    pub fn new(
        l2: &'a [L2Row],
        problems: &'a [Problem],
        interfaces: &'a [InterfaceView],
        unreadable: &'a [(ObjectRef, ConvertError)],
    ) -> Self {
        let mut found = Self {
            rows: BTreeMap::new(),
            problems: BTreeMap::new(),
            unreadable,
            unserved: interfaces.iter().filter(|i| i.problem.is_some()).collect(),
            host_arp: &[],
            is_left_to_kube_proxy: false,
        };
        for row in l2 {
            found
                .rows
                .entry(row.service.as_str())
                .or_default()
                .push(row);
        }
        for problem in problems {
            found
                .problems
                .entry(&problem.service)
                .or_default()
                .push(problem);
        }
        found
    }

    /// The same beside another CNI: what its kube-proxy does.
    #[must_use]
    pub const fn beside(mut self, host_arp: &'a [HostArp], is_left_to_kube_proxy: bool) -> Self {
        self.host_arp = host_arp;
        self.is_left_to_kube_proxy = is_left_to_kube_proxy;
        self
    }

    /// That this machine's kernel answers for an address of the Service.
    fn host_arp(&self, service: &Service) -> Option<&'a HostArp> {
        let vips = service.vips();
        let is_its = |found: &&HostArp| vips.contains(&IpAddr::V4(found.vip));
        self.host_arp.iter().find(is_its)
    }

    /// The Service's rows.
    pub fn rows(&self, name: &ServiceName) -> &[&'a L2Row] {
        self.rows
            .get(name.to_string().as_str())
            .map_or(&[], Vec::as_slice)
    }

    /// The conditions of one Service, whoever speaks for it.
    pub fn judge(&self, snapshot: &Snapshot, service: &Service) -> Vec<Wanted> {
        let rows = self.rows(&service.name);
        let problems = self
            .problems
            .get(&service.name)
            .map_or(&[][..], Vec::as_slice);
        let host_arp = self.host_arp(service);
        let all = [
            announced(snapshot, service, rows, &self.unserved, host_arp),
            conflict(rows, host_arp),
            forwarding(problems),
            survival(problems, self.is_left_to_kube_proxy && !rows.is_empty()),
            invalid(&service.name, self.unreadable),
        ];
        all.into_iter().flatten().collect()
    }
}

/// The conditions of every Service that `node` speaks for: those that it owns and, of those that nobody owns, those where it comes first.
pub fn spoken(
    node: &NodeName,
    snapshot: &Snapshot,
    found: &Found<'_>,
) -> BTreeMap<ServiceName, Vec<Wanted>> {
    let speaks = |service: &&Service| {
        speaker(snapshot, service, found.rows(&service.name)) == Some(node.as_str())
    };
    let own = snapshot.services.values().filter(speaks);
    own.map(|service| (service.name.clone(), found.judge(snapshot, service)))
        .collect()
}

/// As people are shown it.
pub fn view(wanted: &Wanted) -> ConditionView {
    ConditionView {
        type_: wanted.type_.to_owned(),
        status: wanted.status.as_str().to_owned(),
        reason: wanted.reason.clone(),
        message: wanted.message.clone(),
    }
}

/// The owner; without one, the first eligible node; without one of those, the first node.
fn speaker<'a>(snapshot: &'a Snapshot, service: &Service, rows: &[&'a L2Row]) -> Option<&'a str> {
    if let Some(owner) = rows.iter().find_map(|row| row.owner.as_deref()) {
        return Some(owner);
    }
    let policies = || {
        snapshot
            .l2_policies
            .values()
            .filter(|p| view::selects(p, service))
    };
    let is_eligible = |node: &&fairlead_model::Node| {
        let by = |policy: &L2Policy| {
            policy
                .node_selector
                .as_ref()
                .is_ok_and(|s| s.matches(&node.labels))
        };
        !node.is_excluded && policies().any(by)
    };
    let first = snapshot.nodes.values().find(is_eligible);
    first
        .or_else(|| snapshot.nodes.values().next())
        .map(|node| node.name.as_str())
}

fn wanted(type_: &'static str, status: Status, reason: &str, message: String) -> Wanted {
    Wanted {
        type_,
        status,
        reason: reason.to_owned(),
        message,
        observed_generation: None,
    }
}

/// `False` while an address that should be announced is not.
fn announced(
    snapshot: &Snapshot,
    service: &Service,
    rows: &[&L2Row],
    unserved: &[&InterfaceView],
    host_arp: Option<&HostArp>,
) -> Option<Wanted> {
    let no = |reason: &str, message: String| {
        Some(wanted(
            names::condition::ANNOUNCED,
            Status::False,
            reason,
            message,
        ))
    };
    if service.vips().is_empty() {
        return None;
    }
    let policies = || {
        let all = snapshot.l2_policies.values();
        all.filter(|p| view::selects(p, service))
    };
    if policies().next().is_none() {
        // Without any policy nobody asked for announcements, e.g. where routes lead to the VIPs.
        if snapshot.l2_policies.is_empty() {
            return None;
        }
        return no(
            "NoPolicy",
            "no CiliumL2AnnouncementPolicy selects this Service".to_owned(),
        );
    }
    let is_wanted = |interface: &&&InterfaceView| policies().any(|p| covers(p, &interface.name));
    if let Some(interface) = unserved.iter().find(is_wanted) {
        let reason = interface.reason.as_deref().unwrap_or("NotAttached");
        let why = interface.problem.as_deref().unwrap_or_default();
        return no(reason, format!("not on {}: {why}", interface.name));
    }
    let silent = rows.iter().find(|row| row.owner.is_none())?;
    if let Some(host_arp) = host_arp {
        return no(host_arp.reason(), host_arp.message());
    }
    let reason = match silent.state.as_str() {
        "Conflict" => "AddressConflict",
        _ => "NoOwner",
    };
    no(reason, format!("{}: {}", silent.vip, silent.why))
}

/// Whether a policy is about an interface: unanchored regular expressions, any of them; none of them are all interfaces.
fn covers(policy: &L2Policy, interface: &str) -> bool {
    let matches = |text: &String| Regex::new(text).is_ok_and(|r| r.is_match(interface));
    policy.interfaces.is_empty() || policy.interfaces.iter().any(matches)
}

/// `True` while a stranger uses an address, also one that this node or a peer owns; kernels that answer by themselves are strangers too.
fn conflict(rows: &[&L2Row], host_arp: Option<&HostArp>) -> Option<Wanted> {
    if let Some(host_arp) = host_arp.filter(|_| !rows.is_empty()) {
        return Some(wanted(
            names::condition::ADDRESS_CONFLICT,
            Status::True,
            host_arp.reason(),
            host_arp.message(),
        ));
    }
    let (row, mac) = rows
        .iter()
        .find_map(|row| Some((row, row.conflict.as_deref()?)))?;
    Some(wanted(
        names::condition::ADDRESS_CONFLICT,
        Status::True,
        "AddressConflict",
        format!(
            "{}: {mac}, which is none of our nodes, answers for it",
            row.vip
        ),
    ))
}

/// `False` while packets are not forwarded as the Service says; the gravest finding gives the reason.
fn forwarding(problems: &[&Problem]) -> Option<Wanted> {
    let gravest = problems
        .iter()
        .find(|p| p.reason.blocks_programming())
        .or_else(|| problems.first())?;
    // The condition's own reason is not repeated in front of each finding.
    let shown = problems.iter().take(N_SHOWN).map(|p| {
        if p.reason == gravest.reason {
            p.message.clone()
        } else {
            format!("{}: {}", p.reason, p.message)
        }
    });
    let mut message: Vec<String> = shown.collect();
    if problems.len() > N_SHOWN {
        message.push(format!("and {} more", problems.len() - N_SHOWN));
    }
    Some(wanted(
        names::condition::FORWARDING,
        Status::False,
        gravest.reason.as_str(),
        message.join("; "),
    ))
}

/// `False` while flows depend on which node owns the address.
fn survival(problems: &[&Problem], is_left_to_kube_proxy: bool) -> Option<Wanted> {
    if is_left_to_kube_proxy {
        return Some(wanted(
            names::condition::FLOWS_SURVIVE,
            Status::False,
            "ForwardedByKubeProxy",
            "kube-proxy forwards, and only the owner's knows its connections: they end when the address moves".to_owned(),
        ));
    }
    let reason = ProblemReason::BackendOffAnnouncingInterface;
    let problem = problems.iter().find(|p| p.reason == reason)?;
    Some(wanted(
        names::condition::FLOWS_SURVIVE,
        Status::False,
        reason.as_str(),
        problem.message.clone(),
    ))
}

/// `True` while a part of the Service cannot be read.
fn invalid(name: &ServiceName, unreadable: &[(ObjectRef, ConvertError)]) -> Option<Wanted> {
    let is_its = |object: &ObjectRef| {
        object.kind == "Service"
            && object.namespace == name.namespace()
            && object.name == name.name()
    };
    let mut errors = unreadable
        .iter()
        .filter(|(object, _)| is_its(object))
        .map(|(_, error)| error);
    let first = errors.next()?;
    let shown = std::iter::once(first).chain(errors).take(N_SHOWN);
    let message: Vec<String> = shown.map(ToString::to_string).collect();
    Some(wanted(
        names::condition::SERVICE_INVALID,
        Status::True,
        first.reason(),
        message.join("; "),
    ))
}

#[cfg(test)]
mod tests;

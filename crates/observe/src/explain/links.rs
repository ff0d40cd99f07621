//! The judgement of each link, in the order of the chain.

use super::{ExplainLink, Facts, LinkState, LocalFacts, PolicyFacts, ServiceFacts};
use crate::{text, timestamp::Timestamp};

fn ok(name: &str, detail: impl Into<String>) -> ExplainLink {
    ExplainLink {
        name: name.to_owned(),
        state: LinkState::Ok,
        detail: detail.into(),
        reason: None,
        remedy: None,
    }
}

fn unknown(name: &str, detail: impl Into<String>) -> ExplainLink {
    ExplainLink {
        state: LinkState::Unknown,
        ..ok(name, detail)
    }
}

fn broken(
    name: &str,
    reason: &str,
    detail: impl Into<String>,
    remedy: impl Into<String>,
) -> ExplainLink {
    ExplainLink {
        state: LinkState::Broken,
        reason: Some(reason.to_owned()),
        remedy: Some(remedy.into()),
        ..ok(name, detail)
    }
}

const BEHIND: [&str; 11] = [
    "class",
    "address",
    "policy",
    "nodes",
    "owner",
    "responder",
    "xdp",
    "frontend",
    "backends",
    "next hops",
    "counters",
];

/// Every link of the chain.
pub(super) fn all(facts: &Facts, now: Timestamp) -> Vec<ExplainLink> {
    let Some(service) = &facts.service else {
        let mut links = vec![broken(
            "service",
            "NotFound",
            format!("{} does not exist", facts.service_name),
            "check namespace and name: kubectl get services -A",
        )];
        links.extend(BEHIND.map(|name| unknown(name, "depends on the Service")));
        return links;
    };
    let mut links = vec![existence(service), class(service), address(facts, service)];
    let selecting: Vec<&PolicyFacts> = facts
        .policies
        .iter()
        .filter(|p| p.selects_service)
        .collect();
    links.push(policy(facts, &selecting));
    links.push(nodes(&selecting));
    links.push(owner(facts, service, now));
    if let Some(local) = &facts.local {
        links.extend(local_links(facts, service, local));
    } else {
        let rest = BEHIND.iter().skip(5);
        links.extend(rest.map(|name| unknown(name, "only the node's agent knows")));
    }
    links
}

fn existence(service: &ServiceFacts) -> ExplainLink {
    if service.type_name == "LoadBalancer" || !service.vips.is_empty() {
        return ok("service", format!("exists, type {}", service.type_name));
    }
    broken(
        "service",
        "NotLoadBalancer",
        format!("exists, but its type is {}", service.type_name),
        "set spec.type to LoadBalancer",
    )
}

fn class(service: &ServiceFacts) -> ExplainLink {
    match (&service.class, service.is_our_class) {
        (None, _) => ok("class", "none set, handled by default"),
        (Some(class), true) => ok("class", class.clone()),
        (Some(class), false) => broken(
            "class",
            "ForeignClass",
            format!("loadBalancerClass {class} belongs to another controller"),
            "remove spec.loadBalancerClass or set io.cilium/l2-announcer",
        ),
    }
}

fn address(facts: &Facts, service: &ServiceFacts) -> ExplainLink {
    if !service.vips.is_empty() {
        let vips: Vec<String> = service.vips.iter().map(ToString::to_string).collect();
        return ok("address", vips.join(", "));
    }
    let no_pools = facts.pools.as_ref().is_some_and(Vec::is_empty);
    if no_pools {
        return broken(
            "address",
            "NoPool",
            "no address: there is no CiliumLoadBalancerIPPool",
            "apply a pool with free addresses",
        );
    }
    let said = service
        .conditions
        .iter()
        .find(|c| c.type_.ends_with("IPAMRequestSatisfied") && c.status == "False");
    match said {
        Some(condition) => broken(
            "address",
            &condition.reason,
            format!("no address: {}", condition.message),
            "see `fairlead ippool list`: a pool must select the Service and have a free address of its family",
        ),
        None => broken(
            "address",
            "NotAllocated",
            "no address, and the operator has said nothing about it",
            "check that the operator runs",
        ),
    }
}

fn policy(facts: &Facts, selecting: &[&PolicyFacts]) -> ExplainLink {
    if let Some(good) = selecting.iter().find(|p| p.problem.is_none()) {
        let others = selecting.len() - 1;
        return match others {
            0 => ok("policy", format!("selected by {}", good.name)),
            _ => ok(
                "policy",
                format!("selected by {} and {others} more", good.name),
            ),
        };
    }
    let bad = facts
        .policies
        .iter()
        .find_map(|p| p.problem.as_ref().map(|why| (p, why)));
    if let Some((policy, why)) = bad {
        return broken(
            "policy",
            "PolicyUnreadable",
            format!("{} cannot be used: {why}", policy.name),
            format!("correct CiliumL2AnnouncementPolicy {}", policy.name),
        );
    }
    let n = facts.policies.len();
    let detail = match n {
        0 => "there is no CiliumL2AnnouncementPolicy".to_owned(),
        1 => "the one CiliumL2AnnouncementPolicy does not select it".to_owned(),
        _ => format!("none of {n} CiliumL2AnnouncementPolicies selects it"),
    };
    broken(
        "policy",
        "NoPolicy",
        detail,
        "apply a policy with loadBalancerIPs: true whose serviceSelector takes the Service's labels",
    )
}

fn nodes(selecting: &[&PolicyFacts]) -> ExplainLink {
    if selecting.is_empty() {
        return unknown("nodes", "depends on the policy");
    }
    let mut names: Vec<&str> = selecting
        .iter()
        .flat_map(|p| &p.nodes)
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return broken(
            "nodes",
            "NoEligibleNode",
            "the policy's nodeSelector takes no node",
            "compare it with `kubectl get nodes --show-labels`",
        );
    }
    ok("nodes", names.join(", "))
}

fn owner(facts: &Facts, service: &ServiceFacts, now: Timestamp) -> ExplainLink {
    if service.vips.is_empty() {
        return unknown("owner", "depends on the address");
    }
    if let Some(row) = facts.l2.iter().find(|row| row.owner.is_none()) {
        let (reason, remedy) = match row.state.as_str() {
            "Conflict" => (
                "AddressConflict",
                "another station on the LAN uses the address: find it by its MAC address, or take the address out of the pool",
            ),
            _ => (
                "NoOwner",
                "see `fairlead status` on the eligible nodes: link, peers, problems",
            ),
        };
        return broken(
            "owner",
            reason,
            format!("nobody owns {}: {}", row.vip, row.why),
            remedy,
        );
    }
    let Some(row) = facts.l2.first() else {
        return broken(
            "owner",
            "NoOwner",
            "no node has claimed the address",
            "see `fairlead status` on the eligible nodes: link, peers, problems",
        );
    };
    let owner = row.owner.as_deref().unwrap_or("none");
    let since = row
        .since
        .map_or_else(String::new, |t| format!(" for {}", text::age(t.until(now))));
    // A node that does not own it knows only that another claims it.
    let why = match row.why.as_str() {
        why if row.is_self && !why.is_empty() => format!(": {why}"),
        _ => String::new(),
    };
    ok("owner", format!("{owner}{since}{why}"))
}

fn local_links(facts: &Facts, service: &ServiceFacts, local: &LocalFacts) -> Vec<ExplainLink> {
    let mut links = vec![responder(facts, local), xdp(facts, local)];
    if !local.is_forwarding {
        links.push(ok(
            "frontend",
            "forwarding is left to kube-proxy on this node",
        ));
        links.push(slices(service));
        return links;
    }
    links.push(frontend(service, local));
    links.push(backends(local));
    links.push(next_hops(local));
    links.push(counters(facts, local));
    links
}

fn responder(facts: &Facts, local: &LocalFacts) -> ExplainLink {
    let own: Vec<_> = facts.l2.iter().filter(|row| row.is_self).collect();
    if own.is_empty() {
        return match facts.l2.first().and_then(|row| row.owner.as_deref()) {
            Some(owner) => ok(
                "responder",
                format!("{owner} answers, not this node: ask its agent"),
            ),
            None => unknown("responder", "depends on the owner"),
        };
    }
    match own.iter().find(|row| !local.answering.contains(&row.vip)) {
        None => ok(
            "responder",
            "this node's kernel answers ARP and neighbour solicitations",
        ),
        Some(row) => broken(
            "responder",
            "ResponderExpired",
            format!(
                "this node owns {} but its kernel does not answer for it",
                row.vip
            ),
            "restart the agent on this node and read its log",
        ),
    }
}

fn xdp(facts: &Facts, local: &LocalFacts) -> ExplainLink {
    let named: Vec<&str> = facts
        .l2
        .iter()
        .filter_map(|row| row.interface.as_deref())
        .collect();
    let concerned = local
        .interfaces
        .iter()
        .filter(|i| named.is_empty() || named.contains(&i.name.as_str()));
    let mut seen = Vec::new();
    for interface in concerned {
        if interface.xdp == "none" || interface.xdp.is_empty() {
            let why = interface
                .problem
                .as_deref()
                .unwrap_or("no program is attached");
            return broken(
                "xdp",
                interface.reason.as_deref().unwrap_or("NotAttached"),
                format!("{}: {why}", interface.name),
                format!(
                    "`ip link show {}` says which program holds the hook",
                    interface.name
                ),
            );
        }
        if !interface.is_up {
            return broken(
                "xdp",
                "LinkDown",
                format!("{} has no carrier", interface.name),
                "check cable, switch port and `ip link`",
            );
        }
        seen.push(format!("{} ({})", interface.name, interface.xdp));
    }
    if seen.is_empty() {
        return broken(
            "xdp",
            "NoInterface",
            "the agent works on no interface",
            "name one with --interface",
        );
    }
    ok("xdp", format!("attached to {}", seen.join(", ")))
}

fn frontend(service: &ServiceFacts, local: &LocalFacts) -> ExplainLink {
    if let Some(missing) = local.frontends.iter().find(|f| !f.is_programmed) {
        return broken(
            "frontend",
            "NotProgrammed",
            format!("{} is not in the kernel's tables", missing.frontend),
            "see the Service's conditions and the agent's log",
        );
    }
    if local.frontends.is_empty() {
        if service.vips.is_empty() {
            return unknown("frontend", "depends on the address");
        }
        return broken(
            "frontend",
            "NotProgrammed",
            "the load balancer knows no frontend of it",
            "check that the Service has TCP or UDP ports",
        );
    }
    let names: Vec<&str> = local
        .frontends
        .iter()
        .map(|f| f.frontend.as_str())
        .collect();
    let mode = local.frontends.first().map_or("", |f| f.mode.as_str());
    ok("frontend", format!("{}, {mode}", names.join(", ")))
}

fn slices(service: &ServiceFacts) -> ExplainLink {
    let (active, all) = service.n_backends;
    if active > 0 {
        return ok("backends", format!("{active} of {all} ready"));
    }
    no_backend(all)
}

fn no_backend(all: usize) -> ExplainLink {
    match all {
        0 => broken(
            "backends",
            "NoBackend",
            "the Service has no backend",
            "check that an EndpointSlice with the label kubernetes.io/service-name and matching port names exists",
        ),
        _ => broken(
            "backends",
            "NoReadyBackend",
            format!("none of {all} backends is ready"),
            "look at the backends' own health: conditions.ready in the EndpointSlice",
        ),
    }
}

fn backends(local: &LocalFacts) -> ExplainLink {
    if local.frontends.is_empty() {
        return unknown("backends", "depends on the frontend");
    }
    let empty = local
        .frontends
        .iter()
        .find(|f| !f.backends.iter().any(|b| b.state == "Active"));
    if let Some(frontend) = empty {
        let mut link = no_backend(frontend.backends.len());
        link.detail = format!("{}: {}", frontend.frontend, link.detail);
        return link;
    }
    let count = |f: &crate::FrontendView| f.backends.iter().filter(|b| b.state == "Active").count();
    let active = local.frontends.iter().map(count).min().unwrap_or(0);
    let all = local
        .frontends
        .iter()
        .map(|f| f.backends.len())
        .max()
        .unwrap_or(0);
    ok("backends", format!("{active} of {all} ready"))
}

fn next_hops(local: &LocalFacts) -> ExplainLink {
    let active = || {
        local
            .frontends
            .iter()
            .flat_map(|f| &f.backends)
            .filter(|b| b.state == "Active")
    };
    if active().next().is_none() {
        return unknown("next hops", "depends on the backends");
    }
    let lost: Vec<_> = active()
        .filter(|b| b.next_hop.is_none() || b.problem.is_some())
        .collect();
    let Some(backend) = lost.first() else {
        return ok("next hops", "every ready backend has one");
    };
    let why = backend
        .problem
        .as_deref()
        .unwrap_or("its MAC address is not known");
    let detail = match lost.len() {
        1 => format!("{}: {why}", backend.addr),
        n => format!("{} and {} more: {why}", backend.addr, n - 1),
    };
    broken(
        "next hops",
        "NoNextHop",
        detail,
        format!(
            "`ip neigh show {0}` and `ip route get {0}` on the node",
            backend.addr
        ),
    )
}

fn counters(facts: &Facts, local: &LocalFacts) -> ExplainLink {
    if local.frontends.is_empty() {
        return unknown("counters", "depends on the frontend");
    }
    let packets: u64 = local.frontends.iter().map(|f| f.packets).sum();
    let is_owner = facts.l2.iter().any(|row| row.is_self);
    let detail = match packets {
        0 if is_owner => "no packet has arrived yet".to_owned(),
        0 => "no packet here, as it should be: another node owns the address".to_owned(),
        _ => format!("{} packets forwarded", text::grouped(packets)),
    };
    ok("counters", detail)
}

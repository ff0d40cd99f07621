use std::collections::{BTreeMap, BTreeSet};

use fairlead_model::{
    Backend, BackendState, ForwardingMode, Generation, L2Policy, Labels, LoadBalancerClass, Node,
    NodeName, Preference, Requirement, Selector, Service, ServiceName, Snapshot, TrafficPolicy,
};

use super::{Gate, Plan, Programmed, plan};
use crate::ownership::order::NodeId;

fn node(name: &str, labels: &[(&str, &str)]) -> Node {
    Node {
        name: NodeName::new(name).unwrap(),
        labels: labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        addresses: Vec::new(),
        is_excluded: false,
        is_repelling: false,
    }
}

fn service(name: &str, vips: &[&str]) -> Service {
    Service {
        name: ServiceName::new("shop", name).unwrap(),
        labels: Labels::new(),
        is_load_balancer: true,
        class: LoadBalancerClass::Unset,
        load_balancer_ips: vips.iter().map(|v| v.parse().unwrap()).collect(),
        external_ips: Vec::new(),
        ports: Vec::new(),
        backends: BTreeMap::new(),
        external_traffic_policy: TrafficPolicy::Cluster,
        forwarding: ForwardingMode::Auto,
        table_size: None,
        source_ranges: None,
        session_affinity: false,
    }
}

fn policy(name: &str) -> L2Policy {
    L2Policy {
        name: name.to_owned(),
        node_selector: Ok(Selector::default()),
        service_selector: Ok(Selector::default()),
        interfaces: Vec::new(),
        preferred: Ok(Vec::new()),
        load_balancer_ips: true,
        external_ips: false,
    }
}

fn snapshot(services: Vec<Service>, policies: Vec<L2Policy>, nodes: Vec<Node>) -> Snapshot {
    Snapshot {
        generation: Generation(1),
        services: services.into_iter().map(|s| (s.name.clone(), s)).collect(),
        l2_policies: policies.into_iter().map(|p| (p.name.clone(), p)).collect(),
        nodes: nodes.into_iter().map(|n| (n.name.clone(), n)).collect(),
    }
}

fn run(snapshot: &Snapshot) -> Plan {
    let me = NodeName::new("a").unwrap();
    let interfaces = ["eth0".to_owned(), "wan1".to_owned()];
    plan(snapshot, &me, &interfaces, |_| true, &BTreeMap::new())
}

fn id(name: &str) -> NodeId {
    NodeId::of(&NodeName::new(name).unwrap())
}

#[test]
fn without_a_policy_nothing_is_announced() {
    let all = run(&snapshot(
        vec![service("web", &["192.0.2.1"])],
        vec![],
        vec![node("a", &[])],
    ));
    assert!(all.wanted.values().all(|w| w.groups.is_empty()));
}

#[test]
fn an_expression_is_found_anywhere_in_the_name() {
    let policies = vec![L2Policy {
        interfaces: vec!["th".into(), "^wan$".into()],
        ..policy("p")
    }];
    let all = run(&snapshot(
        vec![service("web", &["192.0.2.1"])],
        policies,
        vec![node("a", &[])],
    ));
    assert_eq!(all.wanted["eth0"].groups.len(), 1);
    assert_eq!(all.wanted["wan1"].groups.len(), 0);
    assert_eq!(all.policies["p"].interfaces, ["eth0"]);
}

#[test]
fn only_addresses_of_the_enabled_kinds_are_announced() {
    let mut web = service("web", &["192.0.2.1"]);
    web.external_ips = vec!["203.0.113.7".parse().unwrap()];
    let kinds = |load_balancer_ips, external_ips| {
        let policies = vec![L2Policy {
            load_balancer_ips,
            external_ips,
            ..policy("p")
        }];
        let all = run(&snapshot(vec![web.clone()], policies, vec![node("a", &[])]));
        all.wanted["eth0"]
            .services
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(true, false), ["192.0.2.1"]);
    assert_eq!(kinds(false, true), ["203.0.113.7"]);
    assert_eq!(kinds(true, true), ["192.0.2.1", "203.0.113.7"]);
    assert!(kinds(false, false).is_empty());
}

#[test]
fn a_foreign_class_is_left_alone_even_for_external_addresses() {
    let mut web = service("web", &["192.0.2.1"]);
    web.class = LoadBalancerClass::Other("example.com/lb".into());
    let mut ours = service("ours", &["192.0.2.2"]);
    ours.class = LoadBalancerClass::L2Announcer;
    let all = run(&snapshot(
        vec![web, ours],
        vec![policy("p")],
        vec![node("a", &[])],
    ));
    assert_eq!(all.wanted["eth0"].services.len(), 1);
    assert_eq!(all.policies["p"].n_services, 1);
}

#[test]
fn nodes_that_a_policy_selects_may_own() {
    let equals: Labels = [("role".to_owned(), "edge".to_owned())].into();
    let policies = vec![L2Policy {
        node_selector: Ok(Selector::new(equals, Vec::new())),
        ..policy("p")
    }];
    let nodes = vec![
        node("a", &[("role", "edge")]),
        node("b", &[]),
        node("c", &[("role", "edge")]),
    ];
    let all = run(&snapshot(
        vec![service("web", &["192.0.2.1"])],
        policies,
        nodes,
    ));
    let eligible: BTreeSet<NodeId> = all.wanted["eth0"].groups[0]
        .eligible
        .iter()
        .copied()
        .collect();
    assert_eq!(eligible, [id("a"), id("c")].into());
}

#[test]
fn a_service_with_local_traffic_goes_where_its_ready_backends_are() {
    let mut web = service("web", &["192.0.2.1"]);
    web.external_traffic_policy = TrafficPolicy::Local;
    let backend = |node: &str, state| Backend {
        addr: "10.0.0.1".parse().unwrap(),
        port: 80,
        state,
        node: NodeName::new(node).ok(),
    };
    web.backends = [(
        String::new(),
        vec![
            backend("b", BackendState::Active),
            backend("c", BackendState::NotReady),
        ],
    )]
    .into();
    let nodes = vec![node("a", &[]), node("b", &[]), node("c", &[])];
    let all = run(&snapshot(vec![web], vec![policy("p")], nodes));
    assert_eq!(all.wanted["eth0"].groups[0].eligible, [id("b")]);
}

#[test]
fn an_excluded_node_owns_only_what_no_other_may() {
    let mut cordoned = node("a", &[]);
    cordoned.is_excluded = true;
    let services = || vec![service("web", &["192.0.2.1"])];
    let alone = run(&snapshot(
        services(),
        vec![policy("p")],
        vec![cordoned.clone()],
    ));
    assert_eq!(alone.wanted["eth0"].groups[0].eligible, [id("a")]);
    let both = run(&snapshot(
        services(),
        vec![policy("p")],
        vec![cordoned, node("b", &[])],
    ));
    assert_eq!(both.wanted["eth0"].groups[0].eligible, [id("b")]);
}

#[test]
fn a_tainted_node_owns_before_an_excluded_one_and_after_the_others() {
    let with = |name: &str, is_excluded: bool, is_repelling: bool| Node {
        is_excluded,
        is_repelling,
        ..node(name, &[])
    };
    let eligible = |nodes: Vec<Node>| {
        let services = vec![service("web", &["192.0.2.1"])];
        let all = run(&snapshot(services, vec![policy("p")], nodes));
        all.wanted["eth0"].groups[0].eligible.clone()
    };
    let (cordoned, tainted) = (with("a", true, false), with("b", false, true));
    let all = vec![cordoned.clone(), tainted.clone(), with("c", false, false)];
    assert_eq!(eligible(all), [id("c")]);
    assert_eq!(eligible(vec![cordoned, tainted]), [id("b")]);
    // Nodes dedicated by a taint share as if there was none, and one of them can be cordoned.
    let dedicated = |is_cordoned| vec![with("a", is_cordoned, true), with("b", false, true)];
    assert_eq!(eligible(dedicated(false)).len(), 2);
    assert_eq!(eligible(dedicated(true)), [id("b")]);
}

#[test]
fn weights_of_all_policies_that_select_a_service_add_up() {
    let edge = Selector::new([("role".to_owned(), "edge".to_owned())].into(), Vec::new());
    let prefer = |name: &str, weight: u32| L2Policy {
        preferred: Ok(vec![Preference {
            nodes: edge.clone(),
            weight,
        }]),
        ..policy(name)
    };
    let bad = L2Policy {
        preferred: Err("fairlead.io/prefer-nodes: `x`".into()),
        ..policy("bad")
    };
    let nodes = vec![node("a", &[]), node("b", &[("role", "edge")])];
    let policies = vec![prefer("p", 30), prefer("q", 5), bad];
    let all = run(&snapshot(
        vec![service("web", &["192.0.2.1"])],
        policies,
        nodes,
    ));
    let group = &all.wanted["eth0"].groups[0];
    assert_eq!(group.weights, [(id("b"), 35)]);
    assert_eq!(group.eligible.len(), 2, "others may own it too");
    assert!(all.policies["bad"].bad_preference.is_some());
}

#[test]
fn a_policy_that_cannot_be_read_announces_nothing_and_says_what_is_wrong() {
    let bad = |change: fn(&mut L2Policy)| {
        let mut p = policy("p");
        change(&mut p);
        let all = run(&snapshot(
            vec![service("web", &["192.0.2.1"])],
            vec![p],
            vec![node("a", &[])],
        ));
        assert!(all.wanted["eth0"].groups.is_empty());
        all.policies["p"].clone()
    };
    let verdict = bad(|p| p.interfaces = vec!["eth(".into()]);
    let message = verdict.bad_interface_regex.unwrap();
    assert!(
        message.starts_with("spec.interfaces[0]: `eth(`"),
        "{message}"
    );
    let verdict = bad(|p| p.node_selector = Err("spec.nodeSelector: broken".into()));
    assert_eq!(
        verdict.idle_because().as_deref(),
        Some("spec.nodeSelector: broken")
    );
    let verdict = bad(|p| p.service_selector = Err("spec.serviceSelector: broken".into()));
    assert!(verdict.bad_service_selector.is_some());
}

#[test]
fn what_matches_nothing_is_said() {
    let nothing = Selector::new(
        Labels::new(),
        vec![Requirement::new("role", "Exists", &[]).unwrap()],
    );
    let services = || vec![service("web", &["192.0.2.1"])];
    let why = |change: &dyn Fn(&mut L2Policy)| {
        let mut p = policy("p");
        change(&mut p);
        let all = run(&snapshot(services(), vec![p], vec![node("a", &[])]));
        all.policies["p"].idle_because()
    };
    assert_eq!(why(&|_| {}), None);
    let node_selector = why(&|p| p.node_selector = Ok(nothing.clone())).unwrap();
    assert!(node_selector.contains("nodeSelector"));
    let service_selector = why(&|p| p.service_selector = Ok(nothing.clone())).unwrap();
    assert!(service_selector.contains("serviceSelector"));
    let interfaces = why(&|p| p.interfaces = vec!["bond".into()]).unwrap();
    assert!(interfaces.contains("interfaces"));
    let kinds = why(&|p| p.load_balancer_ips = false).unwrap();
    assert!(kinds.contains("loadBalancerIPs"));
}

#[test]
fn the_gate_waits_for_the_generation_in_which_an_address_appeared() {
    let vip = "192.0.2.1".parse().unwrap();
    let mut gate = Gate::default();
    let at = |generation| Snapshot {
        generation: Generation(generation),
        ..snapshot(vec![service("web", &["192.0.2.1"])], vec![], vec![])
    };
    let programmed = |generation| Programmed {
        generation: Generation(generation),
        refused: BTreeSet::new(),
    };
    gate.note(&at(5));
    gate.note(&at(6));
    assert!(!gate.is_open(vip, &programmed(4)));
    assert!(gate.is_open(vip, &programmed(5)));
    let refused = Programmed {
        refused: [vip].into(),
        ..programmed(9)
    };
    assert!(!gate.is_open(vip, &refused));
    // Gone and back: it counts anew.
    gate.note(&snapshot(vec![], vec![], vec![]));
    gate.note(&at(8));
    assert!(!gate.is_open(vip, &programmed(7)));
}

use std::collections::BTreeMap;

use fairlead_api::condition::Status;
use fairlead_model::{
    ForwardingMode, Generation, L2Policy, Labels, LoadBalancerClass, Node, NodeName, Selector,
    Service, ServiceName, Snapshot, TrafficPolicy,
};
use fairlead_observe::L2Row;
use fairlead_xdp_lb::problem::{Problem, ProblemReason};

use super::spoken;

fn name() -> ServiceName {
    ServiceName::new("shop", "web").unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn snapshot() -> Snapshot {
    let service = Service {
        name: name(),
        labels: Labels::new(),
        is_load_balancer: true,
        class: LoadBalancerClass::Unset,
        load_balancer_ips: vec!["192.0.2.1".parse().unwrap()],
        external_ips: Vec::new(),
        ports: Vec::new(),
        backends: BTreeMap::new(),
        external_traffic_policy: TrafficPolicy::Cluster,
        forwarding: ForwardingMode::Auto,
        table_size: None,
        source_ranges: None,
        session_affinity: false,
    };
    let policy = L2Policy {
        name: "lan".into(),
        node_selector: Ok(Selector::default()),
        service_selector: Ok(Selector::default()),
        interfaces: Vec::new(),
        load_balancer_ips: true,
        external_ips: false,
    };
    let nodes = ["lb1", "lb2"].map(|text| {
        let node = Node {
            name: node(text),
            labels: Labels::new(),
            addresses: Vec::new(),
            is_excluded: false,
        };
        (node.name.clone(), node)
    });
    Snapshot {
        generation: Generation(1),
        services: [(name(), service)].into(),
        l2_policies: [("lan".to_owned(), policy)].into(),
        nodes: nodes.into(),
    }
}

fn row(owner: Option<&str>, state: &str) -> L2Row {
    L2Row {
        vip: "192.0.2.1".parse().unwrap(),
        service: "shop/web".into(),
        owner: owner.map(str::to_owned),
        is_self: false,
        interface: None,
        since: None,
        epoch: 1,
        state: state.into(),
        why: "02:00:00:00:00:09 answers".into(),
        conflict: None,
    }
}

fn problem(reason: ProblemReason) -> Problem {
    Problem {
        service: name(),
        reason,
        frontend: None,
        backend: None,
        message: "so it is".into(),
    }
}

#[test]
fn one_node_speaks_and_a_service_that_is_well_gets_no_condition() {
    let snapshot = snapshot();
    let rows = [row(Some("lb2"), "Owner")];
    assert!(spoken(&node("lb1"), &snapshot, &rows, &[]).is_empty());
    let said = spoken(&node("lb2"), &snapshot, &rows, &[]);
    assert_eq!(said, [(name(), Vec::new())].into());
    let nobody = [row(None, "Unowned")];
    assert!(spoken(&node("lb2"), &snapshot, &nobody, &[]).is_empty());
    let said = spoken(&node("lb1"), &snapshot, &nobody, &[]);
    assert_eq!(said[&name()][0].reason, "NoOwner");
}

#[test]
fn a_conflict_is_said_twice_once_for_people_and_once_for_what_it_stops() {
    let said = spoken(&node("lb1"), &snapshot(), &[row(None, "Conflict")], &[]);
    let said: Vec<_> = said[&name()]
        .iter()
        .map(|w| (w.type_, w.status, w.reason.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("fairlead.io/Announced", Status::False, "AddressConflict"),
            (
                "fairlead.io/AddressConflict",
                Status::True,
                "AddressConflict"
            ),
        ]
    );
}

#[test]
fn the_gravest_finding_gives_the_reason_and_messages_are_bounded() {
    let mut problems = vec![problem(ProblemReason::NextHopUnresolved); 4];
    problems.push(problem(ProblemReason::MaglevFull));
    let rows = [row(Some("lb1"), "Owner")];
    let said = spoken(&node("lb1"), &snapshot(), &rows, &problems);
    let condition = &said[&name()][0];
    assert_eq!(condition.reason, "MaglevFull");
    assert!(
        condition
            .message
            .starts_with("NextHopUnresolved: so it is; ")
    );
    assert!(
        condition.message.ends_with("; and 2 more"),
        "{}",
        condition.message
    );
}

#[test]
fn a_service_that_no_policy_selects_says_so() {
    let mut snapshot = snapshot();
    snapshot
        .l2_policies
        .get_mut("lan")
        .unwrap()
        .load_balancer_ips = false;
    let said = spoken(&node("lb1"), &snapshot, &[], &[]);
    assert_eq!(said[&name()][0].reason, "NoPolicy");
    snapshot.l2_policies.clear();
    let said = spoken(&node("lb1"), &snapshot, &[], &[]);
    assert!(said[&name()].is_empty(), "nobody asked for announcements");
}

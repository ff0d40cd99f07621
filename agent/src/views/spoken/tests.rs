use std::collections::BTreeMap;

use fairlead_api::{condition::Status, convert::ConvertError, names, watch::ObjectRef};
use fairlead_model::{
    ForwardingMode, Generation, L2Policy, Labels, LoadBalancerClass, Node, NodeName, Selector,
    Service, ServiceName, Snapshot, TrafficPolicy,
};
use fairlead_observe::{InterfaceView, L2Row};
use fairlead_xdp_lb::problem::{Problem, ProblemReason};

use super::{Found, Wanted, spoken};
use crate::host_arp::HostArp;

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
        preferred: Ok(Vec::new()),
        load_balancer_ips: true,
        external_ips: false,
    };
    let nodes = ["lb1", "lb2"].map(|text| {
        let node = Node {
            name: node(text),
            labels: Labels::new(),
            addresses: Vec::new(),
            is_excluded: false,
            is_repelling: false,
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

fn said_by(
    who: &str,
    snapshot: &Snapshot,
    rows: &[L2Row],
    problems: &[Problem],
) -> BTreeMap<ServiceName, Vec<Wanted>> {
    spoken(&node(who), snapshot, &Found::new(rows, problems, &[], &[]))
}

#[test]
fn an_interface_whose_hook_is_busy_is_said_where_a_policy_names_it() {
    let mut snapshot = snapshot();
    let interfaces = [InterfaceView {
        name: "lan1".into(),
        ifindex: 3,
        mac: None,
        is_up: true,
        xdp: "none".into(),
        problem: Some("someone else's program".into()),
        reason: Some("XdpDeviceBusy".into()),
    }];
    let rows = [row(Some("lb1"), "Owner")];
    let found = Found::new(&rows, &[], &interfaces, &[]);
    let said = spoken(&node("lb1"), &snapshot, &found);
    let condition = &said[&name()][0];
    assert_eq!(
        (
            condition.type_,
            condition.status,
            condition.reason.as_str(),
            condition.message.as_str()
        ),
        (
            "fairlead.io/Announced",
            Status::False,
            "XdpDeviceBusy",
            "not on lan1: someone else's program"
        )
    );
    let policy = snapshot.l2_policies.get_mut("lan").unwrap();
    policy.interfaces = vec!["^lan0$".into()];
    assert!(spoken(&node("lb1"), &snapshot, &found)[&name()].is_empty());
}

#[test]
fn one_node_speaks_and_a_service_that_is_well_gets_no_condition() {
    let snapshot = snapshot();
    let rows = [row(Some("lb2"), "Owner")];
    assert!(said_by("lb1", &snapshot, &rows, &[]).is_empty());
    let said = said_by("lb2", &snapshot, &rows, &[]);
    assert_eq!(said, [(name(), Vec::new())].into());
    let nobody = [row(None, "Unowned")];
    assert!(said_by("lb2", &snapshot, &nobody, &[]).is_empty());
    let said = said_by("lb1", &snapshot, &nobody, &[]);
    assert_eq!(said[&name()][0].reason, "NoOwner");
}

#[test]
fn what_cannot_be_read_and_what_does_not_survive_are_conditions_of_their_own() {
    let rows = [row(Some("lb1"), "Owner")];
    let problems = [problem(ProblemReason::BackendOffAnnouncingInterface)];
    let about = |name: &str| ObjectRef {
        kind: "Service",
        namespace: "shop".into(),
        name: name.into(),
    };
    let error = ConvertError {
        field: "spec.ports[0]".into(),
        problem: fairlead_api::convert::Problem::Port(0),
    };
    let unreadable = [
        (about("other"), error.clone()),
        (about("web"), error.clone()),
    ];
    let found = Found::new(&rows, &problems, &[], &unreadable);
    let said = spoken(&node("lb1"), &snapshot(), &found);
    let said: Vec<_> = said[&name()]
        .iter()
        .map(|w| (w.type_, w.status, w.reason.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            (
                "fairlead.io/Forwarding",
                Status::False,
                "BackendOffAnnouncingInterface"
            ),
            (
                "fairlead.io/FlowsSurvive",
                Status::False,
                "BackendOffAnnouncingInterface"
            ),
            ("fairlead.io/ServiceInvalid", Status::True, error.reason()),
        ]
    );
}

fn in_conflict(row: L2Row) -> L2Row {
    L2Row {
        conflict: Some("02:00:00:00:00:09".into()),
        ..row
    }
}

#[test]
fn a_stranger_beside_the_owner_is_said_with_its_address() {
    let rows = [in_conflict(row(Some("lb1"), "Owner"))];
    let said = said_by("lb1", &snapshot(), &rows, &[]);
    let [condition] = &said[&name()][..] else {
        panic!("{said:?}")
    };
    assert_eq!(
        (condition.type_, condition.status),
        ("fairlead.io/AddressConflict", Status::True)
    );
    assert!(
        condition.message.contains("02:00:00:00:00:09"),
        "{}",
        condition.message
    );
}

#[test]
fn a_conflict_is_said_twice_once_for_people_and_once_for_what_it_stops() {
    let rows = [in_conflict(row(None, "Conflict"))];
    let said = said_by("lb1", &snapshot(), &rows, &[]);
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
    let said = said_by("lb1", &snapshot(), &rows, &problems);
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
    let said = said_by("lb1", &snapshot, &[], &[]);
    assert_eq!(said[&name()][0].reason, "NoPolicy");
    snapshot.l2_policies.clear();
    let said = said_by("lb1", &snapshot, &[], &[]);
    assert!(said[&name()].is_empty(), "nobody asked for announcements");
}

#[test]
fn beside_another_cni_what_its_kube_proxy_does_is_said() {
    let snapshot = snapshot();
    let host_arp = [HostArp {
        vip: "192.0.2.1".parse().unwrap(),
        holder: "kube-ipvs0".into(),
        lan: "lan0".into(),
    }];
    let said = |owner: Option<&str>, host_arp: &[HostArp], is_left: bool| {
        let rows = [row(
            owner,
            if owner.is_some() { "Owner" } else { "Unowned" },
        )];
        let found = Found::new(&rows, &[], &[], &[]).beside(host_arp, is_left);
        let judged = found.judge(&snapshot, &snapshot.services[&name()]);
        let said = judged.into_iter().map(|w| (w.type_, w.status, w.reason));
        said.collect::<Vec<_>>()
    };
    let kube_proxy = "KubeProxyAnswersArp".to_owned();
    assert_eq!(
        said(None, &host_arp, false),
        [
            (
                names::condition::ANNOUNCED,
                Status::False,
                kube_proxy.clone()
            ),
            (
                names::condition::ADDRESS_CONFLICT,
                Status::True,
                kube_proxy.clone()
            ),
        ]
    );
    assert_eq!(
        said(Some("lb1"), &host_arp, true),
        [
            (names::condition::ADDRESS_CONFLICT, Status::True, kube_proxy),
            (
                names::condition::FLOWS_SURVIVE,
                Status::False,
                "ForwardedByKubeProxy".to_owned()
            ),
        ]
    );
    assert_eq!(said(Some("lb1"), &[], false), []);
}

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fairlead_abi::lb::mode;
use fairlead_model::{
    Backend, BackendState, ForwardingMode, Labels, LoadBalancerClass, MacAddr, Protocol, Service,
    ServiceName, ServicePort, TrafficPolicy,
};

use super::{Context, Desired, DesiredService, service};
use crate::{
    network::{Hop, HopFailure, Interface, InterfaceConfig, Network},
    problem::ProblemReason,
};

const LAN: u32 = 3;
const STORAGE: u32 = 4;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn backend(addr: &str, port: u16, state: BackendState) -> Backend {
    Backend {
        addr: ip(addr),
        port,
        state,
        node: None,
    }
}

fn web(forwarding: ForwardingMode, backends: Vec<Backend>) -> Service {
    Service {
        name: ServiceName::new("shop", "web").unwrap(),
        labels: Labels::new(),
        is_load_balancer: true,
        class: LoadBalancerClass::Unset,
        load_balancer_ips: vec![ip("192.0.2.10")],
        external_ips: vec![],
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 0,
        }],
        backends: BTreeMap::from([("http".to_owned(), backends)]),
        external_traffic_policy: TrafficPolicy::Cluster,
        forwarding,
        table_size: None,
        source_ranges: None,
        session_affinity: false,
    }
}

fn interface(index: u32, name: &str, addr4: Option<&str>) -> Interface {
    Interface {
        index,
        name: name.into(),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        addr4: addr4.map(|a| a.parse().unwrap()),
        addr6: None,
        is_veth: false,
    }
}

fn resolved(ifindex: u32, is_on_link: bool) -> Hop {
    Hop::Resolved {
        ifindex,
        mac: MacAddr([2, 0, 0, 0, 1, 1]),
        is_on_link,
    }
}

fn network(hops: &[(&str, Hop)]) -> Network {
    Network {
        interfaces: BTreeMap::from([
            (LAN, interface(LAN, "eth0", Some("192.0.2.1"))),
            (STORAGE, interface(STORAGE, "eth1", None)),
        ]),
        hops: hops.iter().map(|(addr, hop)| (ip(addr), *hop)).collect(),
        has_node_ports: true,
        unanswered_vips: BTreeSet::new(),
    }
}

fn configured() -> Vec<InterfaceConfig> {
    vec![InterfaceConfig {
        name: "eth0".into(),
        forward: true,
        announce: true,
    }]
}

fn meet(wish: &Service, network: &Network) -> DesiredService {
    meet_on(&configured(), wish, network)
}

fn meet_on(interfaces: &[InterfaceConfig], wish: &Service, network: &Network) -> DesiredService {
    let refused = BTreeSet::new();
    service(
        wish,
        &Context {
            network,
            interfaces,
            refused: &refused,
            pass_to_host: false,
        },
    )
}

fn reasons(found: &DesiredService) -> Vec<ProblemReason> {
    found.problems.iter().map(|p| p.reason).collect()
}

fn addresses(found: &DesiredService) -> Vec<(String, bool)> {
    let backends = found.frontends[0].1.backends.iter();
    backends
        .map(|b| (b.identity.to_string(), b.accepts_new))
        .collect()
}

#[test]
fn a_plain_server_gets_translation_and_no_complaint() {
    use BackendState::Active;
    let net = network(&[("192.0.2.5", resolved(LAN, true))]);
    let found = meet(
        &web(
            ForwardingMode::Auto,
            vec![backend("192.0.2.5", 8080, Active)],
        ),
        &net,
    );
    assert_eq!(found.problems, []);
    let (_, frontend) = &found.frontends[0];
    assert_eq!((frontend.mode, frontend.table_size), (mode::SNAT, 251));
    let hop = frontend.backends[0].hop.unwrap();
    assert_eq!((u32::from(hop.iface), hop.source4), (LAN, [192, 0, 2, 1]));
}

#[test]
fn direct_return_cannot_change_the_port() {
    use BackendState::Active;
    let net = network(&[
        ("192.0.2.5", resolved(LAN, true)),
        ("192.0.2.6", resolved(LAN, true)),
    ]);
    for mode in [ForwardingMode::DsrL2, ForwardingMode::DsrIpip] {
        let backends = vec![
            backend("192.0.2.5", 8080, Active),
            backend("192.0.2.6", 80, Active),
        ];
        let found = meet(&web(mode, backends), &net);
        assert_eq!(reasons(&found), [ProblemReason::TargetPortMismatch]);
        assert!(
            found.problems[0]
                .message
                .contains("192.0.2.5:8080 must listen on 80")
        );
        assert_eq!(addresses(&found), [("192.0.2.6:80".to_owned(), true)]);
    }
}

#[test]
fn layer_two_needs_the_link_and_encapsulation_a_source() {
    use BackendState::Active;
    let net = network(&[
        ("203.0.113.5", resolved(LAN, false)),
        ("203.0.113.6", resolved(STORAGE, true)),
    ]);
    let both = vec![
        backend("203.0.113.5", 80, Active),
        backend("203.0.113.6", 80, Active),
    ];
    let found = meet(&web(ForwardingMode::DsrL2, both.clone()), &net);
    assert_eq!(reasons(&found), [ProblemReason::BackendOffLink]);
    assert_eq!(addresses(&found), [("203.0.113.6:80".to_owned(), true)]);
    let found = meet(&web(ForwardingMode::DsrIpip, both), &net);
    assert_eq!(reasons(&found), [ProblemReason::NoSourceAddress]);
    assert_eq!(addresses(&found), [("203.0.113.5:80".to_owned(), true)]);
}

#[test]
fn translation_away_from_the_announcing_interface_is_said_and_done() {
    use BackendState::Active;
    let net = network(&[("203.0.113.6", resolved(STORAGE, true))]);
    let found = meet(
        &web(
            ForwardingMode::Snat,
            vec![backend("203.0.113.6", 80, Active)],
        ),
        &net,
    );
    assert_eq!(
        reasons(&found),
        [ProblemReason::BackendOffAnnouncingInterface]
    );
    assert!(
        found.problems[0].message.contains("eth1"),
        "{}",
        found.problems[0]
    );
    assert_eq!(addresses(&found).len(), 1);
}

#[test]
fn a_backend_where_nothing_is_announced_sees_the_node_if_it_can() {
    let only_forwarding = InterfaceConfig {
        name: "eth1".into(),
        forward: true,
        announce: false,
    };
    let both = [configured(), vec![only_forwarding]].concat();
    let on_storage = |addr4| {
        let mut net = network(&[("203.0.113.6", resolved(STORAGE, true))]);
        net.interfaces
            .insert(STORAGE, interface(STORAGE, "eth1", addr4));
        net
    };
    let with_address = on_storage(Some("203.0.113.1"));
    let without_ports = Network {
        has_node_ports: false,
        ..with_address.clone()
    };
    let mapped = network(&[("203.0.113.6", resolved(LAN, true))]);
    for (interfaces, net, sees_node, says) in [
        (&both, &with_address, true, Some("moves to another node")),
        (
            &both,
            &without_ports,
            false,
            Some("ip_local_reserved_ports=61000-65535"),
        ),
        (
            &both,
            &on_storage(None),
            false,
            Some("give eth1 an address"),
        ),
        (
            &configured(),
            &with_address,
            false,
            Some("add eth1 to this node's devices"),
        ),
        // Where it is announced there is nothing to say.
        (&both, &mapped, false, None),
    ] {
        for forwarding in [ForwardingMode::Snat, ForwardingMode::DsrL2] {
            let wish = web(
                forwarding,
                vec![backend("203.0.113.6", 80, BackendState::Active)],
            );
            let found = meet_on(interfaces, &wish, net);
            let hop = found.frontends[0].1.backends[0].hop.unwrap();
            let is_snat = forwarding == ForwardingMode::Snat;
            assert_eq!(hop.is_node_source, is_snat && sees_node);
            let said: Vec<&str> = found.problems.iter().map(|p| p.message.as_str()).collect();
            match says.filter(|_| is_snat) {
                Some(says) => assert!(said.len() == 1 && said[0].contains(says), "{said:?}"),
                None => assert_eq!(said, [""; 0]),
            }
        }
    }
}

#[test]
fn a_backend_on_this_node_is_left_out_and_named() {
    use BackendState::Active;
    let net = network(&[("192.0.2.1", Hop::Local)]);
    let found = meet(
        &web(ForwardingMode::Auto, vec![backend("192.0.2.1", 80, Active)]),
        &net,
    );
    assert_eq!(
        reasons(&found),
        [
            ProblemReason::BackendOnLoadBalancer,
            ProblemReason::NoBackend
        ]
    );
    assert_eq!(addresses(&found), []);
}

#[test]
fn what_does_not_resolve_stays_in_the_table_that_all_nodes_share() {
    use BackendState::Active;
    let net = network(&[
        (
            "192.0.2.5",
            Hop::Unresolved(HopFailure::NoAnswer(ip("192.0.2.5"))),
        ),
        ("192.0.2.6", Hop::Unresolved(HopFailure::NoRoute)),
        ("192.0.2.7", Hop::Pending),
    ]);
    let backends = ["192.0.2.5", "192.0.2.6", "192.0.2.7"].map(|a| backend(a, 80, Active));
    let found = meet(&web(ForwardingMode::Auto, backends.into()), &net);
    assert_eq!(reasons(&found), [ProblemReason::NextHopUnresolved; 2]);
    assert!(found.is_pending);
    assert_eq!(addresses(&found).len(), 3);
    assert!(
        found.frontends[0]
            .1
            .backends
            .iter()
            .all(|b| b.hop.is_none())
    );
}

#[test]
fn terminating_backends_serve_only_when_nobody_else_does() {
    use BackendState::{Active, NotReady, Terminating};
    let net = network(&[]);
    let wish = |states: [BackendState; 2]| {
        let [a, b] = states;
        let backends = vec![backend("192.0.2.5", 80, a), backend("192.0.2.6", 80, b)];
        let found = meet(&web(ForwardingMode::Auto, backends), &net);
        addresses(&found)
            .into_iter()
            .map(|(_, accepts)| accepts)
            .collect::<Vec<_>>()
    };
    assert_eq!(wish([Active, Terminating]), [true, false]);
    assert_eq!(wish([NotReady, Terminating]), [false, true]);
    assert_eq!(wish([NotReady, NotReady]), [false, false]);
}

#[test]
fn a_table_size_that_does_not_serve_is_replaced_and_said() {
    use BackendState::Active;
    let mut wish = web(ForwardingMode::Auto, vec![backend("192.0.2.5", 80, Active)]);
    wish.table_size = Some(16_381);
    assert_eq!(meet(&wish, &network(&[])).frontends[0].1.table_size, 16_381);
    wish.table_size = Some(1000);
    let found = meet(&wish, &network(&[]));
    assert_eq!(found.frontends[0].1.table_size, 251);
    assert_eq!(reasons(&found), [ProblemReason::MaglevTableTooSmall]);
    assert!(found.problems[0].message.contains("1000 slots"));
    let many = (0..300).map(|n| backend(&format!("10.0.{}.{}", n / 200, 1 + n % 200), 80, Active));
    let mut wish = web(ForwardingMode::Auto, many.collect());
    wish.table_size = Some(251);
    let found = meet(&wish, &network(&[]));
    assert_eq!(found.frontends[0].1.table_size, 32_749);
    assert_eq!(reasons(&found), [ProblemReason::MaglevTableTooSmall]);
}

#[test]
fn sctp_has_an_address_and_is_not_forwarded() {
    let mut wish = web(ForwardingMode::Auto, vec![]);
    wish.ports[0].protocol = Protocol::Sctp;
    let found = meet(&wish, &network(&[]));
    assert_eq!(reasons(&found), [ProblemReason::ProtocolNotForwarded]);
    assert_eq!((found.frontends.len(), found.vips.len()), (0, 1));
}

#[test]
fn local_traffic_policy_is_said_to_be_ignored() {
    let mut wish = web(
        ForwardingMode::Auto,
        vec![backend("192.0.2.5", 80, BackendState::Active)],
    );
    wish.external_traffic_policy = TrafficPolicy::Local;
    let net = network(&[("192.0.2.5", resolved(LAN, true))]);
    assert_eq!(
        reasons(&meet(&wish, &net)),
        [ProblemReason::TrafficPolicyIgnored]
    );
}

#[test]
fn session_affinity_is_said_to_be_ignored() {
    let mut wish = web(
        ForwardingMode::Auto,
        vec![backend("192.0.2.5", 80, BackendState::Active)],
    );
    wish.session_affinity = true;
    let found = meet(&wish, &network(&[("192.0.2.5", resolved(LAN, true))]));
    assert_eq!(reasons(&found), [ProblemReason::SessionAffinityIgnored]);
    assert_eq!(found.frontends.len(), 1);
}

#[test]
fn what_is_for_some_clients_only_is_open_to_nobody() {
    let mut wish = web(
        ForwardingMode::Auto,
        vec![backend("192.0.2.5", 80, BackendState::Active)],
    );
    let net = network(&[("192.0.2.5", resolved(LAN, true))]);
    wish.load_balancer_ips.push(ip("2001:db8::10"));
    let v4 = "192.0.2.10:80/TCP".to_owned();
    let v6 = "[2001:db8::10]:80/TCP".to_owned();
    let cases: &[(&[&str], &[&String])] = &[
        (&["10.0.0.0/8", "2001:db8::/32"], &[]),
        (&["10.0.0.0/8", "0.0.0.0/0"], &[&v4]),
        (&["::/0"], &[&v6]),
        (&["0.0.0.0/0", "::/0"], &[&v4, &v6]),
        // None that could be read.
        (&[], &[]),
    ];
    for (ranges, open) in cases {
        wish.source_ranges = Some(ranges.iter().map(|r| r.parse().unwrap()).collect());
        let found = meet(&wish, &net);
        let frontends: Vec<String> = found.frontends.iter().map(|(f, _)| f.to_string()).collect();
        assert_eq!(frontends.iter().collect::<Vec<_>>(), *open, "{ranges:?}");
        assert_eq!(found.closed.len(), 2 - open.len(), "{ranges:?}");
        let closing = found.problems.iter();
        let closing = closing.filter(|p| p.reason == ProblemReason::SourceRangesNotEnforced);
        assert_eq!(closing.count(), 2 - open.len(), "{ranges:?}");
    }
    assert!(ProblemReason::SourceRangesNotEnforced.blocks_programming());
}

#[test]
fn somebody_elses_service_is_none_of_ours() {
    let mut wish = web(ForwardingMode::Auto, vec![]);
    assert!(super::is_ours(&wish));
    wish.class = LoadBalancerClass::Other("example.com/lb".into());
    assert!(!super::is_ours(&wish));
    wish.external_ips = vec![ip("192.0.2.99")];
    assert!(super::is_ours(&wish), "external addresses have no class");
}

#[test]
fn one_frontend_belongs_to_the_first_service_by_name() {
    let (mut desired, net) = (Desired::default(), network(&[]));
    let found = meet(&web(ForwardingMode::Auto, vec![]), &net);
    let (a, b) = (
        ServiceName::new("a", "a").unwrap(),
        ServiceName::new("b", "b").unwrap(),
    );
    assert_eq!(desired.add(&a, &found, false), []);
    let problems = desired.add(&b, &found, false);
    assert_eq!(problems[0].reason, ProblemReason::FrontendTaken);
    assert_eq!(problems[0].service, b);
    assert!(problems[0].message.contains("192.0.2.10:80/TCP"));
}

#[test]
fn interfaces_that_share_a_slot_are_told_apart() {
    let mut net = network(&[]);
    let twin = LAN + 256;
    net.interfaces
        .insert(twin, interface(twin, "eth9", Some("198.51.100.1")));
    let (rows, refused) = net.rows(&configured());
    assert_eq!(rows[&LAN].ifindex, LAN, "the configured one keeps the slot");
    assert_eq!(refused, BTreeSet::from([twin]));
    net.hops.insert(ip("198.51.100.5"), resolved(twin, true));
    let wish = web(
        ForwardingMode::Auto,
        vec![backend("198.51.100.5", 80, BackendState::Active)],
    );
    let found = service(
        &wish,
        &Context {
            network: &net,
            interfaces: &configured(),
            refused: &refused,
            pass_to_host: false,
        },
    );
    assert_eq!(reasons(&found)[0], ProblemReason::InterfaceSlotTaken);
    assert_eq!(addresses(&found), []);
}

#[test]
fn cells_count_announcing_interfaces_only() {
    let net = network(&[]);
    let configured =
        [("eth9", false), ("eth1", true), ("eth0", true)].map(|(name, announce)| InterfaceConfig {
            name: name.into(),
            forward: true,
            announce,
        });
    let (rows, _) = net.rows(&configured);
    assert_eq!((rows[&STORAGE].l2_cell, rows[&LAN].l2_cell), (0, 1));
}

use super::{Facts, LinkState, LocalFacts, PolicyFacts, ServiceFacts, explain};
use crate::{
    BackendView, ConditionView, FrontendView, InterfaceView, L2Row, Render, timestamp::Timestamp,
};

const NOW: Timestamp = Timestamp(1_795_271_400);

fn facts() -> Facts {
    let vip = "192.0.2.10".parse().unwrap();
    Facts {
        service_name: "shop/web".into(),
        service: Some(ServiceFacts {
            type_name: "LoadBalancer".into(),
            class: None,
            is_our_class: true,
            vips: vec![vip],
            conditions: Vec::new(),
            n_backends: (1, 1),
        }),
        pools: Some(vec!["blue".into()]),
        policies: vec![PolicyFacts {
            name: "lan".into(),
            selects_service: true,
            nodes: vec!["lb1".into(), "lb2".into()],
            problem: None,
        }],
        l2: vec![L2Row {
            vip,
            service: "shop/web".into(),
            owner: Some("lb1".into()),
            is_self: true,
            interface: Some("eth0".into()),
            since: Some(Timestamp(NOW.0 - 192)),
            epoch: 1,
            state: "Owner".into(),
            why: "first in the order".into(),
            conflict: None,
        }],
        local: Some(LocalFacts {
            node: "lb1".into(),
            frontends: vec![FrontendView {
                frontend: "192.0.2.10:80/TCP".into(),
                vip,
                protocol: "TCP".into(),
                port: 80,
                mode: "snat".into(),
                is_programmed: true,
                table_size: Some(251),
                packets: 1234,
                bytes: 99_000,
                backends: vec![BackendView {
                    addr: "10.0.0.1".parse().unwrap(),
                    port: 8080,
                    state: "Active".into(),
                    node: None,
                    mode: Some("snat".into()),
                    next_hop: Some("02:00:00:00:00:01".into()),
                    interface: Some("eth0".into()),
                    problem: None,
                }],
            }],
            interfaces: vec![InterfaceView {
                name: "eth0".into(),
                ifindex: 2,
                mac: Some("02:00:00:00:00:02".into()),
                is_up: true,
                xdp: "native".into(),
                problem: None,
                reason: None,
            }],
            answering: vec![vip],
            is_forwarding: true,
        }),
    }
}

fn first(facts: &Facts) -> Option<(String, String)> {
    let view = explain(facts, NOW);
    let link = view.first_broken()?;
    assert!(link.remedy.is_some(), "{} says what to do", link.name);
    Some((link.name.clone(), link.reason.clone().unwrap()))
}

#[test]
fn a_whole_chain_holds_and_reads_well() {
    let view = explain(&facts(), NOW);
    assert_eq!(view.first_broken(), None);
    assert!(view.links.iter().all(|l| l.state == LinkState::Ok));
    let expected = "\
Service shop/web, seen from node lb1

ok   service     exists, type LoadBalancer
ok   class       none set, handled by default
ok   address     192.0.2.10
ok   policy      selected by lan
ok   nodes       lb1, lb2
ok   owner       lb1 for 3m12s: first in the order
ok   responder   this node's kernel answers ARP and neighbour solicitations
ok   xdp         attached to eth0 (native)
ok   frontend    192.0.2.10:80/TCP, snat
ok   backends    1 of 1 ready
ok   next hops   every ready backend has one
ok   counters    1,234 packets forwarded

Every link holds.
";
    assert_eq!(view.table(NOW), expected);
}

#[test]
fn each_link_breaks_by_itself_and_first() {
    type Break = fn(&mut Facts);
    let cases: [(&str, &str, Break); 12] = [
        ("service", "NotFound", |f| f.service = None),
        ("service", "NotLoadBalancer", |f| {
            let service = f.service.as_mut().unwrap();
            service.type_name = "ClusterIP".into();
            service.vips.clear();
        }),
        ("class", "ForeignClass", |f| {
            let service = f.service.as_mut().unwrap();
            service.class = Some("example.com/lb".into());
            service.is_our_class = false;
        }),
        ("address", "out_of_ips", |f| {
            let service = f.service.as_mut().unwrap();
            service.vips.clear();
            service.conditions.push(ConditionView {
                type_: "cilium.io/IPAMRequestSatisfied".into(),
                status: "False".into(),
                reason: "out_of_ips".into(),
                message: "every pool is full".into(),
            });
        }),
        ("policy", "NoPolicy", |f| f.policies.clear()),
        ("nodes", "NoEligibleNode", |f| f.policies[0].nodes.clear()),
        ("owner", "NoOwner", |f| {
            f.l2[0].owner = None;
            f.l2[0].is_self = false;
        }),
        ("responder", "ResponderExpired", |f| {
            f.local.as_mut().unwrap().answering.clear();
        }),
        ("xdp", "NotAttached", |f| {
            f.local.as_mut().unwrap().interfaces[0].xdp = "none".into();
        }),
        ("frontend", "NotProgrammed", |f| {
            f.local.as_mut().unwrap().frontends[0].is_programmed = false;
        }),
        ("backends", "NoReadyBackend", |f| {
            f.local.as_mut().unwrap().frontends[0].backends[0].state = "NotReady".into();
        }),
        ("next hops", "NoNextHop", |f| {
            f.local.as_mut().unwrap().frontends[0].backends[0].next_hop = None;
        }),
    ];
    for (name, reason, break_it) in cases {
        let mut facts = facts();
        break_it(&mut facts);
        assert_eq!(first(&facts), Some((name.to_owned(), reason.to_owned())));
    }
}

#[test]
fn without_an_agent_the_node_s_links_are_unknown() {
    let facts = Facts {
        local: None,
        ..facts()
    };
    let view = explain(&facts, NOW);
    assert_eq!(view.first_broken(), None);
    let unknown = view
        .links
        .iter()
        .filter(|l| l.state == LinkState::Unknown)
        .count();
    assert_eq!((view.links.len(), unknown), (12, 6));
    assert!(
        view.table(NOW)
            .ends_with("those marked ? could not be checked.\n")
    );
}

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairlead_abi::{
    flow::{FlowKey, FlowValue, flow_state},
    lb::vip_flags,
};
use fairlead_datapath::{Insert, LbMaps};
use fairlead_model::{
    Backend, BackendState, ForwardingMode, Frontend, Generation, Labels, LoadBalancerClass,
    MacAddr, Protocol, Service, ServiceName, ServicePort, Snapshot, TrafficPolicy, Vip,
};

use super::{Announcements, Engine, EngineConfig, Handoff, Inputs};
use crate::{
    network::{Hop, Interface, InterfaceConfig, Network},
    problem::ProblemReason,
    sim::{SECOND, small_maps},
    state::Times,
    sweep::scan,
};

const T0: u64 = 1000 * SECOND;
const LAN: u32 = 3;

fn vip() -> Vip {
    "192.0.2.10".parse().unwrap()
}

fn name(n: &str) -> ServiceName {
    ServiceName::new("shop", n).unwrap()
}

fn frontend(port: u16) -> Frontend {
    Frontend {
        vip: vip(),
        protocol: Protocol::Tcp,
        port,
    }
}

fn service(n: &str, port: u16, backends: &[u8]) -> Service {
    let backend = |n: &u8| Backend {
        addr: [192, 0, 2, 100 + n].into(),
        port: 8080,
        state: BackendState::Active,
        node: None,
    };
    Service {
        name: name(n),
        labels: Labels::new(),
        is_load_balancer: true,
        class: LoadBalancerClass::Unset,
        load_balancer_ips: vec![vip()],
        external_ips: vec![],
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port,
            node_port: 0,
        }],
        backends: BTreeMap::from([(String::new(), backends.iter().map(backend).collect())]),
        external_traffic_policy: TrafficPolicy::Cluster,
        forwarding: ForwardingMode::Auto,
        table_size: None,
        source_ranges: None,
        session_affinity: false,
    }
}

fn network(hop: Hop) -> Arc<Network> {
    let interface = Interface {
        index: LAN,
        name: "eth0".into(),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        addr4: Some([192, 0, 2, 1].into()),
        addr6: None,
        is_veth: false,
    };
    Arc::new(Network {
        interfaces: BTreeMap::from([(LAN, interface)]),
        hops: (0..50)
            .map(|n| ([192, 0, 2, 100 + n].into(), hop))
            .collect(),
        has_node_ports: true,
        unanswered_vips: BTreeSet::new(),
    })
}

fn resolved() -> Hop {
    Hop::Resolved {
        ifindex: LAN,
        mac: MacAddr([2, 0, 0, 0, 1, 1]),
        is_on_link: true,
    }
}

struct Bench {
    engine: Engine,
    maps: LbMaps,
    inputs: Inputs,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        let maps = small_maps();
        let snapshot = Snapshot {
            generation: Generation(0),
            services: BTreeMap::new(),
            l2_policies: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        let inputs = Inputs {
            snapshot: Arc::new(snapshot),
            network: network(resolved()),
            announcements: Arc::new(Announcements {
                is_known: true,
                ..Announcements::default()
            }),
        };
        let engine = Engine::new(config(), maps.clone(), T0).unwrap();
        Self {
            engine,
            maps,
            inputs,
            now: T0,
        }
    }

    fn set(&mut self, services: impl IntoIterator<Item = Service>) {
        let snapshot = Arc::make_mut(&mut self.inputs.snapshot);
        snapshot.generation = snapshot.generation.next();
        snapshot.services = services.into_iter().map(|s| (s.name.clone(), s)).collect();
    }

    fn step(&mut self) -> (super::Programmed, Option<u64>) {
        self.engine.step(&self.inputs, self.now).unwrap()
    }

    fn announce(&mut self, announced: impl IntoIterator<Item = Vip>) {
        Arc::make_mut(&mut self.inputs.announcements).announced = announced.into_iter().collect();
    }

    fn n_ops(&self) -> u64 {
        self.engine.figures.n_ops
    }
}

fn config() -> EngineConfig {
    EngineConfig {
        interfaces: vec![InterfaceConfig {
            name: "eth0".into(),
            forward: true,
            announce: true,
        }],
        pass_to_host: false,
        times: Times::default(),
        withdraw_within: 5 * SECOND,
    }
}

#[test]
fn an_incomplete_snapshot_plans_nothing() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2])]);
    bench.step();
    // Another process over the same maps, which knows nothing yet.
    let mut next = Engine::new(config(), bench.maps.clone(), T0).unwrap();
    Arc::make_mut(&mut bench.inputs.snapshot).generation = Generation(0);
    Arc::make_mut(&mut bench.inputs.snapshot).services.clear();
    let (programmed, _) = next.step(&bench.inputs, T0).unwrap();
    assert_eq!(programmed, super::Programmed::default());
    assert_eq!(next.figures.n_ops, 0);
    assert!(
        next.state.record_of(&frontend(80)).is_some(),
        "what the maps hold stays"
    );
}

#[test]
fn a_restart_plans_nothing_that_is_there_already() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2]), service("db", 5432, &[3])]);
    let (before, _) = bench.step();
    let mut next = Engine::new(config(), bench.maps.clone(), T0).unwrap();
    // Its first look at the network finds every next hop still asked for: the records keep theirs.
    bench.inputs.network = network(Hop::Pending);
    let (after, _) = next.step(&bench.inputs, T0).unwrap();
    assert_eq!(next.figures.n_ops, 0);
    assert_eq!(after.frontends, before.frontends);
}

#[test]
fn a_vip_is_refused_until_its_first_next_hops_have_answered_and_never_again() {
    let mut bench = Bench::new();
    bench.inputs.network = network(Hop::Pending);
    bench.set([service("web", 80, &[1, 2])]);
    let (programmed, _) = bench.step();
    assert_eq!(programmed.generation, Generation(1));
    assert_eq!(programmed.refused, BTreeSet::from([vip()]));
    assert!(programmed.programmed.is_empty());
    bench.inputs.network = network(resolved());
    let (programmed, _) = bench.step();
    assert!(programmed.refused.is_empty());
    assert_eq!(programmed.programmed, BTreeSet::from([name("web")]));
    // A backend that comes later is asked for while the VIP goes on.
    let mut hops = (*bench.inputs.network).clone();
    hops.hops.insert([192, 0, 2, 103].into(), Hop::Pending);
    bench.inputs.network = Arc::new(hops);
    bench.set([service("web", 80, &[1, 2, 3])]);
    let (programmed, _) = bench.step();
    assert!(programmed.refused.is_empty());
}

#[test]
fn a_backend_that_comes_is_sent_nothing_before_its_next_hop_has_answered() {
    for restarts in [false, true] {
        let mut bench = Bench::new();
        bench.set([service("web", 80, &[1, 2])]);
        let (before, _) = bench.step();
        if restarts {
            bench.engine = Engine::new(config(), bench.maps.clone(), T0).unwrap();
        }
        let n_ops = bench.n_ops();
        let asking = |hop| {
            let mut network = (*network(resolved())).clone();
            network.hops.insert([192, 0, 2, 103].into(), hop);
            Arc::new(network)
        };
        bench.inputs.network = asking(Hop::Pending);
        bench.set([service("web", 80, &[1, 3])]);
        let (held, wake_at) = bench.step();
        assert_eq!(bench.n_ops(), n_ops, "what is there goes on: {restarts}");
        assert_eq!(held.held, BTreeSet::from([frontend(80)]));
        assert!(held.programmed.is_empty());
        assert_eq!(held.frontends, before.frontends);
        assert_eq!(wake_at, Some(T0 + SECOND / 2));
        // A second change meanwhile does not make the wait longer.
        bench.now += SECOND / 4;
        bench.set([service("web", 80, &[2, 3])]);
        assert_eq!(bench.step().1, wake_at);
        bench.inputs.network = asking(resolved());
        let (after, _) = bench.step();
        assert!(after.held.is_empty() && bench.n_ops() > n_ops);
        assert_eq!(after.programmed, BTreeSet::from([name("web")]));
    }
}

#[test]
fn a_backend_whose_next_hop_never_answers_is_in_the_table_all_the_same() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2])]);
    bench.step();
    let n_ops = bench.n_ops();
    let mut silent = (*bench.inputs.network).clone();
    silent.hops.insert([192, 0, 2, 103].into(), Hop::Pending);
    bench.inputs.network = Arc::new(silent);
    bench.set([service("web", 80, &[1, 2, 3])]);
    bench.step();
    bench.now += SECOND / 2;
    let (after, _) = bench.step();
    assert!(after.held.is_empty() && bench.n_ops() > n_ops);
}

#[test]
fn a_service_that_becomes_restricted_closes_at_once_and_its_vip_is_withdrawn() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2])]);
    bench.step();
    bench.announce([vip()]);
    let restricted = Service {
        source_ranges: Some(vec!["198.51.100.0/24".parse().unwrap()]),
        ..service("web", 80, &[1, 2])
    };
    bench.set([restricted.clone()]);
    let (programmed, _) = bench.step();
    assert!(programmed.frontends.is_empty() && programmed.programmed.is_empty());
    assert_eq!(programmed.refused, BTreeSet::from([vip()]));
    let reasons: Vec<_> = programmed.problems.iter().map(|p| p.reason).collect();
    assert_eq!(reasons, [ProblemReason::SourceRangesNotEnforced]);
    // Another service on the same VIP is announced; the port of the first stays closed.
    bench.set([restricted, service("db", 5432, &[3])]);
    let (programmed, _) = bench.step();
    assert!(programmed.refused.is_empty());
    assert_eq!(programmed.programmed, BTreeSet::from([name("db")]));
    assert!(programmed.frontends.keys().eq(&[frontend(5432)]));
    // The restriction goes: so does everything it caused.
    bench.set([service("web", 80, &[1, 2]), service("db", 5432, &[3])]);
    let (programmed, _) = bench.step();
    assert_eq!(programmed.problems, []);
    assert_eq!(programmed.frontends.len(), 2);
}

#[test]
fn a_removed_vip_is_kept_until_it_is_withdrawn() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2])]);
    bench.step();
    bench.announce([vip()]);
    bench.set([]);
    let (programmed, wake_at) = bench.step();
    assert_eq!(programmed.generation, Generation(2));
    assert!(programmed.frontends.contains_key(&frontend(80)));
    assert_eq!(wake_at, Some(T0 + 5 * SECOND));
    bench.announce([]);
    let (programmed, _) = bench.step();
    assert!(programmed.frontends.is_empty());
}

#[test]
fn and_at_most_for_the_deadline() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2])]);
    bench.step();
    bench.inputs.announcements = Arc::default();
    bench.set([]);
    let (programmed, _) = bench.step();
    assert!(
        !programmed.frontends.is_empty(),
        "an announcer that has not spoken may announce anything"
    );
    bench.now += 5 * SECOND;
    let (programmed, _) = bench.step();
    assert!(programmed.frontends.is_empty());
}

#[test]
fn a_vip_that_comes_back_while_it_is_held_breaks_nothing() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2])]);
    bench.step();
    bench.announce([vip()]);
    bench.set([]);
    bench.step();
    let n_ops = bench.n_ops();
    bench.set([service("web", 80, &[1, 2])]);
    let (programmed, _) = bench.step();
    assert_eq!(bench.n_ops(), n_ops);
    assert!(programmed.refused.is_empty());
}

#[test]
fn what_did_not_change_is_not_planned_again() {
    let mut bench = Bench::new();
    let many = |changed: u8| {
        (0..20_u16)
            .map(move |n| {
                service(
                    &format!("s{n}"),
                    80 + n,
                    if n == 7 { &[1, 9][..] } else { &[1, 2] },
                )
                .clone()
            })
            .map(move |mut s| {
                if s.name == name("s7") {
                    s.backends.get_mut("").unwrap()[1].addr = [192, 0, 2, 100 + changed].into();
                }
                s
            })
    };
    bench.set(many(2));
    bench.step();
    let before = bench.n_ops();
    bench.set(many(3));
    let (programmed, _) = bench.step();
    assert_eq!(programmed.programmed.len(), 20);
    // Backend, two tables, two pointers, a flag, the one that left.
    assert!(bench.n_ops() - before <= 8, "{}", bench.n_ops() - before);
}

#[test]
fn a_client_on_the_owner_is_noticed_by_its_question() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2])]);
    let mut asked = (*bench.inputs.network).clone();
    asked.unanswered_vips.insert(vip());
    bench.inputs.network = Arc::new(asked);
    let (programmed, _) = bench.step();
    assert_eq!(
        programmed.problems,
        [],
        "somebody else owns it: that is a question like any other"
    );
    bench.announce([vip()]);
    let (programmed, _) = bench.step();
    assert_eq!(programmed.problems[0].reason, ProblemReason::ClientOnOwner);
    assert!(programmed.problems[0].message.contains("192.0.2.10"));
}

#[test]
fn the_former_owner_is_noted_on_the_vip() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2])]);
    let handoff = Handoff {
        mac: MacAddr([2, 0, 0, 0, 0, 9]),
        ifindex: LAN,
    };
    let announcements = Arc::make_mut(&mut bench.inputs.announcements);
    announcements.handoffs.insert(vip(), handoff);
    bench.step();
    let state = bench.maps.vip_state.read(1);
    assert_eq!(
        (state.handoff_mac, u32::from(state.handoff_iface)),
        (handoff.mac.0, LAN)
    );
    assert_ne!(state.flags & vip_flags::HAS_SNAT, 0);
}

#[test]
fn left_to_the_host_there_are_vips_and_nothing_else() {
    let maps = small_maps();
    let config = EngineConfig {
        pass_to_host: true,
        ..config()
    };
    let mut bench = Bench::new();
    bench.engine = Engine::new(config, maps.clone(), T0).unwrap();
    bench.set([service("web", 80, &[1, 2])]);
    let (programmed, _) = bench.step();
    assert!(programmed.refused.is_empty() && programmed.frontends.is_empty());
    assert_eq!(programmed.programmed, BTreeSet::from([name("web")]));
    assert_eq!(maps.vip_state.read(1).flags, vip_flags::PASS_TO_HOST);
}

#[test]
fn an_audit_repairs_and_counts() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2])]);
    bench.step();
    assert_eq!(bench.engine.audit().unwrap().figures.n_drift, 0);
    bench.maps.frontends.store_u64(1, 16, 0xff);
    assert_eq!(bench.engine.audit().unwrap().figures.n_drift, 1);
    assert_eq!(bench.engine.audit().unwrap().figures.n_drift, 1);
}

#[test]
fn contradictions_in_the_maps_are_mended_at_the_start() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2])]);
    bench.step();
    // A frontend whose VIP is not there, one that shares a record, and a key that nobody writes.
    let stray = fairlead_logic::hash::vip_key4(0x0a00_0001, 80, 6);
    let (bucket, _) = fairlead_logic::hash::bucket_pair4(stray);
    bench.maps.vips4.store_u64(bucket, 8, 1);
    bench.maps.vips4.store_u64(bucket, 0, stray);
    bench.maps.vips6.store_u64(9, 16, 5 << 16 | 1 << 24);
    let mut next = Engine::new(config(), bench.maps.clone(), T0).unwrap();
    assert_eq!(next.figures.n_drift, 2);
    bench.inputs.snapshot = Arc::clone(&bench.inputs.snapshot);
    next.step(&bench.inputs, T0).unwrap();
    assert_eq!(next.figures.n_ops, 0, "the rest is as it should be");
    assert_eq!(next.audit().unwrap().figures.n_drift, 2);
}

#[test]
fn an_entry_that_a_packet_touched_after_the_sweep_read_it_stays() {
    let mut bench = Bench::new();
    bench.set([service("web", 80, &[1, 2])]);
    let (programmed, _) = bench.step();
    let key = FlowKey {
        client_port: 1_u16.to_be_bytes(),
        proto: 6,
        ..FlowKey::default()
    };
    // The frontend is not in transition, so nobody looks this up.
    let mut value = FlowValue {
        last_seen: T0,
        frontend: programmed.frontends[&frontend(80)].record,
        backend: 0,
        state: flow_state::ESTABLISHED,
    };
    let flows = bench.maps.flows.clone();
    flows.insert(&key, &value, Insert::New).unwrap();
    let question = bench.engine.question();
    let read = scan(&bench.maps, &question, T0).unwrap();
    value.last_seen += 1;
    flows.insert(&key, &value, Insert::Any).unwrap();
    bench.engine.swept(&read, T0).unwrap();
    assert_eq!(flows.get(&key).unwrap(), Some(value));
    let read = scan(&bench.maps, &question, T0 + SECOND).unwrap();
    bench.engine.swept(&read, T0 + SECOND).unwrap();
    assert_eq!(
        flows.get(&key).unwrap(),
        None,
        "nothing has touched it since"
    );
}

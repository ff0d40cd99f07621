use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fairlead_datapath::Insert;
use fairlead_model::{
    Backend, BackendState, ForwardingMode, Frontend, Generation, Labels, LoadBalancerClass,
    Protocol, Service, ServiceName, ServicePort, Snapshot, TrafficPolicy, Vip,
};
use fairlead_rt::{CancellationToken, clock};
use tokio::sync::watch;

use super::{Config, XdpLb};
use crate::{
    engine::{Announcements, Programmed},
    lan::{PATIENCE, on_a_lan},
    network::InterfaceConfig,
    sim::small_maps,
};

const STATION: &[&str] = &[
    "link set port address 02:00:00:00:00:99",
    "addr add 192.0.2.9/24 dev port",
    "addr add 192.0.2.8/24 dev port",
];

fn vip() -> Vip {
    "192.0.2.10".parse().unwrap()
}

fn snapshot(generation: u64, backends: &[&str]) -> Arc<Snapshot> {
    let name = ServiceName::new("shop", "web").unwrap();
    let backends = backends.iter().map(|addr| Backend {
        addr: addr.parse().unwrap(),
        port: 8080,
        state: BackendState::Active,
        node: None,
    });
    let service = Service {
        name: name.clone(),
        labels: Labels::new(),
        is_load_balancer: true,
        class: LoadBalancerClass::Unset,
        load_balancer_ips: vec![vip()],
        external_ips: vec![],
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 0,
        }],
        backends: BTreeMap::from([(String::new(), backends.collect())]),
        external_traffic_policy: TrafficPolicy::Cluster,
        forwarding: ForwardingMode::Auto,
        table_size: None,
        source_ranges: None,
        session_affinity: false,
    };
    Arc::new(Snapshot {
        generation: Generation(generation),
        services: BTreeMap::from([(name, service)]),
        l2_policies: BTreeMap::new(),
        nodes: BTreeMap::new(),
    })
}

async fn until(
    programmed: &mut watch::Receiver<Arc<Programmed>>,
    what: impl Fn(&Programmed) -> bool,
) -> Arc<Programmed> {
    let found = tokio::time::timeout(PATIENCE, programmed.wait_for(|now| what(now))).await;
    if let Ok(found) = found {
        return Arc::clone(&found.unwrap());
    }
    drop(found);
    panic!("not in time: {:?}", programmed.borrow())
}

#[test]
fn a_service_is_programmed_followed_swept_and_removed() {
    on_a_lan(STATION, async |_| {
        let maps = small_maps();
        let (snapshots, seen) = watch::channel(snapshot(0, &[]));
        let (announcements, says) = watch::channel(Arc::new(Announcements::default()));
        let mut config = Config::new(vec![InterfaceConfig {
            name: "eth0".into(),
            forward: true,
            announce: true,
        }]);
        config.sweep_every = Duration::from_millis(50);
        config.audit_every = Duration::from_millis(50);
        let (lb, mut programmed) = XdpLb::new(config, maps.clone(), seen, says);
        let stop = CancellationToken::new();
        let story = async {
            // Nothing is known, nothing happens; then a service appears.
            snapshots.send(snapshot(1, &["192.0.2.9"])).unwrap();
            let now = until(&mut programmed, |p| {
                p.generation == Generation(1) && p.refused.is_empty() && p.problems.is_empty()
            })
            .await;
            let frontend = Frontend {
                vip: vip(),
                protocol: Protocol::Tcp,
                port: 80,
            };
            let info = &now.frontends[&frontend];
            assert_eq!(info.backends.len(), 1);
            let fe = maps.frontends.read(info.record);
            let backend = maps.backends4.read(fe.backend_base);
            assert_eq!(
                (backend.mac, backend.port),
                ([2, 0, 0, 0, 0, 0x99], 8080_u16.to_be_bytes())
            );
            let row = maps.ifaces.read(backend.iface.into());
            assert_eq!((row.mtu, row.addr4), (1500, [192, 0, 2, 1]));
            assert_eq!(crate::counters(&maps, &now).unwrap()[&frontend].packets, 0);

            // Another backend; an entry of a flow that ended is swept away.
            let stale = fairlead_abi::flow::FlowValue {
                last_seen: 1,
                frontend: info.record,
                backend: 0,
                state: 0,
            };
            maps.flows_new
                .insert(&fairlead_abi::flow::FlowKey::default(), &stale, Insert::New)
                .unwrap();
            snapshots
                .send(snapshot(2, &["192.0.2.8", "192.0.2.9"]))
                .unwrap();
            until(&mut programmed, |p| {
                p.frontends
                    .get(&frontend)
                    .is_some_and(|i| i.backends.len() == 2 && i.in_transition)
            })
            .await;
            until(&mut programmed, |p| p.figures.n_in_transition == 1).await;
            assert!(maps.flows_new.is_empty().unwrap());

            // A hand with bpftool.
            maps.frontends.store_u64(info.record, 16, 0);
            until(&mut programmed, |p| p.figures.n_drift == 1).await;

            // Withdraw before unprogram.
            let announced = Announcements {
                is_known: true,
                announced: [vip()].into(),
                ..Announcements::default()
            };
            announcements.send(Arc::new(announced)).unwrap();
            let mut nothing = (*snapshot(3, &[])).clone();
            nothing.services.clear();
            snapshots.send(Arc::new(nothing)).unwrap();
            let now = until(&mut programmed, |p| p.generation == Generation(3)).await;
            assert!(now.frontends.contains_key(&frontend));
            let withdrawn = Announcements {
                is_known: true,
                ..Announcements::default()
            };
            announcements.send(Arc::new(withdrawn)).unwrap();
            until(&mut programmed, |p| p.frontends.is_empty()).await;
            stop.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = lb.run(stop.clone()) => ended.expect("it stops in order"),
            () = story => {}
        }
    });
}

#[test]
fn an_endpoint_change_is_in_the_map_within_milliseconds() {
    on_a_lan(STATION, async |_| {
        let maps = small_maps();
        let (snapshots, seen) = watch::channel(snapshot(1, &["192.0.2.9"]));
        let (_announcements, says) = watch::channel(Arc::new(Announcements {
            is_known: true,
            ..Announcements::default()
        }));
        let config = Config::new(vec![InterfaceConfig {
            name: "eth0".into(),
            forward: true,
            announce: true,
        }]);
        let (lb, mut programmed) = XdpLb::new(config, maps.clone(), seen, says);
        let stop = CancellationToken::new();
        let story = async {
            until(&mut programmed, |p| {
                p.generation == Generation(1) && p.refused.is_empty()
            })
            .await;
            let mut best = Duration::MAX;
            for generation in 2..22 {
                let backends: &[&str] = if generation % 2 == 0 {
                    &["192.0.2.9", "192.0.2.8"]
                } else {
                    &["192.0.2.9"]
                };
                let before = clock::now();
                snapshots.send(snapshot(generation, backends)).unwrap();
                until(&mut programmed, |p| p.generation == Generation(generation)).await;
                best = best.min(clock::now() - before);
            }
            println!("endpoint change to map: {best:?}");
            assert!(
                best < Duration::from_millis(500),
                "{best:?}: something waits for a timer"
            );
        };
        tokio::select! {
            ended = lb.run(stop) => panic!("{ended:?}"),
            () = story => {}
        }
    });
}

#[test]
fn it_outlives_its_sources_and_stops_when_told() {
    on_a_lan(STATION, async |_| {
        let maps = small_maps();
        let (snapshots, seen) = watch::channel(snapshot(1, &["192.0.2.9"]));
        let (announcements, says) = watch::channel(Arc::default());
        let config = Config::new(vec![InterfaceConfig {
            name: "eth0".into(),
            forward: true,
            announce: true,
        }]);
        let (lb, mut programmed) = XdpLb::new(config, maps.clone(), seen, says);
        let stop = CancellationToken::new();
        let story = async {
            drop((snapshots, announcements));
            until(&mut programmed, |p| {
                p.refused.is_empty() && !p.frontends.is_empty()
            })
            .await;
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(tokio::time::timeout(PATIENCE, lb.run(stop.clone())), story);
        ended.expect("it stops in time").expect("and in order");
        let fe = maps.frontends.read(1);
        assert_eq!(fe.current.len, 251, "what is programmed stays");
    });
}

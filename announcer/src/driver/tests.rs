//! Real sockets, each node in a network namespace of its own, joined by a bridge. Needs root and `ip`, and says so.

mod responder;
mod segment;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use fairlead_datapath::maps::L2Maps;
use fairlead_model::{
    Backend, BackendState, ForwardingMode, Generation, L2Policy, Labels, LoadBalancerClass, Node,
    NodeName, Selector, Service, ServiceName, Snapshot, TrafficPolicy,
};
use fairlead_netlink::Netlink;
use fairlead_rt::{CancellationToken, Metrics, clock};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Announcer, AnnouncerConfig, AnnouncerInputs, MoveRequest};
use crate::{
    Programmed,
    lease::LeaseConfig,
    ownership::{MoveError, Settings},
    status::{History, L2Status},
};
use segment::{Ear, Lan};

const VIP4: &str = "192.0.2.100";
const VIP6: &str = "2001:db8::100";
const PATIENCE: Duration = Duration::from_secs(20);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn policy() -> L2Policy {
    L2Policy {
        name: "all".to_owned(),
        node_selector: Ok(Selector::default()),
        service_selector: Ok(Selector::default()),
        interfaces: vec!["^lan".to_owned()],
        preferred: Ok(Vec::new()),
        load_balancer_ips: true,
        external_ips: false,
    }
}

fn service(vips: &[&str]) -> Service {
    let backend = Backend {
        addr: ip("192.0.2.9"),
        port: 80,
        state: BackendState::Active,
        node: None,
    };
    Service {
        name: ServiceName::new("shop", "web").unwrap(),
        labels: Labels::new(),
        is_load_balancer: true,
        class: LoadBalancerClass::Unset,
        load_balancer_ips: vips.iter().map(|vip| ip(vip)).collect(),
        external_ips: Vec::new(),
        ports: Vec::new(),
        backends: [(String::new(), vec![backend])].into(),
        external_traffic_policy: TrafficPolicy::Cluster,
        forwarding: ForwardingMode::Auto,
        table_size: None,
        source_ranges: None,
        session_affinity: false,
    }
}

/// Two nodes `a` and `b`, one Service.
fn snapshot(vips: &[&str]) -> Arc<Snapshot> {
    let nodes = ["a", "b"].map(|name| Node {
        name: node(name),
        labels: Labels::new(),
        addresses: Vec::new(),
        is_excluded: false,
        is_repelling: false,
    });
    let service = service(vips);
    Arc::new(Snapshot {
        generation: Generation(1),
        services: [(service.name.clone(), service)].into(),
        l2_policies: [("all".to_owned(), policy())].into(),
        nodes: nodes.into_iter().map(|n| (n.name.clone(), n)).collect(),
    })
}

/// An announcer on a thread in its node's namespace.
struct Running {
    stop: CancellationToken,
    kill: CancellationToken,
    status: watch::Receiver<Arc<L2Status>>,
    thread: Option<std::thread::JoinHandle<()>>,
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    programmed: watch::Sender<Programmed>,
    keys: watch::Sender<Vec<Vec<u8>>>,
    history: watch::Sender<History>,
    moves: mpsc::Sender<MoveRequest>,
}

impl Running {
    fn start(lan: &Lan, name: &str, maps: &L2Maps, wanted: Option<Arc<Snapshot>>) -> Self {
        let (snapshot, snapshot_rx) = watch::channel(wanted);
        let (programmed, programmed_rx) = watch::channel(Programmed {
            generation: Generation(1),
            ..Programmed::default()
        });
        let config = AnnouncerConfig {
            node: node(name),
            interfaces: vec!["lan0".to_owned()],
            settings: Settings::default(),
            lease: LeaseConfig::default(),
        };
        let (keys, keys_rx) = watch::channel(vec![b"secret".to_vec()]);
        let (history, _) = watch::channel(History::new());
        let (moves, moves_rx) = mpsc::channel(1);
        let inputs = AnnouncerInputs {
            history: history.clone(),
            moves: moves_rx,
            keys: keys_rx,
            snapshot: snapshot_rx,
            programmed: programmed_rx,
            maps: maps.clone(),
            netlink: Netlink::new(),
            client: None,
            metrics: Metrics::new(),
        };
        let announcer = Announcer::new(config, inputs).unwrap();
        let status = announcer.status();
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let (stopped, killed) = (stop.clone(), kill.clone());
        let thread = lan.spawn(name, move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    ended = announcer.run(stopped) => ended.unwrap(),
                    () = killed.cancelled() => {}
                }
            });
        });
        Self {
            stop,
            kill,
            status,
            thread: Some(thread),
            snapshot,
            programmed,
            keys,
            history,
            moves,
        }
    }

    /// Ends it without a word.
    fn kill(mut self) {
        self.kill.cancel();
        self.thread.take().unwrap().join().unwrap();
    }

    /// Ends it in good order.
    fn leave(mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
    }

    fn row(&self, vip: &str) -> Option<(bool, Option<String>, String)> {
        let status = self.status.borrow();
        let row = status.vips.get(&(ip(vip), "lan0".to_owned()))?;
        Some((row.is_self, row.owner.clone(), row.why.clone()))
    }

    fn owns(&self, vip: &str) -> bool {
        self.row(vip).is_some_and(|(is_self, ..)| is_self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill.cancel();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Polls until `done`; panics with `what` after [`PATIENCE`].
fn wait(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let begin = clock::now();
    while !done() {
        assert!(clock::now() - begin < PATIENCE, "{what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
    clock::now() - begin
}

fn two(lan: &Lan, vips: &[&str]) -> BTreeMap<&'static str, (Running, L2Maps)> {
    ["a", "b"]
        .into_iter()
        .map(|name| {
            let maps = L2Maps::in_memory();
            let running = Running::start(lan, name, &maps, Some(snapshot(vips)));
            (name, (running, maps))
        })
        .collect()
}

/// The owner and the other one, once both agree.
fn agreed(nodes: &BTreeMap<&'static str, (Running, L2Maps)>, vip: &str) -> (String, String) {
    let mut found = None;
    wait("both nodes agree on an owner", || {
        let rows: Vec<_> = nodes.values().filter_map(|(n, _)| n.row(vip)).collect();
        let owners: Vec<&Option<String>> = rows.iter().map(|(_, owner, _)| owner).collect();
        let is_agreed = matches!(owners[..], [Some(a), Some(b)] if a == b);
        if is_agreed {
            found = rows[0].1.clone();
        }
        is_agreed
    });
    let owner = found.unwrap();
    let other = if owner == "a" { "b" } else { "a" };
    (owner.clone(), other.to_owned())
}

#[test]
fn two_nodes_agree_on_an_owner_and_it_announces_both_families() {
    let lan = Lan::new(&["a", "b", "c"]);
    let ear = Ear::new(&lan, "c");
    let nodes = two(&lan, &[VIP4, VIP6]);
    let (owner, other) = agreed(&nodes, VIP4);
    assert_eq!(agreed(&nodes, VIP6).0, owner, "one group, one owner");
    let (running, maps) = &nodes[owner.as_str()];
    assert!(running.owns(VIP4));
    assert_eq!(maps.entries.len().unwrap(), 2);
    assert_eq!(nodes[other.as_str()].1.entries.len().unwrap(), 0);
    let mac = lan.mac(&owner);
    for vip in [VIP4, VIP6] {
        wait("an announcement is on the wire", || {
            ear.heard(ip(vip)) == Some(mac)
        });
    }
    // The solicited-node group is the kernel's on both, so that a takeover waits for no membership.
    for name in ["a", "b"] {
        wait("the group is joined", || {
            lan.groups(name).contains("ff02::1:ff00:100")
        });
    }
    let peers = running.status.borrow().peers.clone();
    assert_eq!(peers.len(), 1);
    assert!(
        peers
            .values()
            .all(|peer| peer.is_alive && peer.node == other)
    );
}

#[test]
fn a_node_that_vanishes_is_followed() {
    let lan = Lan::new(&["a", "b", "c"]);
    let ear = Ear::new(&lan, "c");
    let mut nodes = two(&lan, &[VIP4]);
    let (owner, other) = agreed(&nodes, VIP4);
    let (running, _) = nodes.remove(owner.as_str()).unwrap();
    // The wire goes with the agent: in-memory maps answer nobody.
    lan.unplug(&owner);
    running.kill();
    let survivor = &nodes[other.as_str()].0;
    wait("the other one takes over", || survivor.owns(VIP4));
    let (_, _, why) = survivor.row(VIP4).unwrap();
    assert!(
        why.starts_with(&format!("took over from {owner}: silent for ")),
        "{why}"
    );
    wait("it announces", || {
        ear.heard(ip(VIP4)) == Some(lan.mac(&other))
    });
}

#[test]
fn a_clean_stop_hands_over() {
    let lan = Lan::new(&["a", "b", "c"]);
    let mut nodes = two(&lan, &[VIP4]);
    let (owner, other) = agreed(&nodes, VIP4);
    let (running, maps) = nodes.remove(owner.as_str()).unwrap();
    running.leave();
    assert_eq!(maps.entries.len().unwrap(), 0, "let go after the successor");
    let survivor = &nodes[other.as_str()].0;
    wait("the other one has it", || survivor.owns(VIP4));
    let (_, _, why) = survivor.row(VIP4).unwrap();
    assert_eq!(why, format!("handed over by {owner}"));
}

#[test]
fn loss_of_carrier_lets_go() {
    let lan = Lan::new(&["a", "b", "c"]);
    let nodes = two(&lan, &[VIP4]);
    let (owner, other) = agreed(&nodes, VIP4);
    lan.unplug(&owner);
    let (lost, maps) = &nodes[owner.as_str()];
    wait("the entries are gone", || maps.entries.is_empty().unwrap());
    wait("the other one takes over", || {
        nodes[other.as_str()].0.owns(VIP4)
    });
    wait("the reason is shown", || {
        lost.row(VIP4)
            .is_some_and(|(_, _, why)| why == "the interface has no carrier")
    });
}

#[test]
fn a_killed_agent_adopts_what_its_maps_hold_before_the_api_answers() {
    let lan = Lan::new(&["a", "c"]);
    let maps = L2Maps::in_memory();
    let first = Running::start(&lan, "a", &maps, Some(snapshot(&[VIP4])));
    wait("it owns the address", || first.owns(VIP4));
    first.kill();
    assert_eq!(maps.entries.len().unwrap(), 1, "a kill releases nothing");
    let (_, before) = maps.entries.entries().unwrap()[0];
    let mut second = Running::start(&lan, "a", &maps, None);
    wait("there is a status", || {
        !second.status.borrow().interfaces.is_empty()
    });
    let first_status = second.status.borrow_and_update().clone();
    assert_eq!(
        first_status.held,
        [ip(VIP4)].into(),
        "known from the first status on"
    );
    wait("it owns the address without the API", || second.owns(VIP4));
    assert_eq!(second.status.borrow().held, [ip(VIP4)].into());
    second.snapshot.send_replace(Some(snapshot(&[VIP4])));
    wait("the Service is known", || {
        let status = second.status.borrow();
        let row = &status.vips[&(ip(VIP4), "lan0".to_owned())];
        row.is_self && !row.services.is_empty()
    });
    let (_, after) = maps.entries.entries().unwrap()[0];
    assert_eq!(
        (after.epoch, after.cell_epoch),
        (before.epoch, before.cell_epoch)
    );
    let cell = maps.cells.read(0);
    assert!(cell.deadline > clock::boottime_ns());
}

#[test]
fn nothing_is_held_before_it_is_programmed_or_after_it_is_unwanted() {
    let lan = Lan::new(&["a", "c"]);
    let maps = L2Maps::in_memory();
    let running = Running::start(&lan, "a", &maps, None);
    running.programmed.send_replace(Programmed::default());
    running.snapshot.send_replace(Some(snapshot(&[VIP4])));
    wait("it says what is missing", || {
        running
            .row(VIP4)
            .is_some_and(|(_, _, why)| why == "the datapath does not serve it yet")
    });
    assert!(maps.entries.is_empty().unwrap());
    running.programmed.send_replace(Programmed {
        generation: Generation(1),
        ..Programmed::default()
    });
    wait("it owns it", || running.owns(VIP4));
    assert_eq!(running.status.borrow().held, [ip(VIP4)].into());
    let empty = Snapshot {
        generation: Generation(2),
        services: BTreeMap::new(),
        ..Snapshot::clone(&snapshot(&[]))
    };
    running.snapshot.send_replace(Some(Arc::new(empty)));
    wait("nothing is held", || {
        running.status.borrow().held.is_empty()
    });
    assert!(maps.entries.is_empty().unwrap());
}

#[test]
fn a_station_with_the_address_is_a_conflict() {
    let lan = Lan::new(&["a", "c"]);
    lan.add_address("c", VIP4);
    let maps = L2Maps::in_memory();
    let running = Running::start(&lan, "a", &maps, Some(snapshot(&[VIP4])));
    let mac = lan.mac("c");
    wait("the conflict is shown with the foreign address", || {
        let status = running.status.borrow();
        let row = status.vips.get(&(ip(VIP4), "lan0".to_owned()));
        row.is_some_and(|row| row.conflict == Some(mac) && row.state == "Conflict")
    });
    assert!(maps.entries.is_empty().unwrap());
}

#[test]
fn a_station_that_claims_an_owned_address_is_shown_in_its_row() {
    let lan = Lan::new(&["a", "c"]);
    let ear = Ear::new(&lan, "c");
    let maps = L2Maps::in_memory();
    let running = Running::start(&lan, "a", &maps, Some(snapshot(&[VIP4])));
    wait("it owns the address", || running.owns(VIP4));
    ear.claim(ip(VIP4));
    let mac = lan.mac("c").to_string();
    wait("the owned address's row names the stranger", || {
        let rows = running.status.borrow().rows();
        rows.iter()
            .any(|row| row.is_self && row.conflict.as_ref() == Some(&mac))
    });
    assert_eq!(maps.entries.len().unwrap(), 1, "and it goes on answering");
}

#[test]
fn the_kernel_hears_heartbeats_after_the_agent_and_sends_none_in_their_name() {
    let lan = Lan::new(&["a", "c"]);
    let maps = L2Maps::in_memory();
    let running = Running::start(&lan, "a", &maps, Some(snapshot(&[VIP4])));
    wait("it owns the address", || running.owns(VIP4));
    let is_held = |group: &str| {
        let addresses = lan.addresses("a");
        let mut lines = addresses.lines();
        lines.any(|line| line.contains(group) && line.contains("autojoin"))
    };
    let groups = ["224.0.0.174", "ff02::464c"];
    // The link-local address, which IPv6 heartbeats need, is usable a while after the interface is up.
    wait("the kernel is a member", || groups.into_iter().all(is_held));
    running.kill();
    for group in groups {
        assert!(is_held(group) && lan.groups("a").contains(group), "{group}");
    }
    // A group is an address to the kernel; heartbeats that came from it would be dropped by every receiver.
    let source = lan.source_after_renewal("a", "224.0.0.174");
    assert!(source.contains("src 192.0.2.1 "), "{source}");
}

#[test]
fn an_unknown_interface_is_said_and_taken_when_it_comes() {
    let lan = Lan::new(&["a", "c"]);
    lan.rename("a", "lan0", "away0");
    let maps = L2Maps::in_memory();
    let running = Running::start(&lan, "a", &maps, Some(snapshot(&[VIP4])));
    wait("the trouble is shown", || {
        let status = running.status.borrow();
        let trouble = status
            .interfaces
            .get("lan0")
            .and_then(|i| i.trouble.clone());
        trouble.is_some_and(|trouble| trouble == "no interface is called lan0")
    });
    lan.rename("a", "away0", "lan0");
    wait("it owns the address", || running.owns(VIP4));
}

#[test]
fn another_key_is_another_cluster() {
    let lan = Lan::new(&["a", "b"]);
    let begin: Instant = clock::now();
    let (snapshot_tx, snapshot_rx) = watch::channel(Some(snapshot(&[])));
    let metrics = Metrics::new();
    let nodes = two(&lan, &[VIP4]);
    let config = AnnouncerConfig {
        node: node("x"),
        interfaces: vec!["lan0".to_owned()],
        settings: Settings::default(),
        lease: LeaseConfig::default(),
    };
    let (_programmed, programmed) = watch::channel(Programmed::default());
    let (_keys, keys) = watch::channel(vec![b"other".to_vec()]);
    let (history, _) = watch::channel(History::new());
    let inputs = AnnouncerInputs {
        history,
        moves: mpsc::channel(1).1,
        keys,
        snapshot: snapshot_rx,
        programmed,
        maps: L2Maps::in_memory(),
        netlink: Netlink::new(),
        client: None,
        metrics: metrics.clone(),
    };
    let announcer = Announcer::new(config, inputs).unwrap();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let thread = lan.spawn("b", move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(announcer.run(stopped)).unwrap();
    });
    wait("strangers' heartbeats are counted", || {
        let text = metrics.encode();
        let line = text
            .lines()
            .find(|l| l.contains("heartbeats_refused_total{reason=\"HeartbeatKey\"}"));
        line.is_some_and(|l| !l.ends_with(" 0"))
    });
    assert!(clock::now() - begin < PATIENCE);
    stop.cancel();
    thread.join().unwrap();
    drop((nodes, snapshot_tx));
}

#[test]
fn a_key_is_replaced_one_node_after_the_other_and_nobody_goes_missing() {
    let lan = Lan::new(&["a", "b", "c"]);
    let nodes = two(&lan, &[VIP4]);
    let (owner, _) = agreed(&nodes, VIP4);
    let key = |text: &str| text.as_bytes().to_vec();
    let is_well = || {
        let statuses = nodes.values().map(|(running, _)| running.status.borrow());
        let is_alive = |status: &L2Status| {
            status.peers.len() == 1 && status.peers.values().all(|peer| peer.is_alive)
        };
        statuses.into_iter().all(|status| is_alive(&status)) && nodes[owner.as_str()].0.owns(VIP4)
    };
    // The new key with the former one, then the new key alone; each time with one node far behind.
    let steps = [vec![key("fresh"), key("secret")], vec![key("fresh")]];
    for step in steps {
        for (running, _) in nodes.values() {
            running.keys.send_replace(step.clone());
            let until = clock::now() + Duration::from_millis(600);
            wait("nobody goes missing", || {
                assert!(is_well());
                clock::now() > until
            });
        }
    }
}

#[test]
fn a_port_of_a_bridge_is_not_announced_on() {
    let lan = Lan::new(&["a", "c"]);
    let maps = L2Maps::in_memory();
    let running = Running::start(&lan, "a", &maps, Some(snapshot(&[VIP4])));
    wait("it owns the address", || running.owns(VIP4));
    lan.enslave("a", "lan0", "br9");
    wait("it lets go and says why", || {
        let status = running.status.borrow();
        let trouble = status.interfaces["lan0"].trouble.clone();
        let is_said = trouble.is_some_and(|text| text.contains("port of br9"));
        is_said && maps.entries.len().unwrap() == 0 && status.held.is_empty()
    });
    lan.free("a", "lan0");
    wait("it owns the address again", || running.owns(VIP4));
}

#[test]
fn an_address_moves_on_request_and_both_nodes_remember_why() {
    let lan = Lan::new(&["a", "b", "c"]);
    let nodes = two(&lan, &[VIP4]);
    let (owner, other) = agreed(&nodes, VIP4);
    let ask = |of: &str, vip: &str, to: &str| {
        let (answer, answered) = oneshot::channel();
        let request = MoveRequest {
            vip: ip(vip),
            to: node(to),
            answer,
        };
        nodes[of].0.moves.blocking_send(request).unwrap();
        answered.blocking_recv().unwrap()
    };
    assert_eq!(ask(&other, VIP4, &owner), Err(MoveError::NotOwner));
    assert_eq!(ask(&owner, "192.0.2.77", &other), Err(MoveError::Unknown));
    assert_eq!(ask(&owner, VIP4, "stranger"), Err(MoveError::NotEligible));
    assert_eq!(ask(&owner, VIP4, &other), Ok(()));
    let took = wait("the other one owns it", || {
        nodes[other.as_str()].0.owns(VIP4)
    });
    assert!(took < Duration::from_secs(2), "{took:?}");
    for (name, state) in [(&other, "Owner"), (&owner, "Standby")] {
        wait("it is remembered", || {
            let history = nodes[name.as_str()].0.history.borrow();
            history.iter().any(|event| {
                let is_it = event.vip == ip(VIP4) && event.interface == "lan0";
                is_it && event.state == state && event.owner.as_deref() == Some(other.as_str())
            })
        });
    }
}

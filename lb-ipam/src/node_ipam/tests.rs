//! The scenarios of the specification (section 2), as events and the statuses that follow.

use std::time::UNIX_EPOCH;

use fairlead_api::condition::time;
use k8s_openapi::api::{core::v1, discovery::v1::EndpointSlice};
use kube::runtime::watcher::Event;

use super::book::{Book, Change};
use crate::alloc::{DefaultIpam, Settings};

/// A book that is told everything, and an API that takes what it writes.
struct World {
    book: Book,
    services: Vec<v1::Service>,
    version: u64,
    n_writes: usize,
}

impl World {
    fn new(settings: Settings) -> Self {
        let mut book = Book::new(settings);
        for event in [Event::Init, Event::InitDone] {
            book.apply(Change::Service(event));
        }
        for event in [Event::Init, Event::InitDone] {
            book.apply(Change::Node(event));
        }
        for event in [Event::Init, Event::InitDone] {
            book.apply(Change::Slice(event));
        }
        Self {
            book,
            services: Vec::new(),
            version: 0,
            n_writes: 0,
        }
    }

    fn service(&mut self, name: &str, spec: &str, annotations: &str) {
        let text = format!(
            "{{metadata: {{name: {name}, namespace: shop, uid: u-{name}, annotations: {{{annotations}}}}}, spec: {{type: LoadBalancer, {spec}}}}}"
        );
        let mut object: v1::Service = serde_norway::from_str(&text).unwrap();
        let mut each = self.services.iter();
        let old = each.find(|s| s.metadata.name == object.metadata.name);
        object.status = old.and_then(|old| old.status.clone());
        self.put(object);
    }

    fn put(&mut self, mut object: v1::Service) {
        self.version += 1;
        object.metadata.resource_version = Some(self.version.to_string());
        self.services
            .retain(|s| s.metadata.name != object.metadata.name);
        self.services.push(object.clone());
        self.book.apply(Change::Service(Event::Apply(object)));
        self.settle();
    }

    fn node(&mut self, name: &str, more: &str, addresses: &[(&str, &str)]) {
        self.book
            .apply(Change::Node(Event::Apply(node(name, more, addresses))));
        self.settle();
    }

    fn slice(&mut self, service: &str, endpoints: &str) {
        let text = format!(
            "{{metadata: {{name: {service}-1, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, ports: [{{port: 80}}], endpoints: {endpoints}}}"
        );
        let object: EndpointSlice = serde_norway::from_str(&text).unwrap();
        self.book.apply(Change::Slice(Event::Apply(object)));
        self.settle();
    }

    fn settle(&mut self) {
        for todo in self.book.todo(&time(UNIX_EPOCH)) {
            self.n_writes += 1;
            let name = todo.name.name().to_owned();
            let at = self
                .services
                .iter()
                .position(|s| s.metadata.name.as_ref() == Some(&name));
            let at = at.unwrap();
            let mut json = serde_json::json!(self.services[at]);
            json_patch::patch(&mut json, &todo.patch).unwrap();
            let mut object: v1::Service = serde_json::from_value(json).unwrap();
            self.version += 1;
            object.metadata.resource_version = Some(self.version.to_string());
            self.services[at] = object.clone();
            self.book.written(&todo.name, Ok(object.clone()));
            self.book.apply(Change::Service(Event::Apply(object)));
        }
        assert!(self.book.todo(&time(UNIX_EPOCH)).is_empty(), "settled");
    }

    fn shows(&self, name: &str) -> String {
        let mut each = self.services.iter();
        let found = each
            .find(|s| s.metadata.name.as_deref() == Some(name))
            .unwrap();
        let status = found.status.clone().unwrap_or_default();
        let ingress = status
            .load_balancer
            .and_then(|lb| lb.ingress)
            .unwrap_or_default();
        let ips: Vec<String> = ingress
            .into_iter()
            .filter_map(|e| e.ip.or(e.hostname))
            .collect();
        let conditions = status.conditions.unwrap_or_default();
        let mut ours = conditions
            .iter()
            .filter(|c| c.type_ == "fairlead.io/NodeIPAMSatisfied");
        let reason = ours.next().map_or("-", |c| c.reason.as_str()).to_owned();
        format!("{} {reason}", ips.join(","))
    }
}

fn node(name: &str, more: &str, addresses: &[(&str, &str)]) -> v1::Node {
    let addresses: Vec<String> = addresses
        .iter()
        .map(|(type_, ip)| format!("{{type: {type_}, address: '{ip}'}}"))
        .collect();
    let text = format!(
        "{{metadata: {{name: {name}, {more}}}, status: {{addresses: [{}]}}}}",
        addresses.join(", ")
    );
    serde_norway::from_str(&text).unwrap()
}

const NODE_CLASS: &str = "loadBalancerClass: io.cilium/node";
const V4: &str = "loadBalancerClass: io.cilium/node, ipFamilies: [IPv4]";

#[test]
fn a_service_gets_the_addresses_of_all_nodes_sorted_as_text() {
    let mut w = World::new(Settings::default());
    w.service("web", V4, "");
    assert_eq!(w.shows("web"), " no_node");
    w.node("n1", "", &[("InternalIP", "10.0.0.9"), ("Hostname", "n1")]);
    w.node(
        "n2",
        "",
        &[("InternalIP", "10.0.0.10"), ("InternalIP", "2001:db8::2")],
    );
    assert_eq!(w.shows("web"), "10.0.0.10,10.0.0.9 satisfied");
    w.service("six", &format!("{NODE_CLASS}, ipFamilies: [IPv6]"), "");
    assert_eq!(w.shows("six"), "2001:db8::2 satisfied");
    w.service(
        "both",
        &format!("{NODE_CLASS}, ipFamilies: [IPv4, IPv6]"),
        "",
    );
    assert_eq!(w.shows("both"), "10.0.0.10,10.0.0.9,2001:db8::2 satisfied");
    let writes = w.n_writes;
    w.node("n1", "labels: {a: b}", &[("InternalIP", "10.0.0.9")]);
    assert_eq!(w.n_writes, writes, "what changes nothing writes nothing");
}

#[test]
fn external_addresses_of_a_wanted_family_come_first() {
    let mut w = World::new(Settings::default());
    w.service("web", V4, "");
    w.node(
        "n1",
        "",
        &[("InternalIP", "10.0.0.1"), ("ExternalIP", "2001:db8::1")],
    );
    w.node("n2", "", &[("InternalIP", "10.0.0.2")]);
    assert_eq!(
        w.shows("web"),
        "10.0.0.1,10.0.0.2 satisfied",
        "the external one is of another family"
    );
    w.node(
        "n2",
        "",
        &[("InternalIP", "10.0.0.2"), ("ExternalIP", "192.0.2.2")],
    );
    assert_eq!(w.shows("web"), "192.0.2.2 satisfied");
    w.service("six", &format!("{NODE_CLASS}, ipFamilies: [IPv6]"), "");
    assert_eq!(w.shows("six"), "2001:db8::1 satisfied");
}

#[test]
fn a_node_that_no_longer_qualifies_leaves_at_once() {
    let mut w = World::new(Settings::default());
    w.service("web", V4, "");
    let address = |n: &'static str| [("InternalIP", n)];
    for (name, ip) in [
        ("n1", "10.0.0.1"),
        ("n2", "10.0.0.2"),
        ("n3", "10.0.0.3"),
        ("n4", "10.0.0.4"),
    ] {
        w.node(name, "", &address(ip));
    }
    assert_eq!(
        w.shows("web"),
        "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4 satisfied"
    );
    let label = "labels: {node.kubernetes.io/exclude-from-external-load-balancers: ''}";
    w.node("n1", label, &address("10.0.0.1"));
    assert_eq!(w.shows("web"), "10.0.0.2,10.0.0.3,10.0.0.4 satisfied");
    let mut going = node("n2", "", &address("10.0.0.2"));
    going.spec = serde_norway::from_str(
        "{taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}",
    )
    .unwrap();
    w.book.apply(Change::Node(Event::Apply(going)));
    w.settle();
    assert_eq!(w.shows("web"), "10.0.0.3,10.0.0.4 satisfied");
    w.node(
        "n3",
        "deletionTimestamp: '2026-01-01T00:00:00Z'",
        &address("10.0.0.3"),
    );
    assert_eq!(w.shows("web"), "10.0.0.4 satisfied");
    let gone = node("n4", "", &address("10.0.0.4"));
    w.book.apply(Change::Node(Event::Delete(gone)));
    w.settle();
    assert_eq!(w.shows("web"), " no_node");
    let mut cordoned = node("n5", "", &address("10.0.0.5"));
    cordoned.spec = serde_norway::from_str("{unschedulable: true}").unwrap();
    w.book.apply(Change::Node(Event::Apply(cordoned)));
    w.settle();
    assert_eq!(
        w.shows("web"),
        "10.0.0.5 satisfied",
        "a cordoned node still takes traffic"
    );
}

#[test]
fn local_follows_the_ready_endpoints() {
    let mut w = World::new(Settings::default());
    w.service("web", &format!("{V4}, externalTrafficPolicy: Local"), "");
    w.node("n1", "", &[("InternalIP", "10.0.0.1")]);
    w.node("n2", "", &[("InternalIP", "10.0.0.2")]);
    assert_eq!(w.shows("web"), " no_endpoint");
    w.slice("web", "[{addresses: [10.1.0.1], nodeName: n1}, {addresses: [10.1.0.2], nodeName: n2, conditions: {ready: false}}]");
    assert_eq!(
        w.shows("web"),
        "10.0.0.1 satisfied",
        "no word about ready means ready"
    );
    w.slice(
        "web",
        "[{addresses: [10.1.0.2], nodeName: n2, conditions: {ready: true}}]",
    );
    assert_eq!(w.shows("web"), "10.0.0.2 satisfied");
    w.service("web", &format!("{V4}, externalTrafficPolicy: Cluster"), "");
    assert_eq!(w.shows("web"), "10.0.0.1,10.0.0.2 satisfied");
}

#[test]
fn the_annotation_selects_nodes_and_a_bad_one_leaves_things_as_they_are() {
    let mut w = World::new(Settings::default());
    w.node("n1", "labels: {edge: 'yes'}", &[("InternalIP", "10.0.0.1")]);
    w.node("n2", "", &[("InternalIP", "10.0.0.2")]);
    w.service(
        "web",
        V4,
        "io.cilium.nodeipam/match-node-labels: 'edge in (yes)'",
    );
    assert_eq!(w.shows("web"), "10.0.0.1 satisfied");
    w.service(
        "web",
        V4,
        "io.cilium.nodeipam/match-node-labels: 'edge in yes'",
    );
    assert_eq!(w.shows("web"), "10.0.0.1 invalid_selector");
    w.service("web", V4, "io.cilium.nodeipam/match-node-labels: ''");
    assert_eq!(
        w.shows("web"),
        "10.0.0.1,10.0.0.2 satisfied",
        "an empty one matches all"
    );
    w.service("web", V4, "io.cilium.nodeipam/match-node-labels: 'edge=no'");
    assert_eq!(w.shows("web"), " no_node");
}

#[test]
fn a_status_edited_by_hand_is_corrected() {
    let mut w = World::new(Settings::default());
    w.node("n1", "", &[("InternalIP", "10.0.0.1")]);
    w.service("web", V4, "");
    let mut edited = w.services[0].clone();
    edited.status.as_mut().unwrap().load_balancer =
        serde_norway::from_str("{ingress: [{ip: 10.9.9.9}, {hostname: x}]}").unwrap();
    w.put(edited);
    assert_eq!(w.shows("web"), "10.0.0.1 satisfied");
}

#[test]
fn classes_decide_who_serves() {
    let node_ipam = Settings {
        default_ipam: DefaultIpam::NodeIpam,
        ..Settings::default()
    };
    for (settings, class, wanted) in [
        (Settings::default(), "", " -"),
        (
            Settings::default(),
            "loadBalancerClass: io.cilium/l2-announcer,",
            " -",
        ),
        (
            Settings::default(),
            "loadBalancerClass: example.com/lb,",
            " -",
        ),
        (
            Settings::default(),
            "loadBalancerClass: io.cilium/node,",
            "10.0.0.1 satisfied",
        ),
        (node_ipam, "", "10.0.0.1 satisfied"),
        (node_ipam, "loadBalancerClass: example.com/lb,", " -"),
    ] {
        let mut w = World::new(settings);
        w.node("n1", "", &[("InternalIP", "10.0.0.1")]);
        w.service(
            "web",
            &format!("{class} ipFamilies: [IPv4]"),
            "lbipam.cilium.io/ips: 10.5.5.5",
        );
        assert_eq!(w.shows("web"), wanted, "{class}");
    }
}

#[test]
fn what_is_no_longer_ours_is_cleaned() {
    let mut w = World::new(Settings::default());
    w.node("n1", "", &[("InternalIP", "10.0.0.1")]);
    w.service("web", V4, "");
    assert_eq!(w.shows("web"), "10.0.0.1 satisfied");
    let mut off = w.services[0].clone();
    off.spec.as_mut().unwrap().type_ = Some("ClusterIP".to_owned());
    w.put(off);
    assert_eq!(w.shows("web"), " -");
}

#[test]
fn nothing_is_written_before_every_list_is_whole() {
    let mut book = Book::new(Settings::default());
    let text = "{metadata: {name: web, namespace: shop, resourceVersion: '1'}, spec: {type: LoadBalancer, loadBalancerClass: io.cilium/node, ipFamilies: [IPv4]}}";
    let service: v1::Service = serde_norway::from_str(text).unwrap();
    for event in [Event::Init, Event::InitApply(service), Event::InitDone] {
        book.apply(Change::Service(event));
        assert!(book.todo(&time(UNIX_EPOCH)).is_empty());
    }
    for event in [Event::Init, Event::InitDone] {
        book.apply(Change::Slice(event));
    }
    book.apply(Change::Node(Event::Init));
    book.apply(Change::Node(Event::InitApply(node(
        "n1",
        "",
        &[("InternalIP", "10.0.0.1")],
    ))));
    assert!(book.todo(&time(UNIX_EPOCH)).is_empty());
    book.apply(Change::Node(Event::InitDone));
    assert_eq!(book.todo(&time(UNIX_EPOCH)).len(), 1);
}

//! Conversions keep what they can and name what they cannot.

use fairlead_model::{BackendState, ForwardingMode, LoadBalancerClass, Protocol, TrafficPolicy};
use k8s_openapi::api::{core::v1, discovery::v1::EndpointSlice};
use kube::api::DynamicObject;
use serde::de::DeserializeOwned;

use super::{Converted, join, l2_policy, node, pool, service, slice, typed};
use crate::{CiliumL2AnnouncementPolicy, CiliumLoadBalancerIPPool};

fn read<T: DeserializeOwned>(yaml: &str) -> T {
    serde_norway::from_str(yaml).unwrap()
}

fn fields<T>(converted: &Converted<T>) -> Vec<(&str, &str)> {
    let each = converted.problems.iter();
    each.map(|e| (e.field.as_str(), e.reason())).collect()
}

fn web() -> v1::Service {
    read(
        "metadata:
  name: web
  namespace: shop
  labels: {color: blue}
  annotations:
    service.cilium.io/forwarding-mode: snat
    fairlead.io/forwarding-mode: dsr-l2
    fairlead.io/maglev-table-size: '1021'
spec:
  type: LoadBalancer
  loadBalancerClass: io.cilium/l2-announcer
  externalTrafficPolicy: Local
  externalIPs: [192.0.2.9]
  ports:
  - {name: http, port: 80, nodePort: 30080, targetPort: web}
  - {name: dns, port: 53, protocol: UDP}
status:
  loadBalancer:
    ingress: [{ip: 192.0.2.1}, {hostname: elsewhere}, {ip: '2001:db8::1'}, {ip: 192.0.2.1}]
",
    )
}

#[test]
fn a_service_is_read_in_full() {
    let Converted { value, problems } = service(&web()).unwrap();
    assert_eq!(problems, []);
    assert_eq!(value.name.to_string(), "shop/web");
    assert!(value.is_load_balancer);
    assert_eq!(value.class, LoadBalancerClass::L2Announcer);
    assert_eq!(value.external_traffic_policy, TrafficPolicy::Local);
    assert_eq!(value.forwarding, ForwardingMode::DsrL2, "ours wins");
    assert_eq!(value.table_size, Some(1021));
    assert_eq!(
        value.load_balancer_ips,
        ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap())
    );
    assert_eq!(value.vips().len(), 3);
    assert_eq!(
        (
            value.ports[0].name.as_str(),
            value.ports[0].port,
            value.ports[0].node_port
        ),
        ("http", 80, 30080)
    );
    assert_eq!(value.ports[1].protocol, Protocol::Udp);
}

#[test]
fn only_load_balancers_have_load_balancer_addresses() {
    let mut object = web();
    object.spec.as_mut().unwrap().type_ = Some("ClusterIP".into());
    let value = service(&object).unwrap().value;
    assert_eq!(
        (
            value.is_load_balancer,
            value.load_balancer_ips.len(),
            value.external_ips.len()
        ),
        (false, 0, 1)
    );
}

#[test]
fn who_may_come_in_and_whether_a_client_stays_are_facts() {
    let given = |type_: &str, ranges: &str| {
        let object: v1::Service = read(&format!(
            "metadata: {{name: web, namespace: shop}}
spec: {{type: {type_}, sessionAffinity: ClientIP, loadBalancerSourceRanges: {ranges}, ports: [{{port: 80}}]}}",
        ));
        service(&object).unwrap()
    };
    let two = given("LoadBalancer", "[10.0.0.0/8, ' 2001:db8::/32 ']");
    assert_eq!(two.problems, []);
    assert!(two.value.session_affinity);
    let ranges = ["10.0.0.0/8", "2001:db8::/32"].map(|r| r.parse().unwrap());
    assert_eq!(two.value.source_ranges, Some(ranges.to_vec()));
    // What cannot be read must not open the service.
    let none = given("LoadBalancer", "[10.0.0.0/99]");
    assert_eq!(
        fields(&none),
        [("spec.loadBalancerSourceRanges[0]", "InvalidPrefix")]
    );
    assert_eq!(none.value.source_ranges, Some(vec![]));
    assert_eq!(given("LoadBalancer", "[]").value.source_ranges, None);
    assert_eq!(given("ClusterIP", "[10.0.0.0/8]").value.source_ranges, None);
    assert!(!service(&web()).unwrap().value.session_affinity);
}

#[test]
fn what_a_service_says_wrongly_is_named_and_the_rest_stands() {
    let object: v1::Service = read(
        "metadata: {name: web, namespace: shop, annotations: {
  fairlead.io/forwarding-mode: fast, service.cilium.io/forwarding-mode: dsr, fairlead.io/maglev-table-size: '1000'}}
spec: {type: LoadBalancer, externalIPs: [127.0.0.1, 192.0.2.9], ports: [{port: 0}, {port: 80, protocol: QUIC}, {port: 81}]}
status: {loadBalancer: {ingress: [{ip: 0.0.0.0}, {ip: nonsense}, {ip: '::ffff:192.0.2.1'}, {ip: 192.0.2.2}]}}
",
    );
    let converted = service(&object).unwrap();
    assert_eq!(
        fields(&converted),
        [
            ("status.loadBalancer.ingress[0].ip", "UnusableAddress"),
            ("status.loadBalancer.ingress[1].ip", "InvalidAddress"),
            ("status.loadBalancer.ingress[2].ip", "UnusableAddress"),
            ("spec.externalIPs[0]", "UnusableAddress"),
            ("spec.ports[0].port", "InvalidPort"),
            ("spec.ports[1].protocol", "InvalidValue"),
            (
                "metadata.annotations[fairlead.io/forwarding-mode]",
                "InvalidValue"
            ),
            (
                "metadata.annotations[fairlead.io/maglev-table-size]",
                "InvalidValue"
            ),
        ]
    );
    assert_eq!(
        converted.problems[6].to_string(),
        "metadata.annotations[fairlead.io/forwarding-mode]: `fast` is none of auto, snat, dsr-l2, dsr-ipip"
    );
    let value = converted.value;
    assert_eq!(
        value.forwarding,
        ForwardingMode::DsrIpip,
        "Cilium's word counts when ours is none"
    );
    assert_eq!(
        (value.table_size, value.ports.len(), value.vips().len()),
        (None, 1, 2)
    );
    let nameless: v1::Service = read("metadata: {name: UPPER, namespace: shop}");
    assert_eq!(service(&nameless).unwrap_err().reason(), "InvalidName");
}

fn backends(slices: &[&str]) -> Vec<String> {
    let mut object = web();
    object
        .spec
        .as_mut()
        .unwrap()
        .ports
        .as_mut()
        .unwrap()
        .truncate(1);
    let mut service = service(&object).unwrap().value;
    let slices: Vec<_> = slices
        .iter()
        .filter_map(|yaml| slice(&read::<EndpointSlice>(yaml)).unwrap())
        .map(|converted| converted.value)
        .collect();
    join(&mut service, &slices.iter().collect::<Vec<_>>());
    let each = service.backends["http"].iter();
    each.map(|b| {
        let node = b.node.as_ref().map_or("-", |n| n.as_str());
        format!("{} {} {:?} {node}", b.addr, b.port, b.state)
    })
    .collect()
}

const HEAD: &str =
    "metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}";

#[test]
fn endpoint_conditions_mean_what_kubernetes_means() {
    let endpoints = "
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.0.0.1]}
- {addresses: [10.0.0.2], conditions: {ready: true, terminating: true}}
- {addresses: [10.0.0.3], conditions: {ready: false}}
- {addresses: [10.0.0.4], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.0.5], conditions: {ready: false, serving: false, terminating: true}}
- {addresses: [10.0.0.6], conditions: {ready: false, terminating: true}}
- {addresses: [10.0.0.7], conditions: {serving: false, terminating: false}}
";
    assert_eq!(
        backends(&[&format!("{HEAD}{endpoints}")]),
        [
            "10.0.0.1 8080 Active -",
            "10.0.0.2 8080 Active -",
            "10.0.0.3 8080 NotReady -",
            "10.0.0.4 8080 Terminating -",
            "10.0.0.5 8080 NotReady -",
            "10.0.0.6 8080 NotReady -",
            "10.0.0.7 8080 Active -",
        ]
    );
}

#[test]
fn slices_join_by_port_name_and_protocol_sorted_and_once() {
    let one = "
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: http, port: 9, protocol: UDP}, {name: other, port: 1}, {name: http}]
endpoints:
- {addresses: [10.0.0.9, 10.0.0.8], nodeName: b}
- {addresses: [10.0.0.1], conditions: {ready: false}}
";
    let two = "
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], nodeName: a}, {addresses: [192.192.192.192]}]
";
    let six = "
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints: [{addresses: ['fd00::1']}]
";
    let names = "
addressType: FQDN
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [example.org]}]
";
    let dummy = "
addressType: IPv4
ports: [{name: http, port: 9999}]
endpoints: [{addresses: [192.192.192.192]}]
";
    let all = [one, two, six, names, dummy].map(|rest| format!("{HEAD}{rest}"));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(
        backends(&all),
        [
            "10.0.0.1 8080 Active a",
            "10.0.0.8 8080 Active b",
            "10.0.0.9 8080 Active b",
            "192.192.192.192 8080 Active -",
            "fd00::1 8080 Active -",
        ]
    );
    let orphan: EndpointSlice =
        read("{metadata: {name: x, namespace: y}, addressType: IPv4, endpoints: []}");
    assert!(slice(&orphan).unwrap().is_none());
}

#[test]
fn bad_endpoints_do_not_disturb_the_good_ones() {
    let object: EndpointSlice = read(&format!(
        "{HEAD}
addressType: IPv4
ports: [{{name: http, port: 8080}}, {{name: bad, port: 70000}}]
endpoints: [{{addresses: [10.0.0.300]}}, {{addresses: [10.0.0.1], nodeName: Not_A_Name}}]
"
    ));
    let converted = slice(&object).unwrap().unwrap();
    assert_eq!(
        fields(&converted),
        [
            ("ports[1].port", "InvalidPort"),
            ("endpoints[0].addresses[0]", "InvalidAddress"),
            ("endpoints[1].nodeName", "InvalidName"),
        ]
    );
    let good = &converted.value.backends[&("http".to_owned(), Protocol::Tcp)];
    assert_eq!((good.len(), good[0].state), (1, BackendState::Active));
}

#[test]
fn a_pool_keeps_its_readable_blocks() {
    let object: CiliumLoadBalancerIPPool = read(
        "apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: blue, creationTimestamp: '2026-01-02T03:04:05Z'}
spec:
  allowFirstLastIPs: 'No'
  blocks:
  - {cidr: 192.0.2.77/24, start: ignored}
  - {start: 198.51.100.1, stop: 198.51.100.9}
  - {start: '2001:db8::7'}
  - {start: 198.51.100.9, stop: 198.51.100.1}
  - {start: 198.51.100.9, stop: '2001:db8::'}
  - {stop: 198.51.100.9}
  - {cidr: 010.0.0.0/8}
  - {cidr: '::ffff:192.0.2.0/120'}
  - {start: 'fe80::1%eth0'}
  serviceSelector: {matchExpressions: [{key: color, operator: In, values: []}]}
",
    );
    let pool = pool(&object);
    let blocks: Vec<String> = pool
        .blocks
        .iter()
        .map(|b| format!("{} {}", b.range, b.is_prefix))
        .collect();
    assert_eq!(
        blocks,
        [
            "192.0.2.0 - 192.0.2.255 true",
            "198.51.100.1 - 198.51.100.9 false",
            "2001:db8::7 - 2001:db8::7 false"
        ]
    );
    let bad: Vec<&str> = pool
        .bad_blocks
        .iter()
        .map(|(field, _)| field.as_str())
        .collect();
    assert_eq!(
        bad,
        [
            "spec.blocks[3].stop",
            "spec.blocks[4].stop",
            "spec.blocks[5].start",
            "spec.blocks[6].cidr",
            "spec.blocks[7].cidr",
            "spec.blocks[8].start"
        ]
    );
    assert_eq!(
        (pool.created, pool.allow_first_last, pool.disabled),
        (1_767_323_045, false, false)
    );
    assert_eq!(
        pool.selector.unwrap_err(),
        "spec.serviceSelector.matchExpressions[0]: color: In needs at least one value"
    );
}

#[test]
fn a_policy_without_a_spec_does_nothing() {
    let plain: DynamicObject = read(
        "{apiVersion: cilium.io/v2alpha1, kind: CiliumL2AnnouncementPolicy, metadata: {name: quiet}}",
    );
    let object: CiliumL2AnnouncementPolicy = typed(&plain).unwrap();
    let policy = l2_policy(&object);
    assert!(!policy.load_balancer_ips && !policy.external_ips && policy.interfaces.is_empty());
    assert!(policy.node_selector.is_ok() && policy.service_selector.is_ok());
    let odd: DynamicObject = read(
        "{apiVersion: cilium.io/v2alpha1, kind: CiliumL2AnnouncementPolicy, metadata: {name: odd}, spec: {interfaces: eth0}}",
    );
    assert_eq!(
        typed::<CiliumL2AnnouncementPolicy>(&odd)
            .unwrap_err()
            .reason(),
        "InvalidObject"
    );
}

#[test]
fn nodes_say_whether_they_serve() {
    let text = |spec: &str, labels: &str| {
        format!(
            "metadata: {{name: n1, labels: {{{labels}}}}}
spec: {spec}
status: {{addresses: [{{type: Hostname, address: n1}}, {{type: InternalIP, address: 10.0.0.1}}, {{type: ExternalIP, address: bad}}]}}
"
        )
    };
    let plain = node(&read(&text("{}", "zone: a"))).unwrap();
    assert_eq!(
        fields(&plain),
        [("status.addresses[2].address", "InvalidAddress")]
    );
    assert_eq!(
        (plain.value.addresses.len(), plain.value.is_excluded),
        (1, false)
    );
    for (spec, labels) in [
        ("{unschedulable: true}", ""),
        (
            "{taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}",
            "",
        ),
        (
            "{taints: [{key: node.kubernetes.io/out-of-service, effect: NoExecute}]}",
            "",
        ),
        (
            "{}",
            "node.kubernetes.io/exclude-from-external-load-balancers: ''",
        ),
    ] {
        assert!(node(&read(&text(spec, labels))).unwrap().value.is_excluded);
    }
}

#[test]
fn a_no_execute_taint_repels_unless_it_judges_health() {
    let judge = |taint: &str| {
        let text = format!("metadata: {{name: n1}}\nspec: {{taints: [{taint}]}}");
        let value = node(&read(&text)).unwrap().value;
        (value.is_excluded, value.is_repelling)
    };
    for (taint, expected) in [
        (
            "{key: dedicated, value: lb, effect: NoExecute}",
            (false, true),
        ),
        (
            "{key: dedicated, value: lb, effect: NoSchedule}",
            (false, false),
        ),
        (
            "{key: node.kubernetes.io/unreachable, effect: NoExecute}",
            (false, false),
        ),
        (
            "{key: node.kubernetes.io/not-ready, effect: NoExecute}",
            (false, false),
        ),
        (
            "{key: node.kubernetes.io/out-of-service, effect: NoExecute}",
            (true, true),
        ),
    ] {
        assert_eq!(judge(taint), expected, "{taint}");
    }
}

#[test]
fn a_node_without_a_network_is_excluded() {
    let with = |status: &str| {
        let conditions = format!("[{{type: NetworkUnavailable, status: '{status}'}}]");
        let text = format!("metadata: {{name: n1}}\nstatus: {{conditions: {conditions}}}");
        node(&read(&text)).unwrap().value.is_excluded
    };
    assert_eq!(["True", "False", "Unknown"].map(with), [true, false, false]);
}

#[test]
fn a_gateway_s_service_is_served_by_every_node_s_proxy() {
    let text = format!(
        "{HEAD}
addressType: IPv4
ports: [{{name: http, port: 9999}}]
endpoints: [{{addresses: [192.192.192.192]}}]
"
    );
    let object: EndpointSlice = read(&text);
    let dummy = slice(&object).unwrap().unwrap().value;
    let mut gateway = service(&read(
        "metadata: {name: web, namespace: shop}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, ports: [{name: http, port: 80}]}",
    ))
    .unwrap()
    .value;
    assert_eq!(gateway.external_traffic_policy, TrafficPolicy::Local);
    join(&mut gateway, &[&dummy]);
    assert_eq!(gateway.external_traffic_policy, TrafficPolicy::Cluster);
}

#[test]
fn preferred_nodes_are_labels_with_weights() {
    let preferred = |text: &str| {
        let yaml = format!(
            "metadata: {{name: p, annotations: {{fairlead.io/prefer-nodes: '{text}'}}}}\nspec: {{}}"
        );
        l2_policy(&read(&yaml)).preferred
    };
    let read = preferred("role=edge:100, example.com/fast:5").unwrap();
    let weights: Vec<u32> = read.iter().map(|p| p.weight).collect();
    assert_eq!(weights, [100, 5]);
    let labels = [("role".to_owned(), "edge".to_owned())].into();
    assert!(read[0].nodes.matches(&labels) && !read[1].nodes.matches(&labels));
    assert_eq!(preferred("").unwrap(), []);
    for bad in ["role=edge", "role=edge:0", "role=edge:101", "a b=c:1", ":5"] {
        let error = preferred(bad).unwrap_err();
        assert!(
            error.contains("fairlead.io/prefer-nodes") && error.contains("LABEL=VALUE:WEIGHT"),
            "{error}"
        );
    }
}

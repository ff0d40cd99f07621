//! Whatever people write, the operator decides, and says on the object what it could not use.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{collections::BTreeMap, time::UNIX_EPOCH};

use fairlead_api::{CiliumLoadBalancerIPPool, condition::time};
use fairlead_lb_ipam::{Engine, Settings, alloc::engine::Delta, controller::write, request};
use k8s_openapi::api::core::v1::Service;
use proptest::prelude::*;
use serde_json::{Value, json};

const REASONS: [&str; 7] = [
    "satisfied",
    "no_pool",
    "pool_selector_mismatch",
    "already_allocated",
    "already_allocated_incompatible_service",
    "out_of_ips",
    "invalid_request",
];

/// Addresses as people write them: good ones, and every way to get them wrong.
fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0..16_u8).prop_map(|n| format!("192.0.2.{n}")),
        2 => (0..4_u8).prop_map(|n| format!("2001:db8::{n}")),
        4 => prop::sample::select(vec![
            "", " ", "0.0.0.0", "::", "::1", "127.0.0.1", "224.0.0.1", "255.255.255.255", "ff02::1",
            "::ffff:192.0.2.1", "192.0.2", "192.0.2.300", "010.0.0.1", "192.0.2.1/32", "fe80::1%eth0",
            "example.com", "192.0.2.1 192.0.2.2", "٣.0.0.1", "2001:db8:::1", "0x7f.1", "-1",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
    ]
}

fn cidr() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0..16_u8, 28..33_u8).prop_map(|(n, len)| format!("192.0.2.{n}/{len}")),
        1 => (120..129_u8).prop_map(|len| format!("2001:db8::/{len}")),
        3 => prop::sample::select(vec![
            "0.0.0.0/0", "::/0", "192.0.2.0", "192.0.2.0/33", "192.0.2.0/-1", "::ffff:192.0.2.0/120", "/24",
            "010.0.0.0/8", "192.0.2.0/24/24", "", "127.0.0.0/8", "224.0.0.0/4",
        ]).prop_map(str::to_owned),
        1 => (address(), 0..140_u8).prop_map(|(a, len)| format!("{a}/{len}")),
    ]
}

fn block() -> impl Strategy<Value = Value> {
    prop_oneof![
        cidr().prop_map(|cidr| json!({ "cidr": cidr })),
        (address(), address()).prop_map(|(start, stop)| json!({"start": start, "stop": stop})),
        address().prop_map(|start| json!({ "start": start })),
        Just(json!({})),
        (cidr(), address()).prop_map(|(cidr, start)| json!({"cidr": cidr, "start": start})),
    ]
}

fn pool(name: usize) -> impl Strategy<Value = Value> {
    let selector = prop::sample::select(vec![
        Value::Null,
        json!({"matchLabels": {"a": "b"}}),
        json!({"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}),
        json!({"matchExpressions": [{"key": "a", "operator": "Like"}]}),
        json!({"matchExpressions": [{"key": " ", "operator": "Exists"}]}),
        json!({}),
    ]);
    let annotation =
        prop::sample::select(vec!["", "x", "-3", "99999999999", "1m", "0s", "node,what"]);
    (prop::collection::vec(block(), 0..4), selector, any::<bool>(), annotation).prop_map(
        move |(blocks, selector, disabled, annotation)| {
            let mut spec = json!({"blocks": blocks, "disabled": disabled});
            if !selector.is_null() {
                spec["serviceSelector"] = selector;
            }
            json!({"apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool",
                "metadata": {"name": format!("p{name}"), "uid": format!("p{name}"), "resourceVersion": "1", "generation": 1,
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                    "annotations": {"fairlead.io/priority": annotation, "fairlead.io/sticky": annotation, "fairlead.io/allow-in-use": annotation}},
                "spec": spec})
        },
    )
}

fn service(name: usize) -> impl Strategy<Value = Value> {
    let list = prop::collection::vec(address(), 0..3).prop_map(|l| l.join(","));
    let entry = prop_oneof![
        address().prop_map(|ip| json!({ "ip": ip })),
        Just(json!({"hostname": "lb.example.com"})),
        Just(json!({})),
    ];
    let word = || prop::sample::select(vec!["", "k", "*", "a,,*", "IPv4", "IPv9", "absent, p0"]);
    (
        list,
        address(),
        prop::collection::vec(entry, 0..3),
        (word(), word(), word(), word()),
        any::<bool>(),
    )
        .prop_map(move |(list, field, ingress, (key, namespaces, family, pools), asks)| {
            let mut annotations = json!({"lbipam.cilium.io/sharing-key": key, "lbipam.cilium.io/sharing-cross-namespace": namespaces});
            if asks {
                annotations["lbipam.cilium.io/ips"] = json!(list);
            }
            if !pools.is_empty() && pools.contains('p') {
                annotations["fairlead.io/ip-pool"] = json!(pools);
            }
            json!({"metadata": {"name": format!("s{name}"), "namespace": "shop", "uid": format!("s{name}"), "resourceVersion": "1",
                    "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations},
                "spec": {"type": "LoadBalancer", "loadBalancerIP": if asks { field } else { String::new() },
                    "ipFamilies": [family], "ipFamilyPolicy": family, "ports": [{"port": name}]},
                "status": {"loadBalancer": {"ingress": ingress}}})
        })
}

/// An API that takes what the operator writes.
struct Api {
    services: BTreeMap<String, Service>,
    pools: BTreeMap<String, CiliumLoadBalancerIPPool>,
}

impl Api {
    fn settle(&mut self) {
        let mut engine = Engine::new(Settings::default());
        for _ in 0..16 {
            for service in self.services.values() {
                engine.set_service(request::service(service).unwrap());
            }
            for pool in self.pools.values() {
                engine.set_pool(request::pool(pool));
            }
            let delta = engine.run();
            if !self.take(&delta) {
                return;
            }
        }
        panic!("it does not settle");
    }

    fn take(&mut self, delta: &Delta) -> bool {
        let now = time(UNIX_EPOCH);
        let mut is_changed = false;
        for change in delta
            .services
            .iter()
            .filter_map(|(_, change)| change.as_ref())
        {
            let object = self.services.get_mut(change.name.name()).unwrap();
            let patch = write::service(object, change, &now);
            let mut plain = json!(object);
            json_patch::patch(&mut plain, &patch).unwrap();
            *object = serde_json::from_value(plain).unwrap();
            is_changed = true;
        }
        for change in delta.pools.iter().filter_map(|(_, change)| change.as_ref()) {
            let object = self.pools.get_mut(&change.name).unwrap();
            let patch = write::pool(object, change, &now);
            let mut plain = json!(object);
            json_patch::patch(&mut plain, &patch).unwrap();
            *object = serde_json::from_value(plain).unwrap();
            is_changed = true;
        }
        is_changed
    }
}

fn check_service(service: &Service) {
    let name = service.metadata.name.as_deref().unwrap();
    let status = service.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let mut ours = conditions
        .iter()
        .filter(|c| c.type_ == "cilium.io/IPAMRequestSatisfied");
    let said = ours.next().unwrap_or_else(|| panic!("{name} says nothing"));
    assert!(
        REASONS.contains(&said.reason.as_str()),
        "{name}: {}",
        said.reason
    );
    assert_eq!(said.status == "True", said.reason == "satisfied", "{name}");
    assert_eq!(
        said.message.is_empty(),
        said.status == "True",
        "{name}: {}",
        said.message
    );
    let ingress = status
        .load_balancer
        .and_then(|lb| lb.ingress)
        .unwrap_or_default();
    for entry in ingress {
        assert_eq!(entry.hostname, None, "{name}");
        let ip: std::net::IpAddr = entry.ip.unwrap().parse().unwrap();
        let is_mapped = matches!(ip, std::net::IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
        assert!(
            !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !is_mapped,
            "{name}: {ip}"
        );
    }
    let asked = service
        .metadata
        .annotations
        .as_ref()
        .unwrap()
        .get("lbipam.cilium.io/ips");
    let items = asked.iter().flat_map(|list| list.split(',')).map(str::trim);
    let has_bad = items
        .filter(|i| !i.is_empty())
        .any(|i| i.parse::<std::net::IpAddr>().is_err());
    if has_bad {
        assert_eq!(
            said.status, "False",
            "{name} asked for something that is no address"
        );
    }
}

fn check_pool(pool: &CiliumLoadBalancerIPPool) {
    let input = request::pool(pool);
    let name = &input.pool.name;
    let conditions = pool.status.clone().unwrap_or_default().conditions;
    let find = |type_: &str| conditions.iter().find(|c| c.type_ == type_);
    for type_ in [
        "cilium.io/PoolConflict",
        "cilium.io/IPsTotal",
        "cilium.io/IPsAvailable",
        "cilium.io/IPsUsed",
    ] {
        assert!(find(type_).is_some(), "{name}: {type_}");
    }
    let bad = input
        .pool
        .bad_blocks
        .iter()
        .chain(&input.problems)
        .map(|(field, _)| field.clone());
    let fields: Vec<String> = bad.collect();
    let invalid = find("fairlead.io/PoolInvalid").filter(|c| c.status == "True");
    assert_eq!(
        invalid.is_some(),
        !fields.is_empty() || input.pool.selector.is_err(),
        "{name}"
    );
    for field in fields {
        assert!(invalid.unwrap().message.contains(&field), "{name}: {field}");
    }
}

#[test]
fn a_pool_with_thousands_of_bad_blocks_says_what_fits_and_is_written_once() {
    let blocks: Vec<Value> = (0..3000)
        .map(|n| json!({"start": format!("nonsense-{n}")}))
        .collect();
    let pool = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool",
        "metadata": {"name": "p", "uid": "p", "resourceVersion": "1"}, "spec": {"blocks": blocks}});
    let mut api = Api {
        services: BTreeMap::new(),
        pools: [("p".to_owned(), serde_json::from_value(pool).unwrap())].into(),
    };
    api.settle();
    let status = api.pools["p"].status.clone().unwrap();
    let mut said = status
        .conditions
        .iter()
        .filter(|c| c.type_ == "fairlead.io/PoolInvalid");
    assert_eq!(said.next().unwrap().message.chars().count(), 32_768);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn bad_input_has_a_reason_on_the_object_every_time(
        pools in (pool(0), pool(1), pool(2)),
        services in (service(1), service(2), service(3), service(4), service(5)),
    ) {
        let read = |v: Value| serde_json::from_value::<Service>(v).unwrap();
        let (s1, s2, s3, s4, s5) = services;
        let services = [s1, s2, s3, s4, s5].map(read);
        let (p0, p1, p2) = pools;
        let pools = [p0, p1, p2].map(|v| serde_json::from_value::<CiliumLoadBalancerIPPool>(v).unwrap());
        let mut api = Api {
            services: services.into_iter().map(|s| (s.metadata.name.clone().unwrap(), s)).collect(),
            pools: pools.into_iter().map(|p| (p.metadata.name.clone().unwrap(), p)).collect(),
        };
        api.settle();
        api.services.values().for_each(check_service);
        api.pools.values().for_each(check_pool);
    }
}

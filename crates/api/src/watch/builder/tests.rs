//! Snapshots are complete, joined, and published once per change.

use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;

use super::{Change, SnapshotBuilder};

fn read<T: DeserializeOwned>(yaml: &str) -> T {
    serde_norway::from_str(yaml).unwrap()
}

fn service<T: DeserializeOwned>(name: &str, rest: &str) -> T {
    read(&format!(
        "{{metadata: {{name: {name}, namespace: shop}}, spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}{rest}}}"
    ))
}

fn slice<T: DeserializeOwned>(name: &str, service: &str, addr: &str) -> T {
    read(&format!(
        "{{metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}},
  addressType: IPv4, ports: [{{port: 8080}}], endpoints: [{{addresses: [{addr}]}}]}}"
    ))
}

fn list<K>(wrap: fn(Event<K>) -> Change, objects: Vec<K>) -> Vec<Change> {
    let items = objects.into_iter().map(Event::InitApply);
    std::iter::once(Event::Init)
        .chain(items)
        .chain([Event::InitDone])
        .map(wrap)
        .collect()
}

fn feed(builder: &mut SnapshotBuilder, changes: impl IntoIterator<Item = Change>) {
    changes.into_iter().for_each(|change| builder.apply(change));
}

/// A builder with one Service and one slice, all lists whole, first snapshot taken.
fn ready() -> SnapshotBuilder {
    let mut builder = SnapshotBuilder::default();
    feed(
        &mut builder,
        list(Change::Service, vec![service("web", "")]),
    );
    feed(
        &mut builder,
        list(Change::Slice, vec![slice("web-1", "web", "10.0.0.1")]),
    );
    feed(
        &mut builder,
        list(Change::Node, vec![read("metadata: {name: n1}")]),
    );
    feed(
        &mut builder,
        list(Change::L2Policy, vec![read("{metadata: {name: p1}}")]),
    );
    assert_eq!(builder.build().unwrap().generation.0, 1);
    builder
}

fn addrs(builder: &mut SnapshotBuilder) -> Vec<String> {
    let snapshot = builder.build().expect("something changed");
    let service = &snapshot.services[&"shop/web".parse().unwrap()];
    service.backends[""]
        .iter()
        .map(|b| b.addr.to_string())
        .collect()
}

#[test]
fn nothing_is_shown_before_every_list_is_whole() {
    let mut builder = SnapshotBuilder::default();
    feed(
        &mut builder,
        list(Change::Service, vec![service("web", "")]),
    );
    feed(&mut builder, list(Change::Slice, vec![]));
    feed(&mut builder, list(Change::Node, vec![]));
    feed(&mut builder, [Change::L2Policy(Event::Init)]);
    assert!(builder.build().is_none() && !builder.is_complete());
    feed(&mut builder, [Change::L2Policy(Event::InitDone)]);
    let snapshot = builder.build().unwrap();
    assert_eq!(
        (
            snapshot.generation.0,
            snapshot.services.len(),
            snapshot.nodes.len()
        ),
        (1, 1, 0)
    );
}

#[test]
fn an_empty_cluster_is_a_snapshot_too() {
    let mut builder = SnapshotBuilder::default();
    feed(&mut builder, list(Change::Service, vec![]));
    feed(&mut builder, list(Change::Slice, vec![]));
    feed(&mut builder, list(Change::Node, vec![]));
    feed(&mut builder, list(Change::L2Policy, vec![]));
    assert_eq!(builder.build().unwrap().generation.0, 1);
    assert!(builder.build().is_none(), "nothing changed since");
}

#[test]
fn each_change_is_one_generation_and_no_change_is_none() {
    let mut builder = ready();
    feed(
        &mut builder,
        [Change::Slice(Event::Apply(slice(
            "web-2", "web", "10.0.0.2",
        )))],
    );
    assert_eq!(addrs(&mut builder), ["10.0.0.1", "10.0.0.2"]);
    // Written again, as a condition or a resourceVersion does.
    feed(
        &mut builder,
        [Change::Service(Event::Apply(service("web", "")))],
    );
    feed(
        &mut builder,
        [Change::Slice(Event::Apply(slice(
            "web-2", "web", "10.0.0.2",
        )))],
    );
    feed(
        &mut builder,
        [Change::Node(Event::Apply(read(
            "metadata: {name: n1, resourceVersion: '7'}",
        )))],
    );
    assert!(builder.build().is_none());
    feed(
        &mut builder,
        [Change::Slice(Event::Delete(slice(
            "web-1", "web", "10.0.0.1",
        )))],
    );
    assert_eq!(addrs(&mut builder), ["10.0.0.2"]);
    feed(
        &mut builder,
        [Change::Service(Event::Delete(service("web", "")))],
    );
    let last = builder.build().unwrap();
    assert_eq!((last.generation.0, last.services.len()), (4, 0));
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_former_one() {
    let mut builder = ready();
    feed(
        &mut builder,
        [Change::Slice(Event::Apply(slice(
            "web-1", "other", "10.0.0.1",
        )))],
    );
    assert_eq!(addrs(&mut builder), Vec::<String>::new());
    feed(
        &mut builder,
        [Change::Service(Event::Apply(service("other", "")))],
    );
    let snapshot = builder.build().unwrap();
    assert_eq!(
        snapshot.services[&"shop/other".parse().unwrap()].backends[""].len(),
        1
    );
}

#[test]
fn a_new_list_never_shows_less_than_there_is() {
    let mut builder = ready();
    feed(&mut builder, [Change::Slice(Event::Init)]);
    feed(
        &mut builder,
        [Change::Slice(Event::InitApply(slice(
            "web-2", "web", "10.0.0.2",
        )))],
    );
    assert!(
        builder.build().is_none(),
        "a list half read changes nothing"
    );
    // The watch is cut again in the middle, and the list begins anew.
    feed(&mut builder, [Change::Slice(Event::Init)]);
    feed(
        &mut builder,
        [Change::Slice(Event::InitApply(slice(
            "web-1", "web", "10.0.0.1",
        )))],
    );
    feed(
        &mut builder,
        [Change::Slice(Event::InitApply(slice(
            "web-3", "web", "10.0.0.3",
        )))],
    );
    assert!(builder.build().is_none());
    feed(&mut builder, [Change::Slice(Event::InitDone)]);
    assert_eq!(addrs(&mut builder), ["10.0.0.1", "10.0.0.3"]);
    feed(&mut builder, list(Change::Slice, vec![]));
    assert_eq!(
        addrs(&mut builder),
        Vec::<String>::new(),
        "gone from the list is gone"
    );
}

#[test]
fn services_without_a_vip_are_left_out_until_they_want_one() {
    let mut builder = ready();
    let plain =
        "{metadata: {name: plain, namespace: shop}, spec: {type: ClusterIP, ports: [{port: 80}]}}";
    feed(&mut builder, [Change::Service(Event::Apply(read(plain)))]);
    feed(
        &mut builder,
        [Change::Slice(Event::Apply(slice(
            "plain-1", "plain", "10.0.0.7",
        )))],
    );
    assert!(builder.build().is_none());
    let external = plain.replace(
        "type: ClusterIP",
        "type: ClusterIP, externalIPs: [192.0.2.7]",
    );
    feed(
        &mut builder,
        [Change::Service(Event::Apply(read(&external)))],
    );
    let snapshot = builder.build().unwrap();
    assert_eq!(
        snapshot.services[&"shop/plain".parse().unwrap()].backends[""].len(),
        1
    );
    feed(&mut builder, [Change::Service(Event::Apply(read(plain)))]);
    assert_eq!(builder.build().unwrap().services.len(), 1);
}

#[test]
fn an_object_that_cannot_be_read_is_named_and_disturbs_nobody() {
    let mut builder = ready();
    assert_eq!(builder.take_problems(), None);
    let broken = "{metadata: {name: p1}, spec: {interfaces: eth0}}";
    feed(
        &mut builder,
        [
            Change::L2Policy(Event::Apply(read(broken))),
            Change::L2Policy(Event::Apply(read(
                "{metadata: {name: p2}, spec: {loadBalancerIPs: true}}",
            ))),
            Change::Service(Event::Apply(service(
                "web",
                ", status: {loadBalancer: {ingress: [{ip: '::'}, {ip: 192.0.2.1}]}}",
            ))),
        ],
    );
    let snapshot = builder.build().unwrap();
    assert_eq!(
        snapshot.l2_policies.keys().collect::<Vec<_>>(),
        ["p1", "p2"],
        "p1 stays as it was"
    );
    assert_eq!(
        snapshot.services[&"shop/web".parse().unwrap()]
            .load_balancer_ips
            .len(),
        1
    );
    let said: Vec<String> = builder
        .take_problems()
        .unwrap()
        .iter()
        .map(|(object, error)| format!("{object} {}", error.reason()))
        .collect();
    assert_eq!(
        said,
        [
            "CiliumL2AnnouncementPolicy p1 InvalidObject",
            "Service shop/web UnusableAddress"
        ]
    );
    // Still broken in a new list: the last readable form and the report stay.
    feed(&mut builder, list(Change::L2Policy, vec![read(broken)]));
    assert_eq!(builder.build().unwrap().l2_policies.len(), 1);
    assert_eq!(builder.take_problems(), None);
    feed(
        &mut builder,
        [
            Change::L2Policy(Event::Apply(read("{metadata: {name: p1}}"))),
            Change::Service(Event::Delete(service("web", ""))),
        ],
    );
    assert_eq!(builder.take_problems(), Some(vec![]));
}

//! The operator against the embedded API server, through kube, over TLS: nothing between them is replaced.
//! One layer can refuse chosen writes, as RBAC would.

#[path = "e2e/harness.rs"]
mod harness;

use std::collections::BTreeSet;

use harness::{Lab, Refusals};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

const THREE_FORMS: &str = "apiVersion: cilium.io/v2alpha1
kind: CiliumLoadBalancerIPPool
metadata: {name: blue}
spec:
  allowFirstLastIPs: 'No'
  blocks:
  - cidr: 192.0.2.0/30
  - start: 198.51.100.7
    stop: 198.51.100.8
  - start: '2001:db8::7'
";

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_conditions_and_counts() {
    let lab = Lab::start(Refusals::default()).await;
    lab.apply(THREE_FORMS).await;
    lab.service(
        "web",
        json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}),
    )
    .await;
    lab.shows("web", "192.0.2.1,2001:db8::7 True satisfied")
        .await;
    lab.pool_shows("blue", "cilium.io/PoolConflict", "False resolved")
        .await;
    // Two of the prefix are reserved, two are held, five are listed.
    lab.pool_shows("blue", "cilium.io/IPsTotal", "Unknown noreason 7")
        .await;
    lab.pool_shows("blue", "cilium.io/IPsUsed", "Unknown noreason 4")
        .await;
    lab.pool_shows("blue", "cilium.io/IPsAvailable", "Unknown noreason 3")
        .await;
    // A hand-set ipMode and a condition of somebody else survive our next write.
    lab.patch_status("web", json!({"conditions": [
        {"type": "example.com/Mine", "status": "True", "reason": "Yes", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Proxy"}, {"ip": "2001:db8::7"}]}}))
        .await;
    lab.shows("web", "192.0.2.1,2001:db8::7 True satisfied")
        .await;
    let service = lab.get("web").await;
    let status = service.status.unwrap();
    assert_eq!(
        status.load_balancer.unwrap().ingress.unwrap()[0]
            .ip_mode
            .as_deref(),
        Some("Proxy")
    );
    assert!(
        status
            .conditions
            .unwrap()
            .iter()
            .any(|c| c.type_ == "example.com/Mine")
    );
    lab.annotate("web", "lbipam.cilium.io/ips", "198.51.100.8")
        .await;
    lab.shows("web", "198.51.100.8 True satisfied").await;
    lab.delete("web").await;
    lab.pool_shows("blue", "cilium.io/IPsUsed", "Unknown noreason 2")
        .await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_writes_nothing_and_takes_in_what_happened_meanwhile() {
    let mut lab = Lab::start(Refusals::default()).await;
    lab.apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p}, spec: {blocks: [{cidr: 192.0.2.0/29}]}}").await;
    for name in ["a", "b", "c"] {
        lab.service(name, json!({})).await;
    }
    for (name, shown) in [("a", 0), ("b", 1), ("c", 2)] {
        lab.shows(name, &format!("192.0.2.{shown} True satisfied"))
            .await;
    }
    lab.pool_shows("p", "cilium.io/IPsUsed", "Unknown noreason 3")
        .await;
    lab.stop_operator().await;
    let before = lab.versions().await;
    lab.start_operator();
    // Proof that the new one is at work: it serves a newcomer.
    lab.service("d", json!({})).await;
    lab.shows("d", "192.0.2.3 True satisfied").await;
    let after = lab.versions().await;
    for (name, version) in before {
        assert_eq!(after[&name], version, "{name} was written by a restart");
    }
    lab.stop_operator().await;
    lab.delete("b").await;
    lab.set_type("c", "ClusterIP").await;
    lab.start_operator();
    lab.service("e", json!({})).await;
    lab.shows("e", "192.0.2.1 True satisfied").await;
    lab.shows("c", " -").await;
    lab.shows("a", "192.0.2.0 True satisfied").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named_and_disturbs_nobody() {
    let lab = Lab::start(Refusals::default()).await;
    lab.service("early", json!({})).await;
    lab.shows("early", " False no_pool").await;
    lab.apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: first}, spec: {blocks: [{start: 192.0.2.1}, {start: 192.0.2.9, stop: 192.0.2.2}]}}").await;
    lab.shows("early", "192.0.2.1 True satisfied").await;
    lab.pool_shows(
        "first",
        "fairlead.io/PoolInvalid",
        "True invalid_spec spec.blocks[1].stop: start 192.0.2.9 lies after stop 192.0.2.2",
    )
    .await;
    lab.service("late", json!({})).await;
    lab.shows("late", " False out_of_ips").await;
    lab.service("greedy", json!({"loadBalancerIP": "192.0.2.1"}))
        .await;
    lab.shows("greedy", " False already_allocated").await;
    // A younger pool overlaps (of one second, the names decide): it names itself, and what it would give is not given.
    lab.apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: second}, spec: {blocks: [{cidr: 192.0.2.0/24}]}}").await;
    lab.pool_shows(
        "second",
        "cilium.io/PoolConflict",
        "True cidr_overlap range 192.0.2.0 - 192.0.2.255 overlaps range 192.0.2.1 - 192.0.2.1 of pool first",
    )
    .await;
    lab.shows("late", " False out_of_ips").await;
    lab.shows("early", "192.0.2.1 True satisfied").await;
    // A malformed manifest is refused at the field and changes nothing.
    let refused = lab
        .try_apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: bad}, spec: {blocks: [{cidr: 192.0.2.0}], allowFirstLastIPs: Maybe}}")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("spec.blocks[0].cidr") && refused.contains("spec.allowFirstLastIPs"),
        "{refused}"
    );
    // The old pool goes: the new one serves all, and who has an address that it contains keeps it.
    lab.delete_pool("first").await;
    lab.pool_shows("second", "cilium.io/PoolConflict", "False resolved")
        .await;
    lab.shows("late", "192.0.2.0 True satisfied").await;
    lab.shows("early", "192.0.2.1 True satisfied").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_stops_only_what_it_forbids() {
    let refusals = Refusals::default();
    refusals.refuse("/services/a-secret/status");
    refusals.refuse("/ciliumloadbalancerippools/p/status");
    let lab = Lab::start(refusals.clone()).await;
    lab.apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p}, spec: {blocks: [{cidr: 192.0.2.0/29}]}}").await;
    lab.service("a-secret", json!({})).await;
    lab.service("open", json!({})).await;
    lab.shows("open", "192.0.2.1 True satisfied").await;
    lab.service("open2", json!({})).await;
    lab.shows("open2", "192.0.2.2 True satisfied").await;
    lab.shows("a-secret", " -").await;
    lab.metric("fairlead_lbipam_failed_writes_total{reason=\"Forbidden\"}")
        .await;
    refusals.allow_all();
    lab.shows("a-secret", "192.0.2.0 True satisfied").await;
    lab.pool_shows("p", "cilium.io/IPsUsed", "Unknown noreason 3")
        .await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_of_others_are_left_alone() {
    let lab = Lab::start(Refusals::default()).await;
    lab.apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p}, spec: {blocks: [{cidr: 192.0.2.0/29}]}}").await;
    lab.service("other", json!({"loadBalancerClass": "example.com/lb"}))
        .await;
    lab.patch_status(
        "other",
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.0"}]}}),
    )
    .await;
    lab.service("l2", json!({"loadBalancerClass": "io.cilium/l2-announcer"}))
        .await;
    lab.shows("l2", "192.0.2.1 True satisfied").await;
    lab.shows("other", "192.0.2.0 -").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_size_is_written_once_with_the_first_backends() {
    let lab = Lab::start(Refusals::default()).await;
    lab.service("web", json!({})).await;
    lab.slice("web", &["10.0.0.1", "10.0.0.2", "10.0.0.3"])
        .await;
    lab.annotation_is("web", "fairlead.io/maglev-table-size", "509")
        .await;
    let backends: Vec<String> = (1..=50).map(|n| format!("10.0.1.{n}")).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    lab.slice("web", &backends).await;
    lab.service("set", json!({})).await;
    lab.annotate("set", "fairlead.io/maglev-table-size", "251")
        .await;
    lab.slice("set", &backends).await;
    lab.service("last", json!({})).await;
    lab.slice("last", &backends).await;
    lab.annotation_is("last", "fairlead.io/maglev-table-size", "8191")
        .await;
    lab.annotation_is("web", "fairlead.io/maglev-table-size", "509")
        .await;
    lab.annotation_is("set", "fairlead.io/maglev-table-size", "251")
        .await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_at_once_get_one_address_each_across_a_restart() {
    const N: usize = 300;
    let mut lab = Lab::start(Refusals::default()).await;
    for n in 0..N {
        lab.service(&format!("s{n}"), json!({})).await;
    }
    lab.apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p}, spec: {blocks: [{cidr: 192.0.2.0/24}, {cidr: 198.51.100.0/24}]}}").await;
    // In the middle of the work.
    lab.eventually("some are served", async |lab| lab.held().await.len() > 20)
        .await;
    lab.stop_operator().await;
    lab.start_operator();
    lab.eventually("all are served", async |lab| lab.held().await.len() == N)
        .await;
    let held = lab.held().await;
    let distinct: BTreeSet<&String> = held.iter().collect();
    assert_eq!(distinct.len(), N, "no address has two owners");
    lab.pool_shows("p", "cilium.io/IPsUsed", &format!("Unknown noreason {N}"))
        .await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_between_decision_and_write_is_decided_anew() {
    let refusals = Refusals::default();
    refusals.hold("/services/web/status");
    let lab = Lab::start(refusals.clone()).await;
    lab.apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p}, spec: {blocks: [{cidr: 192.0.2.0/29}]}}").await;
    lab.service("web", json!({})).await;
    refusals.until_held().await;
    // The write for 192.0.2.0 is under way; nobody else may get that address meanwhile.
    lab.service("another", json!({})).await;
    lab.shows("another", "192.0.2.1 True satisfied").await;
    lab.annotate("web", "lbipam.cilium.io/ips", "192.0.2.6")
        .await;
    refusals.allow_all();
    lab.shows("web", "192.0.2.6 True satisfied").await;
    let service: Service = lab.get("web").await;
    assert_eq!(
        service
            .status
            .unwrap()
            .load_balancer
            .unwrap()
            .ingress
            .unwrap()
            .len(),
        1
    );
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_beyond_cilium_works_through_the_api() {
    let mut lab = Lab::start(Refusals::default()).await;
    lab.apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p, annotations: {fairlead.io/sticky: 1h}}, spec: {blocks: [{cidr: 192.0.2.0/29}]}}").await;
    lab.apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: q}, spec: {blocks: [{cidr: 198.51.100.0/29}]}}").await;
    lab.apply("{apiVersion: fairlead.io/v1alpha1, kind: AddressReservation, metadata: {name: r}, spec: {blocks: [{start: 192.0.2.0}], service: {namespace: default, name: kept}}}").await;
    lab.service("web", json!({})).await;
    lab.shows("web", "192.0.2.1 True satisfied").await;
    lab.service("kept", json!({})).await;
    lab.shows("kept", "192.0.2.0 True satisfied").await;
    lab.service("named", json!({})).await;
    lab.annotate("named", "fairlead.io/ip-pool", "q").await;
    lab.shows("named", "198.51.100.0 True satisfied").await;
    // Sticky, also over a restart: who comes back gets its address back, though another came first.
    lab.delete("web").await;
    lab.usage("p", |status| {
        status
            .kept
            .iter()
            .any(|k| k.address == "192.0.2.1" && k.name == "web")
    })
    .await;
    lab.stop_operator().await;
    lab.start_operator();
    lab.service("other", json!({})).await;
    lab.shows("other", "192.0.2.2 True satisfied").await;
    lab.service("web", json!({})).await;
    lab.shows("web", "192.0.2.1 True satisfied").await;
    // A node, and pods, inside a pool.
    lab.node("n1", "198.51.100.3", "192.0.2.0/24").await;
    lab.pool_shows("q", "fairlead.io/PoolInUse", "True address_in_use spec.blocks[0]: 198.51.100.0 - 198.51.100.7 holds 198.51.100.3, node address of node n1").await;
    lab.service("late", json!({})).await;
    lab.shows("late", " False no_pool").await;
    lab.annotate_pool("p", "fairlead.io/allow-in-use", "pod")
        .await;
    lab.shows("late", "192.0.2.3 True satisfied").await;
    lab.shows("named", "198.51.100.0 True satisfied").await;
    lab.metric("cilium_operator_lbipam_ips_used{pool=\"p\"}")
        .await;
    lab.metric("cilium_operator_lbipam_event_processing_time_seconds_count{event=\"upsert\",resource=\"service\"}").await;
    lab.metric("fairlead_lbipam_services_matching").await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_class_node_get_the_addresses_of_nodes() {
    let mut lab = Lab::start(Refusals::default()).await;
    lab.stop_operator().await;
    lab.with_node_ipam(fairlead_lb_ipam::Settings::default());
    lab.start_operator();
    lab.node("n1", "10.0.0.1", "10.244.0.0/24").await;
    lab.service(
        "web",
        json!({"loadBalancerClass": "io.cilium/node", "ipFamilies": ["IPv4"]}),
    )
    .await;
    lab.eventually("the address of the node", async |lab| {
        lab.held().await == ["10.0.0.1"]
    })
    .await;
    lab.node("n2", "10.0.0.2", "10.244.1.0/24").await;
    lab.eventually("of both", async |lab| {
        lab.held().await == ["10.0.0.1", "10.0.0.2"]
    })
    .await;
    lab.stop().await;
}

//! LB-IPAM on a real kube-apiserver: the stories of the operator's own tests, played there.

#[path = "../../../operator/tests/e2e/harness.rs"]
mod harness;
#[path = "../../../operator/tests/e2e/two.rs"]
mod two;

use fairlead_cluster::ControlPlane;
use harness::{Lab, Refusals};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_at_once_give_no_address_to_two_services() {
    let plane = ControlPlane::start().unwrap();
    plane.install_crds().unwrap();
    let client = plane.client().await.unwrap();
    let first = Refusals::default();
    let mut lab = Lab::over(client.clone(), first.clone());
    two::a_double_assignment_is_repaired(&mut lab, &first).await;
    lab.delete("older").await;
    lab.delete("younger").await;
    lab.pool_shows("p", "cilium.io/IPsUsed", "Unknown noreason 0")
        .await;
    // What goes beyond Cilium passes this server's schemas too, and is written there.
    lab.apply("{apiVersion: fairlead.io/v1alpha1, kind: AddressReservation, metadata: {name: r}, spec: {blocks: [{start: 192.0.2.0, stop: 192.0.2.4}], service: {namespace: default, name: kept}}}").await;
    lab.annotate_pool("p", "fairlead.io/sticky", "1h").await;
    lab.service("web", json!({})).await;
    lab.shows("web", "192.0.2.5 True satisfied").await;
    lab.service("kept", json!({})).await;
    lab.shows("kept", "192.0.2.0 True satisfied").await;
    lab.delete("web").await;
    lab.usage("p", |status| {
        status.kept.iter().any(|k| k.address == "192.0.2.5")
    })
    .await;
    lab.service("other", json!({})).await;
    lab.shows("other", "192.0.2.6 True satisfied").await;
    lab.service("web", json!({})).await;
    lab.shows("web", "192.0.2.5 True satisfied").await;
    lab.stop().await;
}

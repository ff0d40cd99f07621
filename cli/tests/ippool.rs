//! `fairlead ippool plan` and `import` as programs, the first against the embedded API.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
};

use fairlead_apiserver::{Config, Server};
use fairlead_rt::CancellationToken;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tempfile::TempDir;

fn fairlead(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fairlead"))
        .args(args)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What was said, without the frame and the line breaks that a terminal gets.
fn stderr(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).replace(['│', '×'], " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Two Services with addresses of the pool `p`, as the operator would have left them.
async fn fill(client: &Client) {
    let pools = ApiResource::erase::<fairlead_api::CiliumLoadBalancerIPPool>(&());
    let pools = Api::<DynamicObject>::all_with(client.clone(), &pools);
    let pool: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool", "metadata": {"name": "p"},
        "spec": {"blocks": [{"cidr": "192.0.2.0/30"}]}}))
    .unwrap();
    pools.create(&PostParams::default(), &pool).await.unwrap();
    let services = Api::<Service>::default_namespaced(client.clone());
    for (name, ip) in [("one", "192.0.2.1"), ("two", "192.0.2.2")] {
        let object = json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
        let object: Service = serde_json::from_value(object).unwrap();
        services
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": ip}]}, "conditions": [
            {"type": "cilium.io/IPAMRequestSatisfied", "status": "True", "reason": "satisfied", "message": "",
             "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let params = PatchParams::default();
        services
            .patch_status(name, &params, &Patch::Merge(status))
            .await
            .unwrap();
    }
}

fn plan(dir: &Path, manifest: &str) -> Output {
    let kubeconfig = dir.join("kubeconfig");
    let file = dir.join("pools.yaml");
    std::fs::write(&file, manifest).unwrap();
    fairlead(&[
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
        "ippool",
        "plan",
        "-f",
        file.to_str().unwrap(),
    ])
}

const POOL: &str = "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: p}\nspec: {blocks: [{BLOCK}]}\n";

fn check_plans(dir: &Path) {
    let seen = plan(dir, &POOL.replace("BLOCK", "cidr: 192.0.2.0/29"));
    assert_eq!(seen.status.code(), Some(0), "{seen:?}");
    assert!(
        stdout(&seen).contains("0 lose an address, 0 move, 0 gain, 2 stay as they are."),
        "{seen:?}"
    );
    // One address is outside, and there is another for it.
    let seen = plan(
        dir,
        &POOL.replace("BLOCK", "start: 192.0.2.2, stop: 192.0.2.3"),
    );
    assert_eq!(seen.status.code(), Some(0), "{seen:?}");
    let text = stdout(&seen);
    assert!(
        text.contains("default/one") && text.contains("moves") && text.contains("192.0.2.3"),
        "{text}"
    );
    // Room for one only.
    let seen = plan(dir, &POOL.replace("BLOCK", "start: 192.0.2.2"));
    assert_eq!(seen.status.code(), Some(1), "{seen:?}");
    let text = stdout(&seen);
    assert!(
        text.contains("default/one") && text.contains("loses"),
        "{text}"
    );
    assert!(text.contains("out_of_ips"), "{text}");
    // A new pool that overlaps is told, and takes nothing.
    let seen = plan(
        dir,
        &POOL
            .replace("name: p", "name: q")
            .replace("BLOCK", "cidr: 192.0.2.0/24"),
    );
    assert_eq!(seen.status.code(), Some(0), "{seen:?}");
    assert!(
        stdout(&seen).contains("q: cidr_overlap: range 192.0.2.0"),
        "{seen:?}"
    );
    let kubeconfig = dir.join("kubeconfig");
    let seen = fairlead(&[
        "--kubeconfig",
        kubeconfig.to_str().unwrap(),
        "-o",
        "json",
        "ippool",
        "plan",
        "--delete",
        "p",
    ]);
    assert_eq!(seen.status.code(), Some(1), "{seen:?}");
    let json: serde_json::Value = serde_json::from_str(&stdout(&seen)).unwrap();
    assert_eq!(json["n_loses"], 2);
    // What cannot be read is named.
    let seen = plan(
        dir,
        "kind: CiliumLoadBalancerIPPool\nmetadata: {name: p}\nspec: {blocks: none}\n",
    );
    let said = stderr(&seen);
    assert!(
        !seen.status.success() && said.contains("document 1"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_who_keeps_moves_and_loses_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let mut config = Config::new(
        dir.path().join("data"),
        SocketAddr::from(([127, 0, 0, 1], 0)),
    );
    config.crds = fairlead_api::crds().iter().map(|crd| json!(crd)).collect();
    let server = Server::open(config).unwrap();
    let text = server.kubeconfig().to_owned();
    std::fs::write(dir.path().join("kubeconfig"), &text).unwrap();
    let stop = CancellationToken::new();
    let work = async {
        let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        let client = Client::try_from(config).unwrap();
        fill(&client).await;
        let path = dir.path().to_owned();
        tokio::task::spawn_blocking(move || check_plans(&path))
            .await
            .unwrap();
        let services = Api::<Service>::default_namespaced(client);
        let one = services.get("one").await.unwrap();
        let ingress = one.status.unwrap().load_balancer.unwrap().ingress.unwrap();
        assert_eq!(
            ingress[0].ip.as_deref(),
            Some("192.0.2.1"),
            "nothing was changed"
        );
        stop.cancel();
    };
    let (served, ()) = tokio::join!(server.run(stop.clone()), work);
    served.unwrap();
}

#[test]
fn an_import_is_a_manifest_with_what_has_no_equivalent_in_comments() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("metallb.yaml");
    let text = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: first}\nspec: {addresses: [192.0.2.0/28]}\n---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: tor}\nspec: {}\n";
    std::fs::write(&file, text).unwrap();
    let seen = fairlead(&[
        "ippool",
        "import",
        "--from",
        "metallb",
        file.to_str().unwrap(),
    ]);
    assert_eq!(seen.status.code(), Some(0), "{seen:?}");
    assert_eq!(
        stdout(&seen),
        "# What has no equivalent, or is to be done by hand:\n# - BGPPeer tor: BGP is not translated; write CiliumBGPClusterConfig and its kin\n---\napiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata:\n  name: first\nspec:\n  blocks:\n  - cidr: 192.0.2.0/28\n"
    );
    std::fs::write(&file, "kind: ConfigMap\nmetadata: {name: x}\n").unwrap();
    let seen = fairlead(&[
        "ippool",
        "import",
        "--from",
        "metallb",
        file.to_str().unwrap(),
    ]);
    assert!(!seen.status.success());
    let said = stderr(&seen);
    assert!(
        said.contains("nothing of that load balancer is in it"),
        "{said}"
    );
}

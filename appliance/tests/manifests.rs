//! Manifests against the embedded API: the example as it is, refusals with their field, and applying again.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{net::SocketAddr, path::Path};

use fairlead_api::{CiliumL2AnnouncementPolicy, CiliumLoadBalancerIPPool};
use fairlead_apiserver::{Config, Server};
use fairlead_appliance::{join, manifests};
use fairlead_rt::CancellationToken;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client};
use tempfile::TempDir;

/// An embedded API for the length of `test`.
async fn with_api<T>(test: impl AsyncFnOnce(Client) -> T) -> T {
    let dir = TempDir::new().unwrap();
    let mut config = Config::new(dir.path(), SocketAddr::from(([127, 0, 0, 1], 0)));
    let crds = fairlead_api::crds();
    config.crds = crds
        .iter()
        .map(|crd| serde_json::to_value(crd).unwrap())
        .collect();
    let server = Server::open(config).unwrap();
    let url = format!("https://{}", server.local_addr());
    let (client, _) = join::client(server.kubeconfig(), Some(&url)).await.unwrap();
    let stop = CancellationToken::new();
    let work = async {
        let value = test(client).await;
        stop.cancel();
        value
    };
    let (served, value) = tokio::join!(server.run(stop.clone()), work);
    served.unwrap();
    value
}

#[tokio::test]
async fn the_example_applies_as_it_is_and_again_without_a_change() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/examples/main");
    with_api(async |client| {
        let first = manifests::apply(&client, &example).await.unwrap();
        assert!(first.bad.is_empty(), "{:?}", first.bad);
        assert_eq!((first.n_created, first.n_changed), (5, 0));
        let services: Api<Service> = Api::default_namespaced(client.clone());
        let web = services.get("web").await.unwrap();
        let ports = |service: &Service| service.spec.clone().unwrap().ports.unwrap();
        assert!(ports(&web).iter().all(|port| port.node_port.is_some()));
        let again = manifests::apply(&client, &example).await.unwrap();
        assert!(again.bad.is_empty(), "{:?}", again.bad);
        assert_eq!((again.n_created, again.n_changed, again.n_same), (0, 0, 5));
        assert_eq!(ports(&services.get("web").await.unwrap()), ports(&web));
        let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
        assert_eq!(
            slices
                .list(&kube::api::ListParams::default())
                .await
                .unwrap()
                .items
                .len(),
            2
        );
        let pools: Api<CiliumLoadBalancerIPPool> = Api::all(client.clone());
        assert_eq!(
            pools.get("lan").await.unwrap().spec.blocks.unwrap().len(),
            6
        );
        let policies: Api<CiliumL2AnnouncementPolicy> = Api::all(client);
        assert_eq!(
            policies.get("lan").await.unwrap().spec.load_balancer_ips,
            Some(true)
        );
    })
    .await;
}

#[tokio::test]
async fn refusals_name_file_document_and_field_and_disturb_nothing_else() {
    let dir = TempDir::new().unwrap();
    let documents = "
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: good}
spec: {blocks: [{cidr: 192.0.2.0/28}]}
---
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: typo}
spec: {blocks: [{cdir: 192.0.2.0/28}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, ports: [{port: 70000}]}
---
apiVersion: example.com/v1
kind: Unknown
metadata: {name: x}
---
apiVersion: v1
kind: Service
metadata: {name: lost, namespace: nowhere}
spec: {ports: [{port: 80}]}
";
    std::fs::write(dir.path().join("all.yaml"), documents).unwrap();
    with_api(async |client| {
        let applied = manifests::apply(&client, dir.path()).await.unwrap();
        let said: Vec<String> = applied.bad.iter().map(ToString::to_string).collect();
        assert_eq!((applied.n_created, said.len()), (1, 4), "{said:#?}");
        for (line, parts) in said.iter().zip([
            ["all.yaml, document 2", "typo", "cdir"],
            ["all.yaml, document 3", "Service web", "spec.ports[0].port"],
            ["all.yaml, document 4", "Unknown x", "example.com"],
            ["all.yaml, document 5", "nowhere/lost", "nowhere"],
        ]) {
            for part in parts {
                assert!(line.contains(part), "{line}");
            }
        }
    })
    .await;
}

//! Checks against real listeners and the embedded API, as root, in a network namespace of the test's own thread.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{net::SocketAddr, process::Command, time::Duration};

use fairlead_api::names::condition::BACKENDS_HEALTHY;
use fairlead_apiserver::{Config, Server};
use fairlead_rt::{CancellationToken, Metrics, clock};
use k8s_openapi::api::{
    core::v1::{Event, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A namespace of this thread's own; it goes with the thread.
fn alone_with(addresses: &[&str]) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let ip = |words: &str| {
        let status = Command::new("ip").args(words.split(' ')).status().unwrap();
        assert!(status.success(), "ip {words}");
    };
    ip("link set lo up");
    for address in addresses {
        ip(&format!("addr add {address}/32 dev lo"));
    }
}

async fn client(server: &Server) -> Client {
    let mut file = Kubeconfig::from_yaml(server.kubeconfig()).unwrap();
    for cluster in file.clusters.iter_mut().filter_map(|c| c.cluster.as_mut()) {
        cluster.server = Some(format!("https://{}", server.local_addr()));
    }
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = clock::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(clock::now() < deadline, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct Web {
    services: Api<Service>,
    slices: Api<EndpointSlice>,
    events: Api<Event>,
}

impl Web {
    async fn make(client: &Client, port: u16) -> Self {
        let web = Self {
            services: Api::default_namespaced(client.clone()),
            slices: Api::default_namespaced(client.clone()),
            events: Api::default_namespaced(client.clone()),
        };
        let service = json!({
            "metadata": {"name": "web", "annotations": {
                "fairlead.io/health-check": "tcp",
                "fairlead.io/health-check-interval": "100ms",
                "fairlead.io/health-check-failures": "2",
            }},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "targetPort": port}]},
        });
        let slice = json!({
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": port}],
            "endpoints": [{"addresses": ["10.9.0.1"]}, {"addresses": ["10.9.0.2"]}],
        });
        let made = PostParams::default();
        let service = serde_json::from_value(service).unwrap();
        web.services.create(&made, &service).await.unwrap();
        let slice = serde_json::from_value(slice).unwrap();
        web.slices.create(&made, &slice).await.unwrap();
        web
    }

    /// Readiness of the two, once the slice and the condition say so.
    async fn until(&self, ready: [bool; 2], reason: &str) {
        until(&format!("{ready:?}, {reason}"), async || {
            let slice = self.slices.get("web-1").await.unwrap();
            let is_ready = |n: usize| {
                let conditions = slice.endpoints[n].conditions.clone();
                conditions.and_then(|c| c.ready).unwrap_or(true)
            };
            let service = self.services.get("web").await.unwrap();
            let conditions = service.status?.conditions?;
            let ours = conditions
                .into_iter()
                .find(|c| c.type_ == BACKENDS_HEALTHY)?;
            ([is_ready(0), is_ready(1)] == ready && ours.reason == reason).then_some(())
        })
        .await;
    }

    async fn annotate(&self, name: &str, value: Value) {
        let patch = json!({"metadata": {"annotations": {name: value}}});
        let params = PatchParams::default();
        self.services
            .patch("web", &params, &Patch::Merge(patch))
            .await
            .unwrap();
    }

    async fn story(&self, at: [SocketAddr; 2]) {
        let first = TcpListener::bind(at[0]).await.unwrap();
        self.until([true, false], "BackendsFailing").await;
        let slice = self.slices.get("web-1").await.unwrap();
        assert_eq!(
            slice.annotations()["fairlead.io/health-check-failed"],
            "10.9.0.2"
        );
        let list = self.events.list(&ListParams::default()).await;
        let events = list.unwrap().items;
        let down = events
            .iter()
            .find(|e| e.reason.as_deref() == Some("BackendDown"))
            .unwrap();
        let said = down.message.clone().unwrap();
        assert!(
            said.contains("10.9.0.2") && said.contains("refused"),
            "{said}"
        );

        drop(first);
        self.until([true, false], "LastBackendKept").await;
        let second = TcpListener::bind(at[1]).await.unwrap();
        self.until([false, true], "BackendsFailing").await;

        // A manifest applied again says what it said; what is true comes back.
        let again = json!({"endpoints": [{"addresses": ["10.9.0.1"], "conditions": {"ready": true}}, {"addresses": ["10.9.0.2"]}]});
        let params = PatchParams::default();
        self.slices
            .patch("web-1", &params, &Patch::Merge(again))
            .await
            .unwrap();
        self.until([false, true], "BackendsFailing").await;

        self.annotate("fairlead.io/health-check-interval", "often".into())
            .await;
        self.until([true, true], "HealthCheckInvalid").await;
        self.annotate("fairlead.io/health-check-interval", "100ms".into())
            .await;
        self.until([false, true], "BackendsFailing").await;
        self.annotate("fairlead.io/health-check", Value::Null).await;
        self.until([true, true], "NotChecked").await;
        let slice = self.slices.get("web-1").await.unwrap();
        assert!(
            !slice
                .annotations()
                .contains_key("fairlead.io/health-check-failed")
        );
        drop(second);
    }
}

#[test]
fn a_backend_that_stops_answering_is_taken_out_and_the_last_is_kept() {
    alone_with(&["10.9.0.1", "10.9.0.2"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let dir = tempfile::TempDir::new().unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::open(Config::new(dir.path(), listen)).unwrap();
        let client = client(&server).await;
        let stop = CancellationToken::new();
        let metrics = Metrics::new();
        let story = async {
            let web = Web::make(&client, 8080).await;
            let at = ["10.9.0.1:8080", "10.9.0.2:8080"].map(|at| at.parse().unwrap());
            web.story(at).await;
            assert!(
                metrics
                    .encode()
                    .contains("fairlead_health_failing_backends 0")
            );
            stop.cancel();
        };
        let checks = fairlead_health::run(client.clone(), metrics.clone(), stop.clone());
        let (served, checked, ()) = tokio::join!(server.run(stop.clone()), checks, story);
        served.unwrap();
        checked.unwrap();
    });
}

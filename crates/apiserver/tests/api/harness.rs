//! A real server on a free port, in this process, with a temporary data directory.

#![allow(
    dead_code,
    reason = "every test binary uses its own part of the harness"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use fairlead_apiserver::{Config, RunError, Server};
use fairlead_rt::CancellationToken;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Long enough for a machine that builds something else at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) kubeconfig: String,
    pub(crate) client: kube::Client,
    pub(crate) dir: TempDir,
    pub(crate) stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

pub(crate) fn config(dir: &TempDir) -> Config {
    let mut config = Config::new(dir.path().join("data"), "127.0.0.1:0".parse().unwrap());
    config.crds = vec![pool_crd()];
    config.kubeconfig_path = Some(kubeconfig_path(dir));
    config
}

pub(crate) fn kubeconfig_path(dir: &TempDir) -> PathBuf {
    dir.path().join("kubeconfig")
}

pub(crate) async fn start() -> Running {
    start_with(|_| {}).await
}

pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir);
    change(&mut config);
    start_in(dir, config).await
}

#[expect(
    clippy::disallowed_methods,
    reason = "the task's handle is awaited by `shut_down`"
)]
pub(crate) async fn start_in(dir: TempDir, config: Config) -> Running {
    let server = Server::open(config).unwrap();
    let (addr, kubeconfig) = (server.local_addr(), server.kubeconfig().to_owned());
    let stop = CancellationToken::new();
    let task = tokio::spawn(server.run(stop.clone()));
    let client = client(&kubeconfig).await;
    Running {
        addr,
        kubeconfig,
        client,
        dir,
        stop,
        task,
    }
}

impl Running {
    /// Stops the server as a root would, and hands back its data.
    pub(crate) async fn shut_down(self) -> TempDir {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("stops in time");
        ended.unwrap().unwrap();
        self.dir
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("data/admin.token")).unwrap()
    }
}

pub(crate) async fn client(kubeconfig: &str) -> kube::Client {
    // Several tests install it; whoever is first wins and all are the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    kube::Client::try_from(config).unwrap()
}

/// A custom resource like Cilium's pools: two versions, status, columns, enum, default, list of objects.
pub(crate) fn pool_crd() -> Value {
    let schema = json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "description": "What the pool offers.", "properties": {
            "blocks": {"type": "array", "items": {"type": "object", "properties": {
                "cidr": {"type": "string", "format": "cidr", "description": "A block of addresses."},
                "start": {"type": "string"}, "stop": {"type": "string"}}}},
            "allowFirstLastIPs": {"type": "string", "enum": ["Yes", "No"]},
            "disabled": {"type": "boolean", "default": false}}},
        "status": {"type": "object", "properties": {"conditions": {"type": "array",
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
            "items": {"type": "object", "required": ["type", "status"], "properties": {
                "type": {"type": "string"}, "status": {"type": "string"}, "message": {"type": "string"},
                "reason": {"type": "string"}, "lastTransitionTime": {"type": "string", "format": "date-time"}}}}}}}});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "deprecated": !storage,
            "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
            "additionalPrinterColumns": [
                {"name": "Disabled", "type": "boolean", "jsonPath": ".spec.disabled"},
                {"name": "IPs Available", "type": "string",
                 "jsonPath": ".status.conditions[?(@.type==\"IPsAvailable\")].message"},
                {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "pools.example.io"},
        "spec": {"group": "example.io", "scope": "Cluster",
            "names": {"plural": "pools", "singular": "pool", "kind": "Pool", "listKind": "PoolList",
                "shortNames": ["pl"], "categories": ["lb"]},
            "versions": [version("v2", true), version("v2alpha1", false)]}})
}

/// Asks again until `check` has an answer.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = check().await {
            return answer;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

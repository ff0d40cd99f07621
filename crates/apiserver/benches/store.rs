//! A million writes (or as many as the first argument says) through the embedded API's store: how fast, and how large the file
//! grows. `cargo bench -p fairlead-apiserver --bench store -- 1000000`
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints what it finds and ends where it cannot go on"
)]

use std::time::Duration;

use fairlead_apiserver::{Config, Server};
use fairlead_rt::{CancellationToken, clock};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::KubeConfigOptions;
use serde_json::json;

/// Objects that are written over and over.
const NAMES: usize = 500;
/// Requests under way at once: with the writer's batches of 64, this keeps the disk busy.
const CLIENTS: usize = 128;

fn main() {
    let asked = std::env::args().find_map(|arg| arg.parse().ok());
    let writes: usize = asked.unwrap_or(1_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(writes));
}

async fn run(writes: usize) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::open(Config::new(&data, "127.0.0.1:0".parse().unwrap())).unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(server.kubeconfig()).unwrap();
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    let stop = CancellationToken::new();
    let work = async {
        for n in 0..NAMES {
            let map = json!({"metadata": {"name": format!("m{n}")}, "data": {"k": "0"}});
            maps.create(
                &PostParams::default(),
                &serde_json::from_value(map).unwrap(),
            )
            .await
            .unwrap();
        }
        let size = || std::fs::metadata(data.join("objects.redb")).map_or(0, |file| file.len());
        let (mut done, mut last) = (0, clock::now());
        let step = (writes / 20).max(1);
        while done < writes {
            let batch = step.min(writes - done);
            futures::stream::iter(done..done + batch)
                .map(|n| {
                    let maps = &maps;
                    async move {
                        let patch = Patch::Merge(
                            json!({"data": {"k": n.to_string(), "pad": "x".repeat(n % 900)}}),
                        );
                        maps.patch(&format!("m{}", n % NAMES), &PatchParams::default(), &patch)
                            .await
                            .unwrap();
                    }
                })
                .buffer_unordered(CLIENTS)
                .collect::<Vec<()>>()
                .await;
            done += batch;
            let took: Duration = last.elapsed();
            last = clock::now();
            let rate = batch as f64 / took.as_secs_f64();
            println!(
                "{done:>9} writes  {rate:>7.0}/s  file {:>6} KiB",
                size() / 1024
            );
        }
        stop.cancel();
    };
    let (served, ()) = tokio::join!(server.run(stop.clone()), work);
    served.unwrap();
}

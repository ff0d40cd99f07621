//! 5,000 Services on a real kube-apiserver: how long until each has its address, against that server's own speed. The second half
//! of `./x bench lb-ipam`.
//!
//! The yardstick is the same number of equal patches of Services' statuses, as many at a time, with nothing decided between.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it is a command")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use fairlead_cluster::ControlPlane;
use fairlead_operator::Config;
use fairlead_rt::{CancellationToken, Metrics, Supervisor, clock};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

const N: usize = 5_000;
/// As many as LB-IPAM has under way.
const AT_A_TIME: usize = 32;
/// Longer is a failure, not a figure.
const PATIENCE: Duration = Duration::from_mins(5);

fn main() -> anyhow::Result<()> {
    let is_json = std::env::args()
        .skip(1)
        .any(|arg| arg == "json" || arg == "-ojson");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let plane = ControlPlane::start()?;
    plane.install_crds()?;
    runtime.block_on(measure(&plane, is_json))
}

fn say(is_json: bool, case: &str, value: f64, unit: &str) {
    if is_json {
        println!(
            "{}",
            json!({"bench": "lb-ipam", "case": case, "value": value, "unit": unit})
        );
    } else {
        println!("{case:<62} {value:>12.4} {unit}");
    }
}

async fn measure(plane: &ControlPlane, is_json: bool) -> anyhow::Result<()> {
    let client = plane.client().await?;
    create(&client, "yardstick").await?;
    create(&client, "measured").await?;
    let own = yardstick(&client).await?;
    say(
        is_json,
        "kube-apiserver: 5,000 equal patches, nothing decided",
        own.as_secs_f64(),
        "s",
    );
    let took = assign(plane, &client).await?;
    say(
        is_json,
        "kube-apiserver: 5,000 Services get their addresses",
        took.as_secs_f64(),
        "s",
    );
    say(
        is_json,
        "against that server's own speed",
        took.as_secs_f64() / own.as_secs_f64(),
        "x",
    );
    Ok(())
}

async fn create(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let object = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
    Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone())
        .create(&PostParams::default(), &object)
        .await
        .context("create a namespace")?;
    let api = &Api::<Service>::namespaced(client.clone(), namespace);
    stream::iter(0..N)
        .map(|n| async move {
            // Without a class of ours nobody else serves them; of this class LB-IPAM serves those that it is told to.
            let class = if namespace == "measured" { "io.cilium/l2-announcer" } else { "example.com/none" };
            let object = json!({"metadata": {"name": format!("s{n}")},
                "spec": {"type": "LoadBalancer", "loadBalancerClass": class, "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]}});
            let object: Service = serde_json::from_value(object).expect("it is a Service");
            api.create(&PostParams::default(), &object).await
        })
        .buffer_unordered(AT_A_TIME)
        .try_for_each(|_| async { Ok(()) })
        .await
        .with_context(|| format!("create Services in {namespace}"))
}

async fn yardstick(client: &Client) -> anyhow::Result<Duration> {
    let api = &Api::<Service>::namespaced(client.clone(), "yardstick");
    let begun = clock::now();
    stream::iter(0..N)
        .map(|n| async move {
            let ip = format!("10.{}.{}.1", n / 256, n % 256);
            let status = json!({"conditions": [{"type": "cilium.io/IPAMRequestSatisfied", "status": "True", "reason": "satisfied",
                "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}], "loadBalancer": {"ingress": [{"ip": ip}]}});
            let patch = json!([{"op": "add", "path": "/status", "value": status}]);
            let patch = serde_json::from_value(patch).expect("it is a patch");
            api.patch_status(&format!("s{n}"), &PatchParams::default(), &Patch::Json::<()>(patch)).await
        })
        .buffer_unordered(AT_A_TIME)
        .try_for_each(|_| async { Ok(()) })
        .await
        .context("patch the yardstick's Services")?;
    Ok(clock::now().duration_since(begun))
}

/// From the pool to the last address.
async fn assign(plane: &ControlPlane, client: &Client) -> anyhow::Result<Duration> {
    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new("operator", stop.clone());
    let (operator, token) = (client.clone(), tasks.token());
    tasks.spawn("operator", async move {
        let ran = fairlead_operator::run(Config::appliance(Metrics::new()), operator, token).await;
        ran.map_err(|e| format!("{e:#}"))
    });
    plane.apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p}, spec: {blocks: [{cidr: 172.30.0.0/16}]}}")?;
    let begun: Instant = clock::now();
    let api = Api::<Service>::namespaced(client.clone(), "measured");
    loop {
        let list = api
            .list(&ListParams::default())
            .await
            .context("list Services")?;
        let status = list.items.iter().filter_map(|s| s.status.as_ref());
        let ingress = status.filter_map(|s| s.load_balancer.as_ref()?.ingress.as_ref());
        let held: Vec<&String> = ingress.flatten().filter_map(|e| e.ip.as_ref()).collect();
        let took = clock::now().duration_since(begun);
        if held.len() == N {
            let distinct: BTreeSet<&&String> = held.iter().collect();
            ensure!(distinct.len() == N, "an address was given twice");
            stop.cancel();
            tasks.first_exit().await.context("end the operator")?;
            return Ok(took);
        }
        ensure!(took < PATIENCE, "{} of {N} after {took:?}", held.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

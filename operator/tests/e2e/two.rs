//! What two operators at once do to each other, against whatever API server the lab stands on.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]
#![allow(dead_code, reason = "every test binary uses its own part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::harness::{Lab, Refusals};
use fairlead_api::watch::SnapshotSource;
use fairlead_model::Snapshot;
use fairlead_rt::{CancellationToken, Supervisor};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;
use tokio::{sync::watch, time::Instant};

pub(crate) const POOL: &str = "{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p}, spec: {blocks: [{cidr: 192.0.2.0/24}]}}";

/// For how long two Services had one address, as the API showed it.
async fn doubles(client: kube::Client, longest: &watch::Sender<Vec<Duration>>) {
    let api = Api::<Service>::all(client);
    let mut events = watcher(api, watcher::Config::default())
        .applied_objects()
        .boxed();
    let mut held: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut since: Option<Instant> = None;
    while let Some(Ok(service)) = events.next().await {
        let status = service.status.clone().unwrap_or_default();
        let ingress = status
            .load_balancer
            .and_then(|lb| lb.ingress)
            .unwrap_or_default();
        let ips = ingress.into_iter().filter_map(|e| e.ip).collect();
        held.insert(service.name_any(), ips);
        let all: Vec<&String> = held.values().flatten().collect();
        let distinct: BTreeSet<&&String> = all.iter().collect();
        match (all.len() == distinct.len(), since) {
            (false, None) => since = Some(Instant::now()),
            (true, Some(begun)) => {
                longest.send_modify(|list| list.push(begun.elapsed()));
                since = None;
            }
            (true, None) | (false, Some(_)) => {}
        }
    }
}

/// Fails when any snapshot of an agent lists one address for two Services.
async fn agent(mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let mut owners = BTreeMap::new();
        for service in snapshot.services.values() {
            for vip in &service.load_balancer_ips {
                let other = owners.insert(*vip, service.name.clone());
                assert_eq!(other, None, "{vip} is served for {} as well", service.name);
            }
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Runs `body` beside an agent's view of the cluster and a clock of double assignments.
async fn watched(lab: &mut Lab, body: impl AsyncFnOnce(&mut Lab)) -> Vec<Duration> {
    let longest = watch::Sender::new(Vec::new());
    let stop = CancellationToken::new();
    let client = lab.client().clone();
    let source = SnapshotSource::new(&client);
    let (snapshots, driver) = source.ready(&stop).await.unwrap();
    let mut tasks = Supervisor::new("agent", stop.clone());
    tasks.spawn("snapshots", driver.run(tasks.token()));
    tokio::select! {
        () = body(lab) => {}
        () = doubles(client, &longest) => panic!("the watch ended"),
        () = agent(snapshots) => panic!("the snapshots ended"),
    }
    stop.cancel();
    tasks.first_exit().await.unwrap();
    longest.borrow().clone()
}

/// `first` is what the lab's operator is refused.
pub(crate) async fn a_double_assignment_is_repaired(lab: &mut Lab, first: &Refusals) {
    lab.apply(POOL).await;
    lab.service("older", json!({"type": "ClusterIP"})).await;
    first.hold("/services/younger/status");
    first.hold("/services/older/status");
    lab.service("younger", json!({})).await;
    // The first operator's write of 192.0.2.0 for `younger` is under way, and stays there.
    first.until_held().await;
    lab.set_type("older", "LoadBalancer").await;
    let doubles = watched(lab, async |lab| {
        // The second one begins: it knows nothing of that write, and `older` comes first.
        let second = Refusals::default();
        second.hold("/services/younger/status");
        lab.start_second_operator(second.clone());
        lab.shows("older", "192.0.2.0 True satisfied").await;
        // Now the late write lands: nobody changed `younger` since it was decided.
        first.allow_all();
        lab.shows("younger", "192.0.2.1 True satisfied").await;
        second.allow_all();
        lab.shows("older", "192.0.2.0 True satisfied").await;
    })
    .await;
    assert_eq!(doubles.len(), 1, "there was one: {doubles:?}");
    assert!(doubles[0] < Duration::from_secs(1), "{doubles:?}");
}

/// The second operator is at work until the lab ends.
pub(crate) async fn both_at_work(lab: &mut Lab) {
    const N: usize = 60;
    lab.apply(POOL).await;
    let doubles = watched(lab, async |lab| {
        lab.start_second_operator(Refusals::default());
        for n in 0..N {
            lab.service(&format!("s{n}"), json!({})).await;
        }
        lab.eventually("all are served", async |lab| {
            let held = lab.held().await;
            let distinct: BTreeSet<&String> = held.iter().collect();
            held.len() == N && distinct.len() == N
        })
        .await;
        for n in 0..N {
            lab.pool_shows("p", "cilium.io/PoolConflict", "False resolved")
                .await;
            if n % 2 == 0 {
                lab.delete(&format!("s{n}")).await;
            }
        }
        lab.pool_shows(
            "p",
            "cilium.io/IPsUsed",
            &format!("Unknown noreason {}", N / 2),
        )
        .await;
    })
    .await;
    assert!(
        doubles.iter().all(|d| *d < Duration::from_secs(1)),
        "{doubles:?}"
    );
}

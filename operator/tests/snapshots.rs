//! The watch that feeds agents, against the embedded API server: cut, restarted, and changed while it was away.

#[path = "e2e/harness.rs"]
mod harness;

use fairlead_api::watch::SnapshotSource;
use fairlead_rt::{CancellationToken, Supervisor};
use harness::{Lab, PATIENCE, Refusals};
use serde_json::json;

const N: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_complete_whatever_happens_to_the_server() {
    let mut lab = Lab::start(Refusals::default()).await;
    lab.apply("{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p}, spec: {blocks: [{cidr: 192.0.2.0/24}]}}").await;
    for n in 0..N {
        lab.service(&format!("s{n}"), json!({})).await;
        lab.slice(&format!("s{n}"), &["10.0.0.1", "10.0.0.2"]).await;
    }
    lab.eventually("all are served", async |lab| lab.held().await.len() == N)
        .await;

    let stop = CancellationToken::new();
    let source = SnapshotSource::new(lab.client());
    let ready = tokio::time::timeout(PATIENCE, source.ready(&stop))
        .await
        .unwrap();
    let (mut snapshots, driver) = ready.unwrap();
    let mut tasks = Supervisor::new("watch", stop.clone());
    tasks.spawn("driver", driver.run(tasks.token()));
    {
        let first = snapshots.borrow();
        assert_eq!(first.services.len(), N, "the first one is whole");
        assert!(
            first
                .services
                .values()
                .all(|s| s.backends["http"].len() == 2 && s.load_balancer_ips.len() == 1)
        );
    }

    // The server goes away and comes back on the same port with the same data.
    lab.restart_server().await;
    lab.slice("s0", &["10.0.0.3"]).await;
    let mut generation = snapshots.borrow().generation;
    let seen = async {
        loop {
            snapshots.changed().await.unwrap();
            let next = snapshots.borrow_and_update();
            assert!(next.generation > generation, "generations only grow");
            generation = next.generation;
            assert_eq!(next.services.len(), N, "never fewer than there are");
            let addrs = &next.services[&"default/s0".parse().unwrap()].backends["http"];
            if addrs.len() == 1 && addrs[0].addr.to_string() == "10.0.0.3" {
                return;
            }
            assert_eq!(addrs.len(), 2);
        }
    };
    tokio::time::timeout(PATIENCE, seen)
        .await
        .expect("the change arrives after the cut");

    // LB-IPAM came back too, and nobody moved.
    lab.service("after", json!({})).await;
    lab.shows("after", &format!("192.0.2.{N} True satisfied"))
        .await;
    stop.cancel();
    tasks.first_exit().await.unwrap();
    lab.stop().await;
}

//! Leadership by Lease against the embedded API server.

#[path = "e2e/harness.rs"]
mod harness;

use std::{sync::Arc, time::Duration};

use fairlead_operator::leader::{Election, LEASE_NAME, lead};
use fairlead_rt::{CancellationToken, Supervisor};
use harness::{Lab, PATIENCE, Refusals};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;

fn election(identity: &str) -> Election {
    Election {
        namespace: "default".to_owned(),
        identity: identity.to_owned(),
        lease_duration: Duration::from_secs(3),
        renew_deadline: Duration::from_secs(2),
        retry_period: Duration::from_millis(100),
    }
}

/// A candidate that says in `leaders` when it leads and when it ended.
fn candidate(
    lab: &Lab,
    identity: &'static str,
    leaders: &Arc<watch::Sender<Vec<String>>>,
) -> (CancellationToken, Supervisor) {
    let stop = CancellationToken::new();
    let (client, leaders) = (lab.client().clone(), Arc::clone(leaders));
    let mut tasks = Supervisor::new(identity, stop.clone());
    let token = tasks.token();
    tasks.spawn("candidate", async move {
        let work = |stop: CancellationToken| {
            leaders.send_modify(|l| l.push(format!("{identity} leads")));
            async move {
                stop.cancelled().await;
                leaders.send_modify(|l| l.push(format!("{identity} ended")));
                Ok(())
            }
        };
        lead(client, election(identity), token, work)
            .await
            .map_err(|e| format!("{e:#}"))
    });
    (stop, tasks)
}

async fn until(leaders: &watch::Sender<Vec<String>>, wanted: &[&str]) {
    let mut seen = leaders.subscribe();
    let wait = seen.wait_for(|seen| seen.iter().map(String::as_str).eq(wanted.iter().copied()));
    let found = tokio::time::timeout(PATIENCE, wait).await.is_ok();
    assert!(found, "wanted {wanted:?}, saw {:?}", leaders.borrow());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_the_next_takes_over_when_it_ends() {
    let lab = Lab::start(Refusals::default()).await;
    let leaders = Arc::new(watch::Sender::new(Vec::new()));
    let (stop_one, one) = candidate(&lab, "one", &leaders);
    until(&leaders, &["one leads"]).await;
    let (stop_two, two) = candidate(&lab, "two", &leaders);
    stop_one.cancel();
    one.first_exit().await.unwrap();
    // Released, not expired: `two` need not wait for the Lease to run out, and never led beside `one`.
    until(&leaders, &["one leads", "one ended", "two leads"]).await;
    // Somebody takes the Lease by force: who cannot renew ends with an error.
    let leases = Api::<Lease>::namespaced(lab.client().clone(), "default");
    let theft = json!({"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600, "renewTime": "2099-01-01T00:00:00.000000Z"}});
    leases
        .patch(LEASE_NAME, &PatchParams::default(), &Patch::Merge(theft))
        .await
        .unwrap();
    let ended = tokio::time::timeout(PATIENCE, two.first_exit())
        .await
        .expect("it ends");
    let said = fairlead_rt::root::chain(&ended.unwrap_err());
    assert!(said.contains("another operator holds Lease"), "{said}");
    until(
        &leaders,
        &["one leads", "one ended", "two leads", "two ended"],
    )
    .await;
    drop(stop_two);
    lab.stop().await;
}

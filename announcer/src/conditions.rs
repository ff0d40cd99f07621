//! Conditions of L2 policies: which part cannot be read. They appear with the first error and turn `False` when it is fixed.
//!
//! Every node says the same, so a node writes only what the object does not say yet.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fairlead_api::{
    condition::{self, Status, Wanted},
    l2_announcement_policy::v2alpha1::CiliumL2AnnouncementPolicy,
    names,
    watch::feed::Refusals,
};
use fairlead_rt::{BoxError, CancellationToken, clock};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;
use tracing::debug;

use crate::{policy::PolicyVerdict, status::L2Status};

/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// One API call.
const DEADLINE: Duration = Duration::from_secs(5);
/// What is done here, in a refusal.
const WHAT: &str = "write conditions of L2 policies";
/// Cilium's words.
const REASON_BAD: &str = "error";
const REASON_FIXED: &str = "fixed";

/// The three parts of a policy that may be unreadable, with why.
type Faults = [Option<String>; 3];

const TYPES: [&str; 3] = [
    names::condition::BAD_NODE_SELECTOR,
    names::condition::BAD_SERVICE_SELECTOR,
    names::condition::BAD_INTERFACE_REGEX,
];

fn faults(verdict: &PolicyVerdict) -> Faults {
    [
        verdict.bad_node_selector.clone(),
        verdict.bad_service_selector.clone(),
        verdict.bad_interface_regex.clone(),
    ]
}

/// Writes until told to stop.
///
/// # Errors
/// None; the signature is that of a supervised task. An API that is away or refuses is asked again.
///
/// # Cancel safety
/// Nothing is lost: the next start compares again.
pub async fn run(
    client: Client,
    mut status: watch::Receiver<Arc<L2Status>>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let policies: Api<CiliumL2AnnouncementPolicy> = Api::all(client);
    let mut said: BTreeMap<String, Faults> = BTreeMap::new();
    let mut refusals = Refusals::default();
    loop {
        let now = status.borrow_and_update().clone();
        said.retain(|name, _| now.policies.contains_key(name));
        let mut is_behind = false;
        for (name, verdict) in &now.policies {
            let faults = faults(verdict);
            if said.get(name) == Some(&faults) {
                continue;
            }
            let say = tokio::time::timeout(DEADLINE, say(&policies, name, &faults)).await;
            match say {
                Ok(Ok(())) => {
                    refusals.worked(WHAT);
                    said.insert(name.clone(), faults);
                }
                Ok(Err(error)) => {
                    refusals.failed(WHAT, &error);
                    is_behind = true;
                }
                Err(_elapsed) => {
                    debug!(policy = %name, "no answer, trying again");
                    is_behind = true;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = status.changed() => if changed.is_err() {
                stop.cancelled().await;
                return Ok(());
            },
            () = tokio::time::sleep(RETRY), if is_behind => {}
        }
    }
}

/// Brings the object's conditions up to date, if they are not.
async fn say(
    policies: &Api<CiliumL2AnnouncementPolicy>,
    name: &str,
    faults: &Faults,
) -> Result<(), kube::Error> {
    let Some(policy) = policies.get_opt(name).await? else {
        return Ok(());
    };
    let mut conditions = policy.status.map(|s| s.conditions).unwrap_or_default();
    let mut is_changed = false;
    for (type_, fault) in TYPES.into_iter().zip(faults) {
        let is_known = condition::find(&conditions, type_).is_some();
        let (status, reason) = match fault {
            Some(_) => (Status::True, REASON_BAD),
            None if is_known => (Status::False, REASON_FIXED),
            None => continue,
        };
        let wanted = Wanted {
            type_,
            status,
            reason: reason.to_owned(),
            message: fault.clone().unwrap_or_default(),
            observed_generation: policy.metadata.generation,
        };
        is_changed |= condition::set(&mut conditions, &wanted, &condition::time(clock::wall()));
    }
    if !is_changed {
        return Ok(());
    }
    let patch = json!({
        "metadata": { "resourceVersion": policy.metadata.resource_version },
        "status": { "conditions": conditions },
    });
    let params = PatchParams {
        field_manager: Some(names::manager::L2.to_owned()),
        ..PatchParams::default()
    };
    policies
        .patch_status(name, &params, &Patch::Merge(patch))
        .await?;
    Ok(())
}

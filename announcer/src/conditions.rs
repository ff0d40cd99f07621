//! Conditions of L2 policies: which part cannot be read or matches nothing. They appear with the first fault and turn `False` when it is
//! mended.
//!
//! Every node says the same, so a node writes only what the object does not say yet. Only what its interfaces are called is known to each node
//! alone: that condition lists nodes, each adds and removes itself, and names of nodes that are gone go with the next write.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fairlead_api::{
    condition::{self, Status, Wanted},
    l2_announcement_policy::v2alpha1::CiliumL2AnnouncementPolicy,
    names,
    watch::feed::Refusals,
};
use fairlead_model::{NodeName, Snapshot};
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
/// Before the list of nodes in the message of [`names::condition::NO_INTERFACE`].
const NOWHERE: &str = "spec.interfaces matches no announcing interface of: ";
/// Cilium's words.
const REASON_BAD: &str = "error";
const REASON_FIXED: &str = "fixed";

/// What all nodes say of a policy, and what this one adds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Faults {
    /// By [`TYPES`]: the fault in words, if there is one.
    common: [Option<String>; 6],
    /// The policy selects this node and names none of its interfaces.
    is_nowhere_here: bool,
}

/// Condition types with the reason of the fault.
const TYPES: [(&str, &str); 6] = [
    (names::condition::BAD_NODE_SELECTOR, REASON_BAD),
    (names::condition::BAD_SERVICE_SELECTOR, REASON_BAD),
    (names::condition::BAD_INTERFACE_REGEX, REASON_BAD),
    (names::condition::BAD_PREFERENCE, REASON_BAD),
    (names::condition::NO_NODE, "NothingSelected"),
    (names::condition::NO_SERVICE, "NothingSelected"),
];

fn faults(verdict: &PolicyVerdict) -> Faults {
    let is_readable = verdict.is_readable();
    let nothing = |is_nothing: bool, why: &str| (is_readable && is_nothing).then(|| why.to_owned());
    Faults {
        common: [
            verdict.bad_node_selector.clone(),
            verdict.bad_service_selector.clone(),
            verdict.bad_interface_regex.clone(),
            verdict.bad_preference.clone(),
            nothing(
                verdict.n_nodes == 0,
                "spec.nodeSelector selects no node: compare it with `kubectl get ciliumnodes,nodes --show-labels`",
            ),
            nothing(
                verdict.n_services == 0,
                "no Service that spec.serviceSelector selects has an address that the policy announces: \
                 set loadBalancerIPs or externalIPs, and compare with `kubectl get services --show-labels`",
            ),
        ],
        is_nowhere_here: is_readable && verdict.selects_this_node && verdict.interfaces.is_empty(),
    }
}

/// The list of nodes in a message, with or without `me`, and without those that are gone.
fn nowhere(message: &str, me: &str, is_here: bool, is_node: impl Fn(&str) -> bool) -> Vec<String> {
    let listed = message.strip_prefix(NOWHERE).unwrap_or_default();
    let mut nodes: Vec<String> = listed
        .split(", ")
        .filter(|name| *name != me && is_node(name))
        .map(str::to_owned)
        .collect();
    if is_here {
        nodes.push(me.to_owned());
    }
    nodes.sort_unstable();
    nodes.dedup();
    nodes
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
    node: NodeName,
    snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
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
            let nodes = snapshot.borrow().clone();
            // Before the API has been heard, every name is taken for a node's.
            let is_node = |name: &str| {
                let is_one = |of: &Snapshot| of.nodes.keys().any(|node| node.as_str() == name);
                !name.is_empty() && nodes.as_deref().is_none_or(is_one)
            };
            let say =
                tokio::time::timeout(DEADLINE, say(&policies, name, &faults, (&node, is_node)))
                    .await;
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
    (me, is_node): (&NodeName, impl Fn(&str) -> bool),
) -> Result<(), kube::Error> {
    let Some(policy) = policies.get_opt(name).await? else {
        return Ok(());
    };
    let mut conditions = policy.status.map(|s| s.conditions).unwrap_or_default();
    let types = TYPES.into_iter().zip(faults.common.clone());
    let said = condition::find(&conditions, names::condition::NO_INTERFACE);
    let message = said.map(|c| c.message.clone()).unwrap_or_default();
    let nodes = nowhere(&message, me.as_str(), faults.is_nowhere_here, is_node);
    let nowhere = (!nodes.is_empty()).then(|| format!("{NOWHERE}{}", nodes.join(", ")));
    let nowhere = ((names::condition::NO_INTERFACE, "NothingSelected"), nowhere);
    let mut is_changed = false;
    for ((type_, bad), fault) in types.chain([nowhere]) {
        let is_known = condition::find(&conditions, type_).is_some();
        let (status, reason) = match fault {
            Some(_) => (Status::True, bad),
            None if is_known => (Status::False, REASON_FIXED),
            None => continue,
        };
        let wanted = Wanted {
            type_,
            status,
            reason: reason.to_owned(),
            message: fault.unwrap_or_default(),
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

#[cfg(test)]
mod tests {
    use super::{NOWHERE, faults, nowhere};
    use crate::policy::PolicyVerdict;

    #[test]
    fn what_matches_nothing_is_a_fault_and_what_cannot_be_read_is_that_alone() {
        let well = PolicyVerdict {
            selects_this_node: true,
            n_nodes: 1,
            n_services: 1,
            interfaces: vec!["eth0".to_owned()],
            ..PolicyVerdict::default()
        };
        let said = |verdict: &PolicyVerdict| {
            let faults = faults(verdict);
            let common = faults
                .common
                .iter()
                .map(Option::is_some)
                .collect::<Vec<_>>();
            (common, faults.is_nowhere_here)
        };
        let none = [false; 6];
        assert_eq!(said(&well), (none.to_vec(), false));
        let no_node = PolicyVerdict {
            n_nodes: 0,
            selects_this_node: false,
            ..well.clone()
        };
        assert_eq!(
            said(&no_node),
            (vec![false, false, false, false, true, false], false)
        );
        let no_service = PolicyVerdict {
            n_services: 0,
            ..well.clone()
        };
        assert_eq!(
            said(&no_service),
            (vec![false, false, false, false, false, true], false)
        );
        let no_interface = PolicyVerdict {
            interfaces: Vec::new(),
            ..well
        };
        assert_eq!(said(&no_interface), (none.to_vec(), true));
        let unreadable = PolicyVerdict {
            bad_node_selector: Some("spec.nodeSelector: broken".to_owned()),
            ..PolicyVerdict::default()
        };
        assert_eq!(
            said(&unreadable),
            (vec![true, false, false, false, false, false], false)
        );
    }

    #[test]
    fn each_node_adds_and_removes_itself_and_those_that_are_gone() {
        let is_node = |name: &str| ["a", "b", "c"].contains(&name);
        assert_eq!(nowhere("", "b", true, is_node), ["b"]);
        let message = format!("{NOWHERE}a, gone");
        assert_eq!(nowhere(&message, "b", true, is_node), ["a", "b"]);
        assert_eq!(nowhere(&message, "a", false, is_node), [""; 0]);
    }
}

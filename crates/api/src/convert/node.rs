//! Nodes.

use std::net::IpAddr;

use fairlead_model::{Node, NodeName};
use k8s_openapi::api::core::v1;
use kube::ResourceExt as _;

use super::{ConvertError, Converted, Problem};
use crate::names;

/// A node. It counts as excluded if it is cordoned, being deleted, labelled out of external load balancers, without a working network by its
/// own word, or tainted as one that is about to go. Any other `NoExecute` taint repels, except those by which Kubernetes judges health: who
/// is alive is seen on the wire.
///
/// # Errors
/// Only when its name is none.
pub fn node(object: &v1::Node) -> Result<Converted<Node>, ConvertError> {
    let name =
        NodeName::new(&object.name_any()).map_err(|e| ConvertError::new("metadata.name", e))?;
    let (mut addresses, mut problems) = (Vec::new(), Vec::new());
    let given = object
        .status
        .iter()
        .flat_map(|s| s.addresses.iter().flatten());
    for (idx, address) in given.enumerate() {
        if address.type_ != "InternalIP" && address.type_ != "ExternalIP" {
            continue;
        }
        match address.address.parse::<IpAddr>() {
            Ok(ip) => addresses.push(ip),
            Err(_) => problems.push(ConvertError::new(
                format!("status.addresses[{idx}].address"),
                Problem::Address(address.address.clone()),
            )),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    let spec = object.spec.as_ref();
    let taints = || spec.iter().flat_map(|s| s.taints.iter().flatten());
    let is_excluded = object.metadata.deletion_timestamp.is_some()
        || object.labels().contains_key(names::label::NODE_EXCLUDED)
        || spec.is_some_and(|s| s.unschedulable == Some(true))
        || taints().any(|taint| names::taint::LEAVING.contains(&taint.key.as_str()))
        || has_no_network(object);
    let is_repelling = taints().any(|taint| {
        taint.effect == "NoExecute" && !names::taint::HEALTH.contains(&taint.key.as_str())
    });
    Ok(Converted {
        value: Node {
            name,
            labels: object.labels().clone(),
            addresses,
            is_excluded,
            is_repelling,
        },
        problems,
    })
}

/// Condition `NetworkUnavailable`, as cloud and network controllers set it.
fn has_no_network(object: &v1::Node) -> bool {
    let conditions = object
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let mut found = conditions.filter(|c| c.type_ == "NetworkUnavailable");
    found.any(|c| c.status == "True")
}

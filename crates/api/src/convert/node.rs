//! Nodes.

use std::net::IpAddr;

use fairlead_model::{Node, NodeName};
use k8s_openapi::api::core::v1;
use kube::ResourceExt as _;

use super::{ConvertError, Converted, Problem};
use crate::names;

/// A node. It counts as excluded if it is cordoned, being deleted, labelled out of external load balancers, or about to
/// be removed by the autoscaler.
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
    let is_excluded = object.metadata.deletion_timestamp.is_some()
        || object.labels().contains_key(names::label::NODE_EXCLUDED)
        || spec.is_some_and(|s| {
            s.unschedulable == Some(true)
                || s.taints
                    .iter()
                    .flatten()
                    .any(|t| t.key == names::taint::TO_BE_DELETED)
        });
    Ok(Converted {
        value: Node {
            name,
            labels: object.labels().clone(),
            addresses,
            is_excluded,
        },
        problems,
    })
}

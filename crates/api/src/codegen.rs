//! CRDs as objects and as files.
//!
//! `./x codegen` writes what [`files`] returns; a test fails while a file in the tree differs.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt as _, core::crd::merge_crds};

use crate::{
    AddressReservation, IPPoolUsage, config_keys, l2_announcement_policy, lb_ip_pool, schema,
};

/// Every CRD that Fairlead needs, in a fixed order.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut pool = merge_crds(
        vec![
            lb_ip_pool::v2::CiliumLoadBalancerIPPool::crd(),
            lb_ip_pool::v2alpha1::CiliumLoadBalancerIPPool::crd(),
        ],
        "v2",
    )
    .expect("both versions are derived with the same group, kind and scope");
    schema::finish(&mut pool, &["metadata", "spec"]);
    let mut policy = l2_announcement_policy::v2alpha1::CiliumL2AnnouncementPolicy::crd();
    // Cilium accepts a policy without a spec.
    schema::finish(&mut policy, &["metadata"]);
    let mut reservation = AddressReservation::crd();
    schema::finish(&mut reservation, &["metadata", "spec"]);
    let mut usage = IPPoolUsage::crd();
    schema::finish(&mut usage, &["metadata"]);
    vec![pool, policy, reservation, usage]
}

/// Generated files: path below the root of the repository, and content.
pub fn files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for crd in crds() {
        let yaml = serde_norway::to_string(&crd).expect("a CRD is plain data");
        let yaml: String = yaml.lines().map(|line| quoted(line) + "\n").collect();
        let text = format!("# Generated from crates/api by `./x codegen`; do not edit.\n{yaml}");
        // Helm reads only what lies inside its chart.
        for folder in ["configs/crd", "deploy/chart/crds"] {
            let path = format!("{folder}/{}.yaml", crd.spec.names.plural);
            files.push((path, text.clone()));
        }
    }
    let page = "docs/book/src/reference/config-keys.md".to_owned();
    files.push((page, config_keys::page()));
    files
}

/// kubectl reads YAML 1.1, where a plain `Yes` is a boolean: such words are quoted.
fn quoted(line: &str) -> String {
    let at = line.rfind(' ').map_or(0, |at| at + 1);
    let (head, word) = line.split_at(at);
    let is_value = head.ends_with("- ") || head.ends_with(": ");
    match word.to_ascii_lowercase().as_str() {
        "y" | "n" | "yes" | "no" | "on" | "off" if is_value => format!("{head}\"{word}\""),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests;

//! `CiliumLoadBalancerIPPool`: addresses that LB-IPAM may give to Services.
//!
//! `v2` is stored, `v2alpha1` is served and deprecated; their schemas are the same and nothing is converted between them.

pub mod v2;
pub mod v2alpha1;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One block of addresses: a prefix, or a range from `start` to `stop`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Block {
    /// Addresses as a prefix; host bits are ignored. If set, `start` and `stop` are not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "cidr"))]
    pub cidr: Option<String>,
    /// First address of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Last address of a range, inclusive. Without it the range is the one address `start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
}

/// What the operator says about a pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Conflicts, unreadable parts, and counts of addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
}

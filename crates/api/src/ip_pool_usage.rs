//! `IPPoolUsage`, ours: what LB-IPAM remembers about a pool beside what Cilium's kind holds. Its name is the pool's.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How full a pool was, and whose addresses are kept for a while.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource,
)]
#[kube(
    group = "fairlead.io",
    version = "v1alpha1",
    kind = "IPPoolUsage",
    plural = "ippoolusages",
    singular = "ippoolusage",
    shortname = "poolusage",
    category = "fairlead",
    status = "IPPoolUsageStatus",
    derive = "PartialEq",
    doc = "Written by the operator: how full the pool of the same name was, and whose addresses are kept for a while.",
    printcolumn = r#"{"name":"Peak","type":"string","jsonPath":".status.peakUsed"}"#,
    printcolumn = r#"{"name":"At","type":"date","jsonPath":".status.peakTime"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct IPPoolUsageSpec {}

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolUsageStatus {
    /// The most addresses that were used at a time, as a decimal number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peak_used: String,
    /// When that was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(extend("format" = "date-time"))]
    pub peak_time: String,
    /// How full the pool was: the oldest first, at most one a minute, of the last changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub samples: Vec<Sample>,
    /// Addresses kept for Services that were deleted, for a Service of the same name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub kept: Vec<Kept>,
}

/// How full a pool was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// When.
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
    /// Addresses in use or reserved, as a decimal number.
    pub used: String,
    /// Addresses that could be given out, as a decimal number.
    pub available: String,
}

/// An address that is kept for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    /// The address.
    pub address: String,
    /// Namespace of the Service that had it.
    pub namespace: String,
    /// Name of the Service that had it.
    pub name: String,
    /// Until when it is kept.
    #[schemars(extend("format" = "date-time"))]
    pub until: String,
}

//! `AddressReservation`, ours: addresses of pools that are kept for one Service, or for nobody.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lb_ip_pool::{Block, Status};

/// Addresses that are not given to just anybody.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource,
)]
#[kube(
    group = "fairlead.io",
    version = "v1alpha1",
    kind = "AddressReservation",
    plural = "addressreservations",
    singular = "addressreservation",
    shortname = "addrres",
    category = "fairlead",
    status = "Status",
    derive = "PartialEq",
    doc = "Keeps addresses of pools for one Service, or for nobody.",
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".spec.service.namespace"}"#,
    printcolumn = r#"{"name":"Service","type":"string","jsonPath":".spec.service.name"}"#,
    printcolumn = r#"{"name":"Reserved","type":"string","jsonPath":".status.conditions[?(@.type==\"fairlead.io/Reserved\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AddressReservationSpec {
    /// The addresses. Who has one of them already keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<Block>>,
    /// The Service that gets them, which need not exist yet; without it, nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceRef>,
}

/// A Service by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

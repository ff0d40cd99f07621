//! Writes: one JSON patch of `/status` per object, guarded by the resourceVersion that it was decided on.

use std::{net::IpAddr, time::Duration};

use fairlead_api::condition::{self, Wanted};
use fairlead_api::names::condition as names;
use fairlead_api::{
    AddressReservation, CiliumLoadBalancerIPPool, IPPoolUsage, ip_pool_usage::IPPoolUsageStatus,
    lb_ip_pool,
};
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use k8s_openapi::{
    api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service, ServiceStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

use super::state::Key;
use crate::alloc::{PoolChange, ReservationChange, ServiceChange};

/// A write that has no answer by then is given up and decided anew.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Why a write failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The object changed since it was read.
    #[error("the object changed meanwhile")]
    Conflict,
    /// The object is gone.
    #[error("the object is gone")]
    NotFound,
    /// RBAC refuses `patch` on the status.
    #[error("permission refused: {0}")]
    Forbidden(String),
    /// The API server finds the status wrong.
    #[error("refused: {0}")]
    Invalid(String),
    /// No answer in time.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Timeout,
    /// Anything between us and an answer.
    #[error("the API server is not available: {0}")]
    Unavailable(String),
}

impl Fault {
    /// From kube's error.
    #[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
    pub fn of(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) => match status.code {
                409 => Self::Conflict,
                404 => Self::NotFound,
                401 | 403 => Self::Forbidden(status.message.clone()),
                // A failed `test` is 422 as well; then the object has changed, and the watch will say so.
                400 | 422 => Self::Invalid(status.message.clone()),
                _ => Self::Unavailable(status.message.clone()),
            },
            other => Self::Unavailable(other.to_string()),
        }
    }

    /// The closed word for metrics and the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Conflict => "Conflict",
            Self::NotFound => "NotFound",
            Self::Forbidden(_) => "Forbidden",
            Self::Invalid(_) => "Invalid",
            Self::Timeout => "Timeout",
            Self::Unavailable(_) => "Unavailable",
        }
    }

    pub(super) fn report(&self, key: &Key) {
        let reason = self.reason();
        match self {
            Self::Conflict | Self::NotFound => {
                tracing::debug!(reason, "status of {key} not written: {self}; deciding anew");
            }
            Self::Forbidden(_) => tracing::error!(
                reason, error = %self,
                "may not write the status of {key}: grant `patch` on {}; trying again", key.resource()
            ),
            Self::Invalid(_) | Self::Timeout | Self::Unavailable(_) => {
                tracing::warn!(reason, error = %self, "status of {key} not written; trying again");
            }
        }
    }
}

/// The Service's whole status as LB-IPAM wants it.
pub fn service(object: &Service, change: &ServiceChange, now: &Time) -> Patch {
    let remove: &[&str] = match change.condition {
        Some(_) => &[],
        None => &[names::IPAM_REQUEST_SATISFIED],
    };
    status(
        object,
        &change.ingress,
        change.condition.as_ref(),
        remove,
        now,
    )
}

/// A Service's whole status: its addresses in order, entries kept as they are where the address stays (a hand-set `ipMode`
/// survives), and its conditions.
pub fn status(
    object: &Service,
    ingress: &[IpAddr],
    set: Option<&Wanted>,
    remove: &[&str],
    now: &Time,
) -> Patch {
    let status = object.status.clone().unwrap_or_default();
    let old = status
        .load_balancer
        .and_then(|lb| lb.ingress)
        .unwrap_or_default();
    let entry = |ip: &IpAddr| {
        let is_same =
            |e: &&LoadBalancerIngress| e.ip.as_deref().and_then(|t| t.parse().ok()) == Some(*ip);
        let text = ip.to_string();
        old.iter()
            .find(is_same)
            .cloned()
            .unwrap_or_else(|| LoadBalancerIngress {
                ip: Some(text),
                ..LoadBalancerIngress::default()
            })
    };
    let ingress: Vec<LoadBalancerIngress> = ingress.iter().map(entry).collect();
    let mut conditions = status.conditions.unwrap_or_default();
    if let Some(wanted) = set {
        condition::set(&mut conditions, wanted, now);
    }
    for type_ in remove {
        condition::remove(&mut conditions, type_);
    }
    let status = ServiceStatus {
        conditions: (!conditions.is_empty()).then_some(conditions),
        load_balancer: Some(LoadBalancerStatus {
            ingress: (!ingress.is_empty()).then_some(ingress),
        }),
    };
    guarded(object.metadata.resource_version.as_deref(), json!(status))
}

/// One condition more; everything else as it is.
pub fn condition_only(object: &Service, wanted: &Wanted, now: &Time) -> Patch {
    let mut status = object.status.clone().unwrap_or_default();
    condition::set(status.conditions.get_or_insert_default(), wanted, now);
    guarded(object.metadata.resource_version.as_deref(), json!(status))
}

/// The pool's whole status: our conditions set, those of others kept.
pub fn pool(object: &CiliumLoadBalancerIPPool, change: &PoolChange, now: &Time) -> Patch {
    let mut conditions = object.status.clone().unwrap_or_default().conditions;
    for wanted in &change.conditions {
        condition::set(&mut conditions, wanted, now);
    }
    let version = object.metadata.resource_version.as_deref();
    guarded(version, json!(lb_ip_pool::Status { conditions }))
}

/// The reservation's whole status, as a pool's.
pub fn reservation(object: &AddressReservation, change: &ReservationChange, now: &Time) -> Patch {
    let mut conditions = object.status.clone().unwrap_or_default().conditions;
    for wanted in &change.conditions {
        condition::set(&mut conditions, wanted, now);
    }
    let version = object.metadata.resource_version.as_deref();
    guarded(version, json!(lb_ip_pool::Status { conditions }))
}

/// What is remembered about a pool.
pub fn usage(object: &IPPoolUsage, status: &IPPoolUsageStatus) -> Patch {
    guarded(object.metadata.resource_version.as_deref(), json!(status))
}

fn guarded(version: Option<&str>, status: Value) -> Patch {
    let path = |tokens: [&str; 2], n: usize| PointerBuf::from_tokens(tokens.into_iter().take(n));
    Patch(vec![
        PatchOperation::Test(TestOperation {
            path: path(["metadata", "resourceVersion"], 2),
            value: json!(version),
        }),
        // `add` replaces what is there, and a pool may have no status yet.
        PatchOperation::Add(AddOperation {
            path: path(["status", ""], 1),
            value: status,
        }),
    ])
}

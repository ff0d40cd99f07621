//! Services: what Kubernetes fills in, what it refuses, and what it hands out.
//!
//! Source: kubernetes/pkg/registry/core/service and pkg/apis/core/{v1/defaults,validation}.
//! Next: `service/defaults.rs`, `service/check.rs`, `service/allocate.rs`.

mod allocate;
mod check;
mod defaults;

use serde_json::Value;

pub(crate) use self::allocate::Allocated;
use crate::status::Cause;

/// Completes a Service and hands out its addresses and ports, or appends what is wrong with it.
pub(crate) fn admit(
    new: &mut Value,
    old: Option<&Value>,
    allocated: &Allocated,
    causes: &mut Vec<Cause>,
) {
    defaults::fill(new, old);
    check::check(new, old, allocated, causes);
    if causes.is_empty() {
        defaults::families(new, old, allocated, causes);
    }
    if causes.is_empty() {
        allocate::hand_out(new, allocated, causes);
    }
}

#[cfg(test)]
mod tests;

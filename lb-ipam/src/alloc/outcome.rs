//! Decisions against what the API says: only what differs is written.

use fairlead_api::{
    condition::{Status, Wanted},
    names::condition as names,
};

use super::{
    Inputs, Plan, PoolChange, PoolCounts, PoolInput, Seen, ServiceChange, ServiceInput,
    decide::{Decided, Decision},
    pools::View,
};

/// Reason of a satisfied Service.
pub const SATISFIED: &str = "satisfied";
/// Reason of a pool in conflict.
pub const CIDR_OVERLAP: &str = "cidr_overlap";
/// Reason of a condition that no longer holds.
pub const RESOLVED: &str = "resolved";
/// Reason of conditions that only carry a number.
pub const NO_REASON: &str = "noreason";
/// Reason of a pool with parts that cannot be read.
pub const INVALID_SPEC: &str = "invalid_spec";

pub(super) fn outcome(inputs: &Inputs, views: &[View<'_>], mut decided: Decided<'_>) -> Plan {
    let mut plan = Plan {
        n_conflicting: views.iter().filter(|v| v.conflict.is_some()).count(),
        ..Plan::default()
    };
    for service in &inputs.services {
        let decision = decided.by_service.remove(&service.name);
        if let Some(decision) = &decision {
            plan.n_matching += 1;
            plan.n_unsatisfied += usize::from(decision.lack.is_some());
        }
        let change = match decision {
            Some(_) if is_left_alone(service, inputs) => None,
            Some(decision) => served(service, decision),
            None => unserved(service),
        };
        plan.services.extend(change);
    }
    for input in &inputs.pools {
        let Some(view) = views.iter().find(|v| v.pool.name == input.pool.name) else {
            continue;
        };
        let total = view.total();
        // An address that two blocks of a pool share counts in both, so `used` never exceeds `total`.
        let used = view.used(&decided.holders);
        let available = &total - &used;
        let counts = PoolCounts {
            total,
            used,
            available,
        };
        plan.pools.extend(pool(input, view, &counts));
        plan.counts.insert(input.pool.name.clone(), counts);
    }
    plan.services.sort_by(|a, b| a.name.cmp(&b.name));
    plan.pools.sort_by(|a, b| a.name.cmp(&b.name));
    plan
}

/// While there is no pool we are dormant: addresses that are not ours may be another controller's. What we once said must
/// stay true all the same, and the appliance, where nobody else serves, says from the start that there is no pool.
fn is_left_alone(service: &ServiceInput, inputs: &Inputs) -> bool {
    let is_told = service.condition.is_some() || inputs.settings.report_without_pools;
    let has_foreign = !service.ingress.is_empty() && !service.has_our_addresses();
    inputs.pools.is_empty() && (has_foreign || !is_told)
}

fn served(service: &ServiceInput, decision: Decision) -> Option<ServiceChange> {
    let condition = match &decision.lack {
        None => wanted(service, Status::True, SATISFIED, String::new()),
        Some(lack) => wanted(service, Status::False, lack.reason(), lack.to_string()),
    };
    let is_same_ingress = service.ingress == decision.ingress && !service.has_foreign_entries;
    let is_same_condition = service
        .condition
        .as_ref()
        .is_some_and(|seen| is_same(seen, &condition));
    if is_same_ingress && (is_same_condition || decision.is_waiting) {
        return None;
    }
    Some(ServiceChange {
        name: service.name.clone(),
        ingress: decision.ingress,
        condition: Some(condition),
    })
}

/// A Service that we do not serve (any more): what we wrote is taken back, what others wrote stays.
fn unserved(service: &ServiceInput) -> Option<ServiceChange> {
    service.condition.as_ref()?;
    let ingress = if service.has_our_addresses() {
        Vec::new()
    } else {
        service.ingress.clone()
    };
    Some(ServiceChange {
        name: service.name.clone(),
        ingress,
        condition: None,
    })
}

fn wanted(service: &ServiceInput, status: Status, reason: &str, message: String) -> Wanted {
    Wanted {
        type_: names::IPAM_REQUEST_SATISFIED,
        status,
        reason: reason.to_owned(),
        message,
        observed_generation: service.generation,
    }
}

fn is_same(seen: &Seen, wanted: &Wanted) -> bool {
    seen.status == wanted.status.as_str()
        && seen.reason == wanted.reason
        && seen.message == wanted.message
        && seen.observed_generation == wanted.observed_generation
}

fn pool(input: &PoolInput, view: &View<'_>, counts: &PoolCounts) -> Option<PoolChange> {
    let make = |type_, status, reason: &str, message: String| Wanted {
        type_,
        status,
        reason: reason.to_owned(),
        message,
        observed_generation: input.generation,
    };
    let mut conflict = match &view.conflict {
        Some(c) => {
            let text = format!(
                "range {} overlaps range {} of pool {}",
                c.own, c.other, c.pool
            );
            make(names::POOL_CONFLICT, Status::True, CIDR_OVERLAP, text)
        }
        None => make(names::POOL_CONFLICT, Status::False, RESOLVED, String::new()),
    };
    // Its generation says since when it holds; the counts follow every edit.
    if let Some(seen) = input.conditions.get(names::POOL_CONFLICT) {
        let with_seen = Wanted {
            observed_generation: seen.observed_generation,
            ..conflict.clone()
        };
        if is_same(seen, &with_seen) {
            conflict = with_seen;
        }
    }
    let count =
        |type_, n: &num_bigint::BigUint| make(type_, Status::Unknown, NO_REASON, n.to_string());
    let mut conditions = vec![
        conflict,
        count(names::IPS_TOTAL, &counts.total),
        count(names::IPS_AVAILABLE, &counts.available),
        count(names::IPS_USED, &counts.used),
    ];
    let problems = problems(view);
    if !problems.is_empty() {
        conditions.push(make(
            names::POOL_INVALID,
            Status::True,
            INVALID_SPEC,
            problems,
        ));
    } else if input.conditions.contains_key(names::POOL_INVALID) {
        conditions.push(make(
            names::POOL_INVALID,
            Status::False,
            RESOLVED,
            String::new(),
        ));
    }
    let is_current = |w: &Wanted| {
        input
            .conditions
            .get(w.type_)
            .is_some_and(|seen| is_same(seen, w))
    };
    let is_unchanged = conditions.iter().all(is_current);
    (!is_unchanged).then(|| PoolChange {
        name: input.pool.name.clone(),
        conditions,
    })
}

/// Every part of the pool that cannot be read, with its field.
fn problems(view: &View<'_>) -> String {
    let bad = view
        .pool
        .bad_blocks
        .iter()
        .map(|(field, why)| format!("{field}: {why}"));
    let selector = view.pool.selector.as_ref().err().cloned();
    bad.chain(selector).collect::<Vec<_>>().join("; ")
}

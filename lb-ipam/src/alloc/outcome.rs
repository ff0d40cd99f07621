//! Decisions against what the API says: only what differs is written.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_api::{
    condition::{Status, Wanted},
    names::condition as names,
};

use fairlead_model::ServiceName;

use super::{
    PoolChange, ReservationChange, ReservationInput, Seen, ServiceChange, ServiceInput, Settings,
    decide::Lack, pools::View,
};

/// Reason of a satisfied Service.
pub const SATISFIED: &str = "satisfied";
/// Reason of a pool in conflict.
pub const CIDR_OVERLAP: &str = "cidr_overlap";
/// Reason of a condition that no longer holds.
pub const RESOLVED: &str = "resolved";
/// Reason of conditions that only carry a number.
pub const NO_REASON: &str = "noreason";
/// Reason of a pool or a reservation with parts that cannot be read.
pub const INVALID_SPEC: &str = "invalid_spec";
/// Reason of a pool with blocks that hold addresses of the cluster's own.
pub const ADDRESS_IN_USE: &str = "address_in_use";
/// Reason of a reservation that nobody uses yet.
pub const RESERVED: &str = "reserved";
/// Reason of a reservation that serves its Service.
pub const HELD: &str = "held";
/// Reason of a reservation with addresses that somebody had before it.
pub const HELD_BY_OTHERS: &str = "held_by_others";

/// Characters of a message.
const MAX_MESSAGE: usize = 32_768;
/// Holders that one message names.
const MAX_NAMED: usize = 8;

/// While there is no pool we are dormant: addresses that are not ours may be another controller's. What we once said must
/// stay true all the same, and the appliance, where nobody else serves, says from the start that there is no pool.
pub(super) fn is_left_alone(service: &ServiceInput, settings: Settings, no_pools: bool) -> bool {
    let is_told = service.condition.is_some() || settings.report_without_pools;
    let has_foreign = !service.ingress.is_empty() && !service.has_our_addresses();
    no_pools && (has_foreign || !is_told)
}

/// What a Service that we serve is to say, if it says anything else.
pub(super) fn served(
    service: &ServiceInput,
    held: &[IpAddr],
    lack: Option<&Lack>,
    is_waiting: bool,
) -> Option<ServiceChange> {
    let condition = match lack {
        None => wanted(service, Status::True, SATISFIED, String::new()),
        Some(lack) => wanted(service, Status::False, lack.reason(), lack.to_string()),
    };
    let is_same_ingress = service.ingress == held && !service.has_foreign_entries;
    let is_same_condition = service
        .condition
        .as_ref()
        .is_some_and(|seen| is_same(seen, &condition));
    if is_same_ingress && (is_same_condition || is_waiting) {
        return None;
    }
    Some(ServiceChange {
        name: service.name.clone(),
        ingress: held.to_vec(),
        condition: Some(condition),
    })
}

/// A Service that we do not serve (any more): what we wrote is taken back, what others wrote stays.
pub(super) fn unserved(service: &ServiceInput) -> Option<ServiceChange> {
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
        message: cut(message),
        observed_generation: service.generation,
    }
}

fn is_same(seen: &Seen, wanted: &Wanted) -> bool {
    seen.status == wanted.status.as_str()
        && seen.reason == wanted.reason
        && seen.message == wanted.message
        && seen.observed_generation == wanted.observed_generation
}

/// A condition of ours on something with a generation.
fn make(
    type_: &'static str,
    status: Status,
    reason: &str,
    message: String,
    observed_generation: Option<i64>,
) -> Wanted {
    Wanted {
        type_,
        status,
        reason: reason.to_owned(),
        message: cut(message),
        observed_generation,
    }
}

/// What Kubernetes takes for a message. Cut before it is compared with what is there, or it would be written for ever.
fn cut(message: String) -> String {
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((at, _)) => message[..at].to_owned(),
        None => message,
    }
}

/// The conditions of a pool, if it says anything else.
pub(super) fn pool(view: &View) -> Option<PoolChange> {
    let conditions = conditions(view);
    let is_unchanged = are_current(&conditions, &view.input.conditions);
    (!is_unchanged).then(|| PoolChange {
        name: view.input.pool.name.clone(),
        conditions,
    })
}

/// Every condition of ours that a pool should have.
pub(super) fn conditions(view: &View) -> Vec<Wanted> {
    let input = &view.input;
    let make = |type_, status, reason: &str, message| {
        make(type_, status, reason, message, input.generation)
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
    let (total, used) = (view.total(), view.used());
    // An address that two blocks of a pool share counts in both, so `used` never exceeds `total`.
    let available = total - &used;
    let count =
        |type_, n: &num_bigint::BigUint| make(type_, Status::Unknown, NO_REASON, n.to_string());
    let mut conditions = vec![
        conflict,
        count(names::IPS_TOTAL, total),
        count(names::IPS_AVAILABLE, &available),
        count(names::IPS_USED, &used),
    ];
    let (invalid, in_use) = (invalid(view), in_use(view));
    for (type_, reason, problems) in [
        (names::POOL_INVALID, INVALID_SPEC, invalid),
        (names::POOL_IN_USE, ADDRESS_IN_USE, in_use),
    ] {
        if !problems.is_empty() {
            conditions.push(make(type_, Status::True, reason, problems.join("; ")));
        } else if input.conditions.contains_key(type_) {
            conditions.push(make(type_, Status::False, RESOLVED, String::new()));
        }
    }
    conditions
}

/// Every part of the pool that cannot be read, with its field.
fn invalid(view: &View) -> Vec<String> {
    let input = &view.input;
    let bad = input.pool.bad_blocks.iter().chain(&input.problems);
    let bad = bad.map(|(field, why)| format!("{field}: {why}"));
    bad.chain(input.pool.selector.as_ref().err().cloned())
        .collect()
}

/// Every block that is refused, and what lies in it.
fn in_use(view: &View) -> Vec<String> {
    let each = view.refused.iter().map(|refusal| {
        let range = view.input.pool.blocks[refusal.idx].range;
        let by = &refusal.by;
        let (kind, whose) = (by.kind.word(), &by.owner);
        format!(
            "spec.blocks[{}]: {range} holds {}, {kind} address of {whose}",
            refusal.idx,
            shown(by.range)
        )
    });
    each.collect()
}

fn shown(range: fairlead_model::IpRange) -> String {
    if range.first() == range.last() {
        range.first().to_string()
    } else {
        range.to_string()
    }
}

/// The conditions of a reservation, if it says anything else; `held` is what somebody has of it.
pub(super) fn reservation<'a>(
    input: &ReservationInput,
    held: impl Iterator<Item = (IpAddr, &'a ServiceName)>,
) -> Option<ReservationChange> {
    let (own, others): (Vec<_>, Vec<_>) =
        held.partition(|(_, service)| input.service.as_ref() == Some(*service));
    let list = |held: &[(IpAddr, &ServiceName)]| {
        let each = held
            .iter()
            .take(MAX_NAMED)
            .map(|(ip, s)| format!("{ip} by {s}"));
        let more = held.len().saturating_sub(MAX_NAMED);
        let more = (more > 0).then(|| format!("and {more} more"));
        each.chain(more).collect::<Vec<_>>().join(", ")
    };
    let problems: Vec<String> = input
        .problems
        .iter()
        .map(|(field, why)| format!("{field}: {why}"))
        .collect();
    let (status, reason, message) = if !problems.is_empty() {
        (Status::False, INVALID_SPEC, problems.join("; "))
    } else if !others.is_empty() {
        (
            Status::False,
            HELD_BY_OTHERS,
            format!("held: {}", list(&others)),
        )
    } else if !own.is_empty() {
        (Status::True, HELD, format!("held: {}", list(&own)))
    } else {
        (Status::True, RESERVED, String::new())
    };
    let conditions = vec![make(
        names::RESERVED,
        status,
        reason,
        message,
        input.generation,
    )];
    let is_unchanged = are_current(&conditions, &input.conditions);
    (!is_unchanged).then(|| ReservationChange {
        name: input.name.clone(),
        conditions,
    })
}

fn are_current(wanted: &[Wanted], seen: &BTreeMap<String, Seen>) -> bool {
    let mut each = wanted.iter();
    each.all(|w| seen.get(w.type_).is_some_and(|seen| is_same(seen, w)))
}

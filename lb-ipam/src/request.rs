//! What a Service and a pool say, as the allocator reads it.

use std::{net::IpAddr, time::Duration};

use fairlead_api::{
    AddressReservation, CiliumLoadBalancerIPPool, convert,
    names::{annotation, condition},
};
use k8s_openapi::{api::core::v1, apimachinery::pkg::apis::meta::v1::Condition};
use kube::ResourceExt as _;

use crate::alloc::{
    Family, FamilyPolicy, InUseKind, Namespaces, PoolInput, ReservationInput, Seen, ServiceInput,
    Sharing,
};

/// # Errors
/// Only for a Service without a usable name.
pub fn service(object: &v1::Service) -> Result<ServiceInput, convert::ConvertError> {
    let read = convert::service(object)?.value;
    let spec = object.spec.clone().unwrap_or_default();
    let (requested, bad_requests) = requested(object);
    let ingress = object.status.iter().flat_map(|s| s.load_balancer.iter());
    let entries: Vec<Option<IpAddr>> = ingress
        .flat_map(|lb| lb.ingress.iter().flatten())
        .map(|entry| entry.ip.as_deref().and_then(|ip| ip.parse().ok()))
        .collect();
    let seen = object
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    Ok(ServiceInput {
        created: object
            .creation_timestamp()
            .map_or(i64::MAX, |t| t.0.as_second()),
        generation: object.metadata.generation,
        labels: read.selector_labels(),
        is_load_balancer: read.is_load_balancer,
        class: read.class,
        requested,
        bad_requests,
        families: families(spec.ip_families.as_deref().unwrap_or_default()),
        family_policy: match spec.ip_family_policy.as_deref() {
            Some("PreferDualStack") => FamilyPolicy::PreferDualStack,
            Some("RequireDualStack") => FamilyPolicy::RequireDualStack,
            Some(_) | None => FamilyPolicy::SingleStack,
        },
        sharing: Sharing {
            key: either(object, annotation::SHARING_KEY, annotation::SHARING_KEY_OLD)
                .unwrap_or_default()
                .to_owned(),
            namespaces: namespaces(object),
            ports: read.ports.iter().map(|p| (p.protocol, p.port)).collect(),
            traffic_policy: read.external_traffic_policy,
            pods: spec.selector.unwrap_or_default(),
        },
        has_foreign_entries: entries.contains(&None),
        ingress: entries.into_iter().flatten().collect(),
        releasing: Vec::new(),
        condition: seen
            .filter(|c| c.type_ == condition::IPAM_REQUEST_SATISFIED)
            .map(self::seen)
            .next(),
        pools: list(
            object
                .annotations()
                .get(annotation::IP_POOL)
                .map_or("", String::as_str),
        ),
        is_edited: false,
        name: read.name,
    })
}

/// A pool with its conditions and what our annotations say about it.
pub fn pool(object: &CiliumLoadBalancerIPPool) -> PoolInput {
    let conditions = object.status.iter().flat_map(|s| &s.conditions);
    let mut problems = Vec::new();
    let read = |name: &str| {
        object
            .annotations()
            .get(name)
            .map(|text| text.trim().to_owned())
    };
    let priority = read(annotation::POOL_PRIORITY);
    let sticky = read(annotation::POOL_STICKY);
    let allows = read(annotation::POOL_ALLOW_IN_USE).unwrap_or_default();
    let mut bad = |name: &str, text: &str, wanted: &str| {
        let field = format!("metadata.annotations[{name}]");
        problems.push((field, format!("`{text}` is not {wanted}")));
    };
    let priority = priority.map_or(0, |text| {
        text.parse().unwrap_or_else(|_| {
            bad(annotation::POOL_PRIORITY, &text, "a whole number");
            0
        })
    });
    let sticky = sticky.and_then(|text| {
        let time = time(&text);
        if time.is_none() {
            bad(
                annotation::POOL_STICKY,
                &text,
                "a time such as 90s, 15m or 2h",
            );
        }
        time
    });
    let mut kinds = Vec::new();
    for word in list(&allows) {
        match [InUseKind::Node, InUseKind::Gateway, InUseKind::Pod]
            .into_iter()
            .find(|kind| kind.word() == word)
        {
            Some(kind) => kinds.push(kind),
            None => bad(
                annotation::POOL_ALLOW_IN_USE,
                &word,
                "one of node, gateway and pod",
            ),
        }
    }
    PoolInput {
        pool: convert::pool(object),
        generation: object.metadata.generation,
        conditions: conditions.map(|c| (c.type_.clone(), seen(c))).collect(),
        priority,
        sticky,
        allows: kinds,
        problems,
    }
}

/// A reservation with its conditions.
pub fn reservation(object: &AddressReservation) -> ReservationInput {
    let (ranges, service, problems) = convert::reservation(object);
    let conditions = object.status.iter().flat_map(|s| &s.conditions);
    let created = object.creation_timestamp();
    ReservationInput {
        name: object.name_any(),
        created: created.map_or(i64::MAX, |t| t.0.as_second()),
        generation: object.metadata.generation,
        ranges,
        problems: problems
            .into_iter()
            .map(|e| (e.field, e.problem.to_string()))
            .collect(),
        service,
        conditions: conditions.map(|c| (c.type_.clone(), seen(c))).collect(),
    }
}

/// A number and `s`, `m` or `h`, above zero.
fn time(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(seconds)?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Items of a comma list, trimmed, without empty ones.
fn list(text: &str) -> Vec<String> {
    let items = text.split(',').map(str::trim);
    items
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Whether two readings ask for the same and may share alike.
pub fn is_same_claim(a: &ServiceInput, b: &ServiceInput) -> bool {
    let claim = |s: &ServiceInput| ServiceInput {
        ingress: Vec::new(),
        has_foreign_entries: false,
        releasing: Vec::new(),
        condition: None,
        is_edited: false,
        ..s.clone()
    };
    claim(a) == claim(b)
}

fn seen(condition: &Condition) -> Seen {
    Seen {
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        observed_generation: condition.observed_generation,
    }
}

/// The annotation, or its former name if it is absent; an empty one hides the former name.
fn either<'a>(object: &'a v1::Service, name: &str, old: &str) -> Option<&'a str> {
    let annotations = object.annotations();
    annotations
        .get(name)
        .or_else(|| annotations.get(old))
        .map(String::as_str)
}

/// Requested addresses, each once, and items that are none.
fn requested(object: &v1::Service) -> (Vec<IpAddr>, Vec<String>) {
    let spec = object.spec.as_ref();
    let field = spec
        .and_then(|s| s.load_balancer_ip.as_deref())
        .unwrap_or_default();
    let list = either(object, annotation::IPS, annotation::IPS_OLD).unwrap_or_default();
    let items = std::iter::once(field).chain(list.split(',')).map(str::trim);
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for item in items.filter(|item| !item.is_empty()) {
        match item.parse::<IpAddr>() {
            Ok(ip) if good.contains(&ip) => {}
            Ok(ip) => good.push(ip),
            Err(_) => bad.push(item.to_owned()),
        }
    }
    (good, bad)
}

fn families(given: &[String]) -> Vec<Family> {
    let each = given.iter().filter_map(|text| match text.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    });
    each.collect()
}

fn namespaces(object: &v1::Service) -> Namespaces {
    let list = either(
        object,
        annotation::SHARING_CROSS_NAMESPACE,
        annotation::SHARING_CROSS_NAMESPACE_OLD,
    )
    .unwrap_or_default();
    let items = self::list(list);
    if items.iter().any(|item| item == "*") {
        return Namespaces::All;
    }
    Namespaces::Listed(items)
}

#[cfg(test)]
mod tests;

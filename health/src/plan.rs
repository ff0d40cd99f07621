//! What of which slice is to be checked, and what a slice should say. Pure.
//!
//! Invariant: what a user wrote stays the user's: an endpoint that was not ready before we said so is neither asked nor made ready.

use std::{collections::BTreeSet, net::IpAddr};

use fairlead_api::{
    condition::{Status, Wanted},
    names::{annotation::HEALTH_CHECK_FAILED, condition::BACKENDS_HEALTHY, label},
};
use fairlead_model::ServiceName;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::{
    engine::{Target, Verdict},
    settings::Check,
};

/// The Service of a slice that nobody else keeps: `None` for those of a controller, and for names instead of addresses.
pub fn service_of(slice: &EndpointSlice) -> Option<ServiceName> {
    let labels = slice.labels();
    if labels.contains_key(label::SLICE_MANAGED_BY) || slice.address_type == "FQDN" {
        return None;
    }
    let name = labels.get(label::SLICE_SERVICE)?;
    ServiceName::new(&slice.namespace()?, name).ok()
}

/// Addresses that are not ready because we said so.
fn failed(slice: &EndpointSlice) -> BTreeSet<IpAddr> {
    let text = slice.annotations().get(HEALTH_CHECK_FAILED);
    let words = text.iter().flat_map(|text| text.split(','));
    words.filter_map(|word| word.trim().parse().ok()).collect()
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    endpoint.addresses.iter().filter_map(|a| a.parse().ok())
}

fn is_ready(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.and_then(|c| c.ready).unwrap_or(true)
}

fn is_terminating(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.and_then(|c| c.terminating).unwrap_or(false)
}

/// Endpoints whose readiness is ours to say.
fn is_ours(endpoint: &Endpoint, failed: &BTreeSet<IpAddr>) -> bool {
    let is_failed = addresses(endpoint).any(|addr| failed.contains(&addr));
    !is_terminating(endpoint) && (is_ready(endpoint) || is_failed)
}

/// What is to be checked of a slice; the flag is whether the backend is ready now.
pub fn targets(service: &ServiceName, slice: &EndpointSlice, check: &Check) -> Vec<(Target, bool)> {
    let ports: BTreeSet<u16> = if let Some(port) = check.port {
        [port].into()
    } else {
        let tcp = slice.ports.iter().flatten();
        let tcp = tcp.filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP");
        tcp.filter_map(|p| u16::try_from(p.port?).ok().filter(|port| *port > 0))
            .collect()
    };
    let failed = failed(slice);
    let ours = slice.endpoints.iter().filter(|e| is_ours(e, &failed));
    let pairs = ours.flat_map(|endpoint| {
        let ready = is_ready(endpoint);
        addresses(endpoint).map(move |addr| (addr, ready))
    });
    let target = |addr, port| Target {
        service: service.clone(),
        addr,
        port,
    };
    pairs
        .flat_map(|(addr, ready)| ports.iter().map(move |port| (target(addr, *port), ready)))
        .collect()
}

/// The merge patch that makes a slice say what the verdict is; `None` if it does. Without a verdict about one, what we had said is undone.
pub fn patch(slice: &EndpointSlice, verdict: &Verdict) -> Option<Value> {
    let before = failed(slice);
    let mut after = BTreeSet::new();
    let mut endpoints = slice.endpoints.clone();
    for endpoint in endpoints.iter_mut().filter(|e| is_ours(e, &before)) {
        // An endpoint with several addresses is one backend for each; it is ready if all are.
        let wanted = addresses(endpoint).all(|addr| *verdict.is_ready.get(&addr).unwrap_or(&true));
        if !wanted {
            after.extend(addresses(endpoint));
        }
        if wanted != is_ready(endpoint) {
            let conditions = endpoint.conditions.get_or_insert_default();
            conditions.ready = Some(wanted);
            conditions.serving = Some(wanted);
        }
    }
    if endpoints == slice.endpoints && before == after {
        return None;
    }
    let words: Vec<String> = after.iter().map(ToString::to_string).collect();
    let failed = if words.is_empty() {
        Value::Null
    } else {
        Value::String(words.join(","))
    };
    Some(json!({
        // A slice that changed meanwhile is judged again.
        "metadata": {
            "resourceVersion": slice.metadata.resource_version,
            "annotations": {HEALTH_CHECK_FAILED: failed},
        },
        "endpoints": endpoints,
    }))
}

/// What the Service's condition should say.
pub fn condition(verdict: &Verdict) -> Wanted {
    let list = || {
        let each = verdict
            .failing
            .iter()
            .map(|(addr, why)| format!("{addr}: {why}"));
        each.collect::<Vec<_>>().join("; ")
    };
    let kept: Vec<String> = verdict.kept.iter().map(ToString::to_string).collect();
    let (status, reason, message) = if verdict.is_ready.is_empty() {
        (
            Status::Unknown,
            "NothingToCheck",
            "no backend of a static EndpointSlice has a port to ask".to_owned(),
        )
    } else if verdict.failing.is_empty() {
        (Status::True, "AllHealthy", String::new())
    } else if kept.is_empty() {
        (Status::False, "BackendsFailing", list())
    } else {
        let message = format!("{}; {} is kept, being the last", list(), kept.join(" and "));
        (Status::False, "LastBackendKept", message)
    };
    Wanted {
        type_: BACKENDS_HEALTHY,
        status,
        reason: reason.to_owned(),
        message,
        observed_generation: None,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use fairlead_api::names::annotation::HEALTH_CHECK_FAILED;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::{Value, json};

    use super::{condition, patch, service_of, targets};
    use crate::{
        engine::Verdict,
        settings::{Check, Kind},
    };

    fn slice(failed: Option<&str>, ready: [Option<bool>; 2]) -> EndpointSlice {
        let conditions = |ready: Option<bool>| json!({"ready": ready});
        let mut slice = json!({
            "metadata": {"name": "web-1", "namespace": "shop", "resourceVersion": "7",
                         "labels": {"kubernetes.io/service-name": "web"}, "annotations": {}},
            "addressType": "IPv4",
            "ports": [{"port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "any"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": conditions(ready[0])},
                {"addresses": ["10.0.0.2"], "conditions": conditions(ready[1]), "nodeName": "b"},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "terminating": true}},
            ],
        });
        if let Some(failed) = failed {
            slice["metadata"]["annotations"][HEALTH_CHECK_FAILED] = failed.into();
        }
        serde_json::from_value(slice).unwrap()
    }

    fn verdict(ready: &[(&str, bool)]) -> Verdict {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let failing = ready.iter().filter(|(_, ready)| !ready);
        Verdict {
            is_ready: ready.iter().map(|(a, ready)| (ip(a), *ready)).collect(),
            failing: failing.map(|(a, _)| (ip(a), "no".to_owned())).collect(),
            ..Verdict::default()
        }
    }

    fn check(port: Option<u16>) -> Check {
        Check {
            kind: Kind::Tcp,
            port,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            failures: 3,
            successes: 2,
        }
    }

    fn asked(slice: &EndpointSlice, port: Option<u16>) -> Vec<(String, bool)> {
        let service = service_of(slice).unwrap();
        let all = targets(&service, slice, &check(port));
        all.into_iter()
            .map(|(t, ready)| (format!("{}:{}", t.addr, t.port), ready))
            .collect()
    }

    #[test]
    fn tcp_ports_are_asked_and_what_the_user_took_out_is_not() {
        let own = slice(None, [None, Some(false)]);
        assert_eq!(asked(&own, None), [("10.0.0.1:80".to_owned(), true)]);
        assert_eq!(
            asked(&own, Some(8081)),
            [("10.0.0.1:8081".to_owned(), true)]
        );
        let ours = slice(Some("10.0.0.2"), [None, Some(false)]);
        assert_eq!(asked(&ours, None)[1], ("10.0.0.2:80".to_owned(), false));
        let mut managed = slice(None, [None, None]);
        let labels = managed.metadata.labels.as_mut().unwrap();
        labels.insert(
            "endpointslice.kubernetes.io/managed-by".into(),
            "endpointslice-controller.k8s.io".into(),
        );
        assert_eq!(service_of(&managed), None);
    }

    #[test]
    fn a_slice_is_patched_until_it_says_what_is_true_and_then_left_alone() {
        let down = verdict(&[("10.0.0.1", true), ("10.0.0.2", false)]);
        let change = patch(&slice(None, [None, None]), &down).unwrap();
        assert_eq!(
            change["metadata"]["annotations"][HEALTH_CHECK_FAILED],
            "10.0.0.2"
        );
        assert_eq!(change["metadata"]["resourceVersion"], "7");
        assert_eq!(
            change["endpoints"][0]["conditions"],
            json!({}),
            "what was not said stays unsaid"
        );
        assert_eq!(change["endpoints"][1]["conditions"]["ready"], false);
        assert_eq!(change["endpoints"][1]["nodeName"], "b");

        let said = slice(Some("10.0.0.2"), [None, Some(false)]);
        assert_eq!(patch(&said, &down), None);
        let up = verdict(&[("10.0.0.1", true), ("10.0.0.2", true)]);
        let change = patch(&said, &up).unwrap();
        assert_eq!(change["endpoints"][1]["conditions"]["ready"], true);
        assert_eq!(
            change["metadata"]["annotations"][HEALTH_CHECK_FAILED],
            Value::Null
        );
        let reapplied = slice(Some("10.0.0.2"), [None, Some(true)]);
        let change = patch(&reapplied, &down).unwrap();
        assert_eq!(
            change["endpoints"][1]["conditions"]["ready"], false,
            "a manifest applied again changes nothing for long"
        );
    }

    #[test]
    fn a_check_taken_away_leaves_nothing_behind() {
        let said = slice(Some("10.0.0.2"), [None, Some(false)]);
        let change = patch(&said, &Verdict::default()).unwrap();
        assert_eq!(change["endpoints"][1]["conditions"]["ready"], true);
        let own = slice(None, [None, Some(false)]);
        assert_eq!(patch(&own, &Verdict::default()), None);
    }

    #[test]
    fn the_condition_names_who_fails_and_who_is_kept() {
        assert_eq!(
            condition(&verdict(&[("10.0.0.1", true)])).reason,
            "AllHealthy"
        );
        let mut all = verdict(&[("10.0.0.1", false), ("10.0.0.2", false)]);
        assert_eq!(condition(&all).reason, "BackendsFailing");
        all.kept = ["10.0.0.2".parse().unwrap()].into();
        let said = condition(&all);
        assert_eq!(said.reason, "LastBackendKept");
        assert_eq!(
            said.message,
            "10.0.0.1: no; 10.0.0.2: no; 10.0.0.2 is kept, being the last"
        );
        assert_eq!(condition(&Verdict::default()).reason, "NothingToCheck");
    }
}

//! EndpointSlices, and joining them to Services by port name and protocol.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_model::{
    Backend, BackendState, NodeName, Protocol, Service, ServiceName, ServicePort, TrafficPolicy,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use kube::ResourceExt as _;

use super::{ConvertError, Converted, Problem, port, protocol};
use crate::names::label;

/// What Cilium writes into slices of Ingress and Gateway Services: no backend.
const DUMMY: (IpAddr, u16) = (
    IpAddr::V4(std::net::Ipv4Addr::new(192, 192, 192, 192)),
    9999,
);

/// What one EndpointSlice adds to its Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The Service it belongs to.
    pub service: ServiceName,
    /// Its backends by port name and protocol, in the order of the slice.
    pub backends: BTreeMap<(String, Protocol), Vec<Backend>>,
    /// It holds what stands for a proxy on every node: an Ingress's or a Gateway's.
    pub has_proxies: bool,
}

/// An EndpointSlice; `None` if it belongs to no Service or holds names instead of addresses.
///
/// # Errors
/// Only when the Service's name is none. Endpoints and ports that cannot be read are left out and listed.
///
/// # Source
/// discovery.k8s.io/v1: absent `ready` means true, absent `serving` means `ready`, absent `terminating` means false; a port
/// without a number stands for all ports and names no backend.
pub fn slice(object: &EndpointSlice) -> Result<Option<Converted<Slice>>, ConvertError> {
    let Some(name) = object.labels().get(label::SLICE_SERVICE) else {
        return Ok(None);
    };
    if object.address_type == "FQDN" {
        return Ok(None);
    }
    let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
    let service = ServiceName::new(&namespace, name)
        .map_err(|e| ConvertError::new(format!("metadata.labels[{}]", label::SLICE_SERVICE), e))?;
    let mut problems = Vec::new();
    let ports: Vec<(String, Protocol, u16)> = object
        .ports
        .iter()
        .flatten()
        .enumerate()
        .filter_map(|(idx, p)| keep(slice_port(idx, p), &mut problems)?)
        .collect();
    let targets: Vec<(IpAddr, BackendState, Option<NodeName>)> = object
        .endpoints
        .iter()
        .enumerate()
        .flat_map(|(idx, e)| targets(idx, e, &mut problems))
        .collect();
    let mut backends: BTreeMap<(String, Protocol), Vec<Backend>> = BTreeMap::new();
    let mut has_proxies = false;
    for (name, protocol, port) in ports {
        let list = backends.entry((name, protocol)).or_default();
        has_proxies |= targets.iter().any(|(ip, ..)| (*ip, port) == DUMMY);
        let usable = targets.iter().filter(|(ip, ..)| (*ip, port) != DUMMY);
        list.extend(usable.map(|(addr, state, node)| Backend {
            addr: *addr,
            port,
            state: *state,
            node: node.clone(),
        }));
    }
    Ok(Some(Converted {
        value: Slice {
            service,
            backends,
            has_proxies,
        },
        problems,
    }))
}

fn keep<T>(result: Result<T, ConvertError>, problems: &mut Vec<ConvertError>) -> Option<T> {
    result.map_err(|e| problems.push(e)).ok()
}

fn slice_port(
    idx: usize,
    p: &EndpointPort,
) -> Result<Option<(String, Protocol, u16)>, ConvertError> {
    let Some(number) = p.port else {
        return Ok(None);
    };
    Ok(Some((
        p.name.clone().unwrap_or_default(),
        protocol(format!("ports[{idx}].protocol"), p.protocol.as_deref())?,
        port(format!("ports[{idx}].port"), number)?,
    )))
}

/// Every address of an endpoint, as Cilium does; Kubernetes' own controller writes exactly one.
fn targets(
    idx: usize,
    endpoint: &Endpoint,
    problems: &mut Vec<ConvertError>,
) -> Vec<(IpAddr, BackendState, Option<NodeName>)> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    let terminating = conditions.terminating.unwrap_or(false);
    let state = match (ready, serving && terminating) {
        (true, _) => BackendState::Active,
        (false, true) => BackendState::Terminating,
        (false, false) => BackendState::NotReady,
    };
    let node = endpoint.node_name.as_deref().and_then(|name| {
        let checked = NodeName::new(name);
        let field = format!("endpoints[{idx}].nodeName");
        keep(checked.map_err(|e| ConvertError::new(field, e)), problems)
    });
    let mut found = Vec::with_capacity(endpoint.addresses.len());
    for (at, text) in endpoint.addresses.iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(ip) => found.push((ip, state, node.clone())),
            Err(_) => problems.push(ConvertError::new(
                format!("endpoints[{idx}].addresses[{at}]"),
                Problem::Address(text.clone()),
            )),
        }
    }
    found
}

/// Replaces the Service's backends by what the slices say: joined by port name and protocol, both families in one list,
/// sorted, each address and port once. Of two entries for one backend (a pod on its way from one slice to another) the
/// more able state counts, and a node if either names one.
///
/// What a proxy on every node serves is local everywhere, which is what traffic policy Cluster says.
pub fn join(service: &mut Service, slices: &[&Slice]) {
    let ports = std::mem::take(&mut service.ports);
    service.backends = ports
        .iter()
        .map(|port| (port.name.clone(), backends_of(port, slices)))
        .collect();
    service.ports = ports;
    if slices.iter().any(|slice| slice.has_proxies) {
        service.external_traffic_policy = TrafficPolicy::Cluster;
    }
}

fn backends_of(port: &ServicePort, slices: &[&Slice]) -> Vec<Backend> {
    let key = (port.name.clone(), port.protocol);
    let mut merged: BTreeMap<(IpAddr, u16), (BackendState, Option<&NodeName>)> = BTreeMap::new();
    for backend in slices.iter().filter_map(|s| s.backends.get(&key)).flatten() {
        let entry = merged
            .entry((backend.addr, backend.port))
            .or_insert((backend.state, backend.node.as_ref()));
        // `BackendState` orders from most to least able.
        entry.0 = entry.0.min(backend.state);
        entry.1 = entry.1.or(backend.node.as_ref());
    }
    merged
        .into_iter()
        .map(|((addr, port), (state, node))| Backend {
            addr,
            port,
            state,
            node: node.cloned(),
        })
        .collect()
}

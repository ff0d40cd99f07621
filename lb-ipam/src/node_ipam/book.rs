//! What node IPAM knows and has to write. Sans-IO: events and answers in, patches out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fairlead_api::{
    condition::{Status, Wanted},
    convert,
    names::{annotation, condition as names, label},
    watch::table::Table,
};
use fairlead_model::{ServiceName, TrafficPolicy};
use json_patch::Patch;
use k8s_openapi::{
    api::{core::v1, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{ResourceExt as _, runtime::watcher::Event};

use super::{NoNodes, NodeFacts, Request, addresses, selector, serves};
use crate::{
    alloc::{Family, ServiceInput, Settings},
    controller::{
        state::{is_newer, read, table_key},
        write::{self, Fault},
    },
    request,
};

/// Taint of a node that the cluster autoscaler is about to delete: of all taints, the only one that counts here.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// An event of one of the three watches.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once, from the stream into the book"
)]
pub(super) enum Change {
    Service(Event<v1::Service>),
    Node(Event<v1::Node>),
    Slice(Event<EndpointSlice>),
}

/// A status to write.
#[derive(Debug)]
pub(super) struct Todo {
    pub(super) name: ServiceName,
    pub(super) patch: Patch,
}

/// Which nodes host ready endpoints of which Service: one EndpointSlice's part.
#[derive(Debug, Clone, PartialEq)]
struct Hosts {
    service: ServiceName,
    nodes: BTreeSet<String>,
}

pub(super) struct Book {
    settings: Settings,
    services: Table<v1::Service>,
    nodes: Table<NodeFacts>,
    slices: Table<Hosts>,
    hosts: BTreeMap<ServiceName, BTreeSet<String>>,
    dirty: BTreeSet<ServiceName>,
    failed: BTreeSet<ServiceName>,
}

impl Book {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            services: Table::default(),
            nodes: Table::default(),
            slices: Table::default(),
            hosts: BTreeMap::new(),
            dirty: BTreeSet::new(),
            failed: BTreeSet::new(),
        }
    }

    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Service(event) => {
                let event = read(event, |o| Ok(Some(self.newest(o))));
                for (key, _) in self.services.apply(event) {
                    self.dirty.extend(key.parse::<ServiceName>());
                }
            }
            Change::Node(event) => {
                let event = read(event, |o| Ok(Some(facts(o))));
                if !self.nodes.apply(event).is_empty() {
                    let keys = self.services.iter().map(table_key);
                    self.dirty.extend(keys.filter_map(|key| key.parse().ok()));
                }
            }
            Change::Slice(event) => {
                let event = read(event, |o| Ok(hosts(o)));
                for (key, before) in self.slices.apply(event) {
                    let now = self.slices.get(&key).map(|h| h.service.clone());
                    for name in before.map(|h| h.service).into_iter().chain(now) {
                        self.count_hosts(&name);
                        self.dirty.insert(name);
                    }
                }
            }
        }
    }

    /// The Service as the event has it, or as an answer that is newer had it.
    fn newest(&self, object: &v1::Service) -> v1::Service {
        let live = self.services.get(&table_key(object));
        if let Some(live) = live.filter(|l| is_newer(&l.metadata, &object.metadata)) {
            return live.clone();
        }
        let mut object = object.clone();
        object.metadata.managed_fields = None;
        object
    }

    fn count_hosts(&mut self, name: &ServiceName) {
        let slices = self.slices.iter().filter(|h| h.service == *name);
        let nodes: BTreeSet<String> = slices.flat_map(|h| h.nodes.iter().cloned()).collect();
        self.hosts.insert(name.clone(), nodes);
    }

    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    pub(super) fn try_again(&mut self) {
        self.dirty.append(&mut self.failed);
    }

    /// What is to be written now, once every list is whole.
    pub(super) fn todo(&mut self, now: &Time) -> Vec<Todo> {
        let is_ready =
            self.services.is_complete() && self.nodes.is_complete() && self.slices.is_complete();
        if !is_ready {
            return Vec::new();
        }
        let dirty = std::mem::take(&mut self.dirty);
        let todo = dirty.into_iter().filter_map(|name| self.decide(name, now));
        todo.collect()
    }

    fn decide(&self, name: ServiceName, now: &Time) -> Option<Todo> {
        let object = self.services.get(&name.to_string())?;
        let input = request::service(object).ok()?;
        let status = object.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let has = |type_: &str| conditions.iter().any(|c| c.type_ == type_);
        if !input.is_load_balancer || !serves(&self.settings, &input.class) {
            if !has(names::NODE_IPAM_SATISFIED) {
                return None;
            }
            // What LB-IPAM has given meanwhile stays.
            let ingress = if has(names::IPAM_REQUEST_SATISFIED) {
                input.ingress
            } else {
                Vec::new()
            };
            let remove = [names::NODE_IPAM_SATISFIED];
            let patch = write::status(object, &ingress, None, &remove, now);
            return Some(Todo { name, patch });
        }
        let request = self.wishes(object, &input);
        let none = BTreeSet::new();
        let hosts = self.hosts.get(&name).unwrap_or(&none);
        let (found, why) = match addresses(&request, self.nodes.iter(), hosts) {
            Ok(found) => (found, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        let wanted = Wanted {
            type_: names::NODE_IPAM_SATISFIED,
            status: Status::from(why.is_none()),
            reason: why.as_ref().map_or("satisfied", NoNodes::reason).to_owned(),
            message: why.as_ref().map_or_else(String::new, ToString::to_string),
            observed_generation: object.metadata.generation,
        };
        let is_said = conditions.iter().any(|c| {
            c.type_ == wanted.type_
                && c.status == wanted.status.as_str()
                && c.reason == wanted.reason
                && c.message == wanted.message
        });
        // With a selector that cannot be read, the addresses are left as they were.
        let patch = if let Some(NoNodes::BadSelector(_)) = why {
            (!is_said).then(|| write::condition_only(object, &wanted, now))
        } else {
            let is_there = input.ingress == found && !input.has_foreign_entries;
            (!is_said || !is_there).then(|| write::status(object, &found, Some(&wanted), &[], now))
        };
        patch.map(|patch| Todo { name, patch })
    }

    fn wishes(&self, object: &v1::Service, input: &ServiceInput) -> Request {
        let text = object.annotations().get(annotation::NODE_IPAM_MATCH);
        let mut families = input.families.clone();
        if families.is_empty() {
            // The API server fills the field in; without it, whatever is in use.
            let enabled = [
                (Family::V4, self.settings.ipv4),
                (Family::V6, self.settings.ipv6),
            ];
            families.extend(enabled.iter().filter(|(_, is_on)| *is_on).map(|(f, _)| *f));
        }
        Request {
            families,
            nodes: selector::parse(text.map_or("", String::as_str)),
            is_local: input.sharing.traffic_policy == TrafficPolicy::Local,
        }
    }

    pub(super) fn written(&mut self, name: &ServiceName, answer: Result<v1::Service, Fault>) {
        match answer {
            Ok(mut object) => {
                object.metadata.managed_fields = None;
                let key = table_key(&object);
                let live = self.services.get(&key);
                if !live.is_some_and(|live| is_newer(&live.metadata, &object.metadata)) {
                    self.services.update(&key, object);
                }
                tracing::info!(svc = %name, "addresses of nodes written");
            }
            Err(Fault::NotFound) => {}
            Err(fault) => {
                let reason = fault.reason();
                tracing::warn!(svc = %name, reason, error = %fault, "addresses of nodes not written; trying again");
                self.failed.insert(name.clone());
            }
        }
    }
}

/// # Source
/// Specification section 2: what makes a node a candidate. A cordoned one still is.
pub(super) fn facts(node: &v1::Node) -> NodeFacts {
    let status = node.status.iter();
    let given = status.flat_map(|s| s.addresses.iter().flatten());
    let (mut external, mut internal) = (Vec::new(), Vec::new());
    for address in given {
        let list = match address.type_.as_str() {
            "ExternalIP" => &mut external,
            "InternalIP" => &mut internal,
            _ => continue,
        };
        list.extend(address.address.parse::<IpAddr>());
    }
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let is_going = taints.into_iter().any(|t| t.key == TO_BE_DELETED);
    NodeFacts {
        name: node.name_any(),
        is_candidate: node.metadata.deletion_timestamp.is_none()
            && !node.labels().contains_key(label::NODE_EXCLUDED)
            && !is_going,
        labels: node.labels().clone(),
        external,
        internal,
    }
}

fn hosts(object: &EndpointSlice) -> Option<Hosts> {
    let service = convert::slice(object).ok()??.value.service;
    let ready = object.endpoints.iter().filter(|e| {
        let conditions = e.conditions.as_ref();
        conditions.and_then(|c| c.ready).unwrap_or(true)
    });
    Some(Hosts {
        service,
        nodes: ready.filter_map(|e| e.node_name.clone()).collect(),
    })
}

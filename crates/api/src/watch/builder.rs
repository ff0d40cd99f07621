//! Joining of watch events into snapshots: pure, and in proportion to what changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairlead_model::{Generation, L2Policy, Node, NodeName, Service, ServiceName, Snapshot, Vip};
use k8s_openapi::api::{core::v1, discovery::v1::EndpointSlice};
use kube::{Resource, ResourceExt as _, api::DynamicObject, runtime::watcher::Event};

use super::{
    ObjectRef,
    claims::Claims,
    table::{Read, Table},
};
use crate::{
    CiliumL2AnnouncementPolicy,
    convert::{self, ConvertError, Converted, Slice},
};

/// An event of one of the four watches.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once, from the stream into the builder"
)]
pub enum Change {
    /// Of Services.
    Service(Event<v1::Service>),
    /// Of EndpointSlices.
    Slice(Event<EndpointSlice>),
    /// Of Nodes.
    Node(Event<v1::Node>),
    /// Of CiliumL2AnnouncementPolicies.
    L2Policy(Event<DynamicObject>),
}

/// Collects events; [`Self::build`] gives a snapshot as soon as all four lists are whole, and after that one per change.
#[derive(Debug, Default)]
pub struct SnapshotBuilder {
    services: Table<Service>,
    slices: Table<Slice>,
    nodes: Table<Node>,
    policies: Table<L2Policy>,
    slices_of: BTreeMap<ServiceName, BTreeSet<String>>,
    claims: Claims,
    dirty: Dirty,
    problems: ProblemBook,
    current: Option<Arc<Snapshot>>,
}

/// What changed since the last build.
#[derive(Debug, Default)]
struct Dirty {
    services: BTreeSet<ServiceName>,
    nodes: bool,
    policies: bool,
}

impl SnapshotBuilder {
    /// Takes one event. A list begun anew shows only when it is whole; an object that cannot be read keeps its last
    /// readable form.
    pub fn apply(&mut self, change: Change) {
        let book = &mut self.problems;
        match change {
            Change::Service(event) => {
                self.dirty.services.append(&mut self.claims.apply(&event));
                let event = book.read("Service", event, |o| convert::service(o).map(Some));
                for (key, before) in self.services.apply(event) {
                    let now = self.services.get(&key).or(before.as_ref());
                    self.dirty.services.extend(now.map(|s| s.name.clone()));
                }
            }
            Change::Slice(event) => {
                let event = book.read("EndpointSlice", event, convert::slice);
                for (key, before) in self.slices.apply(event) {
                    let now = self.slices.get(&key).map(|slice| slice.service.clone());
                    self.index_slice(key, before.map(|slice| slice.service), now);
                }
            }
            Change::Node(event) => {
                let event = book.read("Node", event, |o| convert::node(o).map(Some));
                self.dirty.nodes |= !self.nodes.apply(event).is_empty();
            }
            Change::L2Policy(event) => {
                let event = book.read("CiliumL2AnnouncementPolicy", event, policy);
                self.dirty.policies |= !self.policies.apply(event).is_empty();
            }
        }
    }

    fn index_slice(&mut self, key: String, before: Option<ServiceName>, now: Option<ServiceName>) {
        if let Some(name) = before {
            if let Some(keys) = self.slices_of.get_mut(&name) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.slices_of.remove(&name);
                }
            }
            self.dirty.services.insert(name);
        }
        if let Some(name) = now {
            self.slices_of.entry(name.clone()).or_default().insert(key);
            self.dirty.services.insert(name);
        }
    }

    /// Whether all four lists were whole at least once.
    pub const fn is_complete(&self) -> bool {
        self.services.is_complete()
            && self.slices.is_complete()
            && self.nodes.is_complete()
            && self.policies.is_complete()
    }

    /// The next snapshot, if all lists are whole and something an agent acts on changed since the last one.
    ///
    /// # Complexity
    /// Joins only the Services that changed; the map of Services is copied.
    pub fn build(&mut self) -> Option<Arc<Snapshot>> {
        if !self.is_complete() {
            return None;
        }
        let dirty = std::mem::take(&mut self.dirty);
        let (old, is_first) = match &self.current {
            Some(current) => (Arc::clone(current), false),
            None => (Arc::new(EMPTY), true),
        };
        let services: Vec<(ServiceName, Option<Service>)> = dirty
            .services
            .into_iter()
            .map(|name| {
                let joined = self.joined(&name);
                (name, joined)
            })
            .filter(|(name, joined)| old.services.get(name) != joined.as_ref())
            .collect();
        let nodes = dirty.nodes.then(|| self.node_map());
        let nodes = nodes.filter(|nodes| *nodes != old.nodes);
        let policies = dirty.policies.then(|| self.policy_map());
        let policies = policies.filter(|policies| *policies != old.l2_policies);
        if !is_first && services.is_empty() && nodes.is_none() && policies.is_none() {
            return None;
        }
        let mut next = Snapshot::clone(&old);
        next.generation = old.generation.next();
        for (name, service) in services {
            match service {
                Some(service) => next.services.insert(name, service),
                None => next.services.remove(&name),
            };
        }
        next.nodes = nodes.unwrap_or(next.nodes);
        next.l2_policies = policies.unwrap_or(next.l2_policies);
        let next = Arc::new(next);
        self.current = Some(Arc::clone(&next));
        Some(next)
    }

    /// What cannot be read, if that changed since the last call.
    pub fn take_problems(&mut self) -> Option<Vec<(ObjectRef, ConvertError)>> {
        std::mem::take(&mut self.problems.is_changed).then(|| {
            let each = self.problems.live.iter();
            each.flat_map(|(object, errors)| errors.iter().map(|e| (object.clone(), e.clone())))
                .collect()
        })
    }

    /// The Service with its backends, if it has or wants a VIP.
    fn joined(&self, name: &ServiceName) -> Option<Service> {
        let service = self.services.get(&name.to_string())?;
        if !service.is_load_balancer && service.external_ips.is_empty() {
            return None;
        }
        let mut service = service.clone();
        let is_its_own = |vip: &Vip| self.claims.may_use(*vip, name);
        service.load_balancer_ips.retain(is_its_own);
        let keys = self.slices_of.get(name).into_iter().flatten();
        let slices: Vec<&Slice> = keys.filter_map(|key| self.slices.get(key)).collect();
        convert::join(&mut service, &slices);
        Some(service)
    }

    fn node_map(&self) -> BTreeMap<NodeName, Node> {
        self.nodes
            .iter()
            .map(|node| (node.name.clone(), node.clone()))
            .collect()
    }

    fn policy_map(&self) -> BTreeMap<String, L2Policy> {
        self.policies
            .iter()
            .map(|policy| (policy.name.clone(), policy.clone()))
            .collect()
    }
}

/// What the first snapshot is compared with; never published.
const EMPTY: Snapshot = Snapshot {
    generation: Generation(0),
    services: BTreeMap::new(),
    l2_policies: BTreeMap::new(),
    nodes: BTreeMap::new(),
};

/// A policy from plain data.
fn policy(object: &DynamicObject) -> Result<Option<Converted<L2Policy>>, ConvertError> {
    let policy: CiliumL2AnnouncementPolicy = convert::typed(object)?;
    Ok(Some(Converted {
        value: convert::l2_policy(&policy),
        problems: Vec::new(),
    }))
}

// === impl ProblemBook ===

/// What cannot be read, by object; a list begun anew replaces its kind's entries only when it is whole.
#[derive(Debug, Default)]
struct ProblemBook {
    live: BTreeMap<ObjectRef, Vec<ConvertError>>,
    fresh: BTreeMap<&'static str, BTreeMap<ObjectRef, Vec<ConvertError>>>,
    is_changed: bool,
}

impl ProblemBook {
    /// Converts the object of an event and notes what could not be read.
    fn read<K: Resource, R>(
        &mut self,
        kind: &'static str,
        event: Event<K>,
        convert: impl Fn(&K) -> Result<Option<Converted<R>>, ConvertError>,
    ) -> Event<(String, Read<R>)> {
        let split = |object: &K| {
            let reference = ObjectRef {
                kind,
                namespace: object.namespace().unwrap_or_default(),
                name: object.name_any(),
            };
            let key = format!("{}/{}", reference.namespace, reference.name);
            let (read, problems) = match convert(object) {
                Ok(Some(converted)) => (Ok(Some(converted.value)), converted.problems),
                Ok(None) => (Ok(None), Vec::new()),
                Err(error) => (Err(()), vec![error]),
            };
            (reference, key, read, problems)
        };
        match event {
            Event::Init => {
                self.fresh.insert(kind, BTreeMap::new());
                Event::Init
            }
            Event::InitApply(object) => {
                let (reference, key, read, problems) = split(&object);
                if !problems.is_empty() {
                    self.fresh
                        .entry(kind)
                        .or_default()
                        .insert(reference, problems);
                }
                Event::InitApply((key, read))
            }
            Event::InitDone => {
                let before = self.live.clone();
                self.live.retain(|object, _| object.kind != kind);
                self.live
                    .extend(self.fresh.remove(kind).unwrap_or_default());
                self.is_changed |= before != self.live;
                Event::InitDone
            }
            Event::Apply(object) => {
                let (reference, key, read, problems) = split(&object);
                self.note(reference, problems);
                Event::Apply((key, read))
            }
            Event::Delete(object) => {
                let (reference, key, ..) = split(&object);
                self.note(reference, Vec::new());
                Event::Delete((key, Ok(None)))
            }
        }
    }

    fn note(&mut self, object: ObjectRef, problems: Vec<ConvertError>) {
        self.is_changed |= if problems.is_empty() {
            self.live.remove(&object).is_some()
        } else {
            let before = self.live.insert(object, problems.clone());
            before != Some(problems)
        };
    }
}

#[cfg(test)]
mod tests;

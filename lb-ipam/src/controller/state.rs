//! What is remembered between plans: the objects as last seen, writes under way, and what must wait.
//!
//! Sans-IO: events, answers and times in; inputs and writes out. Two rules keep the plan honest. A write under way counts as
//! done (its new addresses are held, its old ones not yet free), so that no later plan gives the same address away. And an
//! object never goes back in time: an event or a list older than an answer that we hold is ignored.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use fairlead_api::{
    AddressReservation, CiliumLoadBalancerIPPool, IPPoolUsage,
    convert::{self, ConvertError},
    watch::table::{Read, Table},
};
use fairlead_model::{Pool, ServiceName};
use json_patch::Patch;
use k8s_openapi::{
    api::core::v1,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Resource, ResourceExt as _, api::DynamicObject, runtime::watcher::Event};

use super::{
    metrics::EventLabel,
    usage::Usage,
    write::{self, Fault},
};
use crate::{
    alloc::{
        PoolChange, PoolInput, ReservationChange, Seen, ServiceChange, ServiceInput, Settings,
        engine::{Delta, Engine},
    },
    request,
};

mod extras;

use extras::Extras;
pub use extras::in_use;

/// First pause after a failed write; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest pause between tries.
const RETRY_MAX: Duration = Duration::from_mins(5);

/// An event of one of the watches.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once, from the stream into the state"
)]
pub enum Change {
    /// Of Services.
    Service(Event<v1::Service>),
    /// Of pools.
    Pool(Event<DynamicObject>),
    /// Of reservations.
    Reservation(Event<DynamicObject>),
    /// Of what is remembered about pools.
    Usage(Event<DynamicObject>),
    /// Of Nodes.
    Node(Event<v1::Node>),
    /// A list cannot be had: its kind is not installed or not permitted, and counts as empty.
    Absent(Extra),
}

impl Change {
    /// What it counts as in the metrics, which know pools and Services.
    pub(super) const fn label(&self) -> Option<EventLabel> {
        let (resource, is_delete) = match self {
            Self::Service(Event::Apply(_) | Event::InitApply(_)) => ("service", false),
            Self::Service(Event::Delete(_)) => ("service", true),
            Self::Pool(Event::Apply(_) | Event::InitApply(_)) => ("pool", false),
            Self::Pool(Event::Delete(_)) => ("pool", true),
            _ => return None,
        };
        let event = if is_delete { "delete" } else { "upsert" };
        Some(EventLabel { event, resource })
    }
}

/// Lists that LB-IPAM can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Extra {
    /// Of reservations.
    Reservations,
    /// Of what is remembered about pools.
    Usages,
    /// Of Nodes.
    Nodes,
}

/// An object that is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A pool's status.
    Pool(String),
    /// A Service's status.
    Service(ServiceName),
    /// A reservation's status.
    Reservation(String),
    /// What is remembered about a pool.
    Usage(String),
}

impl Key {
    /// What RBAC calls it.
    pub const fn resource(&self) -> &'static str {
        match self {
            Self::Pool(_) => "ciliumloadbalancerippools/status",
            Self::Service(_) => "services/status",
            Self::Reservation(_) => "addressreservations/status",
            Self::Usage(_) => "ippoolusages (also create and delete) and ippoolusages/status",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(name) => write!(f, "CiliumLoadBalancerIPPool {name}"),
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Reservation(name) => write!(f, "AddressReservation {name}"),
            Self::Usage(name) => write!(f, "IPPoolUsage {name}"),
        }
    }
}

/// What to do to an object.
#[derive(Debug, Clone)]
pub enum Verb {
    /// Patch its status.
    Patch(Patch),
    /// Make the object that remembers about this pool.
    MakeUsage(String),
    /// Delete it.
    DropUsage(String),
}

/// A write to send.
#[derive(Debug, Clone)]
pub struct Write {
    /// Whose status.
    pub key: Key,
    /// The write.
    pub verb: Verb,
}

/// What the API server answered to a write.
#[derive(Debug, Clone)]
pub enum Written {
    /// The Service as it is now.
    Service(Box<v1::Service>),
    /// The pool as it is now.
    Pool(Box<CiliumLoadBalancerIPPool>),
    /// The reservation as it is now.
    Reservation(Box<AddressReservation>),
    /// What is remembered about a pool now; `None` if it is deleted.
    Usage(Option<Box<IPPoolUsage>>),
}

#[derive(Debug, Clone, PartialEq)]
struct ServiceRecord {
    object: v1::Service,
    input: ServiceInput,
}

#[derive(Debug, Clone, PartialEq)]
struct PoolRecord {
    /// `None` for a pool that does not fit its type: it is reported, not written.
    object: Option<CiliumLoadBalancerIPPool>,
    input: PoolInput,
}

#[derive(Debug, Clone)]
enum Decided {
    Service(ServiceChange),
    Pool(PoolChange),
    Reservation(ReservationChange),
    /// What it says is decided when it is sent.
    Usage,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    until: Instant,
    pause: Duration,
    /// A newer object ends the pause.
    is_conflict: bool,
}

/// Everything between two plans.
#[derive(Debug)]
pub struct State {
    /// Lent to whoever runs it; then nothing else happens here.
    engine: Option<Engine>,
    services: Table<ServiceRecord>,
    pools: Table<PoolRecord>,
    extras: Extras,
    usage: Usage,
    /// Services whose claim changed since they were last as they should be.
    edited: BTreeSet<ServiceName>,
    queue: BTreeMap<Key, Decided>,
    in_flight: BTreeMap<Key, Decided>,
    retries: BTreeMap<Key, Retry>,
}

impl State {
    /// Nothing seen yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            engine: Some(Engine::new(settings)),
            services: Table::default(),
            pools: Table::default(),
            extras: Extras::default(),
            usage: Usage::default(),
            edited: BTreeSet::new(),
            queue: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            retries: BTreeMap::new(),
        }
    }

    /// Routers that no Node names.
    pub fn set_gateways(&mut self, gateways: &[IpAddr]) {
        let in_use = self.extras.set_gateways(gateways);
        self.engine().set_in_use(in_use);
    }

    /// Takes one event.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Service(event) => {
                let event = read(event, |o| self.read_service(o));
                for (key, before) in self.services.apply(event) {
                    self.service_changed(&key, before);
                }
            }
            Change::Pool(event) => {
                let event = read(event, |o| self.read_pool(o));
                for (key, _) in self.pools.apply(event) {
                    let name = key.trim_start_matches('/').to_owned();
                    self.tell_pool(&name);
                    self.end_conflict(&Key::Pool(name));
                }
            }
            Change::Reservation(event) => {
                for name in self.extras.take_reservations(event) {
                    self.tell(&Key::Reservation(name.clone()));
                    self.end_conflict(&Key::Reservation(name));
                }
            }
            Change::Usage(event) => {
                for name in self.extras.take_usages(event) {
                    if let Some(status) = self.extras.usage(&name).and_then(|u| u.status.as_ref()) {
                        self.usage.recall(&name, status);
                        let former = self.usage.former();
                        self.engine().set_former(former);
                    }
                    self.end_conflict(&Key::Usage(name));
                }
            }
            Change::Node(event) => {
                if let Some(in_use) = self.extras.take_nodes(event) {
                    self.engine().set_in_use(in_use);
                }
            }
            Change::Absent(which) => self.extras.set_absent(which),
        }
    }

    fn read_service(&self, object: &v1::Service) -> Read<ServiceRecord> {
        let live = self.services.get(&table_key(object));
        if let Some(live) = live.filter(|l| is_newer(&l.object.metadata, &object.metadata)) {
            return Ok(Some(live.clone()));
        }
        service_record(object.clone()).map(Some).map_err(|error| {
            tracing::warn!(reason = error.reason(), %error, "cannot read Service {}", table_key(object));
        })
    }

    fn read_pool(&self, object: &DynamicObject) -> Read<PoolRecord> {
        let live = self.pools.get(&table_key(object));
        let live_meta = live.and_then(|l| l.object.as_ref()).map(|o| &o.metadata);
        if live_meta.is_some_and(|live| is_newer(live, &object.metadata)) {
            return Ok(live.cloned());
        }
        match convert::typed::<CiliumLoadBalancerIPPool>(object) {
            Ok(typed) => Ok(Some(pool_record(typed))),
            Err(error) => {
                let name = object.name_any();
                tracing::warn!(reason = error.reason(), %error, "cannot read CiliumLoadBalancerIPPool {name}");
                if live.is_some() {
                    return Err(());
                }
                Ok(Some(unreadable_pool(object, &error)))
            }
        }
    }

    fn service_changed(&mut self, key: &str, before: Option<ServiceRecord>) {
        let Some(now) = self.services.get(key) else {
            if let Some(before) = before {
                let name = before.input.name;
                self.edited.remove(&name);
                self.engine().remove_service(&name);
            }
            return;
        };
        let name = now.input.name.clone();
        if before.is_some_and(|b| is_edit(&b.input, &now.input)) {
            self.edited.insert(name.clone());
        }
        self.tell_service(&name);
        self.end_conflict(&Key::Service(name));
    }

    fn end_conflict(&mut self, key: &Key) {
        if self.retries.get(key).is_some_and(|r| r.is_conflict) {
            self.retries.remove(key);
        }
    }

    fn engine(&mut self) -> &mut Engine {
        let engine = self.engine.as_mut();
        engine.expect("whoever runs the engine gives it back before anything else happens")
    }

    /// What the engine is to know about a Service: a write under way counts as done.
    fn tell_service(&mut self, name: &ServiceName) {
        let Some(record) = self.services.get(&name.to_string()) else {
            return;
        };
        let mut input = record.input.clone();
        input.is_edited = self.edited.contains(name);
        if let Some(Decided::Service(sent)) = self.in_flight.get(&Key::Service(name.clone())) {
            input.releasing = std::mem::replace(&mut input.ingress, sent.ingress.clone());
            input.releasing.retain(|ip| !sent.ingress.contains(ip));
            input.has_foreign_entries = false;
            input.condition = sent.condition.as_ref().map(seen);
        }
        self.engine().set_service(input);
    }

    fn tell_pool(&mut self, name: &str) {
        let Some(record) = self.pools.get(&format!("/{name}")) else {
            self.engine().remove_pool(name);
            return;
        };
        let mut input = record.input.clone();
        if let Some(Decided::Pool(sent)) = self.in_flight.get(&Key::Pool(name.to_owned())) {
            let each = sent.conditions.iter();
            input
                .conditions
                .extend(each.map(|w| (w.type_.to_owned(), seen(w))));
        }
        self.engine().set_pool(input);
    }

    fn tell_reservation(&mut self, name: &str) {
        let Some(mut input) = self.extras.reservation(name) else {
            self.engine().remove_reservation(name);
            return;
        };
        if let Some(Decided::Reservation(sent)) =
            self.in_flight.get(&Key::Reservation(name.to_owned()))
        {
            let each = sent.conditions.iter();
            input
                .conditions
                .extend(each.map(|w| (w.type_.to_owned(), seen(w))));
        }
        self.engine().set_reservation(input);
    }

    fn is_ready(&self) -> bool {
        self.services.is_complete() && self.pools.is_complete() && self.extras.are_complete()
    }

    /// The engine, if every list is whole and it has something to do: to be run, and given to [`Self::take_delta`].
    pub fn take_engine(&mut self) -> Option<Engine> {
        let is_ready = self.is_ready();
        self.engine.take_if(|engine| is_ready && engine.is_due())
    }

    /// Takes the engine back, and what its run changed.
    pub fn take_delta(&mut self, engine: Engine, delta: Delta, wall: SystemTime) {
        for (name, held) in &delta.released {
            self.usage.released(name, held, &engine, wall);
        }
        let is_released = !delta.released.is_empty();
        self.engine = Some(engine);
        if is_released {
            let former = self.usage.former();
            self.engine().set_former(former);
        }
        for (name, change) in delta.services {
            let key = Key::Service(name.clone());
            if let Some(change) = change {
                self.queue.insert(key, Decided::Service(change));
                continue;
            }
            self.queue.remove(&key);
            if self.edited.remove(&name) {
                self.tell_service(&name);
            }
        }
        for (name, change) in delta.pools {
            let key = Key::Pool(name);
            match change {
                Some(change) => self.queue.insert(key, Decided::Pool(change)),
                None => self.queue.remove(&key),
            };
        }
        for (name, change) in delta.reservations {
            let key = Key::Reservation(name);
            match change {
                Some(change) => self.queue.insert(key, Decided::Reservation(change)),
                None => self.queue.remove(&key),
            };
        }
        self.remember(wall);
    }

    /// What time alone changes: samples that are due, and kept addresses that are kept no longer.
    pub fn remember(&mut self, wall: SystemTime) {
        if !self.is_ready() || self.extras.is_absent(Extra::Usages) {
            return;
        }
        let Some(engine) = &self.engine else {
            return;
        };
        let changed = self.usage.tick(engine, wall);
        if changed.is_empty() {
            return;
        }
        let former = self.usage.former();
        self.engine().set_former(former);
        for name in changed {
            self.queue.insert(Key::Usage(name), Decided::Usage);
        }
    }

    /// When [`Self::remember`] has something to do.
    pub fn remember_at(&self) -> Option<SystemTime> {
        self.usage.wake_at()
    }

    /// The next write that may go out now. It counts as under way from here on, until [`Self::written`].
    pub fn next_write(&mut self, now: Instant, wall: &Time) -> Option<Write> {
        let mut keys = self.queue.keys();
        let key = keys.find(|key| self.may_go(key, now))?.clone();
        let decided = self.queue.remove(&key)?;
        let verb = match (&key, &decided) {
            (_, Decided::Service(change)) => {
                let record = self.services.get(&change.name.to_string());
                record.map(|r| Verb::Patch(write::service(&r.object, change, wall)))
            }
            (_, Decided::Pool(change)) => {
                let record = self.pools.get(&format!("/{}", change.name));
                let object = record.and_then(|r| r.object.as_ref());
                object.map(|o| Verb::Patch(write::pool(o, change, wall)))
            }
            (_, Decided::Reservation(change)) => {
                let object = self.extras.reservation_object(&change.name);
                object.map(|o| Verb::Patch(write::reservation(o, change, wall)))
            }
            (Key::Usage(name), Decided::Usage) => self.usage_write(name),
            (Key::Pool(_) | Key::Service(_) | Key::Reservation(_), Decided::Usage) => None,
        };
        let Some(verb) = verb else {
            return self.next_write(now, wall);
        };
        self.in_flight.insert(key.clone(), decided);
        self.tell(&key);
        Some(Write { key, verb })
    }

    /// What makes the object say what is remembered; `None` if it does.
    fn usage_write(&self, name: &str) -> Option<Verb> {
        match (self.extras.usage(name), self.usage.status(name)) {
            (Some(_), None) => Some(Verb::DropUsage(name.to_owned())),
            (None, None) => None,
            (None, Some(_)) => Some(Verb::MakeUsage(name.to_owned())),
            (Some(object), Some(status)) if object.status.as_ref() == Some(status) => None,
            (Some(object), Some(status)) => Some(Verb::Patch(write::usage(object, status))),
        }
    }

    fn may_go(&self, key: &Key, now: Instant) -> bool {
        let is_paused = self.retries.get(key).is_some_and(|retry| retry.until > now);
        !is_paused && !self.in_flight.contains_key(key)
    }

    /// When the first paused write may go out.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let paused = self.queue.keys().filter_map(|key| self.retries.get(key));
        paused
            .map(|retry| retry.until)
            .filter(|until| *until > now)
            .min()
    }

    fn tell(&mut self, key: &Key) {
        match key {
            Key::Service(name) => self.tell_service(name),
            Key::Pool(name) => self.tell_pool(name),
            Key::Reservation(name) => self.tell_reservation(name),
            Key::Usage(_) => {}
        }
    }

    /// Takes the answer to a write.
    pub fn written(&mut self, key: &Key, answer: Result<Written, Fault>, now: Instant) {
        let sent = self.in_flight.remove(key);
        match answer {
            Ok(written) => {
                self.retries.remove(key);
                self.store(key, written, sent);
            }
            Err(fault) => {
                let pause = self
                    .retries
                    .get(key)
                    .map_or(RETRY_MIN, |r| (r.pause * 2).min(RETRY_MAX));
                let is_conflict =
                    matches!(fault, Fault::Conflict | Fault::NotFound | Fault::Invalid(_));
                let until = now + pause;
                self.retries.insert(
                    key.clone(),
                    Retry {
                        until,
                        pause,
                        is_conflict,
                    },
                );
            }
        }
        // What the API says counts again, whether it took the write or not. If the engine never heard of the write, it has
        // nothing to say about it now: its last word stands.
        self.tell(key);
        let last_word = match key {
            Key::Service(name) => self.engine().change(name).cloned().map(Decided::Service),
            Key::Pool(name) => self.engine().pool_change(name).cloned().map(Decided::Pool),
            Key::Reservation(name) => {
                let change = self.engine().reservation_change(name);
                change.cloned().map(Decided::Reservation)
            }
            Key::Usage(name) => self.usage_write(name).map(|_| Decided::Usage),
        };
        if let Some(last_word) = last_word {
            self.queue.insert(key.clone(), last_word);
        }
    }

    fn store(&mut self, key: &Key, written: Written, sent: Option<Decided>) {
        match written {
            Written::Service(object) => {
                let key = table_key(&*object);
                let Some(live) = self.services.get(&key).cloned() else {
                    return;
                };
                let record = match service_record(*object) {
                    Ok(record) if !is_newer(&live.object.metadata, &record.object.metadata) => {
                        record
                    }
                    Ok(_) | Err(_) => live.clone(),
                };
                let name = record.input.name.clone();
                if is_edit(&live.input, &record.input) {
                    self.edited.insert(name);
                } else if let Some(Decided::Service(sent)) = sent
                    && is_done(&sent, &record.input)
                {
                    self.edited.remove(&name);
                    tracing::info!(svc = %name, vip = ?sent.ingress, "addresses written");
                }
                self.services.update(&key, record);
            }
            Written::Pool(object) => {
                let key = table_key(&*object);
                let live = self.pools.get(&key).and_then(|r| r.object.as_ref());
                if live.is_some_and(|live| is_newer(&live.metadata, &object.metadata)) {
                    return;
                }
                self.pools.update(&key, pool_record(*object));
            }
            Written::Reservation(object) => self.extras.put_reservation(*object),
            Written::Usage(object) => {
                if let Key::Usage(name) = key {
                    self.extras.put_usage(name, object.map(|o| *o));
                }
            }
        }
    }
}

/// Whether the claim changed while the Service held something: then it is the one to leave where that ends a sharing.
fn is_edit(before: &ServiceInput, now: &ServiceInput) -> bool {
    !before.ingress.is_empty() && !request::is_same_claim(before, now)
}

/// Whether the Service's status already says what was sent.
fn is_done(sent: &ServiceChange, input: &ServiceInput) -> bool {
    sent.ingress == input.ingress && sent.condition.as_ref().map(seen) == input.condition
}

fn seen(wanted: &fairlead_api::condition::Wanted) -> Seen {
    Seen {
        status: wanted.status.as_str().to_owned(),
        reason: wanted.reason.clone(),
        message: wanted.message.clone(),
        observed_generation: wanted.observed_generation,
    }
}

fn service_record(mut object: v1::Service) -> Result<ServiceRecord, ConvertError> {
    object.metadata.managed_fields = None;
    let input = request::service(&object)?;
    Ok(ServiceRecord { object, input })
}

fn pool_record(mut object: CiliumLoadBalancerIPPool) -> PoolRecord {
    object.metadata.managed_fields = None;
    let input = request::pool(&object);
    PoolRecord {
        object: Some(object),
        input,
    }
}

/// A pool that does not fit its type from the start: it gives out nothing, and takes nothing from those whose addresses may
/// come from it.
fn unreadable_pool(object: &DynamicObject, error: &ConvertError) -> PoolRecord {
    let created = object.creation_timestamp();
    PoolRecord {
        object: None,
        input: PoolInput {
            pool: Pool {
                name: object.name_any(),
                created: created.map_or(i64::MAX, |t| t.0.as_second()),
                blocks: Vec::new(),
                bad_blocks: vec![(error.field.clone(), error.problem.to_string())],
                allow_first_last: true,
                disabled: true,
                selector: Err(error.to_string()),
            },
            generation: object.metadata.generation,
            conditions: BTreeMap::new(),
            priority: 0,
            sticky: None,
            allows: Vec::new(),
            problems: Vec::new(),
        },
    }
}

/// Namespace and name, as a table's key.
pub(crate) fn table_key<K: Resource>(object: &K) -> String {
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    format!(
        "{namespace}/{}",
        object.meta().name.as_deref().unwrap_or_default()
    )
}

/// Whether `live` is a later state of the same object than `other`. Versions that are no numbers are not compared.
///
/// # Source
/// Kubernetes API concepts, resource versions: since 1.35 they may be compared as numbers; etcd's always could be.
pub(crate) fn is_newer(live: &ObjectMeta, other: &ObjectMeta) -> bool {
    let number = |meta: &ObjectMeta| meta.resource_version.as_deref()?.parse::<u64>().ok();
    live.uid == other.uid
        && number(live)
            .zip(number(other))
            .is_some_and(|(live, other)| live > other)
}

/// An event of objects as one of their records.
pub(crate) fn read<K: Resource, R>(
    event: Event<K>,
    convert: impl Fn(&K) -> Read<R>,
) -> Event<(String, Read<R>)> {
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply((table_key(&object), convert(&object))),
        Event::Apply(object) => Event::Apply((table_key(&object), convert(&object))),
        Event::Delete(object) => Event::Delete((table_key(&object), Ok(None))),
    }
}

#[cfg(test)]
mod tests;

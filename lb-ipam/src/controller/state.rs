//! What is remembered between plans: the objects as last seen, writes under way, and what must wait.
//!
//! Sans-IO: events, answers and times in; inputs and writes out. Two rules keep the plan honest. A write under way counts as
//! done (its new addresses are held, its old ones not yet free), so that no later plan gives the same address away. And an
//! object never goes back in time: an event or a list older than an answer that we hold is ignored.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

use fairlead_api::{
    CiliumLoadBalancerIPPool,
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

use super::write::{self, Fault};
use crate::{
    alloc::{Inputs, Plan, PoolChange, PoolInput, Seen, ServiceChange, ServiceInput, Settings},
    request,
};

/// First pause after a failed write; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest pause between tries.
const RETRY_MAX: Duration = Duration::from_mins(5);

/// An event of one of the two watches.
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
}

/// An object that is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A pool's status.
    Pool(String),
    /// A Service's status.
    Service(ServiceName),
}

impl Key {
    /// What RBAC calls it.
    pub const fn resource(&self) -> &'static str {
        match self {
            Self::Pool(_) => "ciliumloadbalancerippools/status",
            Self::Service(_) => "services/status",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(name) => write!(f, "CiliumLoadBalancerIPPool {name}"),
            Self::Service(name) => write!(f, "Service {name}"),
        }
    }
}

/// A patch to send.
#[derive(Debug, Clone)]
pub struct Write {
    /// Whose status.
    pub key: Key,
    /// The patch.
    pub body: Patch,
}

/// What the API server answered to a write.
#[derive(Debug, Clone)]
pub enum Written {
    /// The Service as it is now.
    Service(Box<v1::Service>),
    /// The pool as it is now.
    Pool(Box<CiliumLoadBalancerIPPool>),
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
    settings: Settings,
    services: Table<ServiceRecord>,
    pools: Table<PoolRecord>,
    settled: BTreeSet<ServiceName>,
    queue: BTreeMap<Key, Decided>,
    in_flight: BTreeMap<Key, Decided>,
    retries: BTreeMap<Key, Retry>,
    is_dirty: bool,
}

impl State {
    /// Nothing seen yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            services: Table::default(),
            pools: Table::default(),
            settled: BTreeSet::new(),
            queue: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            retries: BTreeMap::new(),
            is_dirty: true,
        }
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
                for (key, before) in self.pools.apply(event) {
                    let now = self.pools.get(&key);
                    let is_same = before.as_ref().map(|r| &r.input) == now.map(|r| &r.input);
                    self.is_dirty |= !is_same;
                    self.end_conflict(&Key::Pool(key.trim_start_matches('/').to_owned()));
                }
            }
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

    /// Decides whether an event needs a plan; the echo of our own write does not.
    fn service_changed(&mut self, key: &str, before: Option<ServiceRecord>) {
        let Some(now) = self.services.get(key) else {
            if let Some(before) = before {
                self.settled.remove(&before.input.name);
            }
            self.is_dirty = true;
            return;
        };
        let name = now.input.name.clone();
        let is_same_claim = before
            .as_ref()
            .is_some_and(|b| request::is_same_claim(&b.input, &now.input));
        let is_echo = match (self.in_flight.get(&Key::Service(name.clone())), &before) {
            (Some(Decided::Service(sent)), Some(_)) => is_done(sent, &now.input),
            (_, Some(before)) => before.input == now.input,
            (_, None) => false,
        };
        self.is_dirty |= !(is_same_claim && is_echo);
        if !is_same_claim {
            self.settled.remove(&name);
        }
        self.end_conflict(&Key::Service(name));
    }

    fn end_conflict(&mut self, key: &Key) {
        if self.retries.get(key).is_some_and(|r| r.is_conflict) {
            self.retries.remove(key);
        }
    }

    /// Inputs for a plan, if both lists are whole and something changed since the last one.
    pub fn take_inputs(&mut self) -> Option<Inputs> {
        let is_ready = self.services.is_complete() && self.pools.is_complete();
        if !is_ready || !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        Some(Inputs {
            settings: self.settings,
            pools: self
                .pools
                .iter()
                .map(|record| self.pool_input(record))
                .collect(),
            services: self
                .services
                .iter()
                .map(|record| self.service_input(record))
                .collect(),
        })
    }

    fn pool_input(&self, record: &PoolRecord) -> PoolInput {
        let mut input = record.input.clone();
        let key = Key::Pool(input.pool.name.clone());
        if let Some(Decided::Pool(sent)) = self.in_flight.get(&key) {
            let each = sent.conditions.iter();
            input
                .conditions
                .extend(each.map(|w| (w.type_.to_owned(), seen(w))));
        }
        input
    }

    fn service_input(&self, record: &ServiceRecord) -> ServiceInput {
        let mut input = record.input.clone();
        input.is_settled = self.settled.contains(&input.name);
        if let Some(Decided::Service(sent)) = self.in_flight.get(&Key::Service(input.name.clone()))
        {
            input.releasing = std::mem::replace(&mut input.ingress, sent.ingress.clone());
            input.releasing.retain(|ip| !sent.ingress.contains(ip));
            input.has_foreign_entries = false;
            input.condition = sent.condition.as_ref().map(seen);
        }
        input
    }

    /// Replaces what is to be written.
    pub fn take_plan(&mut self, plan: Plan) {
        let to_write: BTreeSet<&ServiceName> = plan.services.iter().map(|c| &c.name).collect();
        let names = self.services.iter().map(|record| &record.input.name);
        let unchanged: Vec<ServiceName> = names
            .filter(|name| !to_write.contains(name))
            .cloned()
            .collect();
        self.settled.extend(unchanged);
        let pools = plan.pools.into_iter();
        self.queue = pools
            .map(|c| (Key::Pool(c.name.clone()), Decided::Pool(c)))
            .collect();
        let services = plan.services.into_iter();
        self.queue
            .extend(services.map(|c| (Key::Service(c.name.clone()), Decided::Service(c))));
    }

    /// The next write that may go out now. It counts as under way from here on, until [`Self::written`].
    pub fn next_write(&mut self, now: Instant, wall: &Time) -> Option<Write> {
        let mut keys = self.queue.keys();
        let key = keys.find(|key| self.may_go(key, now))?.clone();
        let decided = self.queue.remove(&key)?;
        let body = match &decided {
            Decided::Service(change) => {
                let record = self.services.get(&change.name.to_string());
                record.map(|r| write::service(&r.object, change, wall))
            }
            Decided::Pool(change) => {
                let record = self.pools.get(&format!("/{}", change.name));
                let object = record.and_then(|r| r.object.as_ref());
                object.map(|o| write::pool(o, change, wall))
            }
        };
        let Some(body) = body else {
            return self.next_write(now, wall);
        };
        self.in_flight.insert(key.clone(), decided);
        Some(Write { key, body })
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

    /// Takes the answer to a write.
    pub fn written(&mut self, key: &Key, answer: Result<Written, Fault>, now: Instant) {
        let sent = self.in_flight.remove(key);
        match answer {
            Ok(written) => {
                self.retries.remove(key);
                self.store(written, sent);
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
                self.is_dirty = true;
            }
        }
    }

    fn store(&mut self, written: Written, sent: Option<Decided>) {
        match (written, sent) {
            (Written::Service(object), Some(Decided::Service(sent))) => {
                let key = table_key(&*object);
                let Some(live) = self.services.get(&key).cloned() else {
                    self.is_dirty = true;
                    return;
                };
                let before = live.input.ingress.iter();
                let is_releasing = before.clone().any(|ip| !sent.ingress.contains(ip));
                let record = match service_record(*object) {
                    Ok(record) if !is_newer(&live.object.metadata, &record.object.metadata) => {
                        record
                    }
                    Ok(_) | Err(_) => live.clone(),
                };
                // What was released may be waited for; and the answer may say more than we asked.
                let is_as_sent = is_done(&sent, &record.input);
                let is_same_claim = request::is_same_claim(&live.input, &record.input);
                self.is_dirty |= is_releasing || !is_as_sent || !is_same_claim;
                if is_same_claim && is_as_sent {
                    self.settled.insert(sent.name.clone());
                    tracing::info!(svc = %sent.name, vip = ?sent.ingress, "addresses written");
                }
                self.services.update(&key, record);
            }
            (Written::Pool(object), Some(Decided::Pool(_))) => {
                let key = table_key(&*object);
                let Some(live) = self.pools.get(&key) else {
                    return;
                };
                let live_meta = live.object.as_ref().map(|o| &o.metadata);
                if live_meta.is_some_and(|live| is_newer(live, &object.metadata)) {
                    return;
                }
                let record = pool_record(*object);
                self.is_dirty |= record.input.pool != live.input.pool;
                self.pools.update(&key, record);
            }
            (Written::Service(_) | Written::Pool(_), _) => self.is_dirty = true,
        }
    }
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
        },
    }
}

fn table_key<K: Resource>(object: &K) -> String {
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
fn is_newer(live: &ObjectMeta, other: &ObjectMeta) -> bool {
    let number = |meta: &ObjectMeta| meta.resource_version.as_deref()?.parse::<u64>().ok();
    live.uid == other.uid
        && number(live)
            .zip(number(other))
            .is_some_and(|(live, other)| live > other)
}

fn read<K: Resource, R>(
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

//! The Lease of each Service that this node owns: for people, tools and an agent of Cilium beside us. Never needed to announce.
//!
//! One hour long and renewed after a third of it, each at its own time, so that a thousand of them cost about one write a second. A write
//! that loses against another is not repeated: the owner on the wire writes again. Loss of the API changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use fairlead_api::{names, watch::feed::Refusals};
use fairlead_model::{NodeName, ServiceName, Snapshot};
use fairlead_rt::{BoxError, CancellationToken, clock};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};
use rand::Rng as _;
use tokio::sync::watch;
use tracing::debug;

use crate::status::L2Status;

/// Where and how Leases are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseConfig {
    /// Namespace, Cilium's own where both run.
    pub namespace: String,
    /// How long a Lease holds without renewal.
    pub duration: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            duration: Duration::from_hours(1),
        }
    }
}

/// Between two writes, so that a thousand acquisitions are no burst.
const PACE: Duration = Duration::from_millis(50);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// One API call.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at who holds what.
const LOOK: Duration = Duration::from_mins(5);
/// A Lease that ran out so long ago is not about to be renewed, and clocks do not differ by as much.
const MARGIN: Duration = Duration::from_mins(10);
/// HTTP.
const NOT_FOUND: u16 = 404;

/// What is to be done with a Lease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Errand {
    /// Write our name into it, or renew it.
    Write(ServiceName),
    /// Delete it if it is ours: its Service is announced no more. By the Lease's name.
    GiveUp(String),
    /// Delete it if nobody cares for it. By the Lease's name.
    Collect(String),
}

impl Errand {
    /// In a refusal.
    const fn what(&self) -> &'static str {
        match self {
            Self::Write(_) => "write the Leases of announced Services",
            Self::GiveUp(_) => "give up Leases",
            Self::Collect(_) => "clear away old Leases",
        }
    }
}

/// When each errand is due.
#[derive(Debug, Default)]
struct Due(HashMap<Errand, Instant>);

impl Due {
    /// Takes what is owned now: new ones are due at once. What is owned again is not given up.
    fn set(&mut self, owned: &BTreeSet<ServiceName>, now: Instant) {
        let names: BTreeSet<String> = owned.iter().map(names::lease_name).collect();
        self.0.retain(|errand, _| match errand {
            Errand::Write(service) => owned.contains(service),
            Errand::GiveUp(lease) | Errand::Collect(lease) => !names.contains(lease),
        });
        for service in owned {
            self.add(Errand::Write(service.clone()), now);
        }
    }

    fn add(&mut self, errand: Errand, now: Instant) {
        self.0.entry(errand).or_insert(now);
    }

    fn first(&self) -> Option<(&Errand, Instant)> {
        let first = self.0.iter().min_by_key(|(errand, at)| (**at, *errand));
        first.map(|(errand, at)| (errand, *at))
    }

    /// A written Lease is due again after a third of its duration, spread over a sixth; a deletion is over.
    fn done(&mut self, errand: &Errand, duration: Duration, now: Instant) {
        if !matches!(errand, Errand::Write(_)) {
            self.0.remove(errand);
            return;
        }
        let spread = rand::rng().random_range(0.0..1.0);
        let after = duration / 3 + (duration / 6).mul_f64(spread);
        if let Some(at) = self.0.get_mut(errand) {
            *at = now + after;
        }
    }

    fn failed(&mut self, errand: &Errand, now: Instant) {
        if let Some(at) = self.0.get_mut(errand) {
            *at = now + RETRY;
        }
    }
}

/// What a Lease is judged by.
struct World {
    node: NodeName,
    /// Names of the Leases that existing Services would have.
    leases: BTreeSet<String>,
    nodes: BTreeSet<NodeName>,
}

impl World {
    /// Whether a Lease may be deleted by whoever comes: nobody has renewed it for long, and it says nothing of use. A Lease that somebody
    /// renews, an agent of Cilium for one, is never touched, nor is one of an existing Service that another living node holds.
    fn may_collect(&self, lease: &Lease, now: Timestamp) -> bool {
        let Some(name) = &lease.metadata.name else {
            return false;
        };
        let spec = lease.spec.as_ref();
        let holder = spec
            .and_then(|spec| spec.holder_identity.as_deref())
            .filter(|holder| !holder.is_empty());
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|t| t.0);
        let created = lease.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let Some(last) = renewed.or(created) else {
            return false;
        };
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let held = u64::try_from(seconds.unwrap_or(0)).unwrap_or(0);
        let until = u64::try_from(last.as_second()).unwrap_or(0) + held + MARGIN.as_secs();
        let is_stale = u64::try_from(now.as_second()).is_ok_and(|now| now > until);
        let is_useless = match holder {
            None => true,
            Some(holder) => {
                !self.leases.contains(name)
                    || holder == self.node.as_str()
                    || !self.nodes.iter().any(|node| node.as_str() == holder)
            }
        };
        name.starts_with(names::LEASE_PREFIX) && is_stale && is_useless
    }
}

/// Writes until told to stop; shows who holds what; deletes what nobody cares for.
///
/// # Errors
/// None; the signature is that of a supervised task.
///
/// # Cancel safety
/// A write may or may not have happened; the next start writes again.
pub async fn run(
    client: Client,
    node: NodeName,
    config: LeaseConfig,
    snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    mut status: watch::Receiver<Arc<L2Status>>,
    seen: watch::Sender<BTreeMap<String, NodeName>>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let leases: Api<Lease> = Api::namespaced(client, &config.namespace);
    let mut due = Due::default();
    let mut wanted = BTreeSet::new();
    let mut look = tokio::time::interval(LOOK);
    let mut has_status = true;
    let mut refusals = Refusals::default();
    let world = || world(&node, snapshot.borrow().as_deref());
    loop {
        let next = due.first().map(|(errand, at)| (errand.clone(), at));
        let at = next.as_ref().map(|(_, at)| (*at).into());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = status.changed(), if has_status => {
                has_status = changed.is_ok();
                let status = status.borrow_and_update().clone();
                due.set(&owned(&status), clock::now());
                let now_wanted = services(&status);
                for gone in wanted.difference(&now_wanted) {
                    due.add(Errand::GiveUp(names::lease_name(gone)), clock::now());
                }
                wanted = now_wanted;
            }
            _ = look.tick() => {
                let world = world();
                let look = show(&leases, &seen, world.as_ref(), &mut refusals);
                let looked = stop.run_until_cancelled(look).await;
                for stale in looked.unwrap_or_default() {
                    due.add(Errand::Collect(stale), clock::now());
                }
            }
            () = sleep_until(at), if at.is_some() => {
                let Some((errand, _)) = next else { continue };
                let work = run_errand(&leases, &errand, &node, &config, world());
                let work = tokio::time::timeout(DEADLINE, work);
                let Some(outcome) = stop.run_until_cancelled(work).await else {
                    return Ok(());
                };
                match outcome {
                    Ok(Ok(())) => {
                        refusals.worked(errand.what());
                        due.done(&errand, config.duration, clock::now());
                    }
                    Ok(Err(error)) => {
                        refusals.failed(errand.what(), &error);
                        due.failed(&errand, clock::now());
                    }
                    Err(_elapsed) => {
                        debug!(?errand, "no answer, trying again");
                        due.failed(&errand, clock::now());
                    }
                }
                tokio::time::sleep(PACE).await;
            }
        }
    }
}

/// `None` while the API has not been heard: then nothing is collected.
fn world(node: &NodeName, snapshot: Option<&Snapshot>) -> Option<World> {
    snapshot.map(|snapshot| World {
        node: node.clone(),
        leases: snapshot.services.keys().map(names::lease_name).collect(),
        nodes: snapshot.nodes.keys().cloned().collect(),
    })
}

async fn run_errand(
    leases: &Api<Lease>,
    errand: &Errand,
    node: &NodeName,
    config: &LeaseConfig,
    world: Option<World>,
) -> Result<(), kube::Error> {
    match errand {
        Errand::Write(service) => write(leases, service, node, config).await,
        Errand::GiveUp(name) => delete_if(leases, name, |lease| is_held_by(lease, node)).await,
        Errand::Collect(name) => {
            let may = |lease: &Lease| {
                let time = Timestamp::try_from(clock::wall());
                let world = world.as_ref();
                time.is_ok_and(|time| world.is_some_and(|world| world.may_collect(lease, time)))
            };
            delete_if(leases, name, may).await
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

fn owned(status: &L2Status) -> BTreeSet<ServiceName> {
    let rows = status.vips.values().filter(|row| row.is_self);
    rows.flat_map(|row| row.services.iter().cloned()).collect()
}

fn services(status: &L2Status) -> BTreeSet<ServiceName> {
    let rows = status.vips.values();
    rows.flat_map(|row| row.services.iter().cloned()).collect()
}

fn now() -> Option<MicroTime> {
    Timestamp::try_from(clock::wall()).ok().map(MicroTime)
}

/// Writes our name into the Lease, or renews it.
async fn write(
    leases: &Api<Lease>,
    service: &ServiceName,
    node: &NodeName,
    config: &LeaseConfig,
) -> Result<(), kube::Error> {
    let name = names::lease_name(service);
    let params = PostParams {
        field_manager: Some(names::manager::L2.to_owned()),
        ..PostParams::default()
    };
    let mut lease = leases.get_opt(&name).await?;
    let is_new = lease.is_none();
    let mut lease = lease.take().unwrap_or_default();
    lease.metadata.name = Some(name.clone());
    claim(lease.spec.get_or_insert_default(), node, config.duration);
    if is_new {
        leases.create(&params, &lease).await?;
    } else {
        // The resourceVersion just read makes this a write that another one beats.
        leases.replace(&name, &params, &lease).await?;
    }
    Ok(())
}

/// Our name, from now on if it was another's.
fn claim(spec: &mut LeaseSpec, node: &NodeName, duration: Duration) {
    let is_ours = spec.holder_identity.as_deref() == Some(node.as_str());
    if !is_ours {
        spec.holder_identity = Some(node.as_str().to_owned());
        spec.acquire_time = now();
        spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1)));
    }
    spec.lease_duration_seconds = i32::try_from(duration.as_secs()).ok();
    spec.renew_time = now();
}

fn is_held_by(lease: &Lease, node: &NodeName) -> bool {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.as_deref()) == Some(node.as_str())
}

/// Deletes a Lease if `may` says so of what is there now. One that somebody writes at the same time stays: it is looked at again.
async fn delete_if(
    leases: &Api<Lease>,
    name: &str,
    may: impl FnOnce(&Lease) -> bool,
) -> Result<(), kube::Error> {
    let Some(lease) = leases.get_opt(name).await? else {
        return Ok(());
    };
    if !may(&lease) {
        return Ok(());
    }
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: lease.metadata.uid,
        resource_version: lease.metadata.resource_version,
    });
    match leases.delete(name, &params).await {
        Err(kube::Error::Api(status)) if status.code == NOT_FOUND => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Shows who holds what, for the placement of groups that nobody owns; returns the Leases that nobody cares for.
async fn show(
    leases: &Api<Lease>,
    seen: &watch::Sender<BTreeMap<String, NodeName>>,
    world: Option<&World>,
    refusals: &mut Refusals,
) -> Vec<String> {
    let list = tokio::time::timeout(DEADLINE, leases.list(&ListParams::default())).await;
    let list = match list {
        Ok(Ok(list)) => list,
        Ok(Err(error)) => {
            refusals.failed("read the Leases of others", &error);
            return Vec::new();
        }
        Err(_elapsed) => {
            debug!("no answer about Leases");
            return Vec::new();
        }
    };
    refusals.worked("read the Leases of others");
    let stale = Timestamp::try_from(clock::wall()).map_or_else(
        |_| Vec::new(),
        |time| {
            let may = |lease: &&Lease| world.is_some_and(|world| world.may_collect(lease, time));
            let stale = list.items.iter().filter(may);
            stale
                .filter_map(|lease| lease.metadata.name.clone())
                .collect()
        },
    );
    let held = list.items.into_iter().filter_map(|lease| {
        let name = lease.metadata.name?;
        let holder = lease.spec?.holder_identity?;
        let is_ours = name.starts_with(names::LEASE_PREFIX);
        is_ours.then(|| Some((name, NodeName::new(&holder).ok()?)))?
    });
    let held = held.collect();
    seen.send_if_modified(|known| {
        let is_news = *known != held;
        *known = held;
        is_news
    });
    stale
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fairlead_api::names;
    use fairlead_model::{NodeName, ServiceName};
    use fairlead_rt::clock;
    use k8s_openapi::{
        api::coordination::v1::{Lease, LeaseSpec},
        apimachinery::pkg::apis::meta::v1::MicroTime,
        jiff::Timestamp,
    };

    use super::{Due, Errand, MARGIN, RETRY, World, claim};

    fn service(n: u32) -> ServiceName {
        ServiceName::new("shop", &format!("web-{n}")).unwrap()
    }

    #[test]
    fn a_thousand_leases_cost_about_a_write_a_second() {
        let hour = Duration::from_hours(1);
        let now = clock::now();
        let mut due = Due::default();
        due.set(&(0..1_000).map(service).collect(), now);
        for n in 0..1_000 {
            due.done(&Errand::Write(service(n)), hour, now);
        }
        let mut writes = 0;
        while let Some((first, at)) = due.first().map(|(s, at)| (s.clone(), at)) {
            if at > now + hour {
                break;
            }
            writes += 1;
            due.done(&first, hour, at);
        }
        assert!((1_500..4_000).contains(&writes), "{writes} writes an hour");
    }

    #[test]
    fn what_is_owned_no_more_is_not_written() {
        let now = clock::now();
        let mut due = Due::default();
        due.set(&[service(1), service(2)].into(), now);
        due.set(&[service(2)].into(), now);
        let first = due.first().map(|(errand, _)| errand.clone());
        assert_eq!(first, Some(Errand::Write(service(2))));
    }

    #[test]
    fn a_deletion_that_fails_is_tried_again_until_the_service_is_owned_again() {
        let (now, hour) = (clock::now(), Duration::from_hours(1));
        let give_up = Errand::GiveUp(names::lease_name(&service(1)));
        let mut due = Due::default();
        due.add(give_up.clone(), now);
        due.failed(&give_up, now);
        assert_eq!(due.first(), Some((&give_up, now + RETRY)));
        due.done(&give_up, hour, now);
        assert_eq!(due.first(), None);
        due.add(give_up, now);
        due.set(&[service(1)].into(), now);
        let left: Vec<&Errand> = due.0.keys().collect();
        assert_eq!(left, [&Errand::Write(service(1))]);
    }

    #[test]
    fn only_a_lease_that_nobody_cares_for_is_collected() {
        let name = |text: &str| NodeName::new(text).unwrap();
        let world = World {
            node: name("a"),
            leases: [names::lease_name(&service(1))].into(),
            nodes: [name("a"), name("b")].into(),
        };
        let renewed = Timestamp::from_second(1_700_000_000).unwrap();
        let lease = |lease: &str, holder: &str| {
            let mut made = Lease::default();
            made.metadata.name = Some(lease.to_owned());
            made.spec = Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(15),
                renew_time: Some(MicroTime(renewed)),
                ..LeaseSpec::default()
            });
            made
        };
        let known = names::lease_name(&service(1));
        let gone = names::lease_name(&service(2));
        let margin = i64::try_from(MARGIN.as_secs()).unwrap();
        let at = |after: i64| Timestamp::from_second(renewed.as_second() + after).unwrap();
        let (fresh, stale) = (at(15 + margin), at(16 + margin));
        let cases = [
            (lease(&gone, "b"), true, "its Service is gone"),
            (lease(&known, ""), true, "nobody holds it"),
            (lease(&known, "dead"), true, "its holder is gone"),
            (lease(&known, "a"), true, "ours, and not renewed"),
            (lease(&known, "b"), false, "another node's, of a Service"),
            (lease("other-lease", ""), false, "no Lease of a Service"),
        ];
        for (lease, may, why) in cases {
            assert_eq!(world.may_collect(&lease, stale), may, "{why}");
            assert!(!world.may_collect(&lease, fresh), "{why}, but it is live");
        }
        let mut undated = lease(&gone, "");
        undated.spec = None;
        assert!(!world.may_collect(&undated, stale), "its age is unknown");
    }

    #[test]
    fn taking_a_lease_over_is_a_transition_and_renewing_is_none() {
        let (a, b) = (NodeName::new("a").unwrap(), NodeName::new("b").unwrap());
        let mut spec = LeaseSpec::default();
        claim(&mut spec, &a, Duration::from_hours(1));
        let acquired = spec.acquire_time.clone();
        assert_eq!(spec.lease_transitions, Some(0));
        claim(&mut spec, &a, Duration::from_hours(1));
        assert_eq!(
            (&spec.acquire_time, spec.lease_transitions),
            (&acquired, Some(0))
        );
        claim(&mut spec, &b, Duration::from_hours(1));
        assert_eq!(spec.lease_transitions, Some(1));
        assert_eq!(spec.holder_identity.as_deref(), Some("b"));
        assert_eq!(spec.lease_duration_seconds, Some(3_600));
    }
}

//! The Lease of each Service that this node owns: for people, tools and an agent of Cilium beside us. Never needed to announce.
//!
//! One hour long and renewed after a third of it, each at its own time, so that a thousand of them cost about one write a second. A write
//! that loses against another is not repeated: the owner on the wire writes again. Loss of the API changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use fairlead_api::names;
use fairlead_model::{NodeName, ServiceName};
use fairlead_rt::{BoxError, CancellationToken, clock};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use rand::Rng as _;
use tokio::sync::watch;
use tracing::{debug, warn};

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

/// When each Lease of ours is due.
#[derive(Debug, Default)]
struct Due(HashMap<ServiceName, Instant>);

impl Due {
    /// Takes what is owned now: new ones are due at once; returns what is no longer owned or wanted.
    fn set(&mut self, owned: &BTreeSet<ServiceName>, now: Instant) {
        self.0.retain(|service, _| owned.contains(service));
        for service in owned {
            self.0.entry(service.clone()).or_insert(now);
        }
    }

    fn first(&self) -> Option<(&ServiceName, Instant)> {
        let first = self.0.iter().min_by_key(|(name, at)| (**at, *name));
        first.map(|(service, at)| (service, *at))
    }

    /// Written: due again after a third of its duration, spread over a sixth.
    fn written(&mut self, service: &ServiceName, duration: Duration, now: Instant) {
        let spread = rand::rng().random_range(0.0..1.0);
        let after = duration / 3 + (duration / 6).mul_f64(spread);
        if let Some(at) = self.0.get_mut(service) {
            *at = now + after;
        }
    }

    fn failed(&mut self, service: &ServiceName, now: Instant) {
        if let Some(at) = self.0.get_mut(service) {
            *at = now + RETRY;
        }
    }
}

/// Writes until told to stop; shows who holds what.
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
    mut status: watch::Receiver<Arc<L2Status>>,
    seen: watch::Sender<BTreeMap<String, NodeName>>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let leases: Api<Lease> = Api::namespaced(client, &config.namespace);
    let mut due = Due::default();
    let mut wanted = BTreeSet::new();
    let mut look = tokio::time::interval(LOOK);
    let mut has_status = true;
    loop {
        let next = due.first().map(|(service, at)| (service.clone(), at));
        let at = next.as_ref().map(|(_, at)| (*at).into());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = status.changed(), if has_status => {
                has_status = changed.is_ok();
                let status = status.borrow_and_update().clone();
                due.set(&owned(&status), clock::now());
                let now_wanted = services(&status);
                for gone in wanted.difference(&now_wanted) {
                    give_up(&leases, gone, &node).await;
                }
                wanted = now_wanted;
            }
            _ = look.tick() => show(&leases, &seen).await,
            () = sleep_until(at), if at.is_some() => {
                let Some((service, _)) = next else { continue };
                let write = write(&leases, &service, &node, &config);
                let outcome = tokio::time::timeout(DEADLINE, write).await;
                match outcome.map_err(BoxError::from).and_then(|o| o.map_err(BoxError::from)) {
                    Ok(()) => due.written(&service, config.duration, clock::now()),
                    Err(error) => {
                        debug!(svc = %service, error = %error, "lease not written, trying again");
                        due.failed(&service, clock::now());
                    }
                }
                tokio::time::sleep(PACE).await;
            }
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

/// Deletes our Lease of a Service that is announced no more.
async fn give_up(leases: &Api<Lease>, service: &ServiceName, node: &NodeName) {
    let name = names::lease_name(service);
    let delete = async {
        let Some(lease) = leases.get_opt(&name).await? else {
            return Ok(());
        };
        let holder = lease.spec.and_then(|spec| spec.holder_identity);
        if holder.as_deref() == Some(node.as_str()) {
            leases.delete(&name, &DeleteParams::default()).await?;
        }
        Ok::<(), kube::Error>(())
    };
    match tokio::time::timeout(DEADLINE, delete).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(svc = %service, error = %error, "lease not deleted"),
        Err(elapsed) => warn!(svc = %service, error = %elapsed, "lease not deleted"),
    }
}

/// Shows who holds what, for the placement of groups that nobody owns.
async fn show(leases: &Api<Lease>, seen: &watch::Sender<BTreeMap<String, NodeName>>) {
    let list = tokio::time::timeout(DEADLINE, leases.list(&ListParams::default())).await;
    let Ok(Ok(list)) = list else {
        debug!("leases not read");
        return;
    };
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
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fairlead_model::{NodeName, ServiceName};
    use fairlead_rt::clock;
    use k8s_openapi::api::coordination::v1::LeaseSpec;

    use super::{Due, claim};

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
            due.written(&service(n), hour, now);
        }
        let mut writes = 0;
        while let Some((first, at)) = due.first().map(|(s, at)| (s.clone(), at)) {
            if at > now + hour {
                break;
            }
            writes += 1;
            due.written(&first, hour, at);
        }
        assert!((1_500..4_000).contains(&writes), "{writes} writes an hour");
    }

    #[test]
    fn what_is_owned_no_more_is_not_written() {
        let now = clock::now();
        let mut due = Due::default();
        due.set(&[service(1), service(2)].into(), now);
        due.set(&[service(2)].into(), now);
        assert_eq!(due.first().map(|(s, _)| s.clone()), Some(service(2)));
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

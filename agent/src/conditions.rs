//! Conditions of Services: what keeps them from being announced or forwarded, said on the object itself.
//!
//! Invariant: one node speaks for a Service at a time (its owner; without one, the first eligible node), it writes only what
//! changed, and at most [`PACE`] apart. A Service that is well gets no condition; one that became well gets `True`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fairlead_api::{
    condition::{self, Status, Wanted},
    names,
    watch::feed::Refusals,
};
use fairlead_model::ServiceName;
use fairlead_observe::ApiView;
use fairlead_rt::{BoxError, CancellationToken, clock};
use k8s_openapi::{
    api::core::v1::Service,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::watch, time::error::Elapsed};
use tracing::{debug, warn};

/// Between two writes: a thousand Services that change at once take 50 s, and the API server does not notice.
const PACE: Duration = Duration::from_millis(50);
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);
/// One API call.
const DEADLINE: Duration = Duration::from_secs(5);

/// What is done here, in a refusal.
const WHAT: &str = "write conditions of Services";

/// What this node has to say, for the Services that it speaks for.
pub type Spoken = Arc<BTreeMap<ServiceName, Vec<Wanted>>>;

/// Our condition types.
pub const TYPES: [&str; 5] = [
    names::condition::ANNOUNCED,
    names::condition::FORWARDING,
    names::condition::ADDRESS_CONFLICT,
    names::condition::FLOWS_SURVIVE,
    names::condition::SERVICE_INVALID,
];

/// Writes until told to stop.
///
/// # Errors
/// None; the signature is that of a supervised task. An API that is away or refuses is asked again.
///
/// # Cancel safety
/// Nothing is lost: the next start says it again.
pub async fn write(
    client: Client,
    mut spoken: watch::Receiver<Spoken>,
    mut api: watch::Receiver<ApiView>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let mut book = Book::default();
    let mut refusals = Refusals::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            connected = api.wait_for(|api| api.is_connected) => drop(connected?),
        }
        let now_spoken = Arc::clone(&spoken.borrow_and_update());
        book.take(&now_spoken);
        let pause = match book.next() {
            None => {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    changed = spoken.changed() => match changed {
                        Ok(()) => continue,
                        Err(_sender_gone) => return Ok(()),
                    },
                }
            }
            Some((name, wanted)) => match say(&client, &name, &wanted).await {
                Ok(Ok(())) => {
                    refusals.worked(WHAT);
                    book.done(name, wanted);
                    PACE
                }
                Ok(Err(error)) => {
                    refusals.failed(WHAT, &error);
                    RETRY
                }
                Err(_elapsed) => {
                    warn!(svc = %name, "no answer within {} s: conditions are written later", DEADLINE.as_secs());
                    RETRY
                }
            },
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What was said and what is still to be said.
#[derive(Debug, Default)]
struct Book {
    wanted: Spoken,
    said: BTreeMap<ServiceName, Vec<Wanted>>,
    pending: BTreeSet<ServiceName>,
}

impl Book {
    fn take(&mut self, spoken: &Spoken) {
        if Arc::ptr_eq(&self.wanted, spoken) {
            return;
        }
        self.wanted = Arc::clone(spoken);
        // Whoever speaks for it in the meantime may say something else: forget what we said.
        self.said.retain(|name, _| spoken.contains_key(name));
        self.pending = spoken
            .iter()
            .filter(|(name, wanted)| self.said.get(name) != Some(wanted))
            .map(|(name, _)| name.clone())
            .collect();
    }

    fn next(&self) -> Option<(ServiceName, Vec<Wanted>)> {
        let name = self.pending.first()?;
        Some((name.clone(), self.wanted.get(name)?.clone()))
    }

    fn done(&mut self, name: ServiceName, wanted: Vec<Wanted>) {
        self.pending.remove(&name);
        self.said.insert(name, wanted);
    }
}

async fn say(
    client: &Client,
    name: &ServiceName,
    wanted: &[Wanted],
) -> Result<Result<(), kube::Error>, Elapsed> {
    let services: Api<Service> = Api::namespaced(client.clone(), name.namespace());
    let call = async {
        let Some(service) = services.get_opt(name.name()).await? else {
            return Ok(());
        };
        let has = service
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let changed = changes(&has, wanted, &condition::time(clock::wall()));
        if changed.is_empty() {
            return Ok(());
        }
        debug!(svc = %name, "writing {} conditions", changed.len());
        // Merged by type: other writers' conditions stay.
        let patch = Patch::Strategic(json!({"status": {"conditions": changed}}));
        services
            .patch_status(name.name(), &PatchParams::default(), &patch)
            .await?;
        Ok(())
    };
    tokio::time::timeout(DEADLINE, call).await
}

/// The conditions that differ from what the object has. One that is not wanted any more becomes well; one that is well and absent stays so.
fn changes(has: &[Condition], wanted: &[Wanted], now: &Time) -> Vec<Condition> {
    let mut next = has.to_vec();
    for type_ in TYPES {
        match wanted.iter().find(|w| w.type_ == type_) {
            Some(wanted) => {
                condition::set(&mut next, wanted, now);
            }
            None if condition::find(has, type_)
                .is_some_and(|c| c.status != well(type_).as_str()) =>
            {
                condition::set(&mut next, &all_well(type_), now);
            }
            None => {}
        }
    }
    next.retain(|condition| !has.contains(condition));
    next
}

/// The status that means that nothing is wrong.
fn well(type_: &str) -> Status {
    let is_complaint = [
        names::condition::ADDRESS_CONFLICT,
        names::condition::SERVICE_INVALID,
    ]
    .contains(&type_);
    Status::from(!is_complaint)
}

fn all_well(type_: &'static str) -> Wanted {
    Wanted {
        type_,
        status: well(type_),
        reason: "AsItShould".to_owned(),
        message: String::new(),
        observed_generation: None,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::Arc,
        time::{Duration, UNIX_EPOCH},
    };

    use fairlead_api::{
        condition::{Status, Wanted, time},
        names,
    };
    use fairlead_model::ServiceName;

    use super::{Book, changes};

    fn bad() -> Wanted {
        Wanted {
            type_: names::condition::FORWARDING,
            status: Status::False,
            reason: "NoNextHop".to_owned(),
            message: "10.0.0.1 does not answer".to_owned(),
            observed_generation: None,
        }
    }

    #[test]
    fn only_changes_are_written_and_only_once() {
        let now = time(UNIX_EPOCH + Duration::from_secs(1));
        assert!(
            changes(&[], &[], &now).is_empty(),
            "a Service that is well gets nothing"
        );
        let first = changes(&[], &[bad()], &now);
        assert_eq!((first.len(), first[0].status.as_str()), (1, "False"));
        assert!(changes(&first, &[bad()], &now).is_empty());
        let cleared = changes(&first, &[], &now);
        assert_eq!((cleared.len(), cleared[0].status.as_str()), (1, "True"));
        assert!(changes(&cleared, &[], &now).is_empty());
    }

    #[test]
    fn a_service_that_another_node_spoke_for_is_said_again() {
        let name = ServiceName::new("shop", "web").unwrap();
        let mine = Arc::new(BTreeMap::from([(name.clone(), vec![bad()])]));
        let mut book = Book::default();
        book.take(&mine);
        let (next, wanted) = book.next().unwrap();
        book.done(next, wanted);
        book.take(&Arc::new((*mine).clone()));
        assert_eq!(book.next(), None, "the same again is not written");
        book.take(&Arc::default());
        book.take(&mine);
        assert_eq!(book.next(), Some((name, vec![bad()])));
    }
}

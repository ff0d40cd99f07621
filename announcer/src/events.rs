//! Events on Services: a stranger that claims an address, with its hardware address. For `kubectl describe`, alerts and the record.
//!
//! One Event each time a conflict begins as this node hears it; while it lasts nothing more is written. An API that is away costs Events,
//! nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fairlead_api::{names, watch::feed::Refusals};
use fairlead_model::{MacAddr, NodeName, ServiceName, Vip};
use fairlead_rt::{BoxError, CancellationToken};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::watch;
use tracing::debug;

use crate::status::L2Status;

/// What is done here, in a refusal.
const WHAT: &str = "write Events of address conflicts";
/// One API call.
const DEADLINE: Duration = Duration::from_secs(5);
/// Events of one change: a station that claims a whole range is one finding.
const MOST: usize = 32;

/// A conflict as this node hears it.
type Conflicts = BTreeMap<(Vip, String), (MacAddr, BTreeSet<ServiceName>)>;

fn conflicts(status: &L2Status) -> Conflicts {
    let rows = status.vips.iter();
    rows.filter_map(|(at, row)| Some((at.clone(), (row.conflict?, row.services.clone()))))
        .collect()
}

/// What has begun: of whom, what, where.
fn begun(before: &Conflicts, now: &Conflicts) -> Vec<(ServiceName, String)> {
    let is_news =
        |at: &(Vip, String), mac: &MacAddr| before.get(at).is_none_or(|(was, _)| was != mac);
    let news = now.iter().filter(|(at, (mac, _))| is_news(at, mac));
    news.flat_map(|((vip, interface), (mac, services))| {
        let note = format!("{mac}, which is none of our nodes, answers for {vip} on {interface}");
        services
            .iter()
            .map(move |service| (service.clone(), note.clone()))
    })
    .take(MOST)
    .collect()
}

/// Writes until told to stop.
///
/// # Errors
/// None; the signature is that of a supervised task.
///
/// # Cancel safety
/// An Event may or may not have been written.
pub async fn run(
    client: Client,
    node: NodeName,
    mut status: watch::Receiver<Arc<L2Status>>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let reporter = Reporter {
        controller: names::manager::L2.to_owned(),
        instance: Some(node.as_str().to_owned()),
    };
    let recorder = Recorder::new(client, reporter);
    let mut said = Conflicts::new();
    let mut refusals = Refusals::default();
    loop {
        let now = conflicts(&status.borrow_and_update());
        for (service, note) in begun(&said, &now) {
            let (event, subject) = (event(note), subject(&service));
            let publish = tokio::time::timeout(DEADLINE, recorder.publish(&event, &subject));
            match stop.run_until_cancelled(publish).await {
                None => return Ok(()),
                Some(Ok(Ok(()))) => refusals.worked(WHAT),
                Some(Ok(Err(error))) => refusals.failed(WHAT, &error),
                Some(Err(_elapsed)) => debug!(svc = %service, "no answer, the Event is left out"),
            }
        }
        said = now;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = status.changed() => if changed.is_err() {
                stop.cancelled().await;
                return Ok(());
            },
        }
    }
}

fn event(note: String) -> Event {
    Event {
        type_: EventType::Warning,
        reason: "AddressConflict".to_owned(),
        note: Some(note),
        action: "Announce".to_owned(),
        secondary: None,
    }
}

fn subject(service: &ServiceName) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(service.namespace().to_owned()),
        name: Some(service.name().to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use fairlead_model::{MacAddr, ServiceName};

    use super::{Conflicts, begun};

    #[test]
    fn a_conflict_is_said_when_it_begins_and_when_the_stranger_is_another() {
        let at = |n: u8| ("192.0.2.1".parse().unwrap(), format!("lan{n}"));
        let name = ServiceName::new("shop", "web").unwrap();
        let by = |mac: u8| (MacAddr([2, 0, 0, 0, 0, mac]), [name.clone()].into());
        let (none, one) = (Conflicts::new(), Conflicts::from([(at(0), by(9))]));
        let said = begun(&none, &one);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].1.starts_with(
                "02:00:00:00:00:09, which is none of our nodes, answers for 192.0.2.1 on lan0"
            ),
            "{said:?}"
        );
        assert!(begun(&one, &one).is_empty());
        assert!(begun(&one, &none).is_empty());
        assert_eq!(begun(&one, &Conflicts::from([(at(0), by(8))])).len(), 1);
        assert_eq!(
            begun(&one, &Conflicts::from([(at(0), by(9)), (at(1), by(9))])).len(),
            1
        );
    }
}

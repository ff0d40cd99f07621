//! What one feature tells another. Features do not know each other (style.md rule 2), so the root translates.

use std::sync::Arc;

use fairlead_announcer::{policy, status::L2Status};
use fairlead_model::{ForwardingMode, Snapshot};
use fairlead_rt::{BoxError, CancellationToken};
use fairlead_xdp_lb::engine::{Announcements, Handoff, Programmed};
use tokio::sync::watch;

/// Passes each value of `from` on, translated, until told to stop or the sender is gone.
///
/// # Errors
/// None; the signature is that of a supervised task.
///
/// # Cancel safety
/// The newest value is passed on by the next run.
pub async fn pass<A, B, F>(
    mut from: watch::Receiver<A>,
    to: watch::Sender<B>,
    translate: F,
    stop: CancellationToken,
) -> Result<(), BoxError>
where
    A: Send + Sync,
    B: PartialEq + Send + Sync,
    F: Fn(&A) -> B + Send,
{
    loop {
        let next = translate(&from.borrow_and_update());
        to.send_if_modified(|last| {
            let differs = *last != next;
            if differs {
                *last = next;
            }
            differs
        });
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = from.changed() => if changed.is_err() {
                // Its sender stops before us, in the order of the stages.
                stop.cancelled().await;
                return Ok(());
            },
        }
    }
}

/// The snapshot in which Services that ask for no forwarding mode have the node's.
pub fn with_mode(snapshot: &Arc<Snapshot>, mode: ForwardingMode) -> Arc<Snapshot> {
    if mode == ForwardingMode::Auto {
        return Arc::clone(snapshot);
    }
    let mut snapshot = Snapshot::clone(snapshot);
    for service in snapshot.services.values_mut() {
        if service.forwarding == ForwardingMode::Auto {
            service.forwarding = mode;
        }
    }
    Arc::new(snapshot)
}

/// The snapshot without policies, by which nothing is announced (`enable-l2-announcements` = false).
pub fn unannounced(snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
    if snapshot.l2_policies.is_empty() {
        return snapshot;
    }
    let mut snapshot = Arc::unwrap_or_clone(snapshot);
    snapshot.l2_policies.clear();
    Arc::new(snapshot)
}

/// What the load balancer needs to know of the announcer.
pub fn announcements(status: &Arc<L2Status>) -> Arc<Announcements> {
    let handoff = |(mac, ifindex): (_, u32)| Handoff { mac, ifindex };
    Arc::new(Announcements {
        // Its first report comes after it has read back what it left in the kernel.
        is_known: !status.interfaces.is_empty(),
        announced: status.held.clone(),
        handoffs: status
            .handoff
            .iter()
            .map(|(vip, to)| (*vip, handoff(*to)))
            .collect(),
    })
}

/// What the announcer needs to know of the load balancer.
pub fn programmed(programmed: &Arc<Programmed>) -> policy::Programmed {
    policy::Programmed {
        generation: programmed.generation,
        refused: programmed.refused.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use fairlead_model::{
        ForwardingMode, Generation, Labels, LoadBalancerClass, Service, ServiceName, Snapshot,
        TrafficPolicy,
    };
    use fairlead_rt::CancellationToken;
    use tokio::sync::watch;

    use super::{pass, with_mode};

    fn service(name: &str, forwarding: ForwardingMode) -> (ServiceName, Service) {
        let name = ServiceName::new("shop", name).unwrap();
        let service = Service {
            name: name.clone(),
            labels: Labels::new(),
            is_load_balancer: true,
            class: LoadBalancerClass::Unset,
            load_balancer_ips: Vec::new(),
            external_ips: Vec::new(),
            ports: Vec::new(),
            backends: BTreeMap::new(),
            external_traffic_policy: TrafficPolicy::Cluster,
            forwarding,
            table_size: None,
            source_ranges: None,
            session_affinity: false,
        };
        (name, service)
    }

    #[test]
    fn the_node_s_mode_is_for_services_that_ask_for_none() {
        let services = [
            service("api", ForwardingMode::Auto),
            service("web", ForwardingMode::Snat),
        ];
        let snapshot = Arc::new(Snapshot {
            generation: Generation(1),
            services: services.into(),
            l2_policies: BTreeMap::new(),
            nodes: BTreeMap::new(),
        });
        let modes = |snapshot: &Snapshot| -> Vec<_> {
            snapshot.services.values().map(|s| s.forwarding).collect()
        };
        let dsr = with_mode(&snapshot, ForwardingMode::DsrIpip);
        assert_eq!(modes(&dsr), [ForwardingMode::DsrIpip, ForwardingMode::Snat]);
        assert!(Arc::ptr_eq(
            &with_mode(&snapshot, ForwardingMode::Auto),
            &snapshot
        ));
    }

    #[tokio::test]
    async fn the_newest_value_is_passed_on_once() {
        let (from, seen) = watch::channel(1_u32);
        let (to, mut out) = watch::channel(0_u32);
        let stop = CancellationToken::new();
        let bridge = pass(seen, to, |n| n / 10, stop.clone());
        let check = async {
            from.send(20).unwrap();
            assert_eq!(*out.wait_for(|n| *n == 2).await.unwrap(), 2);
            from.send(25).unwrap();
            tokio::task::yield_now().await;
            assert!(!out.has_changed().unwrap(), "2 again is no news");
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(bridge, check);
        ended.unwrap();
    }
}

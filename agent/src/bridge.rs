//! What one feature tells another. Features do not know each other (style.md rule 2), so the root translates.

use std::sync::Arc;

use fairlead_announcer::{policy, status::L2Status};
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
    use fairlead_rt::CancellationToken;
    use tokio::sync::watch;

    use super::pass;

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

//! Two operators at once, as after a Lease that was lost in the middle of a write: what they break they repair, and no agent
//! acts on it meanwhile.

#[path = "e2e/harness.rs"]
mod harness;
#[path = "e2e/two.rs"]
mod two;

use harness::{Lab, Refusals};

#[tokio::test(flavor = "multi_thread")]
async fn a_double_assignment_is_repaired_within_a_second_and_the_older_keeps_the_address() {
    let first = Refusals::default();
    let mut lab = Lab::start(first.clone()).await;
    two::a_double_assignment_is_repaired(&mut lab, &first).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_at_work_leave_every_service_with_an_address_of_its_own() {
    let mut lab = Lab::start(Refusals::default()).await;
    two::both_at_work(&mut lab).await;
    lab.stop().await;
}

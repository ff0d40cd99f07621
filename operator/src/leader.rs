//! One operator writes at a time: leadership by Lease.
//!
//! kube-leader-election compares wall clocks and does not fence, so two rules are added: who acquires the Lease leads only
//! after it was still the holder one retry period later (two candidates may both believe for a moment that they took an
//! expired Lease), and who cannot renew within the renew deadline, which is shorter than the Lease, ends. The writes
//! themselves are optimistic, each guarded by a resourceVersion.

use std::{future::Future, time::Duration};

use anyhow::{Context as _, bail};
use fairlead_api::watch::feed::WatchFault;
use fairlead_rt::{BoxError, CancellationToken, Supervisor, clock};
use kube::Client;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};

/// Name of the Lease.
pub const LEASE_NAME: &str = "fairlead-operator";

/// Who leads, and how fast another takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Who we are: one name per process.
    pub identity: String,
    /// A holder silent for this long has lost it.
    pub lease_duration: Duration,
    /// A leader that cannot renew for this long ends.
    pub renew_deadline: Duration,
    /// Between tries.
    pub retry_period: Duration,
}

/// Waits for leadership, runs `work` while it lasts, and gives it up at the end so that another need not wait.
///
/// # Errors
/// When leadership is lost or `work` fails: the process is to end, and to be started again as a candidate.
///
/// # Cancel safety
/// Dropping the future leaves the Lease to expire.
pub async fn lead<F>(
    client: Client,
    election: Election,
    stop: CancellationToken,
    work: impl FnOnce(CancellationToken) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let params = LeaseLockParams {
        lease_name: LEASE_NAME.to_owned(),
        holder_id: election.identity.clone(),
        lease_ttl: election.lease_duration,
    };
    let lock = LeaseLock::new(client, &election.namespace, params);
    if !acquire(&lock, &election, &stop).await {
        return Ok(());
    }
    tracing::info!(identity = election.identity, "leading");
    let mut tasks = Supervisor::new("leader", stop);
    let work = work(tasks.token());
    tasks.spawn("work", async move { work.await.map_err(BoxError::from) });
    let token = tasks.token();
    tasks.spawn("lease", async move {
        let kept = keep(&lock, &election, &token).await;
        if kept.is_ok() {
            // Another candidate may take over at once. If this fails the Lease expires, which only takes longer.
            let released = tokio::time::timeout(election.retry_period, lock.step_down()).await;
            if !matches!(released, Ok(Ok(()))) {
                tracing::warn!("the Lease was not released; it expires");
            }
        }
        kept.map_err(BoxError::from)
    });
    tasks.first_exit().await.context("lead the operators")
}

/// Whether we hold the Lease now; one failed try is no answer.
async fn try_once(lock: &LeaseLock, election: &Election) -> Option<bool> {
    match tokio::time::timeout(election.renew_deadline, lock.try_acquire_or_renew()).await {
        Ok(Ok(LeaseLockResult::Acquired(_))) => Some(true),
        Ok(Ok(LeaseLockResult::NotAcquired(_))) => Some(false),
        Ok(Err(error)) => {
            tracing::warn!(reason = reason(&error), %error, "Lease {LEASE_NAME} not read or written (needs `get`, `create` and `patch` on leases); trying again");
            None
        }
        Err(_elapsed) => {
            tracing::warn!("no answer about Lease {LEASE_NAME}; trying again");
            None
        }
    }
}

/// The closed word of what the API server said, if it said anything.
fn reason(error: &kube_leader_election::Error) -> &'static str {
    use kube_leader_election::Error;
    let fault = match error {
        Error::GetLease(error)
        | Error::CreateLease(error)
        | Error::AcquireLease(error)
        | Error::RenewLease(error)
        | Error::ReleaseLease(error)
        | Error::Kube(error) => WatchFault::of_call(error),
        Error::ApiError { response } => WatchFault::of_call(&kube::Error::Api(response.clone())),
        Error::TraverseLease { .. }
        | Error::ReleaseLockWhenNotLeading { .. }
        | Error::SerdeError(_)
        | Error::JiffError(_) => WatchFault::Unavailable,
    };
    fault.reason()
}

/// `false` when told to stop first.
async fn acquire(lock: &LeaseLock, election: &Election, stop: &CancellationToken) -> bool {
    let mut was_held = false;
    loop {
        let is_held = tokio::select! {
            () = stop.cancelled() => return false,
            held = try_once(lock, election) => held == Some(true),
        };
        if is_held && was_held {
            return true;
        }
        was_held = is_held;
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(election.retry_period) => {}
        }
    }
}

/// Renews until told to stop.
async fn keep(
    lock: &LeaseLock,
    election: &Election,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut renewed = clock::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(election.retry_period) => {}
        }
        match try_once(lock, election).await {
            Some(true) => renewed = clock::now(),
            Some(false) => bail!("another operator holds Lease {LEASE_NAME}"),
            None => {}
        }
        let silent = clock::now().duration_since(renewed);
        if silent > election.renew_deadline {
            bail!("Lease {LEASE_NAME} not renewed for {} s", silent.as_secs());
        }
    }
}

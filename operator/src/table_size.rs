//! The length of a Service's Maglev table, written once into an annotation.
//!
//! Every node must build equal tables whatever its history, so the length cannot depend on what a node happened to see first.
//! It is decided here, when the first backends of the Service are known, and never changed by us again: a change would
//! re-shuffle flows. Users may set the annotation themselves; a value that is no table length counts as none.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use fairlead_api::{
    names::{annotation::MAGLEV_TABLE_SIZE, manager},
    watch::SnapshotSource,
};
use fairlead_model::{Service, ServiceName, Snapshot, service::table_size_for};
use fairlead_rt::{BoxError, CancellationToken, Supervisor};
use futures::{StreamExt as _, stream};
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch as KubePatch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;

/// Patches under way at a time.
const WRITES: usize = 16;
/// First pause after a failed write; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest pause between tries.
const RETRY_MAX: Duration = Duration::from_mins(1);
/// A write that has no answer by then is tried again.
const DEADLINE: Duration = Duration::from_secs(10);

/// Services that need a length, and which: `fixed`, or one by their backends. A Service without backends waits for its first.
pub fn wanted(snapshot: &Snapshot, fixed: Option<u32>) -> Vec<(ServiceName, u32)> {
    let lacking = snapshot
        .services
        .values()
        .filter(|s| s.table_size.is_none());
    lacking
        .map(|service| (service.name.clone(), n_backends(service)))
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| (name, fixed.unwrap_or_else(|| table_size_for(n))))
        .collect()
}

/// The most backends that one table of the Service holds: of one port and one family.
fn n_backends(service: &Service) -> usize {
    let per_table = service.backends.values().flat_map(|list| {
        let four = list.iter().filter(|b| b.addr.is_ipv4()).count();
        [four, list.len() - four]
    });
    per_table.max().unwrap_or(0)
}

/// Writes `fixed`, or a length by the backends, where there is none. Runs until `stop` fires.
///
/// # Errors
/// When the watch of its snapshots ends.
///
/// # Cancel safety
/// Dropping the future ends it; a write under way may still land, which is harmless.
pub async fn run(
    source: SnapshotSource,
    client: Client,
    fixed: Option<u32>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let Some((snapshots, driver)) = source.ready(&stop).await else {
        return Ok(());
    };
    let mut tasks = Supervisor::new("table-sizes", stop);
    tasks.spawn("snapshots", driver.run(tasks.token()));
    let writer = write_all(snapshots, client, fixed, tasks.token());
    tasks.spawn("writer", writer);
    Ok(tasks.first_exit().await?)
}

async fn write_all(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    client: Client,
    fixed: Option<u32>,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut pause = RETRY_MIN;
    // Written, but the snapshot that says so may not be here yet.
    let mut written: BTreeSet<ServiceName> = BTreeSet::new();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        written.retain(|name| {
            snapshot
                .services
                .get(name)
                .is_some_and(|s| s.table_size.is_none())
        });
        let todo = wanted(&snapshot, fixed)
            .into_iter()
            .filter(|(name, _)| !written.contains(name));
        let todo: Vec<(ServiceName, u32)> = todo.collect();
        let round = stream::iter(todo)
            .map(|(name, size)| write(client.clone(), name, size))
            .buffer_unordered(WRITES)
            .collect::<Vec<_>>();
        let done = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            done = round => done,
        };
        let has_failed = done.iter().any(Option::is_none);
        written.extend(done.into_iter().flatten());
        let retry = async {
            if has_failed {
                tokio::time::sleep(pause).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = retry => pause = (pause * 2).min(RETRY_MAX),
            changed = snapshots.changed() => match changed {
                Ok(()) if has_failed => {}
                Ok(()) => pause = RETRY_MIN,
                Err(_closed) => {
                    // The driver ended: it was told to, or its supervisor is about to tell us.
                    stop.cancelled().await;
                    return Ok(());
                }
            }
        }
    }
}

/// The name, if the annotation is there now or the Service is gone; `None` if it must be tried again.
async fn write(client: Client, name: ServiceName, size: u32) -> Option<ServiceName> {
    let api = Api::<v1::Service>::namespaced(client, name.namespace());
    let answer = tokio::time::timeout(DEADLINE, annotate(&api, &name, size)).await;
    let error = match answer {
        Ok(Ok(())) => return Some(name),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Some(name),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            tracing::error!(
                svc = %name, reason = "Forbidden", error = %status.message,
                "may not write annotations: grant `get` and `patch` on services; trying again"
            );
            return None;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => format!("no answer within {} s", DEADLINE.as_secs()),
    };
    tracing::warn!(svc = %name, error, "length of the Maglev table not written; trying again");
    None
}

async fn annotate(
    api: &Api<v1::Service>,
    name: &ServiceName,
    size: u32,
) -> Result<(), kube::Error> {
    let object = api.get(name.name()).await?;
    let Some(patch) = patch(&object, size) else {
        return Ok(());
    };
    let params = PatchParams {
        field_manager: Some(manager::OPERATOR.to_owned()),
        ..PatchParams::default()
    };
    api.patch(name.name(), &params, &KubePatch::Json::<()>(patch))
        .await?;
    tracing::info!(svc = %name, size, "length of the Maglev table written");
    Ok(())
}

/// What adds the annotation to exactly this object; `None` if a valid length is there.
fn patch(object: &v1::Service, size: u32) -> Option<Patch> {
    let read = fairlead_api::convert::service(object).ok()?;
    if read.value.table_size.is_some() {
        return None;
    }
    let test = |tokens: &[&str], value| {
        PatchOperation::Test(TestOperation {
            path: PointerBuf::from_tokens(tokens.iter().copied()),
            value,
        })
    };
    let add = |tokens: &[&str], value| {
        PatchOperation::Add(AddOperation {
            path: PointerBuf::from_tokens(tokens.iter().copied()),
            value,
        })
    };
    let version = json!(object.metadata.resource_version);
    let size = json!(size.to_string());
    let annotations = ["metadata", "annotations"];
    Some(Patch(vec![
        test(&["metadata", "resourceVersion"], version),
        if object.annotations().is_empty() {
            add(&annotations, json!({ MAGLEV_TABLE_SIZE: size }))
        } else {
            add(&[annotations[0], annotations[1], MAGLEV_TABLE_SIZE], size)
        },
    ]))
}

#[cfg(test)]
mod tests;

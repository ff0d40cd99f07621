//! Creating and updating our CRDs (`--create-crds`).
//!
//! A CRD that Cilium's operator keeps current (its schema version label) is left to it: its schema accepts what ours does.

use std::time::Duration;

use anyhow::{Context as _, bail};
use fairlead_api::names::{label, manager};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt as _,
    api::PostParams,
    runtime::{conditions, wait::await_condition},
};
use serde_json::Value;

/// How long the API server may take to serve a new kind.
const ESTABLISH: Duration = Duration::from_mins(1);

/// What to do about one CRD.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// It is not there.
    Create,
    /// It is there and says what ours says.
    Keep,
    /// It is there and differs: write this.
    Replace(Box<CustomResourceDefinition>),
    /// Cilium's operator keeps it.
    LeaveToCilium,
}

/// Compares ours with what is there. Fields that only the API server sets are no difference.
pub fn action(
    existing: Option<&CustomResourceDefinition>,
    ours: &CustomResourceDefinition,
) -> Action {
    let Some(existing) = existing else {
        return Action::Create;
    };
    if existing.labels().contains_key(label::CILIUM_SCHEMA_VERSION) {
        return Action::LeaveToCilium;
    }
    let plain = |crd: &CustomResourceDefinition| {
        serde_json::to_value(&crd.spec).expect("a CRD is plain data")
    };
    if contains(&plain(existing), &plain(ours)) {
        return Action::Keep;
    }
    let mut next = existing.clone();
    next.spec.clone_from(&ours.spec);
    next.labels_mut().extend(ours.labels().clone());
    Action::Replace(Box::new(next))
}

/// Whether everything `ours` says stands in `theirs`.
fn contains(theirs: &Value, ours: &Value) -> bool {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => ours
            .iter()
            .all(|(key, value)| theirs.get(key).is_some_and(|other| contains(other, value))),
        (Value::Array(theirs), Value::Array(ours)) => {
            let mut pairs = theirs.iter().zip(ours);
            theirs.len() == ours.len() && pairs.all(|(theirs, ours)| contains(theirs, ours))
        }
        (Value::Number(theirs), Value::Number(ours)) => theirs.as_f64() == ours.as_f64(),
        _ => theirs == ours,
    }
}

/// Creates or updates every CRD and waits until the API server serves them.
///
/// # Errors
/// Names the CRD, what the API server said, and what to do.
///
/// # Cancel safety
/// Dropping the future may leave some written; running it again completes them.
pub async fn install(client: &Client) -> anyhow::Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    for ours in fairlead_api::crds() {
        let name = ours.name_any();
        write(&api, &ours)
            .await
            .with_context(|| format!("install CRD {name}"))?;
        let served = await_condition(api.clone(), &name, conditions::is_crd_established());
        match tokio::time::timeout(ESTABLISH, served).await {
            Ok(served) => served.with_context(|| format!("wait for CRD {name}"))?,
            Err(_elapsed) => bail!(
                "CRD {name} is not established within {} s: see its conditions",
                ESTABLISH.as_secs()
            ),
        };
    }
    Ok(())
}

async fn write(
    api: &Api<CustomResourceDefinition>,
    ours: &CustomResourceDefinition,
) -> anyhow::Result<()> {
    let params = PostParams {
        field_manager: Some(manager::OPERATOR.to_owned()),
        ..PostParams::default()
    };
    let name = ours.name_any();
    let existing = api.get_opt(&name).await.map_err(explain)?;
    match action(existing.as_ref(), ours) {
        Action::Create => {
            api.create(&params, ours).await.map_err(explain)?;
            tracing::info!("CRD {name} created");
        }
        Action::Replace(next) => {
            api.replace(&name, &params, &next).await.map_err(explain)?;
            tracing::info!("CRD {name} updated");
        }
        Action::Keep => {}
        Action::LeaveToCilium => tracing::info!("CRD {name} is kept by Cilium's operator"),
    }
    Ok(())
}

fn explain(error: kube::Error) -> anyhow::Error {
    let is_refused = matches!(&error, kube::Error::Api(status) if status.code == 403);
    let error = anyhow::Error::new(error);
    if is_refused {
        error.context(
            "grant `get`, `create`, `update`, `list` and `watch` on customresourcedefinitions, or apply configs/crd yourself and leave --create-crds out",
        )
    } else {
        error
    }
}

#[cfg(test)]
mod tests;

//! ComponentStatus: how the API itself is. `kubectl get componentstatuses` shows a disk that is full, where no stored
//! object could.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::read::{shaped, shaped_list};
use super::{Shape, Target, json as respond};
use crate::api::Api;
use crate::engine::StoreState;
use crate::status::ApiError;

/// The one component that can be ill while the API answers.
const STORE: &str = "store";

/// Get or list.
pub(crate) fn answer(api: &Api, target: &Target, shape: Shape) -> Result<Response<Body>, ApiError> {
    let store = std::sync::Arc::new(store(&api.shared.store_state()));
    match target.name.as_deref() {
        None => {
            let meta = json!({ "resourceVersion": api.shared.revision().to_string() });
            Ok(shaped_list(target, &[store], &meta, shape))
        }
        Some(STORE) => Ok(respond(StatusCode::OK, &shaped(target, &store, shape))),
        Some(other) => Err(target.not_found(other)),
    }
}

fn store(state: &StoreState) -> Value {
    let mut condition = json!({ "type": "Healthy" });
    match state {
        StoreState::Writable => {
            condition["status"] = json!("True");
            condition["message"] = json!("ok");
        }
        StoreState::Full { detail } | StoreState::Failed { detail } => {
            condition["status"] = json!("False");
            condition["message"] = json!(format!(
                "{}: reads go on, writes are refused",
                state.reason()
            ));
            condition["error"] = json!(detail);
        }
    }
    json!({ "apiVersion": "v1", "kind": "ComponentStatus",
        "metadata": { "name": STORE, "creationTimestamp": null }, "conditions": [condition] })
}

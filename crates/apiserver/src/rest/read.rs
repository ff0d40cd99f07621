//! Get and list.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Params, Shape, Target, bytes, json as respond, view};
use crate::api::Api;
use crate::clock;
use crate::selector::Selector;
use crate::status::ApiError;
use crate::table;

pub(crate) fn get(
    api: &Api,
    target: &Target,
    name: &str,
    shape: Shape,
) -> Result<Response<Body>, ApiError> {
    let key = target.key(name);
    let object = api
        .shared
        .get(&key.resource, &key.namespace, name)
        .ok_or_else(|| target.not_found(name))?;
    Ok(respond(StatusCode::OK, &shaped(target, &object, shape)))
}

/// One object in the shape the client asked for.
pub(crate) fn shaped(target: &Target, object: &Value, shape: Shape) -> Value {
    let object = view(&target.served, object);
    match shape {
        Shape::Object => object.into_owned(),
        Shape::Partial => table::partial(&object),
        Shape::Table(include) => {
            let meta = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
            let columns = &target.served.version().columns;
            table::table(
                columns,
                &[object.into_owned()],
                &meta,
                include,
                true,
                clock::now(),
            )
        }
    }
}

pub(crate) fn list(
    api: &Api,
    target: &Target,
    params: &Params,
    shape: Shape,
) -> Result<Response<Body>, ApiError> {
    let kind = &target.served.kind;
    let selector = Selector::parse(
        kind,
        params.text("labelSelector"),
        params.text("fieldSelector"),
    )?;
    let limit = match params.number("limit")? {
        None | Some(0) => usize::MAX,
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let token = match params.text("continue") {
        "" => None,
        text => Some(Continue::parse(text)?),
    };
    let after = token
        .as_ref()
        .map(|token| (token.namespace.clone(), token.name.clone()));
    let page = api.shared.list(
        &kind.resource,
        target.namespace.as_deref(),
        after,
        limit,
        |o| selector.keeps(o),
    );
    check_version(params, page.revision)?;

    // Later pages carry the first page's revision: a watch from there hears of everything that changed in between.
    let revision = token.as_ref().map_or(page.revision, |token| token.revision);
    if token.is_some() && api.shared.since(&kind.resource, revision).is_err() {
        let detail = "The provided continue parameter is too old to display a consistent list result. \
                      You must start a new list without the continue parameter.";
        return Err(ApiError::Expired {
            detail: detail.into(),
        });
    }
    let mut meta = json!({ "resourceVersion": revision.to_string() });
    if let Some(last) = page.objects.last().filter(|_| page.more) {
        meta["continue"] = json!(Continue::after(revision, last).to_text());
        meta["remainingItemCount"] = json!(page.remaining);
    }
    Ok(shaped_list(target, &page.objects, &meta, shape))
}

/// Many objects in the shape the client asked for.
fn shaped_list(
    target: &Target,
    objects: &[Arc<Value>],
    meta: &Value,
    shape: Shape,
) -> Response<Body> {
    let served = &target.served;
    let objects = objects.iter().map(|object| view(served, object));
    match shape {
        Shape::Table(include) => {
            let objects: Vec<Value> = objects.map(Cow::into_owned).collect();
            let columns = &served.version().columns;
            respond(
                StatusCode::OK,
                &table::table(columns, &objects, meta, include, true, clock::now()),
            )
        }
        Shape::Partial => {
            let items: Vec<Value> = objects.map(|object| table::partial(&object)).collect();
            let list = json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": meta, "items": items });
            respond(StatusCode::OK, &list)
        }
        Shape::Object => {
            // Written item by item: a list is the largest answer there is, and need not be copied first.
            let (api_version, kind) = (json!(served.api_version()), json!(served.kind.list_kind));
            let mut text = format!(
                "{{\"kind\":{kind},\"apiVersion\":{api_version},\"metadata\":{meta},\"items\":["
            );
            for (n, object) in objects.enumerate() {
                if n > 0 {
                    text.push(',');
                }
                text.push_str(&object.to_string());
            }
            text.push_str("]}");
            bytes(StatusCode::OK, text.into_bytes())
        }
    }
}

/// `resourceVersionMatch=Exact` is answered only for now; anything at least as new as asked is always answered.
fn check_version(params: &Params, now: u64) -> Result<(), ApiError> {
    let asked = params.number("resourceVersion")?.unwrap_or(0);
    if params.text("resourceVersionMatch") == "Exact" && asked != now {
        return Err(ApiError::Expired {
            detail: format!("The provided resource version is unavailable: {asked}"),
        });
    }
    if asked > now {
        // Only another database can have given this out; with `Expired` clients list again from nothing.
        return Err(ApiError::Expired {
            detail: format!("Too large resource version: {asked}, current: {now}"),
        });
    }
    Ok(())
}

/// Where the next page begins.
struct Continue {
    revision: u64,
    namespace: String,
    name: String,
}

impl Continue {
    fn after(revision: u64, object: &Value) -> Self {
        let text = |field| crate::object::meta(object, field).to_owned();
        Self {
            revision,
            namespace: text("namespace"),
            name: text("name"),
        }
    }

    fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!([self.revision, self.namespace, self.name]).to_string())
    }

    fn parse(text: &str) -> Result<Self, ApiError> {
        let parse = || -> Option<Self> {
            let (revision, namespace, name) =
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
            Some(Self {
                revision,
                namespace,
                name,
            })
        };
        parse().ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

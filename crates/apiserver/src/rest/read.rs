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
use crate::engine::{Gone, Scope};
use crate::selector::Selector;
use crate::status::{ApiError, Cause};
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
    let at = match &token {
        // Later pages show the first page's revision, however much has changed since.
        Some(token) => (token.revision != ANY_REVISION).then_some(token.revision),
        None => exact_version(params, api.shared.revision())?,
    };
    let scope = Scope {
        namespace: target.namespace.as_deref(),
        after,
        limit,
        at,
    };
    let page = api
        .shared
        .list(&kind.stored_in, scope, |object| selector.keeps(object))
        .map_err(|gone| expired(token.as_ref(), gone))?;
    let mut meta = json!({ "resourceVersion": page.revision.to_string() });
    if let Some(last) = page.objects.last().filter(|_| page.more) {
        meta["continue"] = json!(Continue::after(page.revision, last).to_text());
        // How many of the rest a selector will keep, a server that reads page by page cannot know; so no client expects it.
        if selector.is_empty() {
            meta["remainingItemCount"] = json!(page.remaining);
        }
    }
    Ok(shaped_list(target, &page.objects, &meta, shape))
}

/// The revision of a continue token that goes on with whatever there is now.
const ANY_REVISION: u64 = 0;

/// The revision is no longer known. A list under way may go on with what there is now, if its client accepts that.
fn expired(token: Option<&Continue>, gone: Gone) -> ApiError {
    let Some(token) = token else {
        return ApiError::Expired {
            detail: format!(
                "The provided resource version is unavailable: {} ({})",
                gone.asked, gone.oldest
            ),
            go_on: None,
        };
    };
    let go_on = Continue {
        revision: ANY_REVISION,
        ..token.clone()
    };
    let detail = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                  without the continue parameter, or use the continue token in this response to retrieve the remainder of \
                  the results. Continuing with the provided token results in an inconsistent list - objects that were \
                  created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
    ApiError::Expired {
        detail: detail.into(),
        go_on: Some(go_on.to_text()),
    }
}

/// Many objects in the shape the client asked for.
pub(crate) fn shaped_list(
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

/// The revision that `resourceVersionMatch=Exact` asks for; anything at least as new as asked is always answered.
fn exact_version(params: &Params, now: u64) -> Result<Option<u64>, ApiError> {
    let asked = params.number("resourceVersion")?;
    check_options(params, asked)?;
    let asked = asked.unwrap_or(0);
    if asked > now {
        // Only another database can have given this out; with `Expired` clients list again from nothing.
        return Err(ApiError::Expired {
            detail: format!("Too large resource version: {asked}, current: {now}"),
            go_on: None,
        });
    }
    Ok((params.text("resourceVersionMatch") == "Exact").then_some(asked))
}

/// Options of a list that contradict each other. Source: apimachinery `ValidateListOptions`.
fn check_options(params: &Params, asked: Option<u64>) -> Result<(), ApiError> {
    const FIELD: &str = "resourceVersionMatch";
    let wanted = params.text(FIELD);
    let mut causes = Vec::new();
    if !wanted.is_empty() && asked.is_none() {
        let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
        causes.push(Cause::forbidden(FIELD, detail));
    }
    match (wanted, asked) {
        ("Exact", Some(0)) => {
            let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            causes.push(Cause::forbidden(FIELD, detail));
        }
        ("" | "NotOlderThan" | "Exact", _) => {}
        (other, _) => causes.push(Cause::not_supported(
            FIELD,
            &json!(other),
            &["Exact", "NotOlderThan", ""],
        )),
    }
    if !params.text("sendInitialEvents").is_empty() {
        let detail = "sendInitialEvents is forbidden for list";
        causes.push(Cause::forbidden("sendInitialEvents", detail));
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid {
        group: "meta.k8s.io".into(),
        kind: "ListOptions".into(),
        name: String::new(),
        causes,
    })
}

/// Where the next page begins.
#[derive(Clone)]
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

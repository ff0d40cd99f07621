//! Requests for objects: what the path, the query and the headers ask for, and how answers leave.
//!
//! Next: `rest/read.rs` (get, list), `rest/watch.rs`, `rest/write.rs` (create, replace, patch, delete); `rest/review.rs` and
//! `rest/component.rs` answer for kinds that are not stored.

pub(crate) mod component;
pub(crate) mod read;
pub(crate) mod review;
pub(crate) mod watch;
pub(crate) mod write;

use std::borrow::Cow;
use std::collections::HashMap;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use serde_json::Value;

use crate::kinds::{Registry, Rules, Served, event};
use crate::status::ApiError;
use crate::store::Key;
use crate::table::Include;

/// Which part of an object a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Status,
}

/// What a path names.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) served: Served,
    /// `None`: objects of the cluster, or of all namespaces.
    pub(crate) namespace: Option<String>,
    /// `None`: the collection.
    pub(crate) name: Option<String>,
    pub(crate) part: Part,
}

impl Target {
    /// `/api/v1/...` or `/apis/GROUP/VERSION/...`, split at its slashes.
    pub(crate) fn parse(registry: &Registry, segments: &[String]) -> Result<Self, ApiError> {
        let (group, version, rest) = match segments {
            [api, version, rest @ ..] if api == "api" => ("", version, rest),
            [apis, group, version, rest @ ..] if apis == "apis" => (group.as_str(), version, rest),
            _ => return Err(ApiError::NoSuchPath),
        };
        let find = |plural: &str| {
            registry
                .find(group, version, plural)
                .cloned()
                .ok_or(ApiError::NoSuchPath)
        };
        let (namespace, served, rest) = match rest {
            // `namespaces/NAME` and `namespaces/NAME/status` are about the Namespace itself.
            [scope, namespace, plural, rest @ ..]
                if scope == "namespaces"
                    && !(group.is_empty() && plural == "status" && rest.is_empty()) =>
            {
                let served = find(plural)?;
                if !served.kind.namespaced {
                    return Err(ApiError::NoSuchPath);
                }
                (Some(namespace.clone()), served, rest)
            }
            [plural, rest @ ..] => (None, find(plural)?, rest),
            [] => return Err(ApiError::NoSuchPath),
        };
        let (name, part) = match rest {
            [] => (None, Part::Whole),
            [name] => (Some(name.clone()), Part::Whole),
            [name, part] if part == "status" && served.version().status => {
                (Some(name.clone()), Part::Status)
            }
            _ => return Err(ApiError::NoSuchPath),
        };
        if name.is_some() && namespace.is_none() && served.kind.namespaced {
            return Err(ApiError::NoSuchPath);
        }
        Ok(Self {
            served,
            namespace,
            name,
            part,
        })
    }

    /// The key of an object of this collection.
    pub(crate) fn key(&self, name: &str) -> Key {
        Key {
            resource: self.served.kind.stored_in.clone(),
            namespace: self.namespace.clone().unwrap_or_default(),
            name: name.to_owned(),
        }
    }

    pub(crate) fn not_found(&self, name: &str) -> ApiError {
        ApiError::NotFound {
            resource: self.served.kind.resource.to_string(),
            name: name.to_owned(),
        }
    }
}

/// The segments of a path, percent-decoded.
pub(crate) fn segments(path: &str) -> Result<Vec<String>, ApiError> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .map(decode_percent)
        .collect()
}

fn decode_percent(segment: &str) -> Result<String, ApiError> {
    let bad = || ApiError::bad_request("the path is not valid");
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| {
                byte.and_then(|b| char::from(b).to_digit(16))
                    .and_then(|d| u8::try_from(d).ok())
            };
            let (high, low) = (
                digit(rest.next()).ok_or_else(bad)?,
                digit(rest.next()).ok_or_else(bad)?,
            );
            bytes.push(high * 16 + low);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).map_err(|_not_utf8| bad())?;
    // NUL separates the parts of a key in the store.
    if text.contains('\0') {
        Err(bad())
    } else {
        Ok(text)
    }
}

/// Query parameters; of one given twice the last counts.
#[derive(Debug, Default)]
pub(crate) struct Params(HashMap<String, String>);

impl Params {
    pub(crate) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::bad_request(format!("query: {error}")))?;
        Ok(Self(pairs.0.into_iter().collect()))
    }

    /// The parameter, or "".
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Go's `strconv.ParseBool`, and an empty value is true, as in `?watch`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| {
            matches!(
                value.as_str(),
                "" | "1" | "t" | "T" | "true" | "TRUE" | "True"
            )
        })
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.text(name) {
            "" => Ok(None),
            text => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(ApiError::bad_request(format!(
                    "{name}: invalid value {text:?}: must be a number"
                ))),
            },
        }
    }
}

/// The shape in which the client wants objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Table(Include),
    Partial,
}

impl Shape {
    /// The first acceptable shape of the `Accept` header.
    pub(crate) fn wanted(headers: &HeaderMap, params: &Params) -> Result<Self, ApiError> {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("*/*");
        for choice in accept.split(',') {
            let mut parts = choice.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            if !matches!(media, "application/json" | "*/*" | "application/*") {
                continue;
            }
            let (mut shape, mut version) = ("", "v1");
            for part in parts {
                match part.split_once('=') {
                    Some(("as", value)) => shape = value,
                    Some(("v", value)) => version = value,
                    _ => {}
                }
            }
            match (shape, version) {
                ("", _) => return Ok(Self::Object),
                ("Table", "v1") => {
                    let word = params.text("includeObject");
                    let include = Include::parse(word).ok_or_else(|| {
                        ApiError::bad_request(format!("includeObject: unknown value {word:?}"))
                    })?;
                    return Ok(Self::Table(include));
                }
                ("PartialObjectMetadata" | "PartialObjectMetadataList", "v1") => {
                    return Ok(Self::Partial);
                }
                _ => {}
            }
        }
        Err(ApiError::NotAcceptable)
    }
}

/// An object as this version shows it: stored objects differ only in `apiVersion`, but for events.
pub(crate) fn view<'a>(served: &Served, object: &'a Value) -> Cow<'a, Value> {
    let wanted = served.api_version();
    if object["apiVersion"] == wanted.as_str() {
        return Cow::Borrowed(object);
    }
    let mut shown = object.clone();
    if served.kind.rules == Rules::NewEvent {
        event::to_new(&mut shown);
    }
    shown["apiVersion"] = wanted.into();
    Cow::Owned(shown)
}

/// The stored form of an object that was admitted in the version that a request named.
pub(crate) fn stored(served: &Served, mut object: Value) -> Value {
    if served.kind.rules == Rules::NewEvent {
        event::to_core(&mut object);
    }
    object["apiVersion"] = served.kind.stored_as.as_str().into();
    object
}

/// JSON with a code.
pub(crate) fn json(code: StatusCode, value: &Value) -> Response<Body> {
    bytes(code, value.to_string().into_bytes())
}

pub(crate) fn bytes(code: StatusCode, json: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(json));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// `kubectl describe node` asks for the node's pods before it prints anything. No pod runs under this API, so that an empty
/// list is the truth; the kind is otherwise unknown, and not discovered.
pub(crate) fn no_pods(method: &Method, path: &str) -> Option<Response<Body>> {
    let asked = method == Method::GET && path == "/api/v1/pods";
    asked.then(|| {
        let list = serde_json::json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [] });
        json(StatusCode::OK, &list)
    })
}

/// The refusal as a response.
pub(crate) fn refuse(error: &ApiError) -> Response<Body> {
    let mut response = json(error.code(), &error.to_status());
    match error {
        ApiError::TooManyRequests { .. } | ApiError::ShuttingDown => {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        ApiError::Unauthorized => {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

/// Adds `Warning: 299 - "text"` headers (RFC 7234 section 5.5), which kubectl prints.
pub(crate) fn warn<'a>(
    response: &mut Response<Body>,
    warnings: impl IntoIterator<Item = &'a String>,
) {
    for text in warnings {
        let quoted: String = text
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(escaped)
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let backslash = matches!(c, '"' | '\\').then_some('\\');
    backslash.into_iter().chain([c])
}

#[cfg(test)]
mod tests;

//! What the members of an appliance's group ask of whoever serves the API: to be let in, to have a certificate renewed, a copy
//! of everything, and who serves now.
//!
//! ```text
//! POST /fairlead/v1/join    join token, client certificate or admin token   a CSR in, certificate and heartbeat key out
//! GET  /fairlead/v1/copy    client certificate or admin token               every object at one revision (long poll)
//! POST /fairlead/v1/yield   client certificate or admin token               serve no longer; the last copy
//! GET  /fairlead/v1/fence   nobody in particular                            the number of this reign, and its node
//! ```
//! Invariant: after an answer to `yield`, no write is acknowledged any more, and every one that was is in that copy.
//! Next: `copy.rs` (what a copy holds), `tls.rs` (who signs).

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use base64::Engine as _;
use futures::future::select_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

use crate::api::Api;
use crate::copy::{Authority, CopiedObject, Copy};
use crate::engine::Outcome;
use crate::rest;
use crate::status::ApiError;
use crate::tls;

/// Everything of ours that is no Kubernetes API.
pub const PREFIX: &str = "/fairlead/v1/";
/// Where a node asks to be let in, and for a new certificate.
pub const JOIN: &str = "/fairlead/v1/join";
/// Where everything is copied from.
pub const COPY: &str = "/fairlead/v1/copy";
/// Where the one who serves is told to stop.
pub const YIELD: &str = "/fairlead/v1/yield";
/// Where anybody learns who serves.
pub const FENCE: &str = "/fairlead/v1/fence";

/// Namespace of join tokens and of the heartbeat key.
pub const NAMESPACE: &str = "kube-system";
/// Before the id of a join token: its Secret's name, as kubeadm has it.
pub const TOKEN_PREFIX: &str = "bootstrap-token-";
/// Entry of that Secret: SHA-256 of the token's secret half, in hex. The secret itself is kept nowhere.
pub const TOKEN_HASH: &str = "token-hash";
/// Entry of that Secret: when it ends, RFC 3339.
pub const TOKEN_EXPIRATION: &str = "expiration";
/// The Secret that authenticates heartbeats, and its entry.
pub const HEARTBEAT: (&str, &str) = ("fairlead-heartbeat", "key");

/// How long a copy that has not changed is waited for.
const POLL: Duration = Duration::from_secs(20);
/// Organisation of a member's certificate.
pub(crate) const ORGANISATION: &str = "fairlead:nodes";

/// What a node sends to be let in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// Its node name.
    pub node: String,
    /// A certificate signing request, PEM; only its key counts.
    pub csr: String,
}

/// What it gets.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinAnswer {
    /// The client certificate, PEM.
    pub certificate: String,
    /// The CA that signed it and the server's, PEM.
    pub ca_certificate: String,
    /// Of the certificate, from now on.
    pub lifetime_seconds: u64,
    /// The heartbeat key, base64, if there is one yet.
    pub heartbeat_key: Option<String>,
    /// The reign that let it in.
    pub fence: Fence,
}

/// Who serves, in the order in which one gives way to another: the higher number, then the later name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// Grows by one with each takeover.
    pub number: u64,
    /// The node that serves.
    pub node: String,
}

/// The verified client certificate behind a request: the member's node name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member(pub(crate) String);

/// The part of the API that members talk to.
pub(crate) struct Members {
    pub(crate) fence: Fence,
    pub(crate) authority: tls::Signer,
    pub(crate) lifetime: Duration,
    /// The reign that this one has given way to.
    pub(crate) yielded: watch::Sender<Option<Fence>>,
}

/// The member that a connection's certificates name; the chain itself was verified by TLS.
pub(crate) fn of_connection(connection: &rustls::ServerConnection) -> Option<Member> {
    let der = connection.peer_certificates()?.first()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let is_member = subject
        .iter_organization()
        .any(|organisation| organisation.as_str() == Ok(ORGANISATION));
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    is_member.then(|| Member(name.to_owned()))
}

/// Whether a request is from a member: its certificate said so.
pub(crate) fn is_member(head: &Parts) -> bool {
    head.extensions.get::<Member>().is_some()
}

/// Answers what lies under [`PREFIX`].
pub(crate) async fn answer(
    api: &Api,
    head: &Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    match (&head.method, head.uri.path()) {
        (&Method::GET, FENCE) => Ok(rest::json(StatusCode::OK, &json!(api.members.fence))),
        (&Method::POST, JOIN) => join(api, head, body).await,
        (&Method::GET, COPY) => {
            api.admit(head)?;
            copy(api, head).await
        }
        (&Method::POST, YIELD) => {
            api.admit(head)?;
            give_way(api, body).await
        }
        (_, FENCE | JOIN | COPY | YIELD) => Err(ApiError::MethodNotAllowed),
        _ => Err(ApiError::NoSuchPath),
    }
}

async fn join(api: &Api, head: &Parts, body: Body) -> Result<Response<Body>, ApiError> {
    if api.admit(head).is_err() && !has_join_token(api, &head.headers) {
        return Err(ApiError::Unauthorized);
    }
    let body = api.body(body).await?;
    let request: JoinRequest =
        serde_json::from_slice(&body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let is_name = !request.node.is_empty()
        && request.node.len() <= 253
        && request
            .node
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'));
    if !is_name {
        return Err(ApiError::bad_request(format!(
            "node: {:?} is no node name",
            request.node
        )));
    }
    if let Some(Member(own)) = head.extensions.get::<Member>()
        && *own != request.node
    {
        return Err(ApiError::Forbidden {
            resource: "nodes".to_owned(),
            name: request.node,
            detail: format!("the certificate is that of {own}"),
        });
    }
    let members = &api.members;
    let certificate = members
        .authority
        .sign(&request.csr, &request.node, members.lifetime)
        .map_err(|error| ApiError::bad_request(format!("csr: {error}")))?;
    let (secret, entry) = HEARTBEAT;
    let heartbeat_key = api
        .shared
        .get("secrets", NAMESPACE, secret)
        .and_then(|secret| Some(secret["data"][entry].as_str()?.to_owned()));
    tracing::info!(node = request.node, "let a node in");
    let answer = JoinAnswer {
        certificate,
        ca_certificate: members.authority.reveal().ca_certificate,
        lifetime_seconds: members.lifetime.as_secs(),
        heartbeat_key,
        fence: members.fence.clone(),
    };
    Ok(rest::json(StatusCode::OK, &json!(answer)))
}

/// Whether the request bears a join token that has not ended. Its end is wall time, as kubeadm's is: it must outlive a restart.
fn has_join_token(api: &Api, headers: &HeaderMap) -> bool {
    let find = || {
        let (scheme, shown) = headers
            .get(header::AUTHORIZATION)?
            .to_str()
            .ok()?
            .split_once(' ')?;
        let (id, secret) = shown.trim().split_once('.')?;
        let object = api
            .shared
            .get("secrets", NAMESPACE, &format!("{TOKEN_PREFIX}{id}"))?;
        let expected = entry(&object, TOKEN_HASH)?;
        let expiration = entry(&object, TOKEN_EXPIRATION)?;
        let expiration = OffsetDateTime::parse(&expiration, &Rfc3339).ok()?;
        let is_right = scheme.eq_ignore_ascii_case("bearer")
            && is_equal(hash(secret).as_bytes(), expected.as_bytes());
        Some(is_right && crate::clock::now() < expiration)
    };
    find().unwrap_or(false)
}

/// SHA-256 in hex, as a join token's Secret holds it.
pub fn hash(secret: impl AsRef<[u8]>) -> String {
    let digest = Sha256::digest(secret);
    let mut hex = String::with_capacity(64);
    for byte in digest {
        write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
    }
    hex
}

/// In time that depends on the lengths only.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && black_box(differing) == 0
}

/// An entry of a Secret's data, as text.
fn entry(secret: &Value, key: &str) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(secret["data"][key].as_str()?)
        .ok()?;
    String::from_utf8(bytes).ok()
}

/// Everything, as soon as it differs from what the client has (`?after=MARK`); 304 if it still does not after [`POLL`].
async fn copy(api: &Api, head: &Parts) -> Result<Response<Body>, ApiError> {
    let query = head.uri.query().unwrap_or_default();
    let after = query.split('&').find_map(|p| p.strip_prefix("after="));
    let mut changes: Vec<_> = api
        .copied_resources()
        .filter_map(|resource| api.shared.changes(resource))
        .collect();
    if after.is_some_and(|after| after == mark(api)) && !changes.is_empty() {
        let changed = changes
            .iter_mut()
            .map(|changes| Box::pin(changes.changed()));
        let changed = select_all(changed);
        if tokio::time::timeout(POLL, changed).await.is_err() {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
    }
    Ok(copy_response(&take(api)))
}

fn copy_response(copy: &Copy) -> Response<Body> {
    let json = serde_json::to_vec(copy).expect("JSON values serialize");
    rest::bytes(StatusCode::OK, json)
}

/// Tells one state of what is copied from another.
fn mark(api: &Api) -> String {
    let latest = api.shared.latest(api.copied_resources());
    let Fence { number, node } = &api.members.fence;
    format!("{number}.{node}.{latest}")
}

fn take(api: &Api) -> Copy {
    let (revision, latest, objects) = api.shared.dump(api.copied_resources());
    let objects = objects
        .into_iter()
        .map(|(resource, namespace, name, object)| CopiedObject {
            resource,
            namespace,
            name,
            object: Value::clone(&object),
        });
    let Fence { number, node } = &api.members.fence;
    Copy {
        fence: api.members.fence.clone(),
        mark: format!("{number}.{node}.{latest}"),
        revision,
        authority: api.members.authority.reveal(),
        objects: objects.collect(),
    }
}

/// Acknowledges no write from here on, and answers with the copy that holds all that were.
async fn give_way(api: &Api, body: Body) -> Result<Response<Body>, ApiError> {
    let body = api.body(body).await?;
    let to: Fence =
        serde_json::from_slice(&body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    if to <= api.members.fence {
        return Err(ApiError::bad_request(format!(
            "number: {} of {} is not above {} of {}, which serves here",
            to.number, to.node, api.members.fence.number, api.members.fence.node
        )));
    }
    api.members.yielded.send_replace(Some(to));
    // A write that does nothing goes last through the queue: all those before it are on disk when it is done.
    let last: crate::engine::Op = Box::new(|_tx| Ok(Outcome::DeletedMany(Vec::new())));
    api.enqueue(last).await?;
    Ok(copy_response(&take(api)))
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(..)")
    }
}

/// Kinds that say something about a moment: a successor has no use for them.
pub(crate) fn is_copied(resource: &str) -> bool {
    !matches!(
        resource,
        "leases.coordination.k8s.io" | "events" | "events.events.k8s.io"
    )
}

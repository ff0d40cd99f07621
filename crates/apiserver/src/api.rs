//! A request's way: who asks, what for, which handler answers.
//!
//! Invariant: nothing but the health checks is answered before the token was checked.

use std::sync::Arc;

use axum::body::{self, Body};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use fairlead_rt::CancellationToken;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::auth::Auth;
use crate::config::{Config, OpenError};
use crate::discovery::Discovery;
use crate::engine::{self, Job, Op, Outcome, Shared, Writer};
use crate::kinds::{Registry, Rules};
use crate::member::{self, Fence, Members};
use crate::removal::Owners;
use crate::rest::write::{Write, definition};
use crate::rest::{self, Params, Part, Shape, Target, component, read, review, watch, write};
use crate::service::Allocated;
use crate::status::ApiError;
use crate::store::{self, Bound, HISTORY_BYTES, RedbStore};
use crate::tls;

/// How long a write may wait for its turn and the disk.
const WRITE_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

/// Everything a handler needs.
pub(crate) struct Api {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Registry,
    /// One permit per open watch.
    pub(crate) watches: Arc<Semaphore>,
    discovery: Discovery,
    jobs: mpsc::Sender<Job>,
    auth: Auth,
    /// What members of the group ask for.
    pub(crate) members: Members,
    body_bytes: usize,
}

impl Api {
    /// Opens the store and makes the namespaces that always exist.
    pub(crate) fn open(
        config: &Config,
        auth: Auth,
        signer: tls::Signer,
    ) -> Result<(Self, Writer<RedbStore>), OpenError> {
        let registry = Registry::new(&config.crds)?;
        let allocated = Allocated::new(&config.service_cidrs)?;
        let limits = &config.limits;
        let history = Bound {
            changes: limits.history.max(1),
            bytes: HISTORY_BYTES,
        };
        let store = store::open(&config.data_dir, history)?;
        let failed = |detail: String| OpenError::Store {
            path: config.data_dir.join("objects.redb"),
            detail,
        };
        let number = store.fence().map_err(|error| failed(error.to_string()))?;
        let resources = registry.stored();
        let (shared, jobs, mut writer) = engine::open(
            store,
            &resources,
            history,
            (allocated, Owners::new(&registry)),
        )
        .map_err(|error| failed(error.to_string()))?;
        let definitions = definition::keep(&registry, &config.crds);
        for op in write::default_namespaces(&registry)
            .into_iter()
            .chain([definitions])
        {
            match writer.apply(op) {
                Ok(_) | Err(ApiError::AlreadyExists { .. }) => {}
                // They are there from the first start on; a disk that is full today must not keep the API from reading.
                Err(ApiError::StorageFull { .. }) if shared.revision() > 1 => {}
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        let api = Self {
            discovery: Discovery::new(&registry),
            watches: Arc::new(Semaphore::new(limits.watches)),
            shared,
            registry,
            jobs,
            auth,
            members: Members {
                fence: Fence {
                    number,
                    node: config.node.clone(),
                },
                authority: signer,
                lifetime: config.certificate_lifetime,
                yielded: tokio::sync::watch::Sender::new(None),
            },
            body_bytes: limits.body_bytes,
        };
        Ok((api, writer))
    }

    /// Whether a request's token is good; decides how long its connection may stay.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        self.auth.check(headers).is_ok()
    }

    /// `Ok` for the admin and for members.
    pub(crate) fn admit(&self, head: &Parts) -> Result<(), ApiError> {
        if member::is_member(head) {
            return Ok(());
        }
        self.auth.check(&head.headers)
    }

    /// Resources that a successor takes over.
    pub(crate) fn copied_resources(&self) -> impl Iterator<Item = &str> {
        let all = self.registry.kinds.iter();
        all.filter(|kind| kind.rules.is_stored())
            .map(|kind| &*kind.stored_in)
            .filter(|resource| member::is_copied(resource))
    }

    /// Answers one request. Never fails: refusals are answers.
    pub(crate) async fn handle(
        &self,
        request: Request<Body>,
        stop: CancellationToken,
    ) -> Response<Body> {
        match self.answer(request, stop).await {
            Ok(response) => response,
            Err(error) => rest::refuse(&error),
        }
    }

    async fn answer(
        &self,
        request: Request<Body>,
        stop: CancellationToken,
    ) -> Result<Response<Body>, ApiError> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if matches!(path, "/healthz" | "/livez" | "/readyz") {
            let mut response = Response::new(Body::from("ok"));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                header::HeaderValue::from_static("text/plain"),
            );
            return Ok(response);
        }
        if path.starts_with(member::PREFIX) {
            return member::answer(self, &head, body).await;
        }
        self.admit(&head)?;
        if head.method == Method::GET
            && let Some(response) = self.discovery.answer(path, &head.headers)
        {
            return Ok(response);
        }
        if let Some(response) = rest::no_pods(&head.method, path) {
            return Ok(response);
        }
        let target = Target::parse(&self.registry, &rest::segments(path)?)?;
        let warning = target.served.version().warning.clone();
        let mut response = self.dispatch(target, &head, body, stop).await?;
        rest::warn(&mut response, &warning);
        Ok(response)
    }

    async fn dispatch(
        &self,
        target: Target,
        head: &Parts,
        body: Body,
        stop: CancellationToken,
    ) -> Result<Response<Body>, ApiError> {
        let params = Params::parse(&head.uri)?;
        let shape = Shape::wanted(&head.headers, &params)?;
        let is_whole = target.part == Part::Whole;
        let name = target.name.clone();
        let rules = target.served.kind.rules;
        let watches = is_whole && params.flag("watch");
        if !rules
            .verbs()
            .contains(&verb(&head.method, name.is_some(), watches))
        {
            return Err(match rules {
                Rules::Definition => definition::refuse(&target),
                _ => ApiError::MethodNotAllowed,
            });
        }
        if rules == Rules::Component {
            return component::answer(self, &target, shape);
        }
        if head.method == Method::GET {
            return match name {
                _ if watches => watch::watch(self, target, &params, shape, stop),
                Some(name) => read::get(self, &target, &name, shape),
                None => read::list(self, &target, &params, shape),
            };
        }
        let body = self.body(body).await?;
        let write = Write {
            target,
            params,
            shape,
            headers: &head.headers,
            body,
        };
        match (&head.method, name) {
            _ if rules == Rules::Review => {
                let sent = write.decode(self)?;
                review::answer(&write.target, sent, write.validation()?)
            }
            (&Method::POST, None) => write::create(self, write).await,
            (&Method::PUT, Some(name)) => write::replace(self, write, &name).await,
            (&Method::PATCH, Some(name)) => write::patch(self, write, &name).await,
            (&Method::DELETE, Some(name)) if is_whole => write::delete(self, write, &name).await,
            (&Method::DELETE, None) => write::delete_many(self, write).await,
            _ => Err(ApiError::MethodNotAllowed),
        }
    }

    pub(crate) async fn body(&self, body: Body) -> Result<Bytes, ApiError> {
        let limit = self.body_bytes;
        // A client that sends its body by the byte holds one request of its own connection, nothing else.
        let read = tokio::time::timeout(WRITE_DEADLINE, body::to_bytes(body, limit));
        let read = read.await.map_err(|_elapsed| ApiError::Timeout)?;
        read.map_err(|error| {
            use std::error::Error as _;
            let too_large = error
                .source()
                .is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
            if too_large {
                ApiError::TooLarge { limit }
            } else {
                ApiError::bad_request("the request's body broke off")
            }
        })
    }

    /// Hands a write to the writer and waits until it is on disk.
    pub(crate) async fn write(&self, op: Op, dry_run: bool) -> Result<Outcome, ApiError> {
        let yielded = self.members.yielded.subscribe();
        // Looked at by the writer, which is serial: what runs before `yield`'s last write is in the copy, all else is refused.
        let op: Op = Box::new(move |tx| {
            if yielded.borrow().is_some() {
                return Err(ApiError::ShuttingDown);
            }
            op(tx)
        });
        self.queue(op, dry_run).await
    }

    /// The same for what may happen after this API has given way.
    pub(crate) async fn enqueue(&self, op: Op) -> Result<Outcome, ApiError> {
        self.queue(op, false).await
    }

    async fn queue(&self, op: Op, dry_run: bool) -> Result<Outcome, ApiError> {
        let (reply, answer) = oneshot::channel();
        let job = Job { op, dry_run, reply };
        let send = tokio::time::timeout(WRITE_DEADLINE, self.jobs.send(job));
        let queued = send.await.map_err(|_elapsed| ApiError::TooManyRequests {
            what: "writes waiting for the disk",
        })?;
        queued.map_err(|_closed| ApiError::ShuttingDown)?;
        // From here on the write may happen whatever we say, so no deadline: the answer must be true.
        answer.await.map_err(|_closed| ApiError::ShuttingDown)?
    }
}

/// The word of RBAC and discovery for what a request does.
fn verb(method: &Method, named: bool, watch: bool) -> &'static str {
    match *method {
        Method::GET if watch => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "",
    }
}

/// `GET /version`.
pub(crate) fn version() -> Response<Body> {
    let version = env!("CARGO_PKG_VERSION");
    // Clients read the minor number to decide what they may ask for; what is served here is what 1.36 has.
    rest::json(
        StatusCode::OK,
        &json!({
            "major": "1", "minor": "36", "gitVersion": format!("v1.36.0+fairlead-{version}"), "gitCommit": "",
            "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
            "compiler": "rustc", "platform": format!("linux/{}", std::env::consts::ARCH),
        }),
    )
}

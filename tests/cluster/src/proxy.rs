//! What lies between us and the API server when things go wrong: a proxy that is slow, refuses, hangs, lies and cuts.
//!
//! ```text
//! client ──TLS, HTTP/1.1──▶ door (open, reset, hang) ──▶ rule: request → Action ──▶ kube-apiserver
//! ```
//! It ends TLS with a certificate of the cluster's CA and passes `Authorization` on, so clients need tokens. Everything it saw
//! is kept in order. A proxy that is told nothing changes nothing.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode, Uri, header, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::ControlPlane;

/// What happens to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It is passed on.
    Pass,
    /// It is passed on; the answer's head and each piece of its body come this much later.
    Slow(Duration),
    /// It is not passed on, and answered like this.
    Answer(Answer),
    /// The connection is closed without an answer.
    Close,
    /// It is passed on, and the connection is closed after this many bytes of the answer's body.
    CutAfter(usize),
    /// It is passed on, a list in pages of this many objects.
    Pages(u32),
}

/// An answer of the proxy's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub code: u16,
    /// Seconds in `Retry-After`.
    pub retry_after: Option<u32>,
    /// JSON.
    pub body: String,
}

/// How the door answers who knocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Connections are accepted.
    Open,
    /// New connections are reset.
    Reset,
    /// New connections are accepted, and nothing is ever answered.
    Hang,
}

/// A request as the proxy saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// HTTP method.
    pub method: Method,
    /// Path without the query.
    pub path: String,
    /// The query, as it stands.
    pub query: String,
}

impl Seen {
    /// Whether it begins a watch.
    pub fn is_watch(&self) -> bool {
        self.query.split('&').any(|pair| pair == "watch=true")
    }

    /// Whether it lists a collection whose path ends in `resource`.
    pub fn is_list_of(&self, resource: &str) -> bool {
        self.method == Method::GET && !self.is_watch() && self.path.ends_with(resource)
    }

    /// Whether it watches a collection whose path ends in `resource`.
    pub fn is_watch_of(&self, resource: &str) -> bool {
        self.is_watch() && self.path.ends_with(resource)
    }
}

impl Answer {
    /// A Status of Kubernetes.
    pub fn status(code: u16, reason: &str, message: &str) -> Self {
        let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code});
        Self {
            code,
            retry_after: None,
            body: status.to_string(),
        }
    }

    /// What an API server with too much to do answers.
    pub fn too_many() -> Self {
        let text = "too many requests, please try again later";
        Self {
            retry_after: Some(1),
            ..Self::status(429, "TooManyRequests", text)
        }
    }

    /// What the past that is gone is answered with.
    pub fn gone() -> Self {
        Self::status(410, "Expired", "too old resource version: 1 (2)")
    }

    /// A watch that begins well and then says that the past is gone.
    pub fn gone_in_watch() -> Self {
        let event = format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", Self::gone().body);
        Self {
            code: 200,
            retry_after: None,
            body: event,
        }
    }
}

type Rule = dyn Fn(&Seen) -> Action + Send + Sync;
type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Shared between the test and the proxy's thread.
struct Shared {
    rule: Mutex<Arc<Rule>>,
    door: watch::Sender<Door>,
    /// Counts the cuts; each ends every connection that is open then.
    cuts: watch::Sender<u64>,
    seen: Mutex<Vec<Seen>>,
}

/// A running proxy; dropping it closes every connection.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Begins on `listener`, which may be in another network namespace than the API server.
    pub fn start(plane: &ControlPlane, listener: TcpListener) -> anyhow::Result<Self> {
        let addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let names = [&addr.ip().to_string(), "localhost"];
        let pair = plane.pki().server(&names.map(str::to_owned))?;
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let shared = Arc::new(Shared {
            rule: Mutex::new(Arc::new(|_| Action::Pass)),
            door: watch::Sender::new(Door::Open),
            cuts: watch::Sender::new(0),
            seen: Mutex::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let kubeconfig = plane.path(&format!("proxy-{}.kubeconfig", addr.port()));
        // Nobody's: who asks is who says so in the request.
        let text = plane.kubeconfig_for(&plane.url(), &serde_json::json!({}));
        std::fs::write(&kubeconfig, text)?;
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            crate::aside(async {
                let behind = crate::client(&kubeconfig).await;
                let behind = behind.expect("the kubeconfig was written a moment ago");
                let listener = tokio::net::TcpListener::from_std(listener);
                let listener = listener.expect("the listener does not block");
                let acceptor = TlsAcceptor::from(Arc::new(tls));
                accept(listener, acceptor, behind, serving, stopped).await;
            });
        });
        Ok(Self {
            addr,
            shared,
            stop,
            thread: Some(thread),
        })
    }

    /// Its URL, for kubeconfigs of clients that can reach it.
    pub fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    /// From now on `rule` decides about each request.
    pub fn rule(&self, rule: impl Fn(&Seen) -> Action + Send + Sync + 'static) {
        *lock(&self.shared.rule) = Arc::new(rule);
    }

    /// From now on every request is passed on.
    pub fn pass(&self) {
        self.rule(|_| Action::Pass);
    }

    /// From now on new connections meet this.
    pub fn door(&self, door: Door) {
        self.shared.door.send_replace(door);
    }

    /// Closes every open connection.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Everything it saw since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut lock(&self.shared.seen))
    }

    /// Everything it saw since the last [`Self::take_seen`].
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    behind: kube::Client,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_gone_meanwhile) => continue,
            },
        };
        let door = *shared.door.borrow();
        let mut cuts = shared.cuts.subscribe();
        let (acceptor, behind, shared) = (acceptor.clone(), behind.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            let serving = async {
                match door {
                    Door::Reset => reset(&stream),
                    Door::Hang => std::future::pending().await,
                    Door::Open => serve(stream, acceptor, behind, shared).await,
                }
            };
            tokio::select! {
                () = serving => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

/// Closing without lingering sends RST.
fn reset(stream: &TcpStream) {
    drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    behind: kube::Client,
    shared: Arc<Shared>,
) {
    // A client that goes away in the middle is no matter here.
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(move |request| answer(request, behind.clone(), Arc::clone(&shared)));
    let serving =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    drop(serving.await);
}

/// An error closes the connection.
async fn answer(
    mut request: Request<Incoming>,
    behind: kube::Client,
    shared: Arc<Shared>,
) -> anyhow::Result<Response<Body>> {
    let seen = Seen {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
    };
    let rule = Arc::clone(&lock(&shared.rule));
    let action = rule(&seen);
    lock(&shared.seen).push(seen);
    let (delay, budget) = match action {
        Action::Pass => (Duration::ZERO, usize::MAX),
        Action::Slow(delay) => (delay, usize::MAX),
        Action::CutAfter(bytes) => (Duration::ZERO, bytes),
        Action::Pages(objects) => {
            *request.uri_mut() = in_pages(request.uri(), objects)?;
            (Duration::ZERO, usize::MAX)
        }
        Action::Close => anyhow::bail!("closed"),
        Action::Answer(answer) => {
            let mut response = Response::builder()
                .status(StatusCode::from_u16(answer.code)?)
                .header(header::CONTENT_TYPE, "application/json");
            if let Some(seconds) = answer.retry_after {
                response = response.header(header::RETRY_AFTER, seconds);
            }
            let body = Full::new(Bytes::from(answer.body)).map_err(|never| match never {});
            return Ok(response.body(body.boxed_unsync())?);
        }
    };
    let (mut head, body) = request.into_parts();
    head.headers.remove(header::HOST);
    head.headers.remove(header::CONNECTION);
    let body = body.collect().await.context("read the request")?.to_bytes();
    let request = Request::from_parts(head, kube::client::Body::from(body));
    let response = behind.send(request).await.context("pass the request on")?;
    tokio::time::sleep(delay).await;
    let (mut head, body) = response.into_parts();
    // Of one connection, and this is another.
    head.headers.remove(header::TRANSFER_ENCODING);
    if budget < usize::MAX {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    let is_empty = body.is_end_stream();
    let pieces = stream::unfold(Some((body, budget)), move |state| async move {
        let (mut body, budget) = state?;
        if budget == 0 {
            return Some((Err(io::ErrorKind::ConnectionAborted.into()), None));
        }
        let piece = match body.frame().await? {
            Ok(frame) => frame,
            Err(error) => return Some((Err(io::Error::other(error)), None)),
        };
        tokio::time::sleep(delay).await;
        let Ok(mut data) = piece.into_data() else {
            return Some((Ok(Frame::data(Bytes::new())), Some((body, budget))));
        };
        data.truncate(budget);
        let left = budget - data.len();
        Some((Ok(Frame::data(data)), Some((body, left))))
    });
    let body = if is_empty {
        Full::new(Bytes::new())
            .map_err(|never| match never {})
            .boxed_unsync()
    } else {
        StreamBody::new(pieces).boxed_unsync()
    };
    Ok(Response::from_parts(head, body))
}

/// The same list with another `limit`.
fn in_pages(uri: &Uri, objects: u32) -> anyhow::Result<Uri> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let pairs = pairs.map(|pair| match pair.split_once('=') {
        Some(("limit", _)) => format!("limit={objects}"),
        _ => pair.to_owned(),
    });
    let query: Vec<String> = pairs.collect();
    Ok(format!("{}?{}", uri.path(), query.join("&")).parse()?)
}

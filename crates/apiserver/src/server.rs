//! The API as a process part: opening it, serving it, ending it.
//!
//! ```text
//!  run ── Supervisor ─┬─ api-writer (thread): engine::Writer, ends when the last handler is gone
//!                     └─ listener (task) ── Tasks(strangers + connections): one per connection, TLS, HTTP/1.1 or h2
//! ```
//! A connection is a stranger until a request on it shows a token (`door.rs`), and then takes one of the places for clients; when
//! those are gone, its requests get 429. On stop: no new connections, watches end, requests under
//! way have `LAST_CALL` to finish, then the writer commits what it was given and ends.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use base64::Engine as _;
use fairlead_rt::{CancellationToken, Supervisor, Tasks};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::api::Api;
use crate::auth::{Auth, Token};
use crate::config::{Config, OpenError, RunError};
use crate::door::{Door, Visit};
use crate::engine::Writer;
use crate::stall::Stall;
use crate::status::ApiError;
use crate::store::{RedbStore, StoreState};
use crate::{Fence, files, member, rest, tls};

/// A client that has not finished its handshake by then, or shown its token in as long again, is no client.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an idle connection is kept: longer than clients keep theirs (90 s in hyper and in Go), so that it is the client
/// who closes it. A server that does so first may cut off a request that was just sent.
const IDLE: Duration = Duration::from_mins(2);
/// How long a request with a token waits for a place.
const FULL: Duration = Duration::from_secs(30);
/// How long a burst of connections from this machine has to settle before the oldest are sent away.
const OWN_BURST: Duration = Duration::from_millis(500);
/// Longest request head, so that a stranger cannot fill the memory with one.
const HEAD_BYTES: usize = 64 * 1024;
/// How long requests under way may take once the server stops.
const LAST_CALL: Duration = Duration::from_secs(3);
/// A listener out of file descriptors tries again after this.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// An open API: the store is loaded, the port is bound, nothing is served yet.
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    tls: TlsAcceptor,
    api: Arc<Api>,
    writer: Writer<RedbStore>,
    kubeconfig: String,
    config: Config,
}

impl Server {
    /// Loads or makes everything in the data directory and binds the port. Blocks on the disk.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is left running.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        files::private_dir(&config.data_dir)?;
        let token = admin_token(&config)?;
        let identity = tls::identity(&config, &token)?;
        let (api, writer) = Api::open(&config, Auth::new(&token), identity.signer)?;
        let listen = |source| OpenError::Listen {
            listen: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let local_addr = listener.local_addr().map_err(listen)?;

        let url = config
            .advertise_url
            .clone()
            .unwrap_or_else(|| format!("https://{}", dialled(local_addr)));
        let kubeconfig = kubeconfig(&url, &identity.ca_pem, &token);
        files::write_private(
            &config.data_dir.join("admin.kubeconfig"),
            kubeconfig.as_bytes(),
        )?;
        if let Some(path) = &config.kubeconfig_path {
            files::write_private(path, kubeconfig.as_bytes())?;
        }
        let tls = TlsAcceptor::from(identity.server);
        Ok(Self {
            listener,
            local_addr,
            tls,
            api: Arc::new(api),
            writer,
            kubeconfig,
            config,
        })
    }

    /// The admin's kubeconfig, YAML: CA, token and URL in one text. A secret.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// This reign.
    pub fn fence(&self) -> &Fence {
        &self.api.members.fence
    }

    /// A member's certificate for the node that serves, PEM.
    ///
    /// # Errors
    /// A signing request that cannot be read.
    pub fn certificate(&self, request: &member::JoinRequest) -> Result<String, OpenError> {
        let members = &self.api.members;
        let signed = members
            .authority
            .sign(&request.csr, &request.node, members.lifetime);
        signed.map_err(|source| OpenError::Certificate { source })
    }

    /// To whom this API was told to give way, once it was: it refuses every write then, and whoever runs it should stop it.
    pub fn yielded(&self) -> tokio::sync::watch::Receiver<Option<Fence>> {
        self.api.members.yielded.subscribe()
    }

    /// Whether writes work, and why not. Follows the latest write.
    pub fn store_state(&self) -> tokio::sync::watch::Receiver<StoreState> {
        self.api.shared.watch_store()
    }

    /// The bound address, with the port that was taken when 0 was asked for.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `stop` fires or something breaks for good.
    ///
    /// # Errors
    /// [`RunError`] when the listener or the writer is gone; `Ok` only after `stop`.
    ///
    /// # Cancel safety
    /// Dropping the future ends connections at once; acknowledged writes are on disk all the same.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        let Self {
            listener,
            local_addr,
            tls,
            api,
            writer,
            config,
            ..
        } = self;
        let listener = tokio::net::TcpListener::from_std(listener)
            .map_err(|source| RunError::Listener { source })?;
        tracing::info!(listen = %local_addr, "API is served");
        let mut tasks = Supervisor::new("apiserver", stop);
        tasks.spawn_thread("api-writer", move |_stop| -> Result<(), Infallible> {
            writer.run();
            Ok(())
        });
        let stop = tasks.token();
        tasks.spawn("listener", async move {
            accept(&listener, &tls, &api, &config, &stop).await;
            Ok::<(), Infallible>(())
        });
        tasks
            .first_exit()
            .await
            .map_err(|source| RunError::Task { source })
    }
}

/// The admin's token, made at the first start.
fn admin_token(config: &Config) -> Result<Token, OpenError> {
    let path = config.data_dir.join("admin.token");
    if let Some(token) = files::read(&path)?.as_deref().and_then(Token::parse) {
        return Ok(token);
    }
    let token = Token::random();
    files::write_private(&path, token.reveal().as_bytes())?;
    Ok(token)
}

/// Where a client on this machine reaches a listener on `bound`.
fn dialled(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

fn kubeconfig(url: &str, ca_pem: &str, token: &Token) -> String {
    let ca = base64::engine::general_purpose::STANDARD.encode(ca_pem);
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "fairlead", "cluster": { "server": url, "certificate-authority-data": ca } }],
        "users": [{ "name": "admin", "user": { "token": token.reveal() } }],
        "contexts": [{ "name": "fairlead", "context": { "cluster": "fairlead", "user": "admin" } }],
        "current-context": "fairlead",
    });
    serde_norway::to_string(&value).expect("JSON values are YAML values")
}

async fn accept(
    listener: &tokio::net::TcpListener,
    tls: &TlsAcceptor,
    api: &Arc<Api>,
    config: &Config,
    stop: &CancellationToken,
) {
    let limits = &config.limits;
    let door = Door::new(limits.strangers, limits.strangers_per_peer);
    let places = Arc::new(Semaphore::new(limits.connections));
    // As many again may wait for a place, having shown a token.
    let most = limits.strangers + 2 * limits.connections;
    let mut connections = Tasks::new("api connections", most);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Either that one connection is gone already, or descriptors ran out: both pass.
                tracing::warn!(error = %error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        if peer.ip().to_canonical().is_loopback() {
            let settled = tokio::time::timeout(OWN_BURST, async {
                while door.crowded(peer.ip()) {
                    door.left().await;
                }
            });
            tokio::select! {
                () = stop.cancelled() => break,
                _waited = settled => {}
            }
        }
        let seat = Arc::new(Seat::new(door.enter(peer.ip()), places.clone()));
        let connection = serve(
            socket,
            tls.clone(),
            api.clone(),
            seat,
            limits.write_stall,
            stop.clone(),
        );
        tokio::select! {
            () = stop.cancelled() => break,
            () = connections.spawn(connection) => {}
        }
    }
    if tokio::time::timeout(LAST_CALL, connections.join())
        .await
        .is_err()
    {
        tracing::debug!(
            "ended {} connections that were still open",
            connections.len()
        );
    }
}

/// Where a connection stands: at the door, or in one of the places for clients.
struct Seat {
    /// Fires when a stranger's place is needed for somebody else.
    sent_away: CancellationToken,
    visit: Mutex<Option<Visit>>,
    places: Arc<Semaphore>,
    place: OnceLock<OwnedSemaphorePermit>,
}

impl Seat {
    fn new(visit: Visit, places: Arc<Semaphore>) -> Self {
        Self {
            sent_away: visit.sent_away.clone(),
            visit: Mutex::new(Some(visit)),
            places,
            place: OnceLock::new(),
        }
    }

    fn is_taken(&self) -> bool {
        self.place.get().is_some()
    }

    fn is_stranger(&self) -> bool {
        self.visit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Leaves the door for a place, as soon as there is one.
    async fn take(&self) -> Result<(), ApiError> {
        drop(
            self.visit
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        if self.is_taken() {
            return Ok(());
        }
        let place = tokio::time::timeout(FULL, self.places.clone().acquire_owned());
        let Ok(Ok(place)) = place.await else {
            return Err(ApiError::TooManyRequests {
                what: "connections",
            });
        };
        // Two requests at once: the second gives its permit back.
        drop(self.place.set(place));
        Ok(())
    }
}

async fn serve(
    socket: TcpStream,
    tls: TlsAcceptor,
    api: Arc<Api>,
    seat: Arc<Seat>,
    stall: Duration,
    stop: CancellationToken,
) {
    if let Err(error) = talk(socket, tls, api, seat, stall, stop).await {
        // Port scans, clients that went away, clients that do not trust the CA: nothing an operator must act on.
        tracing::debug!(error = %error, "connection ended");
    }
}

async fn talk(
    socket: TcpStream,
    tls: TlsAcceptor,
    api: Arc<Api>,
    seat: Arc<Seat>,
    stall: Duration,
    stop: CancellationToken,
) -> Result<(), fairlead_rt::BoxError> {
    socket.set_nodelay(true)?;
    let late = |()| io::Error::from(io::ErrorKind::TimedOut);
    let handshake = tokio::time::timeout(HANDSHAKE, tls.accept(socket));
    let stream = tokio::select! {
        stream = handshake => stream.map_err(|_elapsed| late(()))??,
        () = seat.sent_away.cancelled() => return Err(late(()).into()),
    };
    let watches = stop.clone();
    let member = member::of_connection(stream.get_ref().1);
    let own = seat.clone();
    let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let is_member = member.is_some();
        if let Some(member) = member.clone() {
            request.extensions_mut().insert(member);
        }
        let admitted = own.is_taken() || is_member || api.admits(request.headers());
        let (api, stop, own) = (api.clone(), watches.clone(), own.clone());
        async move {
            let seated = if admitted { own.take().await } else { Ok(()) };
            Ok::<_, Infallible>(match seated {
                Ok(()) => api.handle(request.map(Body::new), stop).await,
                Err(full) => rest::refuse(&full),
            })
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(stall))
        .max_concurrent_streams(Some(250));
    let connection = builder.serve_connection(TokioIo::new(Stall::new(stream, stall)), service);
    tokio::pin!(connection);
    let mut probation = true;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = tokio::time::sleep(HANDSHAKE), if probation => {
                if seat.is_stranger() {
                    return Err(late(()).into());
                }
                probation = false;
            }
            () = seat.sent_away.cancelled() => return Err(late(()).into()),
            () = stop.cancelled() => break,
        }
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

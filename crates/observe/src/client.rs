//! Asking an agent: HTTP/1.1 over its Unix socket, or over TCP where it listens there.
//!
//! Invariant: every request has a deadline, and every failure says what to do next ([`ClientError::remedy`]).

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{
    error::ErrorView,
    explain::ExplainView,
    l2::{L2Event, L2Row},
    pool::IpPoolRow,
    service::ServiceView,
    status::StatusView,
};

/// Where agents put their sockets: `/run/fairlead/<node>.sock`.
pub const SOCKET_DIR: &str = "/run/fairlead";

/// An agent answers from memory; only the API server's answers take longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why an agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket exists.
    #[error("no agent runs on this machine: there is no socket in {}", dir.display())]
    NoAgent {
        /// Where sockets are looked for.
        dir: PathBuf,
    },
    /// Several agents run here.
    #[error("{} agents run on this machine: {}", nodes.len(), nodes.join(", "))]
    ManyAgents {
        /// Their node names.
        nodes: Vec<String>,
    },
    /// An address that is neither a path nor an http URL.
    #[error("`{0}` is neither the path of a socket nor an http:// URL")]
    BadAddress(String),
    /// Nobody answers there.
    #[error("the agent at {address} cannot be reached")]
    Connect {
        /// Path or URL.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The connection broke.
    #[error("asking the agent at {address}")]
    Http {
        /// Path or URL.
        address: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("the agent at {address} did not answer within {} s", DEADLINE.as_secs())]
    Timeout {
        /// Path or URL.
        address: String,
    },
    /// The agent said no.
    #[error("{}", .0.message)]
    Refused(ErrorView),
    /// An answer that is not the view that was asked for.
    #[error("the agent at {address} answered {status} with something else than expected")]
    Unexpected {
        /// Path or URL.
        address: String,
        /// HTTP status.
        status: StatusCode,
        /// What is wrong with the body.
        source: serde_json::Error,
    },
}

impl ClientError {
    /// The closed word for the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoAgent { .. } => "NoAgent",
            Self::ManyAgents { .. } => "ManyAgents",
            Self::BadAddress(_) => "BadAgentAddress",
            Self::Connect { .. } => "AgentUnreachable",
            Self::Http { .. } | Self::Timeout { .. } => "AgentSilent",
            Self::Refused(_) => "AgentRefused",
            Self::Unexpected { .. } => "UnexpectedAnswer",
        }
    }

    /// What to do next.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::NoAgent { .. } => Some(
                "start fairlead-agent or fairlead-appliance, or say with --agent where it listens"
                    .to_owned(),
            ),
            Self::ManyAgents { nodes } => {
                let node = nodes.first().map_or("NODE", String::as_str);
                Some(format!("choose one: --agent {SOCKET_DIR}/{node}.sock"))
            }
            Self::BadAddress(_) => {
                Some(format!("e.g. --agent {SOCKET_DIR}/NODE.sock or --agent http://192.0.2.1:9880"))
            }
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("only root may ask the agent: use sudo".to_owned())
            }
            Self::Connect { .. } => Some(
                "the agent that made this socket is gone: start it again, and read its log"
                    .to_owned(),
            ),
            Self::Http { .. } | Self::Timeout { .. } => {
                Some("the agent hangs or is just stopping: read its log".to_owned())
            }
            Self::Refused(view) => view.remedy.clone(),
            Self::Unexpected { .. } => {
                Some("agent and command line are of different versions: compare `fairlead --version` with the agent's".to_owned())
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Socket(PathBuf),
    /// Host and port.
    Tcp(String),
}

/// Asks one agent.
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
}

impl Client {
    /// `address` is the path of a socket or `http://HOST:PORT`; without one, the only socket in [`SOCKET_DIR`].
    ///
    /// # Errors
    /// [`ClientError::NoAgent`], [`ClientError::ManyAgents`], [`ClientError::BadAddress`].
    pub fn new(address: Option<&str>) -> Result<Self, ClientError> {
        Self::with_socket_dir(address, Path::new(SOCKET_DIR))
    }

    /// As [`Client::new`], with another folder to look in.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_socket_dir(address: Option<&str>, dir: &Path) -> Result<Self, ClientError> {
        let Some(address) = address else {
            return Ok(Self {
                address: Address::Socket(only_socket(dir)?),
            });
        };
        let address = match address.strip_prefix("http://") {
            Some(rest) => Address::Tcp(rest.trim_end_matches('/').to_owned()),
            None if address.contains("://") => {
                return Err(ClientError::BadAddress(address.to_owned()));
            }
            None => Address::Socket(PathBuf::from(address)),
        };
        Ok(Self { address })
    }

    /// Path or URL of the agent.
    pub fn address(&self) -> String {
        match &self.address {
            Address::Socket(path) => path.display().to_string(),
            Address::Tcp(host) => format!("http://{host}"),
        }
    }

    /// How the node is doing.
    ///
    /// # Errors
    /// [`ClientError`].
    ///
    /// # Cancel safety
    /// Like every request here: nothing is changed by it.
    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.get("/v1/status").await
    }

    /// Services in the order of their names.
    ///
    /// # Errors
    /// [`ClientError`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn services(&self) -> Result<Vec<ServiceView>, ClientError> {
        self.get("/v1/services").await
    }

    /// Pools in the order of their names; the agent asks the API server.
    ///
    /// # Errors
    /// [`ClientError`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn ip_pools(&self) -> Result<Vec<IpPoolRow>, ClientError> {
        self.get("/v1/ippools").await
    }

    /// VIPs in order.
    ///
    /// # Errors
    /// [`ClientError`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn l2(&self) -> Result<Vec<L2Row>, ClientError> {
        self.get("/v1/l2").await
    }

    /// Changes of owners that the node saw, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn l2_history(&self) -> Result<Vec<L2Event>, ClientError> {
        self.get("/v1/l2/history").await
    }

    /// Has the node hand a VIP that it owns to another one; the rows of the VIP once that one owns it. `node` is checked by the agent, and
    /// must be text that a URL can hold.
    ///
    /// # Errors
    /// [`ClientError`].
    ///
    /// # Cancel safety
    /// The VIP may have moved.
    pub async fn l2_move(&self, vip: IpAddr, node: &str) -> Result<Vec<L2Row>, ClientError> {
        let path = format!("/v1/l2/move?vip={vip}&node={node}");
        self.request(Method::POST, &path).await
    }

    /// The chain of one Service. Names are checked by the agent.
    ///
    /// # Errors
    /// [`ClientError`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn explain(&self, namespace: &str, name: &str) -> Result<ExplainView, ClientError> {
        self.get(&format!("/v1/explain/{namespace}/{name}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, ClientError> {
        let asked = tokio::time::timeout(DEADLINE, self.fetch(method, path)).await;
        let (status, body) = asked.map_err(|_elapsed| ClientError::Timeout {
            address: self.address(),
        })??;
        let unexpected = |source| ClientError::Unexpected {
            address: self.address(),
            status,
            source,
        };
        if status.is_success() {
            serde_json::from_slice(&body).map_err(unexpected)
        } else {
            let view = serde_json::from_slice(&body).map_err(unexpected)?;
            Err(ClientError::Refused(view))
        }
    }

    async fn fetch(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let connect = |source| ClientError::Connect {
            address: self.address(),
            source,
        };
        let answer = match &self.address {
            Address::Socket(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(connect)?;
                exchange(stream, "localhost", method, path).await
            }
            Address::Tcp(host) => {
                let stream = TcpStream::connect(host.as_str()).await.map_err(connect)?;
                exchange(stream, host, method, path).await
            }
        };
        answer.map_err(|source| ClientError::Http {
            address: self.address(),
            source,
        })
    }
}

/// One request on one connection; the connection's driver runs beside it, so nothing is left behind.
async fn exchange<S>(
    stream: S,
    host: &str,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .header("accept", "application/json")
        .body(Empty::<Bytes>::new())
        .expect("path and host are valid header text: paths are ours, names are checked, hosts connected");
    let ask = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, body))
    };
    tokio::pin!(ask, connection);
    tokio::select! {
        answer = &mut ask => answer,
        ended = &mut connection => {
            ended?;
            // The peer closed after its answer: what it sent is still to be read.
            ask.await
        }
    }
}

fn only_socket(dir: &Path) -> Result<PathBuf, ClientError> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut sockets: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "sock"))
        .collect();
    sockets.sort();
    match sockets.len() {
        0 => Err(ClientError::NoAgent {
            dir: dir.to_owned(),
        }),
        1 => Ok(sockets.remove(0)),
        _ => {
            let stem = |path: &PathBuf| path.file_stem().map(|s| s.to_string_lossy().into_owned());
            Err(ClientError::ManyAgents {
                nodes: sockets.iter().filter_map(stem).collect(),
            })
        }
    }
}

#[cfg(test)]
mod tests;

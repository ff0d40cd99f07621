//! What the caller says about the API it wants, and why it may not get it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// How one embedded API is set up. [`Config::new`] fills in what most callers want.
#[derive(Debug, Clone)]
pub struct Config {
    /// Holds the database, the CA, the server certificate and the admin token. Created with mode 0700.
    pub data_dir: PathBuf,
    /// Where to listen; port 0 takes any free one, see `Server::local_addr`.
    pub listen: SocketAddr,
    /// Further host names and addresses under which clients reach the API: subject alternative names of the server
    /// certificate. Loopback, `localhost` and the listening address are always included.
    pub sans: Vec<String>,
    /// The `server` of the kubeconfig, as `https://host:port`. Without it: the listening address, or loopback when that is
    /// the unspecified address.
    pub advertise_url: Option<String>,
    /// Where cluster IPs come from: at most one IPv4 and one IPv6 prefix; the first is the primary family.
    pub service_cidrs: Vec<IpNet>,
    /// CustomResourceDefinitions (apiextensions.k8s.io/v1) to serve besides the built-in kinds.
    pub crds: Vec<serde_json::Value>,
    /// Also write the admin's kubeconfig here (mode 0600); it always is in the data directory too.
    pub kubeconfig_path: Option<PathBuf>,
    /// The node that serves; part of [`crate::Fence`].
    pub node: String,
    /// Of members' client certificates; they are renewed long before.
    pub certificate_lifetime: Duration,
    pub limits: Limits,
}

/// Bounds, so that no client can take all the memory.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub body_bytes: usize,
    /// Open watches over all clients; further ones get 429.
    pub watches: usize,
    /// Open connections that have shown a token; requests on further ones wait, then get 429.
    pub connections: usize,
    /// Connections that have not shown a token yet, and how many of them from one IPv4 address or IPv6 /64. A new one beyond
    /// that is let in, and the oldest of whoever has the most is closed.
    pub strangers: usize,
    pub strangers_per_peer: usize,
    /// Changes remembered per resource: a watch that starts or falls further behind gets 410 and lists again.
    pub history: usize,
    /// A connection whose client takes no byte for this long is closed.
    pub write_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 3 * 1024 * 1024,
            watches: 1024,
            connections: 512,
            strangers: 256,
            strangers_per_peer: 64,
            history: 2048,
            write_stall: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Listens on `listen` with data in `data_dir`, cluster IPs from 10.96.0.0/16 and fd00:10:96::/112, and no custom
    /// resources.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        let v4 = "10.96.0.0/16"
            .parse()
            .expect("a literal IPv4 prefix parses");
        let v6 = "fd00:10:96::/112"
            .parse()
            .expect("a literal IPv6 prefix parses");
        Self {
            data_dir: data_dir.into(),
            listen,
            sans: Vec::new(),
            advertise_url: None,
            service_cidrs: vec![v4, v6],
            crds: Vec::new(),
            kubeconfig_path: None,
            node: String::new(),
            certificate_lifetime: Duration::from_hours(30 * 24),
            limits: Limits::default(),
        }
    }
}

/// Why the API did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or folder could not be made, read or written.
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {listen}")]
    Listen {
        listen: SocketAddr,
        source: io::Error,
    },
    /// `service_cidrs` must hold at most one prefix of each family, and one that leaves room.
    #[error("service CIDR {cidr}: {detail}")]
    ServiceCidr { cidr: IpNet, detail: &'static str },
    /// No service CIDR at all.
    #[error("no service CIDR: give one IPv4 or IPv6 prefix")]
    NoServiceCidr,
    /// A CustomResourceDefinition that cannot be served.
    #[error("CustomResourceDefinition {name}: {field}: {detail}")]
    Crd {
        name: String,
        field: String,
        detail: String,
    },
    /// Key or certificate could not be made.
    #[error("cannot make the certificate")]
    Certificate { source: rcgen::Error },
    /// Key or certificate in the data directory cannot be used; removing the `tls` folder there makes new ones.
    #[error("cannot use the certificate in {path} (remove that folder to have a new one made)")]
    Tls {
        path: PathBuf,
        source: rustls::Error,
    },
    /// Another process has the database open.
    #[error("{path} is in use by another process")]
    StoreBusy { path: PathBuf },
    /// Written by a later version of this program.
    #[error(
        "{path} has format {found}, this program reads up to {known}: use the version that wrote it, or a newer one"
    )]
    StoreFormat {
        path: PathBuf,
        found: u64,
        known: u64,
    },
    /// The database cannot be read or written.
    #[error("cannot use the database {path}: {detail}")]
    Store { path: PathBuf, detail: String },
}

impl OpenError {
    /// A closed, CamelCase word for conditions, metrics and the runbook.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::File { .. } => "ApiFileError",
            Self::Listen { .. } => "ApiListenFailed",
            Self::ServiceCidr { .. } | Self::NoServiceCidr => "ApiBadServiceCidr",
            Self::Crd { .. } => "ApiBadCrd",
            Self::Certificate { .. } | Self::Tls { .. } => "ApiBadCertificate",
            Self::StoreBusy { .. } => "ApiStoreBusy",
            Self::StoreFormat { .. } => "ApiStoreFormat",
            Self::Store { .. } => "ApiStoreFailed",
        }
    }
}

/// Why a running API ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The bound socket could not be handed to the runtime.
    #[error("cannot use the listening socket")]
    Listener { source: io::Error },
    /// The writer or the listener is gone; nothing can be served any more.
    #[error("the API stopped")]
    Task { source: fairlead_rt::ExitError },
}

impl RunError {
    /// A closed, CamelCase word for conditions, metrics and the runbook.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Listener { .. } => "ApiListenFailed",
            Self::Task { source } => source.reason(),
        }
    }
}

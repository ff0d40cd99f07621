//! What can go wrong, and what to do about it.

use std::{fmt, io, path::PathBuf, time::Duration};

use fairlead_observe::{ClientError, RenderError};
use miette::Diagnostic;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The agent could not be asked.
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// An agent and an API server are named.
    #[error("--agent and --kubeconfig exclude each other: one of them answers")]
    TwoSources,
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig {} cannot be used", path.display())]
    Kubeconfig {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// No client can be made from the kubeconfig.
    #[error("no connection can be made from this kubeconfig")]
    Connection(#[source] Box<kube::Error>),
    /// The API server refused or did not answer.
    #[error("asking the API server for {what}")]
    Api {
        /// Plural of the kind.
        what: &'static str,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// The API server's lists did not come in time.
    #[error("the API server did not send its lists within {} s", .0.as_secs())]
    ApiSilent(Duration),
    /// Only an agent can answer.
    #[error("only an agent can answer this, and --kubeconfig asks the API server")]
    NeedsAgent,
    /// Only the API server can answer.
    #[error("only the API server can do this, and --agent names an agent")]
    ForApiOnly,
    /// There is no kubeconfig in any of the usual places.
    #[error(
        "no kubeconfig: neither --kubeconfig nor KUBECONFIG names one, and there is none on this machine"
    )]
    NoKubeconfig,
    /// The API server does not have that kind.
    #[error("the API server has no kind {word:?}")]
    NoSuchKind {
        /// As it was asked for.
        word: String,
    },
    /// A manifest cannot be used.
    #[error("{}: {detail}", path.display())]
    BadManifest {
        /// The file.
        path: PathBuf,
        /// Document, field and what is wrong with it.
        detail: String,
    },
    /// The API server refused a request about one object.
    #[error("{what}")]
    Object {
        /// Its name, or the path that was asked for.
        what: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// A deleted object is still there.
    #[error("{name} is still there after {seconds} s, held by its finalizers {held}")]
    StillThere {
        /// Its name.
        name: String,
        /// How long we waited.
        seconds: u64,
        /// Who has not let go.
        held: String,
    },
    /// A file cannot be read.
    #[error("reading {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Only an API server can answer.
    #[error("only an API server can answer this")]
    NeedsApi,
    /// A manifest is none.
    #[error("{}, document {document}: {problem}", path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        document: usize,
        /// What is wrong.
        problem: String,
    },
    /// A pool that is not there.
    #[error("there is no CiliumLoadBalancerIPPool {0}")]
    NoPool(String),
    /// Nothing that could be translated.
    #[error("nothing of that load balancer is in it")]
    NothingToImport,
    /// The appliance is not installed.
    #[error("fairlead-appliance is neither beside this program nor in PATH")]
    NoAppliance,
    /// The appliance's program cannot be run.
    #[error("running {}", program.display())]
    Appliance {
        /// Which.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The view could not be written.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// Standard output is gone.
    #[error("writing the answer")]
    Write(#[source] io::Error),
    /// No runtime.
    #[error("starting the runtime")]
    Runtime(#[source] io::Error),
}

impl CliError {
    /// The closed word for the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Agent(error) => error.reason(),
            Self::TwoSources => "TwoSources",
            Self::Kubeconfig { .. } | Self::Connection(_) => "BadKubeconfig",
            Self::Api { .. } | Self::Object { .. } => "ApiRefused",
            Self::ApiSilent(_) => "ApiSilent",
            Self::NeedsAgent => "NeedsAgent",
            Self::NoAppliance | Self::Appliance { .. } => "NoAppliance",
            Self::File { .. } => "FileNotReadable",
            Self::NoPool(_) => "NoSuchPool",
            Self::NothingToImport => "NothingToImport",
            Self::NeedsApi | Self::ForApiOnly => "NeedsApi",
            Self::NoKubeconfig => "NoKubeconfig",
            Self::NoSuchKind { .. } => "NoSuchKind",
            Self::Manifest { .. } | Self::BadManifest { .. } => "BadManifest",
            Self::StillThere { .. } => "StillThere",
            Self::Render(error) => error.reason(),
            Self::Write(_) => "NotWritable",
            Self::Runtime(_) => "NoRuntime",
        }
    }
}

impl CliError {
    /// The error and its cause in one line, for one of many objects.
    pub fn why(&self) -> String {
        match self {
            Self::Object { source, .. } => match &**source {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            },
            other => other.to_string(),
        }
    }
}

impl Diagnostic for CliError {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.reason()))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let text = match self {
            Self::Agent(error) => error.remedy()?,
            Self::Kubeconfig { .. } | Self::Connection(_) | Self::NoKubeconfig => {
                "name a readable kubeconfig: an appliance writes one to STATE_DIR/kubeconfig"
                    .to_owned()
            }
            Self::Api { .. } | Self::ApiSilent(_) => {
                "check that the API server of this kubeconfig runs and that you may read: `kubectl get svc -A`"
                    .to_owned()
            }
            Self::TwoSources => {
                "leave one out; --agent also answers what only a node knows".to_owned()
            }
            Self::File { .. } => "name a file that exists and may be read".to_owned(),
            Self::NeedsApi => "name its kubeconfig with --kubeconfig".to_owned(),
            Self::Manifest { .. } => {
                "correct it; `kubectl apply --dry-run=server -f FILE` says more".to_owned()
            }
            Self::NoPool(_) => "see `kubectl get ippools` for those that exist".to_owned(),
            Self::NothingToImport => {
                "check --from, and that the file holds its pools: `kubectl get -A -o yaml` of its kinds"
                    .to_owned()
            }
            Self::NeedsAgent => "leave --kubeconfig out, or name an agent with --agent".to_owned(),
            Self::ForApiOnly => "leave --agent out".to_owned(),
            Self::NoSuchKind { .. } => {
                "name it by its plural, singular or short name, for example services, svc, ippools; \
                 a CustomResourceDefinition may be missing"
                    .to_owned()
            }
            Self::BadManifest { .. } => "put the file right; nothing was changed".to_owned(),
            Self::Object { .. } => {
                "check the name, and that the API server of this kubeconfig runs".to_owned()
            }
            Self::StillThere { .. } => {
                "whoever set the finalizers must let go; --no-wait does not wait for it".to_owned()
            }
            Self::NoAppliance | Self::Appliance { .. } => {
                "install fairlead-appliance beside fairlead; on a cluster there is none".to_owned()
            }
            Self::Render(_) | Self::Write(_) | Self::Runtime(_) => return None,
        };
        Some(Box::new(text))
    }
}

//! Why a lab cannot be built, used or removed; each with what to do next.

use crate::clab::ClabError;
use crate::plan::PlanError;

/// A failure of the runner.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LabError {
    /// The topology file is refused.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Clab(#[from] ClabError),
    /// The topology has no order to build it in.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Plan(#[from] PlanError),
    /// Namespaces and links need root.
    #[error("a lab is made of network namespaces, which takes root")]
    #[diagnostic(help("run it as root, for example `sudo ./x lab up main`"))]
    NotRoot,
    /// A program of the base system is absent.
    #[error("`{tool}` is not installed")]
    #[diagnostic(help("install it: apt-get install {package}"))]
    MissingTool {
        tool: &'static str,
        package: &'static str,
    },
    /// A step of the plan failed.
    #[error("`{step}` failed: {message}")]
    #[diagnostic(help(
        "what was built has been taken down again; what its processes said is in {logs}"
    ))]
    Step {
        step: String,
        message: String,
        logs: String,
    },
    /// A command in a node failed.
    #[error("{node}: `{command}` failed: {message}")]
    Command {
        node: String,
        command: String,
        message: String,
    },
    /// Something is left of an earlier lab of that name, or another file was used for it.
    #[error("lab {lab} exists already and is not what {file} describes")]
    #[diagnostic(help("take it down first: ./x lab down {lab}"))]
    Exists { lab: String, file: String },
    /// No such lab is up.
    #[error("lab {lab} is not up")]
    #[diagnostic(help("bring it up first: ./x lab up {lab}"))]
    NotUp { lab: String },
    /// The lab has no such node.
    #[error("lab {lab} has no node {node}")]
    NoNode { lab: String, node: String },
    /// Parts of a lab could not be removed; its state is kept so that `down` can be repeated.
    #[error("lab {lab} is not completely down: {left}")]
    #[diagnostic(help("remove the cause and repeat: ./x lab down {lab}"))]
    Leftover { lab: String, left: String },
    /// The state file cannot be understood.
    #[error("{file} is not a lab's state")]
    State {
        file: String,
        source: serde_json::Error,
    },
    /// The operating system refused.
    #[error("cannot {what}")]
    Io {
        what: String,
        source: std::io::Error,
    },
}

impl LabError {
    /// The closed word for this failure.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Clab(e) => e.reason(),
            Self::Plan(e) => e.reason(),
            Self::NotRoot => "NotRoot",
            Self::MissingTool { .. } => "MissingTool",
            Self::Step { .. } => "StepFailed",
            Self::Command { .. } => "CommandFailed",
            Self::Exists { .. } => "LabExists",
            Self::NotUp { .. } => "LabNotUp",
            Self::NoNode { .. } => "NoSuchNode",
            Self::Leftover { .. } => "LabLeftover",
            Self::State { .. } => "StateUnreadable",
            Self::Io { .. } => "SystemRefused",
        }
    }

    /// Wraps an operating-system error: `map_err(LabError::io(|| "read x".into()))`.
    pub fn io(what: impl FnOnce() -> String) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            what: what(),
            source,
        }
    }
}

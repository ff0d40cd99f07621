//! The command line: one file per command.

pub mod appliance;
pub mod apply;
pub mod delete;
pub mod explain_svc;
pub mod get;
pub mod ippool_import;
pub mod ippool_list;
pub mod ippool_plan;
pub mod l2_history;
pub mod l2_list;
pub mod l2_move;
pub mod l2_watch;
pub mod service_list;
pub mod status;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use fairlead_observe::{Format, Render, Timestamp};

use crate::{error::CliError, objects::Objects, source::Source};

/// The variable that names the agent where no flag says whom to ask.
const AGENT: &str = "FAIRLEAD_AGENT";

/// What a command has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Ends with a newline.
    pub text: String,
    /// 0, or 1 if what was asked for is broken.
    pub exit_code: u8,
    /// It belongs on standard error.
    pub is_error: bool,
}

/// Ask Fairlead how it is doing, what it announces, and why a Service does not work.
#[derive(Debug, Parser)]
#[command(
    name = "fairlead",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// The agent to ask: path of its socket, or http://HOST:PORT [env: FAIRLEAD_AGENT] [default: the only one in /run/fairlead]
    // Not by clap, which would take the variable for a flag that excludes --kubeconfig.
    #[arg(long, global = true, value_name = "SOCKET")]
    pub agent: Option<String>,
    /// Ask the API server of this kubeconfig instead of an agent; what only nodes know is then left open
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// How to write the answer: table, json or yaml
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub output: Format,
}

/// What to ask.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// How this node is doing: API server, interfaces, peers, counters, problems
    Status,
    /// Services and what clients dial
    #[command(subcommand, visible_alias = "svc")]
    Service(ServiceCommand),
    /// Address pools
    #[command(subcommand, visible_alias = "pool")]
    Ippool(IppoolCommand),
    /// VIPs announced on the LAN
    #[command(subcommand)]
    L2(L2Command),
    /// Show objects of the API server, as kubectl would
    Get(get::Args),
    /// Create or change objects as manifests say
    Apply(apply::Args),
    /// Delete objects and wait until they are gone
    Delete(delete::Args),
    /// Walk the chain from an object to its packets and name the first broken link; exit code 1 if there is one
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// Commands of the appliance on this machine: token create, promote, check, install, uninstall
    #[command(disable_help_flag = true)]
    Appliance(appliance::Args),
}

/// What `get`, `apply` and `delete` have in common.
#[derive(Debug, Args)]
pub struct Asked {
    /// The namespace, of kinds that have one
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
}

/// `fairlead service ...`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// List frontends with mode, backends ready of all, owner, and packets forwarded here
    List,
}

/// `fairlead ippool ...`
#[derive(Debug, Subcommand)]
pub enum IppoolCommand {
    /// List pools with their state and how full they are
    List,
    /// Say what a changed manifest of pools would do, without doing it; exit code 1 if a Service would lose an address
    Plan(ippool_plan::Args),
    /// Write what another load balancer's manifests mean as Cilium's, and say what has no equivalent
    Import(ippool_import::Args),
}

/// `fairlead l2 ...`
#[derive(Debug, Subcommand)]
pub enum L2Command {
    /// List VIPs with their owner, since when it is the owner, and why
    List,
    /// What the asked node saw of changes of owners, oldest first
    History(l2_history::Args),
    /// Show changes of owners as they happen
    Watch(l2_watch::Args),
    /// Have the asked node hand a VIP that it owns to another one, where it stays until that one goes
    Move(l2_move::Args),
}

/// `fairlead explain ...`
#[derive(Debug, Subcommand)]
pub enum ExplainCommand {
    /// The chain of a Service
    #[command(visible_alias = "service")]
    Svc(explain_svc::Args),
}

/// Takes what a command says while it runs; false when nobody reads any more.
pub type Live = fn(&str) -> bool;

/// What every command works with.
pub struct Context {
    /// Whom to ask.
    pub source: Source,
    /// How to answer.
    pub format: Format,
    /// What ages are counted up to.
    pub now: Timestamp,
    /// Where what does not wait for the end of a command goes; without it, it is part of the output.
    pub live: Option<Live>,
}

impl Context {
    /// A view as output with exit code 0.
    ///
    /// # Errors
    /// [`CliError::Render`].
    pub fn output<V: Render>(&self, view: &V) -> Result<Output, CliError> {
        Ok(Output {
            text: view.render(self.format, self.now)?,
            exit_code: 0,
            is_error: false,
        })
    }
}

/// Runs one command.
///
/// # Errors
/// [`CliError`].
///
/// # Cancel safety
/// `apply` and `delete` may have done a part, and `l2 move` all; the others change nothing.
pub async fn run(cli: Cli, now: Timestamp, live: Option<Live>) -> Result<Output, CliError> {
    let Global {
        agent,
        kubeconfig,
        output,
    } = cli.global;
    if let Command::Ippool(IppoolCommand::Import(args)) = &cli.command {
        return ippool_import::run(kubeconfig, args).await;
    }
    if let Command::Get(args) = &cli.command {
        let objects = objects(agent.as_deref(), kubeconfig).await?;
        return get::run(&objects, args, output, now).await;
    }
    if let Command::Apply(args) = &cli.command {
        return apply::run(&objects(agent.as_deref(), kubeconfig).await?, args).await;
    }
    if let Command::Delete(args) = &cli.command {
        return delete::run(&objects(agent.as_deref(), kubeconfig).await?, args).await;
    }
    if let Command::Appliance(args) = &cli.command {
        return appliance::run(args);
    }
    let context = Context {
        source: Source::choose(agent, kubeconfig, std::env::var(AGENT).ok()).await?,
        format: output,
        now,
        live,
    };
    match cli.command {
        Command::Appliance(args) => appliance::run(&args),
        Command::Status => status::run(&context).await,
        Command::Service(ServiceCommand::List) => service_list::run(&context).await,
        Command::Ippool(IppoolCommand::List) => ippool_list::run(&context).await,
        Command::Ippool(IppoolCommand::Plan(args)) => ippool_plan::run(&context, &args).await,
        Command::L2(L2Command::List) => l2_list::run(&context).await,
        Command::L2(L2Command::History(args)) => l2_history::run(&context, &args).await,
        Command::L2(L2Command::Watch(args)) => l2_watch::run(&context, &args).await,
        Command::L2(L2Command::Move(args)) => l2_move::run(&context, &args).await,
        Command::Explain(ExplainCommand::Svc(args)) => explain_svc::run(&context, &args).await,
        Command::Get(_)
        | Command::Apply(_)
        | Command::Delete(_)
        | Command::Ippool(IppoolCommand::Import(_)) => {
            unreachable!("returned above: they do not ask through a source")
        }
    }
}

/// The API server behind `get`, `apply` and `delete`.
async fn objects(agent: Option<&str>, kubeconfig: Option<PathBuf>) -> Result<Objects, CliError> {
    if agent.is_some() {
        return Err(CliError::ForApiOnly);
    }
    Objects::connect(kubeconfig).await
}

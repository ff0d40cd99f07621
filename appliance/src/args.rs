//! The command line.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args as ClapArgs, Parser, Subcommand};
use fairlead_rt::logging::Format;

use crate::{cluster::token::MAX_TTL, config::slots, install};

/// Gives Services of bare-metal machines their addresses, announces them on the LAN and forwards their packets, without Kubernetes.
///
/// One process holds a Kubernetes-style API (kubectl works against it), the operator that gives out addresses, and the agent
/// that answers ARP and NDP for them and forwards in XDP. Further machines on the LAN join the first one's API; when any
/// of them dies, the others take its addresses over, and any can take over the API.
///
/// First machine:
///   fairlead-appliance --interface eth0 --manifests /etc/fairlead/manifests
///   fairlead-appliance token create > token      (a secret, good for an hour; copy it to the second machine)
/// Second machine:
///   fairlead-appliance --interface eth0 --join https://192.0.2.11:6443 --token-file ./token
/// Then:
///   fairlead status; fairlead l2 list; kubectl --kubeconfig /var/lib/fairlead/kubeconfig get services
/// The first machine is gone for good, or is to be gone:
///   fairlead-appliance promote                   (on the second one)
///
/// Stopping it (SIGTERM) hands its addresses over first. Killing it does not stop forwarding: programs and tables stay
/// in the kernel until `fairlead-agent cleanup` takes them away.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "fairlead-appliance",
    version,
    verbatim_doc_comment,
    max_term_width = 110
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: Args,
}

/// What to do; it runs if nothing is said.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Join tokens: what lets another machine in
    #[command(subcommand)]
    Token(TokenCommand),
    /// Serve the API from this machine's copy from now on. The machine that served it gives way and follows
    Promote,
    /// Say what is wrong with a configuration, before it is used
    Check(Check),
    /// Run it at every start of this machine: a systemd unit, and a configuration in /etc/fairlead
    Install(Install),
    /// Stop it and take everything away: unit, configuration, state, programs, pins, group memberships
    Uninstall(Uninstall),
}

/// Flags of `check`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Check {
    /// The file to check
    #[arg(value_name = "FILE", default_value = install::CONFIG)]
    pub file: PathBuf,
}

/// Flags of `install`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Install {
    /// A configuration to check and put in place; without it one to be edited, unless there is one
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Write below this folder instead, e.g. into an image; starts nothing then
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Start it at the next start of the machine, not now
    #[arg(long)]
    pub no_start: bool,
}

/// Flags of `uninstall`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Uninstall {
    /// What `install` was given; what the configuration names lies below it, too
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Leave /etc/fairlead
    #[arg(long)]
    pub keep_config: bool,
    /// Leave database, certificates and copies
    #[arg(long)]
    pub keep_state: bool,
}

/// `token ...`
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Make a join token and print it. Run it on the machine that serves the API
    Create(TokenCreate),
}

/// Flags of `token create`.
#[derive(Debug, Clone, ClapArgs)]
pub struct TokenCreate {
    /// How long it lets machines in, e.g. 10m or 2h; at most 24h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl)]
    pub ttl: Duration,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = fairlead_agent::config::time(text).map_err(|error| error.to_string())?;
    if ttl > MAX_TTL {
        return Err("24h is the most: a token is for adding a machine now".to_owned());
    }
    Ok(ttl)
}

fn within(text: &str) -> Result<Duration, String> {
    fairlead_agent::config::time(text).map_err(|error| error.to_string())
}

fn metrics_listen(text: &str) -> Result<SocketAddr, String> {
    fairlead_agent::config::serve_addr(text).map_err(|error| error.to_string())
}

/// How it runs.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Run by this file instead of flags: the same words as keys. A change that cuts this machine off is taken back
    #[arg(long, value_name = "FILE", conflicts_with_all = ["interfaces", "manifests", "bpffs", "listen", "join", "acceleration", "metrics_listen", "confirm_within"])]
    pub config: Option<PathBuf>,
    /// Where the last good configuration is remembered
    #[arg(long, value_name = "DIR", default_value = slots::DIR, hide = true)]
    pub config_state: PathBuf,
    /// How long a changed configuration may take to reach what the former one reached, e.g. 60s
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = within)]
    pub confirm_within: Duration,
    /// Interface that faces the LAN; may be repeated. Without it: the one of the default route
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Folder of YAML or JSON manifests, applied in the order of their names when the API is up
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Name of this node; heartbeats, Leases and the Node object carry it [default: the host name]
    #[arg(long, global = true, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Where the API's database, certificates, tokens and kubeconfig are kept
    #[arg(long, global = true, value_name = "DIR", default_value = fairlead_agent::config::STATE_DIR)]
    pub state_dir: PathBuf,
    /// Where maps and links are pinned; must be on a BPF file system, one process each
    #[arg(long, value_name = "DIR", default_value = fairlead_agent::config::PIN_DIR)]
    pub bpffs: PathBuf,
    /// Where the API listens; on a machine that joins: where it would, were it promoted
    #[arg(long, value_name = "ADDR:PORT", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 6443)), conflicts_with = "kubeconfig")]
    pub listen: SocketAddr,
    /// Use the API of another appliance instead of an own one. Said at the first start only: a machine that was promoted
    /// since goes on serving, one that gave way goes on following
    #[arg(long, value_name = "URL", requires = "credentials")]
    pub join: Option<String>,
    /// A join token (`fairlead-appliance token create` on the machine that serves the API); needed until it has joined
    #[arg(long, value_name = "FILE", requires = "join", group = "credentials")]
    pub token_file: Option<PathBuf>,
    /// The other appliance's kubeconfig, from its state folder; a machine that joins by it cannot be promoted
    #[arg(long, value_name = "FILE", requires = "join", group = "credentials")]
    pub kubeconfig: Option<PathBuf>,
    /// Socket of the local API that `fairlead` asks [default: /run/fairlead/NODE.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Serve /metrics and /healthz there, to whoever reaches it, e.g. 127.0.0.1:9962 or :9962
    #[arg(long, value_name = "ADDR:PORT", value_parser = metrics_listen)]
    pub metrics_listen: Option<SocketAddr>,
    /// How XDP programs attach: best-effort, native or generic
    #[arg(long, value_name = "WORD", default_value = "best-effort")]
    pub acceleration: String,
    /// How events are written to standard error: text or json (what is written: FAIRLEAD_LOG, e.g. debug)
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: Format,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{Cli, Command, TokenCommand};

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["fairlead-appliance"], words].concat())
    }

    #[test]
    fn joining_needs_both_halves_and_one_kind_of_credentials() {
        assert!(parse(&["--interface", "eth0", "--interface", "eth1"]).is_ok());
        let join = ["--join", "https://lb1:6443"];
        for good in [
            &["--kubeconfig", "f"][..],
            &["--token-file", "f"],
            &["--token-file", "f", "--listen", "[::]:7443"],
        ] {
            assert!(parse(&[&join[..], good].concat()).is_ok(), "{good:?}");
        }
        for bad in [
            &["--kubeconfig", "f", "--token-file", "f"][..],
            &["--kubeconfig", "f", "--listen", "[::]:1"],
            &[],
        ] {
            assert!(parse(&[&join[..], bad].concat()).is_err(), "{bad:?}");
        }
        for bad in [
            &["--kubeconfig", "f"][..],
            &["--token-file", "f"],
            &["--log-format", "xml"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_lives_an_hour_or_as_said_but_not_for_ever() {
        let of = |words: &[&str]| match parse(words).map(|cli| cli.command) {
            Ok(Some(Command::Token(TokenCommand::Create(create)))) => Some(create.ttl.as_secs()),
            _ => None,
        };
        assert_eq!(of(&["token", "create"]), Some(3600));
        let state = ["token", "create", "--ttl", "10m", "--state-dir", "/x"];
        assert_eq!(of(&state), Some(600));
        for bad in ["25h", "soon", "0s"] {
            assert_eq!(of(&["token", "create", "--ttl", bad]), None);
        }
    }
}

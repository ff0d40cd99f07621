//! The command line of `fairlead-agent`.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use fairlead_api::config_keys::{self, Reader};
use fairlead_rt::{
    logging::Format,
    settings::{self, Sources},
};

use crate::{
    config::{self, AgentConfig, AgentSettings},
    decap,
};

/// What the long help says about settings that have no flag.
const KEYS: &str = "\
Keys without a flag, as files in --config-dir or as FAIRLEAD_BPF_LB_MODE etc. in the environment:
  bpf-lb-acceleration     best-effort, native or generic: forward in XDP. disabled (Cilium's default): announce only, kube-proxy forwards
  enable-l2-announcements announce by CiliumL2AnnouncementPolicy [default: true]
  bpf-lb-mode             snat, or dsr: for Services that ask for no mode. hybrid is refused
  bpf-lb-dsr-dispatch     ipip, with dsr. opt (Cilium's default) and geneve are refused
  fairlead-maglev-lines   lines of 32 Maglev slots, for all Services together. Another number is a fresh set of maps
  fairlead-fold-after     how long after a change old flows keep their backend without an entry of their own, e.g. 1h
  fairlead-dad-probes     probes before an address is used
  fairlead-dad-interval   between two of these, e.g. 100ms
  fairlead-heartbeat-interval  between heartbeats, 10ms to 1s; the same on every node [default: 50ms]
  fairlead-l2-deadline    how long a hung agent's kernel answers on, at least 10 heartbeats [default: 3s]
  fairlead-l2-lease-duration   how long a Lease of an announced Service holds without renewal [default: 1h]
  fairlead-l2-conflict    when a stranger claims an owned address: defend, back-off (after defending once) or stop [default: defend]
  fairlead-l2-failback    true: give addresses back to the node that comes first for them [default: false]
  fairlead-ignore-keys    keys of the ConfigMap that may be ignored although they are refused here
A ConfigMap's other keys are ignored with a line in the log, or refused by name: see the book's reference of ConfigMap keys.";

/// Announces VIPs on the LAN and forwards their packets in XDP, on one node.
///
/// Settings come from --config-dir (a mounted ConfigMap with Cilium's keys), then FAIRLEAD_* in the environment, then flags.
#[derive(Debug, Parser)]
#[command(name = "fairlead-agent", version, max_term_width = 110, after_long_help = KEYS)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
    /// How events are written to standard error: text or json (what is written: FAIRLEAD_LOG, e.g. debug)
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: Format,
}

/// What to do; `run` if nothing is said.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent (the default)
    Run(RunArgs),
    /// Remove what outlives an agent by design: programs, pins, group memberships. Say nothing twice: it may be repeated
    Cleanup(CleanupArgs),
    /// On a server that holds VIPs itself: unwrap what the load balancers send (DSR by IPIP or ip6ip6). Stays until `cleanup`
    Decap(DecapArgs),
}

/// Flags of `run`.
#[derive(Debug, Default, Clone, Args)]
pub struct RunArgs {
    /// Kubeconfig of the API server; without it the pod's service account
    #[arg(long, value_name = "FILE")]
    pub k8s_kubeconfig_path: Option<PathBuf>,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME", env = "K8S_NODE_NAME")]
    pub node_name: Option<String>,
    /// Interface that faces the LAN; may be repeated [default: that of the default route]
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Where maps and links are pinned [default: /sys/fs/bpf/fairlead]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// Where the heartbeat key is kept [default: /var/lib/fairlead]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Socket of the local API [default: /run/fairlead/NODE.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// A mounted ConfigMap: one file per key
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// Announce only, and leave forwarding to kube-proxy; the same as bpf-lb-acceleration = disabled
    #[arg(long)]
    pub no_forwarding: bool,
}

/// Flags of `cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Name of the node whose agent it was [default: the host name]
    #[arg(long, value_name = "NAME", env = "K8S_NODE_NAME")]
    pub node_name: Option<String>,
    /// Where it pinned; may be repeated
    #[arg(long, value_name = "DIR", default_values = [config::PIN_DIR, decap::PIN_DIR])]
    pub bpffs: Vec<PathBuf>,
    /// Its socket [default: /run/fairlead/NODE.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Flags of `decap`.
#[derive(Debug, Args)]
pub struct DecapArgs {
    /// An address that this server holds; may be repeated
    #[arg(long = "vip", value_name = "IP", required = true)]
    pub vips: Vec<IpAddr>,
    /// A load balancer that may send: its address on the LAN; may be repeated
    #[arg(long = "sender", value_name = "IP", required = true)]
    pub senders: Vec<IpAddr>,
    /// Interface that packets come in by; may be repeated [default: that of the default route]
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Where to pin; not an agent's folder
    #[arg(long, value_name = "DIR", default_value = decap::PIN_DIR)]
    pub bpffs: PathBuf,
    /// How to attach: best-effort, native or generic
    #[arg(long, value_name = "WORD", default_value = "best-effort")]
    pub acceleration: String,
}

impl RunArgs {
    /// Configuration and kubeconfig from every source; `environment` is the process's.
    ///
    /// # Errors
    /// Names the key and where it was set.
    pub fn load(
        &self,
        environment: Vec<(String, String)>,
    ) -> Result<(AgentConfig, Option<PathBuf>)> {
        let mut flags = BTreeMap::new();
        let mut set = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                flags.insert(key.to_owned(), value);
            }
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
        set("k8s-kubeconfig-path", path(&self.k8s_kubeconfig_path));
        set("node-name", self.node_name.clone());
        set(
            "devices",
            (!self.interfaces.is_empty()).then(|| self.interfaces.join(",")),
        );
        set("fairlead-bpffs", path(&self.bpffs));
        set("state-dir", path(&self.state_dir));
        set("fairlead-socket", path(&self.socket));
        set(
            "fairlead-forwarding",
            self.no_forwarding.then(|| "false".to_owned()),
        );
        let sources = Sources {
            config_dir: self.config_dir.clone(),
            environment,
            flags,
            ..Sources::default()
        };
        if let Some(dir) = &self.config_dir {
            judge(dir)?;
        }
        let settings = AgentSettings::load(&sources)?;
        let kubeconfig = settings.k8s_kubeconfig_path.clone();
        Ok((settings.into_config()?, kubeconfig))
    }
}

/// No key of a ConfigMap is ignored in silence.
///
/// # Errors
/// Names every key that asks for what is not here, with a remedy.
fn judge(dir: &Path) -> Result<()> {
    let keys = settings::config_map(dir)?;
    for (key, why) in config_keys::judge(Reader::Agent, &keys)? {
        tracing::info!(key, why, "a setting is ignored");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;

    use super::Cli;

    #[test]
    fn flags_beat_the_environment() {
        let line = [
            "fairlead-agent",
            "--node-name",
            "lb1",
            "--interface",
            "eth0",
            "--interface",
            "eth1",
        ];
        let cli = Cli::try_parse_from(line).unwrap();
        let environment = vec![
            ("FAIRLEAD_DEVICES".to_owned(), "eth9".to_owned()),
            ("FAIRLEAD_STATE_DIR".to_owned(), "/srv/state".to_owned()),
        ];
        let (config, kubeconfig) = cli.run.load(environment).unwrap();
        assert_eq!(config.interfaces, ["eth0", "eth1"]);
        assert_eq!(
            (config.state_dir.as_path(), kubeconfig),
            (Path::new("/srv/state"), None)
        );
    }

    #[test]
    fn a_config_map_with_a_key_that_is_missing_here_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("enable-l7-proxy"), "true").unwrap();
        std::fs::write(dir.path().join("bpf-lb-acceleration"), "disabled").unwrap();
        let path = dir.path().to_str().unwrap();
        let line = ["fairlead-agent", "--node-name", "lb1", "--config-dir", path];
        let (config, _) = Cli::try_parse_from(line).unwrap().run.load(vec![]).unwrap();
        assert!(!config.is_forwarding);
        std::fs::write(dir.path().join("enable-wireguard"), "true").unwrap();
        let error = Cli::try_parse_from(line)
            .unwrap()
            .run
            .load(vec![])
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("enable-wireguard is `true`") && text.contains("set false"),
            "{text}"
        );
    }

    #[test]
    fn decap_needs_vips_and_senders() {
        let line = ["fairlead-agent", "decap", "--vip", "192.0.2.1"];
        let error = Cli::try_parse_from(line).unwrap_err().to_string();
        assert!(error.contains("--sender"), "{error}");
        let line = [
            "fairlead-agent",
            "decap",
            "--vip",
            "web",
            "--sender",
            "192.0.2.2",
        ];
        let error = Cli::try_parse_from(line).unwrap_err().to_string();
        assert!(
            error.contains("'web'") && error.contains("--vip"),
            "{error}"
        );
    }
}

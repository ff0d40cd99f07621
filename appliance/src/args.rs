//! The command line.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use clap::Parser;
use fairlead_rt::logging::Format;

/// Gives Services of bare-metal machines their addresses, announces them on the LAN and forwards their packets, without Kubernetes.
///
/// One process holds a Kubernetes-style API (kubectl works against it), the operator that gives out addresses, and the agent
/// that answers ARP and NDP for them and forwards in XDP. A second machine on the LAN joins the first one's API; when either
/// dies, the other takes its addresses over.
///
/// First machine:
///   fairlead-appliance --interface eth0 --manifests /etc/fairlead/manifests
/// Second machine, after copying /var/lib/fairlead/kubeconfig from the first one (it is a secret):
///   fairlead-appliance --interface eth0 --join https://192.0.2.11:6443 --kubeconfig ./kubeconfig
/// Then:
///   fairlead status; fairlead l2 list; kubectl --kubeconfig /var/lib/fairlead/kubeconfig get services
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
pub struct Args {
    /// Interface that faces the LAN; may be repeated. Without it: the one of the default route
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Folder of YAML or JSON manifests, applied in the order of their names when the API is up
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Name of this node; heartbeats, Leases and the Node object carry it [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Where the API's database, certificates, tokens and kubeconfig are kept
    #[arg(long, value_name = "DIR", default_value = fairlead_agent::config::STATE_DIR)]
    pub state_dir: PathBuf,
    /// Where maps and links are pinned; must be on a BPF file system, one process each
    #[arg(long, value_name = "DIR", default_value = fairlead_agent::config::PIN_DIR)]
    pub bpffs: PathBuf,
    /// Where the API listens
    #[arg(long, value_name = "ADDR:PORT", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 6443)), conflicts_with = "join")]
    pub listen: SocketAddr,
    /// Use the API of another appliance instead of an own one
    #[arg(long, value_name = "URL", requires = "kubeconfig")]
    pub join: Option<String>,
    /// The other appliance's kubeconfig, from its state folder
    #[arg(long, value_name = "FILE", requires = "join")]
    pub kubeconfig: Option<PathBuf>,
    /// Socket of the local API that `fairlead` asks [default: /run/fairlead/NODE.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// How XDP programs attach: best-effort, native or generic
    #[arg(long, value_name = "WORD", default_value = "best-effort")]
    pub acceleration: String,
    /// How events are written to standard error: text or json (what is written: FAIRLEAD_LOG, e.g. debug)
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: Format,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::Args;

    #[test]
    fn joining_needs_both_halves_and_excludes_listening() {
        let parse =
            |words: &[&str]| Args::try_parse_from([&["fairlead-appliance"], words].concat());
        assert!(parse(&["--interface", "eth0", "--interface", "eth1"]).is_ok());
        assert!(parse(&["--join", "https://lb1:6443", "--kubeconfig", "f"]).is_ok());
        for bad in [
            &["--join", "https://lb1:6443"][..],
            &["--kubeconfig", "f"],
            &[
                "--join",
                "https://lb1:6443",
                "--kubeconfig",
                "f",
                "--listen",
                "[::]:1",
            ],
            &["--log-format", "xml"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}

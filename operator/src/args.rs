//! The command line of `fairlead-operator`, and Cilium's keys behind it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Parser;
use fairlead_api::config_keys::{self, Reader};
use fairlead_lb_ipam::{DefaultIpam, Settings};
use fairlead_model::service::TABLE_SIZES;
use fairlead_rt::{
    logging::Format,
    settings::{self, Sources},
};
use serde::Deserialize;

use crate::leader::Election;

/// Gives Services their addresses; one per cluster writes, the others wait.
///
/// Settings come from --config-dir (a mounted ConfigMap with Cilium's keys), then FAIRLEAD_* in the environment, then flags.
#[derive(Debug, Default, Clone, Parser)]
#[command(name = "fairlead-operator", version, max_term_width = 110)]
pub struct Cli {
    /// Kubeconfig of the API server; without it the pod's service account
    #[arg(long, value_name = "FILE")]
    pub k8s_kubeconfig_path: Option<PathBuf>,
    /// A mounted ConfigMap: one file per key
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,
    /// Create or update the CRDs before anything else
    #[arg(long)]
    pub create_crds: bool,
    /// Namespace of the Lease [default: that of the pod, else default]
    #[arg(long, value_name = "NAME", env = "K8S_NAMESPACE")]
    pub k8s_namespace: Option<String>,
    /// Give addresses to Services [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enable_lb_ipam: Option<String>,
    /// Who serves Services without a class: lbipam, nodeipam or none [default: lbipam]
    #[arg(long, value_name = "WHO")]
    pub default_lb_service_ipam: Option<String>,
    /// Give Services of class io.cilium/node the addresses of nodes [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enable_node_ipam: Option<String>,
    /// IPv4 is in use [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enable_ipv4: Option<String>,
    /// IPv6 is in use [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enable_ipv6: Option<String>,
    /// Serve class io.cilium/l2-announcer [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enable_l2_announcements: Option<String>,
    /// Serve class io.cilium/bgp-control-plane [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enable_bgp_control_plane: Option<String>,
    /// Length of the Maglev tables of Services that have none yet [default: by their backends]
    #[arg(long, value_name = "SIZE")]
    pub bpf_lb_maglev_table_size: Option<String>,
    /// A leader silent for this long has lost [default: 15s]
    #[arg(long, value_name = "TIME")]
    pub leader_election_lease_duration: Option<String>,
    /// A leader that cannot renew for this long ends [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub leader_election_renew_deadline: Option<String>,
    /// Between tries to lead [default: 2s]
    #[arg(long, value_name = "TIME")]
    pub leader_election_retry_period: Option<String>,
    /// Where /metrics and /healthz are served; empty = nowhere [default: :9963]
    #[arg(long, value_name = "ADDR")]
    pub operator_prometheus_serve_addr: Option<String>,
    /// How events are written to standard error: text or json (what is written: FAIRLEAD_LOG, e.g. debug)
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: Format,
}

/// Cilium's keys, as far as they concern us; what becomes of the others is said by [`config_keys`].
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of Cilium's"
)]
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Keys {
    enable_lb_ipam: bool,
    default_lb_service_ipam: String,
    enable_node_ipam: bool,
    enable_ipv4: bool,
    enable_ipv6: bool,
    enable_l2_announcements: bool,
    enable_bgp_control_plane: bool,
    bpf_lb_maglev_table_size: Option<u32>,
    leader_election_lease_duration: String,
    leader_election_renew_deadline: String,
    leader_election_retry_period: String,
    operator_prometheus_serve_addr: String,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            enable_lb_ipam: true,
            default_lb_service_ipam: "lbipam".to_owned(),
            enable_node_ipam: false,
            enable_ipv4: true,
            enable_ipv6: true,
            enable_l2_announcements: true,
            enable_bgp_control_plane: false,
            bpf_lb_maglev_table_size: None,
            leader_election_lease_duration: "15s".to_owned(),
            leader_election_renew_deadline: "10s".to_owned(),
            leader_election_retry_period: "2s".to_owned(),
            operator_prometheus_serve_addr: ":9963".to_owned(),
        }
    }
}

/// Everything the binary needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `None` gives out no addresses.
    pub lb_ipam: Option<Settings>,
    /// `None` gives nobody the addresses of nodes.
    pub node_ipam: Option<Settings>,
    /// `bpf-lb-maglev-table-size`: one length for every Service that has none yet, instead of one by its backends.
    pub table_size: Option<u32>,
    /// Leadership.
    pub election: Election,
    /// Where metrics are served.
    pub serve: Option<SocketAddr>,
}

impl Cli {
    /// Flags over environment over ConfigMap.
    ///
    /// # Errors
    /// Names the key, its value and what is possible.
    pub fn options(
        &self,
        environment: Vec<(String, String)>,
        identity: String,
    ) -> anyhow::Result<Options> {
        let sources = Sources {
            config_dir: self.config_dir.clone(),
            environment,
            flags: self.flags(),
            ..Sources::default()
        };
        if let Some(dir) = &self.config_dir {
            judge(dir)?;
        }
        let keys: Keys = sources.load().context("read the settings")?;
        let settings = Settings {
            default_ipam: default_ipam(&keys.default_lb_service_ipam)?,
            ipv4: keys.enable_ipv4,
            ipv6: keys.enable_ipv6,
            l2: keys.enable_l2_announcements,
            bgp: keys.enable_bgp_control_plane,
            report_without_pools: false,
        };
        if settings.default_ipam == DefaultIpam::NodeIpam && !keys.enable_node_ipam {
            tracing::warn!(
                "default-lb-service-ipam is nodeipam but enable-node-ipam is false: nobody serves Services without a class"
            );
        }
        if !settings.ipv4 && !settings.ipv6 {
            bail!("enable-ipv4 and enable-ipv6 are both false: enable one");
        }
        let election = Election {
            namespace: self
                .k8s_namespace
                .clone()
                .unwrap_or_else(|| "default".to_owned()),
            identity,
            lease_duration: time(
                "leader-election-lease-duration",
                &keys.leader_election_lease_duration,
            )?,
            renew_deadline: time(
                "leader-election-renew-deadline",
                &keys.leader_election_renew_deadline,
            )?,
            retry_period: time(
                "leader-election-retry-period",
                &keys.leader_election_retry_period,
            )?,
        };
        let is_ordered = election.lease_duration > election.renew_deadline
            && election.renew_deadline > election.retry_period
            && election.lease_duration >= Duration::from_secs(1);
        if !is_ordered {
            bail!(
                "leader-election-lease-duration (at least 1s) must exceed leader-election-renew-deadline, which must exceed leader-election-retry-period: found {:?}, {:?}, {:?}",
                election.lease_duration,
                election.renew_deadline,
                election.retry_period
            );
        }
        Ok(Options {
            lb_ipam: keys.enable_lb_ipam.then_some(settings),
            node_ipam: keys.enable_node_ipam.then_some(settings),
            table_size: table_size(keys.bpf_lb_maglev_table_size)?,
            election,
            serve: serve_addr(&keys.operator_prometheus_serve_addr)?,
        })
    }

    fn flags(&self) -> BTreeMap<String, String> {
        let given = [
            ("enable-lb-ipam", &self.enable_lb_ipam),
            ("default-lb-service-ipam", &self.default_lb_service_ipam),
            ("enable-node-ipam", &self.enable_node_ipam),
            ("enable-ipv4", &self.enable_ipv4),
            ("enable-ipv6", &self.enable_ipv6),
            ("enable-l2-announcements", &self.enable_l2_announcements),
            ("enable-bgp-control-plane", &self.enable_bgp_control_plane),
            ("bpf-lb-maglev-table-size", &self.bpf_lb_maglev_table_size),
            (
                "leader-election-lease-duration",
                &self.leader_election_lease_duration,
            ),
            (
                "leader-election-renew-deadline",
                &self.leader_election_renew_deadline,
            ),
            (
                "leader-election-retry-period",
                &self.leader_election_retry_period,
            ),
            (
                "operator-prometheus-serve-addr",
                &self.operator_prometheus_serve_addr,
            ),
        ];
        let set = given
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        set.collect()
    }
}

/// No key of a ConfigMap is ignored in silence.
fn judge(dir: &Path) -> anyhow::Result<()> {
    let keys = settings::config_map(dir)?;
    for (key, why) in config_keys::judge(Reader::Operator, &keys)? {
        tracing::info!(key, why, "a setting is ignored");
    }
    Ok(())
}

fn default_ipam(text: &str) -> anyhow::Result<DefaultIpam> {
    match text {
        "lbipam" => Ok(DefaultIpam::LbIpam),
        "nodeipam" => Ok(DefaultIpam::NodeIpam),
        "none" => Ok(DefaultIpam::None),
        other => bail!("default-lb-service-ipam is `{other}`: use lbipam, nodeipam or none"),
    }
}

/// Only Cilium's lengths are accepted in the annotation.
fn table_size(size: Option<u32>) -> anyhow::Result<Option<u32>> {
    match size {
        Some(size) if !TABLE_SIZES.contains(&size) => {
            bail!("bpf-lb-maglev-table-size is `{size}`: use one of {TABLE_SIZES:?}")
        }
        known => Ok(known),
    }
}

/// A time as Cilium writes it: a number and `ms`, `s`, `m` or `h`.
fn time(key: &str, text: &str) -> anyhow::Result<Duration> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let time = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(millis));
    match time {
        Some(millis) if millis > 0 => Ok(Duration::from_millis(millis)),
        Some(_) | None => {
            bail!("{key} is `{text}`: use a time above zero such as 500ms, 15s or 1m")
        }
    }
}

/// `:9963` means every address, both families; empty means nowhere.
fn serve_addr(text: &str) -> anyhow::Result<Option<SocketAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let full = match text.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => text.to_owned(),
    };
    let addr = full.parse().with_context(|| {
        format!("operator-prometheus-serve-addr is `{text}`: use ADDRESS:PORT or :PORT")
    })?;
    Ok(Some(addr))
}

#[cfg(test)]
mod tests;

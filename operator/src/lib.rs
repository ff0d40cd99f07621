//! The cluster-wide root: what needs one writer. LB-IPAM, and the length of each Service's Maglev table.
//!
//! ```text
//! run ── Supervisor ─┬─ lb-ipam      fairlead_lb_ipam::Controller: addresses into Service statuses, conditions of pools
//!                    ├─ node-ipam    fairlead_lb_ipam::NodeIpam: addresses of nodes, where that is switched on
//!                    ├─ snapshots    fairlead_api::watch: Services with their backends
//!                    └─ table-sizes  annotation `fairlead.io/maglev-table-size`, once per Service
//! ```
//! The appliance calls [`run`] in-process, where it is alone. The binary adds what a cluster needs: flags and a ConfigMap
//! ([`args`]), leadership by Lease ([`leader`]), CRDs ([`crds`]) and metrics over HTTP ([`serve`]).
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod args;
pub mod crds;
pub mod gateways;
pub mod leader;
pub mod serve;
pub mod table_size;

use std::net::IpAddr;

use anyhow::Context as _;
use fairlead_api::watch::SnapshotSource;
use fairlead_lb_ipam::{Controller, NodeIpam, Settings};
use fairlead_rt::{CancellationToken, Metrics, Supervisor};
use kube::Client;

/// What the operator does.
#[derive(Clone)]
pub struct Config {
    /// `enable-lb-ipam`: `None` gives out no addresses.
    pub lb_ipam: Option<Settings>,
    /// `enable-node-ipam`: `None` gives nobody the addresses of nodes.
    pub node_ipam: Option<Settings>,
    /// The length of Maglev tables that Services without one get (`bpf-lb-maglev-table-size`); `None` = by their backends.
    pub table_size: Option<u32>,
    /// Routers of this machine, beside those that Nodes name: see [`gateways::own`].
    pub gateways: Vec<IpAddr>,
    /// Where its metrics are registered.
    pub metrics: Metrics,
}

impl Config {
    /// For a machine without a cluster around it: nobody else serves Services here, so each one that gets no address
    /// is told why, also before the first pool exists.
    pub fn appliance(metrics: Metrics) -> Self {
        Self {
            lb_ipam: Some(Settings {
                report_without_pools: true,
                ..Settings::default()
            }),
            node_ipam: None,
            table_size: None,
            gateways: Vec::new(),
            metrics,
        }
    }
}

/// Runs until `stop` fires. Whoever calls this is alone, or holds the Lease.
///
/// # Errors
/// When a part ends that should not; an API server that is away or refuses us is no error, it is tried again.
///
/// # Cancel safety
/// Dropping the future ends every part; a write under way may still land.
pub async fn run(config: Config, client: Client, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tasks = Supervisor::new("operator", stop);
    let stop = tasks.token();
    if let Some(settings) = config.lb_ipam {
        let controller = Controller::new(client.clone(), settings, &config.metrics)
            .with_gateways(&config.gateways);
        tasks.spawn("lb-ipam", controller.run(stop.clone()));
    }
    if let Some(settings) = config.node_ipam {
        tasks.spawn(
            "node-ipam",
            NodeIpam::new(client.clone(), settings).run(stop.clone()),
        );
    }
    let source = SnapshotSource::new(&client);
    let table_sizes = table_size::run(source, client, config.table_size, stop.clone());
    tasks.spawn("table-sizes", table_sizes);
    let idle = async move {
        stop.cancelled().await;
        Ok::<(), std::convert::Infallible>(())
    };
    tasks.spawn("idle", idle);
    tasks.first_exit().await.context("run the operator")
}

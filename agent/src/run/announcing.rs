//! The announcer's stage: the heartbeat key first, then the announcer, which adopts what the kernel still answers for.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use fairlead_announcer::{
    Announcer, AnnouncerConfig, AnnouncerInputs, lease::LeaseConfig, ownership::Settings, policy,
    status::L2Status,
};
use fairlead_datapath::L2Maps;
use fairlead_model::Snapshot;
use fairlead_netlink::Netlink;
use fairlead_rt::{CancellationToken, Supervisor};
use kube::Client;
use tokio::sync::watch;

use crate::{bridge, config::AgentConfig, key};

/// What the stage works with.
pub(super) struct Announcing {
    pub(super) config: AgentConfig,
    /// In the order of the load balancer's rows: an interface's place is its deadline cell.
    pub(super) interfaces: Vec<String>,
    pub(super) client: Client,
    pub(super) maps: L2Maps,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What is in the kernel; says nothing before programs are attached (style.md I1).
    pub(super) gates: watch::Receiver<policy::Programmed>,
    pub(super) status: watch::Sender<Arc<L2Status>>,
}

impl Announcing {
    /// Runs until `stop` fires, then gives everything away.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<()> {
        let key = key::obtain(&self.client, &self.config.state_dir, &stop).await;
        let Some(key) = key else {
            return Ok(());
        };
        let mut tasks = Supervisor::new("announcing", stop);
        let (complete, completes) = watch::channel(None);
        let known =
            |snapshot: &Arc<Snapshot>| (snapshot.generation.0 > 0).then(|| Arc::clone(snapshot));
        tasks.spawn(
            "snapshots",
            bridge::pass(self.snapshots, complete, known, tasks.token()),
        );
        let config = AnnouncerConfig {
            node: self.config.node,
            interfaces: self.interfaces,
            keys: vec![key.reveal().to_vec()],
            settings: settings(&self.config),
            lease: LeaseConfig::default(),
        };
        let inputs = AnnouncerInputs {
            snapshot: completes,
            programmed: self.gates,
            maps: self.maps,
            netlink: Netlink::new(),
            client: Some(self.client),
            metrics: self.config.metrics,
        };
        let announcer = Announcer::new(config, inputs).context("start the announcer")?;
        let status = announcer.status();
        tasks.spawn(
            "status",
            bridge::pass(status, self.status, Arc::clone, tasks.token()),
        );
        tasks.spawn("announcer", announcer.run(tasks.token()));
        Ok(tasks.first_exit().await?)
    }
}

/// Timers: the announcer's own, and what is a setting.
fn settings(config: &AgentConfig) -> Settings {
    let own = Settings::default();
    Settings {
        dad_probes: config.dad_probes.unwrap_or(own.dad_probes),
        dad_wait: config.dad_interval.unwrap_or(own.dad_wait),
        ..own
    }
}

//! The load balancer's stage: snapshots in, maps filled, then programs attached; what is in the kernel out.

use std::{sync::Arc, time::Duration};

use fairlead_announcer::{policy, status::L2Status};
use fairlead_api::watch::{Kept, Problems, SnapshotSource};
use fairlead_datapath::LbMaps;
use fairlead_model::{ForwardingMode, Generation, Snapshot};
use fairlead_rt::{BoxError, CancellationToken, ExitError, Supervisor};
use fairlead_xdp_lb::{
    driver::{Config, XdpLb},
    engine::{Announcements, Programmed},
    network::InterfaceConfig,
};
use kube::Client;
use tokio::sync::{Notify, watch};

use crate::{attachments::Attachments, bridge};

/// What the stage is made of.
pub(super) struct Inputs {
    pub(super) client: Client,
    pub(super) interfaces: Vec<String>,
    /// For a start without the API server.
    pub(super) kept: Option<Kept>,
    pub(super) is_forwarding: bool,
    /// Policies count.
    pub(super) is_announcing: bool,
    /// Of Services that ask for none.
    pub(super) mode: ForwardingMode,
    pub(super) fold_after: Option<Duration>,
    pub(super) maps: LbMaps,
    /// Fires when the API server is back.
    pub(super) again: Arc<Notify>,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) unreadable: watch::Sender<Problems>,
    pub(super) l2: watch::Receiver<Arc<L2Status>>,
    /// What is in the kernel, for the announcer.
    pub(super) gate: watch::Sender<policy::Programmed>,
    pub(super) attachments: Attachments,
}

/// The stage.
pub(super) struct Forwarding {
    inputs: Inputs,
    load_balancer: XdpLb,
    programmed: watch::Receiver<Arc<Programmed>>,
    announcements: watch::Sender<Arc<Announcements>>,
}

impl Forwarding {
    /// The stage and what is in the maps.
    pub(super) fn new(inputs: Inputs) -> (Self, watch::Receiver<Arc<Programmed>>) {
        let interfaces = inputs.interfaces.iter().map(|name| InterfaceConfig {
            name: name.clone(),
            forward: inputs.is_forwarding,
            announce: true,
        });
        let mut config = Config::new(interfaces.collect());
        config.pass_to_host = !inputs.is_forwarding;
        if let Some(after) = inputs.fold_after {
            config.times.fold_after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        }
        let (announcements, announced) = watch::channel(Arc::default());
        let snapshots = inputs.snapshot.subscribe();
        let (load_balancer, programmed) =
            XdpLb::new(config, inputs.maps.clone(), snapshots, announced);
        let stage = Self {
            inputs,
            load_balancer,
            programmed: programmed.clone(),
            announcements,
        };
        (stage, programmed)
    }

    /// Runs until `stop` fires; everything stays in the kernel.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), ExitError> {
        let mut tasks = Supervisor::new("forwarding", stop);
        let stop = tasks.token();
        let Inputs {
            client,
            mode,
            is_announcing,
            again,
            kept,
            snapshot,
            unreadable,
            l2,
            gate,
            attachments,
            ..
        } = self.inputs;
        let source = SnapshotSource::new(&client).again(again).or_kept(kept);
        let problems = source.problems();
        tasks.spawn(
            "unreadable",
            bridge::pass(problems, unreadable, Arc::clone, stop.clone()),
        );
        let seen_here = move |fresh: &Arc<Snapshot>| {
            let snapshot = bridge::with_mode(fresh, mode);
            if is_announcing {
                snapshot
            } else {
                bridge::unannounced(snapshot)
            }
        };
        tasks.spawn(
            "snapshots",
            follow(source, seen_here, snapshot, stop.clone()),
        );
        tasks.spawn(
            "announcements",
            bridge::pass(l2, self.announcements, bridge::announcements, stop.clone()),
        );
        let (filled, is_filled) = watch::channel(false);
        let has_some = |programmed: &Arc<Programmed>| programmed.generation > Generation::default();
        tasks.spawn(
            "filled",
            bridge::pass(self.programmed.clone(), filled, has_some, stop.clone()),
        );
        tasks.spawn("attachments", attachments.run(is_filled, stop.clone()));
        tasks.spawn(
            "gate",
            bridge::pass(self.programmed, gate, bridge::programmed, stop.clone()),
        );
        tasks.spawn("xdp-lb", self.load_balancer.run(stop));
        tasks.first_exit().await
    }
}

/// Publishes every snapshot as this node sees it; the last one stays while the API server is away.
async fn follow(
    source: SnapshotSource,
    seen_here: impl Fn(&Arc<Snapshot>) -> Arc<Snapshot> + Send,
    snapshot: watch::Sender<Arc<Snapshot>>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let Some((snapshots, driver)) = source.ready(&stop).await else {
        return Ok(());
    };
    let passed = bridge::pass(snapshots, snapshot, seen_here, stop.clone());
    let (passed, Ok(())) = tokio::join!(passed, driver.run(stop));
    passed
}

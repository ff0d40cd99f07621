//! The announcer's stage: the heartbeat key first, then the announcer, which adopts what the kernel still answers for.
//!
//! Invariant: nothing is taken on an interface where no program is attached (style.md I1). The announcer knows its interfaces once, at its
//! start: it begins with all of them behind a closed gate, and where one then turns out to be unserved, it is started again without.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use fairlead_announcer::{
    Announcer, AnnouncerConfig, AnnouncerInputs, History, MoveRequest, lease::LeaseConfig,
    ownership::Settings, policy, status::L2Status,
};
use fairlead_datapath::L2Maps;
use fairlead_model::Snapshot;
use fairlead_netlink::Netlink;
use fairlead_observe::InterfaceView;
use fairlead_rt::{BoxError, CancellationToken, Supervisor};
use kube::Client;
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::{bridge, config::AgentConfig, key};

/// Moves that wait for the announcer: people ask one at a time.
const MOVES: usize = 8;

/// What the stage works with.
pub(super) struct Announcing {
    pub(super) config: AgentConfig,
    /// In the order of the load balancer's rows: an interface's place is its deadline cell.
    pub(super) interfaces: watch::Receiver<Vec<InterfaceView>>,
    pub(super) client: Client,
    pub(super) maps: L2Maps,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What is in the maps.
    pub(super) gates: watch::Receiver<policy::Programmed>,
    pub(super) status: watch::Sender<Arc<L2Status>>,
    /// Changes of owners, over all turns.
    pub(super) history: watch::Sender<History>,
    /// How the present turn is asked to move an address.
    pub(super) moves: watch::Sender<Option<mpsc::Sender<MoveRequest>>>,
}

impl Announcing {
    /// Runs until `stop` fires, then gives everything away.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<()> {
        let key = key::obtain(&self.client, &self.config.state_dir, &stop).await;
        let Some(key) = key else {
            return Ok(());
        };
        let (keys, keys_seen) = watch::channel(key.reveal());
        let mut tasks = Supervisor::new("keys", stop.clone());
        let (client, state_dir) = (self.client.clone(), self.config.state_dir.clone());
        tasks.spawn(
            "follow",
            key::follow(client, state_dir, keys, tasks.token()),
        );
        let announced = self.announce_in_turns(&keys_seen, &tasks.token()).await;
        tasks.token().cancel();
        tasks.first_exit().await?;
        announced
    }

    /// Announces on what is served, and again where that changes.
    async fn announce_in_turns(
        &self,
        keys: &watch::Receiver<Vec<Vec<u8>>>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let mut interfaces = self.interfaces.clone();
        while !stop.is_cancelled() {
            let names = names(&interfaces.borrow_and_update());
            let turn = stop.child_token();
            let announce = self.announce(keys.clone(), names.clone(), turn.clone());
            tokio::pin!(announce);
            tokio::select! {
                ended = &mut announce => return ended,
                () = changed(&mut interfaces, &names) => {}
            }
            info!("other interfaces are served now: the announcer starts again with those");
            turn.cancel();
            announce.await?;
        }
        Ok(())
    }

    /// Runs one announcer on these interfaces.
    async fn announce(
        &self,
        keys: watch::Receiver<Vec<Vec<u8>>>,
        names: Vec<String>,
        stop: CancellationToken,
    ) -> Result<()> {
        let mut tasks = Supervisor::new("announcing", stop);
        let (complete, completes) = watch::channel(None);
        let known =
            |snapshot: &Arc<Snapshot>| (snapshot.generation.0 > 0).then(|| Arc::clone(snapshot));
        tasks.spawn(
            "snapshots",
            bridge::pass(self.snapshots.clone(), complete, known, tasks.token()),
        );
        let (gate, gates) = watch::channel(policy::Programmed::default());
        let interfaces = self.interfaces.clone();
        tasks.spawn(
            "gate",
            open(
                self.gates.clone(),
                interfaces,
                names.clone(),
                gate,
                tasks.token(),
            ),
        );
        let config = AnnouncerConfig {
            node: self.config.node.clone(),
            interfaces: names,
            settings: settings(&self.config),
            lease: lease(&self.config),
        };
        let (moves, asked) = mpsc::channel(MOVES);
        self.moves.send_replace(Some(moves));
        let inputs = AnnouncerInputs {
            history: self.history.clone(),
            moves: asked,
            keys,
            snapshot: completes,
            programmed: gates,
            maps: self.maps.clone(),
            netlink: Netlink::new(),
            client: Some(self.client.clone()),
            metrics: self.config.metrics.clone(),
        };
        let announcer = Announcer::new(config, inputs).context("start the announcer")?;
        let status = announcer.status();
        tasks.spawn(
            "status",
            bridge::pass(status, self.status.clone(), served, tasks.token()),
        );
        tasks.spawn("announcer", announcer.run(tasks.token()));
        Ok(tasks.first_exit().await?)
    }
}

fn lease(config: &AgentConfig) -> LeaseConfig {
    let own = LeaseConfig::default();
    LeaseConfig {
        duration: config.lease_duration.unwrap_or(own.duration),
        ..own
    }
}

/// Timers: the announcer's own, and what is a setting.
fn settings(config: &AgentConfig) -> Settings {
    let own = Settings::default();
    Settings {
        dad_probes: config.dad_probes.unwrap_or(own.dad_probes),
        dad_wait: config.dad_interval.unwrap_or(own.dad_wait),
        beat: config.heartbeat_interval.unwrap_or(own.beat),
        deadline: config.l2_deadline.unwrap_or(own.deadline),
        defence: config.defence,
        failback: config.failback,
        ..own
    }
}

/// Behind the name of an interface that nothing serves. No interface's name can hold a space, so the announcer finds none and waits; the
/// place, which is the deadline cell, stays taken.
const UNSERVED: &str = " (not served)";

/// The announcer's interfaces. One that is there without a program, for a reason that is known, is left out.
fn names(interfaces: &[InterfaceView]) -> Vec<String> {
    let name = |interface: &InterfaceView| {
        let is_unserved =
            interface.ifindex != 0 && !is_served(interface) && interface.problem.is_some();
        let behind = if is_unserved { UNSERVED } else { "" };
        format!("{}{behind}", interface.name)
    };
    interfaces.iter().map(name).collect()
}

fn is_served(interface: &InterfaceView) -> bool {
    interface.xdp != "none"
}

/// Waits until the announcer's interfaces are others than `names`.
async fn changed(interfaces: &mut watch::Receiver<Vec<InterfaceView>>, before: &[String]) {
    // A sender that is gone has nothing more to say.
    if interfaces
        .wait_for(|all| names(all) != before)
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

/// Opens the gate for good once programs were tried on every interface, one at least holds, and `announcing` are those where one does.
async fn open(
    programmed: watch::Receiver<policy::Programmed>,
    mut interfaces: watch::Receiver<Vec<InterfaceView>>,
    announcing: Vec<String>,
    gate: watch::Sender<policy::Programmed>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let is_tried = |all: &Vec<InterfaceView>| {
        names(all) == announcing
            && all.iter().any(is_served)
            && all.iter().all(|i| is_served(i) || i.problem.is_some())
    };
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        tried = interfaces.wait_for(is_tried) => drop(tried?),
    }
    bridge::pass(programmed, gate, Clone::clone, stop).await
}

/// The report without the places of interfaces that nothing serves; what is wrong there is said by the interface itself.
fn served(status: &Arc<L2Status>) -> Arc<L2Status> {
    if !status
        .interfaces
        .keys()
        .any(|name| name.ends_with(UNSERVED))
    {
        return Arc::clone(status);
    }
    let mut served = L2Status::clone(status);
    served.vips.retain(|(_, name), _| !name.ends_with(UNSERVED));
    Arc::new(served)
}

#[cfg(test)]
mod tests {
    use fairlead_announcer::policy::Programmed;
    use fairlead_model::Generation;
    use fairlead_observe::InterfaceView;
    use fairlead_rt::CancellationToken;
    use tokio::sync::watch;

    use super::{names, open};

    fn interface(name: &str, xdp: &str, problem: Option<&str>) -> InterfaceView {
        InterfaceView {
            name: name.into(),
            ifindex: 2,
            mac: None,
            is_up: true,
            xdp: xdp.into(),
            problem: problem.map(str::to_owned),
            reason: problem.map(|_| "XdpDeviceBusy".to_owned()),
        }
    }

    #[test]
    fn an_unserved_interface_keeps_its_place_and_loses_its_name() {
        let mut all = [
            interface("lan0", "none", None),
            interface("lan1", "none", None),
        ];
        assert_eq!(names(&all), ["lan0", "lan1"], "nothing was tried yet");
        all[0] = interface("lan0", "none", Some("busy"));
        all[1] = interface("lan1", "native", None);
        assert_eq!(names(&all), ["lan0 (not served)", "lan1"]);
        all[0].ifindex = 0;
        assert_eq!(
            names(&all),
            ["lan0", "lan1"],
            "the announcer itself sees that an interface is gone"
        );
    }

    #[tokio::test]
    async fn the_gate_opens_where_programs_are_attached_and_nowhere_else() {
        let now = Programmed {
            generation: Generation(3),
            ..Programmed::default()
        };
        let (_programmed, kernel) = watch::channel(now);
        let half = vec![
            interface("lan0", "native", None),
            interface("lan1", "none", None),
        ];
        let (shown, interfaces) = watch::channel(half.clone());
        let (gate, mut gates) = watch::channel(Programmed::default());
        let stop = CancellationToken::new();
        let all_names = vec!["lan0".to_owned(), "lan1".to_owned()];
        let (too_many, closed) = watch::channel(Programmed::default());
        let opening_too_many = open(
            kernel.clone(),
            interfaces.clone(),
            all_names,
            too_many,
            stop.clone(),
        );
        let served = vec!["lan0".to_owned(), "lan1 (not served)".to_owned()];
        let opening = open(kernel, interfaces, served, gate, stop.clone());
        let check = async {
            tokio::task::yield_now().await;
            assert_eq!(gates.borrow_and_update().generation, Generation(0));
            let busy = interface("lan1", "none", Some("busy"));
            shown.send_replace(vec![half[0].clone(), busy]);
            let opened = gates.wait_for(|gate| gate.generation == Generation(3));
            drop(opened.await.unwrap());
            assert_eq!(closed.borrow().generation, Generation(0));
            stop.cancel();
        };
        let (also_ended, ended, ()) = tokio::join!(opening_too_many, opening, check);
        also_ended.and(ended).unwrap();
    }
}

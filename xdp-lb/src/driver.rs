//! The load balancer's tasks.
//!
//! ```text
//!  Snapshot (watch) ────────────┐                          ┌──▶ Programmed (watch): announcer's gate, conditions, views
//!  Announcements (watch) ───────┼──▶ driver ── engine ─────┤
//!                 ┌─ Network ───┘      │    (blocking pool) └──▶ maps
//!  kernel ──▶ resolver ◀── Wanted ─────┘
//! ```
//!
//! Every channel is a `watch`: one value, newest wins, nothing fills up. The engine exists once and is handed to the blocking pool and back,
//! so that no two plans overlap; a sweep reads its tables beside it and is concluded in turn. Stopping leaves the maps as they are.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use fairlead_datapath::{LbMaps, MapError};
use fairlead_model::{Service, Snapshot};
use fairlead_rt::{CancellationToken, ExitError, Supervisor, blocking, clock};
use tokio::sync::watch;

use crate::{
    desired,
    engine::{Announcements, Engine, EngineConfig, Inputs, Programmed},
    network::{InterfaceConfig, Network},
    nexthop::{Resolver, Wanted},
    state::Times,
    sweep::{self, Scan},
};

/// How the load balancer runs on this node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Interfaces that it works on; the position among the announcing ones is the deadline cell.
    pub interfaces: Vec<InterfaceConfig>,
    /// Forwarding is left to the host (kube-proxy): VIPs are known, nothing else is programmed.
    pub pass_to_host: bool,
    /// Times that are settings.
    pub times: Times,
    /// How often the flow tables are swept.
    pub sweep_every: Duration,
    /// How often the maps are compared with the state.
    pub audit_every: Duration,
    /// How long a removed VIP is kept for its announcer to withdraw it.
    pub withdraw_within: Duration,
}

impl Config {
    /// Default times.
    pub fn new(interfaces: Vec<InterfaceConfig>) -> Self {
        Self {
            interfaces,
            pass_to_host: false,
            times: Times::default(),
            sweep_every: Duration::from_secs(5),
            audit_every: Duration::from_mins(1),
            withdraw_within: Duration::from_secs(5),
        }
    }
}

/// The load balancer's user-space half, ready to run.
pub struct XdpLb {
    config: Config,
    maps: LbMaps,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    announcements: watch::Receiver<Arc<Announcements>>,
    programmed: watch::Sender<Arc<Programmed>>,
}

// === impl XdpLb ===

impl XdpLb {
    /// Nothing happens before [`XdpLb::run`]. A snapshot of generation 0 counts as not known yet: nothing is planned from it (I6).
    pub fn new(
        config: Config,
        maps: LbMaps,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        announcements: watch::Receiver<Arc<Announcements>>,
    ) -> (Self, watch::Receiver<Arc<Programmed>>) {
        let (programmed, seen) = watch::channel(Arc::default());
        let lb = Self {
            config,
            maps,
            snapshot,
            announcements,
            programmed,
        };
        (lb, seen)
    }

    /// Runs until `stop` fires or a part fails; what is programmed stays.
    ///
    /// # Errors
    /// [`ExitError`] names the part: `resolver` (its reason is the network's) or `driver` (a map).
    ///
    /// # Cancel safety
    /// Dropping it stops at the next step; maps are valid after each.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ExitError> {
        let mut tasks = Supervisor::new("xdp-lb", stop);
        let (wanted, wishes) = watch::channel(Arc::default());
        let (resolver, network) = Resolver::new(self.config.interfaces.clone(), wishes);
        tasks.spawn("resolver", resolver.run(tasks.token()));
        let driver = Driver {
            config: self.config,
            maps: self.maps,
            snapshot: self.snapshot,
            announcements: self.announcements,
            network,
            wanted,
            asked: None,
            programmed: self.programmed,
        };
        tasks.spawn("driver", driver.run(tasks.token()));
        tasks.first_exit().await
    }
}

/// A scan under way.
type Scanning = Pin<Box<dyn Future<Output = Result<Scan, MapError>> + Send>>;

struct Driver {
    config: Config,
    maps: LbMaps,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    announcements: watch::Receiver<Arc<Announcements>>,
    network: watch::Receiver<Arc<Network>>,
    wanted: watch::Sender<Arc<Wanted>>,
    /// The snapshot from which the resolver was asked last.
    asked: Option<Arc<Snapshot>>,
    programmed: watch::Sender<Arc<Programmed>>,
}

/// What the driver waits for.
struct Timetable {
    sweeps: tokio::time::Interval,
    audits: tokio::time::Interval,
    scanning: Option<Scanning>,
    /// CLOCK_BOOTTIME ns.
    wake_at: Option<u64>,
    // A sender that is gone leaves its last word standing: what is announced and programmed goes on.
    has_snapshots: bool,
    has_networks: bool,
    has_announcements: bool,
}

/// Why the driver woke.
enum Woken {
    Stop,
    Step,
    Sweep,
    Scanned(Result<Scan, MapError>),
    Audit,
}

// === impl Driver ===

impl Driver {
    async fn run(mut self, stop: CancellationToken) -> Result<(), MapError> {
        let (config, maps) = (self.engine_config(), self.maps.clone());
        let engine = blocking(move || Engine::new(config, maps, clock::boottime_ns())).await;
        let mut engine = engine?;
        let mut timetable = Timetable {
            // Nothing to sweep or to compare yet: the first ticks come one period from now.
            sweeps: every(self.config.sweep_every),
            audits: every(self.config.audit_every),
            scanning: None,
            wake_at: None,
            has_snapshots: true,
            has_networks: true,
            has_announcements: true,
        };
        let mut woken = Woken::Step;
        loop {
            match woken {
                Woken::Stop => return Ok(()),
                Woken::Sweep => timetable.scanning = Some(self.scan(&engine)),
                Woken::Step => {
                    let inputs = self.inputs().await;
                    let step = move |e: &mut Engine| e.step(&inputs, clock::boottime_ns());
                    let done;
                    (engine, done) = on_pool(engine, step).await;
                    let programmed;
                    (programmed, timetable.wake_at) = done?;
                    self.publish(programmed);
                }
                Woken::Scanned(scan) => {
                    let scan = scan?;
                    let conclude = move |e: &mut Engine| e.swept(&scan, clock::boottime_ns());
                    let done;
                    (engine, done) = on_pool(engine, conclude).await;
                    self.publish(done?);
                    // What the sweep has freed may be what something waits for.
                    timetable.wake_at = Some(clock::boottime_ns());
                }
                Woken::Audit => {
                    let done;
                    (engine, done) = on_pool(engine, Engine::audit).await;
                    self.publish(done?);
                }
            }
            woken = self.wait(&mut timetable, &stop).await;
        }
    }

    /// Sleeps until there is something to do.
    async fn wait(&mut self, timetable: &mut Timetable, stop: &CancellationToken) -> Woken {
        let Timetable {
            sweeps,
            audits,
            scanning,
            wake_at,
            ..
        } = timetable;
        let is_idle = scanning.is_none();
        tokio::select! {
            biased;
            () = stop.cancelled() => Woken::Stop,
            changed = self.snapshot.changed(), if timetable.has_snapshots => {
                timetable.has_snapshots = changed.is_ok();
                Woken::Step
            }
            changed = self.network.changed(), if timetable.has_networks => {
                timetable.has_networks = changed.is_ok();
                Woken::Step
            }
            changed = self.announcements.changed(), if timetable.has_announcements => {
                timetable.has_announcements = changed.is_ok();
                Woken::Step
            }
            () = tokio::time::sleep(until(*wake_at)), if wake_at.is_some() => {
                *wake_at = None;
                Woken::Step
            }
            scan = finished(scanning) => {
                *scanning = None;
                Woken::Scanned(scan)
            }
            _ = sweeps.tick(), if is_idle => Woken::Sweep,
            _ = audits.tick() => Woken::Audit,
        }
    }

    fn scan(&self, engine: &Engine) -> Scanning {
        let (maps, question) = (self.maps.clone(), engine.question());
        Box::pin(blocking(move || {
            sweep::scan(&maps, &question, clock::boottime_ns())
        }))
    }

    fn engine_config(&self) -> EngineConfig {
        EngineConfig {
            interfaces: self.config.interfaces.clone(),
            pass_to_host: self.config.pass_to_host,
            times: self.config.times,
            withdraw_within: u64::try_from(self.config.withdraw_within.as_nanos())
                .unwrap_or(u64::MAX),
        }
    }

    /// The newest of everything; the resolver hears of a new snapshot first.
    async fn inputs(&mut self) -> Inputs {
        let snapshot = Arc::clone(&self.snapshot.borrow_and_update());
        let is_known = self
            .asked
            .as_ref()
            .is_some_and(|asked| Arc::ptr_eq(asked, &snapshot));
        if !is_known {
            self.asked = Some(Arc::clone(&snapshot));
            self.ask(&snapshot).await;
        }
        Inputs {
            snapshot,
            network: Arc::clone(&self.network.borrow_and_update()),
            announcements: Arc::clone(&self.announcements.borrow_and_update()),
        }
    }

    /// Tells the resolver which addresses a snapshot needs.
    async fn ask(&self, snapshot: &Arc<Snapshot>) {
        let wanted = if self.config.pass_to_host {
            Wanted::default()
        } else {
            let snapshot = Arc::clone(snapshot);
            blocking(move || wanted_of(&snapshot)).await
        };
        self.wanted.send_if_modified(|last| {
            let differs = **last != wanted;
            if differs {
                *last = Arc::new(wanted);
            }
            differs
        });
    }

    fn publish(&self, programmed: Programmed) {
        self.programmed.send_if_modified(|last| {
            let differs = **last != programmed;
            if differs {
                *last = Arc::new(programmed);
            }
            differs
        });
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval_at(
        tokio::time::Instant::from_std(clock::now()) + period,
        period,
    );
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

fn wanted_of(snapshot: &Snapshot) -> Wanted {
    let ours = snapshot.services.values().filter(|s| desired::is_ours(s));
    Wanted {
        backends: desired::backend_addresses(snapshot),
        vips: ours.flat_map(Service::vips).collect(),
    }
}

/// Runs a part of the engine on the blocking pool.
async fn on_pool<T: Send + 'static>(
    mut engine: Engine,
    work: impl FnOnce(&mut Engine) -> T + Send + 'static,
) -> (Engine, T) {
    blocking(move || {
        let done = work(&mut engine);
        (engine, done)
    })
    .await
}

/// Time from now until a CLOCK_BOOTTIME instant.
fn until(at: Option<u64>) -> Duration {
    Duration::from_nanos(at.map_or(0, |at| at.saturating_sub(clock::boottime_ns())))
}

async fn finished(scanning: &mut Option<Scanning>) -> Result<Scan, MapError> {
    match scanning {
        Some(scan) => scan.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

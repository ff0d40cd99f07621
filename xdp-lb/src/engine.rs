//! One step after another: inputs in, maps changed, findings out. Synchronous; [`crate::driver`] feeds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairlead_datapath::{LbMaps, MapError};
use fairlead_logic::select::iface_slot;
use fairlead_model::{Frontend, Generation, MacAddr, Service, ServiceName, Snapshot, Vip};
use tracing::{info, warn};

use crate::{
    desired::{self, Context, Desired, DesiredService},
    network::{InterfaceConfig, Network},
    op,
    plan::Plan,
    problem::{Problem, ProblemReason},
    state::{FrontendInfo, State, Times},
    sweep::{Counts, Scan},
};

/// What stays the same for the life of the process.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Interfaces that the load balancer works on.
    pub interfaces: Vec<InterfaceConfig>,
    /// Forwarding is left to the host (kube-proxy).
    pub pass_to_host: bool,
    /// Times that are settings.
    pub times: Times,
    /// How long a VIP that nothing wants any more is kept for its announcer to withdraw it, ns.
    pub withdraw_within: u64,
}

/// What the announcer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announcements {
    /// `false` until the announcer has looked at what it left behind: every VIP counts as announced.
    pub is_known: bool,
    /// VIPs that are answered for.
    pub announced: BTreeSet<Vip>,
    /// Where a VIP's replies without a record are passed on.
    pub handoffs: BTreeMap<Vip, Handoff>,
}

/// The former or present owner of a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handoff {
    /// Its hardware address.
    pub mac: MacAddr,
    /// Interface on which it is.
    pub ifindex: u32,
}

/// What the engine is fed with.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The cluster. Generation 0 = not known yet: nothing is planned.
    pub snapshot: Arc<Snapshot>,
    /// The node.
    pub network: Arc<Network>,
    /// The announcer.
    pub announcements: Arc<Announcements>,
}

/// What is in the maps, for the announcer's gate, conditions and views.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programmed {
    /// Every snapshot up to this one has been planned and applied.
    pub generation: Generation,
    /// VIPs of that snapshot that must not be announced (yet): a frontend found no place, or the first next hops are being asked for.
    pub refused: BTreeSet<Vip>,
    /// Services of which everything is in the maps.
    pub programmed: BTreeSet<ServiceName>,
    /// Frontends that go on as they were until the next hops of backends that came have answered (half a second at the most).
    pub held: BTreeSet<Frontend>,
    /// What is wrong, sorted.
    pub problems: Vec<Problem>,
    /// Every frontend in the maps, with its record for counters.
    pub frontends: BTreeMap<Frontend, Arc<FrontendInfo>>,
    /// Figures since the start and of the last sweep.
    pub figures: Figures,
}

/// For metrics and views.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Steps applied by plans and sweeps.
    pub n_ops: u64,
    /// Slots folded.
    pub n_folded: u64,
    /// Differences that audits have repaired, and contradictions found at the start.
    pub n_drift: u64,
    /// Frontends in transition.
    pub n_in_transition: usize,
    /// The last sweep's.
    pub tables: Counts,
}

/// The state and what it was made from.
pub struct Engine {
    config: EngineConfig,
    maps: LbMaps,
    state: State,
    snapshot: Option<Arc<Snapshot>>,
    network: Arc<Network>,
    services: BTreeMap<ServiceName, DesiredService>,
    /// VIPs that nothing wants any more, since when.
    leaving: BTreeMap<Vip, u64>,
    /// VIPs that were ready once; what comes later does not take them back.
    ready: BTreeSet<Vip>,
    audited: Option<Frontend>,
    figures: Figures,
    outcome: Programmed,
}

/// Tables that an audit compares.
const TABLES_PER_AUDIT: usize = 256;

// === impl Engine ===

impl Engine {
    /// Reads the maps, mends what an interrupted change left.
    ///
    /// # Errors
    /// [`MapError`] from reading the flow tables or applying repairs.
    pub fn new(config: EngineConfig, maps: LbMaps, now: u64) -> Result<Self, MapError> {
        let back = State::read_back(&maps, config.times, now)?;
        if back.n_contradictions > 0 {
            warn!(
                n = back.n_contradictions,
                "the maps contradicted themselves; repaired"
            );
        }
        op::apply(&maps, &back.repairs)?;
        let figures = Figures {
            n_drift: back.n_contradictions.into(),
            ..Figures::default()
        };
        let outcome = Programmed {
            frontends: back.state.infos(),
            ..Programmed::default()
        };
        Ok(Self {
            config,
            maps,
            state: back.state,
            snapshot: None,
            network: Arc::default(),
            services: BTreeMap::new(),
            leaving: BTreeMap::new(),
            ready: BTreeSet::new(),
            audited: None,
            figures,
            outcome,
        })
    }

    /// Plans and applies. What is in the maps now, and when to step again even if nothing changes.
    ///
    /// # Errors
    /// [`MapError`] from resetting a counter.
    pub fn step(
        &mut self,
        inputs: &Inputs,
        now: u64,
    ) -> Result<(Programmed, Option<u64>), MapError> {
        if inputs.snapshot.generation == Generation::default() {
            return Ok((Programmed::default(), None));
        }
        let (rows, refused) = inputs.network.rows(&self.config.interfaces);
        self.learn(inputs, &refused);
        let mut desired = Desired {
            ifaces: rows,
            ..Desired::default()
        };
        let mut problems = Vec::new();
        for (name, service) in &self.services {
            problems.extend(desired.add(name, service, self.config.pass_to_host));
            problems.extend(service.problems.iter().cloned());
        }
        for (vip, handoff) in &inputs.announcements.handoffs {
            if let Some(want) = desired.vips.get_mut(vip) {
                let iface =
                    u16::try_from(iface_slot(handoff.ifindex)).expect("there are 256 slots");
                want.handoff = Some((handoff.mac, iface));
            }
        }
        let mut wake_at = self.hold(&mut desired, &inputs.announcements, now);
        let plan = self.state.plan(&desired, &self.maps.maglev, now);
        op::apply(&self.maps, &plan.ops)?;
        self.figures.n_ops += plan.ops.len() as u64;
        wake_at = [wake_at, plan.wake_at].into_iter().flatten().min();
        self.client_problems(inputs, &mut problems);
        self.conclude(inputs.snapshot.generation, &desired, plan, problems);
        Ok((self.outcome.clone(), wake_at))
    }

    /// What the next sweep has to look for.
    pub fn question(&self) -> crate::sweep::Question {
        self.state.question()
    }

    /// Draws a sweep's conclusions.
    ///
    /// # Errors
    /// [`MapError`] of the flow tables.
    pub fn swept(&mut self, scan: &Scan, now: u64) -> Result<Programmed, MapError> {
        let fold = self.state.fold(scan, &self.maps.maglev, now);
        op::apply(&self.maps, &fold.ops)?;
        fold.remove_entries(&self.maps)?;
        self.figures.n_ops += fold.ops.len() as u64;
        self.figures.n_folded += fold.n_folded as u64;
        self.figures.n_in_transition = fold.n_in_transition;
        self.figures.tables = scan.counts;
        self.outcome.figures = self.figures;
        if fold.n_folded > 0 {
            self.outcome.frontends = self.state.infos();
        }
        Ok(self.outcome.clone())
    }

    /// Compares the maps with the state and repairs them.
    ///
    /// # Errors
    /// [`MapError`] from applying repairs.
    pub fn audit(&mut self) -> Result<Programmed, MapError> {
        let audit = self.state.audit(&self.maps, self.audited, TABLES_PER_AUDIT);
        self.audited = audit.cursor;
        if !audit.ops.is_empty() {
            warn!(n = audit.ops.len(), "the maps had drifted; repaired");
            op::apply(&self.maps, &audit.ops)?;
        }
        self.figures.n_drift += audit.ops.len() as u64;
        self.outcome.figures = self.figures;
        Ok(self.outcome.clone())
    }

    /// Works out anew what the services that changed come to; all of them if the network changed.
    fn learn(&mut self, inputs: &Inputs, refused: &BTreeSet<u32>) {
        let context = Context {
            network: &inputs.network,
            interfaces: &self.config.interfaces,
            refused,
            pass_to_host: self.config.pass_to_host,
        };
        let network_changed = self.network != inputs.network;
        let former = self.snapshot.take();
        let snapshot = Arc::clone(&inputs.snapshot);
        let ours = |name: &ServiceName| snapshot.services.get(name).is_some_and(desired::is_ours);
        self.services.retain(|name, _| ours(name));
        for (name, service) in &snapshot.services {
            if !desired::is_ours(service) {
                continue;
            }
            let before = former.as_ref().and_then(|s| s.services.get(name));
            if !network_changed && before == Some(service) && self.services.contains_key(name) {
                continue;
            }
            let found = share(self.services.get(name), service, &context);
            self.services.insert(name.clone(), found);
        }
        self.network = Arc::clone(&inputs.network);
        self.snapshot = Some(snapshot);
    }

    /// VIPs that nothing wants but that may still be announced stay, for a while. When that ends.
    fn hold(&mut self, desired: &mut Desired, says: &Announcements, now: u64) -> Option<u64> {
        let leaving: Vec<Vip> = self
            .state
            .vips()
            .filter(|vip| !desired.vips.contains_key(vip))
            .collect();
        self.leaving.retain(|vip, _| leaving.contains(vip));
        let mut ends = None;
        for vip in leaving {
            let end = *self.leaving.entry(vip).or_insert(now) + self.config.withdraw_within;
            let may_be_announced = !says.is_known || says.announced.contains(&vip);
            if may_be_announced && now < end {
                desired.held.insert(vip);
                ends = Some(ends.map_or(end, |e: u64| e.min(end)));
            } else if may_be_announced {
                warn!(%vip, "unprogrammed although it may still be announced: its announcer did not withdraw it in time");
            }
        }
        ends
    }

    /// Neighbour entries for a VIP that this node answers for betray a client on this very node.
    fn client_problems(&self, inputs: &Inputs, problems: &mut Vec<Problem>) {
        let betrayed = inputs.network.unanswered_vips.iter();
        for vip in betrayed.filter(|vip| inputs.announcements.announced.contains(vip)) {
            for (name, _) in self.services.iter().filter(|(_, s)| s.vips.contains(vip)) {
                problems.push(Problem {
                    service: name.clone(),
                    reason: ProblemReason::ClientOnOwner,
                    frontend: None,
                    backend: None,
                    message: format!(
                        "a program on this node tries to reach {vip}, which this node owns: it cannot; run the client elsewhere, or let it dial a backend"
                    ),
                });
            }
        }
    }

    /// VIPs that must not be announced.
    fn refusals(&mut self, desired: &Desired, plan: &mut Plan) -> BTreeSet<Vip> {
        let pending = self.services.values().filter(|s| s.is_pending);
        let pending: BTreeSet<Vip> = pending.flat_map(|s| s.vips.iter().copied()).collect();
        self.ready.retain(|vip| desired.vips.contains_key(vip));
        let mut refused = std::mem::take(&mut plan.blocked_vips);
        refused.extend(plan.blocked.iter().map(|frontend| frontend.vip));
        let closed = self.closed(desired);
        self.ready.retain(|vip| !closed.contains(vip));
        // What was ready goes on with what it has, whatever does not fit any more.
        for vip in desired.vips.keys() {
            let in_maps = self.state.has_vip(vip);
            if self.ready.contains(vip) && in_maps {
                refused.remove(vip);
            } else if !in_maps || pending.contains(vip) || closed.contains(vip) {
                refused.insert(*vip);
            } else if !refused.contains(vip) {
                self.ready.insert(*vip);
            }
        }
        refused
    }

    /// VIPs that are closed by one service and that no other has a frontend on.
    fn closed(&self, desired: &Desired) -> BTreeSet<Vip> {
        let open: BTreeSet<Vip> = desired.frontends.keys().map(|f| f.vip).collect();
        let closed = self.services.values().flat_map(|s| &s.closed).copied();
        closed.filter(|vip| !open.contains(vip)).collect()
    }

    fn conclude(
        &mut self,
        generation: Generation,
        desired: &Desired,
        mut plan: Plan,
        mut problems: Vec<Problem>,
    ) {
        problems.append(&mut plan.problems);
        problems.sort();
        problems.dedup();
        let refused = self.refusals(desired, &mut plan);
        let is_whole = |service: &DesiredService| {
            let frontends = service.frontends.iter();
            let placed = |f: &Frontend| {
                !plan.blocked.contains(f)
                    && !plan.held.contains(f)
                    && self.state.record_of(f).is_some()
            };
            service.closed.is_empty()
                && !service.vips.iter().any(|vip| refused.contains(vip))
                && frontends.into_iter().all(|(f, _)| placed(f))
        };
        let whole = self
            .services
            .iter()
            .filter(|(_, service)| is_whole(service));
        let programmed: BTreeSet<ServiceName> = whole.map(|(name, _)| name.clone()).collect();
        if generation != self.outcome.generation {
            info!(
                r#gen = generation.0,
                n_ops = plan.ops.len(),
                n_problems = problems.len(),
                "programmed"
            );
        }
        // Taken over rather than made anew: the cost of a change follows the change.
        let mut frontends = std::mem::take(&mut self.outcome.frontends);
        for frontend in &plan.touched {
            match self.state.info(frontend) {
                Some(info) => drop(frontends.insert(*frontend, Arc::new(info))),
                None => drop(frontends.remove(frontend)),
            }
        }
        self.outcome = Programmed {
            generation,
            refused,
            programmed,
            held: plan.held,
            problems,
            frontends,
            figures: self.figures,
        };
    }
}

/// What a service comes to, with the parts that have not changed shared, so that the planner sees it by their address.
fn share(
    before: Option<&DesiredService>,
    service: &Service,
    context: &Context<'_>,
) -> DesiredService {
    let mut found = desired::service(service, context);
    let Some(before) = before else { return found };
    for (frontend, part) in &mut found.frontends {
        let same = before
            .frontends
            .iter()
            .find(|(f, old)| f == frontend && old == part);
        if let Some((_, old)) = same {
            *part = Arc::clone(old);
        }
    }
    found
}

#[cfg(test)]
mod tests;

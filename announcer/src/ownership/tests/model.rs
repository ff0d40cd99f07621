//! The real engine under a model checker: three nodes, every order of faults up to a bound, every state that they lead to.
//!
//! A step is a slot of 50 ms, the time between two heartbeats. Before each, the adversary may break something: lose, repeat or reorder what
//! a node sends and hears, cut nodes off, stop machines (their clocks jump), kill agents, take the API away and change what is wanted
//! meanwhile. Between faults the segment runs by itself. Two properties hold in every state reached: no two nodes that can hear each
//! other answer for longer than the bound, and nobody answers no longer than the bound while somebody could.
//!
//! Timers that only pass time are shorter than by default, so that a segment comes to rest within the model: the settling time and the
//! deadline. Their order is kept. [`canon`](super::canon) says when two states are one.

use std::{
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use stateright::{Checker, Model, Property};

use super::{
    canon,
    sim::{Fate, Sim, WITNESS, ms, vip},
};
use crate::{BootTime, ownership::Settings};

/// Nodes.
const N: usize = 3;
/// A step.
const SLOT: Duration = ms(50);
/// Slots after a fault in which another one may follow: by then the segment has answered the first.
const OPEN: u32 = 14;
/// The same where three faults are tried: while the segment answers.
const OPEN_OF_THREE: u32 = 3;
/// Slots after the last fault within which everything must be well again.
const REST: u32 = 44;
/// Two nodes that run and hear each other answer for no longer than this: a heartbeat tells them, and two may be missed.
const TWICE: Duration = ms(155);
/// Nobody answers for no longer than this while somebody could: suspicion, silence, two turns and a probe of first use.
const DARK: Duration = ms(800);
/// The deadline of entries in the model.
const DEADLINE: Duration = ms(600);

/// What the adversary does before a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    /// What the node sends and hears in this slot has this fate.
    Fate(usize, Fate),
    /// Nothing passes between the node and anybody else.
    CutOff(usize),
    /// The node hears nothing.
    Deaf(usize),
    /// Nobody hears the node.
    Mute(usize),
    /// Nothing passes between two nodes; others hear both.
    Part(usize, usize),
    /// Every path works.
    Heal,
    /// The machine does not run for so many slots: its clock jumps.
    Stop(usize, u64),
    /// The agent alone does not run.
    Hang(usize, u64),
    /// kill -9 of the agent.
    Kill(usize),
    /// Power fails.
    Crash(usize),
    /// The agent starts.
    Start(usize),
    /// Carrier goes or comes.
    Link(usize),
    /// A clean stop.
    Leave(usize),
    /// The API is gone for the node, or back with what is wanted now.
    Api(usize),
    /// The node may no longer own, or may again; told where the API is.
    Exclude(usize),
}

/// Which faults there are, and how many.
struct Segment {
    faults: Vec<Fault>,
    budget: u32,
    open: u32,
    deadline: Duration,
    worst: Arc<Worst>,
}

/// The longest times of any history, in nanoseconds: a bound that nothing comes near to would prove little.
#[derive(Debug, Default)]
struct Worst {
    twice: AtomicU64,
    twice_hung: AtomicU64,
    dark: AtomicU64,
}

impl Worst {
    fn note(&self, state: &State) {
        let note = |worst: &AtomicU64, time: Duration| {
            let nanos = u64::try_from(time.as_nanos()).unwrap();
            worst.fetch_max(nanos, Ordering::Relaxed);
        };
        note(&self.twice, state.sim.longest_twice);
        note(&self.twice_hung, state.sim.longest_twice_hung);
        note(&self.dark, state.longest_dark);
    }
}

/// A segment and the adversary's means.
#[derive(Clone)]
struct State {
    sim: Sim,
    left: u32,
    quiet: u32,
    /// Nodes without an API.
    no_api: [bool; N],
    excluded: [bool; N],
    left_cleanly: [bool; N],
    /// Since when nobody answers although somebody could.
    dark_since: Option<BootTime>,
    longest_dark: Duration,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why: Vec<_> = (0..N).map(|n| self.sim.why(n, 1)).collect();
        write!(f, "answering {:?} {why:?}", self.sim.answering(1))
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let digest = |state: &Self| {
            let mut hasher = std::hash::DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        digest(self) == digest(other)
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        canon::hash(&self.sim, state);
        (
            self.left,
            self.quiet,
            self.no_api,
            self.excluded,
            self.left_cleanly,
        )
            .hash(state);
        self.dark_since.map(|at| self.sim.now.since(at)).hash(state);
        (
            self.longest_dark,
            self.sim.longest_twice,
            self.sim.longest_twice_hung,
        )
            .hash(state);
    }
}

impl State {
    fn new(deadline: Duration) -> Self {
        let mut sim = Sim::new(N, 1, 1);
        sim.is_steady = true;
        sim.settings = Settings {
            settle: ms(500),
            settle_max: ms(500),
            deadline,
            gateway_ask: ms(500),
            ..Settings::default()
        };
        for n in 0..N {
            sim.start(n);
            // Heartbeats of the three are spread over the slot, none of them at its edge.
            sim.run(ms(13));
        }
        sim.run(ms(5_006));
        assert!(sim.owner(1).is_some());
        sim.forget_measures();
        Self {
            sim,
            left: 0,
            quiet: 0,
            no_api: [false; N],
            excluded: [false; N],
            left_cleanly: [false; N],
            dark_since: None,
            longest_dark: Duration::ZERO,
        }
    }

    /// Whether a fault can happen and changes anything.
    fn allows(&self, fault: Fault) -> bool {
        let node = |n: usize| &self.sim.nodes[n];
        match fault {
            Fault::Fate(n, _) | Fault::Hang(n, _) | Fault::Kill(n) | Fault::Api(n) => {
                node(n).engine.is_some()
            }
            Fault::Stop(n, _) | Fault::Crash(n) | Fault::Link(n) => node(n).is_powered,
            Fault::CutOff(_) | Fault::Deaf(_) | Fault::Mute(_) | Fault::Part(..) => {
                self.sim.broken.is_empty()
            }
            Fault::Heal => !self.sim.broken.is_empty(),
            Fault::Start(n) => node(n).engine.is_none() || self.left_cleanly[n],
            Fault::Leave(n) => node(n).engine.is_some() && !self.left_cleanly[n],
            Fault::Exclude(n) => {
                // A table in which nobody may own is made by nobody: the last one excluded stays eligible.
                (0..N).any(|other| other != n && !self.excluded[other])
            }
        }
    }

    fn apply(&mut self, fault: Fault) {
        let sim = &mut self.sim;
        let others = |n: usize| (0..N).filter(move |o| *o != n).chain([WITNESS]);
        match fault {
            Fault::Fate(n, fate) => drop(sim.fates.insert(n, fate)),
            Fault::CutOff(n) => others(n).for_each(|other| sim.break_both(n, other)),
            Fault::Deaf(n) => sim.broken.extend(others(n).map(|other| (other, n))),
            Fault::Mute(n) => sim.broken.extend(others(n).map(|other| (n, other))),
            Fault::Part(a, b) => sim.break_both(a, b),
            Fault::Heal => sim.broken.clear(),
            Fault::Stop(n, slots) => sim.freeze_machine(n, SLOT * u32::try_from(slots).unwrap()),
            Fault::Hang(n, slots) => sim.freeze_agent(n, SLOT * u32::try_from(slots).unwrap()),
            Fault::Kill(n) => sim.kill(n),
            Fault::Crash(n) => sim.crash(n),
            Fault::Start(n) => {
                sim.kill(n);
                self.left_cleanly[n] = false;
                sim.start(n);
            }
            Fault::Link(n) => {
                let is_up = !sim.nodes[n].has_link;
                sim.set_link(n, is_up);
            }
            Fault::Leave(n) => {
                let now = sim.now;
                self.left_cleanly[n] = true;
                if let Some(engine) = &mut sim.nodes[n].engine {
                    engine.leave(now);
                }
            }
            Fault::Api(n) => {
                self.no_api[n] = !self.no_api[n];
                self.tell();
            }
            Fault::Exclude(n) => {
                self.excluded[n] = !self.excluded[n];
                self.tell();
            }
        }
    }

    /// What is wanted reaches the nodes that have an API.
    fn tell(&mut self) {
        let eligible: Vec<_> = (0..N)
            .filter(|n| !self.excluded[*n])
            .map(Sim::node_id)
            .collect();
        for n in (0..N).filter(|n| !self.no_api[*n]) {
            if self.sim.specs[n][0].eligible != eligible {
                self.sim.specs[n][0].eligible.clone_from(&eligible);
                self.sim.install(n);
            }
        }
    }

    /// Whether a node could answer now: it runs, reaches the segment, and believes that it may.
    fn could_own(&self, n: usize) -> bool {
        let node = &self.sim.nodes[n];
        let now = self.sim.now;
        let reaches = |a, b| !self.sim.broken.contains(&(a, b));
        node.engine.is_some()
            && !self.left_cleanly[n]
            && node.has_link
            && now >= node.agent_frozen
            && now >= node.machine_frozen
            && reaches(n, WITNESS)
            && reaches(WITNESS, n)
            && self.sim.specs[n][0].eligible.contains(&Sim::node_id(n))
    }

    fn run_slot(&mut self) {
        // In steps, so that a wait is seen to the fifth of a slot.
        for _ in 0..5 {
            self.sim.run(SLOT / 5);
            let reaches = |n: &usize| {
                let is_cut = |a, b| self.sim.broken.contains(&(a, b));
                !is_cut(*n, WITNESS) && !is_cut(WITNESS, *n)
            };
            let is_answered = self.sim.answering(1).iter().any(reaches);
            let is_dark = !is_answered && (0..N).any(|n| self.could_own(n));
            let since = is_dark.then(|| self.dark_since.unwrap_or(self.sim.now));
            self.dark_since = since;
            let dark = since.map_or(Duration::ZERO, |at| self.sim.now.since(at));
            self.longest_dark = self.longest_dark.max(dark);
        }
        self.sim.fates.clear();
        self.sim.announced.clear();
        self.sim.probed.clear();
    }
}

impl Model for Segment {
    type State = State;
    type Action = Option<Fault>;

    fn init_states(&self) -> Vec<State> {
        let mut state = State::new(self.deadline);
        state.left = self.budget;
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Self::Action>) {
        actions.push(None);
        let is_open = state.left == self.budget || state.quiet < self.open;
        if state.left > 0 && is_open {
            let possible = self.faults.iter().filter(|fault| state.allows(**fault));
            actions.extend(possible.copied().map(Some));
        }
    }

    fn next_state(&self, last: &State, action: Self::Action) -> Option<State> {
        let mut state = last.clone();
        // At rest before the first fault, one slot is like another.
        if action.is_none() && state.left == self.budget {
            return None;
        }
        state.quiet += 1;
        if let Some(fault) = action {
            state.apply(fault);
            state.left -= 1;
            state.quiet = 0;
        }
        state.run_slot();
        self.worst.note(&state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("two that run do not answer for long", |_, state: &State| {
                state.sim.longest_twice <= TWICE
            }),
            Property::always("a hung one falls silent", |_, state: &State| {
                state.sim.longest_twice_hung <= DEADLINE + TWICE
            }),
            Property::always("somebody who can answers soon", |_, state: &State| {
                state.longest_dark <= DARK
            }),
            Property::sometimes("addresses move", |_, state: &State| {
                state.sim.nodes.iter().any(|node| {
                    let report = node.reports.get(&vip(1));
                    report.is_some_and(|report| report.epoch > 1)
                })
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.quiet <= REST
    }
}

impl Segment {
    fn new(faults: Vec<Fault>, budget: u32) -> Self {
        Self {
            faults,
            budget,
            open: if budget > 2 { OPEN_OF_THREE } else { OPEN },
            deadline: DEADLINE,
            worst: Arc::default(),
        }
    }

    /// Explores every history: at least `n_states`, or the adversary has lost its means. Nothing comes near to a bound that proves nothing.
    fn check(self, n_states: usize, dark_for: Duration) {
        let worst = Arc::clone(&self.worst);
        let checker = self.checker().threads(2).spawn_dfs().join();
        assert!(checker.is_done());
        checker.assert_properties();
        let n = checker.unique_state_count();
        assert!(n >= n_states, "{n} states, {worst:?}");
        let dark = Duration::from_nanos(worst.dark.load(Ordering::Relaxed));
        assert!(dark >= dark_for, "{n} states, {worst:?}");
    }
}

fn each(make: impl Fn(usize) -> Fault) -> Vec<Fault> {
    (0..N).map(make).collect()
}

#[test]
fn lost_repeated_and_reordered_messages() {
    let mut faults = each(|n| Fault::Fate(n, Fate::Lost));
    faults.extend(each(|n| Fault::Fate(n, Fate::Late)));
    faults.extend(each(|n| Fault::Fate(n, Fate::Twice)));
    faults.extend(each(Fault::Crash));
    Segment::new(faults, 2).check(9_000, ms(300));
}

#[test]
fn partitions() {
    let mut faults = each(Fault::CutOff);
    faults.extend(each(Fault::Deaf));
    faults.extend(each(Fault::Mute));
    faults.extend([Fault::Part(0, 1), Fault::Part(0, 2), Fault::Part(1, 2)]);
    faults.push(Fault::Heal);
    faults.extend(each(Fault::Link));
    Segment::new(faults, 2).check(50_000, ms(400));
}

#[test]
fn clock_jumps_and_deaths() {
    let mut faults = each(|n| Fault::Stop(n, 4));
    faults.extend(each(|n| Fault::Stop(n, 14)));
    faults.extend(each(|n| Fault::Hang(n, 5)));
    faults.extend(each(Fault::Kill));
    faults.extend(each(Fault::Crash));
    faults.extend(each(Fault::Start));
    Segment::new(faults, 2).check(100_000, ms(400));
}

#[test]
fn loss_of_the_api_while_what_is_wanted_changes() {
    let mut faults = each(Fault::Api);
    faults.extend(each(Fault::Exclude));
    faults.extend(each(Fault::Leave));
    faults.extend(each(Fault::Crash));
    Segment::new(faults, 2).check(60_000, ms(300));
}

#[test]
fn three_faults_of_every_kind_in_quick_succession() {
    let mut faults = each(Fault::CutOff);
    faults.push(Fault::Heal);
    faults.extend(each(|n| Fault::Stop(n, 14)));
    faults.extend(each(Fault::Exclude));
    Segment::new(faults, 3).check(50_000, ms(300));
}

#[test]
fn a_deadline_longer_than_promised_is_found() {
    // A machine stops, its addresses are taken over, its agent dies: awake, its kernel goes on until the deadline.
    let mut faults = each(|n| Fault::Stop(n, 14));
    faults.extend(each(Fault::Kill));
    let segment = Segment {
        deadline: DEADLINE * 4,
        ..Segment::new(faults, 2)
    };
    let checker = segment.checker().threads(2).spawn_dfs().join();
    checker.assert_any_discovery("a hung one falls silent");
}

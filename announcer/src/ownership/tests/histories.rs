//! Random histories: whatever happens, two nodes that hear each other do not both answer for longer than it takes to hear, and when the
//! disturbances end, every address has one owner.

use std::time::Duration;

use proptest::prelude::*;

use super::sim::{Sim, ms};

#[derive(Debug, Clone)]
enum Event {
    Kill(usize),
    Crash(usize),
    Start(usize),
    Link(usize, bool),
    Break(usize, usize),
    Heal,
    FreezeAgent(usize, u64),
    FreezeMachine(usize, u64),
    Leave(usize),
    Exclude(usize),
    Include,
    Loss(u64),
}

fn event(n: usize) -> impl Strategy<Value = Event> {
    let node = 0..n;
    prop_oneof![
        1 => node.clone().prop_map(Event::Kill),
        1 => node.clone().prop_map(Event::Crash),
        3 => node.clone().prop_map(Event::Start),
        1 => (node.clone(), any::<bool>()).prop_map(|(n, up)| Event::Link(n, up)),
        1 => (node.clone(), node.clone()).prop_map(|(a, b)| Event::Break(a, b)),
        2 => Just(Event::Heal),
        1 => (node.clone(), 10u64..6_000).prop_map(|(n, t)| Event::FreezeAgent(n, t)),
        1 => (node.clone(), 10u64..6_000).prop_map(|(n, t)| Event::FreezeMachine(n, t)),
        1 => node.clone().prop_map(Event::Leave),
        1 => node.prop_map(Event::Exclude),
        1 => Just(Event::Include),
        1 => (0u64..100).prop_map(Event::Loss),
    ]
}

fn apply(sim: &mut Sim, event: &Event) {
    match *event {
        Event::Kill(n) => sim.kill(n),
        Event::Crash(n) => sim.crash(n),
        Event::Start(n) => sim.start(n),
        Event::Link(n, up) => sim.set_link(n, up),
        Event::Break(a, b) => sim.break_both(a, b),
        Event::Heal => sim.broken.clear(),
        Event::FreezeAgent(n, t) => sim.freeze_agent(n, ms(t)),
        Event::FreezeMachine(n, t) => sim.freeze_machine(n, ms(t)),
        Event::Leave(n) => {
            let now = sim.now;
            if let Some(engine) = &mut sim.nodes[n].engine {
                engine.leave(now);
            }
        }
        Event::Exclude(n) => sim.configure(|_, specs| {
            for spec in specs {
                spec.eligible.retain(|node| *node != Sim::node_id(n));
            }
        }),
        Event::Include => include_all(sim),
        Event::Loss(loss) => sim.loss = loss,
    }
}

fn include_all(sim: &mut Sim) {
    let n = sim.nodes.len();
    sim.configure(|_, specs| {
        for spec in specs {
            spec.eligible = (0..n).map(Sim::node_id).collect();
        }
    });
}

/// Ends every disturbance; agents that left or died are started.
fn recover(sim: &mut Sim) {
    sim.loss = 0;
    sim.broken.clear();
    include_all(sim);
    for n in 0..sim.nodes.len() {
        sim.set_link(n, true);
        sim.kill(n);
        sim.start(n);
    }
}

proptest! {
    #[test]
    fn never_two_for_long_and_one_in_the_end(
        n in 2usize..=5,
        n_vips in 1usize..=4,
        seed in any::<u64>(),
        story in prop::collection::vec((event(5), 1u64..4_000), 1..14),
    ) {
        let mut sim = Sim::started(n, n_vips, seed);
        for (event, pause) in &story {
            let event = match event.clone() {
                Event::Kill(x) => Event::Kill(x % n),
                Event::Crash(x) => Event::Crash(x % n),
                Event::Start(x) => Event::Start(x % n),
                Event::Link(x, up) => Event::Link(x % n, up),
                Event::Break(a, b) => Event::Break(a % n, b % n),
                Event::FreezeAgent(x, t) => Event::FreezeAgent(x % n, t),
                Event::FreezeMachine(x, t) => Event::FreezeMachine(x % n, t),
                Event::Leave(x) => Event::Leave(x % n),
                Event::Exclude(x) => Event::Exclude(x % n),
                other => other,
            };
            apply(&mut sim, &event);
            sim.run(ms(*pause));
        }
        let bound = Duration::from_millis(1_500);
        prop_assert!(sim.longest_twice <= bound, "two answered for {:?}", sim.longest_twice);
        // A kernel without its agent goes on until its deadline, which a claim that it cannot hear does not shorten.
        let bound = bound + sim.settings.deadline;
        prop_assert!(sim.longest_twice_hung <= bound, "two answered for {:?}", sim.longest_twice_hung);
        recover(&mut sim);
        sim.run(ms(15_000));
        sim.forget_measures();
        for v in 1..=n_vips {
            let owner = sim.owner(v);
            prop_assert!(owner.is_some(), "{v}: {:?} {:?}", sim.answering(v), sim.why(0, v));
            for node in 0..n {
                let seen = sim.why(node, v).unwrap().owner;
                prop_assert_eq!(seen, owner.map(Sim::node_id), "node {} vip {}: {:?}", node, v, sim.why(node, v));
            }
        }
        sim.run(ms(5_000));
        prop_assert_eq!(sim.longest_twice, Duration::ZERO);
        prop_assert_eq!(sim.longest_dark, Duration::ZERO);
    }
}

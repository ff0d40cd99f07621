//! Planned placement and the cost of many groups.

use super::sim::{Sim, ms, vip};
use crate::ownership::{GroupSpec, MoveError, Why};

fn loads(sim: &Sim, n: usize, n_vips: usize) -> Vec<usize> {
    let owner = |v: usize| sim.owner(v);
    (0..n)
        .map(|node| (1..=n_vips).filter(|v| owner(*v) == Some(node)).count())
        .collect()
}

#[test]
fn groups_spread_evenly_over_the_nodes() {
    let sim = Sim::settled(4, 100, 1);
    let loads = loads(&sim, 4, 100);
    assert!(loads.iter().all(|n| (15..=28).contains(n)), "{loads:?}");
}

#[test]
fn a_node_that_joins_is_given_its_share_and_no_more() {
    let mut sim = Sim::new(3, 90, 1);
    sim.start(0);
    sim.start(1);
    sim.run(ms(8_000));
    let before: Vec<_> = (1..=90).map(|v| sim.owner(v)).collect();
    sim.forget_measures();
    sim.start(2);
    sim.run(ms(15_000));
    let after = loads(&sim, 3, 90);
    assert!((24..=33).contains(&after[2]), "{after:?}");
    let moved = (1..=90).filter(|v| sim.owner(*v) != before[*v - 1]).count();
    assert_eq!(moved, after[2], "only what the new node owns has moved");
    assert_eq!(sim.longest_dark, ms(0));
}

#[test]
fn the_holder_of_the_lease_is_preferred_where_nobody_owns() {
    for holder in 0..2 {
        let mut sim = Sim::new(2, 1, 1);
        sim.configure(|_, specs| specs[0].lease_holder = Some(Sim::node_id(holder)));
        sim.start(0);
        sim.start(1);
        sim.run(ms(3_000));
        assert_eq!(sim.owner(1), Some(holder));
    }
}

#[test]
fn two_hundred_groups_move_as_fast_as_one() {
    let mut sim = Sim::settled(2, 200, 1);
    let owner = sim.owner(1).unwrap();
    sim.crash(owner);
    let cut = sim.now;
    sim.run_until(ms(1_000), |sim| (1..=200).all(|v| sim.owner(v).is_some()));
    assert!(sim.now.since(cut) < ms(300), "{:?}", sim.now.since(cut));
}

#[test]
fn a_table_may_change_in_the_middle_of_a_takeover() {
    let mut sim = Sim::settled(2, 3, 1);
    let owner = sim.owner(1).unwrap();
    sim.crash(owner);
    sim.run(ms(220));
    sim.configure(|_, specs| {
        let mut more: Vec<GroupSpec> = specs.clone();
        more.push(GroupSpec {
            vips: vec![(vip(4), true)],
            ..specs[0].clone()
        });
        *specs = more;
    });
    sim.run(ms(700));
    assert!((1..=4).all(|v| sim.owner(v) == Some(1 - owner)));
    assert!(matches!(
        sim.why(1 - owner, 4).unwrap().why,
        Why::First | Why::Reacquired
    ));
}

/// Three nodes, the last preferred for every group.
fn with_a_favourite(n_vips: usize, failback: bool) -> Sim {
    let mut sim = Sim::new(3, n_vips, 1);
    sim.settings.failback = failback;
    sim.configure(|_, specs| {
        for spec in specs {
            spec.weights = vec![(Sim::node_id(1), 10), (Sim::node_id(2), 50)];
        }
    });
    (0..3).for_each(|n| sim.start(n));
    sim.run(ms(9_000));
    sim.forget_measures();
    sim
}

#[test]
fn a_preferred_node_owns_and_the_next_in_weight_follows() {
    let mut sim = with_a_favourite(9, false);
    assert_eq!(
        loads(&sim, 3, 9),
        [0, 0, 9],
        "weight counts more than balance"
    );
    sim.crash(2);
    sim.run(ms(1_000));
    assert_eq!(loads(&sim, 3, 9), [0, 9, 0]);
    // Sticky: the preferred node is back and given what balance needs; the one without weight gets nothing.
    sim.start(2);
    sim.run(ms(20_000));
    assert_eq!(loads(&sim, 3, 9), [0, 6, 3]);
}

#[test]
fn with_failback_a_preferred_node_is_given_back_what_it_had_and_nothing_is_dark() {
    let mut sim = with_a_favourite(9, true);
    sim.crash(2);
    sim.run(ms(1_000));
    sim.start(2);
    sim.forget_measures();
    sim.run(ms(4_500));
    assert_eq!(loads(&sim, 3, 9), [0, 9, 0], "not before it is settled");
    sim.run(ms(9_000));
    assert_eq!(loads(&sim, 3, 9), [0, 0, 9]);
    assert_eq!(sim.longest_dark, ms(0));
}

#[test]
fn with_failback_each_group_returns_to_where_it_was() {
    let mut sim = Sim::new(2, 20, 1);
    sim.settings.failback = true;
    (0..2).for_each(|n| sim.start(n));
    sim.run(ms(20_000));
    let before: Vec<_> = (1..=20).map(|v| sim.owner(v)).collect();
    sim.crash(0);
    sim.run(ms(1_000));
    sim.start(0);
    sim.run(ms(30_000));
    let after: Vec<_> = (1..=20).map(|v| sim.owner(v)).collect();
    assert_eq!(after, before);
    sim.forget_measures();
    sim.run(ms(20_000));
    assert!(sim.announced.is_empty(), "nothing goes to and fro");
}

#[test]
fn a_group_moved_on_request_stays_although_balance_would_have_it_elsewhere() {
    let mut sim = Sim::settled(2, 4, 1);
    let moved: Vec<usize> = (1..=4).filter(|v| sim.owner(*v) == Some(0)).collect();
    assert_eq!(moved.len(), 2);
    let now = sim.now;
    for v in &moved {
        let engine = sim.nodes[0].engine.as_mut().unwrap();
        engine.move_to(vip(*v), Sim::node_id(1), now).unwrap();
        assert_eq!(
            engine.move_to(vip(*v), Sim::node_id(7), now),
            Err(MoveError::NotEligible)
        );
    }
    sim.tick(0);
    sim.run(ms(100));
    assert_eq!(loads(&sim, 2, 4), [0, 4]);
    let engine = sim.nodes[0].engine.as_mut().unwrap();
    let again = engine.move_to(vip(moved[0]), Sim::node_id(1), now);
    assert_eq!(again, Err(MoveError::NotOwner));
    // Balance gives the others away and keeps what was asked for.
    sim.run(ms(10_000));
    assert!(moved.iter().all(|v| sim.owner(*v) == Some(1)));
    assert_eq!(loads(&sim, 2, 4), [2, 2]);
    assert_eq!(sim.longest_dark, ms(0));
}

//! Planned placement and the cost of many groups.

use super::sim::{Sim, ms, vip};
use crate::ownership::{GroupSpec, Why};

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

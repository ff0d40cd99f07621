//! The design's rules, one by one.

use std::time::Duration;

use fairlead_model::MacAddr;

use super::sim::{Sim, ms, vip};
use crate::{
    BootTime,
    ownership::{Action, Defence, GroupSpec, State, Why, order},
};

fn other(owner: usize) -> usize {
    1 - owner
}

#[test]
fn a_new_group_is_probed_three_times_before_its_first_use() {
    let mut sim = Sim::started(1, 1, 1);
    sim.run_until(ms(2_000), |sim| sim.owner(1).is_some());
    let probes: Vec<BootTime> = sim.probed.iter().map(|(at, ..)| *at).collect();
    let gaps: Vec<Duration> = probes.windows(2).map(|w| w[1].since(w[0])).collect();
    assert_eq!(gaps, [ms(100), ms(100)]);
    assert_eq!(sim.now.since(probes[2]), ms(100));
    assert_eq!(sim.why(0, 1).unwrap().why, Why::First);
}

#[test]
fn an_announcement_is_repeated_after_50_200_and_1000_ms() {
    let mut sim = Sim::started(1, 1, 1);
    sim.run(ms(4_000));
    let first = sim.announced[0].0;
    let after: Vec<Duration> = sim
        .announced
        .iter()
        .map(|(at, ..)| at.since(first))
        .collect();
    assert_eq!(after, [ms(0), ms(50), ms(200), ms(1_000)]);
}

#[test]
fn nothing_is_announced_before_the_datapath_serves_it() {
    let mut sim = Sim::new(1, 1, 1);
    sim.configure(|_, specs| specs[0].vips[0].1 = false);
    sim.start(0);
    sim.run(ms(5_000));
    assert_eq!((sim.owner(1), sim.announced.len()), (None, 0));
    assert_eq!(sim.why(0, 1).unwrap().why, Why::NotProgrammed);
    sim.configure(|_, specs| specs[0].vips[0].1 = true);
    sim.run(ms(500));
    assert_eq!(sim.owner(1), Some(0));
}

#[test]
fn a_node_that_no_policy_selects_takes_nothing() {
    let mut sim = Sim::new(2, 1, 1);
    sim.configure(|_, specs| specs[0].eligible = vec![Sim::node_id(1)]);
    sim.start(0);
    sim.start(1);
    sim.run(ms(3_000));
    assert_eq!(sim.owner(1), Some(1));
    assert_eq!(sim.why(0, 1).unwrap().owner, Some(Sim::node_id(1)));
}

#[test]
fn the_addresses_of_a_group_have_one_owner() {
    let mut sim = Sim::new(3, 6, 1);
    sim.configure(|_, specs| {
        let vips = (1..=6).map(|v| (vip(v), true)).collect();
        *specs = vec![GroupSpec {
            vips,
            ..specs[0].clone()
        }];
    });
    (0..3).for_each(|n| sim.start(n));
    sim.run(ms(3_000));
    let owner = sim.owner(1);
    assert!(owner.is_some());
    assert!((2..=6).all(|v| sim.owner(v) == owner));
}

#[test]
fn the_owner_of_a_fresh_group_is_the_first_in_rendezvous_order() {
    for seed in 1..6 {
        let sim = Sim::settled(3, 1, seed);
        let member = |n: usize| order::MemberId::new(Sim::node_id(n), 2);
        let first = (0..3).max_by_key(|n| order::score(vip(1), member(*n)));
        assert_eq!(sim.owner(1), first, "seed {seed}");
    }
}

#[test]
fn a_dead_node_is_followed_within_300_ms() {
    for seed in 1..20 {
        let mut sim = Sim::settled(3, 30, seed);
        let owner = sim.owner(1).unwrap();
        sim.run(ms(seed * 7));
        sim.crash(owner);
        let cut = sim.now;
        sim.run_until(ms(1_000), |sim| (1..=30).all(|v| sim.owner(v).is_some()));
        let dark = sim.now.since(cut);
        assert!(dark < ms(300), "seed {seed}: {dark:?}");
        assert!(sim.longest_twice < ms(1), "{:?}", sim.longest_twice);
    }
}

#[test]
fn fewer_than_three_missing_heartbeats_are_no_suspicion() {
    let mut sim = Sim::settled(2, 4, 3);
    let probed = sim.probed.len();
    for _ in 0..20 {
        sim.break_both(0, 1);
        sim.run(ms(100));
        sim.broken.clear();
        sim.run(ms(100));
    }
    assert_eq!(sim.probed.len(), probed);
}

#[test]
fn a_killed_agent_whose_kernel_answers_keeps_its_addresses() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.kill(owner);
    sim.run(ms(2_500));
    assert_eq!(sim.owner(1), Some(owner));
    let probes = sim.probed.iter().filter(|(_, who, _)| *who == other(owner));
    // One probe every 50 ms, all of them answered.
    assert!(
        (40..=52).contains(&probes.count()),
        "{:?}",
        sim.probed.len()
    );
}

#[test]
fn a_hung_agent_falls_silent_at_its_deadline_and_the_address_moves() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.kill(owner);
    sim.run(ms(3_300));
    assert_eq!(sim.owner(1), Some(other(owner)));
    assert!(sim.longest_dark < ms(250), "{:?}", sim.longest_dark);
    assert_eq!(sim.longest_twice, Duration::ZERO);
}

#[test]
fn a_killed_agent_that_is_alone_answers_for_ever_and_is_adopted_without_a_gap() {
    let mut sim = Sim::settled(1, 3, 1);
    let epoch = sim.why(0, 1).unwrap().epoch;
    sim.kill(0);
    sim.run(ms(120_000));
    sim.start(0);
    sim.run(ms(5_000));
    assert_eq!(sim.longest_dark, Duration::ZERO);
    let report = sim.why(0, 1).unwrap();
    assert_eq!((report.state, report.why), (State::Owner, Why::Adopted));
    assert!(report.epoch >= epoch);
    assert!(sim.nodes[0].kernel.deadline > sim.now);
}

#[test]
fn a_killed_agent_that_returns_in_time_goes_on_owning() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    let epoch = sim.why(owner, 1).unwrap().epoch;
    sim.kill(owner);
    sim.run(ms(1_000));
    sim.start(owner);
    sim.run(ms(10_000));
    assert_eq!(sim.owner(1), Some(owner));
    assert_eq!(sim.why(owner, 1).unwrap().epoch, epoch);
    assert_eq!(sim.longest_dark, Duration::ZERO);
    assert_eq!(sim.longest_twice, Duration::ZERO);
}

#[test]
fn a_node_that_hears_nothing_takes_nothing_over() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.has_witness = false;
    sim.crash(owner);
    sim.run(ms(20_000));
    assert_eq!(sim.owner(1), None);
    assert_eq!(sim.why(other(owner), 1).unwrap().why, Why::NothingHeard);
}

#[test]
fn it_begins_with_the_first_frame_and_probes_again() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.has_witness = false;
    sim.crash(owner);
    sim.run(ms(20_000));
    sim.probed.clear();
    // Any frame will do: the stranger answers for an address that is no VIP, and somebody asks it.
    sim.has_witness = true;
    sim.sign_of_life(other(owner));
    let begin = sim.now;
    sim.run_until(ms(500), |sim| sim.owner(1).is_some());
    assert_eq!(sim.owner(1), Some(other(owner)));
    let probes: Vec<BootTime> = sim.probed.iter().map(|(at, ..)| *at).collect();
    assert_eq!(probes.len(), 3);
    assert!(probes[0].since(begin) < ms(2), "{probes:?}");
}

#[test]
fn a_quiet_segment_is_asked_until_it_shows_itself() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.has_witness = false;
    sim.crash(owner);
    sim.run(ms(2_000));
    assert_eq!(sim.owner(1), None);
    // Nobody speaks unasked; the station that is asked answers from now on.
    sim.has_witness = true;
    sim.run_until(ms(300), |sim| sim.owner(1).is_some());
    assert_eq!(sim.owner(1), Some(other(owner)));
}

#[test]
fn the_second_in_order_waits_for_the_first() {
    // The first in line hears the suspect's silence, but does not take over: it has not programmed the address.
    let mut sim = Sim::settled(3, 1, 1);
    let owner = sim.owner(1).unwrap();
    let mut rest: Vec<usize> = (0..3).filter(|n| *n != owner).collect();
    let member = |n: usize| order::MemberId::new(Sim::node_id(n), 2);
    rest.sort_by_key(|n| std::cmp::Reverse(order::score(vip(1), member(*n))));
    sim.configure(|node, specs| specs[0].vips[0].1 = node != rest[0]);
    sim.run(ms(1_000));
    sim.crash(owner);
    let cut = sim.now;
    sim.run_until(ms(1_000), |sim| sim.owner(1).is_some());
    assert_eq!(sim.owner(1), Some(rest[1]));
    let took = sim.now.since(cut);
    assert!((ms(250)..ms(450)).contains(&took), "{took:?}");
}

#[test]
fn nobody_takes_over_while_another_peer_hears_the_owner() {
    let mut sim = Sim::settled(3, 1, 1);
    let owner = sim.owner(1).unwrap();
    let lost = (owner + 1) % 3;
    sim.break_both(owner, lost);
    sim.run(ms(5_000));
    assert_eq!(sim.owner(1), Some(owner));
    assert!(matches!(
        sim.why(lost, 1).unwrap().why,
        Why::StillHeard(_) | Why::Suspecting(_)
    ));
}

#[test]
fn an_owner_that_hears_nobody_is_missing_although_it_is_heard() {
    // Its transmitter works, its receiver is dead: clients reach nothing.
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.broken.insert((other(owner), owner));
    sim.break_witness(owner);
    sim.run(ms(1_000));
    assert!(sim.answering(1).contains(&other(owner)));
}

#[test]
fn after_a_partition_heals_one_owner_remains_at_once() {
    for seed in 1..10 {
        let mut sim = Sim::settled(2, 4, seed);
        sim.break_both(0, 1);
        sim.run(ms(3_000));
        assert!((1..=4).all(|v| sim.answering(v).len() == 2));
        sim.broken.clear();
        sim.run(ms(2_000));
        assert!((1..=4).all(|v| sim.owner(v).is_some()));
        assert!(sim.longest_twice < ms(350), "{:?}", sim.longest_twice);
    }
}

#[test]
fn the_winner_of_a_conflict_announces_again() {
    let mut sim = Sim::settled(2, 1, 1);
    sim.break_both(0, 1);
    sim.run(ms(3_000));
    sim.forget_measures();
    sim.broken.clear();
    sim.run(ms(2_000));
    let winner = sim.owner(1).unwrap();
    assert!(sim.announced.iter().any(|(_, who, _)| *who == winner));
    assert!(matches!(
        sim.why(other(winner), 1).unwrap().owner,
        Some(node) if node == Sim::node_id(winner)
    ));
}

#[test]
fn a_machine_that_wakes_up_renews_nothing_and_lets_go() {
    let mut sim = Sim::settled(2, 3, 1);
    let owner = sim.owner(1).unwrap();
    sim.freeze_machine(owner, ms(20_000));
    sim.run(ms(19_900));
    assert!((1..=3).all(|v| sim.owner(v) == Some(other(owner))));
    sim.run(ms(3_000));
    assert!((1..=3).all(|v| sim.owner(v) == Some(other(owner))));
    assert!(sim.longest_twice < ms(60), "{:?}", sim.longest_twice);
}

#[test]
fn a_machine_that_wakes_up_alone_acquires_anew_after_a_probe() {
    let mut sim = Sim::settled(1, 1, 1);
    let epoch = sim.why(0, 1).unwrap().epoch;
    sim.freeze_machine(0, ms(20_000));
    sim.run(ms(20_500));
    let report = sim.why(0, 1).unwrap();
    assert_eq!((sim.owner(1), report.why), (Some(0), Why::Reacquired));
    assert_eq!(report.epoch, epoch + 1);
    assert_eq!(sim.probed.len(), 3);
}

#[test]
fn a_stuck_control_side_stops_the_renewal_and_the_address_moves() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.nodes[owner].control_answers = false;
    sim.run(ms(3_500));
    assert_eq!(sim.owner(1), Some(other(owner)));
    assert_eq!(sim.longest_twice, Duration::ZERO);
}

#[test]
fn a_returning_node_is_given_nothing_before_five_seconds() {
    let mut sim = Sim::settled(2, 10, 1);
    let back = sim.owner(1).unwrap();
    sim.crash(back);
    sim.run(ms(2_000));
    assert!((1..=10).all(|v| sim.owner(v) == Some(other(back))));
    sim.start(back);
    sim.run(ms(4_900));
    assert!((1..=10).all(|v| sim.owner(v) == Some(other(back))));
    sim.run(ms(3_500));
    let taken = (1..=10).filter(|v| sim.owner(*v) == Some(back)).count();
    assert_eq!(taken, 5, "only what balance needs");
}

#[test]
fn the_wait_of_a_returning_node_doubles_at_each_relapse() {
    let mut sim = Sim::settled(2, 10, 1);
    let back = sim.owner(1).unwrap();
    for wait in [5_000, 10_000, 20_000] {
        sim.set_link(back, false);
        sim.run(ms(1_000));
        sim.set_link(back, true);
        sim.run(ms(wait - 200));
        assert!(
            (1..=10).all(|v| sim.owner(v) == Some(other(back))),
            "{wait}"
        );
        sim.run(ms(3_500));
        assert!((1..=10).any(|v| sim.owner(v) == Some(back)), "{wait}");
    }
}

#[test]
fn a_single_group_stays_where_it_is_when_its_former_owner_returns() {
    let mut sim = Sim::settled(2, 1, 1);
    let back = sim.owner(1).unwrap();
    sim.crash(back);
    sim.run(ms(2_000));
    sim.start(back);
    sim.run(ms(60_000));
    assert_eq!(sim.owner(1), Some(other(back)));
}

#[test]
fn loss_of_carrier_lets_go_at_once_and_the_peer_follows() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.set_link(owner, false);
    assert!(sim.nodes[owner].kernel.entries.is_empty());
    sim.run(ms(300));
    assert_eq!(sim.owner(1), Some(other(owner)));
}

#[test]
fn a_clean_stop_hands_over_first_and_nothing_is_dark() {
    let mut sim = Sim::settled(3, 20, 1);
    let owner = sim.owner(1).unwrap();
    let now = sim.now;
    sim.nodes[owner].engine.as_mut().unwrap().leave(now);
    sim.run_until(ms(100), |sim| {
        sim.nodes[owner].engine.as_ref().unwrap().has_left(sim.now)
    });
    assert!(sim.now.since(now) < ms(20), "{:?}", sim.now.since(now));
    assert_eq!(sim.longest_dark, Duration::ZERO);
    sim.kill(owner);
    sim.run(ms(1_000));
    assert!((1..=20).all(|v| sim.owner(v).is_some_and(|o| o != owner)));
    assert_eq!(sim.longest_dark, Duration::ZERO);
    assert!(sim.longest_twice < ms(5), "{:?}", sim.longest_twice);
}

#[test]
fn a_clean_stop_of_the_only_node_leaves_its_addresses_answered() {
    let mut sim = Sim::settled(1, 2, 1);
    let now = sim.now;
    let engine = sim.nodes[0].engine.as_mut().unwrap();
    engine.leave(now);
    assert!(engine.has_left(now));
    sim.kill(0);
    sim.run(ms(10_000));
    assert_eq!((sim.owner(1), sim.owner(2)), (Some(0), Some(0)));
}

#[test]
fn a_node_that_a_policy_no_longer_selects_hands_over() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.configure(|_, specs| specs[0].eligible = vec![Sim::node_id(other(owner))]);
    sim.run(ms(100));
    assert_eq!(sim.owner(1), Some(other(owner)));
    assert_eq!(sim.longest_dark, Duration::ZERO);
    assert_eq!(
        sim.why(other(owner), 1).unwrap().why,
        Why::HandedOver(Sim::node_id(owner))
    );
}

#[test]
fn a_deleted_service_is_let_go_at_once() {
    let mut sim = Sim::settled(2, 2, 1);
    sim.configure(|_, specs| specs.truncate(1));
    assert!(
        sim.nodes
            .iter()
            .all(|n| !n.kernel.entries.contains_key(&vip(2)))
    );
    sim.run(ms(1_000));
    assert!(sim.owner(1).is_some());
}

#[test]
fn a_stranger_that_answers_is_a_conflict_and_nothing_is_announced() {
    let mut sim = Sim::new(2, 1, 1);
    sim.strangers.push((100, vip(1)));
    sim.start(0);
    sim.start(1);
    sim.run(ms(8_000));
    assert!(sim.announced.is_empty());
    assert!(
        (0..2).any(|n| {
            matches!(sim.why(n, 1).unwrap().why, Why::Conflict(mac) if mac.0[5] == 100)
        })
    );
    // It goes: the address is probed again after a while and used.
    sim.strangers.clear();
    sim.run(ms(12_000));
    assert!(sim.owner(1).is_some());
}

#[test]
fn a_stranger_that_probes_before_our_first_use_is_a_conflict() {
    let mut sim = Sim::started(1, 1, 1);
    sim.run(ms(350));
    sim.foreign_probe(100, 0, vip(1));
    sim.run(ms(1_000));
    assert!(sim.announced.is_empty());
    assert!(matches!(sim.why(0, 1).unwrap().why, Why::Conflict(_)));
}

#[test]
fn a_stranger_that_probes_does_not_stop_a_takeover() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.crash(owner);
    for _ in 0..30 {
        sim.foreign_probe(100, other(owner), vip(1));
        sim.run(ms(10));
    }
    assert_eq!(sim.owner(1), Some(other(owner)));
}

#[test]
fn a_stranger_that_shows_up_later_is_reported_and_answered() {
    let mut sim = Sim::settled(1, 1, 1);
    sim.foreign_announcement(100, 0, vip(1));
    sim.run(ms(100));
    assert_eq!(sim.nodes[0].vips[&vip(1)].conflict.unwrap().0[5], 100);
    assert_eq!(sim.owner(1), Some(0));
    assert!(!sim.announced.is_empty());
}

#[test]
fn a_stranger_that_is_not_heard_again_is_forgotten_while_we_own() {
    let mut sim = Sim::settled(1, 1, 1);
    let conflict = |sim: &Sim| sim.nodes[0].vips[&vip(1)].conflict;
    sim.foreign_announcement(100, 0, vip(1));
    sim.run(ms(9_000));
    assert!(conflict(&sim).is_some());
    sim.foreign_announcement(100, 0, vip(1));
    sim.run(ms(9_000));
    assert!(conflict(&sim).is_some(), "the second answer counts anew");
    sim.run(ms(1_500));
    assert_eq!(conflict(&sim), None);
    assert_eq!(sim.owner(1), Some(0));
}

#[test]
fn of_two_peers_that_probe_the_later_stands_down() {
    // They cannot exchange heartbeats' claims in time: both start at the same moment with a fresh group.
    for seed in 1..10 {
        let mut sim = Sim::new(2, 3, seed);
        sim.start(0);
        sim.run(ms(1));
        sim.start(1);
        sim.run(ms(3_000));
        assert!((1..=3).all(|v| sim.owner(v).is_some()));
        assert!(sim.longest_twice < ms(5), "{:?}", sim.longest_twice);
    }
}

#[test]
fn loss_of_the_gateway_hands_over_to_a_peer_that_reaches_it() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    let gateway = [sim.gateway()];
    for node in 0..2 {
        let now = sim.now;
        let engine = sim.nodes[node].engine.as_mut().unwrap();
        engine.set_gateways(&gateway, now);
    }
    sim.run(ms(5_000));
    assert_eq!(sim.owner(1), Some(owner));
    sim.break_witness(owner);
    sim.run(ms(6_000));
    assert_eq!(sim.owner(1), Some(other(owner)));
    assert_eq!(sim.longest_dark, Duration::ZERO);
}

#[test]
fn loss_of_the_gateway_for_everybody_moves_nothing() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    let gateway = [sim.gateway()];
    for node in 0..2 {
        let now = sim.now;
        let engine = sim.nodes[node].engine.as_mut().unwrap();
        engine.set_gateways(&gateway, now);
    }
    sim.run(ms(5_000));
    sim.has_witness = false;
    sim.run(ms(20_000));
    assert_eq!(sim.owner(1), Some(owner));
}

#[test]
fn a_quiet_segment_is_no_fault() {
    let mut sim = Sim::new(1, 1, 1);
    sim.has_witness = false;
    sim.start(0);
    sim.run(ms(10_000));
    assert_eq!(sim.owner(1), Some(0));
    assert_eq!(sim.longest_twice, Duration::ZERO);
}

#[test]
fn services_that_begin_to_share_an_address_end_on_one_node() {
    let mut sim = Sim::settled(2, 2, 1);
    let apart = sim.owner(1) != sim.owner(2);
    assert!(apart, "balance puts one on each");
    sim.configure(|_, specs| {
        let vips = vec![(vip(1), true), (vip(2), true)];
        *specs = vec![GroupSpec {
            vips,
            ..specs[0].clone()
        }];
    });
    let before = [sim.owner(1), sim.owner(2)];
    let has_both = |sim: &Sim, n: usize| sim.nodes[n].kernel.entries.len() == 2;
    sim.run_until(ms(2_000), |sim| (0..2).any(|n| has_both(sim, n)));
    let winner = usize::from(has_both(&sim, 1));
    let moved = 1 + usize::from(before[0] == Some(winner));
    let taken = sim.now;
    sim.run(ms(2_000));
    assert_eq!([sim.owner(1), sim.owner(2)], [Some(winner); 2]);
    assert_eq!(sim.longest_dark, Duration::ZERO);
    let of_moved = sim
        .announced
        .iter()
        .filter(|(at, who, v)| *at >= taken && *who == winner && *v == vip(moved));
    let first_two: Vec<Duration> = of_moved.map(|(at, ..)| at.since(taken)).take(2).collect();
    assert_eq!(first_two, [ms(0), ms(50)]);
    let handoff = sim.nodes[winner].vips[&vip(moved)].handoff;
    let loser = u8::try_from(other(winner)).ok();
    assert_eq!(handoff.map(|mac| mac.0[5]), loser);
}

#[test]
fn the_rest_of_a_group_is_offered_again_after_a_refusal() {
    let mut sim = Sim::settled(2, 2, 1);
    let owners = [1, 2].map(|v| sim.owner(v).unwrap());
    let share = |sim: &mut Sim, is_programmed: &dyn Fn(usize, usize) -> bool| {
        sim.configure(|node, specs| {
            let vips = (1..=2).map(|v| (vip(v), is_programmed(node, v)));
            *specs = vec![GroupSpec {
                vips: vips.collect(),
                ..specs[0].clone()
            }];
        });
    };
    // Neither serves the other's address yet: whoever is offered it cannot take it.
    share(&mut sim, &|node, v| owners[v - 1] == node);
    sim.run(ms(2_000));
    assert_eq!([1, 2].map(|v| sim.owner(v).unwrap()), owners);
    share(&mut sim, &|_, _| true);
    sim.run(ms(31_000));
    assert!(sim.owner(1).is_some());
    assert_eq!(sim.owner(1), sim.owner(2));
}

#[test]
fn an_address_that_joins_an_owned_group_is_probed_before_use() {
    let mut sim = Sim::settled(1, 2, 1);
    sim.configure(|_, specs| {
        let vips = (1..=3).map(|v| (vip(v), true)).collect();
        *specs = vec![GroupSpec {
            vips,
            ..specs[0].clone()
        }];
    });
    sim.run(ms(400));
    assert!(sim.nodes[0].kernel.entries.contains_key(&vip(3)));
    let of_three = sim.probed.iter().filter(|(_, _, v)| *v == vip(3));
    assert_eq!(of_three.count(), 3);
    assert_eq!(sim.longest_dark, Duration::ZERO);
}

#[test]
fn where_replies_without_a_record_go_is_known_before_an_address_moves() {
    let mut sim = Sim::settled(3, 1, 1);
    let owner = sim.owner(1).unwrap();
    let hand_off = |sim: &Sim, n: usize| sim.nodes[n].vips[&vip(1)].handoff.map(|mac| mac.0[5]);
    let number = |n: usize| u8::try_from(n).ok();
    let others: Vec<usize> = (0..3).filter(|n| *n != owner).collect();
    for n in &others {
        assert_eq!(hand_off(&sim, *n), number(owner), "{n} is told who owns it");
    }
    let next = hand_off(&sim, owner);
    sim.crash(owner);
    sim.run_until(ms(2_000), |sim| {
        others.iter().any(|n| sim.owner(1) == Some(*n))
    });
    let heir = sim
        .owner(1)
        .filter(|heir| *heir != owner)
        .expect("a candidate takes it");
    assert_eq!(next, number(heir), "the dead owner was told who comes next");
    assert_eq!(hand_off(&sim, heir), number(owner));
}

#[test]
fn the_former_owner_is_told_where_replies_go() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.configure(|_, specs| specs[0].eligible = vec![Sim::node_id(other(owner))]);
    sim.run(ms(100));
    let hand_off = |n: usize| sim.nodes[n].vips[&vip(1)].handoff.map(|mac| mac.0[5]);
    assert_eq!(hand_off(owner), u8::try_from(other(owner)).ok());
    assert_eq!(hand_off(other(owner)), u8::try_from(owner).ok());
}

#[test]
fn recorded_heartbeats_prove_nothing() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    sim.record = true;
    sim.run(ms(500));
    sim.record = false;
    sim.crash(owner);
    // Everything the dead owner ever said is played back, again and again.
    for _ in 0..10 {
        sim.replay();
        sim.run(ms(50));
    }
    assert_eq!(sim.owner(1), Some(other(owner)));
}

#[test]
fn a_second_node_of_the_same_name_is_seen() {
    let mut sim = Sim::settled(2, 1, 1);
    sim.record = true;
    sim.run(ms(100));
    sim.nodes[0].engine = None;
    sim.start(0);
    sim.replay();
    sim.run(ms(50));
    assert!(sim.nodes[0].engine.as_ref().unwrap().twin().is_some());
}

#[test]
fn an_owner_told_to_stop_lets_go_of_a_claimed_address_and_asks_for_it_again() {
    let mut sim = Sim::new(1, 2, 1);
    sim.settings.defence = Defence::Stop;
    sim.start(0);
    sim.run(ms(3_000));
    assert_eq!((sim.owner(1), sim.owner(2)), (Some(0), Some(0)));
    sim.foreign_announcement(100, 0, vip(1));
    sim.run(ms(5));
    assert_eq!((sim.owner(1), sim.owner(2)), (None, Some(0)));
    assert!(matches!(sim.why(0, 1).unwrap().why, Why::Conflict(mac) if mac.0[5] == 100));
    // It is silent when asked ten seconds later: ours again.
    sim.run(ms(9_900));
    assert_eq!(sim.owner(1), None);
    sim.run(ms(400));
    assert_eq!(sim.owner(1), Some(0));
}

#[test]
fn an_owner_told_to_back_off_defends_once() {
    let mut sim = Sim::new(1, 1, 1);
    sim.settings.defence = Defence::BackOff;
    sim.start(0);
    sim.run(ms(3_000));
    sim.forget_measures();
    // A burst is one claim, and is answered.
    for _ in 0..3 {
        sim.foreign_announcement(100, 0, vip(1));
        sim.run(ms(100));
    }
    assert_eq!(sim.owner(1), Some(0));
    assert!(!sim.announced.is_empty());
    // It gave way: the next claim, after the first is forgotten, is defended again.
    sim.run(ms(11_000));
    sim.foreign_announcement(100, 0, vip(1));
    sim.run(ms(2_000));
    assert_eq!(sim.owner(1), Some(0));
    // It insists.
    sim.foreign_announcement(100, 0, vip(1));
    sim.run(ms(5));
    assert_eq!(sim.owner(1), None);
}

#[test]
fn a_changed_hardware_address_is_told_to_everybody() {
    let mut sim = Sim::settled(2, 1, 1);
    let owner = sim.owner(1).unwrap();
    let now = sim.now;
    let engine = sim.nodes[owner].engine.as_mut().unwrap();
    engine.set_mac(MacAddr([2, 0, 0, 0, 1, 9]), now);
    let mut out = Vec::new();
    engine.tick(now, now, true, &mut out);
    let at = |wanted: fn(&Action) -> bool| out.iter().position(wanted);
    let written = at(|action| matches!(action, Action::Program { .. })).unwrap();
    let announced = at(|action| matches!(action, Action::Announce { .. })).unwrap();
    assert!(written < announced, "{out:?}");
    assert!(at(|action| *action == Action::SendBeat).is_some());
    assert_eq!(engine.beat_header(now).mac, MacAddr([2, 0, 0, 0, 1, 9]));
}

#[test]
fn after_three_nodes_were_each_alone_one_owner_remains_within_a_second() {
    for seed in 1..6 {
        let mut sim = Sim::settled(3, 6, seed);
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            sim.break_both(a, b);
        }
        sim.run(ms(3_000));
        assert!((1..=6).all(|v| sim.answering(v).len() == 3));
        sim.broken.clear();
        sim.run(ms(1_000));
        assert!((1..=6).all(|v| sim.owner(v).is_some()), "seed {seed}");
        assert!(sim.longest_twice < ms(1_000), "{:?}", sim.longest_twice);
        sim.forget_measures();
        sim.run(ms(5_000));
        assert_eq!((sim.longest_twice, sim.longest_dark), (ms(0), ms(0)));
    }
}

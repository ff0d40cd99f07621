use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use fairlead_model::ServiceName;
use fairlead_rt::clock;
use proptest::prelude::*;

use super::{Answer, Engine, Target, Turned};
use crate::settings::{Check, Kind};

fn web() -> ServiceName {
    ServiceName::new("shop", "web").unwrap()
}

fn target(addr: &str, port: u16) -> Target {
    Target {
        service: web(),
        addr: addr.parse().unwrap(),
        port,
    }
}

fn check() -> Arc<Check> {
    Arc::new(Check {
        kind: Kind::Tcp,
        port: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        failures: 3,
        successes: 2,
    })
}

fn engine(targets: &[Target], now: Instant) -> Engine {
    let mut engine = Engine::default();
    let wanted = targets.iter().map(|t| (t.clone(), (check(), true)));
    engine.set(wanted.collect(), now);
    engine
}

/// One round: everybody is asked once and answers by `good`.
fn round(engine: &mut Engine, now: &mut Instant, good: impl Fn(&Target) -> bool) -> Vec<Turned> {
    *now += Duration::from_secs(1);
    let mut asked = Vec::new();
    while let Some((target, _)) = engine.take_due(*now) {
        asked.push(target);
    }
    let answers = asked.iter().filter_map(|target| {
        let answer = if good(target) {
            Answer::Good
        } else {
            Answer::Bad("no".to_owned())
        };
        engine.report(target, answer, *now)
    });
    answers.collect()
}

#[test]
fn three_failures_take_a_backend_out_and_two_successes_bring_it_back() {
    let (a, b) = (target("10.0.0.1", 80), target("10.0.0.2", 80));
    let mut now = clock::now();
    let mut engine = engine(&[a.clone(), b], now);
    for _ in 0..2 {
        assert!(round(&mut engine, &mut now, |t| *t != a).is_empty());
        assert!(engine.verdict(&web()).failing.is_empty());
    }
    assert!(
        round(&mut engine, &mut now, |_| true).is_empty(),
        "one success and the count begins anew"
    );
    for _ in 0..2 {
        assert!(round(&mut engine, &mut now, |t| *t != a).is_empty());
    }
    let turned = round(&mut engine, &mut now, |t| *t != a);
    assert_eq!(turned.len(), 1);
    assert_eq!(turned[0].failure.as_deref(), Some("no"));
    assert!(!engine.verdict(&web()).is_ready[&a.addr]);
    assert!(round(&mut engine, &mut now, |_| true).is_empty());
    assert_eq!(round(&mut engine, &mut now, |_| true)[0].failure, None);
    assert!(engine.verdict(&web()).is_ready[&a.addr]);
}

#[test]
fn the_last_that_failed_of_each_family_is_kept() {
    let four = [target("10.0.0.1", 80), target("10.0.0.2", 80)];
    let six = target("fd00::1", 80);
    let mut now = clock::now();
    let mut engine = engine(&[four[0].clone(), four[1].clone(), six.clone()], now);
    for _ in 0..3 {
        round(&mut engine, &mut now, |t| *t != four[1]);
    }
    for _ in 0..3 {
        round(&mut engine, &mut now, |_| false);
    }
    let verdict = engine.verdict(&web());
    assert_eq!(verdict.failing.len(), 3);
    let kept = [four[0].addr, six.addr];
    assert_eq!(verdict.kept.into_iter().collect::<Vec<_>>(), kept);
    assert!(!verdict.is_ready[&four[1].addr] && verdict.is_ready[&four[0].addr]);
    for _ in 0..2 {
        round(&mut engine, &mut now, |t| *t == four[1]);
    }
    let verdict = engine.verdict(&web());
    assert!(verdict.is_ready[&four[1].addr] && !verdict.is_ready[&four[0].addr]);
}

#[test]
fn a_backend_is_ready_only_if_every_port_of_it_answers() {
    let (a80, a81, b80) = (
        target("10.0.0.1", 80),
        target("10.0.0.1", 81),
        target("10.0.0.2", 80),
    );
    let mut now = clock::now();
    let mut engine = engine(&[a80.clone(), a81.clone(), b80], now);
    for _ in 0..3 {
        round(&mut engine, &mut now, |t| *t != a81);
    }
    assert!(!engine.verdict(&web()).is_ready[&a80.addr]);
}

#[test]
fn a_target_is_not_asked_twice_at_once_and_an_answer_counts_once() {
    let a = target("10.0.0.1", 80);
    let mut engine = engine(std::slice::from_ref(&a), clock::now());
    let later = clock::now() + Duration::from_secs(10);
    assert!(engine.take_due(later).is_some());
    assert!(engine.take_due(later + Duration::from_secs(10)).is_none());
    engine.report(&a, Answer::Good, later);
    assert_eq!(engine.report(&a, Answer::Good, later), None);
    assert!(engine.next_due().is_some_and(|due| due >= later));
    engine.set(BTreeMap::new(), later);
    assert_eq!(engine.next_due(), None);
}

proptest! {
    /// Whatever the answers: one of each family stays ready, and nobody turns without as many answers in a row as it takes.
    #[test]
    fn one_is_always_left(answers in prop::collection::vec(prop::collection::vec(any::<bool>(), 4), 1..40)) {
        let all = [target("10.0.0.1", 80), target("10.0.0.2", 80), target("fd00::1", 80), target("fd00::2", 80)];
        let mut now = clock::now();
        let mut engine = engine(&all, now);
        let mut model = [(true, 0_u32); 4];
        for row in answers {
            round(&mut engine, &mut now, |t| row[all.iter().position(|o| o == t).unwrap()]);
            for (state, good) in model.iter_mut().zip(&row) {
                if state.0 == *good { state.1 = 0; continue; }
                state.1 += 1;
                if state.1 == if *good { 2 } else { 3 } { *state = (*good, 0); }
            }
            let verdict = engine.verdict(&web());
            for (target, (is_up, _)) in all.iter().zip(&model) {
                prop_assert_eq!(!verdict.failing.contains_key(&target.addr), *is_up);
                let is_kept = verdict.kept.contains(&target.addr);
                prop_assert_eq!(verdict.is_ready[&target.addr], *is_up || is_kept);
            }
            for family in [true, false] {
                let ready = verdict.is_ready.iter().filter(|(a, r)| a.is_ipv4() == family && **r);
                prop_assert!(ready.count() >= 1);
            }
        }
    }
}

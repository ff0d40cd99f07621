use std::collections::BTreeMap;

use fairlead_abi::lb::mode;
use fairlead_model::{Frontend, Protocol};

use crate::sim::{Conn, Node, SECOND, SYN, Wish, frontend, wish_all};

const HOUR: u64 = 3600 * SECOND;

fn web() -> Frontend {
    frontend("192.0.2.10", 80, Protocol::Tcp)
}

fn set(node: &mut Node, backends: impl IntoIterator<Item = u8>) -> BTreeMap<Frontend, Wish> {
    let wishes = BTreeMap::from([(web(), Wish::of(mode::DSR_L2, backends))]);
    node.settle(&wish_all(&wishes));
    wishes
}

fn open(node: &mut Node, numbers: std::ops::Range<u16>) -> Vec<Conn> {
    numbers
        .map(|n| node.open(web(), n, mode::DSR_L2).unwrap())
        .collect()
}

fn assert_unbroken(node: &mut Node, conns: &[Conn]) {
    for conn in conns {
        assert_eq!(node.talk(conn), Some(conn.backend), "{conn:?}");
    }
}

#[test]
fn slots_fold_after_an_hour_and_not_a_second_earlier() {
    let mut node = Node::new();
    set(&mut node, 1..=4);
    let wishes = set(&mut node, 1..=5);
    node.now += HOUR - 1;
    assert_eq!(node.sweep(), 0);
    assert!(node.in_transition(&web()));
    node.now += 1;
    assert!(node.sweep() > 0);
    assert!(!node.in_transition(&web()));
    node.assert_is(&wishes);
    assert_eq!(
        node.state.lines.n_free(),
        1024 - 8,
        "only the current table's lines are in use"
    );
}

#[test]
fn a_slot_waits_for_its_live_flows_and_only_for_those_elsewhere() {
    let mut node = Node::new();
    set(&mut node, 1..=4);
    let conns = open(&mut node, 0..400);
    let wishes = set(&mut node, 1..=5);
    assert_unbroken(&mut node, &conns);
    let changed: Vec<Conn> = conns
        .iter()
        .filter(|c| node.slot_changed(c))
        .copied()
        .collect();
    assert!(!changed.is_empty());
    node.now += HOUR;
    let folded = node.sweep();
    assert!(folded > 0, "slots without flows fold");
    assert!(node.in_transition(&web()));
    assert_unbroken(&mut node, &conns);
    assert_eq!(node.n_entries(), changed.len());
    // They end: two hours of silence later nothing is left.
    node.now += 3 * HOUR;
    node.sweep();
    assert!(!node.in_transition(&web()));
    assert_eq!(node.n_entries(), 0);
    node.assert_is(&wishes);
}

#[test]
fn a_change_of_length_is_carried_over_after_an_hour() {
    let mut node = Node::new();
    set(&mut node, 1..=4);
    let old = open(&mut node, 0..400);
    let mut wish = Wish::of(mode::DSR_L2, 1..=4);
    wish.table_size = 509;
    let wishes = BTreeMap::from([(web(), wish)]);
    node.settle(&wish_all(&wishes));
    let new = open(&mut node, 400..800);
    assert_unbroken(&mut node, &old);
    node.now += HOUR;
    node.sweep();
    assert!(
        node.in_transition(&web()),
        "some flows have another backend than the new table gives"
    );
    assert_unbroken(&mut node, &old);
    assert_unbroken(&mut node, &new);
    node.now += 2 * SECOND;
    node.sweep();
    // Only flows that the table would lead astray are still remembered.
    let n = node.n_entries();
    assert!(n < 700, "{n} of 800");
    assert_unbroken(&mut node, &old);
    // Another change on top, of the same length now.
    let mut wish = Wish::of(mode::DSR_L2, 1..=5);
    wish.table_size = 509;
    node.settle(&wish_all(&BTreeMap::from([(web(), wish)])));
    assert_unbroken(&mut node, &old);
    assert_unbroken(&mut node, &new);
}

#[test]
fn an_index_is_used_again_only_when_nothing_names_it() {
    let mut node = Node::new();
    set(&mut node, 1..=4);
    let conns = open(&mut node, 0..200);
    set(&mut node, 2..=4);
    let record = |node: &Node, n: u8| {
        let fe = &node.state.frontends[&web()];
        let found = fe
            .member_ids()
            .find(|(_, m)| m.identity == crate::sim::backend(web(), n));
        found.map(|(index, _)| index)
    };
    let index = record(&node, 1).unwrap();
    assert_unbroken(&mut node, &conns);
    node.now += 61 * SECOND;
    set(&mut node, 2..=4);
    node.sweep();
    assert_eq!(record(&node, 1), Some(index), "`previous` names it");
    node.now += HOUR;
    node.sweep();
    assert_eq!(
        record(&node, 1),
        Some(index),
        "`previous` named it when the sweep began"
    );
    node.now += 2 * SECOND;
    node.sweep();
    assert_eq!(record(&node, 1), None);
    set(&mut node, [2, 3, 4, 9]);
    assert_eq!(
        record(&node, 9),
        Some(index),
        "and now it is given to another"
    );
    assert_unbroken(
        &mut node,
        &conns
            .into_iter()
            .filter(|c| c.backend != 1)
            .collect::<Vec<_>>(),
    );
}

#[test]
fn a_restart_in_the_midst_of_a_transition_equals_none() {
    let (mut stays, mut restarts) = (Node::new(), Node::new());
    let mut conns = Vec::new();
    for node in [&mut stays, &mut restarts] {
        set(node, 1..=6);
        conns = open(node, 0..300);
        set(node, 2..=7);
        assert_unbroken(
            node,
            &conns[..100]
                .iter()
                .filter(|c| c.backend != 1)
                .copied()
                .collect::<Vec<_>>(),
        );
    }
    restarts.restart();
    for node in [&mut stays, &mut restarts] {
        let wishes = set(node, 2..=8);
        node.assert_is(&wishes);
        assert!(node.in_transition(&web()));
    }
    for conn in &conns {
        assert_eq!(stays.talk(conn), restarts.talk(conn));
    }
    for number in 1000..1300 {
        assert_eq!(
            stays.send(web(), number, SYN),
            restarts.send(web(), number, SYN)
        );
    }
    // The clock of slots begins anew; everything else ends alike.
    for node in [&mut stays, &mut restarts] {
        node.now += 4 * HOUR;
        let wishes = set(node, 2..=8);
        node.sweep();
        assert!(!node.in_transition(&web()));
        assert_eq!(node.n_entries(), 0);
        node.assert_is(&wishes);
    }
}

#[test]
fn a_frontend_record_is_used_again_only_when_its_flows_are_gone() {
    let mut node = Node::new();
    set(&mut node, 1..=4);
    let conns = open(&mut node, 0..100);
    set(&mut node, 2..=5);
    for conn in &conns {
        node.talk(conn);
    }
    let n = node.n_entries();
    assert!(n > 0);
    let record = node.state.record_of(&web()).unwrap();
    node.settle(&wish_all(&BTreeMap::new()));
    assert_eq!(
        node.state.draining().into_iter().collect::<Vec<_>>(),
        [record]
    );
    node.now += 2 * SECOND;
    node.sweep();
    assert_eq!(node.n_entries(), 0);
    assert!(node.state.draining().is_empty());
}

#[test]
fn and_so_it_is_after_a_restart() {
    for mode in [mode::DSR_L2, mode::SNAT] {
        let mut node = Node::new();
        let wish = |backends| wish_all(&BTreeMap::from([(web(), Wish::of(mode, backends))]));
        node.settle(&wish(1..=4));
        let conns: Vec<Conn> = (0..100)
            .map(|n| node.open(web(), n, mode).unwrap())
            .collect();
        node.settle(&wish(2..=5));
        for conn in &conns {
            node.talk(conn);
        }
        let record = node.state.record_of(&web()).unwrap();
        node.settle(&wish_all(&BTreeMap::new()));
        node.now += 2 * SECOND;
        node.restart();
        assert!(node.state.draining().contains(&record));
        // Another frontend comes before the sweep: it must not inherit the flows.
        let other = frontend("192.0.2.11", 443, Protocol::Tcp);
        let wishes = BTreeMap::from([(other, Wish::of(mode, 1..=2))]);
        node.settle(&wish_all(&wishes));
        assert_ne!(node.state.record_of(&other), Some(record));
        node.now += 2 * SECOND;
        node.sweep();
        assert!(node.state.draining().is_empty());
        assert_eq!(node.n_entries(), 0);
        node.restart();
        assert!(
            node.state.draining().is_empty(),
            "nothing names it any more"
        );
    }
}

use std::{collections::BTreeSet, net::Ipv6Addr};

use fairlead_abi::flow::{FlowKey, FlowValue, SnatKey, SnatValue, flow_state};
use fairlead_datapath::Insert;
use fairlead_logic::{hash, record::expired};
use fairlead_model::Protocol;

use super::{Question, flow_ended, scan};
use crate::sim::{SECOND, frontend, small_maps};

fn mapped(ip: [u8; 4]) -> [u8; 16] {
    std::net::Ipv4Addr::from(ip).to_ipv6_mapped().octets()
}

fn flow(port: u16) -> FlowKey {
    FlowKey {
        client: mapped([198, 51, 100, 9]),
        vip: mapped([192, 0, 2, 10]),
        client_port: port.to_be_bytes(),
        vip_port: 80_u16.to_be_bytes(),
        proto: 6,
        _pad: [0; 3],
    }
}

fn entry(frontend: u32, state: u16, last_seen: u64) -> FlowValue {
    FlowValue {
        last_seen,
        frontend,
        backend: 7,
        state,
    }
}

#[test]
fn entries_end_by_their_state() {
    let ended = |state, age: u64| flow_ended(&entry(1, state, 100 * SECOND), (100 + age) * SECOND);
    assert!(!ended(flow_state::NEW, 10) && ended(flow_state::NEW, 11));
    assert!(!ended(flow_state::CLOSED, 60) && ended(flow_state::CLOSED, 61));
    assert!(!ended(flow_state::FIN_CLIENT, 300) && ended(flow_state::FIN_CLIENT, 301));
    assert!(!ended(flow_state::ESTABLISHED, 7500) && ended(flow_state::ESTABLISHED, 7501));
    let record = SnatValue {
        state: flow_state::ESTABLISHED,
        last_seen: 100 * SECOND,
        ..SnatValue::default()
    };
    assert!(!expired(&record, 280 * SECOND, 17) && expired(&record, 281 * SECOND, 17));
    assert!(!expired(&record, 281 * SECOND, 6));
    // The programs give a port away when a sweep would take the record, not later.
    for state in [flow_state::FIN_CLIENT, flow_state::FIN_BACKEND] {
        let closing = SnatValue { state, ..record };
        assert!(!expired(&closing, 400 * SECOND, 6) && expired(&closing, 401 * SECOND, 6));
    }
    // A clock that seems to run backwards (another CPU's stamp) ends nothing.
    assert!(!expired(&record, 0, 6));
}

#[test]
fn what_lives_is_reported_with_the_hash_that_chose_its_slot_and_what_ended_is_removed() {
    let maps = small_maps();
    let now = 10_000 * SECOND;
    let put =
        |key: &FlowKey, value: &FlowValue| maps.flows.insert(key, value, Insert::New).unwrap();
    put(&flow(1), &entry(1, flow_state::ESTABLISHED, now));
    put(&flow(2), &entry(1, flow_state::CLOSED, now - 61 * SECOND));
    put(&flow(3), &entry(9, flow_state::ESTABLISHED, now));
    let six = FlowKey {
        client: "2001:db8::9".parse::<Ipv6Addr>().unwrap().octets(),
        ..flow(4)
    };
    maps.flows_new
        .insert(&six, &entry(2, flow_state::NEW, now), Insert::New)
        .unwrap();
    let question = Question {
        draining: BTreeSet::from([9]),
        ..Question::default()
    };
    let found = scan(&maps, &question, now).unwrap();
    let facts: Vec<_> = found
        .flows
        .iter()
        .map(|(_, _, fact)| (fact.frontend, fact.hash))
        .collect();
    let want4 = hash::flow_hash4(u32::from_be_bytes([198, 51, 100, 9]), 1, 80, 6);
    let want6 = hash::flow_hash6(&six.client, 4, 80, 6);
    assert_eq!(facts, [(1, want4), (2, want6)]);
    assert_eq!((found.counts.flows, found.counts.flows_new), (1, 1));
    assert_eq!((found.counts.expired, found.counts.orphaned), (1, 1));
    assert_eq!(maps.flows.len().unwrap(), 1);
}

#[test]
fn records_tell_which_ports_they_use() {
    let maps = small_maps();
    let now = 10_000 * SECOND;
    let key = SnatKey {
        vip: mapped([192, 0, 2, 10]),
        backend: mapped([10, 0, 1, 1]),
        snat_port: 30_000_u16.to_be_bytes(),
        backend_port: 8080_u16.to_be_bytes(),
        proto: 6,
        _pad: [0; 3],
    };
    let value = SnatValue {
        last_seen: now,
        client: mapped([198, 51, 100, 9]),
        client_port: 1_u16.to_be_bytes(),
        vip_port: 80_u16.to_be_bytes(),
        frontend: 1,
        backend: 7,
        state: flow_state::ESTABLISHED,
        ..SnatValue::default()
    };
    maps.snat.insert(&key, &value, Insert::New).unwrap();
    let asked = frontend("192.0.2.10", 30_000, Protocol::Tcp);
    let other = frontend("192.0.2.10", 30_001, Protocol::Tcp);
    let question = Question {
        asking: BTreeSet::from([asked, other]),
        ..Question::default()
    };
    let found = scan(&maps, &question, now).unwrap();
    assert_eq!(found.used_ports, BTreeSet::from([asked]));
    assert_eq!(
        found.records[0].hash,
        hash::flow_hash4(0xc633_6409, 1, 80, 6)
    );
    let later = scan(&maps, &question, now + 8000 * SECOND).unwrap();
    assert_eq!((later.used_ports.len(), later.counts.expired), (0, 1));
    assert!(maps.snat.is_empty().unwrap());
}

use std::net::IpAddr;

use fairlead_abi::{
    flow::{CLOSED_NS, HALF_OPEN_NS},
    lb::{Iface, frontend_flags},
};

use super::*;
use crate::{host::World, testing::*};

const FE: u32 = 5;

fn snat_world(v6: bool, proto: u8) -> World {
    let mut w = world();
    frontend(&mut w, FE, v6, 80, proto, mode::SNAT);
    w
}

/// Sends a request and returns what the backend gets.
fn ask(w: &mut World, spec: &Spec) -> Seen {
    let (verdict, out) = w.run(LB, &spec.build());
    assert_eq!(verdict, Verdict::Tx, "{:?}", w.reasons());
    see(&out)
}

#[test]
fn a_request_and_its_answer_find_their_way() {
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            let mut w = snat_world(v6, proto);
            let spec = from_client(v6, 40_000, 80, proto, SYN);
            let got = ask(&mut w, &spec);
            assert_eq!((got.src, got.dport, got.ttl), (vip(v6), BACKEND_PORT, 60));
            assert_eq!(got.payload, spec.payload);
            let i = (0..N).find(|&i| backend_addr(v6, i) == got.dst).unwrap();
            assert_eq!((got.dst_mac, got.src_mac), (backend_mac(i), LB_MAC));

            let reply = answer(&got, SYN | ACK);
            let (verdict, out) = w.run(LB, &reply.build());
            assert_eq!(verdict, Verdict::Tx);
            let seen = see(&out);
            assert_eq!((seen.src, seen.dst), (vip(v6), client(v6)));
            assert_eq!((seen.sport, seen.dport, seen.ttl), (80, 40_000, 63));
            assert_eq!((seen.dst_mac, seen.src_mac), (CLIENT_MAC, LB_MAC));
            assert_eq!(seen.payload, reply.payload);
            assert_eq!(
                w.frontend_counter(FE).packets,
                1,
                "requests are counted, replies not"
            );
        }
    }
}

#[test]
fn a_record_is_half_open_until_the_client_answers_the_backend() {
    for proto in [TCP, UDP] {
        let mut w = snat_world(false, proto);
        let got = ask(&mut w, &from_client(false, 40_000, 80, proto, SYN));
        assert_eq!((w.snat_new.len(), w.snat.len()), (1, 0));
        ask(&mut w, &from_client(false, 40_000, 80, proto, SYN));
        let (verdict, _) = w.run(LB, &answer(&got, SYN | ACK).build());
        assert_eq!(verdict, Verdict::Tx);
        assert_eq!(
            (w.snat_new.len(), w.snat.len()),
            (1, 0),
            "a reply alone proves nothing"
        );
        ask(&mut w, &from_client(false, 40_000, 80, proto, ACK));
        assert_eq!((w.snat_new.len(), w.snat.len()), (0, 1));
        assert_eq!(w.snat.entries()[0].1.state, flow_state::ESTABLISHED);
    }
}

#[test]
fn fin_of_both_sides_or_a_reset_closes_the_record() {
    for (client_flags, backend_flags) in [(FIN | ACK, FIN | ACK), (RST, ACK), (ACK, RST)] {
        let mut w = snat_world(false, TCP);
        let got = ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
        assert_eq!(w.run(LB, &answer(&got, SYN | ACK).build()).0, Verdict::Tx);
        ask(&mut w, &from_client(false, 40_000, 80, TCP, ACK));
        ask(&mut w, &from_client(false, 40_000, 80, TCP, client_flags));
        let (verdict, _) = w.run(LB, &answer(&got, backend_flags).build());
        assert_eq!(verdict, Verdict::Tx);
        let (key, record) = w.snat.entries()[0];
        assert_eq!(record.state, flow_state::CLOSED);
        // The client's next connection from the same port begins anew in the same record.
        ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
        assert_eq!(w.snat.get(&key).unwrap().state, flow_state::NEW);
        assert_eq!(w.run(LB, &answer(&got, SYN | ACK).build()).0, Verdict::Tx);
        assert_eq!(w.snat.get(&key).unwrap().state, flow_state::REPLIED);
        ask(&mut w, &from_client(false, 40_000, 80, TCP, ACK));
        assert_eq!(w.snat.get(&key).unwrap().state, flow_state::ESTABLISHED);
    }
}

#[test]
fn flows_of_one_client_never_collide() {
    let mut w = snat_world(false, TCP);
    w.snat_new.capacity = 100_000;
    let mut ports = std::collections::HashSet::new();
    for sport in 1024..=u16::MAX {
        let got = ask(&mut w, &from_client(false, sport, 80, TCP, SYN));
        assert!(ports.insert(got.sport), "{} came twice", got.sport);
    }
    assert!(!ports.contains(&80));
}

/// A second client whose flow from `sport` to the same backend would get port `taken`.
fn rival(w: &World, taken: u16, dst: IpAddr) -> Spec {
    let spec = |last: u8, sport| Spec {
        src: IpAddr::from([192, 0, 2, last]),
        ..from_client(false, sport, 80, TCP, SYN)
    };
    for last in 8..250 {
        for sport in 1024..=u16::MAX {
            let mut probe = w.clone();
            let octets = crate::host::octets(spec(last, sport).src);
            let offset = hash::snat_offset(&octets, &crate::host::octets(vip(false)), 80, TCP);
            if hash::snat_port(sport, offset, 0) == taken {
                let got = ask(&mut probe, &spec(last, sport));
                if got.dst == dst {
                    return spec(last, sport);
                }
            }
        }
    }
    panic!("no rival found");
}

use crate::hash;

#[test]
fn clients_that_collide_get_other_ports_and_keep_them() {
    let mut w = snat_world(false, TCP);
    let first = ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
    let spec = rival(&w, first.sport, first.dst);
    let second = ask(&mut w, &spec);
    assert_eq!(second.dst, first.dst);
    assert_ne!(second.sport, first.sport);
    // Each reply goes to its own client.
    for (got, want) in [(&first, client(false)), (&second, spec.src)] {
        let (_, out) = w.run(LB, &answer(got, SYN | ACK).build());
        assert_eq!(see(&out).dst, want);
    }
    // The first one's record ends; the second flow keeps its port although a better one is free now.
    let key = w
        .snat_new
        .entries()
        .into_iter()
        .find(|(key, _)| key.snat_port == first.sport.to_be_bytes())
        .unwrap()
        .0;
    w.snat_new.remove(&key);
    let again = ask(&mut w, &Spec { flags: ACK, ..spec });
    assert_eq!(again.sport, second.sport);
}

#[test]
fn an_ended_record_gives_its_port_away() {
    for (state, age, table) in [
        (flow_state::NEW, HALF_OPEN_NS, Table::New),
        (flow_state::CLOSED, CLOSED_NS, Table::Established),
    ] {
        let mut w = snat_world(false, TCP);
        let first = ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
        let spec = rival(&w, first.sport, first.dst);
        let (key, mut record) = w.snat_new.entries()[0];
        record.state = state;
        w.snat_new.remove(&key);
        assert!(w.put_record(table, &key, &record, Insert::Any));
        w.now.set(record.last_seen + age);
        assert_ne!(ask(&mut w.clone(), &spec).sport, first.sport, "not yet");
        w.now.set(record.last_seen + age + 1);
        assert_eq!(ask(&mut w, &spec).sport, first.sport);
        let (_, out) = w.run(LB, &answer(&first, SYN | ACK).build());
        assert_eq!(see(&out).dst, spec.src, "the port has changed hands");
        assert_eq!(w.snat.len() + w.snat_new.len(), 1);
    }
}

#[test]
fn a_port_of_a_frontend_is_never_given_away() {
    let mut w = snat_world(false, TCP);
    let port = ask(&mut w.clone(), &from_client(false, 40_000, 80, TCP, SYN)).sport;
    frontend(&mut w, 6, false, port, TCP, mode::SNAT);
    let got = ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
    assert_ne!(got.sport, port);
}

#[test]
fn the_next_owner_gives_a_flow_the_same_port() {
    for v6 in [false, true] {
        let mut old = snat_world(v6, TCP);
        let before = ask(&mut old, &from_client(v6, 40_000, 80, TCP, SYN));
        // Another node, without any record, hears the flow in the middle.
        let mut new = snat_world(v6, TCP);
        let after = ask(&mut new, &from_client(v6, 40_000, 80, TCP, ACK));
        assert_eq!((after.sport, after.dst), (before.sport, before.dst));
        let (verdict, out) = new.run(LB, &answer(&after, ACK).build());
        assert_eq!((verdict, see(&out).dport), (Verdict::Tx, 40_000));
    }
}

#[test]
fn a_reply_without_a_record_is_handed_off_once() {
    let mut w = snat_world(false, TCP);
    let got = ask(&mut w.clone(), &from_client(false, 40_000, 80, TCP, SYN));
    let reply = answer(&got, ACK);
    assert_eq!(w.run(LB, &reply.build()).0, Verdict::Drop);
    assert_eq!(w.reason(reasons::SNAT_NO_RECORD), 1);

    let other = [2, 0, 0, 0, 0, 0x22];
    let state = w.vip_states.get_mut(1).unwrap();
    state.handoff_mac = other;
    state.handoff_iface = LB as u16;
    let (verdict, out) = w.run(LB, &reply.build());
    assert_eq!(verdict, Verdict::Tx);
    assert_eq!(out[..12], [other, LB_MAC].concat());
    assert_eq!(out[12..], reply.build()[12..], "only the MACs change");
    assert_eq!(w.reason(reasons::SNAT_HANDED_OFF), 1);

    // Never back to where it came from, nor to anyone when a peer sent it.
    let back = Spec {
        src_mac: other,
        ..reply.clone()
    };
    assert_eq!(w.run(LB, &back.build()).0, Verdict::Drop);
    let peer = [2, 0, 0, 0, 0, 0x23];
    w.peers
        .insert(PeerKey { mac: peer, cell: 1 }, 4, Insert::Any);
    assert_eq!(
        w.run(
            LB,
            &Spec {
                src_mac: peer,
                ..reply
            }
            .build()
        )
        .0,
        Verdict::Drop
    );
    assert_eq!(w.reason(reasons::SNAT_NO_RECORD), 3);
}

#[test]
fn unknown_ports_below_1024_are_not_taken_for_replies() {
    let mut w = snat_world(false, TCP);
    assert_eq!(
        w.run(LB, &from_client(false, 40_000, 1023, TCP, SYN).build())
            .0,
        Verdict::Drop
    );
    assert_eq!(w.reason(reasons::UNKNOWN_PORT), 1);
    assert_eq!(
        w.run(LB, &from_client(false, 40_000, 1024, TCP, SYN).build())
            .0,
        Verdict::Drop
    );
    assert_eq!(w.reason(reasons::SNAT_NO_RECORD), 1);
}

#[test]
fn a_frontend_on_a_live_port_asks_the_records_first() {
    for fe_mode in MODES {
        let mut w = snat_world(false, TCP);
        let got = ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
        frontend(&mut w, 6, false, got.sport, TCP, fe_mode);
        w.frontends.get_mut(6).unwrap().flags |= frontend_flags::ASK_RECORDS;
        let (verdict, out) = w.run(LB, &answer(&got, SYN | ACK).build());
        assert_eq!(verdict, Verdict::Tx);
        assert_eq!(see(&out).dst, client(false));
        // A tagged one, too.
        let frame = answer(&got, ACK).build();
        let tagged = [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
        let (verdict, out) = w.run(LB, &tagged);
        assert_eq!((verdict, out[..6] == CLIENT_MAC), (Verdict::Tx, true));
        // A client of the new frontend has no such record.
        let (verdict, _) = w.run(LB, &from_client(false, 50_000, got.sport, TCP, SYN).build());
        assert_eq!((verdict, w.frontend_counter(6).packets), (Verdict::Tx, 1));
    }
}

#[test]
fn a_frontend_on_a_live_port_breaks_no_established_flow() {
    for v6 in [false, true] {
        for fe_mode in MODES {
            let mut w = snat_world(v6, TCP);
            let got = open(&mut w, v6, 40_000);
            frontend(&mut w, 6, v6, got.sport, TCP, fe_mode);
            w.frontends.get_mut(6).unwrap().flags |= frontend_flags::ASK_RECORDS;
            for flags in [ACK, FIN | ACK] {
                let later = ask(&mut w, &from_client(v6, 40_000, 80, TCP, flags));
                assert_eq!((later.dst, later.sport), (got.dst, got.sport));
                let (verdict, out) = w.run(LB, &answer(&later, flags).build());
                assert_eq!((verdict, see(&out).dport), (Verdict::Tx, 40_000));
            }
            assert_eq!(w.snat.entries()[0].1.state, flow_state::CLOSED);
            // The client's next connection has the same record, another client's keeps off the port.
            let again = ask(&mut w, &from_client(v6, 40_000, 80, TCP, SYN));
            assert_eq!(again.sport, got.sport);
            w.snat.remove(&w.snat.entries()[0].0);
            let new = ask(&mut w, &from_client(v6, 40_000, 80, TCP, SYN));
            assert_ne!(new.sport, got.sport);
        }
    }
}

/// What the record of `spec`'s flow would be if another packet of it had made it.
fn record_of(w: &World, spec: &Spec) -> (SnatKey, SnatValue) {
    let mut other = w.clone();
    ask(&mut other, spec);
    other.snat_new.entries()[0]
}

#[test]
fn a_record_that_another_cpu_has_made_meanwhile_serves() {
    for proto in [UDP, TCP] {
        let mut w = snat_world(false, proto);
        let spec = from_client(false, 40_000, 80, proto, SYN);
        let (key, record) = record_of(&w, &spec);
        // The other CPU's packet came another way; this one is the latest.
        let rival = SnatValue {
            client_mac: [2, 0, 0, 0, 0xd, 2],
            ..record
        };
        for table in [Table::New, Table::Established] {
            w.snat_new.remove(&key);
            w.rival.set(Some((table, rival)));
            let got = ask(&mut w, &spec);
            assert_eq!(got.sport.to_be_bytes(), key.snat_port);
            assert_eq!(
                w.snat_new.get(&key).or_else(|| w.snat.get(&key)),
                Some(record)
            );
        }
        assert_eq!(w.reason(reasons::SNAT_TABLE_FULL), 0);
    }
}

#[test]
fn a_port_that_another_client_has_taken_meanwhile_is_left_to_it() {
    let mut w = snat_world(false, UDP);
    let spec = from_client(false, 40_000, 80, UDP, 0);
    let (key, record) = record_of(&w, &spec);
    let rival = SnatValue {
        client: crate::host::octets(IpAddr::from([192, 0, 2, 99])),
        ..record
    };
    w.rival.set(Some((Table::New, rival)));
    assert_eq!(w.run(LB, &spec.build()).0, Verdict::Drop);
    assert_eq!(w.reason(reasons::SNAT_NO_PORT), 1);
    assert_eq!(w.snat_new.get(&key), Some(rival));
    assert_ne!(ask(&mut w, &spec).sport.to_be_bytes(), key.snat_port);
    // Nobody took it, there is no room.
    let mut w = snat_world(false, UDP);
    w.snat_new.capacity = 0;
    assert_eq!(w.run(LB, &spec.build()).0, Verdict::Drop);
    assert_eq!(w.reason(reasons::SNAT_TABLE_FULL), 1);
}

#[test]
fn a_record_that_another_cpu_has_promoted_meanwhile_is_not_taken_for_a_full_table() {
    let mut w = snat_world(false, TCP);
    let got = ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
    assert_eq!(w.run(LB, &answer(&got, SYN | ACK).build()).0, Verdict::Tx);
    let (_, mut record) = w.snat_new.entries()[0];
    record.state = flow_state::ESTABLISHED;
    w.rival.set(Some((Table::Established, record)));
    ask(&mut w, &from_client(false, 40_000, 80, TCP, ACK));
    assert_eq!(w.reason(reasons::SNAT_TABLE_FULL), 0);
    assert_eq!(w.snat.entries()[0].1.state, flow_state::ESTABLISHED);
}

#[test]
fn replies_follow_the_clients_latest_hop() {
    let mut w = snat_world(false, TCP);
    let got = ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
    let router = [2, 0, 0, 0, 0xd, 2];
    ask(
        &mut w,
        &Spec {
            src_mac: router,
            ..from_client(false, 40_000, 80, TCP, ACK)
        },
    );
    let (_, out) = w.run(LB, &answer(&got, ACK).build());
    assert_eq!(see(&out).dst_mac, router);
    // And out of the interface that it came in on.
    let frame = Spec {
        dst_mac: LB2_MAC,
        ..from_client(false, 40_000, 80, TCP, ACK)
    }
    .build();
    assert_eq!(w.run(LB2, &frame).0, Verdict::Redirect(LB));
    assert_eq!(
        w.run(LB, &answer(&got, ACK).build()).0,
        Verdict::Redirect(LB2)
    );
}

#[test]
fn a_flood_of_first_packets_evicts_no_established_record() {
    let mut w = snat_world(false, TCP);
    w.snat_new.capacity = 64;
    let got = ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
    assert_eq!(w.run(LB, &answer(&got, SYN | ACK).build()).0, Verdict::Tx);
    ask(&mut w, &from_client(false, 40_000, 80, TCP, ACK));
    for sport in 1024..4000 {
        ask(&mut w, &from_client(false, sport, 80, TCP, SYN));
    }
    assert_eq!(w.snat_new.len(), 64);
    let (verdict, out) = w.run(LB, &answer(&got, ACK).build());
    assert_eq!((verdict, see(&out).dport), (Verdict::Tx, 40_000));
}

#[test]
fn a_full_table_of_established_records_is_counted_and_breaks_nothing() {
    let mut w = snat_world(false, TCP);
    w.snat.capacity = 0;
    let got = ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
    assert_eq!(w.run(LB, &answer(&got, SYN | ACK).build()).0, Verdict::Tx);
    ask(&mut w, &from_client(false, 40_000, 80, TCP, ACK));
    assert_eq!(w.reason(reasons::SNAT_TABLE_FULL), 1);
    assert_eq!(w.run(LB, &answer(&got, ACK).build()).0, Verdict::Tx);
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let mut w = snat_world(false, UDP);
    let got = ask(
        &mut w,
        &Spec {
            no_udp_csum: true,
            ..from_client(false, 40_000, 80, UDP, 0)
        },
    );
    assert_eq!(got.l4[6..8], [0, 0]);
}

#[test]
fn the_end_of_a_packets_life_is_said_by_the_node() {
    for v6 in [false, true] {
        let mut w = snat_world(v6, TCP);
        let request = from_client(v6, 40_000, 80, TCP, SYN);
        let got = ask(&mut w, &request);
        for (spec, n) in [(request, 1), (answer(&got, ACK), 2)] {
            let spec = Spec {
                ttl: 1,
                payload: vec![7; 301],
                ..spec
            };
            let (verdict, out) = w.run(LB, &spec.build());
            assert_eq!(verdict, Verdict::Tx);
            let told = see(&out);
            let own: IpAddr = if v6 {
                "fd00::1".parse().unwrap()
            } else {
                [10, 0, 0, 1].into()
            };
            assert_eq!((told.src, told.dst, told.ttl), (own, spec.src, 64));
            assert_eq!((told.dst_mac, told.src_mac), (spec.src_mac, LB_MAC));
            let kind = if v6 { 3 } else { 11 };
            assert_eq!(told.l4[..8], [kind, 0, told.l4[2], told.l4[3], 0, 0, 0, 0]);
            assert_eq!(told.l4[8..], spec.l3()[..told.l4.len() - 8]);
            assert_eq!(w.reason(reasons::TTL_EXPIRED), n);
        }
    }
}

#[test]
fn a_short_packet_at_the_end_of_its_life_is_quoted_whole() {
    for (v6, len) in [(false, 20 + 8 + 2), (true, 40 + 8 + 2)] {
        let mut w = snat_world(v6, UDP);
        // A frame has at least 60 bytes, a datagram may have fewer, and an odd number; a group is never told.
        let spec = Spec {
            ttl: 1,
            payload: vec![9; 3],
            ..from_client(v6, 40_000, 80, UDP, 0)
        };
        let mut frame = spec.build();
        frame.resize(frame.len().max(60), 0);
        let (verdict, out) = w.run(LB, &frame);
        assert_eq!(verdict, Verdict::Tx);
        assert_eq!(see(&out).l4[8..], spec.l3()[..len]);
        let group = if v6 { "ff02::1" } else { "224.0.0.1" };
        let spec = Spec {
            src: group.parse().unwrap(),
            ..spec
        };
        assert_eq!(w.run(LB, &spec.build()).0, Verdict::Drop);
        assert_eq!(w.reason(reasons::TTL_EXPIRED), 2);
        // Without an address of its own the node speaks as the VIP.
        let iface = w.ifaces.get_mut(LB).unwrap();
        (iface.addr4, iface.addr6) = ([0; 4], [0; 16]);
        let (_, out) = w.run(LB, &frame);
        assert_eq!(see(&out).src, vip(v6));
    }
}

#[test]
fn in_transition_the_record_is_the_flow_entry() {
    for v6 in [false, true] {
        let mut w = snat_world(v6, TCP);
        let before = ask(&mut w, &from_client(v6, 40_000, 80, TCP, SYN));
        // Every slot now names the next backend, and had the former one.
        let former: Vec<u16> = (0..M).map(|i| u16::try_from(i).unwrap() % N).collect();
        let present: Vec<u16> = former.iter().map(|i| (i + 1) % N).collect();
        let previous = w.set_table(3000, &former);
        let current = w.set_table(4000, &present);
        let fe = w.frontends.get_mut(FE).unwrap();
        (fe.previous, fe.current) = (previous, current);
        fe.flags |= frontend_flags::IN_TRANSITION;

        // The flow with a record stays, SYN or not; a new one takes the present table; one without a record that has begun stays.
        assert_eq!(
            ask(&mut w, &from_client(v6, 40_000, 80, TCP, SYN)).dst,
            before.dst
        );
        assert_eq!(
            ask(&mut w, &from_client(v6, 40_000, 80, TCP, ACK)).dst,
            before.dst
        );
        let plain = ask(
            &mut snat_world(v6, TCP),
            &from_client(v6, 41_000, 80, TCP, SYN),
        )
        .dst;
        let new = ask(&mut w, &from_client(v6, 41_000, 80, TCP, SYN)).dst;
        assert_ne!(new, plain);
        assert_eq!(
            ask(&mut w, &from_client(v6, 41_000, 80, TCP, ACK)).dst,
            new,
            "its record says so"
        );
        let plain = ask(
            &mut snat_world(v6, TCP),
            &from_client(v6, 42_000, 80, TCP, SYN),
        )
        .dst;
        let begun = ask(&mut w, &from_client(v6, 42_000, 80, TCP, ACK));
        assert_eq!(begun.dst, plain);
        // Both directions go on.
        let (verdict, out) = w.run(LB, &answer(&begun, ACK).build());
        assert_eq!((verdict, see(&out).dport), (Verdict::Tx, 42_000));
    }
}

/// The backends that a flow's slot has in turn, and one that it never has.
const TURNS: [u16; 3] = [1, 2, 3];
const ELSEWHERE: u16 = 4;

/// In transition; every slot gives `current` and had `previous` before.
fn between_changes(w: &mut World, previous: u16, current: u16) {
    let previous = w.set_table(3000, &[previous; 509]);
    let current = w.set_table(4000, &[current; 251]);
    let fe = w.frontends.get_mut(FE).unwrap();
    (fe.previous, fe.current) = (previous, current);
    fe.flags |= frontend_flags::IN_TRANSITION;
}

/// A whole handshake from `sport`, and what the backend saw of its end.
fn open(w: &mut World, v6: bool, sport: u16) -> Seen {
    let got = ask(w, &from_client(v6, sport, 80, TCP, SYN));
    assert_eq!(w.run(LB, &answer(&got, SYN | ACK).build()).0, Verdict::Tx);
    let begun = ask(w, &from_client(v6, sport, 80, TCP, ACK));
    assert_eq!((begun.dst, begun.sport), (got.dst, got.sport));
    begun
}

#[test]
fn a_flow_that_began_between_two_changes_keeps_its_backend() {
    for v6 in [false, true] {
        let mut w = snat_world(v6, TCP);
        let [first, second, third] = TURNS;
        between_changes(&mut w, first, second);
        let begun = open(&mut w, v6, 40_000);
        let half_open = ask(&mut w, &from_client(v6, 41_000, 80, TCP, SYN));
        assert_eq!(begun.dst, backend_addr(v6, second));
        assert_eq!(half_open.dst, begun.dst);
        // The slot changes again before it folds: neither table names the flow's backend any more.
        between_changes(&mut w, first, third);
        for flags in [ACK, SYN, FIN | ACK] {
            let later = ask(&mut w, &from_client(v6, 40_000, 80, TCP, flags));
            assert_eq!((later.dst, later.sport), (begun.dst, begun.sport));
        }
        let (verdict, out) = w.run(LB, &answer(&begun, ACK).build());
        assert_eq!((verdict, see(&out).dport), (Verdict::Tx, 40_000));
        // Nor is one lost that was half-open at the change.
        let later = ask(&mut w, &from_client(v6, 41_000, 80, TCP, ACK));
        assert_eq!((later.dst, later.sport), (half_open.dst, half_open.sport));
        // A new one takes the present table, one that began before both changes the former.
        assert_eq!(open(&mut w, v6, 42_000).dst, backend_addr(v6, third));
        let old = ask(&mut w, &from_client(v6, 43_000, 80, TCP, ACK));
        assert_eq!(old.dst, backend_addr(v6, first));
        assert_eq!(w.snat.len() + w.snat_new.len(), 4, "a record for each");
    }
}

#[test]
fn a_record_corrects_what_is_remembered() {
    // The record is under the present backend, and nothing is remembered: it came from another node, or the first packet was long ago.
    let [first, second, third] = TURNS;
    let mut w = snat_world(false, TCP);
    between_changes(&mut w, first, second);
    let begun = open(&mut w, false, 40_000);
    let (key, _) = w.flows.entries()[0];
    w.flows.remove(&key);
    let later = ask(&mut w, &from_client(false, 40_000, 80, TCP, ACK));
    assert_eq!((later.dst, later.sport), (begun.dst, begun.sport));
    assert_eq!(w.flows.get(&key).unwrap().backend, second);
    between_changes(&mut w, first, third);
    let later = ask(&mut w, &from_client(false, 40_000, 80, TCP, ACK));
    assert_eq!((later.dst, later.sport), (begun.dst, begun.sport));
}

#[test]
fn an_entry_without_life_keeps_no_flow() {
    let [first, second, third] = TURNS;
    let mut w = snat_world(false, TCP);
    between_changes(&mut w, first, second);
    open(&mut w, false, 40_000);
    between_changes(&mut w, first, third);
    let index = FE * 16 + u32::from(second);
    w.backends4.get_mut(index).unwrap().flags = 0;
    let later = ask(&mut w, &from_client(false, 40_000, 80, TCP, ACK));
    assert_eq!(later.dst, backend_addr(false, first), "as without an entry");
}

#[test]
fn flow_tables_are_for_tcp_of_changed_slots() {
    let [first, second, _] = TURNS;
    // Not in transition; in transition with an unchanged slot; a datagram of a changed slot.
    for (proto, in_transition, previous) in [
        (TCP, false, first),
        (TCP, true, NOWHERE),
        (UDP, true, first),
    ] {
        let mut w = snat_world(false, proto);
        between_changes(&mut w, previous, second);
        if !in_transition {
            w.frontends.get_mut(FE).unwrap().flags &= !frontend_flags::IN_TRANSITION;
        }
        // What the flow tables say is not asked either.
        let entry = fairlead_abi::flow::FlowValue {
            last_seen: w.now.get(),
            frontend: FE,
            backend: ELSEWHERE,
            state: flow_state::ESTABLISHED,
        };
        let entry_key = fairlead_abi::flow::FlowKey {
            client: crate::host::octets(client(false)),
            vip: crate::host::octets(vip(false)),
            client_port: 40_000_u16.to_be_bytes(),
            vip_port: 80_u16.to_be_bytes(),
            proto,
            _pad: [0; 3],
        };
        w.flows.insert(entry_key, entry, Insert::Any);
        for flags in [SYN, ACK] {
            let got = ask(&mut w, &from_client(false, 40_000, 80, proto, flags));
            assert_eq!(got.dst, backend_addr(false, second));
        }
        assert_eq!(w.flows.entries(), [(entry_key, entry)]);
        assert!(w.flows_new.is_empty());
    }
}

#[test]
fn a_flow_whose_backend_died_goes_to_the_present_one() {
    let mut w = snat_world(false, TCP);
    let before = ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
    let dead = (0..N)
        .find(|&i| backend_addr(false, i) == before.dst)
        .unwrap();
    let former: Vec<u16> = (0..M).map(|i| u16::try_from(i).unwrap() % N).collect();
    let present: Vec<u16> = former
        .iter()
        .map(|&i| if i == dead { (dead + 1) % N } else { i })
        .collect();
    let previous = w.set_table(3000, &former);
    let current = w.set_table(4000, &present);
    let fe = w.frontends.get_mut(FE).unwrap();
    (fe.previous, fe.current) = (previous, current);
    fe.flags |= frontend_flags::IN_TRANSITION;
    w.backends4
        .get_mut(FE * 16 + u32::from(dead))
        .unwrap()
        .flags = 0;
    assert_ne!(
        ask(&mut w, &from_client(false, 40_000, 80, TCP, ACK)).dst,
        before.dst
    );
}

#[test]
fn the_second_interface_has_its_own_limit() {
    // A reply that does not fit the client's interface is answered to the backend.
    let mut w = snat_world(false, TCP);
    let frame = Spec {
        dst_mac: LB2_MAC,
        ..from_client(false, 40_000, 80, TCP, SYN)
    }
    .build();
    let (verdict, out) = w.run(LB2, &frame);
    assert_eq!(verdict, Verdict::Redirect(LB));
    let reply = Spec {
        payload: vec![0; 1440],
        ..answer(&see(&out), ACK)
    };
    let (verdict, out) = w.run(LB, &reply.build());
    assert_eq!(verdict, Verdict::Tx);
    let told = see(&out);
    assert_eq!((told.src, told.dst), (vip(false), reply.src));
    assert_eq!(
        (told.l4[0], told.l4[1], &told.l4[6..8]),
        (3, 4, &1400u16.to_be_bytes()[..])
    );
    assert_eq!(w.ifaces.get(LB2).map(|i: &Iface| i.mtu), Some(1400));
}

#[test]
fn fragments_of_a_datagram_are_translated_alike() {
    let mut w = snat_world(false, UDP);
    let spec = Spec {
        payload: (0..64).collect(),
        ..from_client(false, 40_000, 80, UDP, 0)
    };
    let whole = ask(&mut w.clone(), &spec);
    let [first, second] = fragments4(&spec.l3(), 40);
    let (verdict, out1) = w.run(LB, &ether(CLIENT_MAC, LB_MAC, &first));
    assert_eq!(verdict, Verdict::Tx);
    let (verdict, out2) = w.run(LB, &ether(CLIENT_MAC, LB_MAC, &second));
    assert_eq!(verdict, Verdict::Tx);
    // Put together again it is the same datagram, checksum included.
    assert_eq!([&out1[34..], &out2[34..]].concat(), whole.l4);
    assert_eq!(out1[..14], out2[..14]);
    assert_eq!(out2[26..34], out1[26..34]);
    assert_eq!(w.snat_new.len(), 1);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Any interleaving of flows of any clients: no two live flows share a key, every reply reaches its client.
        #[test]
        fn every_reply_reaches_its_own_client(
            v6: bool,
            flows in prop::collection::hash_set((1u8..250, any::<u16>()), 1..60),
        ) {
            let mut w = snat_world(v6, UDP);
            let mut sent = Vec::new();
            for (last, sport) in flows {
                let src: IpAddr = if v6 {
                    let mut octets = CLIENT6.octets();
                    octets[15] = last;
                    octets.into()
                } else {
                    [192, 0, 2, last].into()
                };
                let spec = Spec { src, ..from_client(v6, sport, 80, UDP, 0) };
                sent.push((ask(&mut w, &spec), src, sport));
            }
            for (got, src, sport) in &sent {
                prop_assert!(got.sport >= 1024);
                let (verdict, out) = w.run(LB, &answer(got, 0).build());
                prop_assert_eq!(verdict, Verdict::Tx);
                let seen = see(&out);
                prop_assert_eq!((seen.dst, seen.dport, seen.sport), (*src, *sport, 80));
            }
        }
    }
}

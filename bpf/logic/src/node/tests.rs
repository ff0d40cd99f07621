use std::net::IpAddr;

use fairlead_abi::lb::{backend_flags, frontend_flags, mode};

use super::*;
use crate::{
    Insert, hash,
    host::World,
    testing::{self, *},
};

const FE: u32 = 5;
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0xd, 1];

fn node(v6: bool) -> IpAddr {
    if v6 {
        "fd00:9::1".parse().unwrap()
    } else {
        [10, 9, 0, 1].into()
    }
}

/// A SNAT frontend whose backends are behind the second interface and see the node's address there.
fn node_world(v6: bool, proto: u8) -> World {
    let mut w = world();
    frontend(&mut w, FE, v6, 80, proto, mode::SNAT);
    for i in 0..N {
        set_backend(&mut w, v6, FE * 16, i, LB2 as u8);
        let index = FE * 16 + u32::from(i);
        if v6 {
            w.backends6.get_mut(index).unwrap().flags |= backend_flags::NODE_SOURCE;
        } else {
            w.backends4.get_mut(index).unwrap().flags |= backend_flags::NODE_SOURCE;
        }
    }
    w
}

fn ask(w: &mut World, spec: &Spec) -> Seen {
    let (verdict, out) = w.run(LB, &spec.build());
    assert_eq!(verdict, Verdict::Redirect(LB2), "{:?}", w.reasons());
    see(&out)
}

/// What a backend that got this answers, to the second interface.
fn answer(got: &Seen, flags: u8) -> Spec {
    Spec {
        dst_mac: LB2_MAC,
        ..testing::answer(got, flags)
    }
}

#[test]
fn a_backend_elsewhere_sees_the_node_and_its_answer_finds_the_client() {
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            let mut w = node_world(v6, proto);
            let spec = from_client(v6, 40_000, 80, proto, SYN);
            let got = ask(&mut w, &spec);
            assert_eq!((got.src, got.dport), (node(v6), BACKEND_PORT));
            assert!(got.sport >= NODE_PORT_MIN, "{}", got.sport);
            let (verdict, out) = w.run(LB2, &answer(&got, SYN | ACK).build());
            assert_eq!(verdict, Verdict::Redirect(LB));
            let seen = see(&out);
            assert_eq!((seen.src, seen.dst), (vip(v6), client(v6)));
            assert_eq!((seen.sport, seen.dport), (80, 40_000));
            let later = ask(&mut w, &from_client(v6, 40_000, 80, proto, ACK));
            assert_eq!((later.src, later.sport), (got.src, got.sport));
            assert_eq!((w.snat.len(), w.snat_new.len()), (1, 0));
        }
    }
}

#[test]
fn the_hosts_own_packets_pass() {
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            let mut w = node_world(v6, proto);
            let got = ask(&mut w, &from_client(v6, 40_000, 80, proto, SYN));
            let reply = answer(&got, ACK);
            let others = [
                // The host's own connection to the same backend, by a port that the kernel gives out.
                Spec {
                    dport: 60_999,
                    ..reply.clone()
                },
                // A port of the range without a record: another one, another backend, another backend port, the other protocol.
                Spec {
                    dport: NODE_PORT_MIN + (got.sport - NODE_PORT_MIN + 1) % 4_536,
                    ..reply.clone()
                },
                Spec {
                    src: "192.0.2.200".parse().unwrap(),
                    dst: "10.9.0.1".parse().unwrap(),
                    ..reply.clone()
                },
                Spec {
                    sport: 9,
                    ..reply.clone()
                },
                Spec {
                    proto: if proto == TCP { UDP } else { TCP },
                    ..reply.clone()
                },
            ];
            for spec in others {
                let frame = spec.build();
                assert_eq!(w.run(LB2, &frame), (Verdict::Pass, frame), "{spec:?}");
            }
            // Forwarded through this host, or to its address of another interface: not at the record's address.
            let dst: IpAddr = if v6 {
                "fd00::1".parse().unwrap()
            } else {
                [10, 0, 0, 1].into()
            };
            assert_eq!(w.run(LB2, &Spec { dst, ..reply }.build()).0, Verdict::Pass);
            assert_eq!(w.reasons(), std::collections::BTreeMap::new());
        }
    }
}

#[test]
fn flows_of_two_vips_are_told_apart() {
    let mut w = node_world(false, TCP);
    let second: IpAddr = [10, 0, 0, 101].into();
    assert!(w.add_vip(second, 0, 0, 3));
    assert!(w.add_vip(second, 80, TCP, 6));
    let fe = *w.frontends.get(FE).unwrap();
    w.frontends.set(6, fe);
    let mut seen = std::collections::HashSet::new();
    for sport in 2000..4000 {
        for dst in [vip(false), second] {
            let spec = Spec {
                dst,
                ..from_client(false, sport, 80, TCP, SYN)
            };
            let got = ask(&mut w, &spec);
            assert!(seen.insert((got.dst, got.sport)), "a port came twice");
            let (_, out) = w.run(LB2, &answer(&got, SYN | ACK).build());
            assert_eq!((see(&out).src, see(&out).dport), (dst, sport));
        }
    }
}

#[test]
fn records_of_one_client_to_two_vips_are_not_mixed_up() {
    // The same client, port, backend and SNAT port: only the VIP differs.
    let mut w = node_world(false, TCP);
    let spec = from_client(false, 40_000, 80, TCP, SYN);
    let got = ask(&mut w, &spec);
    let (key, mut record) = w.snat_new.entries()[0];
    record.vip = crate::host::octets([10, 0, 0, 101].into());
    w.snat_new.insert(key, record, Insert::Any);
    let again = ask(&mut w, &spec);
    assert_ne!(again.sport, got.sport);
    assert_eq!(w.snat_new.get(&key), Some(record));
}

#[test]
fn ports_of_frontends_at_the_nodes_own_address_are_left_alone() {
    let mut w = node_world(false, TCP);
    let port = ask(&mut w.clone(), &from_client(false, 40_000, 80, TCP, SYN)).sport;
    assert!(w.add_vip(node(false), port, TCP, 9));
    let got = ask(&mut w, &from_client(false, 40_000, 80, TCP, SYN));
    assert_ne!(got.sport, port);
}

#[test]
fn without_an_address_on_the_interface_the_source_is_the_vip() {
    for v6 in [false, true] {
        let mut w = node_world(v6, TCP);
        let iface = w.ifaces.get_mut(LB2).unwrap();
        (iface.addr4, iface.addr6) = ([0; 4], [0; 16]);
        let got = ask(&mut w, &from_client(v6, 40_000, 80, TCP, SYN));
        assert_eq!(got.src, vip(v6));
        let (verdict, out) = w.run(LB2, &answer(&got, SYN | ACK).build());
        assert_eq!((verdict, see(&out).dport), (Verdict::Redirect(LB), 40_000));
    }
}

#[test]
fn fragments_of_a_reply_to_the_node_find_the_client() {
    let mut w = node_world(false, UDP);
    let got = ask(&mut w, &from_client(false, 40_000, 80, UDP, 0));
    let spec = Spec {
        payload: (0..64).collect(),
        ..answer(&got, 0)
    };
    for fragment in fragments4(&spec.l3(), 40) {
        let (verdict, out) = w.run(LB2, &ether(spec.src_mac, LB2_MAC, &fragment));
        assert_eq!(
            (verdict, &out[..6]),
            (Verdict::Redirect(LB), &CLIENT_MAC[..])
        );
        assert_eq!(out[30..34], [192, 0, 2, 7]);
    }
    // The host's own fragmented datagrams are remembered nowhere.
    let n = w.frags.len();
    for fragment in fragments4(&Spec { dport: 53, ..spec }.l3(), 40) {
        let frame = ether(CLIENT_MAC, LB2_MAC, &fragment);
        let changed_id = [&frame[..18], &[9, 9], &frame[20..]].concat();
        assert_eq!(w.run(LB2, &changed_id).0, Verdict::Pass);
    }
    assert_eq!(w.frags.len(), n);
}

/// An error to the node's address on the second interface.
fn error(v6: bool, kind: u8, code: u8, rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let router: IpAddr = if v6 {
        "2001:db8:ffff::1".parse().unwrap()
    } else {
        [198, 51, 100, 1].into()
    };
    let message = icmp_message(router, node(v6), kind, code, rest, quoted);
    let proto = if v6 { 58 } else { 1 };
    let packet = ip(router, node(v6), proto, 60, &message);
    ether(ROUTER_MAC, LB2_MAC, &packet)
}

#[test]
fn an_error_about_a_request_from_the_node_reaches_the_client_in_its_terms() {
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            let mut w = node_world(v6, proto);
            let spec = from_client(v6, 40_000, 80, proto, SYN);
            let (_, sent) = w.run(LB, &spec.build());
            let kind = if v6 { 1 } else { 3 };
            let frame = error(v6, kind, 3, [0; 4], &sent[14..]);
            let (verdict, out) = w.run(LB2, &frame);
            assert_eq!(verdict, Verdict::Redirect(LB));
            let seen = see(&out);
            assert_eq!((seen.src, seen.dst), (vip(v6), client(v6)));
            let quoted = Spec {
                ttl: spec.ttl - 1,
                ..spec
            };
            assert_eq!(seen.l4[8..], quoted.l3());
            // About a packet that no record knows, one of the host's, and no error at all: the host's.
            let own = Spec {
                src: node(v6),
                dst: client(v6),
                ..from_client(v6, NODE_PORT_MIN, 9, proto, ACK)
            };
            let low = Spec {
                sport: 60_999,
                ..own.clone()
            };
            for quoted in [own.l3(), low.l3(), vec![0; 48]] {
                let frame = error(v6, kind, 3, [0; 4], &quoted);
                assert_eq!(w.run(LB2, &frame), (Verdict::Pass, frame));
            }
            let echo = error(v6, if v6 { 128 } else { 8 }, 0, [0; 4], &sent[14..]);
            assert_eq!(w.run(LB2, &echo), (Verdict::Pass, echo));
            assert_eq!(w.reason(reasons::ICMP_FORWARDED), 1);
        }
    }
}

#[test]
fn an_error_about_a_reply_reaches_the_backend_by_the_node() {
    for v6 in [false, true] {
        let mut w = node_world(v6, TCP);
        let got = ask(&mut w, &from_client(v6, 40_000, 80, TCP, SYN));
        let reply = Spec {
            src: vip(v6),
            dst: client(v6),
            ..from_client(v6, 80, 40_000, TCP, ACK)
        };
        let router: IpAddr = if v6 {
            "2001:db8:ffff::1".parse().unwrap()
        } else {
            [198, 51, 100, 1].into()
        };
        let (kind, proto) = if v6 { (1, 58) } else { (3, 1) };
        let message = icmp_message(router, vip(v6), kind, 1, [0; 4], &reply.l3());
        let frame = ether(
            ROUTER_MAC,
            LB_MAC,
            &ip(router, vip(v6), proto, 60, &message),
        );
        let (verdict, out) = w.run(LB, &frame);
        assert_eq!(verdict, Verdict::Redirect(LB2));
        let seen = see(&out);
        assert_eq!((seen.src, seen.dst), (node(v6), got.dst));
        let quoted = see_l3(&seen.l4[8..]);
        assert_eq!((quoted.src, quoted.sport), (got.dst, BACKEND_PORT));
        assert_eq!((quoted.dst, quoted.dport), (node(v6), got.sport));
    }
}

/// An IPIP frontend whose backends are behind the second interface; a client's packet and what is sent for it.
fn tunnel(v6: bool, proto: u8) -> (World, Spec, Vec<u8>) {
    let mut w = world();
    frontend(&mut w, FE, v6, 80, proto, mode::DSR_IPIP);
    for i in 0..N {
        set_backend(&mut w, v6, FE * 16, i, LB2 as u8);
    }
    let spec = Spec {
        payload: vec![3; 901],
        ..from_client(v6, 40_000, 80, proto, ACK)
    };
    let (verdict, out) = w.run(LB, &spec.build());
    assert_eq!(verdict, Verdict::Redirect(LB2));
    (w, spec, out[14..].to_vec())
}

fn too_big(v6: bool, mtu: u16, quoted: &[u8]) -> Vec<u8> {
    let [hi, lo] = mtu.to_be_bytes();
    let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
    error(v6, kind, code, [0, 0, hi, lo], quoted)
}

#[test]
fn a_smaller_mtu_on_the_way_to_a_backend_is_told_to_the_client() {
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            let (mut w, spec, sent) = tunnel(v6, proto);
            let header = if v6 { 40 } else { 20 };
            // Just the ports, an odd number of bytes, all that a router may quote.
            for len in [2 * header + 8, 2 * header + 31, 540] {
                let (verdict, out) = w.run(LB2, &too_big(v6, 1400, &sent[..len]));
                assert_eq!(verdict, Verdict::Tx, "{:?}", w.reasons());
                let told = see(&out);
                assert_eq!((told.src, told.dst, told.ttl), (vip(v6), client(v6), 64));
                assert_eq!((told.dst_mac, told.src_mac), (ROUTER_MAC, LB2_MAC));
                let kind: [u8; 2] = if v6 { [2, 0] } else { [3, 4] };
                assert_eq!(told.l4[..2], kind);
                let fits = 1400 - u16::try_from(header).unwrap();
                assert_eq!(told.l4[4..8], [&[0, 0][..], &fits.to_be_bytes()].concat());
                assert_eq!(told.l4[8..], spec.l3()[..len - header]);
            }
            assert_eq!(w.reason(reasons::TUNNEL_TOO_BIG), 3);
        }
    }
}

#[test]
fn headers_with_options_are_left_out_of_the_answer() {
    // Over IPv4 options, over IPv6 an extension header before the error.
    let (mut w, spec, sent) = tunnel(false, TCP);
    let frame = too_big(false, 1400, &sent[..100]);
    let mut packet = frame[14..].to_vec();
    packet.splice(20..20, [1, 1, 1, 1]);
    packet[0] = 0x46;
    let len = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    let (verdict, out) = w.run(LB2, &ether(ROUTER_MAC, LB2_MAC, &packet));
    assert_eq!(
        (verdict, &see(&out).l4[8..]),
        (Verdict::Tx, &spec.l3()[..80])
    );
}

#[test]
fn other_errors_about_tunnels_are_counted_and_pass() {
    for v6 in [false, true] {
        let (mut w, _, sent) = tunnel(v6, TCP);
        let kind = if v6 { 1 } else { 3 };
        // The server does not unwrap; a router that does not say what fits; one that leaves nothing for the client; nobody to be told.
        let frames = [
            error(v6, kind, 2, [0; 4], &sent[..500]),
            too_big(v6, 0, &sent[..500]),
            too_big(v6, if v6 { 1319 } else { 87 }, &sent[..500]),
        ];
        for frame in &frames {
            assert_eq!(w.run(LB2, frame), (Verdict::Pass, frame.clone()));
        }
        assert_eq!(w.reason(reasons::TUNNEL_ERROR), 3);
        let least = too_big(v6, if v6 { 1320 } else { 88 }, &sent[..500]);
        assert_eq!(w.run(LB2, &least).0, Verdict::Tx);
    }
}

#[test]
fn somebody_elses_tunnel_and_lies_change_nothing() {
    for v6 in [false, true] {
        let (mut w, _, sent) = tunnel(v6, TCP);
        let header = if v6 { 40 } else { 20 };
        let changed = |at: usize, to: u8| {
            let mut quoted = sent[..500].to_vec();
            quoted[at] = to;
            quoted
        };
        let quotations = [
            // Another sender, another backend, another destination inside, another port, too little of it, not TCP or UDP.
            changed(header / 2 + 2, 77),
            changed(header - 1, 99),
            changed(2 * header - 1, 99),
            changed(2 * header + 3, 99),
            sent[..2 * header].to_vec(),
            changed(header + if v6 { 6 } else { 9 }, 47),
        ];
        for (i, quoted) in quotations.iter().enumerate() {
            let frame = too_big(v6, 1400, quoted);
            assert_eq!(w.run(LB2, &frame), (Verdict::Pass, frame), "{i}");
        }
        // The same flow, but now it goes by another mode, or nowhere.
        let frame = too_big(v6, 1400, &sent[..500]);
        let flags = w.frontends.get(FE).unwrap().flags;
        w.frontends.get_mut(FE).unwrap().flags = mode::SNAT << frontend_flags::MODE_SHIFT;
        assert_eq!(w.run(LB2, &frame).0, Verdict::Pass);
        let fe = w.frontends.get_mut(FE).unwrap();
        (fe.flags, fe.current.len) = (flags, 0);
        assert_eq!(w.run(LB2, &frame).0, Verdict::Pass);
        assert_eq!(w.reason(reasons::TUNNEL_TOO_BIG), 0);
    }
}

#[test]
fn node_ports_lie_in_their_range_and_probes_differ() {
    for client_port in [0, 1, 40_000, u16::MAX] {
        let ports: std::collections::HashSet<u16> = (0..8)
            .map(|attempt| hash::node_port(client_port, 64_511, attempt))
            .collect();
        assert_eq!(ports.len(), 8);
        assert!(ports.iter().all(|port| *port >= NODE_PORT_MIN));
    }
}

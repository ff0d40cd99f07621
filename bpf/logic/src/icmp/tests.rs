use std::net::IpAddr;

use fairlead_abi::lb::{frontend_flags, mode};

use super::*;
use crate::{host::World, testing::*};

const ROUTER4: [u8; 4] = [198, 51, 100, 1];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0xd, 1];

fn router(v6: bool) -> IpAddr {
    if v6 {
        "2001:db8:ffff::1".parse().unwrap()
    } else {
        ROUTER4.into()
    }
}

/// An error from a router to the VIP about the packet `l3`, of which it quotes `len` bytes.
fn error(v6: bool, kind: u8, code: u8, l3: &[u8], len: usize) -> Vec<u8> {
    let message = icmp_message(
        router(v6),
        vip(v6),
        kind,
        code,
        [0, 0, 5, 0],
        &l3[..len.min(l3.len())],
    );
    let proto = if v6 { 58 } else { 1 };
    ether(
        ROUTER_MAC,
        LB_MAC,
        &ip(router(v6), vip(v6), proto, 60, &message),
    )
}

/// What the VIP would have sent to the client of [`from_client`].
fn from_vip(v6: bool, sport: u16, dport: u16, proto: u8) -> Spec {
    Spec {
        src: vip(v6),
        dst: client(v6),
        sport,
        dport,
        ..from_client(v6, 0, 0, proto, ACK)
    }
}

#[test]
fn an_error_about_a_direct_reply_goes_to_the_backend_of_the_flow() {
    for v6 in [false, true] {
        for fe_mode in [mode::DSR_L2, mode::DSR_IPIP] {
            let mut w = world();
            frontend(&mut w, 5, v6, 80, TCP, fe_mode);
            for sport in 2000..2050 {
                let (_, flow) = w.run(LB, &from_client(v6, sport, 80, TCP, ACK).build());
                let l3 = from_vip(v6, 80, sport, TCP).l3();
                let kind = if v6 { 2 } else { 3 };
                let frame = error(v6, kind, 4, &l3, 48);
                let (verdict, out) = w.run(LB, &frame);
                assert_eq!(verdict, Verdict::Tx);
                assert_eq!(out[..12], flow[..12], "the same backend");
                let inner = if fe_mode == mode::DSR_L2 {
                    14
                } else if v6 {
                    54
                } else {
                    34
                };
                assert_eq!(out[inner..], frame[14..], "as it is");
            }
            assert_eq!(w.reason(reasons::ICMP_FORWARDED), 50);
            assert_eq!(
                w.frontend_counter(5).packets,
                50,
                "errors are not the frontend's"
            );
        }
    }
}

#[test]
fn an_error_follows_its_flow_through_a_transition() {
    let mut w = world();
    frontend(&mut w, 5, false, 80, TCP, mode::DSR_L2);
    let previous = w.set_table(3000, &[1; 251]);
    let current = w.set_table(4000, &[2; 251]);
    let fe = w.frontends.get_mut(5).unwrap();
    (fe.previous, fe.current) = (previous, current);
    fe.flags |= frontend_flags::IN_TRANSITION;
    let about = |w: &mut World, sport| {
        let frame = error(false, 3, 1, &from_vip(false, 80, sport, TCP).l3(), 28);
        w.run(LB, &frame).1[5] - 1
    };
    assert_eq!(
        w.run(LB, &from_client(false, 2000, 80, TCP, SYN).build()).1[5] - 1,
        2
    );
    assert_eq!(about(&mut w, 2000), 2, "a new flow, half-open");
    assert_eq!(about(&mut w, 2001), 1, "one that began before");
    assert!(w.flows.is_empty(), "an error makes no entry");
}

fn snat_flow(v6: bool, proto: u8) -> (World, Spec, Vec<u8>) {
    let mut w = world();
    frontend(&mut w, 5, v6, 80, proto, mode::SNAT);
    let spec = from_client(v6, 40_000, 80, proto, SYN);
    let (verdict, out) = w.run(LB, &spec.build());
    assert_eq!(verdict, Verdict::Tx);
    (w, spec, out[14..].to_vec())
}

#[test]
fn an_error_about_a_translated_request_reaches_the_client_in_its_terms() {
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            // Eight bytes of the transport header, or so much that its checksum is there.
            for len in [if v6 { 48 } else { 28 }, 1000] {
                let (mut w, spec, sent) = snat_flow(v6, proto);
                let kind = if v6 { 1 } else { 3 };
                let (verdict, out) = w.run(LB, &error(v6, kind, 3, &sent, len));
                assert_eq!(verdict, Verdict::Tx);
                let seen = see(&out);
                assert_eq!((seen.src, seen.dst), (vip(v6), client(v6)));
                assert_eq!(
                    (seen.dst_mac, seen.src_mac, seen.ttl),
                    (CLIENT_MAC, LB_MAC, 59)
                );
                assert_eq!(seen.l4[..2], [kind, 3]);
                assert_eq!(seen.l4[4..8], [0, 0, 5, 0]);
                assert_quotes(&seen.l4[8..], &spec, len);
                assert_eq!(w.reason(reasons::ICMP_FORWARDED), 1);
            }
        }
    }
}

/// The quotation is the client's own packet, but for the time to live, and its checksums are right.
fn assert_quotes(quoted: &[u8], spec: &Spec, len: usize) {
    let sent = Spec {
        ttl: spec.ttl - 1,
        ..spec.clone()
    }
    .l3();
    assert_eq!(quoted, &sent[..len.min(sent.len())]);
}

#[test]
fn an_error_about_a_translated_reply_reaches_the_backend_in_its_terms() {
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            let (mut w, _, sent) = snat_flow(v6, proto);
            let got = see_l3(&sent);
            let i = (0..N).find(|&i| backend_addr(v6, i) == got.dst).unwrap();
            let reply = from_vip(v6, 80, 40_000, proto).l3();
            let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
            let (verdict, out) = w.run(LB, &error(v6, kind, code, &reply, 1000));
            assert_eq!(verdict, Verdict::Tx);
            let seen = see(&out);
            assert_eq!((seen.src, seen.dst), (vip(v6), got.dst));
            assert_eq!((seen.dst_mac, seen.src_mac), (backend_mac(i), LB_MAC));
            // It quotes what the backend sent, checksums included.
            let quoted = see_l3(&seen.l4[8..]);
            assert_eq!((quoted.src, quoted.sport), (got.dst, BACKEND_PORT));
            assert_eq!((quoted.dst, quoted.dport), (vip(v6), got.sport));
        }
    }
}

#[test]
fn an_error_about_a_request_from_a_port_that_a_frontend_has_now_reaches_the_client() {
    for v6 in [false, true] {
        for fe_mode in MODES {
            let (mut w, spec, sent) = snat_flow(v6, TCP);
            frontend(&mut w, 6, v6, see_l3(&sent).sport, TCP, fe_mode);
            let about = error(v6, if v6 { 1 } else { 3 }, 3, &sent, 1000);
            w.frontends.get_mut(6).unwrap().flags |= frontend_flags::ASK_RECORDS;
            let (verdict, out) = w.run(LB, &about);
            assert_eq!((verdict, see(&out).dst), (Verdict::Tx, client(v6)));
            assert_quotes(&see(&out).l4[8..], &spec, 1000);
        }
    }
}

#[test]
fn what_belongs_to_no_flow_is_dropped() {
    for v6 in [false, true] {
        let mut w = world();
        frontend(&mut w, 5, v6, 80, TCP, mode::SNAT);
        let kind = if v6 { 1 } else { 3 };
        let other = Spec {
            src: backend_addr(v6, 1),
            ..from_vip(v6, 80, 9, TCP)
        };
        let frames = [
            // No record, another source than the VIP, a protocol without ports, too short a quotation, no error at all.
            error(v6, kind, 3, &from_vip(v6, 80, 9, TCP).l3(), 1000),
            error(v6, kind, 3, &other.l3(), 1000),
            error(
                v6,
                kind,
                3,
                &ip(vip(v6), client(v6), 47, 64, &[0; 40]),
                1000,
            ),
            error(v6, kind, 3, &from_vip(v6, 80, 9, TCP).l3(), 22),
            error(v6, if v6 { 129 } else { 0 }, 0, &[0; 40], 40),
        ];
        for (i, frame) in frames.iter().enumerate() {
            assert_eq!(w.run(LB, frame).0, Verdict::Drop);
            assert_eq!(w.reason(reasons::ICMP_UNMATCHED), i as u64 + 1, "{i}");
        }
        // A quoted port that no frontend has may be a record's elsewhere.
        let frame = error(v6, kind, 3, &from_vip(v6, 5000, 9, TCP).l3(), 1000);
        assert_eq!(w.run(LB, &frame).0, Verdict::Drop);
        assert_eq!(w.reason(reasons::SNAT_NO_RECORD), 1);
        let state = w.vip_states.get_mut(if v6 { 2 } else { 1 }).unwrap();
        (state.handoff_mac, state.handoff_iface) = ([2, 0, 0, 0, 0, 0x22], LB as u16);
        let (verdict, out) = w.run(LB, &frame);
        assert_eq!((verdict, out[5]), (Verdict::Tx, 0x22));
        assert_eq!(w.reason(reasons::SNAT_HANDED_OFF), 1);
    }
}

#[test]
fn an_echo_is_answered_where_the_vip_says_so() {
    for v6 in [false, true] {
        let mut w = world();
        let (kind, reply, proto) = if v6 { (128, 129, 58) } else { (8, 0, 1) };
        let message = icmp_message(client(v6), vip(v6), kind, 0, [1, 2, 0, 9], b"are you there");
        let frame = ether(
            CLIENT_MAC,
            LB_MAC,
            &ip(client(v6), vip(v6), proto, 12, &message),
        );
        assert_eq!(w.run(LB, &frame).0, Verdict::Drop);
        assert_eq!(w.reason(reasons::ICMP_UNMATCHED), 1);
        w.vip_states.get_mut(if v6 { 2 } else { 1 }).unwrap().flags |= vip_flags::ANSWER_ECHO;
        let (verdict, out) = w.run(LB, &frame);
        assert_eq!(verdict, Verdict::Tx);
        let seen = see(&out);
        assert_eq!((seen.src, seen.dst, seen.ttl), (vip(v6), client(v6), 64));
        assert_eq!((seen.dst_mac, seen.src_mac), (CLIENT_MAC, LB_MAC));
        assert_eq!((seen.l4[0], &seen.l4[4..]), (reply, &message[4..]));
        assert_eq!(w.reason(reasons::ECHO_ANSWERED), 1);
    }
}

#[test]
fn no_error_is_sent_where_none_may_be() {
    // A later fragment, a group as source, an error that does not fit itself.
    let mut w = world();
    frontend(&mut w, 5, false, 80, UDP, mode::DSR_IPIP);
    let mut spec = from_client(false, 2000, 80, UDP, 0);
    spec.payload = vec![1; 1496 + 1480];
    let [first, later] = fragments4(&spec.l3(), 16);
    assert_eq!(w.run(LB, &ether(CLIENT_MAC, LB_MAC, &first)).0, Verdict::Tx);
    assert_eq!(
        w.run(LB, &ether(CLIENT_MAC, LB_MAC, &later)).0,
        Verdict::Drop
    );
    spec.src = [224, 0, 0, 1].into();
    assert_eq!(w.run(LB, &spec.build()).0, Verdict::Drop);
    let l3 = Spec {
        payload: vec![0; 2000],
        ..from_vip(false, 80, 2000, UDP)
    }
    .l3();
    assert_eq!(w.run(LB, &error(false, 3, 4, &l3, 1600)).0, Verdict::Drop);
    assert_eq!(w.reason(reasons::TOO_BIG_UNANSWERED), 3);
    assert_eq!(w.reason(reasons::TOO_BIG), 0);
}

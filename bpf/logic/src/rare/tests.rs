use fairlead_abi::lb::mode;

use super::*;
use crate::{Insert, Verdict, testing::*};

const TAGS: [&[u8]; 2] = [&[0x81, 0, 0, 7], &[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7]];

#[test]
fn tags_survive_every_mode() {
    for v6 in [false, true] {
        for fe_mode in MODES {
            for tags in TAGS {
                let mut w = world();
                frontend(&mut w, 5, v6, 80, TCP, fe_mode);
                let frame = from_client(v6, 2000, 80, TCP, ACK).build();
                let (_, plain) = w.clone().run(LB, &frame);
                let tagged = [&frame[..12], tags, &frame[12..]].concat();
                let (verdict, out) = w.run(LB, &tagged);
                assert_eq!(verdict, Verdict::Tx);
                assert_eq!(
                    out,
                    [&plain[..12], tags, &plain[12..]].concat(),
                    "{fe_mode} {tags:?}"
                );
            }
        }
    }
}

#[test]
fn a_tagged_packet_does_not_leave_its_segment() {
    let mut w = world();
    frontend(&mut w, 5, false, 80, TCP, mode::DSR_L2);
    for i in 0..N {
        set_backend(&mut w, false, 5 * 16, i, LB2 as u8);
    }
    let frame = from_client(false, 2000, 80, TCP, ACK).build();
    let tagged = [&frame[..12], TAGS[0], &frame[12..]].concat();
    assert_eq!(w.run(LB, &tagged).0, Verdict::Drop);
    assert_eq!(w.reason(reasons::VLAN_MISMATCH), 1);
}

#[test]
fn a_tagged_packet_for_another_address_passes() {
    let mut w = world();
    let mut spec = from_client(false, 2000, 80, TCP, ACK);
    spec.dst = backend_addr(false, 0);
    let frame = spec.build();
    let tagged = [&frame[..12], TAGS[1], &frame[12..]].concat();
    assert_eq!(w.run(LB, &tagged), (Verdict::Pass, tagged));
}

#[test]
fn later_fragments_follow_the_first() {
    for fe_mode in [mode::DSR_L2, mode::DSR_IPIP] {
        let mut w = world();
        frontend(&mut w, 5, false, 80, UDP, fe_mode);
        for sport in 2000..2020 {
            let mut spec = from_client(false, sport, 80, UDP, 0);
            spec.payload = vec![5; 100];
            let mut l3 = spec.l3();
            // Each datagram has its own identification.
            l3[4..6].copy_from_slice(&sport.to_be_bytes());
            let [first, later] = fragments4(&l3, 48).map(|part| ether(CLIENT_MAC, LB_MAC, &part));
            assert_eq!(
                w.clone().run(LB, &later).0,
                Verdict::Drop,
                "the first was not seen"
            );
            let (verdict, one) = w.run(LB, &first);
            assert_eq!(verdict, Verdict::Tx);
            let (verdict, two) = w.run(LB, &later);
            assert_eq!(verdict, Verdict::Tx);
            assert_eq!(one[..12], two[..12], "the same backend");
            let whole = w.clone().run(LB, &spec.build()).1;
            assert_eq!(one[..12], whole[..12], "that of the flow");
        }
    }
    let mut w = world();
    frontend(&mut w, 5, false, 80, UDP, mode::DSR_L2);
    let [_, later] = fragments4(&from_client(false, 2000, 80, UDP, 0).l3(), 8);
    assert_eq!(
        w.run(LB, &ether(CLIENT_MAC, LB_MAC, &later)).0,
        Verdict::Drop
    );
    assert_eq!(w.reason(reasons::FRAGMENT), 1);
}

#[test]
fn a_heartbeat_is_noted_and_passes() {
    let peer = [2, 0, 0, 0, 0, 0x33];
    for v6 in [false, true] {
        let mut w = world();
        w.peers
            .insert(PeerKey { mac: peer, cell: 1 }, 5, Insert::Any);
        let mut spec = from_client(v6, 999, HEARTBEAT_PORT, UDP, 0);
        spec.src_mac = peer;
        spec.dst_mac = if v6 { HEARTBEAT_MAC6 } else { HEARTBEAT_MAC4 };
        spec.dst = if v6 {
            "ff02::464c".parse()
        } else {
            "224.0.0.174".parse()
        }
        .unwrap();
        assert_eq!(
            spec.dst_mac,
            if v6 {
                [0x33, 0x33, 0, 0, 0x46, 0x4c]
            } else {
                [1, 0, 0x5e, 0, 0, 0xae]
            }
        );
        w.now.set(77);
        let frame = spec.build();
        assert_eq!(w.run(LB, &frame), (Verdict::Pass, frame));
        assert_eq!(
            w.peer_seen.borrow().clone().into_iter().collect::<Vec<_>>(),
            [(64 + 5, 77)]
        );
        assert_eq!(w.reason(reasons::HEARTBEAT_SEEN), 1);
        // A stranger, another port, another interface: nothing is noted.
        for other in [
            Spec {
                src_mac: CLIENT_MAC,
                ..spec.clone()
            },
            Spec {
                dport: 1,
                ..spec.clone()
            },
        ] {
            assert_eq!(w.run(LB, &other.build()).0, Verdict::Pass);
        }
        assert_eq!(w.run(LB2, &spec.build()).0, Verdict::Pass);
        assert_eq!(w.reason(reasons::HEARTBEAT_SEEN), 1);
    }
}

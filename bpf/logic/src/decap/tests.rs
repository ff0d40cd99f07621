use fairlead_abi::lb::mode;

use super::*;
use crate::{
    host::{World, octets},
    testing::*,
};

/// What the load balancer sends, and a server that knows it and the VIP.
fn wrapped(v6: bool, tos: u8) -> (World, Vec<u8>, Vec<u8>) {
    let mut lb = world();
    frontend(&mut lb, 5, v6, 80, TCP, mode::DSR_IPIP);
    let mut frame = from_client(v6, 2000, 80, TCP, ACK).build();
    if v6 {
        frame[15] = (frame[15] & 0x0f) | (tos << 4);
    } else {
        let old = frame[15];
        frame[15] = tos;
        let sum = u16::from_be_bytes([frame[24], frame[25]]);
        let sum = csum::update(sum, Sum(0).word(u16::from(tos)).minus(u16::from(old)));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let (verdict, out) = lb.run(LB, &frame);
    assert_eq!(verdict, Verdict::Tx);
    let mut server = World::new();
    server.decap_vips.insert(octets(vip(v6)));
    server.decap_senders.insert(octets(see(&out).src));
    (server, frame, out)
}

#[test]
fn a_packet_from_a_known_sender_for_a_known_vip_is_unwrapped() {
    for v6 in [false, true] {
        let (mut server, frame, out) = wrapped(v6, 0);
        let (verdict, inner) = server.run_decap(3, &out);
        assert_eq!(verdict, Verdict::Pass);
        assert_eq!(inner[14..], frame[14..]);
        assert_eq!(inner[..12], out[..12], "the MACs of the frame as it came");
        assert_eq!(inner[12..14], frame[12..14]);
        assert_eq!(server.reason(reasons::DECAPSULATED), 1);
        // Tags stay.
        let tagged = [&out[..12], &[0x81, 0, 0, 7], &out[12..]].concat();
        let (verdict, kept) = server.run_decap(3, &tagged);
        assert_eq!(
            (verdict, &kept[12..16], &kept[18..]),
            (Verdict::Pass, &[0x81, 0, 0, 7][..], &frame[14..])
        );
    }
}

#[test]
fn half_known_is_dropped_and_unknown_is_somebody_elses() {
    for v6 in [false, true] {
        let (server, frame, out) = wrapped(v6, 0);
        let mut no_vip = server.clone();
        no_vip.decap_vips.clear();
        assert_eq!(no_vip.run_decap(3, &out).0, Verdict::Drop);
        assert_eq!(no_vip.reason(reasons::DECAP_UNKNOWN_VIP), 1);
        let mut no_sender = server.clone();
        no_sender.decap_senders.clear();
        assert_eq!(no_sender.run_decap(3, &out).0, Verdict::Drop);
        assert_eq!(no_sender.reason(reasons::DECAP_UNKNOWN_SENDER), 1);
        assert_eq!(
            World::new().run_decap(3, &out),
            (Verdict::Pass, out.clone())
        );
        let mut server = server;
        assert_eq!(
            server.run_decap(3, &frame),
            (Verdict::Pass, frame),
            "not wrapped"
        );
        assert_eq!(server.run_decap(3, &out[..30]).0, Verdict::Pass);
    }
}

#[test]
fn a_congestion_mark_of_the_way_survives_if_it_can() {
    for v6 in [false, true] {
        for (inner, want) in [(0u8, 0u8), (1, 3), (2, 3), (3, 3)] {
            let (mut server, _, mut out) = wrapped(v6, inner);
            // A router marks the outer header (its IPv4 checksum is not ours to check).
            out[15] |= if v6 { 0x30 } else { 3 };
            let (verdict, got) = server.run_decap(3, &out);
            assert_eq!(verdict, Verdict::Pass);
            let mark = if v6 { (got[15] >> 4) & 3 } else { got[15] & 3 };
            assert_eq!(mark, want, "{inner}");
            see(&got);
        }
    }
}

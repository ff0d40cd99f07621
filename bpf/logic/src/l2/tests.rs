use std::net::{Ipv4Addr, Ipv6Addr};

use fairlead_abi::lb::iface_flags;

use super::*;
use crate::{
    host::{World, octets},
    testing::*,
    wire::BROADCAST,
};

const ASKER: [u8; 6] = [2, 0, 0, 0, 0xa, 1];
const ASKER4: [u8; 4] = [10, 0, 0, 50];

fn request(sender: [u8; 4], target: [u8; 4], dst: [u8; 6]) -> Vec<u8> {
    let body = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &ASKER,
        &sender,
        &[0; 6],
        &target,
        // Padding to the least frame.
        &[0; 18],
    ]
    .concat();
    [&dst[..], &ASKER, &[8, 6], &body].concat()
}

#[test]
fn an_arp_request_for_a_vip_is_answered() {
    for (sender, dst) in [(ASKER4, BROADCAST), (ASKER4, LB_MAC), ([0; 4], BROADCAST)] {
        let mut w = world();
        let key = announce(&mut w, false);
        let (verdict, out) = w.run(LB, &request(sender, VIP4.octets(), dst));
        assert_eq!(verdict, Verdict::Tx);
        let want = [
            &ASKER[..],
            &LB_MAC,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
            &LB_MAC,
            &VIP4.octets(),
            &ASKER,
            &sender,
        ]
        .concat();
        assert_eq!(out[..42], want);
        assert_eq!(w.l2_entries.get(&key).unwrap().responses, 1);
        assert_eq!(w.reason(reasons::L2_ANSWERED), 1);
    }
}

#[test]
fn arp_that_is_not_ours_to_answer_passes() {
    let mut w = world();
    announce(&mut w, false);
    let vip = VIP4.octets();
    let good = request(ASKER4, vip, BROADCAST);
    let mut reply = good.clone();
    reply[21] = 2;
    let mut wide = good.clone();
    wide[18] = 8;
    let mut group = good.clone();
    group[22] |= 1;
    for frame in [
        request(ASKER4, [10, 0, 0, 99], BROADCAST),
        request(vip, vip, BROADCAST),
        request(ASKER4, vip, [2, 7, 7, 7, 7, 7]),
        request(ASKER4, vip, [1, 0, 0x5e, 0, 0, 1]),
        reply,
        wide,
        group,
        good[..40].to_vec(),
    ] {
        assert_eq!(w.run(LB, &frame), (Verdict::Pass, frame));
    }
    // Another interface has no entry, and one that does not announce has no responder.
    assert_eq!(w.run(LB2, &good).0, Verdict::Pass);
    w.ifaces.get_mut(LB).unwrap().flags &= !iface_flags::ANNOUNCE;
    assert_eq!(w.run(LB, &good).0, Verdict::Pass);
    assert_eq!(w.reason(reasons::L2_ANSWERED), 0);
}

/// The deadline rule: (now, epoch in the cell, peer slot heard and when) and whether that answers. The deadline is at 10 s.
#[test]
fn an_entry_answers_until_its_deadline_and_beyond_it_while_alone() {
    const S: u64 = 1_000_000_000;
    for (now, epoch, heard, answers) in [
        (9 * S, 3, None, true),
        (10 * S, 3, None, true),
        (9 * S, 3, Some((0, 9 * S)), true),
        (9 * S, 4, None, false),
        (9 * S, 2, None, false),
        (11 * S, 3, None, true),
        (9_000 * S, 3, None, true),
        (11 * S, 4, None, false),
        (11 * S, 3, Some((0, 10 * S)), true),
        (11 * S, 3, Some((0, 10 * S + 1)), false),
        (11 * S, 3, Some((5, 10 * S + 1)), false),
        // Slot 1 is no candidate of this entry.
        (11 * S, 3, Some((1, 10 * S + 1)), true),
    ] {
        for v6 in [false, true] {
            let mut w = world();
            announce(&mut w, v6);
            w.now.set(now);
            w.l2_cells.get_mut(1).unwrap().epoch = epoch;
            if let Some((slot, at)) = heard {
                w.peer_seen.borrow_mut().insert(N_PEER_SLOTS + slot, at);
            }
            let frame = if v6 {
                solicit(SOLICIT)
            } else {
                request(ASKER4, VIP4.octets(), BROADCAST)
            };
            let (verdict, _) = w.run(LB, &frame);
            let what = (now, epoch, heard, v6);
            assert_eq!(verdict == Verdict::Tx, answers, "{what:?}");
            assert_eq!(
                w.reason(reasons::L2_SILENT),
                u64::from(!answers),
                "{what:?}"
            );
        }
    }
}

/// A solicitation to be built.
#[derive(Clone, Copy)]
struct Solicit {
    src: Ipv6Addr,
    dst: Ipv6Addr,
    dst_mac: [u8; 6],
    hops: u8,
    target: Ipv6Addr,
    options: &'static [u8],
}

const ASKER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x50);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x100);
const GROUP_MAC: [u8; 6] = [0x33, 0x33, 0xff, 0, 1, 0];
const SOURCE: &[u8] = &[1, 1, 2, 0, 0, 0, 0xa, 1];
const NONCE: &[u8] = &[14, 1, 1, 2, 3, 4, 5, 6];
const SOLICIT: Solicit = Solicit {
    src: ASKER6,
    dst: GROUP6,
    dst_mac: GROUP_MAC,
    hops: 255,
    target: VIP6,
    options: SOURCE,
};
const PROBE: Solicit = Solicit {
    src: Ipv6Addr::UNSPECIFIED,
    options: &[],
    ..SOLICIT
};

fn solicit(s: Solicit) -> Vec<u8> {
    let body = [&s.target.octets()[..], s.options].concat();
    let message = icmp_message(s.src.into(), s.dst.into(), 135, 0, [0; 4], &body);
    ether(
        ASKER,
        s.dst_mac,
        &ip(s.src.into(), s.dst.into(), 58, s.hops, &message),
    )
}

#[test]
fn a_solicitation_for_a_vip_is_answered() {
    let unicast = Solicit {
        dst: VIP6,
        dst_mac: LB_MAC,
        options: &[],
        ..SOLICIT
    };
    let with_nonce = Solicit {
        options: NONCE,
        ..PROBE
    };
    for (s, solicited) in [
        (SOLICIT, true),
        (unicast, true),
        (PROBE, false),
        (with_nonce, false),
    ] {
        let mut w = world();
        let key = announce(&mut w, true);
        let (verdict, out) = w.run(LB, &solicit(s));
        assert_eq!(verdict, Verdict::Tx);
        let seen = see(&out);
        let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
        assert_eq!(seen.src, vip(true));
        assert_eq!(seen.dst, if solicited { s.src } else { all_nodes });
        assert_eq!(
            seen.dst_mac,
            if solicited {
                ASKER
            } else {
                [0x33, 0x33, 0, 0, 0, 1]
            }
        );
        assert_eq!((seen.src_mac, seen.ttl, out.len()), (LB_MAC, 255, 86));
        let flags = if solicited { 0x60 } else { 0x20 };
        let want = [&[flags, 0, 0, 0][..], &VIP6.octets(), &[2, 1], &LB_MAC].concat();
        assert_eq!((seen.l4[0], seen.l4[1], &seen.l4[4..]), (136, 0, &want[..]));
        assert_eq!(w.l2_entries.get(&key).unwrap().responses, 1);
    }
}

#[test]
fn solicitations_that_are_not_sound_or_not_ours_pass() {
    let mut w = world();
    announce(&mut w, true);
    let mut damaged = solicit(SOLICIT);
    damaged[56] ^= 1;
    for frame in [
        solicit(Solicit {
            hops: 254,
            ..SOLICIT
        }),
        solicit(Solicit {
            target: ASKER6,
            ..SOLICIT
        }),
        solicit(Solicit {
            dst_mac: [2, 7, 7, 7, 7, 7],
            ..SOLICIT
        }),
        // A group that our NIC has not joined for this target.
        solicit(Solicit {
            dst_mac: [0x33, 0x33, 0xff, 0, 1, 1],
            ..SOLICIT
        }),
        solicit(Solicit {
            options: SOURCE,
            ..PROBE
        }),
        solicit(Solicit {
            options: &[1, 0, 2, 0, 0, 0, 0xa, 1],
            ..SOLICIT
        }),
        solicit(Solicit {
            options: &[1, 2, 2, 0, 0, 0, 0xa, 1],
            ..SOLICIT
        }),
        damaged,
        solicit(SOLICIT)[..70].to_vec(),
    ] {
        assert_eq!(w.run(LB, &frame), (Verdict::Pass, frame));
    }
    assert_eq!(w.reason(reasons::L2_ANSWERED), 0);
}

#[test]
fn an_interface_that_only_announces_answers_and_forwards_nothing() {
    let mut w = world();
    announce(&mut w, true);
    frontend(&mut w, 5, true, 80, TCP, fairlead_abi::lb::mode::DSR_L2);
    w.ifaces.get_mut(LB).unwrap().flags = iface_flags::ANNOUNCE;
    assert_eq!(
        w.run(LB, &from_client(true, 2000, 80, TCP, SYN).build()).0,
        Verdict::Pass
    );
    let unicast = Solicit {
        dst: VIP6,
        dst_mac: LB_MAC,
        options: &[],
        ..SOLICIT
    };
    assert_eq!(w.run(LB, &solicit(unicast)).0, Verdict::Tx);
    assert_eq!(w.run(LB, &solicit(SOLICIT)).0, Verdict::Tx);
}

#[test]
fn the_key_is_the_mapped_form() {
    let mut w = World::new();
    let key = announce(&mut w, false);
    assert_eq!(key.addr, octets(Ipv4Addr::new(10, 0, 0, 100).into()));
    assert_eq!(key.addr[10..], [0xff, 0xff, 10, 0, 0, 100]);
}

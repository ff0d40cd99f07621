use fairlead_abi::lb::mode;

use super::*;
use crate::{testing::*, transition};

/// Backend that the table of [`frontend`] gives to a client's packet.
fn expected(v6: bool, sport: u16, dport: u16, proto: u8) -> u16 {
    let hash = match client(v6) {
        std::net::IpAddr::V4(a) => hash::flow_hash4(a.into(), sport, dport, proto),
        std::net::IpAddr::V6(a) => hash::flow_hash6(&a.octets(), sport, dport, proto),
    };
    u16::try_from((u64::from(hash) * u64::from(M)) >> 32).unwrap() % N
}

#[test]
fn ipip_wraps_the_packet_untouched_and_counts_it() {
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            let mut w = world();
            frontend(&mut w, 5, v6, 80, proto, mode::DSR_IPIP);
            for sport in 2000..2100 {
                let spec = from_client(v6, sport, 80, proto, SYN);
                let (verdict, out) = w.run(LB, &spec.build());
                assert_eq!(verdict, Verdict::Tx);
                let seen = see(&out);
                let i = expected(v6, sport, 80, proto);
                assert_eq!(seen.dst, backend_addr(v6, i));
                assert_eq!((seen.dst_mac, seen.src_mac), (backend_mac(i), LB_MAC));
                assert_eq!(
                    seen.src.to_string(),
                    if v6 { "fd00::1" } else { "10.0.0.1" }
                );
                assert_eq!((seen.ttl, seen.proto), (64, if v6 { 41 } else { 4 }));
                assert_eq!(seen.payload, spec.l3());
                // The outer header carries the inner type of service (and flow label).
                assert_eq!(out[15], spec.l3()[1]);
                if !v6 {
                    assert_eq!(&out[18..22], [0, 0, 0x40, 0], "identification 0, DF");
                }
            }
            let bytes = from_client(v6, 1, 80, proto, 0).l3().len() as u64;
            let counter = w.frontend_counter(5);
            assert_eq!((counter.packets, counter.bytes), (100, 100 * bytes));
            assert!(w.reasons().is_empty());
            assert!(
                w.flows.is_empty() && w.flows_new.is_empty(),
                "no flow table is touched"
            );
        }
    }
}

#[test]
fn layer_2_dsr_changes_the_macs_only() {
    for v6 in [false, true] {
        let mut w = world();
        frontend(&mut w, 5, v6, 80, TCP, mode::DSR_L2);
        let frame = from_client(v6, 2000, 80, TCP, ACK).build();
        let (verdict, out) = w.run(LB, &frame);
        assert_eq!(verdict, Verdict::Tx);
        let i = expected(v6, 2000, 80, TCP);
        assert_eq!(out[..12], [backend_mac(i), LB_MAC].concat());
        assert_eq!(out[12..], frame[12..]);
    }
}

#[test]
fn a_backend_behind_another_interface_is_reached_by_redirect() {
    let mut w = world();
    frontend(&mut w, 5, false, 80, TCP, mode::DSR_IPIP);
    for i in 0..N {
        set_backend(&mut w, false, 5 * 16, i, LB2 as u8);
    }
    let (verdict, out) = w.run(LB, &from_client(false, 2000, 80, TCP, ACK).build());
    assert_eq!(verdict, Verdict::Redirect(LB2));
    let seen = see(&out);
    assert_eq!(
        (seen.src_mac, seen.src.to_string().as_str()),
        (LB2_MAC, "10.9.0.1")
    );
}

#[test]
fn flooded_frames_and_other_addresses_are_left_alone() {
    let mut w = world();
    frontend(&mut w, 5, false, 80, TCP, mode::DSR_IPIP);
    let mut spec = from_client(false, 2000, 80, TCP, ACK);
    spec.dst_mac = [2, 9, 9, 9, 9, 9];
    let frame = spec.build();
    assert_eq!(w.run(LB, &frame), (Verdict::Pass, frame));
    assert_eq!(w.reason(reasons::NOT_OUR_MAC), 1);
    for v6 in [false, true] {
        let mut spec = from_client(v6, 2000, 80, TCP, ACK);
        spec.dst = backend_addr(v6, 3);
        assert_eq!(
            w.run(LB, &spec.build()).0,
            Verdict::Pass,
            "an address of the host itself"
        );
    }
    // An interface that we do not know, and the slot of another one (263 & 255 == 7).
    assert_eq!(
        w.run(8, &from_client(false, 2000, 80, TCP, ACK).build()).0,
        Verdict::Pass
    );
    assert_eq!(
        w.run(263, &from_client(false, 2000, 80, TCP, ACK).build())
            .0,
        Verdict::Pass
    );
}

#[test]
fn nothing_for_a_vip_enters_the_host() {
    for v6 in [false, true] {
        let mut w = world();
        frontend(&mut w, 5, v6, 80, TCP, mode::DSR_IPIP);
        let (verdict, _) = w.run(LB, &from_client(v6, 2000, 81, TCP, SYN).build());
        assert_eq!(
            (verdict, w.reason(reasons::UNKNOWN_PORT)),
            (Verdict::Drop, 1)
        );
        let (verdict, _) = w.run(LB, &from_client(v6, 2000, 80, UDP, 0).build());
        assert_eq!(
            (verdict, w.reason(reasons::UNKNOWN_PORT)),
            (Verdict::Drop, 2)
        );
        let gre = ether(
            CLIENT_MAC,
            LB_MAC,
            &ip(client(v6), vip(v6), 47, 64, &[0; 64]),
        );
        assert_eq!(w.run(LB, &gre).0, Verdict::Drop);
        assert_eq!(w.reason(reasons::UNSUPPORTED_PROTOCOL), 1);
        let mut cut = from_client(v6, 2000, 80, TCP, SYN).build();
        cut.truncate(if v6 { 60 } else { 40 });
        assert_eq!(w.run(LB, &cut).0, Verdict::Drop);
        assert_eq!(w.reason(reasons::TRUNCATED), 1);
    }
}

#[test]
fn a_vip_left_to_the_host_passes() {
    for v6 in [false, true] {
        let mut w = world();
        let index = if v6 { 2 } else { 1 };
        w.vip_states.get_mut(index).unwrap().flags = vip_flags::PASS_TO_HOST;
        for proto in [TCP, UDP, 1, 47] {
            let frame = ether(
                CLIENT_MAC,
                LB_MAC,
                &ip(client(v6), vip(v6), proto, 64, &[8; 64]),
            );
            assert_eq!(w.run(LB, &frame), (Verdict::Pass, frame));
        }
    }
}

#[test]
fn missing_backends_and_next_hops_are_counted() {
    let mut w = world();
    frontend(&mut w, 5, false, 80, TCP, mode::DSR_IPIP);
    for i in 0..u32::from(N) {
        w.backends4.get_mut(5 * 16 + i).unwrap().mac = [0; 6];
    }
    let frame = from_client(false, 2000, 80, TCP, SYN).build();
    assert_eq!(w.run(LB, &frame).0, Verdict::Drop);
    assert_eq!(w.reason(reasons::NO_NEXT_HOP), 1);
    w.frontends.get_mut(5).unwrap().current.len = 0;
    assert_eq!(w.run(LB, &frame).0, Verdict::Drop);
    assert_eq!(w.reason(reasons::NO_BACKEND), 1);
    assert_eq!(w.frontend_counter(5).packets, 0);
}

#[test]
fn what_does_not_fit_is_answered_with_the_size_that_would() {
    for v6 in [false, true] {
        for (fe_mode, len, want) in [
            (mode::DSR_IPIP, 1500, if v6 { 1460u32 } else { 1480 }),
            (mode::DSR_L2, 1501, 1500),
            (mode::SNAT, 1501, 1500),
        ] {
            let mut w = world();
            frontend(&mut w, 5, v6, 80, TCP, fe_mode);
            let mut spec = from_client(v6, 2000, 80, TCP, ACK);
            spec.payload = vec![7; len - if v6 { 60 } else { 40 }];
            let (verdict, out) = w.run(LB, &spec.build());
            assert_eq!(verdict, Verdict::Tx);
            let seen = see(&out);
            assert_eq!((seen.src, seen.dst), (vip(v6), client(v6)));
            assert_eq!((seen.src_mac, seen.dst_mac), (LB_MAC, CLIENT_MAC));
            assert_eq!(seen.l4[..2], if v6 { [2, 0] } else { [3, 4] });
            assert_eq!(seen.l4[4..8], want.to_be_bytes());
            let quoted = &seen.l4[8..];
            assert_eq!(quoted, &spec.l3()[..quoted.len()]);
            assert!(
                quoted.len() >= if v6 { 48 } else { 28 },
                "header and eight bytes"
            );
            assert_eq!(w.reason(reasons::TOO_BIG), 1);
            assert_eq!(w.frontend_counter(5).packets, 0);

            // One byte less, and it goes through.
            spec.payload.truncate(
                spec.payload.len()
                    - if fe_mode == mode::DSR_IPIP {
                        if v6 { 40 } else { 20 }
                    } else {
                        1
                    },
            );
            assert_eq!(w.run(LB, &spec.build()).0, Verdict::Tx);
            assert_eq!(w.frontend_counter(5).packets, 1);
        }
    }
}

#[test]
fn the_table_gives_every_backend_its_share() {
    let mut w = world();
    frontend(&mut w, 5, false, 80, TCP, mode::DSR_L2);
    let mut share = [0u32; N as usize];
    for sport in 1024..=u16::MAX {
        let (_, out) = w.run(LB, &from_client(false, sport, 80, TCP, ACK).build());
        share[usize::from(out[5]) - 1] += 1;
    }
    let mean = 64_512 / u32::from(N);
    assert!(
        share.iter().all(|&s| s.abs_diff(mean) < mean / 20),
        "{share:?}"
    );
}

#[test]
fn a_solicitation_from_elsewhere_is_none() {
    let mut w = world();
    announce(&mut w, true);
    let message = icmp_message(client(true), vip(true), 135, 0, [0; 4], &VIP6.octets());
    let from = |hops| {
        let packet = ip(client(true), vip(true), 58, hops, &message);
        ether(CLIENT_MAC, LB_MAC, &packet)
    };
    assert_eq!(w.run(LB, &from(64)).0, Verdict::Drop);
    assert_eq!(w.reason(reasons::ICMP_UNMATCHED), 1);
    assert_eq!(w.run(LB, &from(255)).0, Verdict::Tx);
    assert_eq!(w.reason(reasons::L2_ANSWERED), 1);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Whatever arrives for a VIP of ours: no panic, no packet for the host, and what leaves has right checksums.
        #[test]
        fn any_bytes_behind_a_vips_address_are_settled(
            v6: bool,
            fe_mode in prop::sample::select(MODES.to_vec()),
            tail in prop::collection::vec(any::<u8>(), 0..200),
            proto in prop::sample::select(vec![0u8, 1, 6, 17, 43, 44, 47, 58, 60]),
            transition: bool,
        ) {
            let mut w = world();
            frontend(&mut w, 5, v6, 80, TCP, fe_mode);
            if transition {
                w.frontends.get_mut(5).unwrap().flags |= frontend_flags::IN_TRANSITION;
            }
            let mut frame = ether(CLIENT_MAC, LB_MAC, &ip(client(v6), vip(v6), proto, 64, &tail));
            prop_assert_ne!(w.run(LB, &frame).0, Verdict::Pass);
            // The same with a header that lies about itself.
            for i in 14..frame.len().min(18) {
                frame[i] ^= tail.first().copied().unwrap_or(1);
                if frame[14] >> 4 == if v6 { 6 } else { 4 } {
                    prop_assert_ne!(w.run(LB, &frame).0, Verdict::Pass);
                }
            }
        }

        #[test]
        fn any_flow_leaves_with_right_checksums(
            v6: bool,
            udp: bool,
            fe_mode in prop::sample::select(MODES.to_vec()),
            sport: u16,
            flags in 0u8..32,
            payload in prop::collection::vec(any::<u8>(), 0..600),
            ttl in 2u8..,
        ) {
            let proto = if udp { UDP } else { TCP };
            let mut w = world();
            frontend(&mut w, 5, v6, 80, proto, fe_mode);
            let spec = Spec { ttl, payload, ..from_client(v6, sport, 80, proto, flags) };
            let (verdict, out) = w.run(LB, &spec.build());
            prop_assert_eq!(verdict, Verdict::Tx);
            let seen = see(&out);
            match fe_mode {
                mode::SNAT => {
                    prop_assert_eq!(seen.src, vip(v6));
                    prop_assert_eq!((seen.dport, seen.ttl), (BACKEND_PORT, ttl - 1));
                    prop_assert_eq!(seen.payload, spec.payload);
                }
                mode::DSR_L2 => prop_assert_eq!(&out[12..], &spec.build()[12..]),
                _ => prop_assert_eq!(seen.payload, spec.l3()),
            }
        }

        /// Every program sends a flow to the same backend (the fast path by its own code, the others by the common one).
        #[test]
        fn fast_and_slow_way_agree(v6: bool, sport: u16) {
            let mut w = world();
            frontend(&mut w, 5, v6, 80, TCP, mode::DSR_IPIP);
            let frame = from_client(v6, sport, 80, TCP, ACK).build();
            let fast = w.run(LB, &frame);
            w.frontends.get_mut(5).unwrap().flags |= frontend_flags::IN_TRANSITION;
            let previous = w.set_table(2000, &[transition::NOWHERE; 251]);
            w.frontends.get_mut(5).unwrap().previous = previous;
            prop_assert_eq!(fast, w.run(LB, &frame));
        }
    }
}

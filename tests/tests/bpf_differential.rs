//! The kernel and the host agree about every frame: verdict, bytes, counters, map contents.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: at once, and where it happened"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use fairlead_abi::lb::Counter;
use fairlead_abi::{flow, reasons};
use fairlead_datapath::{Decap, Insert};
use fairlead_logic::Verdict;
use fairlead_logic::host::{World, octets};
use fairlead_tests::pins::PinDir;
use fairlead_tests::random::{Damage, OWN_MAC, sketch, vip};
use fairlead_tests::twin::{Twin, setup};
use fairlead_tests::{frame, require_root};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Cases times the mean length of a case is what is promised, with room.
const CASES: u32 = 800;
const PROMISED: u64 = 20_000;

/// Reasons that frames alone bring about on this machine's tables.
const REACHABLE: [&str; 21] = [
    "NotOurMac",
    "Truncated",
    "UnknownPort",
    "NoBackend",
    "NoNextHop",
    "TooBig",
    "Fragment",
    "IcmpUnmatched",
    "SnatNoRecord",
    "SnatHandedOff",
    "UnsupportedProtocol",
    "Malformed",
    "L2Answered",
    "L2Silent",
    "HeartbeatSeen",
    "TtlExpired",
    "IcmpForwarded",
    "VlanMismatch",
    "EchoAnswered",
    "TunnelTooBig",
    "TunnelError",
];

/// Runs random cases through a twin; returns frames by verdict.
fn agree(twin: &RefCell<Twin>, cases: u32) -> BTreeMap<u32, u64> {
    let verdicts = RefCell::new(BTreeMap::<u32, u64>::new());
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let strategy = (setup(), prop::collection::vec(sketch(), 20..100));
    let result = TestRunner::new(config).run(&strategy, |(setup, sketches)| {
        for (verdict, n) in twin.borrow_mut().check(&setup, &sketches)? {
            *verdicts.borrow_mut().entry(verdict).or_default() += n;
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    verdicts.into_inner()
}

#[test]
fn twenty_thousand_random_frames_fare_alike_in_the_kernel_and_on_the_host() {
    require_root();
    let twin = RefCell::new(Twin::new(flow::N_FLOWS, flow::N_SNAT).unwrap());
    let verdicts = agree(&twin, CASES);
    let seen = twin.borrow().reasons_seen().unwrap();
    let total: u64 = verdicts.values().sum();
    println!("{total} frames, by verdict: {verdicts:?}; reasons: {seen:?}");
    assert!(total >= PROMISED, "only {total} frames");
    // Drop, pass, send back, redirect: each is a fair share, or the frames test little.
    for verdict in 1..=4 {
        let n = verdicts.get(&verdict).copied().unwrap_or_default();
        assert!(n * 50 >= total, "verdict {verdict}: only {n} of {total}");
    }
    for label in REACHABLE {
        assert!(
            seen.contains(&label),
            "no frame met {label}: the frames test less than they should"
        );
    }
}

#[test]
fn full_tables_are_full_alike() {
    require_root();
    let twin = RefCell::new(Twin::new(1, 1).unwrap());
    agree(&twin, CASES / 4);
    let seen = twin.borrow().reasons_seen().unwrap();
    for label in ["FlowTableFull", "SnatTableFull"] {
        assert!(seen.contains(&label), "no frame met {label}: {seen:?}");
    }
}

/// An encapsulated frame as the decapsulator may meet it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a condition of its own"
)]
#[derive(Clone, Debug)]
struct Wrapped {
    v6: bool,
    known_sender: bool,
    vip: u8,
    tcp: bool,
    payload: usize,
    damage: Damage,
    own_mac: bool,
}

fn wrapped() -> impl Strategy<Value = Wrapped> {
    let damage = prop_oneof![
        3 => Just(Damage::None),
        1 => (0..120_u16).prop_map(Damage::Cut),
        1 => (1..20_u8).prop_map(Damage::Trailer),
        4 => (0..110_u16, any::<u8>()).prop_map(|(at, with)| Damage::Flip { at, with }),
    ];
    (
        any::<(bool, bool, bool)>(),
        0..3_u8,
        0..200_usize,
        damage,
        prop::bool::weighted(0.9),
    )
        .prop_map(
            |((v6, known_sender, tcp), vip, payload, damage, own_mac)| Wrapped {
                v6,
                known_sender,
                vip,
                tcp,
                payload,
                damage,
                own_mac,
            },
        )
}

fn balancer(v6: bool, n: u8) -> IpAddr {
    if v6 {
        IpAddr::from([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n])
    } else {
        IpAddr::from([192, 0, 2, n])
    }
}

impl Wrapped {
    fn frame(&self) -> Vec<u8> {
        let sender = balancer(self.v6, u8::from(self.known_sender));
        let flow = frame::Flow {
            src_mac: [2, 0, 0, 0, 9, 9],
            dst_mac: OWN_MAC,
            src: balancer(self.v6, 77),
            dst: vip(self.vip, self.v6),
            sport: 40_000,
            dport: 80,
        };
        let payload = vec![0xa5; self.payload];
        let inner = if self.tcp {
            frame::tcp(&flow, 2, &payload)
        } else {
            frame::udp(&flow, &payload)
        };
        let dst_mac = if self.own_mac {
            OWN_MAC
        } else {
            [2, 0, 0, 0, 5, 5]
        };
        let outer = frame::encapsulated(
            [2, 0, 0, 0, 0, 2],
            dst_mac,
            sender,
            balancer(self.v6, 100),
            &inner,
        );
        self.damage.apply(outer)
    }
}

#[test]
fn the_decapsulator_fares_alike_in_the_kernel_and_on_the_host() {
    require_root();
    let pins = PinDir::new();
    let decap = Decap::open(pins.path()).unwrap();
    let world = RefCell::new(World::new());
    for v6 in [false, true] {
        for n in 0..2 {
            decap
                .maps()
                .vips
                .insert(&octets(vip(n, v6)), &1, Insert::Any)
                .unwrap();
            world.borrow_mut().decap_vips.insert(octets(vip(n, v6)));
        }
        decap
            .maps()
            .senders
            .insert(&octets(balancer(v6, 1)), &1, Insert::Any)
            .unwrap();
        world
            .borrow_mut()
            .decap_senders
            .insert(octets(balancer(v6, 1)));
    }
    let config = Config {
        cases: 6_000,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&wrapped(), |wrapped| {
        let frame = wrapped.frame();
        let (verdict, bytes) = world.borrow_mut().run_decap(1, &frame);
        let kernel = decap
            .test_run(&frame)
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        let verdict = match verdict {
            Verdict::Pass => 2,
            Verdict::Drop => 1,
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        prop_assert_eq!(verdict, kernel.verdict);
        prop_assert_eq!(bytes, kernel.packet);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let host = world.borrow().reasons();
    for reason in reasons::ALL {
        let kernel = decap.maps().reasons.sum(reason.number).unwrap();
        assert_eq!(
            host.get(&reason.number)
                .copied()
                .unwrap_or_else(Counter::default),
            kernel,
            "{}",
            reason.label
        );
    }
    for number in [
        reasons::DECAPSULATED,
        reasons::DECAP_UNKNOWN_VIP,
        reasons::DECAP_UNKNOWN_SENDER,
    ] {
        assert!(
            host.contains_key(&number),
            "no frame met {}",
            reasons::ALL[number as usize].label
        );
    }
}

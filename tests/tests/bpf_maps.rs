//! The built object has the maps of the table, and both ways of writing them mean the same element.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: at once, and where it happened"
)]

use fairlead_abi::lb::{Backend4, Counter, Iface, MaglevLine};
use fairlead_abi::maps::{Kind, MAPS};
use fairlead_datapath::{Datapath, DatapathConfig, Insert, MapError, Plain, Window};
use fairlead_tests::pins::PinDir;
use fairlead_tests::require_root;

/// Names, types, sizes and flags of every map of the object, against every row.
#[test]
fn the_object_has_exactly_the_maps_of_the_table() {
    require_root();
    let pins = PinDir::new();
    let datapath = Datapath::open(&DatapathConfig::new(pins.path())).unwrap();
    let built = datapath.map_layouts();
    for row in MAPS {
        let map = built
            .iter()
            .find(|map| map.name == row.name)
            .unwrap_or_else(|| panic!("{} is not built", row.name));
        let (kind, flags) = match row.kind {
            Kind::Hash => (1, 0),
            Kind::MappedArray => (2, 1 << 10),
            Kind::ProgArray => (3, 0),
            Kind::PerCpuArray => (6, 0),
            Kind::LruHash => (9, 0),
        };
        assert_eq!(
            (map.kind, map.flags),
            (kind, flags),
            "type and flags of {}",
            row.name
        );
        assert_eq!(
            (map.key as usize, map.value as usize),
            (row.key, row.value),
            "sizes of {}",
            row.name
        );
        let is_shrunk = row.name.starts_with("DECAP_");
        assert_eq!(
            map.max_entries,
            if is_shrunk { 1 } else { row.max_entries },
            "entries of {}",
            row.name
        );
    }
    for map in &built {
        // Constants, and scratch space of one element per CPU that a set of programs keeps to itself.
        let is_private = map.name.starts_with('.') || (map.kind == 6 && map.max_entries == 1);
        let is_known = is_private || MAPS.iter().any(|row| row.name == map.name);
        assert!(is_known, "{} is in no row of the table", map.name);
    }
}

/// Writes through the mapping and reads by system call, at both ends and across pieces: the trap is a wrong stride.
fn assert_strides_agree<T: Plain + PartialEq + std::fmt::Debug>(
    window: &Window<T>,
    of: impl Fn(u32) -> T,
) {
    let last = window.len() - 1;
    let indices = [0, 1, 2, 3, 31, 32, 33, last / 2, last - 1, last];
    for index in indices {
        window.write(index, &of(index));
    }
    for index in indices {
        assert_eq!(
            window.lookup(index).unwrap(),
            of(index),
            "element {index} by system call"
        );
        assert_eq!(
            window.read(index),
            of(index),
            "element {index} through the mapping"
        );
    }
    let untouched = last / 2 + 1;
    assert!(
        window
            .lookup(untouched)
            .unwrap()
            .as_bytes()
            .iter()
            .all(|byte| *byte == 0),
        "element {untouched} was hit"
    );
}

#[test]
fn the_mapping_and_the_system_call_mean_the_same_element() {
    require_root();
    let pins = PinDir::new();
    let datapath = Datapath::open(&DatapathConfig::new(pins.path())).unwrap();
    let lb = datapath.lb();
    assert_strides_agree(&lb.maglev, |i| MaglevLine {
        slots: std::array::from_fn(|n| low(i) ^ low(u32::try_from(n).unwrap())),
    });
    assert_strides_agree(&lb.backends4, |i| Backend4 {
        addr: i.to_be_bytes(),
        csum: low(i),
        ..Backend4::default()
    });
    assert_strides_agree(&lb.ifaces, |i| Iface {
        ifindex: i,
        mtu: !i,
        ..Iface::default()
    });
    assert_strides_agree(&datapath.l2().peer_seen, |i| fairlead_abi::l2::PeerSeen {
        at: u64::from(i) << 32 | 1,
    });
}

fn low(n: u32) -> u16 {
    (n & 0xffff) as u16 | 1
}

#[test]
fn only_what_is_touched_is_mapped() {
    require_root();
    let pins = PinDir::new();
    let datapath = Datapath::open(&DatapathConfig::new(pins.path())).unwrap();
    let maglev = &datapath.lb().maglev;
    assert_eq!(maglev.mapped_bytes(), 0);
    maglev.write(5, &MaglevLine { slots: [1; 32] });
    let one_piece = maglev.mapped_bytes();
    assert!(one_piece > 0 && one_piece <= 256 * 1024, "{one_piece}");
    maglev.prepare(0..maglev.len()).unwrap();
    assert_eq!(maglev.mapped_bytes(), maglev.len() as usize * 64);
}

#[test]
fn hash_maps_of_the_kernel_behave_as_those_in_memory() {
    require_root();
    let pins = PinDir::new();
    let cfg = DatapathConfig {
        n_flows: 4000,
        ..DatapathConfig::new(pins.path())
    };
    let datapath = Datapath::open(&cfg).unwrap();
    let flows = &datapath.lb().flows;
    let key = |n: u32| fairlead_abi::flow::FlowKey {
        client_port: low(n).to_be_bytes(),
        vip: std::array::from_fn(|i| n.to_be_bytes()[i % 4]),
        ..Default::default()
    };
    let value = |n: u32| fairlead_abi::flow::FlowValue {
        frontend: n,
        ..Default::default()
    };
    assert!(flows.is_empty().unwrap());
    for n in 0..4000 {
        flows.insert(&key(n), &value(n), Insert::New).unwrap();
    }
    assert!(matches!(
        flows.insert(&key(1), &value(1), Insert::New),
        Err(MapError::Exists { .. })
    ));
    assert!(matches!(
        flows.insert(&key(4000), &value(1), Insert::Any),
        Err(MapError::Full { .. })
    ));
    assert!(matches!(
        flows.insert(&key(4001), &value(1), Insert::Replace),
        Err(MapError::Missing { .. })
    ));
    let mut seen: Vec<u32> = flows
        .entries()
        .unwrap()
        .into_iter()
        .map(|(_, value)| value.frontend)
        .collect();
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..4000), "{} elements", seen.len());
    assert_eq!(flows.get(&key(7)).unwrap(), Some(value(7)));
    assert!(flows.remove(&key(7)).unwrap());
    assert!(!flows.remove(&key(7)).unwrap());
    assert_eq!(flows.get(&key(7)).unwrap(), None);
    assert_eq!(flows.len().unwrap(), 3999);
}

#[test]
fn counters_sum_over_cpus_and_can_be_reset() {
    require_root();
    let pins = PinDir::new();
    let datapath = Datapath::open(&DatapathConfig::new(pins.path())).unwrap();
    let stats = &datapath.lb().fe_stats;
    stats
        .reset(
            9,
            &Counter {
                packets: 3,
                bytes: 180,
            },
        )
        .unwrap();
    assert_eq!(
        stats.sum(9).unwrap(),
        Counter {
            packets: 3,
            bytes: 180
        }
    );
    assert_eq!(stats.sum(8).unwrap(), Counter::default());
    stats.reset(9, &Counter::default()).unwrap();
    assert_eq!(stats.sum(9).unwrap(), Counter::default());
}

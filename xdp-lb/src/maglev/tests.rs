use std::{collections::BTreeMap, net::SocketAddr};

use fairlead_model::service::TABLE_SIZES;
use proptest::prelude::*;

use super::{MaglevError, Member, build, is_prime};

fn members(n: u16) -> Vec<Member> {
    (0..n).map(|i| member(i, i)).collect()
}

fn member(host: u16, index: u16) -> Member {
    let [hi, lo] = host.to_be_bytes();
    Member {
        identity: SocketAddr::from(([10, 0, hi, lo], 8080)),
        index,
    }
}

/// The table by identities, which is what nodes must agree on.
fn by_identity(members: &[Member], size: u32) -> Vec<SocketAddr> {
    let names: BTreeMap<u16, SocketAddr> = members.iter().map(|m| (m.index, m.identity)).collect();
    let slots = build(members, size).unwrap();
    slots.iter().map(|index| names[index]).collect()
}

fn shares(slots: &[u16]) -> BTreeMap<u16, usize> {
    let mut shares = BTreeMap::new();
    for slot in slots {
        *shares.entry(*slot).or_default() += 1;
    }
    shares
}

#[test]
fn cilium_sizes_are_prime() {
    assert!(TABLE_SIZES.iter().all(|size| is_prime(*size)));
    assert!(!is_prime(1) && !is_prime(49) && !is_prime(16_384));
}

#[test]
fn one_backend_takes_every_slot() {
    assert_eq!(build(&members(1), 251).unwrap(), vec![0; 251]);
}

#[test]
fn no_backend_is_an_empty_table() {
    assert_eq!(build(&[], 251), Ok(Vec::new()));
}

#[test]
fn too_many_backends_and_odd_sizes_are_refused_with_the_numbers() {
    let error = build(&members(252), 251).unwrap_err();
    assert_eq!(
        error,
        MaglevError::TooManyBackends {
            n_backends: 252,
            size: 251
        }
    );
    assert_eq!(error.reason(), "MaglevTableTooSmall");
    assert!(error.to_string().contains("252") && error.to_string().contains("251"));
    let error = build(&members(2), 1000).unwrap_err();
    assert_eq!(error.reason(), "MaglevTableSizeInvalid");
    assert!(error.to_string().contains("16381"), "{error}");
}

#[test]
fn a_table_as_large_as_its_backends_serves_each_once() {
    let slots = build(&members(251), 251).unwrap();
    assert!(shares(&slots).values().all(|n| *n == 1));
}

#[test]
fn shares_are_within_one_turn_of_each_other() {
    for (n, size) in [
        (3, 251),
        (10, 1021),
        (100, 16_381),
        (100, 65_521),
        (1000, 131_071),
    ] {
        let shares = shares(&build(&members(n), size).unwrap());
        assert_eq!(shares.len(), usize::from(n), "every backend has slots");
        let (least, most) = (
            shares.values().min().unwrap(),
            shares.values().max().unwrap(),
        );
        assert!(most - least <= 1, "{n} in {size}: {least}..={most}");
    }
}

/// Slots of backends that stay, and that change nevertheless, as a share of all slots.
fn disruption(before: &[SocketAddr], after: &[SocketAddr], gone: &[SocketAddr]) -> f64 {
    let moved = before.iter().zip(after);
    let moved = moved.filter(|(b, a)| b != a && !gone.contains(b)).count();
    moved as f64 / before.len() as f64
}

#[test]
fn removing_one_of_many_moves_few_others() {
    for (n, size, bound) in [(10, 1021, 0.05), (10, 16_381, 0.03), (100, 65_521, 0.02)] {
        let all = members(n);
        let before = by_identity(&all, size);
        for gone in [0, usize::from(n) / 2, usize::from(n) - 1] {
            let mut rest = all.clone();
            let removed = rest.remove(gone).identity;
            let moved = disruption(&before, &by_identity(&rest, size), &[removed]);
            assert!(moved <= bound, "{n} in {size} without {gone}: {moved}");
        }
    }
}

#[test]
fn the_permutation_is_part_of_the_contract_between_versions() {
    let slots = build(&members(3), 251).unwrap();
    let want = [
        1, 2, 1, 2, 0, 2, 2, 2, 0, 0, 0, 2, 2, 1, 2, 0, 0, 2, 0, 2, 0, 0, 0, 2,
    ];
    assert_eq!(slots[..24], want);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tables_do_not_depend_on_order_or_local_numbers(
        hosts in prop::collection::btree_set(any::<u16>(), 1..60),
        seed in any::<u64>(),
        size in prop::sample::select(&[251_u32, 509, 1021][..]),
    ) {
        let hosts: Vec<u16> = hosts.into_iter().collect();
        let here: Vec<Member> = (0_u16..).zip(&hosts).map(|(i, host)| member(*host, i)).collect();
        let mut there: Vec<Member> =
            (0_u16..).zip(&hosts).map(|(i, host)| member(*host, 1000 - i)).collect();
        let there_len = there.len();
        for i in 0..there_len {
            let j = usize::try_from(super::mix(seed ^ i as u64) % there_len as u64).unwrap();
            there.swap(i, j);
        }
        prop_assert_eq!(by_identity(&here, size), by_identity(&there, size));
    }

    #[test]
    fn disruption_is_bounded_for_any_change(
        n in 2_u16..40,
        gone in prop::collection::btree_set(0_u16..40, 0..4),
        come in prop::collection::btree_set(100_u16..140, 0..4),
    ) {
        let before: Vec<Member> = members(n);
        let mut after: Vec<Member> =
            before.iter().filter(|m| !gone.contains(&m.index)).copied().collect();
        after.extend(come.iter().map(|host| member(*host, *host)));
        prop_assume!(!after.is_empty());
        let size = 4093;
        let removed: Vec<SocketAddr> =
            before.iter().filter(|m| gone.contains(&m.index)).map(|m| m.identity).collect();
        let moved = disruption(&by_identity(&before, size), &by_identity(&after, size), &removed);
        // What newcomers must get, and as much again for every change as Maglev's own disruption.
        let changes = (gone.len() + come.len()) as f64;
        let must = come.len() as f64 / after.len() as f64;
        prop_assert!(moved <= must + 0.06 * changes, "moved {moved}, {must} had to");
    }

    #[test]
    fn every_slot_is_filled_by_a_member(n in 1_u16..251) {
        let slots = build(&members(n), 251).unwrap();
        prop_assert_eq!(slots.len(), 251);
        prop_assert!(slots.iter().all(|slot| *slot < n));
    }
}

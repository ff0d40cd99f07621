use std::collections::HashSet;

use super::*;

#[test]
fn the_two_buckets_differ_and_lie_in_the_table() {
    for i in 0..100_000u32 {
        let (a, b) = bucket_pair4(vip_key4(0x0a00_0000 | i, 80, 6));
        assert!(a < N_VIP_BUCKETS && b < N_VIP_BUCKETS && a != b);
        let mut addr = [0x20; 16];
        addr[12..].copy_from_slice(&i.to_be_bytes());
        let (a, b) = bucket_pair6(&addr, 443, 17);
        assert!(a < N_VIP_BUCKETS && b < N_VIP_BUCKETS && a != b);
    }
}

/// Chi-square over 1021 slots; 3 sigma above the mean of 1020 is 1155.
fn chi_square(hashes: impl Iterator<Item = u32>) -> f64 {
    let mut seen = vec![0u32; 1021];
    let mut n = 0u32;
    for h in hashes {
        seen[slot(h, 1021) as usize] += 1;
        n += 1;
    }
    let want = f64::from(n) / 1021.0;
    seen.iter()
        .map(|&s| (f64::from(s) - want).powi(2) / want)
        .sum()
}

#[test]
fn flows_spread_evenly_whatever_part_varies() {
    let by_port = chi_square((1024..65_535).map(|p| flow_hash4(0xc0a8_0102, p, 80, 6)));
    let by_addr = chi_square((0..65_536).map(|a| flow_hash4(0x0a00_0000 + a, 40_000, 80, 6)));
    let by_port6 = chi_square((1024..65_535).map(|p| flow_hash6(&[0x20; 16], p, 80, 6)));
    let by_addr6 = chi_square((0..65_536u32).map(|a| {
        let mut addr = [0xfd; 16];
        addr[12..].copy_from_slice(&a.to_be_bytes());
        flow_hash6(&addr, 40_000, 443, 17)
    }));
    for (what, x) in [
        ("port", by_port),
        ("addr", by_addr),
        ("port6", by_port6),
        ("addr6", by_addr6),
    ] {
        assert!(x < 1_200.0, "{what}: chi-square {x}");
    }
}

#[test]
fn hashes_are_what_pinned_tables_were_built_with() {
    assert_eq!(vip_key4(0x0a00_0001, 80, 6), 0x0106_0050_0a00_0001);
    assert_eq!(vip_word6(443, 17, 7), 0x0000_0007_0111_01bb);
    let golden = (
        bucket_pair4(vip_key4(0x0a00_0001, 80, 6)),
        bucket_pair6(&[0xfd; 16], 443, 17),
        flow_hash4(0xc0a8_0102, 40_000, 80, 6),
        flow_hash6(&[0xfd; 16], 40_000, 443, 17),
        snat_offset(&[1; 16], &[2; 16], 80, 6),
    );
    assert_eq!(
        golden,
        (
            (14_158, 2_303),
            (8_794, 9_059),
            841_297_305,
            107_497_347,
            53_920
        )
    );
}

#[test]
fn ports_of_one_client_to_one_frontend_never_collide() {
    let offset = snat_offset(&[7; 16], &[9; 16], 80, 6);
    let ports: HashSet<u16> = (1024..=u16::MAX).map(|p| snat_port(p, offset, 0)).collect();
    assert_eq!(ports.len(), 64_512);
    assert!(ports.iter().all(|&p| p >= SNAT_PORT_MIN));
}

#[test]
fn the_tries_of_one_flow_are_different_ports() {
    for client_port in [1024, 5000, 65_535] {
        let tries: HashSet<u16> = (0..8).map(|k| snat_port(client_port, 64_511, k)).collect();
        assert_eq!(tries.len(), 8);
    }
}

#[test]
fn slots_stay_below_the_length() {
    for len in [1, 251, 65_521] {
        assert_eq!(slot(0, len), 0);
        assert_eq!(slot(u32::MAX, len), len - 1);
    }
    assert_eq!(line_of(33), (1, 1));
}

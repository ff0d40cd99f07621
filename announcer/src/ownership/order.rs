//! Who comes first: rendezvous hashing, and the bounded load of planned placement.
//!
//! Every node computes the same order from the same members, whatever its history: nothing here depends on time or on hash seeds.

use std::net::IpAddr;

use fairlead_model::NodeName;
use sha2::{Digest as _, Sha256};

/// A node, by the first 8 bytes of SHA-256 over its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The same on every node.
    pub fn of(name: &NodeName) -> Self {
        let hash: [u8; 32] = Sha256::digest(name.as_str().as_bytes()).into();
        let [a, b, c, d, e, f, g, h, ..] = hash;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// A node's interface on a segment: the unit that heartbeats and owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

impl MemberId {
    /// Two interfaces of one node are two members.
    pub const fn new(node: NodeId, ifindex: u32) -> Self {
        Self(mix(&[node.0, ifindex as u64]))
    }
}

/// An address as two words, IPv4 mapped.
pub(crate) fn words(vip: IpAddr) -> (u64, u64) {
    let bits = u128::from(match vip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    });
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves of 128 bits"
    )]
    let halves = ((bits >> 64) as u64, bits as u64);
    halves
}

/// A 64-bit hash of words, the same on every machine.
///
/// # Source
/// The finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators), chained.
pub(crate) const fn mix(words: &[u64]) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut at = 0;
    while at < words.len() {
        state = state
            .wrapping_add(words[at])
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
        at += 1;
    }
    state
}

/// Where a member stands for an address; the largest comes first. The member's id breaks the tie that never happens.
pub(crate) fn score(vip: IpAddr, member: MemberId) -> (u64, MemberId) {
    let (hi, lo) = words(vip);
    (mix(&[hi, lo, member.0]), member)
}

/// Whether `a` comes before `b` in the order of `vip`.
pub(crate) fn is_before(vip: IpAddr, a: MemberId, b: MemberId) -> bool {
    score(vip, a) > score(vip, b)
}

/// Most groups that planned placement gives to one of `members`: an even share, a tenth more where shares are large.
pub(crate) const fn load_bound(groups: usize, members: usize) -> usize {
    if members == 0 {
        return 0;
    }
    let even = groups.div_ceil(members);
    let tenth = groups * 11 / (members * 10);
    if tenth > even { tenth } else { even }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{MemberId, NodeId, load_bound, score};

    fn best(vip: IpAddr, members: &[MemberId]) -> MemberId {
        *members.iter().max_by_key(|m| score(vip, **m)).unwrap()
    }

    #[test]
    fn rendezvous_spreads_evenly_and_moves_only_what_it_must() {
        let members: Vec<MemberId> = (0..4).map(|n| MemberId::new(NodeId(n), 2)).collect();
        let vips = (0..4000u32).map(|n| IpAddr::V4(Ipv4Addr::from(0xc000_0200 + n)));
        let mut load = [0usize; 4];
        for vip in vips {
            let owner = best(vip, &members);
            load[members.iter().position(|m| *m == owner).unwrap()] += 1;
            let without_last = best(vip, &members[..3]);
            assert!(owner == members[3] || owner == without_last);
        }
        assert!(load.iter().all(|n| (900..1100).contains(n)), "{load:?}");
    }

    #[test]
    fn the_bound_is_an_even_share_and_a_tenth() {
        let cases = [(1, 2), (2, 2), (3, 2), (10, 2), (1000, 2), (0, 3), (5, 0)];
        assert_eq!(
            cases.map(|(g, m)| load_bound(g, m)),
            [1, 1, 2, 5, 550, 0, 0]
        );
    }
}

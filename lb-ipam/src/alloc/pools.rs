//! Pools in the order of search, their conflicts, and the lowest free address of a range.

use std::{
    cmp::Reverse,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use fairlead_api::convert::check_vip;
use fairlead_model::{IpRange, Labels, Pool};
use num_bigint::BigUint;

use super::{Family, PoolInput, holders::Holders};

/// A pool with what its neighbours make of it.
#[derive(Debug)]
pub struct View<'a> {
    /// The pool.
    pub pool: &'a Pool,
    /// What it collides with; the pool then gives out nothing new.
    pub conflict: Option<Conflict>,
}

/// An overlap that this pool loses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Its own range.
    pub own: IpRange,
    /// The range it overlaps.
    pub other: IpRange,
    /// The pool that has the other range; may be the same.
    pub pool: String,
}

/// Every pool, oldest first, then by name.
pub fn views(inputs: &[PoolInput]) -> Vec<View<'_>> {
    let mut pools: Vec<&Pool> = inputs.iter().map(|input| &input.pool).collect();
    pools.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    let conflicts: Vec<Option<Conflict>> = (0..pools.len())
        .map(|idx| conflict(pools[idx], &pools[..idx]))
        .collect();
    pools
        .into_iter()
        .zip(conflicts)
        .map(|(pool, conflict)| View { pool, conflict })
        .collect()
}

/// The first overlap of a pool with an older one, or with itself. Disabled pools count too.
fn conflict(pool: &Pool, older: &[&Pool]) -> Option<Conflict> {
    let mut own = pool.blocks.iter().enumerate();
    own.find_map(|(idx, block)| {
        let found = |other: &IpRange, name: &str| {
            block.range.overlaps(other).then(|| Conflict {
                own: block.range,
                other: *other,
                pool: name.to_owned(),
            })
        };
        older
            .iter()
            .find_map(|o| o.blocks.iter().find_map(|b| found(&b.range, &o.name)))
            .or_else(|| {
                pool.blocks[idx + 1..]
                    .iter()
                    .find_map(|b| found(&b.range, &pool.name))
            })
    })
}

impl View<'_> {
    /// Whether new addresses come from here.
    pub const fn is_active(&self) -> bool {
        !self.pool.disabled && self.conflict.is_none() && self.pool.selector.is_ok()
    }

    /// Whether the pool selects a Service with these labels. A selector that cannot be read takes nothing from anybody:
    /// for keeping, it selects all; for giving, [`Self::is_active`] is false.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.pool
            .selector
            .as_ref()
            .map_or(true, |s| s.matches(labels))
    }

    /// Whether a readable block holds the address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.pool.blocks.iter().any(|b| b.range.contains(ip))
    }

    /// Whether the pool has any address of the family.
    pub fn has_family(&self, family: Family) -> bool {
        self.pool
            .blocks
            .iter()
            .any(|b| Family::of(b.range.first()) == family)
    }

    /// First and last address of a prefix block when they may not be given out.
    pub fn is_reserved(&self, ip: IpAddr) -> bool {
        let mut blocks = self.pool.blocks.iter().filter(|b| b.is_prefix);
        !self.pool.allow_first_last
            && blocks.any(|b| {
                let (first, last) = (b.range.first(), b.range.last());
                // A prefix of one or two addresses is never trimmed.
                let is_trimmed = number(last) - number(first) >= 2;
                is_trimmed && (ip == first || ip == last)
            })
    }

    /// Addresses in all blocks; an address in two blocks counts twice, as in Cilium.
    pub fn total(&self) -> BigUint {
        self.pool.blocks.iter().map(|b| size(&b.range)).sum()
    }

    /// Addresses that cannot be given out now: held by anybody, reserved, or never usable.
    pub fn used(&self, holders: &Holders<'_>) -> BigUint {
        self.pool
            .blocks
            .iter()
            .map(|b| self.used_of(&b.range, holders))
            .sum()
    }

    fn used_of(&self, range: &IpRange, holders: &Holders<'_>) -> BigUint {
        let never: BigUint = unusable(Family::of(range.first()))
            .filter_map(|never| intersection(range, &never))
            .map(|part| size(&part))
            .sum();
        let held = holders.within(range).filter(|ip| check_vip(*ip).is_ok());
        let mut single: Vec<IpAddr> = held.collect();
        let ends = [range.first(), range.last()];
        single.extend(
            ends.into_iter()
                .filter(|ip| self.is_reserved(*ip) && check_vip(*ip).is_ok()),
        );
        single.sort_unstable();
        single.dedup();
        never + BigUint::from(single.len())
    }

    /// The lowest address of the family that is free here, blocks in order.
    pub fn lowest_free(&self, family: Family, holders: &mut Holders<'_>) -> Option<IpAddr> {
        let blocks = self.pool.blocks.iter();
        blocks
            .filter(|b| Family::of(b.range.first()) == family)
            .find_map(|b| {
                let mut at = holders.cursor(&b.range);
                while at.is_some_and(|ip| holders.is_taken(ip) || self.is_reserved(ip)) {
                    at = at.and_then(|ip| next_usable(ip, &b.range));
                }
                // Within one plan nothing becomes free, so the next search goes on from here. A reserved address
                // is passed over for good too: no other pool may have this range.
                holders.remember(&b.range, at);
                at
            })
    }
}

/// The first address at or after the range's start that a Service could have.
pub(super) fn first_usable(range: &IpRange) -> Option<IpAddr> {
    skip_unusable(range.first(), range)
}

fn next_usable(ip: IpAddr, range: &IpRange) -> Option<IpAddr> {
    skip_unusable(next(ip)?, range)
}

/// `ip`, or what follows the unusable ranges it lies in, as long as that is inside `range`.
fn skip_unusable(mut ip: IpAddr, range: &IpRange) -> Option<IpAddr> {
    for never in unusable(Family::of(ip)) {
        if never.contains(ip) {
            ip = next(never.last())?;
        }
    }
    range.contains(ip).then_some(ip)
}

fn next(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(four) => four
            .to_bits()
            .checked_add(1)
            .map(|n| Ipv4Addr::from_bits(n).into()),
        IpAddr::V6(six) => six
            .to_bits()
            .checked_add(1)
            .map(|n| Ipv6Addr::from_bits(n).into()),
    }
}

/// Ranges whose addresses no Service can have, in ascending order; what [`check_vip`] refuses, as ranges.
fn unusable(family: Family) -> impl Iterator<Item = IpRange> {
    const V4: [(Ipv4Addr, Ipv4Addr); 4] = [
        (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED),
        (
            Ipv4Addr::new(127, 0, 0, 0),
            Ipv4Addr::new(127, 255, 255, 255),
        ),
        (
            Ipv4Addr::new(224, 0, 0, 0),
            Ipv4Addr::new(239, 255, 255, 255),
        ),
        (Ipv4Addr::BROADCAST, Ipv4Addr::BROADCAST),
    ];
    const V6: [(Ipv6Addr, Ipv6Addr); 3] = [
        (Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST),
        (
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xffff, 0xffff),
        ),
        (
            Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0),
            Ipv6Addr::new(
                0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff,
            ),
        ),
    ];
    let ends: Vec<(IpAddr, IpAddr)> = match family {
        Family::V4 => V4.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect(),
        Family::V6 => V6.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect(),
    };
    ends.into_iter()
        .map(|(first, last)| IpRange::new(first, last).expect("the table is in order"))
}

fn intersection(a: &IpRange, b: &IpRange) -> Option<IpRange> {
    let first = a.first().max(b.first());
    let last = Reverse(a.last()).max(Reverse(b.last())).0;
    a.overlaps(b)
        .then(|| IpRange::new(first, last).expect("overlapping ranges share this part"))
}

const fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(four) => four.to_bits() as u128,
        IpAddr::V6(six) => six.to_bits(),
    }
}

/// How many addresses: `::/0` has more than a u128 counts.
fn size(range: &IpRange) -> BigUint {
    BigUint::from(number(range.last()) - number(range.first())) + 1_u8
}

//! Pools in the order of search, their conflicts and refusals, and which of them holds an address.
//!
//! Everything here is built anew when a pool, a reservation or an address of the cluster's own machines changes, and read
//! only in between. [`Landscape`] answers in `O(log blocks)` which pools hold an address.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use fairlead_api::convert::check_vip;
use fairlead_model::{IpRange, PoolBlock, ServiceName};
use num_bigint::BigUint;

use super::{Family, InUse, PoolInput, ReservationInput, ServiceInput, runs::Runs};

/// A pool with what its neighbours make of it.
#[derive(Debug, Clone)]
pub struct View {
    /// The pool.
    pub input: PoolInput,
    /// What it collides with; the pool then gives out nothing new.
    pub conflict: Option<Conflict>,
    /// Blocks that give out nothing new, because something of the cluster's own lives in them.
    pub refused: Vec<Refusal>,
    /// First and last addresses that may not be given out, ascending.
    ends: Vec<IpAddr>,
    /// Addresses that are never given out: nobody can have them, first and last ones, reserved ones.
    n_never: BigUint,
    total: BigUint,
    /// Addresses beside those that are held; each in as many blocks as hold it.
    pub n_held: usize,
    /// Addresses of each family that a write under way will free.
    pub n_releasing: [usize; 2],
    /// Nothing is left: of all, and of what is not kept back for a former holder.
    pub is_full: [[bool; 2]; 2],
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

/// A block with an address of the cluster's own in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which block.
    pub idx: usize,
    /// What lies in it.
    pub by: InUse,
}

/// One block of one pool.
#[derive(Debug, Clone, Copy)]
struct Row {
    range: IpRange,
    view: usize,
    block: usize,
}

/// Every pool, and indexes over their blocks.
#[derive(Debug, Clone, Default)]
pub struct Landscape {
    /// Oldest first, then by name.
    pub views: Vec<View>,
    /// Order of search: highest priority first, then as `views`.
    pub search: Vec<usize>,
    /// Every reservation, oldest first, then by name.
    pub reservations: Vec<ReservationInput>,
    /// By first address; with the highest last address so far.
    rows: Vec<(Row, IpAddr)>,
    /// Pools with parts that cannot be read.
    partly_read: Vec<usize>,
    /// What no Service can have, and what is reserved.
    never: Runs,
    reserved: Runs,
    reserved_for: BTreeMap<ServiceName, Vec<usize>>,
}

impl Landscape {
    /// # Complexity
    /// `O(blocks log blocks)`, and the number of blocks again for each pool that loses a conflict.
    pub fn new(
        mut pools: Vec<PoolInput>,
        in_use: &[InUse],
        mut reservations: Vec<ReservationInput>,
    ) -> Self {
        pools.sort_by(|a, b| (a.pool.created, &a.pool.name).cmp(&(b.pool.created, &b.pool.name)));
        reservations.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let mut reserved = Runs::default();
        for range in reservations.iter().flat_map(|r| &r.ranges) {
            reserved.insert(range);
        }
        let conflicts = conflicts(&pools);
        let machines = Machines::new(in_use);
        let views: Vec<View> = pools
            .into_iter()
            .zip(conflicts)
            .map(|(input, conflict)| View::new(input, conflict, &machines, &reserved))
            .collect();
        let mut search: Vec<usize> = (0..views.len()).collect();
        search.sort_by_key(|idx| Reverse(views[*idx].input.priority));
        let mut never = reserved.clone();
        for range in [Family::V4, Family::V6].into_iter().flat_map(unusable) {
            never.insert(&range);
        }
        let has_bad_blocks = |idx: &usize| !views[*idx].input.pool.bad_blocks.is_empty();
        let partly_read = (0..views.len()).filter(has_bad_blocks).collect();
        Self {
            rows: rows(&views),
            views,
            search,
            reserved_for: by_owner(&reservations),
            reservations,
            partly_read,
            never,
            reserved,
        }
    }

    /// Every block that holds the address: pool and block.
    pub fn blocks_with(&self, ip: IpAddr) -> impl Iterator<Item = (usize, usize)> {
        let end = self
            .rows
            .partition_point(|(row, _)| row.range.first() <= ip);
        let back = self.rows[..end].iter().rev();
        back.take_while(move |(_, reach)| *reach >= ip)
            .filter(move |(row, _)| row.range.contains(ip))
            .map(|(row, _)| (row.view, row.block))
    }

    /// Pools that hold the address, oldest first, each once.
    pub fn views_with(&self, ip: IpAddr) -> Vec<usize> {
        let mut found: Vec<usize> = self.blocks_with(ip).map(|(view, _)| view).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Pools that would give out the address, oldest first.
    pub fn giving(&self, ip: IpAddr) -> Vec<usize> {
        let mut found: Vec<usize> = self
            .blocks_with(ip)
            .filter(|(view, block)| {
                let view = &self.views[*view];
                view.is_active() && !view.is_refused(*block)
            })
            .map(|(view, _)| view)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether a Service may keep the address: a pool that it may use holds it, also a disabled or conflicting one, and one
    /// with a block that cannot be read, which may be the block that the address came from.
    pub fn may_keep(&self, ip: IpAddr, service: &ServiceInput) -> bool {
        let mut in_block = self.blocks_with(ip).map(|(view, _)| view);
        in_block.any(|view| self.views[view].serves(service))
            || self
                .partly_read
                .iter()
                .any(|view| self.views[*view].serves(service))
    }

    /// Whether the Service names no pool, or one that holds the address.
    pub fn is_named(&self, ip: IpAddr, service: &ServiceInput) -> bool {
        let mut in_block = self.blocks_with(ip).map(|(view, _)| view);
        service.pools.is_empty() || in_block.any(|view| self.views[view].is_named(service))
    }

    /// The reservation that keeps this address from `service`.
    pub fn reserved_from(&self, ip: IpAddr, service: &ServiceName) -> Option<&ReservationInput> {
        let mut each = self
            .reservations
            .iter()
            .filter(|_| self.reserved.contains(ip));
        each.find(|r| r.contains(ip))
            .filter(|r| r.service.as_ref() != Some(service))
    }

    /// The lowest address of the pool and family that is neither in `taken` nor in `kept_back`, blocks in order.
    pub fn lowest_free(
        &self,
        view: usize,
        family: Family,
        taken: &Runs,
        kept_back: Option<&Runs>,
    ) -> Option<IpAddr> {
        let view = &self.views[view];
        let blocks = view.input.pool.blocks.iter().enumerate();
        blocks
            .filter(|(idx, b)| Family::of(b.range.first()) == family && !view.is_refused(*idx))
            .find_map(|(_, b)| {
                let mut at = b.range.first();
                loop {
                    let mut free = taken.skip(at).and_then(|ip| self.never.skip(ip))?;
                    if let Some(kept_back) = kept_back {
                        free = kept_back.skip(free)?;
                    }
                    if view.is_end(free) {
                        free = super::runs::next(free)?;
                    }
                    match free {
                        _ if free > b.range.last() => return None,
                        _ if free == at => return Some(free),
                        _ => at = free,
                    }
                }
            })
    }

    /// The lowest free address that is reserved for the Service and lies in a pool it may use.
    pub fn lowest_reserved(
        &self,
        service: &ServiceInput,
        family: Family,
        taken: &Runs,
    ) -> Option<IpAddr> {
        let own = self.reserved_for.get(&service.name).into_iter().flatten();
        let ranges = own.flat_map(|idx| &self.reservations[*idx].ranges);
        let fits = |ip: IpAddr| {
            check_vip(ip).is_ok()
                && self.reserved_from(ip, &service.name).is_none()
                && self
                    .giving(ip)
                    .into_iter()
                    .any(|v| self.views[v].serves(service) && !self.views[v].is_end(ip))
        };
        ranges
            .filter(|range| Family::of(range.first()) == family)
            .find_map(|range| {
                // Only addresses that some pool holds are worth a look: a reservation may be a whole /64.
                let mut parts: Vec<IpRange> = self
                    .views
                    .iter()
                    .flat_map(|v| &v.input.pool.blocks)
                    .filter_map(|b| intersection(&b.range, range))
                    .collect();
                parts.sort_unstable();
                parts.iter().find_map(|part| {
                    let mut at = taken.skip(part.first());
                    // Bounded: first and last, or a foreign reservation inside; beyond that the owner can ask by address.
                    for _ in 0..MAX_STEPS {
                        match at {
                            Some(ip) if ip > part.last() => return None,
                            Some(ip) if fits(ip) => return Some(ip),
                            Some(ip) => at = super::runs::next(ip).and_then(|ip| taken.skip(ip)),
                            None => return None,
                        }
                    }
                    None
                })
            })
    }
}

/// Addresses of one reservation that are tried one by one.
const MAX_STEPS: usize = 1024;

fn by_owner(reservations: &[ReservationInput]) -> BTreeMap<ServiceName, Vec<usize>> {
    let mut found: BTreeMap<ServiceName, Vec<usize>> = BTreeMap::new();
    for (idx, reservation) in reservations.iter().enumerate() {
        if let Some(service) = &reservation.service {
            found.entry(service.clone()).or_default().push(idx);
        }
    }
    found
}

fn rows(views: &[View]) -> Vec<(Row, IpAddr)> {
    let mut rows: Vec<Row> = Vec::new();
    for (view, v) in views.iter().enumerate() {
        let blocks = v.input.pool.blocks.iter().enumerate();
        rows.extend(blocks.map(|(block, b)| Row {
            range: b.range,
            view,
            block,
        }));
    }
    rows.sort_by_key(|row| (row.range, row.view, row.block));
    let mut reach: Option<IpAddr> = None;
    rows.into_iter()
        .map(|row| {
            let last = row.range.last();
            let now = reach.map_or(last, |reach| reach.max(last));
            reach = Some(now);
            (row, now)
        })
        .collect()
}

/// For each pool, in the given order of age, the first overlap with an older pool or with itself. Disabled pools count too.
fn conflicts(pools: &[PoolInput]) -> Vec<Option<Conflict>> {
    let mut older = Runs::default();
    let mut found = Vec::with_capacity(pools.len());
    for (idx, pool) in pools.iter().enumerate() {
        let blocks = &pool.pool.blocks;
        let with_older = blocks.iter().find(|b| older.overlaps(&b.range));
        // Which one it is costs a walk over all of them, and only who loses pays it.
        let conflict = with_older
            .and_then(|b| {
                let mut others = pools[..idx].iter();
                others.find_map(|o| {
                    let mut each = o.pool.blocks.iter();
                    let other = each.find(|other| other.range.overlaps(&b.range))?;
                    Some((b.range, other.range, &o.pool.name))
                })
            })
            .or_else(|| own_overlap(pool).map(|(a, b)| (a, b, &pool.pool.name)))
            .map(|(own, other, pool)| Conflict {
                own,
                other,
                pool: pool.clone(),
            });
        for block in blocks {
            older.insert(&block.range);
        }
        found.push(conflict);
    }
    found
}

/// The first block, in the order of the spec, that shares addresses with one after it.
fn own_overlap(pool: &PoolInput) -> Option<(IpRange, IpRange)> {
    let mut seen = Runs::default();
    let mut blocks = pool.pool.blocks.iter();
    let second = blocks.find(|b| {
        let overlaps = seen.overlaps(&b.range);
        seen.insert(&b.range);
        overlaps
    })?;
    let mut first = pool.pool.blocks.iter();
    let first = first.find(|b| b.range.overlaps(&second.range))?;
    Some((first.range, second.range))
}

/// Addresses of the cluster's own, by first address; with the highest last address so far.
struct Machines<'a>(Vec<(&'a InUse, IpAddr)>);

impl<'a> Machines<'a> {
    fn new(in_use: &'a [InUse]) -> Self {
        let mut sorted: Vec<&InUse> = in_use.iter().collect();
        sorted.sort_by_key(|u| (u.range, u.kind, &u.owner));
        let mut reach: Option<IpAddr> = None;
        let each = sorted.into_iter().map(|u| {
            let now = reach.map_or_else(|| u.range.last(), |reach| reach.max(u.range.last()));
            reach = Some(now);
            (u, now)
        });
        Self(each.collect())
    }

    /// The lowest thing inside the range that the pool does not allow.
    fn inside(&self, range: &IpRange, pool: &PoolInput) -> Option<&'a InUse> {
        let end = self
            .0
            .partition_point(|(u, _)| u.range.first() <= range.last());
        let back = self.0[..end].iter().rev();
        back.take_while(|(_, reach)| *reach >= range.first())
            .filter(|(u, _)| u.range.overlaps(range) && !pool.allows.contains(&u.kind))
            .map(|(u, _)| *u)
            .last()
    }
}

// === impl View ===

impl View {
    fn new(
        input: PoolInput,
        conflict: Option<Conflict>,
        machines: &Machines<'_>,
        reserved: &Runs,
    ) -> Self {
        let blocks = input.pool.blocks.iter().enumerate();
        let refused = blocks
            .filter_map(|(idx, b)| {
                let by = machines.inside(&b.range, &input)?.clone();
                Some(Refusal { idx, by })
            })
            .collect();
        let total = input.pool.blocks.iter().map(|b| size(&b.range)).sum();
        let ends = ends(&input);
        let mut view = Self {
            input,
            conflict,
            refused,
            ends,
            n_never: BigUint::ZERO,
            total,
            n_held: 0,
            n_releasing: [0; 2],
            is_full: [[false; 2]; 2],
        };
        let blocks = view.input.pool.blocks.iter();
        view.n_never = blocks.map(|b| view.never_of(b, reserved)).sum();
        view
    }

    fn never_of(&self, block: &PoolBlock, reserved: &Runs) -> BigUint {
        let range = &block.range;
        let mut never = Runs::default();
        for part in unusable(Family::of(range.first())).chain(reserved.within(range)) {
            never.insert(&part);
        }
        for end in trimmed(block, &self.input).into_iter().flatten() {
            never.insert_one(end);
        }
        never.within(range).map(|part| size(&part)).sum()
    }

    /// Whether new addresses come from here.
    pub const fn is_active(&self) -> bool {
        !self.input.pool.disabled && self.conflict.is_none() && self.input.pool.selector.is_ok()
    }

    fn is_refused(&self, block: usize) -> bool {
        self.refused
            .binary_search_by_key(&block, |refusal| refusal.idx)
            .is_ok()
    }

    /// Whether the pool selects the Service, and the Service does not name other pools. A selector that cannot be read takes
    /// nothing from anybody: for keeping, it selects all; for giving, [`Self::is_active`] is false.
    pub fn serves(&self, service: &ServiceInput) -> bool {
        self.selects(service) && self.is_named(service)
    }

    /// Whether the pool's selector matches.
    pub fn selects(&self, service: &ServiceInput) -> bool {
        let selector = self.input.pool.selector.as_ref();
        selector.map_or(true, |s| s.matches(&service.labels))
    }

    /// Whether the Service names no pool, or this one (`fairlead.io/ip-pool`).
    pub fn is_named(&self, service: &ServiceInput) -> bool {
        service.pools.is_empty() || service.pools.contains(&self.input.pool.name)
    }

    /// Whether the pool gives out any address of the family.
    pub fn has_family(&self, family: Family) -> bool {
        let mut blocks = self.input.pool.blocks.iter().enumerate();
        blocks.any(|(idx, b)| Family::of(b.range.first()) == family && !self.is_refused(idx))
    }

    /// First and last address of a prefix block when they may not be given out.
    pub fn is_end(&self, ip: IpAddr) -> bool {
        self.ends.binary_search(&ip).is_ok()
    }

    /// Addresses in all blocks; an address in two blocks counts twice, as in Cilium.
    pub const fn total(&self) -> &BigUint {
        &self.total
    }

    /// Addresses that cannot be given out now: held by anybody, reserved, or never usable.
    pub fn used(&self) -> BigUint {
        &self.n_never + BigUint::from(self.n_held)
    }
}

fn ends(pool: &PoolInput) -> Vec<IpAddr> {
    let blocks = pool.pool.blocks.iter();
    let mut ends: Vec<IpAddr> = blocks.filter_map(|b| trimmed(b, pool)).flatten().collect();
    ends.sort_unstable();
    ends
}

/// First and last address of the block, if they may not be given out. A prefix of one or two addresses is never trimmed.
fn trimmed(block: &PoolBlock, pool: &PoolInput) -> Option<[IpAddr; 2]> {
    let (first, last) = (block.range.first(), block.range.last());
    let is_long = || number(last) - number(first) >= 2;
    (!pool.pool.allow_first_last && block.is_prefix && is_long()).then_some([first, last])
}

impl Landscape {
    /// Whether a held address counts in this block: what is never given out counts already.
    pub fn counts(&self, ip: IpAddr, view: usize, block: usize) -> bool {
        let input = &self.views[view].input;
        let ends = trimmed(&input.pool.blocks[block], input);
        !self.never.contains(ip) && !ends.into_iter().flatten().any(|end| end == ip)
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
    let last = a.last().min(b.last());
    let cut = || IpRange::new(first, last).expect("overlapping ranges share this part");
    a.overlaps(b).then(cut)
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

//! Sets of addresses as runs, so that a full /16 costs what one address costs.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use fairlead_model::IpRange;

/// A set of addresses. Runs are disjoint, never adjacent, and of one family each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs(BTreeMap<IpAddr, IpAddr>);

impl Runs {
    /// The run that holds the address.
    fn around(&self, ip: IpAddr) -> Option<(IpAddr, IpAddr)> {
        let (first, last) = self.0.range(..=ip).next_back()?;
        let is_inside = first.is_ipv4() == ip.is_ipv4() && *last >= ip;
        is_inside.then_some((*first, *last))
    }

    /// Whether the address is in the set.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.around(ip).is_some()
    }

    /// The lowest address at or after `ip` that is not in the set; `None` past the end of the family.
    ///
    /// # Complexity
    /// `O(log runs)`.
    pub fn skip(&self, ip: IpAddr) -> Option<IpAddr> {
        match self.around(ip) {
            Some((_, last)) => next(last),
            None => Some(ip),
        }
    }

    /// Whether the set shares an address with the range.
    pub fn overlaps(&self, range: &IpRange) -> bool {
        let last = self.0.range(..=range.last()).next_back();
        last.is_some_and(|(first, last)| {
            first.is_ipv4() == range.first().is_ipv4() && *last >= range.first()
        })
    }

    /// Adds a range, whatever of it is there already.
    pub fn insert(&mut self, range: &IpRange) {
        let (mut first, mut last) = (range.first(), range.last());
        // Runs that touch or overlap the new one become part of it.
        let reach = next(last).unwrap_or(last);
        while let Some((f, l)) = self.0.range(..=reach).next_back().map(|(f, l)| (*f, *l)) {
            let touches = f.is_ipv4() == first.is_ipv4()
                && (l >= first || next(l).is_some_and(|n| n == first));
            if !touches {
                break;
            }
            self.0.remove(&f);
            first = first.min(f);
            last = last.max(l);
        }
        self.0.insert(first, last);
    }

    /// Adds one address.
    pub fn insert_one(&mut self, ip: IpAddr) {
        self.insert(&IpRange::new(ip, ip).expect("one address is a range"));
    }

    /// Takes one address out; its run falls into two.
    pub fn remove(&mut self, ip: IpAddr) {
        let Some((first, last)) = self.around(ip) else {
            return;
        };
        self.0.remove(&first);
        if first < ip {
            let before = previous(ip).expect("a lower address of the family exists");
            self.0.insert(first, before);
        }
        if ip < last {
            let after = next(ip).expect("a higher address of the family exists");
            self.0.insert(after, last);
        }
    }

    /// Every run that shares an address with `range`, cut to it, ascending.
    pub fn within(&self, range: &IpRange) -> impl Iterator<Item = IpRange> {
        let (from, to) = (range.first(), range.last());
        let begin = self.around(from).map_or(from, |(first, _)| first);
        self.0.range(begin..=to).filter_map(move |(first, last)| {
            let is_family = first.is_ipv4() == from.is_ipv4();
            let cut = || IpRange::new((*first).max(from), (*last).min(to)).ok();
            is_family.then(cut).flatten()
        })
    }

    /// Every run, ascending.
    pub fn iter(&self) -> impl Iterator<Item = IpRange> {
        let each = self.0.iter();
        each.filter_map(|(first, last)| IpRange::new(*first, *last).ok())
    }

    /// Nothing is in the set any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The address after, inside its family.
pub fn next(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(four) => {
            let next = four.to_bits().checked_add(1);
            next.map(|n| Ipv4Addr::from_bits(n).into())
        }
        IpAddr::V6(six) => {
            let next = six.to_bits().checked_add(1);
            next.map(|n| Ipv6Addr::from_bits(n).into())
        }
    }
}

fn previous(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(four) => {
            let before = four.to_bits().checked_sub(1);
            before.map(|n| Ipv4Addr::from_bits(n).into())
        }
        IpAddr::V6(six) => {
            let before = six.to_bits().checked_sub(1);
            before.map(|n| Ipv6Addr::from_bits(n).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        net::{IpAddr, Ipv4Addr},
    };

    use fairlead_model::IpRange;
    use proptest::prelude::*;

    use super::{Runs, next};

    fn ip(n: u8) -> IpAddr {
        // The top of the family is where mistakes live.
        Ipv4Addr::new(255, 255, 255, 255 - n).into()
    }

    proptest! {
        #[test]
        fn runs_are_the_set_they_stand_for(steps in prop::collection::vec((any::<bool>(), 0..24_u8, 0..4_u8), 0..60)) {
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for (is_insert, at, more) in steps {
                if is_insert {
                    let (first, last) = (ip(at.saturating_add(more)), ip(at));
                    runs.insert(&IpRange::new(first, last).unwrap());
                    model.extend((at..=at + more).map(ip));
                } else {
                    runs.remove(ip(at));
                    model.remove(&ip(at));
                }
                let held: Vec<(IpAddr, IpAddr)> = runs.iter().map(|r| (r.first(), r.last())).collect();
                for pair in held.windows(2) {
                    prop_assert!(next(pair[0].1).unwrap() < pair[1].0, "{:?} touch", held);
                }
                for n in 0..30 {
                    prop_assert_eq!(runs.contains(ip(n)), model.contains(&ip(n)));
                    let mut free = Some(ip(n));
                    while let Some(at) = free && model.contains(&at) {
                        free = next(at);
                    }
                    prop_assert_eq!(runs.skip(ip(n)), free);
                }
                let all = IpRange::new(ip(20), ip(3)).unwrap();
                let cut: usize = runs.within(&all).map(|r| {
                    let mut n = 1;
                    let mut at = r.first();
                    while at != r.last() { at = next(at).unwrap(); n += 1; }
                    n
                }).sum();
                let wanted = model.iter().filter(|i| all.contains(**i)).count();
                prop_assert_eq!(cut, wanted);
                prop_assert_eq!(runs.overlaps(&all), wanted > 0);
            }
        }
    }

    #[test]
    fn families_do_not_touch() {
        let mut runs = Runs::default();
        runs.insert_one("255.255.255.255".parse().unwrap());
        runs.insert_one("::".parse().unwrap());
        assert_eq!(runs.iter().count(), 2);
        assert_eq!(runs.skip("255.255.255.255".parse().unwrap()), None);
        assert_eq!(
            runs.skip("::".parse().unwrap()),
            Some("::1".parse().unwrap())
        );
    }
}

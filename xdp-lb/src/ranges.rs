//! Who owns which part of an array: contiguous ranges, first fit, and a rest before a part is used again.
//!
//! Stores through a mapping have no RCU: a program may still read what was just unlinked. A freed range therefore rests before it is given
//! out again. First fit keeps what is used close together, because only touched pieces of an array are mapped.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

/// How long freed parts rest: a packet is decided within microseconds, a second is far beyond any.
pub const REST_NS: u64 = 1_000_000_000;

/// An array's parts. Times are CLOCK_BOOTTIME ns and never go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// Start to length; never adjacent.
    free: BTreeMap<u32, u32>,
    /// In the order of the end of their rest.
    resting: VecDeque<(u64, Range<u32>)>,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// Something rests: it may be enough at this time.
    Until(u64),
    /// Nothing rests.
    Full,
}

// === impl Ranges ===

impl Ranges {
    /// Everything in `all` is free.
    pub fn new(all: Range<u32>) -> Self {
        let mut ranges = Self {
            free: BTreeMap::new(),
            resting: VecDeque::new(),
        };
        ranges.insert(all);
        ranges
    }

    /// Takes exactly this range, as a restart finds it in use; `false` if a part of it is taken already or it lies outside.
    #[must_use]
    pub fn claim(&mut self, wanted: &Range<u32>) -> bool {
        if wanted.is_empty() {
            return true;
        }
        let Some((&start, &len)) = self.free.range(..=wanted.start).next_back() else {
            return false;
        };
        let end = start + len;
        if end < wanted.end {
            return false;
        }
        self.free.remove(&start);
        self.insert(start..wanted.start);
        self.insert(wanted.end..end);
        true
    }

    /// The first free range of this length.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn take(&mut self, len: u32, now: u64) -> Result<Range<u32>, NoRoom> {
        self.wake(now);
        let found = self.free.iter().find(|(_, n)| **n >= len);
        let Some((&start, &n)) = found else {
            return Err(self
                .resting
                .front()
                .map_or(NoRoom::Full, |(until, _)| NoRoom::Until(*until)));
        };
        self.free.remove(&start);
        self.insert(start + len..start + n);
        Ok(start..start + len)
    }

    /// Gives a range back; it rests first.
    pub fn give(&mut self, range: Range<u32>, now: u64) {
        if !range.is_empty() {
            self.resting.push_back((now + REST_NS, range));
        }
    }

    /// Gives back what was taken and never published.
    pub fn give_unused(&mut self, range: Range<u32>) {
        self.insert(range);
    }

    /// Elements that are free or at rest.
    pub fn n_free(&self) -> u32 {
        let free: u32 = self.free.values().sum();
        let resting: u32 = self
            .resting
            .iter()
            .map(|(_, range)| range.end - range.start)
            .sum();
        free + resting
    }

    fn wake(&mut self, now: u64) {
        while let Some((_, range)) = self.resting.pop_front_if(|(until, _)| *until <= now) {
            self.insert(range);
        }
    }

    fn insert(&mut self, range: Range<u32>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((&before, &len)) = self.free.range(..start).next_back()
            && before + len == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(len) = self.free.remove(&end) {
            end += len;
        }
        self.free.insert(start, end - start);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{NoRoom, REST_NS, Ranges};

    #[test]
    fn a_freed_range_rests_a_second() {
        let mut ranges = Ranges::new(1..11);
        let all = ranges.take(10, 0).unwrap();
        assert_eq!(all, 1..11);
        assert_eq!(ranges.take(1, 0), Err(NoRoom::Full));
        ranges.give(all.clone(), 5);
        assert_eq!(
            ranges.take(1, 5 + REST_NS - 1),
            Err(NoRoom::Until(5 + REST_NS))
        );
        assert_eq!(ranges.take(10, 5 + REST_NS), Ok(all));
    }

    #[test]
    fn claims_meet_only_what_is_free() {
        let mut ranges = Ranges::new(0..100);
        assert!(ranges.claim(&(10..20)));
        assert!(!ranges.claim(&(19..21)));
        assert!(!ranges.claim(&(95..101)));
        assert!(ranges.claim(&(20..30)));
        assert_eq!(ranges.take(71, 0), Err(NoRoom::Full));
        assert_eq!(ranges.take(70, 0), Ok(30..100));
        assert_eq!(ranges.take(10, 0), Ok(0..10));
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice_and_nothing_is_lost(steps in prop::collection::vec((1_u32..20, any::<bool>()), 1..80)) {
            let mut ranges = Ranges::new(0..200);
            let mut held: Vec<std::ops::Range<u32>> = Vec::new();
            let mut now = 0;
            for (len, give) in steps {
                now += REST_NS;
                if give && !held.is_empty() {
                    let range = held.remove(len as usize % held.len());
                    ranges.give(range, now);
                } else if let Ok(range) = ranges.take(len, now) {
                    prop_assert!(held.iter().all(|h| h.end <= range.start || range.end <= h.start));
                    held.push(range);
                }
                let used: u32 = held.iter().map(|h| h.end - h.start).sum();
                prop_assert_eq!(used + ranges.n_free(), 200);
            }
        }
    }
}

//! Where a frontend's key lives: two candidate buckets, the preferred one first; what is in the way moves to its other bucket.
//!
//! A move is make-before-break (the copy is written before the original is cleared), and a cleared slot rests before another key may use
//! it: a program may have compared the old key and not yet read the index beside it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
};

use crate::ranges::REST_NS;

/// A slot: bucket and position in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Element of the array.
    pub bucket: u32,
    /// Position in the bucket.
    pub way: u8,
}

/// How a key can be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement<K> {
    /// Here, now; it is taken.
    Taken(Place),
    /// This key has to move first (the bookkeeping has moved it): then try again at `retry_at`.
    Moved {
        /// Who moved.
        key: K,
        /// From.
        from: Place,
        /// To.
        to: Place,
        /// When the place that became free has rested.
        retry_at: u64,
    },
    /// A slot rests: try again then.
    Wait(u64),
    /// No place can be made.
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot<K> {
    Used(K),
    RestsUntil(u64),
}

/// The table's occupancy. `pair` gives a key's two buckets.
#[derive(Debug, Clone)]
pub struct Buckets<K> {
    ways: u8,
    pair: fn(&K) -> (u32, u32),
    slots: HashMap<Place, Slot<K>>,
    places: HashMap<K, Place>,
}

/// How many buckets a search for a way out may visit: at half load, one; at 95 %, a few dozen.
const SEARCH: usize = 512;

// === impl Buckets ===

impl<K: Copy + Eq + Hash> Buckets<K> {
    /// An empty table with `ways` slots a bucket.
    pub fn new(ways: u8, pair: fn(&K) -> (u32, u32)) -> Self {
        Self {
            ways,
            pair,
            slots: HashMap::new(),
            places: HashMap::new(),
        }
    }

    /// Notes what a restart finds. `false`: the key lies elsewhere too, or where it cannot be found; the caller should clear this slot.
    #[must_use]
    pub fn claim(&mut self, key: K, place: Place) -> bool {
        let (first, second) = (self.pair)(&key);
        let can_be_found = place.bucket == first || place.bucket == second;
        if !can_be_found || self.places.contains_key(&key) {
            return false;
        }
        self.places.insert(key, place);
        self.slots.insert(place, Slot::Used(key));
        true
    }

    /// Where a key is.
    pub fn place_of(&self, key: &K) -> Option<Place> {
        self.places.get(key).copied()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Finds a place for a new key, in its preferred bucket if possible.
    pub fn place(&mut self, key: K, now: u64) -> Placement<K> {
        debug_assert!(!self.places.contains_key(&key), "each key is placed once");
        let (first, second) = (self.pair)(&key);
        let mut wait: Option<u64> = None;
        for bucket in [first, second] {
            match self.vacancy(bucket, now) {
                Ok(place) => {
                    self.put(key, place);
                    return Placement::Taken(place);
                }
                Err(Some(until)) => wait = Some(wait.map_or(until, |earlier| earlier.min(until))),
                Err(None) => {}
            }
        }
        if let Some(until) = wait {
            return Placement::Wait(until);
        }
        self.make_room(&[first, second], now)
    }

    /// Forgets a key; its slot rests.
    pub fn remove(&mut self, key: &K, now: u64) -> Option<Place> {
        let place = self.places.remove(key)?;
        self.slots.insert(place, Slot::RestsUntil(now + REST_NS));
        Some(place)
    }

    fn put(&mut self, key: K, place: Place) {
        self.slots.insert(place, Slot::Used(key));
        self.places.insert(key, place);
    }

    /// A free slot of the bucket, or when the first resting one may be used.
    fn vacancy(&self, bucket: u32, now: u64) -> Result<Place, Option<u64>> {
        let mut earliest = None;
        for way in 0..self.ways {
            let place = Place { bucket, way };
            match self.slots.get(&place) {
                None => return Ok(place),
                Some(Slot::RestsUntil(until)) if *until <= now => return Ok(place),
                Some(Slot::RestsUntil(until)) => {
                    earliest = Some(earliest.map_or(*until, |e: u64| e.min(*until)));
                }
                Some(Slot::Used(_)) => {}
            }
        }
        Err(earliest)
    }

    /// Breadth first from the full buckets: the nearest occupant whose other bucket has a free slot moves there. Each call brings the free
    /// slot one step closer.
    fn make_room(&mut self, from: &[u32], now: u64) -> Placement<K> {
        let mut queue: VecDeque<u32> = from.iter().copied().collect();
        let mut seen: HashSet<u32> = from.iter().copied().collect();
        while let Some(bucket) = queue.pop_front() {
            for way in 0..self.ways {
                let place = Place { bucket, way };
                let Some(Slot::Used(key)) = self.slots.get(&place).copied() else {
                    continue;
                };
                let (a, b) = (self.pair)(&key);
                let other = if a == bucket { b } else { a };
                match self.vacancy(other, now) {
                    Ok(to) => {
                        self.put(key, to);
                        let retry_at = now + REST_NS;
                        self.slots.insert(place, Slot::RestsUntil(retry_at));
                        return Placement::Moved {
                            key,
                            from: place,
                            to,
                            retry_at,
                        };
                    }
                    Err(Some(until)) => return Placement::Wait(until),
                    Err(None) => {}
                }
                if seen.len() < SEARCH && seen.insert(other) {
                    queue.push_back(other);
                }
            }
        }
        Placement::Full
    }
}

#[cfg(test)]
mod tests {
    use fairlead_abi::lb::N_VIP_BUCKETS;
    use fairlead_logic::hash::{bucket_pair4, vip_key4};

    use super::{Buckets, Placement};
    use crate::ranges::REST_NS;

    fn tiny(ways: u8) -> Buckets<u64> {
        // Eight buckets, by the real hash.
        Buckets::new(ways, |key| {
            let (a, b) = bucket_pair4(*key);
            let (a, b) = (a % 8, b % 8);
            (a, if a == b { (b + 1) % 8 } else { b })
        })
    }

    /// Places or waits; `false` when the table is full. Counts moves.
    fn insist(buckets: &mut Buckets<u64>, key: u64, now: &mut u64, moves: &mut u32) -> bool {
        for _ in 0..64 {
            match buckets.place(key, *now) {
                Placement::Taken(_) => return true,
                Placement::Moved { key: moved, to, .. } => {
                    assert_eq!(buckets.place_of(&moved), Some(to));
                    *moves += 1;
                    *now += REST_NS;
                }
                Placement::Wait(until) => *now = until,
                Placement::Full => return false,
            }
        }
        false
    }

    #[test]
    fn displacement_fills_a_small_table_nearly_to_the_brim() {
        let (mut buckets, mut now, mut moves) = (tiny(4), 0, 0);
        let mut placed = 0;
        for n in 0..32_u32 {
            let key = vip_key4(0xc000_0200 + n, 80, 6);
            if !insist(&mut buckets, key, &mut now, &mut moves) {
                break;
            }
            placed += 1;
        }
        assert!(placed >= 27, "{placed} of 32");
        assert!(moves > 0, "the test must have needed displacement");
    }

    #[test]
    fn a_key_can_always_be_found_in_its_pair() {
        let (mut buckets, mut now, mut moves) = (tiny(2), 0, 0);
        let keys: Vec<u64> = (0..14).map(|n| vip_key4(0x0a00_0000 + n, 443, 6)).collect();
        let placed: Vec<u64> = keys
            .into_iter()
            .filter(|key| insist(&mut buckets, *key, &mut now, &mut moves))
            .collect();
        let mut taken = std::collections::HashSet::new();
        for key in &placed {
            let place = buckets.place_of(key).unwrap();
            let (a, b) = (buckets.pair)(key);
            assert!(place.bucket == a || place.bucket == b);
            assert!(taken.insert(place), "one key a slot");
        }
    }

    #[test]
    fn a_cleared_slot_rests_before_another_key_takes_it() {
        let mut buckets: Buckets<u64> = Buckets::new(1, |_| (0, 0));
        assert!(matches!(buckets.place(1, 0), Placement::Taken(_)));
        buckets.remove(&1, 10).unwrap();
        assert_eq!(buckets.place(2, 10), Placement::Wait(10 + REST_NS));
        assert!(matches!(
            buckets.place(2, 10 + REST_NS),
            Placement::Taken(_)
        ));
        assert_eq!(buckets.place(3, 20 + REST_NS), Placement::Full);
    }

    #[test]
    fn half_a_table_always_fits_and_hardly_ever_moves() {
        let mut buckets: Buckets<u64> = Buckets::new(4, |key| bucket_pair4(*key));
        let (mut now, mut moves) = (0, 0);
        for n in 0..2 * N_VIP_BUCKETS {
            let key = vip_key4(0x0a00_0000 + n / 4, 80 + u16::try_from(n % 4).unwrap(), 6);
            assert!(insist(&mut buckets, key, &mut now, &mut moves), "key {n}");
        }
        assert!(moves < N_VIP_BUCKETS / 100, "{moves} moves");
    }

    #[test]
    fn a_claim_that_could_not_be_found_is_refused() {
        let mut buckets: Buckets<u64> = Buckets::new(4, |key| bucket_pair4(*key));
        let key = vip_key4(0x0a00_0001, 80, 6);
        let (first, second) = bucket_pair4(key);
        let at = |bucket| super::Place { bucket, way: 0 };
        let elsewhere = (0..9).find(|b| *b != first && *b != second).unwrap();
        assert!(!buckets.claim(key, at(elsewhere)));
        assert!(buckets.claim(key, at(second)));
        assert!(
            !buckets.claim(key, at(first)),
            "a second copy, of an interrupted move"
        );
    }
}

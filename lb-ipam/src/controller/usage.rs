//! What is remembered about each pool beside its conditions: how full it was, and whose addresses are kept for a while.
//!
//! Sans-IO. The memory is an object per pool (`IPPoolUsage`), so that it outlives the operator. It is advice, not truth: who
//! holds what stands in the Services alone, and a memory that is lost or cannot be written costs nobody an address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use fairlead_api::{
    condition,
    ip_pool_usage::{IPPoolUsageStatus, Kept, Sample},
};
use fairlead_model::ServiceName;
use k8s_openapi::jiff::Timestamp;
use num_bigint::BigUint;

use crate::alloc::{Former, engine::Engine};

/// Shortest time between two samples of a pool.
const SAMPLE: Duration = Duration::from_mins(1);
/// Samples per pool; the oldest goes.
const MAX_SAMPLES: usize = 120;
/// Kept addresses per pool; the one that would go first goes first. Bounds the object, not what may be deleted.
const MAX_KEPT: usize = 1024;

/// One pool's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Memory {
    status: IPPoolUsageStatus,
    sampled: Option<SystemTime>,
    /// Something to say that the last sample is too young for.
    is_due: bool,
}

/// Every pool's memory.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pools: BTreeMap<String, Memory>,
    /// Pools whose object says something else.
    changed: BTreeSet<String>,
}

impl Usage {
    /// What the API holds about a pool: taken over once, after that our memory counts.
    pub(super) fn recall(&mut self, pool: &str, status: &IPPoolUsageStatus) {
        let memory = self.pools.entry(pool.to_owned()).or_default();
        if *memory != Memory::default() {
            return;
        }
        let last = status.samples.last();
        memory.sampled = last.and_then(|s| s.time.parse().ok()).map(wall);
        memory.status = status.clone();
    }

    /// What a pool's object should say.
    pub(super) fn status(&self, pool: &str) -> Option<&IPPoolUsageStatus> {
        self.pools.get(pool).map(|memory| &memory.status)
    }

    /// A Service is gone: its addresses are kept as long as their pools say.
    pub(super) fn released(
        &mut self,
        service: &ServiceName,
        held: &[IpAddr],
        engine: &Engine,
        now: SystemTime,
    ) {
        for ip in held {
            let Some((pool, sticky)) = engine.sticky(*ip) else {
                continue;
            };
            let memory = self.pools.entry(pool.to_owned()).or_default();
            let kept = &mut memory.status.kept;
            let address = ip.to_string();
            kept.retain(|k| k.address != address);
            kept.push(Kept {
                address,
                namespace: service.namespace().to_owned(),
                name: service.name().to_owned(),
                until: condition::time(now + sticky).0.to_string(),
            });
            kept.sort_by(|a, b| (&a.until, &a.address).cmp(&(&b.until, &b.address)));
            let surplus = kept.len().saturating_sub(MAX_KEPT);
            kept.drain(..surplus);
            self.changed.insert(pool.to_owned());
        }
    }

    /// After a run: counts as they are now, and what is kept no longer goes. Returns pools whose object is to be written.
    pub(super) fn tick(&mut self, engine: &Engine, now: SystemTime) -> BTreeSet<String> {
        let mut known = BTreeSet::new();
        for (pool, counts) in engine.counts() {
            let memory = self.pools.entry(pool.clone()).or_default();
            if memory.tick(&counts.used, &counts.available, now) {
                self.changed.insert(pool.clone());
            }
            known.insert(pool);
        }
        // A pool that is gone takes its memory with it.
        let gone = self.pools.keys().filter(|pool| !known.contains(*pool));
        let gone: Vec<String> = gone.cloned().collect();
        for pool in gone {
            self.pools.remove(&pool);
            self.changed.insert(pool);
        }
        std::mem::take(&mut self.changed)
    }

    /// Addresses kept for Services that are gone.
    pub(super) fn former(&self) -> Vec<Former> {
        let kept = self.pools.values().flat_map(|m| &m.status.kept);
        kept.filter_map(|k| {
            Some(Former {
                service: ServiceName::new(&k.namespace, &k.name).ok()?,
                ip: k.address.parse().ok()?,
            })
        })
        .collect()
    }

    /// When something is to be done though nothing happens.
    pub(super) fn wake_at(&self) -> Option<SystemTime> {
        let due = |m: &Memory| {
            let sample = m.sampled.filter(|_| m.is_due).map(|at| at + SAMPLE);
            let kept = m.status.kept.first();
            let kept = kept.and_then(|k| k.until.parse().ok()).map(wall);
            sample.into_iter().chain(kept).min()
        };
        self.pools.values().filter_map(due).min()
    }
}

impl Memory {
    fn tick(&mut self, used: &BigUint, available: &BigUint, now: SystemTime) -> bool {
        let n_kept = self.status.kept.len();
        self.status
            .kept
            .retain(|k| k.until.parse().is_ok_and(|until| wall(until) > now));
        let mut is_changed = self.status.kept.len() != n_kept;
        let (used, available) = (used.to_string(), available.to_string());
        let time = condition::time(now).0.to_string();
        if is_more(&used, &self.status.peak_used) {
            (self.status.peak_used, self.status.peak_time) = (used.clone(), time.clone());
        }
        let last = self.status.samples.last();
        let is_same = last.is_some_and(|s| s.used == used && s.available == available);
        // Also when the clock was set back.
        let is_young = self
            .sampled
            .is_some_and(|at| now < at + SAMPLE && now >= at);
        self.is_due = !is_same && is_young;
        if !is_same && !is_young {
            let samples = &mut self.status.samples;
            samples.push(Sample {
                time,
                used,
                available,
            });
            let surplus = samples.len().saturating_sub(MAX_SAMPLES);
            samples.drain(..surplus);
            self.sampled = Some(now);
            is_changed = true;
        }
        is_changed
    }
}

fn is_more(a: &str, b: &str) -> bool {
    (a.len(), a) > (b.len(), b)
}

fn wall(at: Timestamp) -> SystemTime {
    SystemTime::from(at)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use num_bigint::BigUint;

    use super::{MAX_SAMPLES, Memory, is_more};

    #[test]
    fn at_most_one_sample_a_minute_and_so_many_in_all() {
        let mut memory = Memory::default();
        let at = |s: u64| UNIX_EPOCH + Duration::from_secs(s);
        let mut tick =
            |used: u32, s| memory.tick(&BigUint::from(used), &BigUint::from(9_u8), at(s));
        assert!(tick(1, 0), "the first");
        assert!(!tick(1, 100), "nothing changed");
        assert!(tick(5, 101));
        assert!(!tick(7, 150), "too early");
        assert!(tick(2, 162), "what is there when its time comes");
        for n in 0..200_u32 {
            tick(n % 2, 300 + u64::from(n) * 60);
        }
        assert_eq!(memory.status.samples.len(), MAX_SAMPLES);
        assert_eq!(memory.status.peak_used, "7", "however short");
        assert_eq!(memory.status.peak_time, "1970-01-01T00:02:30Z");
    }

    #[test]
    fn numbers_beyond_any_integer_are_compared() {
        assert!(is_more("340282366920938463463374607431768211456", "99"));
        assert!(is_more("10", "9") && is_more("0", "") && !is_more("9", "10"));
    }
}

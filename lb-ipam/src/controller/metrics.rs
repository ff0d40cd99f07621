//! What LB-IPAM says about itself in numbers.

use std::{collections::BTreeMap, time::Duration};

use fairlead_rt::Metrics;
use num_bigint::BigUint;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::write::Fault;
use crate::alloc::engine::Engine;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabel {
    pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

type FloatGauge = Gauge<f64, std::sync::atomic::AtomicU64>;

/// An event of a watch, in Cilium's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub(super) struct EventLabel {
    /// `upsert` or `delete`.
    pub(super) event: &'static str,
    /// `pool` or `service`.
    pub(super) resource: &'static str,
}

/// Cilium's metrics under Cilium's names and under our prefix, and ours.
#[derive(Debug)]
pub struct IpamMetrics {
    conflicting_pools: Gauge,
    ips_available: Family<PoolLabel, FloatGauge>,
    ips_used: Family<PoolLabel, FloatGauge>,
    services_matching: Gauge,
    services_unsatisfied: Gauge,
    event_processing: Family<EventLabel, Histogram, fn() -> Histogram>,
    failed_writes: Family<ReasonLabel, Counter>,
    plan_duration: PlanDuration,
}

#[derive(Debug)]
struct PlanDuration(Histogram);

impl Default for PlanDuration {
    fn default() -> Self {
        // From 0.1 ms, a handful of Services, to 1.6 s.
        Self(Histogram::new(exponential_buckets(0.000_1, 4.0, 8)))
    }
}

impl Default for IpamMetrics {
    fn default() -> Self {
        Self {
            conflicting_pools: Gauge::default(),
            ips_available: Family::default(),
            ips_used: Family::default(),
            services_matching: Gauge::default(),
            services_unsatisfied: Gauge::default(),
            // From 10 us, one event among many, to 2.6 s.
            event_processing: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_01, 4.0, 10))
            }),
            failed_writes: Family::default(),
            plan_duration: PlanDuration::default(),
        }
    }
}

impl IpamMetrics {
    /// Registers all of them as area `lbipam`, and Cilium's also as `cilium_operator_lbipam`.
    pub fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register_as("cilium_operator_lbipam", |r| own.register_ciliums(r));
        metrics.register("lbipam", |r| {
            own.register_ciliums(r);
            r.register(
                "failed_writes",
                "Refused or failed writes of a status",
                own.failed_writes.clone(),
            );
            r.register(
                "plan_duration_seconds",
                "Time to decide who gets what",
                own.plan_duration.0.clone(),
            );
        });
        own
    }

    fn register_ciliums(&self, r: &mut Registry) {
        r.register(
            "conflicting_pools",
            "Pools that share addresses with an older one",
            self.conflicting_pools.clone(),
        );
        r.register(
            "ips_available",
            "Addresses of a pool that can be given out",
            self.ips_available.clone(),
        );
        r.register(
            "ips_used",
            "Addresses of a pool that are held or reserved",
            self.ips_used.clone(),
        );
        r.register(
            "services_matching",
            "Services that LB-IPAM serves",
            self.services_matching.clone(),
        );
        r.register(
            "services_unsatisfied",
            "Served Services that lack an address",
            self.services_unsatisfied.clone(),
        );
        r.register(
            "event_processing_time_seconds",
            "Time from an event of a watch to the decision about it, shared among the events of a batch",
            self.event_processing.clone(),
        );
    }

    /// After a batch of events was decided about.
    pub(super) fn processed(&self, events: &BTreeMap<EventLabel, u32>, took: Duration) {
        let n: u32 = events.values().sum();
        let Some(each) = took.checked_div(n) else {
            return;
        };
        for (label, n) in events {
            let histogram = self.event_processing.get_or_create(label);
            for _ in 0..*n {
                histogram.observe(each.as_secs_f64());
            }
        }
    }

    /// After each plan.
    pub(super) fn planned(&self, engine: &Engine, took: Duration) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.conflicting_pools.set(count(engine.n_conflicting()));
        self.services_matching.set(count(engine.n_matching()));
        self.services_unsatisfied.set(count(engine.n_unsatisfied()));
        self.ips_available.clear();
        self.ips_used.clear();
        for (pool, counts) in engine.counts() {
            let label = PoolLabel { pool };
            self.ips_available
                .get_or_create(&label)
                .set(float(&counts.available));
            self.ips_used.get_or_create(&label).set(float(&counts.used));
        }
        self.plan_duration.0.observe(took.as_secs_f64());
    }

    /// After each failed write.
    pub(super) fn failed(&self, fault: &Fault) {
        let reason = fault.reason().to_owned();
        self.failed_writes
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }
}

/// The nearest float: gauges are for looking at.
fn float(n: &BigUint) -> f64 {
    n.to_string().parse().unwrap_or(f64::MAX)
}

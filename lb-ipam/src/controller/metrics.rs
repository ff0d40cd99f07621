//! What LB-IPAM says about itself in numbers.

use std::time::Duration;

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
};

use super::write::Fault;
use crate::alloc::Plan;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabel {
    pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

type FloatGauge = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Cilium's gauges under our prefix, and ours.
#[derive(Debug, Default)]
pub struct IpamMetrics {
    conflicting_pools: Gauge,
    ips_available: Family<PoolLabel, FloatGauge>,
    ips_used: Family<PoolLabel, FloatGauge>,
    services_matching: Gauge,
    services_unsatisfied: Gauge,
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

impl IpamMetrics {
    /// Registers all of them as area `lbipam`.
    pub fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register("lbipam", |r| {
            r.register(
                "conflicting_pools",
                "Pools that share addresses with an older one",
                own.conflicting_pools.clone(),
            );
            r.register(
                "ips_available",
                "Addresses of a pool that can be given out",
                own.ips_available.clone(),
            );
            r.register(
                "ips_used",
                "Addresses of a pool that are held or reserved",
                own.ips_used.clone(),
            );
            r.register(
                "services_matching",
                "Services that LB-IPAM serves",
                own.services_matching.clone(),
            );
            r.register(
                "services_unsatisfied",
                "Served Services that lack an address",
                own.services_unsatisfied.clone(),
            );
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

    /// After each plan.
    pub(super) fn planned(&self, plan: &Plan, took: Duration) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.conflicting_pools.set(count(plan.n_conflicting));
        self.services_matching.set(count(plan.n_matching));
        self.services_unsatisfied.set(count(plan.n_unsatisfied));
        self.ips_available.clear();
        self.ips_used.clear();
        for (pool, counts) in &plan.counts {
            let label = PoolLabel { pool: pool.clone() };
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

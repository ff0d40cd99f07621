//! The process's metrics: one registry, OpenMetrics text out.
//!
//! Names are `fairlead_<area>_<noun>_<unit>[_total]`; the prefix `fairlead` is added here. Labels are bounded enums.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use prometheus_client::{encoding::text, registry::Registry};

pub use prometheus_client;

/// `Content-Type` of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The process's metrics; clones share them.
#[derive(Clone)]
pub struct Metrics {
    // Locked for a registration at start and for a scrape: never on a packet's or a change's way.
    areas: Arc<RwLock<BTreeMap<String, Registry>>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// No metrics yet.
    pub fn new() -> Self {
        Self {
            areas: Arc::default(),
        }
    }

    /// Registers an area's metrics: `metrics.register("announcer", |r| r.register("late_ticks", "Help.", counter))`.
    ///
    /// A part that is started again registers again: what it had registered before is shown no more.
    pub fn register(&self, area: &str, with: impl FnOnce(&mut Registry)) {
        self.register_as(&format!("fairlead_{area}"), with);
    }

    /// As [`Self::register`], under a whole prefix: for names that tools know from elsewhere, such as Cilium's.
    pub fn register_as(&self, prefix: &str, with: impl FnOnce(&mut Registry)) {
        let mut registry = Registry::with_prefix(prefix);
        with(&mut registry);
        let mut areas = self.areas.write().unwrap_or_else(PoisonError::into_inner);
        areas.insert(prefix.to_owned(), registry);
    }

    /// Every metric in OpenMetrics text.
    pub fn encode(&self) -> String {
        let areas = self.areas.read().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        for registry in areas.values() {
            text::encode_registry(&mut out, registry).expect("writing to a String does not fail");
        }
        text::encode_eof(&mut out).expect("writing to a String does not fail");
        out
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::Metrics;

    #[test]
    fn registered_metrics_are_exposed_with_their_prefix() {
        let metrics = Metrics::new();
        let late = <Counter>::default();
        let own = late.clone();
        metrics.register("announcer", |r| {
            r.register("late_ticks", "Ticks too late", own);
        });
        late.inc();
        let text = metrics.encode();
        assert!(
            text.contains("fairlead_announcer_late_ticks_total 1"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_part_that_is_started_again_is_shown_once() {
        let metrics = Metrics::new();
        for _ in 0..2 {
            let late = <Counter>::default();
            metrics.register("announcer", |r| {
                r.register("late_ticks", "Ticks too late", late);
            });
        }
        let text = metrics.encode();
        assert_eq!(text.matches("# TYPE").count(), 1, "{text}");
    }
}

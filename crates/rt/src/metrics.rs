//! The process's metrics: one registry, OpenMetrics text out.
//!
//! Names are `fairlead_<area>_<noun>_<unit>[_total]`; the prefix `fairlead` is added here. Labels are bounded enums.

use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::registry::Registry;

pub use prometheus_client;

/// `Content-Type` of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The process's metrics; clones share one registry.
#[derive(Clone)]
pub struct Metrics {
    // Locked for a registration at start and for a scrape: never on a packet's or a change's way.
    registry: Arc<RwLock<Registry>>,
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
    /// An empty registry.
    pub fn new() -> Self {
        Self {
            registry: Arc::new(RwLock::new(Registry::with_prefix("fairlead"))),
        }
    }

    /// Registers an area's metrics: `metrics.register("announcer", |r| r.register("late_ticks", "Help.", counter))`.
    pub fn register(&self, area: &str, with: impl FnOnce(&mut Registry)) {
        let mut registry = self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        with(registry.sub_registry_with_prefix(area));
    }

    /// Every metric in OpenMetrics text.
    pub fn encode(&self) -> String {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .expect("writing to a String does not fail");
        text
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
}

//! Counters of the heartbeat thread: plain atomics, so that counting neither waits nor allocates.

use fairlead_rt::metrics::prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use crate::heartbeat::DecodeError;

/// Everything that is counted; clones share the numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    pub late_ticks: Counter,
    pub beats_sent: Counter,
    pub beats_heard: Counter,
    pub send_failures: Counter,
    pub map_failures: Counter,
    pub probes_sent: Counter,
    pub announcements_sent: Counter,
    pub reports_deferred: Counter,
    pub is_realtime: Gauge,
    pub is_locked: Gauge,
    pub owned_groups: Gauge,
    pub conflicts: Counter,
    pub conflicting: Gauge,
    pub refused_length: Counter,
    pub refused_version: Counter,
    pub refused_kind: Counter,
    pub refused_key: Counter,
    pub refused_entries: Counter,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let mut counter = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        counter(
            "late_ticks",
            "Wake-ups of the heartbeat thread more than 10 ms late",
            &self.late_ticks,
        );
        counter("heartbeats_sent", "Heartbeats sent", &self.beats_sent);
        counter(
            "heartbeats_heard",
            "Authentic heartbeats received",
            &self.beats_heard,
        );
        counter(
            "send_failures",
            "Heartbeats and frames that the kernel did not take",
            &self.send_failures,
        );
        counter(
            "map_failures",
            "Responder entries that could not be written",
            &self.map_failures,
        );
        counter("probes_sent", "ARP and ND probes sent", &self.probes_sent);
        counter(
            "announcements_sent",
            "Gratuitous ARP and unsolicited NA sent",
            &self.announcements_sent,
        );
        counter(
            "reports_deferred",
            "Status rows that came later because the queue was full",
            &self.reports_deferred,
        );
        counter(
            "address_conflicts",
            "Times that a station which is none of our nodes began to claim an address of ours",
            &self.conflicts,
        );
        self.register_gauges(registry);
        self.register_refused(registry);
    }

    fn register_gauges(&self, registry: &mut Registry) {
        registry.register(
            "realtime_state",
            "1 if the heartbeat thread has real-time priority",
            self.is_realtime.clone(),
        );
        registry.register(
            "locked_state",
            "1 if the heartbeat thread's memory is locked",
            self.is_locked.clone(),
        );
        registry.register(
            "owned_groups",
            "Ownership groups that this node owns, over all interfaces",
            self.owned_groups.clone(),
        );
        registry.register(
            "conflicting_addresses",
            "Addresses that a station which is none of our nodes claims now, as this node hears it",
            self.conflicting.clone(),
        );
    }

    fn register_refused(&self, registry: &mut Registry) {
        for (error, counter) in [
            (DecodeError::Length, &self.refused_length),
            (DecodeError::Magic, &self.refused_version),
            (DecodeError::Kind, &self.refused_kind),
            (DecodeError::Key, &self.refused_key),
            (DecodeError::Entries, &self.refused_entries),
        ] {
            registry
                .sub_registry_with_label(("reason".into(), error.reason().into()))
                .register(
                    "heartbeats_refused",
                    "Datagrams on the heartbeat port that are no heartbeats of ours",
                    counter.clone(),
                );
        }
    }

    pub(super) fn refuse(&self, error: DecodeError) {
        match error {
            DecodeError::Length => &self.refused_length,
            DecodeError::Magic => &self.refused_version,
            DecodeError::Kind => &self.refused_kind,
            DecodeError::Key => &self.refused_key,
            DecodeError::Entries => &self.refused_entries,
        }
        .inc();
    }
}

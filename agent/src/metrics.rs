//! The agent's own metrics, read at each scrape: what is in the kernel, what the datapath counted, whether the API server answers.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::views::Views;

/// Registers them; they vanish with the views.
pub fn register(views: &Arc<Views>) {
    let own = Own(Arc::downgrade(views));
    views.config.metrics.register("agent", |registry| {
        registry.register_collector(Box::new(own));
    });
}

struct Own(Weak<Views>);

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own")
    }
}

impl Collector for Own {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(views) = self.0.upgrade() else {
            return Ok(());
        };
        let status = views.status();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let generation = |n: Option<u64>| i64::try_from(n.unwrap_or(0)).unwrap_or(i64::MAX);
        let attached = status.interfaces.iter().filter(|i| i.xdp != "none").count();
        let gauges = [
            (
                "api_server_connected",
                "1 while the API server answers",
                i64::from(status.api.is_connected),
            ),
            (
                "snapshot_generation",
                "Newest complete snapshot",
                generation(status.generation.seen),
            ),
            (
                "programmed_generation",
                "Newest snapshot in the kernel",
                generation(status.generation.programmed),
            ),
            (
                "services",
                "Services that have or want a VIP",
                count(status.n_services),
            ),
            (
                "owned_vips",
                "VIPs that this node answers for",
                count(status.n_owned),
            ),
            (
                "attached_interfaces",
                "Interfaces with a program",
                count(attached),
            ),
            (
                "problems",
                "Lines that `fairlead status` shows under Problems",
                count(status.problems.len()),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let help = "Packets by what became of them, other than being forwarded";
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor("reason_packets", help, None, kind)?;
        for reason in &status.reasons {
            let label = [("reason", reason.reason.as_str())];
            ConstCounter::new(reason.packets).encode(family.encode_family(&label)?)?;
        }
        Ok(())
    }
}

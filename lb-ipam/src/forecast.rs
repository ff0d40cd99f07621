//! What a change of pools would do to Services, without doing it.
//!
//! Pure: the objects as they are and the pools as they would be in, the fate of every Service out. It is the allocator itself
//! that answers, run until nothing is left to write.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_model::ServiceName;

use crate::alloc::{Inputs, PoolCounts, Seen, engine::Engine};

/// Runs after which nothing can be left to write: release, give, say so, and reserve.
const MAX_RUNS: usize = 16;

/// What becomes of a Service's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It ends with fewer addresses than it has.
    Loses,
    /// It gets others instead.
    Moves,
    /// It gets more.
    Gains,
    /// It keeps what it has, or has and gets nothing.
    Keeps,
}

impl Fate {
    /// One word for tables.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Loses => "loses",
            Self::Moves => "moves",
            Self::Gains => "gains",
            Self::Keeps => "keeps",
        }
    }
}

/// One Service that LB-IPAM serves, before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// Which.
    pub service: ServiceName,
    /// What becomes of its addresses.
    pub fate: Fate,
    /// Addresses in its status now.
    pub before: Vec<IpAddr>,
    /// Addresses afterwards.
    pub after: Vec<IpAddr>,
    /// Why it would lack something.
    pub why: Option<String>,
}

/// What would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Every Service that LB-IPAM serves, those that lose something first, then by name.
    pub services: Vec<Outlook>,
    /// What pools would say beside their counts: conflicts, refusals, what cannot be read.
    pub warnings: Vec<(String, String)>,
    /// How full the pools would be.
    pub counts: BTreeMap<String, PoolCounts>,
}

impl Forecast {
    /// Whether any Service would end with fewer addresses.
    pub fn loses_any(&self) -> bool {
        self.services.iter().any(|s| s.fate == Fate::Loses)
    }
}

/// The objects as they are, with the pools as they would be.
pub fn forecast(mut inputs: Inputs) -> Forecast {
    let before: BTreeMap<ServiceName, Vec<IpAddr>> = inputs
        .services
        .iter()
        .map(|s| (s.name.clone(), s.ingress.clone()))
        .collect();
    let names = inputs.services.iter().enumerate();
    let place: BTreeMap<ServiceName, usize> = names.map(|(n, s)| (s.name.clone(), n)).collect();
    let mut engine = Engine::new(inputs.settings);
    engine.load(inputs.clone());
    for _ in 0..MAX_RUNS {
        engine.run();
        let plan = engine.plan();
        if plan.services.is_empty() {
            break;
        }
        for change in plan.services {
            let service = &mut inputs.services[place[&change.name]];
            service.ingress = change.ingress;
            service.has_foreign_entries = false;
            service.condition = change.condition.map(|w| Seen {
                status: w.status.as_str().to_owned(),
                reason: w.reason,
                message: w.message,
                observed_generation: w.observed_generation,
            });
            engine.set_service(service.clone());
        }
    }
    let mut services: Vec<Outlook> = inputs
        .services
        .iter()
        .filter(|s| s.is_load_balancer && inputs.settings.serves(&s.class))
        .map(|s| {
            let before = before[&s.name].clone();
            let after = s.ingress.clone();
            let said = s.condition.as_ref().filter(|c| c.status == "False");
            Outlook {
                service: s.name.clone(),
                fate: fate(&before, &after),
                before,
                after,
                why: said.map(|c| format!("{}: {}", c.reason, c.message)),
            }
        })
        .collect();
    services.sort_by(|a, b| (a.fate, &a.service).cmp(&(b.fate, &b.service)));
    Forecast {
        services,
        warnings: engine.warnings(),
        counts: engine.counts().collect(),
    }
}

fn fate(before: &[IpAddr], after: &[IpAddr]) -> Fate {
    let keeps_all = before.iter().all(|ip| after.contains(ip));
    if keeps_all && after.len() == before.len() {
        Fate::Keeps
    } else if keeps_all {
        Fate::Gains
    } else if after.len() >= before.len() {
        Fate::Moves
    } else {
        Fate::Loses
    }
}

#[cfg(test)]
mod tests {
    use super::{Fate, forecast};
    use crate::alloc::world::{World, block};

    #[test]
    fn every_service_has_its_fate() {
        let mut w = World::default();
        w.pool("p", &["192.0.2.0/30"]);
        for name in ["a", "b", "c", "d", "waits"] {
            w.service(name);
        }
        w.settle();
        let mut inputs = w.inputs.clone();
        inputs.pools[0].pool.blocks = vec![block("192.0.2.1-192.0.2.2"), block("192.0.2.9/32")];
        let seen = forecast(inputs);
        let fates: Vec<(String, &str)> = seen
            .services
            .iter()
            .map(|s| (s.service.name().to_owned(), s.fate.word()))
            .collect();
        let wanted = [
            ("d", "loses"),
            ("a", "moves"),
            ("b", "keeps"),
            ("c", "keeps"),
            ("waits", "keeps"),
        ];
        assert_eq!(fates, wanted.map(|(name, fate)| (name.to_owned(), fate)));
        assert!(seen.loses_any());
        assert!(
            seen.services[0]
                .why
                .as_ref()
                .unwrap()
                .starts_with("out_of_ips: ")
        );
        let mut inputs = w.inputs.clone();
        inputs.pools[0].pool.blocks = vec![block("192.0.2.0/29")];
        let seen = forecast(inputs);
        assert!(!seen.loses_any());
        assert_eq!(seen.services[0].fate, Fate::Gains);
        assert_eq!(seen.counts["p"].used, 5_u8.into());
        // Nothing was done.
        assert_eq!(w.shows("waits"), " out_of_ips");
    }

    #[test]
    fn what_pools_would_say_is_told() {
        let mut w = World::default();
        w.pool("p", &["192.0.2.0/30"]);
        w.pool("q", &["192.0.2.0/24"]);
        let seen = forecast(w.inputs.clone());
        assert_eq!(seen.warnings.len(), 1);
        assert_eq!(seen.warnings[0].0, "q");
        assert!(
            seen.warnings[0]
                .1
                .starts_with("cidr_overlap: range 192.0.2.0")
        );
    }
}

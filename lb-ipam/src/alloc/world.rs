//! An API in memory for the allocator's tests: what a plan says is what the next one reads.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_api::{condition::Wanted, convert::check_vip};
use fairlead_model::{
    IpRange, Labels, LoadBalancerClass, Pool, PoolBlock, Protocol, Selector, TrafficPolicy,
};

use super::{
    Family, FamilyPolicy, Inputs, Namespaces, Plan, PoolInput, Seen, ServiceChange, ServiceInput,
    Sharing, engine::Engine, plan, runs, sharing::compatible,
};

/// An API in memory: what a plan says is what the next one reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) inputs: Inputs,
    pub(crate) n_writes: usize,
    /// Lives as long as the world, as an operator that is never restarted; its settings are those of its first plan.
    engine: Option<Engine>,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `a-b` is a range, anything else a prefix.
pub(crate) fn block(text: &str) -> PoolBlock {
    match text.split_once('-') {
        Some((first, last)) => PoolBlock {
            range: IpRange::new(ip(first), ip(last)).unwrap(),
            is_prefix: false,
        },
        None => PoolBlock {
            range: IpRange::from_prefix(text.parse().unwrap()),
            is_prefix: true,
        },
    }
}

fn seen(w: &Wanted) -> Seen {
    Seen {
        status: w.status.as_str().to_owned(),
        reason: w.reason.clone(),
        message: w.message.clone(),
        observed_generation: w.observed_generation,
    }
}

impl World {
    /// Adds or replaces a pool; its age is its place in the list.
    pub(crate) fn pool(&mut self, name: &str, blocks: &[&str]) -> &mut Pool {
        let created = i64::try_from(self.inputs.pools.len()).unwrap();
        let pool = Pool {
            name: name.to_owned(),
            created,
            blocks: blocks.iter().map(|b| block(b)).collect(),
            bad_blocks: Vec::new(),
            allow_first_last: true,
            disabled: false,
            selector: Ok(Selector::default()),
        };
        let at = self.inputs.pools.iter().position(|p| p.pool.name == name);
        let at = at.unwrap_or_else(|| {
            self.inputs.pools.push(PoolInput {
                pool: pool.clone(),
                generation: Some(1),
                conditions: BTreeMap::new(),
                priority: 0,
                sticky: None,
                allows: Vec::new(),
                problems: Vec::new(),
            });
            self.inputs.pools.len() - 1
        });
        let created = self.inputs.pools[at].pool.created;
        self.inputs.pools[at].pool = Pool { created, ..pool };
        &mut self.inputs.pools[at].pool
    }

    pub(crate) fn remove_pool(&mut self, name: &str) {
        self.inputs.pools.retain(|p| p.pool.name != name);
    }

    /// Adds a Service `shop/name` on port 80; its age is its place in the list.
    pub(crate) fn service(&mut self, name: &str) -> &mut ServiceInput {
        let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
        self.inputs.services.push(ServiceInput {
            name: fairlead_model::ServiceName::new(namespace, name).unwrap(),
            created: i64::try_from(self.inputs.services.len()).unwrap(),
            generation: None,
            labels: Labels::new(),
            is_load_balancer: true,
            class: LoadBalancerClass::Unset,
            requested: Vec::new(),
            bad_requests: Vec::new(),
            families: vec![Family::V4],
            family_policy: FamilyPolicy::SingleStack,
            sharing: Sharing {
                key: String::new(),
                namespaces: Namespaces::Listed(Vec::new()),
                ports: vec![(Protocol::Tcp, 80)],
                traffic_policy: TrafficPolicy::Cluster,
                pods: BTreeMap::new(),
            },
            ingress: Vec::new(),
            has_foreign_entries: false,
            releasing: Vec::new(),
            condition: None,
            pools: Vec::new(),
            is_edited: false,
        });
        self.inputs.services.last_mut().unwrap()
    }

    pub(crate) fn sharer(&mut self, name: &str, key: &str, port: u16) -> &mut ServiceInput {
        let service = self.service(name);
        service.sharing.key = key.to_owned();
        service.sharing.ports = vec![(Protocol::Tcp, port)];
        service
    }

    pub(crate) fn edit(&mut self, name: &str) -> &mut ServiceInput {
        let mut each = self.inputs.services.iter_mut();
        each.find(|s| s.name.name() == name).unwrap()
    }

    pub(crate) fn edit_pool(&mut self, name: &str) -> &mut Pool {
        let mut each = self.inputs.pools.iter_mut();
        &mut each.find(|p| p.pool.name == name).unwrap().pool
    }

    pub(crate) fn delete(&mut self, name: &str) {
        self.inputs.services.retain(|s| s.name.name() != name);
    }

    pub(crate) fn write(&mut self, plan: &Plan) {
        for change in &plan.services {
            self.n_writes += 1;
            let mut each = self.inputs.services.iter_mut();
            let service = each.find(|s| s.name == change.name).unwrap();
            service.ingress.clone_from(&change.ingress);
            service.has_foreign_entries = false;
            service.condition = change.condition.as_ref().map(seen);
        }
        for change in &plan.reservations {
            let mut each = self.inputs.reservations.iter_mut();
            let reservation = each.find(|r| r.name == change.name).unwrap();
            for w in &change.conditions {
                reservation.conditions.insert(w.type_.to_owned(), seen(w));
            }
        }
        for change in &plan.pools {
            let mut each = self.inputs.pools.iter_mut();
            let pool = each.find(|p| p.pool.name == change.name).unwrap();
            for w in &change.conditions {
                pool.conditions.insert(w.type_.to_owned(), seen(w));
            }
        }
    }

    /// Plans and writes until nothing changes. No single write may give an address to a second owner without consent,
    /// and in the end nobody shares without consent, whatever the edits and the hands of users left behind.
    pub(crate) fn settle(&mut self) -> &mut Self {
        for _ in 0..12 {
            let plan = self.plan();
            if plan.services.is_empty() && plan.pools.is_empty() && plan.reservations.is_empty() {
                self.assert_no_double_owner();
                assert_eq!(
                    plan,
                    super::plan(&self.inputs),
                    "who begins now sees what the one sees who was always there"
                );
                return self;
            }
            // Writes land one by one, in any order; the reverse is as good as any.
            for change in plan.services.iter().rev() {
                self.assert_nothing_is_given_twice(change);
                let one = Plan {
                    services: vec![change.clone()],
                    ..Plan::default()
                };
                self.write(&one);
            }
            self.write(&Plan {
                services: vec![],
                ..plan
            });
        }
        panic!("the plan does not settle: {:?}", plan(&self.inputs));
    }

    /// What the long-lived engine would write now, told only what changed.
    pub(crate) fn plan(&mut self) -> Plan {
        let mut engine = self
            .engine
            .take()
            .unwrap_or_else(|| Engine::new(self.inputs.settings));
        for name in engine.names() {
            if !self.inputs.services.iter().any(|s| s.name == name) {
                engine.remove_service(&name);
            }
        }
        for service in &self.inputs.services {
            engine.set_service(service.clone());
        }
        for name in engine.pool_names() {
            if !self.inputs.pools.iter().any(|p| p.pool.name == name) {
                engine.remove_pool(&name);
            }
        }
        for pool in &self.inputs.pools {
            engine.set_pool(pool.clone());
        }
        for name in engine.reservation_names() {
            if !self.inputs.reservations.iter().any(|r| r.name == name) {
                engine.remove_reservation(&name);
            }
        }
        for reservation in &self.inputs.reservations {
            engine.set_reservation(reservation.clone());
        }
        engine.set_in_use(self.inputs.in_use.clone());
        engine.set_former(self.inputs.former.clone());
        engine.run();
        let plan = engine.plan();
        self.engine = Some(engine);
        plan
    }

    /// The operator forgets everything but what the API says.
    pub(crate) fn restart(&mut self) {
        self.engine = None;
        for service in &mut self.inputs.services {
            service.is_edited = false;
        }
    }

    /// Counts by walking through every address of every block: only for small pools.
    pub(crate) fn assert_counts_are_true(&self) {
        let counts = plan(&self.inputs).counts;
        for input in &self.inputs.pools {
            let (mut total, mut used) = (0_u64, 0_u64);
            for block in &input.pool.blocks {
                let mut at = Some(block.range.first());
                while let Some(ip) = at.filter(|ip| block.range.contains(*ip)) {
                    let (first, last) = (block.range.first(), block.range.last());
                    let mut third = runs::next(first).and_then(runs::next).into_iter();
                    let is_long = third.any(|third| third <= last);
                    let is_end = block.is_prefix && is_long && (ip == first || ip == last);
                    let is_held = self.inputs.services.iter().any(|s| s.ingress.contains(&ip));
                    let is_reserved = self.inputs.reservations.iter().any(|r| r.contains(ip));
                    total += 1;
                    used += u64::from(
                        is_held
                            || is_reserved
                            || check_vip(ip).is_err()
                            || (is_end && !input.pool.allow_first_last),
                    );
                    at = runs::next(ip);
                    if total > 100_000 {
                        break;
                    }
                }
            }
            if total <= 100_000 {
                let found = &counts[&input.pool.name];
                assert_eq!(found.total, total.into(), "{}", input.pool.name);
                assert_eq!(found.used, used.into(), "{}", input.pool.name);
                assert_eq!(
                    found.available,
                    (total - used).into(),
                    "{}",
                    input.pool.name
                );
            }
        }
    }

    pub(crate) fn assert_nothing_is_given_twice(&self, change: &ServiceChange) {
        let services = &self.inputs.services;
        let own = services.iter().find(|s| s.name == change.name).unwrap();
        for ip in change.ingress.iter().filter(|ip| !own.ingress.contains(ip)) {
            for other in services
                .iter()
                .filter(|o| o.name != own.name && o.ingress.contains(ip))
            {
                assert_eq!(
                    compatible(own, other),
                    Ok(()),
                    "{ip} given to {} while {} has it",
                    own.name,
                    other.name
                );
            }
        }
    }

    pub(crate) fn assert_no_double_owner(&self) {
        let services = &self.inputs.services;
        for (idx, a) in services.iter().enumerate() {
            for b in &services[idx + 1..] {
                let shared = a.ingress.iter().find(|ip| b.ingress.contains(ip));
                if let Some(ip) = shared {
                    assert_eq!(
                        compatible(a, b),
                        Ok(()),
                        "{ip} of {} and {}",
                        a.name,
                        b.name
                    );
                }
            }
        }
    }

    /// Addresses and reason of a Service, as `kubectl` would show them.
    pub(crate) fn shows(&self, name: &str) -> String {
        let mut each = self.inputs.services.iter();
        let service = each.find(|s| s.name.name() == name).unwrap();
        let ips: Vec<String> = service.ingress.iter().map(ToString::to_string).collect();
        let reason = service
            .condition
            .as_ref()
            .map_or("-", |c| c.reason.as_str());
        format!("{} {reason}", ips.join(","))
    }

    pub(crate) fn message(&self, name: &str) -> String {
        let mut each = self.inputs.services.iter();
        let service = each.find(|s| s.name.name() == name).unwrap();
        service.condition.clone().unwrap().message
    }

    pub(crate) fn pool_shows(&self, name: &str, type_: &str) -> String {
        let mut each = self.inputs.pools.iter();
        let pool = each.find(|p| p.pool.name == name).unwrap();
        pool.conditions.get(type_).map_or_else(
            || "-".to_owned(),
            |c| {
                format!("{} {} {}", c.status, c.reason, c.message)
                    .trim_end()
                    .to_owned()
            },
        )
    }
}

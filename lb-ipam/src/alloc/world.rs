//! An API in memory for the allocator's tests: what a plan says is what the next one reads.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_model::{
    IpRange, Labels, LoadBalancerClass, Pool, PoolBlock, Protocol, Selector, TrafficPolicy,
};

use super::{
    Family, FamilyPolicy, Inputs, Namespaces, Plan, PoolInput, Seen, ServiceChange, ServiceInput,
    Sharing, holders::compatible, plan,
};

/// An API in memory: what a plan says is what the next one reads.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) inputs: Inputs,
    pub(super) n_writes: usize,
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `a-b` is a range, anything else a prefix.
pub(super) fn block(text: &str) -> PoolBlock {
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

impl World {
    /// Adds or replaces a pool; its age is its place in the list.
    pub(super) fn pool(&mut self, name: &str, blocks: &[&str]) -> &mut Pool {
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
            });
            self.inputs.pools.len() - 1
        });
        let created = self.inputs.pools[at].pool.created;
        self.inputs.pools[at].pool = Pool { created, ..pool };
        &mut self.inputs.pools[at].pool
    }

    pub(super) fn remove_pool(&mut self, name: &str) {
        self.inputs.pools.retain(|p| p.pool.name != name);
    }

    /// Adds a Service `shop/name` on port 80; its age is its place in the list.
    pub(super) fn service(&mut self, name: &str) -> &mut ServiceInput {
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
            is_settled: false,
        });
        self.inputs.services.last_mut().unwrap()
    }

    pub(super) fn sharer(&mut self, name: &str, key: &str, port: u16) -> &mut ServiceInput {
        let service = self.service(name);
        service.sharing.key = key.to_owned();
        service.sharing.ports = vec![(Protocol::Tcp, port)];
        service
    }

    pub(super) fn edit(&mut self, name: &str) -> &mut ServiceInput {
        let mut each = self.inputs.services.iter_mut();
        each.find(|s| s.name.name() == name).unwrap()
    }

    pub(super) fn edit_pool(&mut self, name: &str) -> &mut Pool {
        let mut each = self.inputs.pools.iter_mut();
        &mut each.find(|p| p.pool.name == name).unwrap().pool
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.inputs.services.retain(|s| s.name.name() != name);
    }

    pub(super) fn write(&mut self, plan: &Plan) {
        for change in &plan.services {
            self.n_writes += 1;
            let mut each = self.inputs.services.iter_mut();
            let service = each.find(|s| s.name == change.name).unwrap();
            service.ingress.clone_from(&change.ingress);
            service.has_foreign_entries = false;
            service.condition = change.condition.as_ref().map(|w| Seen {
                status: w.status.as_str().to_owned(),
                reason: w.reason.clone(),
                message: w.message.clone(),
                observed_generation: w.observed_generation,
            });
        }
        for change in &plan.pools {
            let mut each = self.inputs.pools.iter_mut();
            let pool = each.find(|p| p.pool.name == change.name).unwrap();
            for w in &change.conditions {
                let seen = Seen {
                    status: w.status.as_str().to_owned(),
                    reason: w.reason.clone(),
                    message: w.message.clone(),
                    observed_generation: w.observed_generation,
                };
                pool.conditions.insert(w.type_.to_owned(), seen);
            }
        }
    }

    /// Plans and writes until nothing changes. No single write may give an address to a second owner without consent,
    /// and in the end nobody shares without consent, whatever the edits and the hands of users left behind.
    pub(super) fn settle(&mut self) -> &mut Self {
        for _ in 0..8 {
            let plan = plan(&self.inputs);
            if plan.services.is_empty() && plan.pools.is_empty() {
                self.assert_no_double_owner();
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

    pub(super) fn assert_nothing_is_given_twice(&self, change: &ServiceChange) {
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

    pub(super) fn assert_no_double_owner(&self) {
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
    pub(super) fn shows(&self, name: &str) -> String {
        let mut each = self.inputs.services.iter();
        let service = each.find(|s| s.name.name() == name).unwrap();
        let ips: Vec<String> = service.ingress.iter().map(ToString::to_string).collect();
        let reason = service
            .condition
            .as_ref()
            .map_or("-", |c| c.reason.as_str());
        format!("{} {reason}", ips.join(","))
    }

    pub(super) fn message(&self, name: &str) -> String {
        let mut each = self.inputs.services.iter();
        let service = each.find(|s| s.name.name() == name).unwrap();
        service.condition.clone().unwrap().message
    }

    pub(super) fn pool_shows(&self, name: &str, type_: &str) -> String {
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

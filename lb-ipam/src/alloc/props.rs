//! What holds for every history of pools, Services and edits.

use proptest::prelude::*;

use super::{
    Family, FamilyPolicy, Namespaces, plan, pools::Landscape, sharing::compatible, world::World,
};

const BLOCKS: [&str; 8] = [
    "192.0.2.0/30",
    "192.0.2.2-192.0.2.5",
    "192.0.2.8/31",
    "198.51.100.0/29",
    "2001:db8::/125",
    "2001:db8::1-2001:db8::3",
    "0.0.0.0/30",
    "203.0.113.7-203.0.113.7",
];
const WANTED: [&str; 6] = [
    "192.0.2.1",
    "192.0.2.3",
    "198.51.100.2",
    "2001:db8::1",
    "10.0.0.1",
    "0.0.0.0",
];
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[derive(Debug, Clone)]
enum Step {
    Pool {
        name: usize,
        blocks: Vec<usize>,
        disabled: bool,
        allow_first_last: bool,
    },
    RemovePool(usize),
    Service {
        name: usize,
        wanted: Vec<usize>,
        key: usize,
        port: u16,
        dual: bool,
    },
    Delete(usize),
    ByHand {
        name: usize,
        ip: usize,
    },
}

/// What an operator gets to write before the next thing happens.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// Everything, until nothing is left.
    All,
    /// The first so many of one plan.
    Some(usize),
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![2 => Just(Pace::All), 3 => (0..4_usize).prop_map(Pace::Some)]
}

fn step() -> impl Strategy<Value = Step> {
    let some = |n: usize, max: usize| prop::collection::vec(0..n, 0..=max);
    prop_oneof![
        3 => (0..3_usize, some(BLOCKS.len(), 2), any::<bool>(), any::<bool>()).prop_map(
            |(name, blocks, disabled, allow_first_last)| Step::Pool { name, blocks, disabled, allow_first_last }
        ),
        1 => (0..3_usize).prop_map(Step::RemovePool),
        6 => (0..NAMES.len(), some(WANTED.len(), 2), 0..3_usize, 80..82_u16, any::<bool>()).prop_map(
            |(name, wanted, key, port, dual)| Step::Service { name, wanted, key, port, dual }
        ),
        2 => (0..NAMES.len()).prop_map(Step::Delete),
        1 => (0..NAMES.len(), 0..WANTED.len()).prop_map(|(name, ip)| Step::ByHand { name, ip }),
    ]
}

fn take(world: &mut World, step: &Step) {
    match step {
        Step::Pool {
            name,
            blocks,
            disabled,
            allow_first_last,
        } => {
            let blocks: Vec<&str> = blocks.iter().map(|b| BLOCKS[*b]).collect();
            let pool = world.pool(NAMES[*name], &blocks);
            pool.disabled = *disabled;
            pool.allow_first_last = *allow_first_last;
        }
        Step::RemovePool(name) => world.remove_pool(NAMES[*name]),
        Step::Service {
            name,
            wanted,
            key,
            port,
            dual,
        } => {
            let name = NAMES[*name];
            if !world.inputs.services.iter().any(|s| s.name.name() == name) {
                world.service(name);
            }
            let service = world.edit(name);
            service.requested = wanted.iter().map(|w| WANTED[*w].parse().unwrap()).collect();
            service.requested.dedup();
            service.sharing.key = ["", "k", "l"][*key].to_owned();
            service.sharing.namespaces = Namespaces::All;
            service.sharing.ports = vec![(fairlead_model::Protocol::Tcp, *port)];
            if *dual {
                service.families = vec![Family::V4, Family::V6];
                service.family_policy = FamilyPolicy::RequireDualStack;
            }
        }
        Step::Delete(name) => world.delete(NAMES[*name]),
        Step::ByHand { name, ip } => {
            let ip = WANTED[*ip].parse().unwrap();
            let is_free = world
                .inputs
                .services
                .iter()
                .all(|s| !s.ingress.contains(&ip));
            let mut each = world.inputs.services.iter_mut();
            if let Some(service) = each.find(|s| is_free && s.name.name() == NAMES[*name]) {
                service.ingress = vec![ip];
            }
        }
    }
}

/// Checks what a plan gives anew, before it is written.
fn check_given(world: &World) -> Result<(), TestCaseError> {
    let land = Landscape::new(world.inputs.pools.clone(), &[], Vec::new());
    let plan = plan(&world.inputs);
    for change in &plan.services {
        let mut each = world.inputs.services.iter();
        let service = each.find(|s| s.name == change.name).unwrap();
        for ip in change
            .ingress
            .iter()
            .filter(|ip| !service.ingress.contains(ip))
        {
            let giving = land.giving(*ip).into_iter();
            let mut giving = giving.map(|view| &land.views[view]);
            let from_pool = giving.any(|v| v.serves(service) && !v.is_end(*ip));
            let joined = plan
                .services
                .iter()
                .map(|c| (&c.name, &c.ingress))
                .chain(world.inputs.services.iter().map(|s| (&s.name, &s.ingress)));
            let joins = joined.clone().any(|(name, ingress)| {
                let mut each = world.inputs.services.iter();
                let other = each.find(|s| s.name == *name).unwrap();
                other.name != service.name
                    && ingress.contains(ip)
                    && compatible(other, service).is_ok()
            });
            prop_assert!(
                from_pool || joins,
                "{ip} given to {} from nowhere",
                service.name
            );
            prop_assert!(!ip.is_unspecified());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nobody_shares_without_consent_and_a_restart_is_none(
        steps in prop::collection::vec((step(), pace(), any::<bool>()), 1..24)
    ) {
        let mut world = World::default();
        for (step, pace, restarts) in &steps {
            take(&mut world, step);
            check_given(&world)?;
            if *restarts {
                world.restart();
            }
            match pace {
                // Checks each single write, in the end that no address has two owners without consent, and that an operator
                // that was always there agrees with one that starts now: addresses, conditions, counts and figures.
                Pace::All => {
                    world.settle();
                }
                Pace::Some(n) => {
                    let plan = world.plan();
                    for change in plan.services.into_iter().take(*n) {
                        world.assert_nothing_is_given_twice(&change);
                        world.write(&super::Plan { services: vec![change], ..super::Plan::default() });
                    }
                }
            }
        }
        world.settle();
        world.assert_counts_are_true();
        let mut shuffled = world.inputs.clone();
        shuffled.services.reverse();
        shuffled.pools.reverse();
        prop_assert_eq!(plan(&shuffled).services, vec![]);
    }

    #[test]
    fn nobody_moves_when_others_come_and_go(
        steps in prop::collection::vec(step(), 1..16),
        name in 0..NAMES.len(),
        port in 80..82_u16,
    ) {
        let mut world = World::default();
        for step in &steps {
            take(&mut world, step);
        }
        world.settle();
        let before = world.clone();
        world.service("newcomer").sharing.ports = vec![(fairlead_model::Protocol::Tcp, port)];
        world.settle();
        for (old, new) in before.inputs.services.iter().zip(&world.inputs.services) {
            prop_assert_eq!(&old.ingress, &new.ingress);
        }
        let before = world.clone();
        world.delete(NAMES[name]);
        world.settle();
        for service in &world.inputs.services {
            let mut each = before.inputs.services.iter();
            let old = each.find(|s| s.name == service.name).unwrap();
            for ip in &old.ingress {
                // A group that was joined by key alone may end with the member that left.
                let was_shared = before.inputs.services.iter().any(|s| s.name.name() == NAMES[name] && s.ingress.contains(ip));
                prop_assert!(was_shared || service.ingress.contains(ip), "{} lost {ip}", service.name);
            }
        }
    }
}

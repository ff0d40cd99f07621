//! What the allocator costs at 50,000 Services over 200 pools: run by `./x bench lb-ipam`.
//!
//! Prints a table, or with `-o json` one object a line with bench, case, value and unit. Times are of the engine alone; it
//! asserts that the answers are right, never how long they took.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use fairlead_lb_ipam::{
    Engine, Settings,
    alloc::{
        Family, FamilyPolicy, Namespaces, PoolInput, Seen, ServiceInput, Sharing, engine::Delta,
    },
};
use fairlead_model::{
    IpRange, Labels, LoadBalancerClass, Pool, PoolBlock, Protocol, Selector, ServiceName,
    TrafficPolicy,
};
use fairlead_rt::clock;

const N_SERVICES: usize = 50_000;
const N_POOLS: usize = 200;
/// Services per pool: a /24 has room for 256.
const PER_POOL: usize = N_SERVICES / N_POOLS;
/// Single changes of each kind that are timed.
const N_CHANGES: usize = 2_000;

struct Report {
    is_json: bool,
}

impl Report {
    fn say(&self, case: &str, value: f64, unit: &str) {
        if self.is_json {
            let line =
                serde_json::json!({"bench": "lb-ipam", "case": case, "value": value, "unit": unit});
            println!("{line}");
        } else {
            println!("{case:<62} {value:>12.4} {unit}");
        }
    }

    fn time(&self, case: &str, took: Duration) {
        self.say(case, took.as_secs_f64() * 1e3, "ms");
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let is_json = match arguments[..] {
        [] => false,
        ["-o" | "--output", "json"] | ["-ojson"] => true,
        _ => {
            eprintln!("lb-ipam bench: unknown arguments {arguments:?}: give none, or -o json");
            return ExitCode::from(2);
        }
    };
    let report = Report { is_json };
    let four = sized(&report, "IPv4 /24", Family::V4);
    let six = sized(&report, "IPv6 /64", Family::V6);
    let ratio = six.as_secs_f64() / four.as_secs_f64();
    report.say("IPv6 /64 against IPv4 /24, from cold", ratio, "x");
    unselected(&report);
    waiting(&report);
    ExitCode::SUCCESS
}

/// Each pool serves a namespace; every pool of one size. Returns the time from cold.
fn sized(report: &Report, name: &str, family: Family) -> Duration {
    let before = resident();
    let mut engine = engine(family, true, N_SERVICES);
    let (delta, cold) = timed(|| engine.run());
    assert_eq!(engine.n_unsatisfied(), 0);
    assert_eq!(delta.services.len(), N_SERVICES);
    report.time(
        &format!("{name}: 50,000 Services over 200 pools from cold"),
        cold,
    );
    let held = resident().saturating_sub(before);
    let megabytes = BYTES_PER_MB.recip() * held as f64;
    report.say(&format!("{name}: memory of the engine"), megabytes, "MB");
    let mut services: Vec<ServiceInput> = (0..N_SERVICES).map(|n| service(n, family)).collect();
    write(&mut engine, &mut services, &delta);
    let (delta, echoed) = timed(|| engine.run());
    assert!(delta.services.iter().all(|(_, change)| change.is_none()));
    report.time(&format!("{name}: the same, once all is written"), echoed);
    changes(report, name, &mut engine, &services);
    let mut first = pool(7, family, true);
    first.priority = 1;
    engine.set_pool(first);
    let (delta, took) = timed(|| engine.run());
    assert!(delta.services.iter().all(|(_, change)| change.is_none()));
    report.time(&format!("{name}: one pool edited"), took);
    let mut engine = self::engine(family, true, 0);
    for service in services {
        engine.set_service(service);
    }
    let (delta, took) = timed(|| engine.run());
    assert!(delta.services.iter().all(|(_, change)| change.is_none()));
    report.time(&format!("{name}: restart, all have addresses"), took);
    cold
}

/// One Service at a time: edited, deleted, created.
fn changes(report: &Report, name: &str, engine: &mut Engine, services: &[ServiceInput]) {
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for n in 0..N_CHANGES {
        let old = &services[(n * 7919) % services.len()];
        let mut edited = old.clone();
        edited.sharing.ports = vec![(Protocol::Tcp, 8080)];
        engine.set_service(edited);
        let (_, took) = timed(|| engine.run());
        times.entry("edited").or_default().push(took);
        engine.remove_service(&old.name);
        let (_, took) = timed(|| engine.run());
        times.entry("deleted").or_default().push(took);
        let mut created = old.clone();
        created.ingress.clear();
        created.condition = None;
        engine.set_service(created);
        let (delta, took) = timed(|| engine.run());
        assert_eq!(delta.services.len(), 1);
        times.entry("created").or_default().push(took);
        engine.set_service(old.clone());
        engine.run();
    }
    for (what, mut times) in times {
        times.sort_unstable();
        let at = |percent: usize| times[times.len() * percent / 100];
        report.time(&format!("{name}: one Service {what}, median"), at(50));
        report.time(&format!("{name}: one Service {what}, p99"), at(99));
    }
}

/// Every pool serves everybody, so that full ones are passed over.
fn unselected(report: &Report) {
    let mut engine = engine(Family::V4, false, N_SERVICES);
    let (_, cold) = timed(|| engine.run());
    assert_eq!(engine.n_unsatisfied(), 0);
    report.time(
        "without selectors: 50,000 Services over 200 pools from cold",
        cold,
    );
}

/// 10,000 Services wait for room in full pools, and one address becomes free.
fn waiting(report: &Report) {
    const N_WAITING: usize = 10_000;
    let n_all = N_POOLS * 256 + N_WAITING;
    let mut engine = engine(Family::V4, false, n_all);
    let (delta, cold) = timed(|| engine.run());
    assert_eq!(engine.n_unsatisfied(), N_WAITING);
    report.time("61,200 Services for 51,200 addresses from cold", cold);
    let mut services: Vec<ServiceInput> = (0..n_all).map(|n| service(n, Family::V4)).collect();
    write(&mut engine, &mut services, &delta);
    engine.run();
    engine.remove_service(&services[5].name);
    let (_, took) = timed(|| engine.run());
    assert_eq!(engine.n_unsatisfied(), N_WAITING - 1);
    report.time("10,000 wait, one address becomes free", took);
}

fn engine(family: Family, is_selected: bool, n_services: usize) -> Engine {
    let mut engine = Engine::new(Settings::default());
    for n in 0..N_POOLS {
        engine.set_pool(pool(n, family, is_selected));
    }
    for n in 0..n_services {
        engine.set_service(service(n, family));
    }
    engine
}

/// As the API would answer: what was to be written is what is there.
fn write(engine: &mut Engine, services: &mut [ServiceInput], delta: &Delta) {
    let changes = delta.services.iter();
    let changes = changes.filter_map(|(name, change)| Some((name, change.as_ref()?)));
    let changes: BTreeMap<&ServiceName, _> = changes.collect();
    for service in services {
        let Some(change) = changes.get(&service.name) else {
            continue;
        };
        service.ingress.clone_from(&change.ingress);
        service.condition = change.condition.as_ref().map(|w| Seen {
            status: w.status.as_str().to_owned(),
            reason: w.reason.clone(),
            message: w.message.clone(),
            observed_generation: w.observed_generation,
        });
        engine.set_service(service.clone());
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = clock::now();
    let value = work();
    (value, clock::now().duration_since(begun))
}

const BYTES_PER_MB: f64 = 1e6;

/// Resident memory of this process in bytes; 0 where the system does not say.
///
/// # Source
/// proc(5), `VmRSS` in `/proc/pid/status`, in KiB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("VmRSS:"));
    let kib = lines
        .next()
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

fn namespace(n: usize) -> String {
    format!("tenant-{}", n % N_POOLS)
}

fn pool(n: usize, family: Family, is_selected: bool) -> PoolInput {
    let prefix = match family {
        Family::V4 => format!("10.{}.{}.0/24", n / 256, n % 256),
        Family::V6 => format!("2001:db8:{n:x}::/64"),
    };
    let range = IpRange::from_prefix(prefix.parse().expect("it is a prefix"));
    let label = ("io.kubernetes.service.namespace".to_owned(), namespace(n));
    let labels = is_selected.then_some(label).into_iter().collect();
    PoolInput {
        pool: Pool {
            name: format!("pool-{n}"),
            created: i64::try_from(n).unwrap_or_default(),
            blocks: vec![PoolBlock {
                range,
                is_prefix: true,
            }],
            bad_blocks: Vec::new(),
            allow_first_last: true,
            disabled: false,
            selector: Ok(Selector::new(labels, Vec::new())),
        },
        generation: Some(1),
        conditions: BTreeMap::new(),
        priority: 0,
        sticky: None,
        allows: Vec::new(),
        problems: Vec::new(),
    }
}

fn service(n: usize, family: Family) -> ServiceInput {
    let namespace = namespace(n / PER_POOL);
    let name = format!("service-{n}");
    let labels: Labels = [
        ("app", name.as_str()),
        ("io.kubernetes.service.name", name.as_str()),
        ("io.kubernetes.service.namespace", namespace.as_str()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    ServiceInput {
        name: ServiceName::new(&namespace, &name).expect("it is a name"),
        created: i64::try_from(n).unwrap_or_default(),
        generation: None,
        labels,
        is_load_balancer: true,
        class: LoadBalancerClass::Unset,
        requested: Vec::new(),
        bad_requests: Vec::new(),
        families: vec![family],
        family_policy: FamilyPolicy::SingleStack,
        pools: Vec::new(),
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
        is_edited: false,
    }
}

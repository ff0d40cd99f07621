//! The main job with the real binaries: two appliances, the example manifests, a client, a node that
//! dies. Needs root and the binaries that `./x build` makes; without either these fail.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use fairlead_lab::drive::{Frontends, Job, NODES, SERVICE};
use fairlead_lab::runner::Lab;
use fairlead_lab::traffic::requests;
use fairlead_lab::{clab, clock, plan};
use serde_json::Value;

/// How long a killed process stays dead: forty times the deadline of a responder entry.
const DEAD: Duration = Duration::from_mins(2);
/// Jobs that load both cores run one at a time, which keeps their figures honest; those that mostly wait run beside each other.
static CORES: RwLock<()> = RwLock::new(());

fn alone() -> RwLockWriteGuard<'static, ()> {
    CORES.write().unwrap_or_else(PoisonError::into_inner)
}

fn beside() -> RwLockReadGuard<'static, ()> {
    CORES.read().unwrap_or_else(PoisonError::into_inner)
}

fn bin_dir() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_fairlead-lab"))
        .parent()
        .expect("a program is in a folder")
}

fn lab_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples(name: &str) -> PathBuf {
    lab_dir().join("../configs/examples").join(name)
}

/// A lab under a name of its own, removed at the end of the test.
struct Guard(String);

impl Guard {
    fn new(purpose: &str) -> Self {
        Self(format!("j{}-{purpose}", std::process::id()))
    }

    fn job(&self, nodes: &[&'static str]) -> Job {
        let file = lab_dir().join("main.clab.yml");
        let topology = clab::load(&file).expect("the topology is good");
        let plan = plan::plan(&topology, &self.0, lab_dir()).expect("the topology has a plan");
        let lab = Lab::up(&plan, &file, bin_dir(), &mut |_| {}).expect("the lab comes up");
        let manifests = [examples("main")];
        Job::start(lab, &manifests, nodes, |_| {}).expect("the appliances start")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        Lab::down(&self.0).expect("a lab goes down");
    }
}

/// Runs the whole job by the program; what it says at the end.
fn run(purpose: &str, more: &[&str]) -> Value {
    let _alone = alone();
    let guard = Guard::new(purpose);
    let output = Command::new(env!("CARGO_BIN_EXE_fairlead-lab"))
        .args(["run", "main", "--as", &guard.0, "--once", "-o", "json"])
        .args(more)
        .current_dir(lab_dir())
        .output()
        .expect("the program starts");
    let progress = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{progress}");
    let text = String::from_utf8(output.stdout).expect("JSON is text");
    assert_eq!(text.lines().count(), 1, "one line of JSON: {text}");
    serde_json::from_str(&text).expect("the line is JSON")
}

/// What holds in every mode.
fn holds_in_every_mode(done: &Value) {
    assert_eq!(
        (&done["requests"], &done["failed"]),
        (&1000.into(), &0.into()),
        "{done}"
    );
    let spread = done["spread"].as_object().expect("spread is an object");
    assert_eq!(spread.len(), 3, "{done}");
    let counts = spread.values().filter_map(Value::as_u64);
    assert!(counts.min() > Some(200), "no server is starved: {done}");
    assert_eq!(
        (&done["connections"], &done["broken"]),
        (&200.into(), &0.into()),
        "{done}"
    );
    let owner = done["owner"].as_str().expect("owner is text");
    assert!(NODES.contains(&owner), "{done}");
    // The target is 300 ms; this machine also runs everything else.
    let dark = done["dark_ms"].as_f64().expect("dark_ms is a number");
    assert!(dark > 5.0 && dark < 3000.0, "{done}");
}

#[test]
fn plain_servers_behind_a_service_survive_the_loss_of_a_node() {
    let done = run("auto", &[]);
    holds_in_every_mode(&done);
    assert!(
        done["vip"]
            .as_str()
            .is_some_and(|v| v.starts_with("10.10.0.")),
        "{done}"
    );
}

#[test]
fn layer_2_dsr_breaks_no_connection_of_either_kind() {
    let (main, dsr) = (examples("main"), examples("dsr"));
    let (main, dsr) = (main.display().to_string(), dsr.display().to_string());
    let service = "default/web-dsr-l2";
    let done = run(
        "l2",
        &[
            "--manifests",
            &main,
            "--manifests",
            &dsr,
            "--service",
            service,
        ],
    );
    holds_in_every_mode(&done);
    assert_eq!(done["broken_listening"], 0, "{done}");
    assert_eq!(done["vip"], "10.10.0.200", "{done}");
}

#[test]
fn ipip_dsr_breaks_no_connection_of_either_kind() {
    let (main, dsr) = (examples("main"), examples("dsr"));
    let (main, dsr) = (main.display().to_string(), dsr.display().to_string());
    let service = "default/web-dsr-ipip";
    let done = run(
        "ipip",
        &[
            "--manifests",
            &main,
            "--manifests",
            &dsr,
            "--service",
            service,
            "--decap",
        ],
    );
    holds_in_every_mode(&done);
    assert_eq!(done["broken_listening"], 0, "{done}");
    assert_eq!(done["vip"], "10.10.0.201", "{done}");
}

/// The owner answers for a VIP that its kernel does not know: no address, no listener, and nothing
/// for the VIP takes the way through the host's routing.
#[test]
fn the_owners_kernel_knows_nothing_of_the_vip() {
    let _alone = alone();
    let guard = Guard::new("kernel");
    let mut job = guard.job(&NODES);
    let ready = job.wait_ready(SERVICE).expect("it becomes ready");
    let owner = job.lab().node(&ready.owner).expect("the owner is a node");
    let forwarded = || {
        let snmp = owner.run(&["cat", "/proc/net/snmp"]).expect("it is there");
        let snmp6 = owner.run(&["cat", "/proc/net/snmp6"]).expect("it is there");
        (
            snmp_value(&snmp, "ForwDatagrams"),
            snmp6_value(&snmp6, "Ip6OutForwDatagrams"),
        )
    };
    assert_eq!(forwarded(), (0, 0));
    job.serve(&ready.service, 200)
        .expect("requests are answered");
    assert_eq!(forwarded(), (0, 0));
    holds_no_address(
        &owner.run(&["ip", "addr"]).expect("ip runs"),
        &ready.service,
    );
    let listeners = owner
        .run(&["cat", "/proc/net/tcp", "/proc/net/tcp6"])
        .expect("it is there");
    let port = format!(":{:04X}", ready.service.tcp_port);
    let listens = listeners.lines().any(|l| {
        l.split_whitespace()
            .nth(1)
            .is_some_and(|a| a.ends_with(&port))
    });
    assert!(!listens, "{listeners}");
}

/// Counted is what was sent: the frontends' counters on the owner grow by the segments that the client's kernel put on the wire.
#[test]
fn the_frontends_counters_equal_the_packets_on_the_wire() {
    let _alone = alone();
    let guard = Guard::new("count");
    let mut job = guard.job(&NODES);
    let ready = job.wait_ready(SERVICE).expect("it becomes ready");
    let owner = job.lab().node(&ready.owner).expect("the owner is a node");
    let client = job.client().expect("the lab has a client");
    let counted = || {
        let list = owner.run(&["fairlead", "service", "list", "-o", "json"]);
        counted_tcp(&list.expect("the owner's agent answers"))
    };
    let sent = || {
        let text = client.run(&["cat", "/proc/net/snmp"]);
        let text = text.expect("it is there");
        tcp_value(&text, "OutSegs") + tcp_value(&text, "RetransSegs")
    };
    let before = (counted(), sent());
    job.serve(&ready.service, 200)
        .expect("requests are answered");
    // The last acknowledgements are still under way when the last answer has arrived.
    let deadline = clock::now() + Duration::from_secs(10);
    let grown = || (counted() - before.0, sent() - before.1);
    let mut both = grown();
    while both.0 != both.1 && clock::now() < deadline {
        both = grown();
    }
    assert_eq!(both.0, both.1, "(counted, sent)");
    assert!(both.0 > 1_000, "{both:?}");
}

/// Packets of all TCP frontends in `fairlead service list -o json`.
fn counted_tcp(list: &str) -> u64 {
    let list: Value = serde_json::from_str(list).expect("it is JSON");
    let rows = list.as_array().expect("it is a list");
    let frontends = rows
        .iter()
        .flat_map(|row| row["frontends"].as_array().into_iter().flatten());
    let tcp = frontends.filter(|f| f["frontend"].as_str().is_some_and(|f| f.ends_with("/TCP")));
    tcp.map(|f| f["packets"].as_u64().expect("a count")).sum()
}

fn holds_no_address(addresses: &str, service: &Frontends) {
    for vip in &service.vips {
        let held = addresses
            .split_whitespace()
            .any(|word| word.split('/').next() == Some(&vip.to_string()));
        assert!(!held, "{addresses}");
    }
}

/// A value of `/proc/net/snmp`: a line of names, then a line of values.
fn snmp_value(text: &str, name: &str) -> u64 {
    mib_value(text, "Ip:", name)
}

/// A value of TCP's part of `/proc/net/snmp`; it counts both families.
fn tcp_value(text: &str, name: &str) -> u64 {
    mib_value(text, "Tcp:", name)
}

fn mib_value(text: &str, part: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|l| l.starts_with(part));
    let names = lines.next().unwrap_or_default();
    let values = lines.next().unwrap_or_default();
    let found = names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(n, _)| *n == name);
    found
        .and_then(|(_, v)| v.parse().ok())
        .expect("the kernel counts it")
}

/// A value of `/proc/net/snmp6`: a name and a value in each line.
fn snmp6_value(text: &str, name: &str) -> u64 {
    let found = text
        .lines()
        .filter_map(|l| l.split_once(char::is_whitespace))
        .find(|(n, _)| *n == name);
    found
        .and_then(|(_, v)| v.trim().parse().ok())
        .expect("the kernel counts forwarded datagrams")
}

/// Requests from before the kill to long after the entries' deadline, the client's neighbour tables
/// flushed again and again. Of a pair, the other node takes over when the entries' deadline has passed; a
/// node that is alone answers and forwards by its kernel only, for ever.
fn nobody_notices_a_killed_process(purpose: &str, nodes: &[&'static str]) {
    let _beside = beside();
    let guard = Guard::new(purpose);
    let mut job = guard.job(nodes);
    let ready = job.wait_ready(SERVICE).expect("it becomes ready");
    let client = job.client().expect("the lab has a client");
    let mut outcome = requests::Outcome::default();
    let load = |outcome: &mut requests::Outcome, until: Duration| {
        let mut next = clock::now();
        while next < until {
            client
                .run(&["ip", "neigh", "flush", "all"])
                .expect("ip runs");
            for target in ready.service.tcp() {
                outcome.add(requests::requests(&client, target, 20).expect("the client runs"));
            }
            // 200 a second to each VIP: closed connections hold their client port for a minute.
            next = (next + Duration::from_millis(100)).max(clock::now());
            clock::wait_until(next);
        }
    };
    load(&mut outcome, clock::now() + Duration::from_secs(2));
    job.kill_appliance(&ready.owner).expect("it can be killed");
    load(&mut outcome, clock::now() + DEAD);
    job.start_appliance(&ready.owner).expect("it starts again");
    load(&mut outcome, clock::now() + Duration::from_secs(10));
    job.wait_ready(SERVICE).expect("it becomes ready again");
    assert_eq!(outcome.failed, 0, "{outcome:?}");
    assert!(outcome.requests > 1000, "{outcome:?}");
}

#[test]
fn nobody_notices_a_killed_process_of_a_pair() {
    nobody_notices_a_killed_process("pair", &NODES);
}

#[test]
fn nobody_notices_a_killed_process_that_is_alone() {
    nobody_notices_a_killed_process("single", &NODES[..1]);
}

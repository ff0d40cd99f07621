//! Every program verifies and does its plainest job on the running kernel and on Linux 6.1, the floor.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: at once, and where it happened"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use fairlead_tests::netns::Netns;
use fairlead_tests::require_root;
use fairlead_tests::vm::{self, Kernel, Machine};

/// The emulated machine boots in about 20 s where nothing else runs; verifying under emulation is slow.
const PATIENCE: Duration = Duration::from_mins(5);
const SMOKE: &str = env!("CARGO_BIN_EXE_kernel-smoke");
const PROGRAMS: [&str; 8] = [
    "lb_ingress",
    "lb_rare",
    "lb_snat",
    "lb_icmp",
    "lb_icmp_snat",
    "lb_node",
    "l2_respond",
    "decap_ingress",
];

fn assert_all_ran(text: &str, kernel: &str) {
    assert!(
        text.lines().any(|line| line.trim() == "smoke: ok"),
        "{text}"
    );
    assert!(
        text.contains(&format!("kernel {kernel}")),
        "not {kernel}: {text}"
    );
    for program in PROGRAMS {
        assert!(
            text.contains(&format!("program {program}: ")),
            "{program} was not loaded: {text}"
        );
    }
}

#[test]
fn programs_run_on_this_kernel() {
    require_root();
    let netns = Netns::new("smoke").unwrap();
    let output: std::process::Output = netns.command(SMOKE).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_all_ran(&text, "");
    println!("{text}");
}

#[test]
fn programs_run_on_linux_6_1() {
    require_root();
    let kernel = Kernel::linux_6_1().unwrap();
    let machine = Machine::with_program(&kernel, Path::new(SMOKE)).unwrap();
    let text = machine.boot(PATIENCE, |_| {}).unwrap();
    assert_all_ran(&text, "6.1.");
    println!("{text}");
}

/// The whole of it with the binaries that `./x build` makes: lab, appliances, requests, failover.
#[test]
fn the_main_job_is_done_on_linux_6_1() {
    require_root();
    let lab = Path::new(SMOKE).with_file_name("fairlead-lab");
    assert!(lab.exists(), "{} is missing: run ./x build", lab.display());
    let command = [
        lab.display().to_string(),
        "run".into(),
        "main".into(),
        "--once".into(),
        "-o".into(),
        "json".into(),
    ];
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let kernel = Kernel::linux_6_1().unwrap();
    let text = vm::run_under(&kernel, &root, &command, PATIENCE, |_| {}).unwrap();
    assert!(text.contains("Linux 6.1."), "{text}");
    let summary = text.lines().find(|line| line.starts_with('{')).unwrap();
    let summary: serde_json::Value = serde_json::from_str(summary).unwrap();
    let counts = |name: &str| summary[name].as_u64();
    assert_eq!(
        (counts("requests"), counts("failed")),
        (Some(1000), Some(0)),
        "{text}"
    );
    assert_eq!(
        (counts("connections"), counts("broken")),
        (Some(200), Some(0)),
        "{text}"
    );
    assert!(
        summary["dark_ms"].as_f64().is_some_and(|dark| dark > 0.0),
        "{text}"
    );
    println!("{text}");
}

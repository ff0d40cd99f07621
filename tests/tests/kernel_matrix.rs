//! Every program verifies and does its plainest job on the running kernel and on Linux 6.1, the floor.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: at once, and where it happened"
)]

use std::path::Path;
use std::time::Duration;

use fairlead_tests::netns::Netns;
use fairlead_tests::{require_root, vm};

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
    let kernel = vm::kernel_6_1().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let initramfs = directory.path().join("initramfs");
    std::fs::write(&initramfs, vm::initramfs(Path::new(SMOKE)).unwrap()).unwrap();
    let text = vm::boot(&kernel, &initramfs, PATIENCE).unwrap();
    assert_all_ran(&text, "6.1.");
    println!("{text}");
}

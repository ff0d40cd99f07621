//! Keys and flags as users of Cilium write them.

use std::time::Duration;

use clap::Parser as _;
use fairlead_lb_ipam::{DefaultIpam, Settings};

use super::{Cli, Options};

fn read(args: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Options> {
    let args = std::iter::once("fairlead-operator").chain(args.iter().copied());
    let environment = environment
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Cli::parse_from(args).options(environment.collect(), "me".to_owned())
}

fn error(args: &[&str]) -> String {
    format!("{:#}", read(args, &[]).unwrap_err())
}

#[test]
fn defaults_are_ciliums_except_that_l2_is_on() {
    let options = read(&[], &[]).unwrap();
    assert_eq!(options.lb_ipam, Some(Settings::default()));
    assert_eq!(options.table_size, None);
    assert_eq!(options.serve, Some("[::]:9963".parse().unwrap()));
    assert_eq!(options.election.lease_duration, Duration::from_secs(15));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_config_map() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("default-lb-service-ipam"), "none").unwrap();
    std::fs::write(dir.path().join("enable-ipv6"), "false").unwrap();
    std::fs::write(dir.path().join("enable-bgp-control-plane"), "true").unwrap();
    std::fs::write(dir.path().join("bpf-lb-mode"), "snat").unwrap();
    let path = dir.path().to_str().unwrap();
    let environment = [
        ("FAIRLEAD_ENABLE_IPV6", "true"),
        ("FAIRLEAD_ENABLE_IPV4", "false"),
    ];
    let args = [
        "--config-dir",
        path,
        "--enable-ipv4=true",
        "--bpf-lb-maglev-table-size",
        "1021",
    ];
    let options = read(&args, &environment).unwrap();
    let settings = options.lb_ipam.unwrap();
    assert_eq!(settings.default_ipam, DefaultIpam::None);
    assert!(settings.ipv4 && settings.ipv6 && settings.bgp);
    assert_eq!(options.table_size, Some(1021));
    assert_eq!(
        read(&["--enable-lb-ipam=false"], &[]).unwrap().lb_ipam,
        None
    );
    assert_eq!(options.node_ipam, None);
    std::fs::write(dir.path().join("enable-node-ipam"), "true").unwrap();
    let options = read(&["--config-dir", path], &[]).unwrap();
    assert_eq!(
        options.node_ipam.map(|s| s.default_ipam),
        Some(DefaultIpam::None)
    );
    std::fs::write(dir.path().join("enable-egress-gateway"), "true").unwrap();
    let refused = error(&["--config-dir", path]);
    assert!(
        refused.starts_with("enable-egress-gateway is `true`: there is no egress"),
        "{refused}"
    );
}

#[test]
fn wrong_values_are_named_with_what_is_possible() {
    assert_eq!(
        error(&["--default-lb-service-ipam", "metallb"]),
        "default-lb-service-ipam is `metallb`: use lbipam, nodeipam or none"
    );
    assert!(
        error(&["--leader-election-retry-period", "2"])
            .starts_with("leader-election-retry-period is `2`: use a time")
    );
    assert!(error(&["--leader-election-renew-deadline", "20s"]).contains("must exceed"));
    assert!(
        error(&["--operator-prometheus-serve-addr", "nowhere"])
            .contains("use ADDRESS:PORT or :PORT")
    );
    assert_eq!(
        error(&["--bpf-lb-maglev-table-size", "1000"]),
        "bpf-lb-maglev-table-size is `1000`: use one of [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071]"
    );
    assert!(error(&["--enable-ipv4=maybe"]).contains("enable-ipv4"));
    assert!(error(&["--enable-ipv4=false", "--enable-ipv6=false"]).contains("enable one"));
}

//! `bench-failover`: many failovers, each of the node that owns the VIPs at a random moment.

use std::time::Duration;

use rand::Rng as _;
use serde_json::json;

use super::run::{JobArgs, fresh_lab, millis};
use super::{OutputFormat, say};
use crate::drive::failover::Failover;
use crate::drive::{Job, NODES, SERVICE};
use crate::runner::Lab;

/// The cut falls anywhere in so many milliseconds: many heartbeats, so at any phase of one.
const MOMENTS: u64 = 1500;

/// A round that is darker than this leaves evidence: it is not noise, whatever the machine does.
const SUSPICIOUS: Duration = Duration::from_secs(1);

/// How to run it.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Services to choose from at random, as NAMESPACE/NAME: their owners die.
    #[arg(long = "service", default_value = SERVICE)]
    services: Vec<String>,
    /// Failovers to measure.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Connections of each kind that are open in each round.
    #[arg(long, default_value_t = 200)]
    connections: usize,
}

/// Measures, prints a line for each figure, and fails if a connection broke that must not.
pub(super) fn bench(args: &BenchArgs) -> miette::Result<()> {
    let tell = args.job.say();
    let lab = fresh_lab(&args.job.lab, tell)?;
    let name = lab.name().to_owned();
    let outcome = rounds(lab, args);
    Lab::down(&name)?;
    let rounds = outcome?;
    for line in figures(&rounds) {
        match args.job.output {
            OutputFormat::Json => say(line),
            OutputFormat::Text => say(format_args!(
                "{:<28} {:>10} {}",
                line["case"].as_str().unwrap_or_default(),
                line["value"],
                line["unit"].as_str().unwrap_or_default()
            )),
        }
    }
    let mut failures = rounds.iter().filter_map(Failover::failure);
    match failures.next() {
        Some((what, why)) => {
            let n = 1 + failures.count();
            miette::bail!(
                "connections broke in {n} of {} rounds; first: {what}: {why}",
                rounds.len()
            )
        }
        None => Ok(()),
    }
}

fn rounds(lab: Lab, args: &BenchArgs) -> miette::Result<Vec<Failover>> {
    let tell = args.job.say();
    let mut job = Job::start(lab, &args.job.manifests(), &NODES, tell)?;
    if args.job.decap {
        job.decapsulate()?;
    }
    let mut rounds = Vec::new();
    let mut random = rand::rng();
    for round in 1..=args.rounds {
        let service = &args.services[random.random_range(0..args.services.len())];
        let ready = job.wait_ready(service)?;
        let after = Duration::from_millis(random.random_range(0..MOMENTS));
        let failover = job.fail_over(&ready.owner, &ready.service, args.connections, after)?;
        tell(&format!(
            "round {round}/{}: {}, owner of {service}, died; dark {} ms (TCP connects {} ms), broken {}, broken while listening {}",
            args.rounds,
            failover.victim,
            millis(failover.dark()),
            millis(failover.dark_tcp()),
            failover.talking.broken,
            failover.listening.broken
        ));
        if failover.dark() > SUSPICIOUS || failover.failure().is_some() {
            let dir = job.keep(&format!("round-{round}"))?;
            tell(&format!(
                "    logs, tables and a capture are in {}",
                dir.display()
            ));
        }
        job.restore(&failover.victim)?;
        rounds.push(failover);
    }
    Ok(rounds)
}

/// One object for each figure; the first of each kind carries the raw samples.
fn figures(rounds: &[Failover]) -> Vec<serde_json::Value> {
    let mut lines = Vec::new();
    let mut series = |name: &str, samples: Vec<f64>| {
        for (percentile, label) in [(50, "p50"), (99, "p99")] {
            lines.push(json!({
                "bench": "failover", "case": format!("{name}_{label}"),
                "value": quantile(&samples, percentile), "unit": "ms", "samples": samples,
            }));
        }
    };
    let of = |family: Option<bool>, tcp: bool| -> Vec<f64> {
        let longest = |r: &Failover| {
            let all = if tcp { &r.tcp } else { &r.udp };
            let ours = all
                .iter()
                .filter(|(vip, _)| family.is_none_or(|v6| vip.is_ipv6() == v6));
            ours.map(|(_, dark)| dark.longest).max().unwrap_or_default()
        };
        rounds.iter().map(|r| millis(longest(r))).collect()
    };
    series("dark", of(None, false));
    series("dark_ipv4", of(Some(false), false));
    series("dark_ipv6", of(Some(true), false));
    series("dark_tcp_connects", of(None, true));
    // The machine's own part: no gap below the sender's longest pause can be seen.
    series(
        "sender_pause",
        rounds
            .iter()
            .map(|r| {
                millis(
                    r.udp
                        .values()
                        .map(|d| d.longest_pause)
                        .max()
                        .unwrap_or_default(),
                )
            })
            .collect(),
    );
    let mut count = |case: &str, value: usize| {
        lines.push(
            json!({"bench": "failover", "case": case, "value": value, "unit": "connections"}),
        );
    };
    count("connections", rounds.iter().map(|r| r.talking.asked).sum());
    count("broken", rounds.iter().map(|r| r.talking.broken).sum());
    count(
        "connections_listening",
        rounds.iter().map(|r| r.listening.asked).sum(),
    );
    count(
        "broken_listening",
        rounds.iter().map(|r| r.listening.broken).sum(),
    );
    lines
}

/// Nearest-rank quantile; 0 without samples. With 20 samples p99 is the largest.
fn quantile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_rank() {
        let samples: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert!((quantile(&samples, 50) - 10.0).abs() < f64::EPSILON);
        assert!((quantile(&samples, 99) - 20.0).abs() < f64::EPSILON);
        assert!(quantile(&[], 99).abs() < f64::EPSILON);
    }
}

//! `run`: the main job on real input, from an empty machine to a node that dies.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use miette::IntoDiagnostic as _;
use serde_json::json;

use super::updown::{bring_up, name_of};
use super::{LabArgs, OutputFormat, lab_dir, say, tell};
use crate::drive::failover::Failover;
use crate::drive::{Frontends, Job, NODES, Ready, SERVICE, Say, Served};
use crate::runner::Lab;
use crate::traffic::connections::Outcome;

/// Requests that the client makes.
const REQUESTS: usize = 1000;
/// Connections of each kind that are open while the owner dies.
const CONNECTIONS: usize = 200;
/// Load before the cut.
const WARM_UP: Duration = Duration::from_secs(1);

/// What a job runs on.
#[derive(Debug, clap::Args)]
pub(super) struct JobArgs {
    #[command(flatten)]
    pub(super) lab: LabArgs,
    /// Folders of the manifests; default: configs/examples/NAME.
    #[arg(long)]
    manifests: Vec<PathBuf>,
    /// Set the servers up to take IPIP and ip6ip6 (`fairlead-agent decap`), for Services in that mode.
    #[arg(long)]
    pub(super) decap: bool,
    /// `json`: results as JSON on standard output; progress goes to standard error.
    #[arg(short, long, default_value = "text")]
    pub(super) output: OutputFormat,
}

impl JobArgs {
    /// The manifests, as asked for or the example's.
    pub(super) fn manifests(&self) -> Vec<PathBuf> {
        if !self.manifests.is_empty() {
            return self.manifests.clone();
        }
        vec![lab_dir().join("../configs/examples").join(&self.lab.name)]
    }

    /// Where progress goes.
    pub(super) const fn say(&self) -> Say {
        match self.output {
            OutputFormat::Text => |line| say(line),
            OutputFormat::Json => |line| tell(line),
        }
    }
}

/// How to run it.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    job: JobArgs,
    /// The Service that requests go to, as NAMESPACE/NAME.
    #[arg(long, default_value = SERVICE)]
    service: String,
    /// Take the lab down at the end instead of leaving it to play with.
    #[arg(long)]
    once: bool,
}

/// Does the main job.
pub(super) fn run(args: &RunArgs) -> miette::Result<()> {
    let say = args.job.say();
    let lab = fresh_lab(&args.job.lab, say)?;
    let name = lab.name().to_owned();
    let mut seen = Seen::default();
    let outcome = main_job(lab, args, &mut seen);
    // After a failure the evidence is kept elsewhere; the lab itself stays unless asked otherwise.
    if args.once {
        Lab::down(&name)?;
        say("==> the lab is down again");
    }
    if matches!(args.job.output, OutputFormat::Json) {
        super::say(seen.summary());
    }
    outcome
}

/// The lab, built anew: what an earlier run left must not help this one.
pub(super) fn fresh_lab(args: &LabArgs, say: Say) -> miette::Result<Lab> {
    Lab::down(&name_of(args)?)?;
    let lab = bring_up(args, |_, _, _| {})?;
    say(&format!(
        "==> lab {} is up: {}",
        lab.name(),
        lab.nodes().join(", ")
    ));
    Ok(lab)
}

/// What has been seen so far: a job that fails half-way still says what it saw.
#[derive(Debug, Default)]
struct Seen {
    ready: Option<Ready>,
    served: Option<Served>,
    failover: Option<Failover>,
}

impl Seen {
    fn summary(&self) -> serde_json::Value {
        let (ready, failover) = (self.ready.as_ref(), self.failover.as_ref());
        let requests = self.served.as_ref().map(|s| &s.requests);
        json!({
            "vip": ready.and_then(|r| r.service.vips.first()),
            "vips": ready.map(|r| &r.service.vips),
            "owner": ready.map(|r| &r.owner),
            "reason": ready.map(|r| &r.why),
            "requests": requests.map(|r| r.requests),
            "failed": requests.map(|r| r.failed),
            "spread": requests.map(|r| &r.spread),
            "dark_ms": failover.map(|f| millis(f.dark())),
            "dark_tcp_ms": failover.map(|f| millis(f.dark_tcp())),
            "connections": failover.map(|f| f.talking.asked),
            "broken": failover.map(|f| f.talking.broken),
            "broken_listening": failover.map(|f| f.listening.broken),
            "ready_ms": ready.map(|r| millis(r.after)),
        })
    }
}

fn main_job(lab: Lab, args: &RunArgs, seen: &mut Seen) -> miette::Result<()> {
    let say = args.job.say();
    say("==> starting two appliances");
    let mut job = Job::start(lab, &args.job.manifests(), &NODES, say)?;
    if args.job.decap {
        job.decapsulate()?;
    }
    let ready = job.wait_ready(&args.service)?;
    show_ready(&job, &args.service, &ready, say)?;
    let (service, owner) = (ready.service.clone(), ready.owner.clone());
    seen.ready = Some(ready);

    say(&format!(
        "==> {REQUESTS} requests and an upload to each VIP"
    ));
    let served = job.serve(&service, REQUESTS)?;
    show_served(&served, say);
    let failure = served.failure();
    seen.served = Some(served);
    stop_at(&mut job, failure)?;

    say(&format!(
        "==> killing {owner} (kill -9) and cutting its link, {CONNECTIONS}+{CONNECTIONS} connections open"
    ));
    let failover = job.fail_over(&owner, &service, CONNECTIONS, WARM_UP)?;
    show_failover(&failover, say);
    for line in job.neighbours(&service.vips)? {
        say(&format!("    client: {line}"));
    }
    let failure = failover.failure();
    seen.failover = Some(failover);
    stop_at(&mut job, failure)?;
    if !args.once {
        say(&format!("==> giving {owner} back"));
        job.restore(&owner)?;
        let ready = job.wait_ready(&args.service)?;
        say(&format!(
            "    both nodes are up again after {} ms",
            ready.after.as_millis()
        ));
        commands(job.lab(), args, &service, say)?;
    }
    Ok(())
}

/// Ends the job at a failure, with evidence.
fn stop_at(job: &mut Job, failure: Option<(String, String)>) -> miette::Result<()> {
    match failure {
        Some((what, why)) => Err(job.broken(&what, &why).into()),
        None => Ok(()),
    }
}

fn show_ready(job: &Job, service: &str, ready: &Ready, say: Say) -> miette::Result<()> {
    let vips = list(&ready.service.vips);
    say(&format!(
        "==> {service} has {vips}, ready after {} ms",
        ready.after.as_millis()
    ));
    say(&format!("    owner: {}, {}", ready.owner, ready.why));
    say("==> the client's neighbours (ip neigh)");
    for line in job.neighbours(&ready.service.vips)? {
        say(&format!("    {line}"));
    }
    Ok(())
}

fn show_served(served: &Served, say: Say) {
    let outcome = &served.requests;
    let spread: Vec<String> = outcome
        .spread
        .iter()
        .map(|(s, n)| format!("{s} {n}"))
        .collect();
    say(&format!(
        "    {} failed; spread: {}",
        outcome.failed,
        spread.join(", ")
    ));
    for (vip, why) in &served.lost_uploads {
        say(&format!("    1 MB to {vip} was lost: {why}"));
    }
    for (vip, server) in &served.uploads {
        say(&format!("    1 MB to {vip} arrived whole at {server}"));
    }
}

fn show_failover(failover: &Failover, say: Say) {
    for (vip, dark) in &failover.udp {
        let tcp = failover.tcp.get(vip).map_or(Duration::ZERO, |d| d.longest);
        say(&format!(
            "    {vip}: dark for {} ms ({} of {} UDP echoes answered); TCP connects for {} ms",
            dark.longest.as_millis(),
            dark.answered,
            dark.sent,
            tcp.as_millis()
        ));
    }
    let show = |outcome: &Outcome, what: &str| {
        say(&format!(
            "    {} of {} connections {what} broke {:?}",
            outcome.broken, outcome.asked, outcome.why
        ));
    };
    show(&failover.talking, "on which the client talks");
    show(&failover.listening, "on which only the server talks");
}

/// What to type next.
fn commands(lab: &Lab, args: &RunArgs, service: &Frontends, say: Say) -> miette::Result<()> {
    let program = std::env::current_exe().into_diagnostic()?;
    let exec = format!("{} exec --lab {}", program.display(), lab.name());
    say("==> the lab stays up; try:");
    say(&format!("    {exec} lb1 fairlead status"));
    say(&format!("    {exec} lb2 fairlead l2 list"));
    say(&format!(
        "    {exec} lb1 fairlead explain svc {}",
        args.service
    ));
    for tcp in service.tcp() {
        let udp = SocketAddr::new(tcp.ip(), service.udp_port);
        say(&format!("    {exec} client fairlead-lab ask {tcp}"));
        say(&format!("    {exec} client fairlead-lab ask --udp {udp}"));
    }
    say(&format!("    {exec} client ip neigh"));
    say(&format!("    ./x lab down {}", lab.name()));
    Ok(())
}

fn list(vips: &[IpAddr]) -> String {
    vips.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" and ")
}

/// Milliseconds, to a tenth.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

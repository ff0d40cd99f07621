//! The main job on a running lab: two appliances, unmodified manifests, a client, and a node that dies.
//!
//! ```text
//!   Job::start ─▶ wait_ready ─▶ serve ─▶ fail_over ─▶ restore ─▶ wait_ready ─▶ fail_over ...
//!                 VIPs, owner    requests  kill -9 and  link up,
//!                                          cut link     same command
//! ```
//! Everything is asked from outside, as a user would: the command line tells who owns a VIP, the
//! client's packets tell whether it works. Next: `drive/failover.rs`, what is measured.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use crate::capture::Capture;
use crate::checks::evidence;
use crate::clock;
use crate::error::LabError;
use crate::node::Node;
use crate::report::chain;
use crate::runner::Lab;
use crate::traffic::requests::{self, requests, upload};

pub mod appliance;
pub mod decap;
pub mod failover;
pub mod view;

/// The load-balancer nodes; the first serves the API, the other joins it.
pub const NODES: [&str; 2] = ["lb1", "lb2"];
/// Their interface on the LAN.
pub const INTERFACE: &str = "eth1";
/// The Service of the example manifests that the job is about, if no other is asked for.
pub const SERVICE: &str = "default/web";
/// Bytes of an upload, many times a segment at an MTU of 1500.
pub const UPLOAD: usize = 1 << 20;
/// How long the whole may take to become ready, cold.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// Where progress goes, a line at a time.
pub type Say = fn(&str);

/// Why the main job was not done.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum JobError {
    /// The lab failed, not the product.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lab(#[from] LabError),
    /// A program of ours is not where it should be.
    #[error("{} does not exist", path.display())]
    #[diagnostic(help("build it (./x build), or say with --bin-dir where it is"))]
    NoBinary { path: PathBuf },
    /// Something did not happen in time, or not as it should; the first broken link is named.
    #[error("{what}: {why}")]
    #[diagnostic(help("logs, tables and a capture are in {evidence}"))]
    Broken {
        what: String,
        why: String,
        evidence: String,
    },
}

impl JobError {
    /// The closed word for this failure.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Lab(e) => e.reason(),
            Self::NoBinary { .. } => "NoBinary",
            Self::Broken { .. } => "JobBroken",
        }
    }
}

/// What clients of a Service dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontends {
    /// Its VIPs, IPv4 first.
    pub vips: Vec<IpAddr>,
    /// Its TCP port.
    pub tcp_port: u16,
    /// Its UDP port.
    pub udp_port: u16,
    /// Servers answer clients directly, so that a move of the VIP is nothing to them.
    pub returns_direct: bool,
}

impl Frontends {
    /// The TCP frontend of each VIP.
    pub fn tcp(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.vips
            .iter()
            .map(|vip| SocketAddr::new(*vip, self.tcp_port))
    }

    /// `count` things divided as evenly as possible over the TCP frontends.
    pub fn divide(&self, count: usize) -> impl Iterator<Item = (SocketAddr, usize)> + '_ {
        let n_vips = self.vips.len();
        let share = move |idx| count / n_vips + usize::from(idx < count % n_vips);
        self.tcp()
            .enumerate()
            .map(move |(idx, target)| (target, share(idx)))
    }
}

/// A Service that is up.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Its VIPs, IPv4 first, with their ports.
    pub service: Frontends,
    /// The node that answers for them.
    pub owner: String,
    /// Why this one.
    pub why: String,
    /// Time that it took, from the start of the first process.
    pub after: Duration,
}

/// What the client's requests and uploads brought, over all VIPs.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// The requests.
    pub requests: requests::Outcome,
    /// Which server took the upload to each VIP.
    pub uploads: BTreeMap<IpAddr, String>,
    /// Uploads that did not arrive, and why.
    pub lost_uploads: BTreeMap<IpAddr, String>,
}

impl Served {
    /// What failed, if anything did.
    pub fn failure(&self) -> Option<(String, String)> {
        let requests = &self.requests;
        if requests.failed > 0 {
            let what = format!(
                "{} of {} requests failed",
                requests.failed, requests.requests
            );
            return Some((what, format!("{:?}", requests.why)));
        }
        let (vip, why) = self.lost_uploads.first_key_value()?;
        Some((format!("the upload to {vip} failed"), why.clone()))
    }
}

/// The job while it runs.
#[derive(Debug)]
pub struct Job {
    lab: Lab,
    /// The nodes that run an appliance, the first with the API.
    nodes: Vec<&'static str>,
    /// NAMESPACE/NAME of the Service that was waited for last.
    service: String,
    appliances: BTreeMap<String, Child>,
    /// When what is waited for began: the first start, or the latest restart.
    since: Duration,
    /// Latest frames on the switch; `None` once written.
    capture: Option<Capture>,
    say: Say,
}

impl Job {
    /// Starts an appliance on each of `nodes` (the first of [`NODES`], or both) on the manifests of some folders.
    pub fn start(
        lab: Lab,
        manifests: &[PathBuf],
        nodes: &[&'static str],
        say: Say,
    ) -> Result<Self, JobError> {
        for program in ["fairlead-appliance", "fairlead"] {
            let path = lab.bin_dir().join(program);
            if !path.exists() {
                return Err(JobError::NoBinary { path });
            }
        }
        gather(manifests, &lab.run_dir(NODES[0]).join("manifests"))?;
        let capture = Some(Capture::start(&lab.node("switch")?, "br0")?);
        let service = SERVICE.to_owned();
        let mut job = Self {
            lab,
            nodes: nodes.to_vec(),
            service,
            appliances: BTreeMap::new(),
            since: clock::now(),
            capture,
            say,
        };
        for node in nodes {
            job.start_appliance(node)?;
        }
        Ok(job)
    }

    /// The lab it runs in.
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The client.
    pub fn client(&self) -> Result<Node, LabError> {
        self.lab.node("client")
    }

    /// Waits until `service` (NAMESPACE/NAME) has its VIPs, one owner that every node agrees on, the same tables on
    /// every node, and answers the client in both families.
    pub fn wait_ready(&mut self, service: &str) -> Result<Ready, JobError> {
        service.clone_into(&mut self.service);
        let mut missing = "nobody was asked".to_owned();
        let ready = clock::poll(READY_WITHIN, || match self.look() {
            Ok(ready) => Some(ready),
            Err(what) => {
                missing = what;
                None
            }
        });
        match ready {
            Some((service, owner, why)) => Ok(Ready {
                service,
                owner,
                why,
                after: clock::now().saturating_sub(self.since),
            }),
            None => Err(self.broken(&format!("{} is not ready", self.service), &missing)),
        }
    }

    /// VIPs, owner and reason if everything is ready, else what is missing.
    fn look(&mut self) -> Result<(Frontends, String, String), String> {
        for (node, child) in &mut self.appliances {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("fairlead-appliance on {node} ended: {status}"));
            }
        }
        let mut views = Vec::new();
        for node in &self.nodes {
            let node = self.lab.node(node).map_err(|e| chain(&e))?;
            views.push(view::NodeView::ask(&node).map_err(|e| chain(&e))?);
        }
        let (service, owner, why) = view::agreed(&self.service, &views)?;
        let client = self.client().map_err(|e| chain(&e))?;
        for target in service.tcp() {
            let answer = requests(&client, target, 1).map_err(|e| chain(&e))?;
            if answer.failed > 0 {
                return Err(format!(
                    "the client gets no answer from {target}: {:?}",
                    answer.why
                ));
            }
        }
        Ok((service, owner, why))
    }

    /// Makes `count` requests, divided over the VIPs, and an upload to each of them.
    pub fn serve(&self, service: &Frontends, count: usize) -> Result<Served, JobError> {
        let client = self.client()?;
        let mut served = Served::default();
        for (target, share) in service.divide(count) {
            served.requests.add(requests(&client, target, share)?);
            match upload(&client, target, UPLOAD) {
                Ok(server) => drop(served.uploads.insert(target.ip(), server)),
                Err(e) => drop(served.lost_uploads.insert(target.ip(), chain(&e))),
            }
        }
        Ok(served)
    }

    /// The client's neighbour entries for `vips`, as `ip neigh` prints them.
    pub fn neighbours(&self, vips: &[IpAddr]) -> Result<Vec<String>, JobError> {
        let client = self.client()?;
        let mut lines = Vec::new();
        for vip in vips {
            let shown = client.run(&["ip", "neigh", "show", "to", &vip.to_string()])?;
            lines.extend(shown.lines().map(str::to_owned));
        }
        Ok(lines)
    }

    /// Keeps what was seen up to now, goes on capturing, and says where it is.
    pub fn keep(&mut self, occasion: &str) -> Result<PathBuf, JobError> {
        let dir = evidence::keep(&self.lab, occasion);
        if let Some(capture) = self.capture.take() {
            capture.write(&dir.join("switch.pcap"))?;
        }
        self.capture = Some(Capture::start(&self.lab.node("switch")?, "br0")?);
        Ok(dir)
    }

    /// The failure `what`, with the first broken link of the Service and everything that was seen.
    pub fn broken(&mut self, what: &str, why: &str) -> JobError {
        let link = self.nodes.iter().find_map(|node| {
            let node = self.lab.node(node).ok()?;
            view::first_broken_link(&node, &self.service)
        });
        let why = link.map_or_else(|| why.to_owned(), |link| format!("{why}; {link}"));
        let dir = evidence::keep(&self.lab, "run");
        if let Some(capture) = self.capture.take()
            && let Err(e) = capture.write(&dir.join("switch.pcap"))
        {
            (self.say)(&format!("no capture: {}", chain(&e)));
        }
        JobError::Broken {
            what: what.to_owned(),
            why,
            evidence: dir.display().to_string(),
        }
    }
}

/// Copies the manifests of `folders` into one, for the first node to read.
fn gather(folders: &[PathBuf], to: &Path) -> Result<(), LabError> {
    let what = |at: &Path| format!("copy manifests from {}", at.display());
    fs::create_dir_all(to).map_err(LabError::io(|| format!("make {}", to.display())))?;
    for folder in folders {
        let entries = fs::read_dir(folder).map_err(LabError::io(|| what(folder)))?;
        for entry in entries {
            let from = entry.map_err(LabError::io(|| what(folder)))?;
            fs::copy(from.path(), to.join(from.file_name()))
                .map_err(LabError::io(|| what(&from.path())))?;
        }
    }
    Ok(())
}

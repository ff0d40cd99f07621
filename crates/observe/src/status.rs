//! How a node is doing.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{render::Render, text, timestamp::Timestamp};

/// The connection to the API server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiView {
    /// Its URL.
    pub server: String,
    /// Watches are live.
    pub is_connected: bool,
    /// Since when it is as it is.
    pub since: Option<Timestamp>,
    /// The latest error, while not connected.
    pub error: Option<String>,
}

/// How far the kernel is behind the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationView {
    /// Newest complete snapshot; `None` before the first.
    pub seen: Option<u64>,
    /// Newest one that is in the kernel.
    pub programmed: Option<u64>,
}

/// One interface that the agent works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Name.
    pub name: String,
    /// Kernel index.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: Option<String>,
    /// It has carrier.
    pub is_up: bool,
    /// `native`, `generic`, or `none` when nothing is attached.
    pub xdp: String,
    /// Why nothing is attached.
    pub problem: Option<String>,
    /// The same as a closed word: `XdpDeviceBusy`, `UnknownInterface`, ...
    #[serde(default)]
    pub reason: Option<String>,
}

/// Another node on the LAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its node name.
    pub node: String,
    /// Where it is heard.
    pub interface: String,
    /// `Alive`, `Suspect`, `Gone`: the closed words of the announcer.
    pub state: String,
    /// Milliseconds since its latest heartbeat; `None` if never heard.
    pub last_heard_ms: Option<u64>,
}

/// Something that a human should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemView {
    /// What it is about: `service shop/web`, `interface eth0`.
    pub subject: String,
    /// Closed CamelCase word.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

/// One row of the datapath's reason counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonView {
    /// Closed CamelCase word.
    pub reason: String,
    /// Packets, over all CPUs.
    pub packets: u64,
    /// What it means.
    pub meaning: String,
}

/// What must reach this node for its peers to be heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatView {
    /// UDP port.
    pub port: u16,
    /// Multicast groups.
    pub groups: Vec<IpAddr>,
    /// Interfaces they are sent and heard on.
    pub interfaces: Vec<String>,
}

impl HeartbeatView {
    fn line(&self) -> String {
        let groups: Vec<String> = self.groups.iter().map(ToString::to_string).collect();
        format!(
            "UDP port {} to {} on {}",
            self.port,
            groups.join(" and "),
            self.interfaces.join(", ")
        )
    }

    /// What lets them in on a machine that filters.
    fn firewall(&self) -> String {
        format!(
            "nft add rule inet filter input udp dport {} accept",
            self.port
        )
    }
}

/// How a node is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Node name.
    pub node: String,
    /// Of the agent.
    pub version: String,
    /// When the agent started.
    pub started: Timestamp,
    /// The API server.
    pub api: ApiView,
    /// How far the kernel is.
    pub generation: GenerationView,
    /// Services that have or want a VIP.
    pub n_services: usize,
    /// VIPs known.
    pub n_vips: usize,
    /// VIPs that this node owns.
    pub n_owned: usize,
    /// Interfaces.
    pub interfaces: Vec<InterfaceView>,
    /// What a firewall must let in; agents from before it was said do not say it.
    #[serde(default)]
    pub heartbeat: Option<HeartbeatView>,
    /// Other nodes on the LAN.
    pub peers: Vec<PeerView>,
    /// What is not as it should be.
    pub problems: Vec<ProblemView>,
    /// Counters that are not zero.
    pub reasons: Vec<ReasonView>,
}

impl StatusView {
    fn api_line(&self, now: Timestamp) -> String {
        let api = &self.api;
        let since = api
            .since
            .map_or_else(String::new, |t| format!(" for {}", text::age(t.until(now))));
        match (&api.error, api.is_connected) {
            (_, true) => format!("{}, connected{since}", api.server),
            (Some(error), false) => format!("{}, away{since}: {error}", api.server),
            (None, false) => format!("{}, away{since}", api.server),
        }
    }

    fn generation_line(&self) -> String {
        match (self.generation.seen, self.generation.programmed) {
            (None, _) => "nothing seen yet".to_owned(),
            (Some(seen), None) => format!("generation {seen} seen, none programmed"),
            (Some(seen), Some(done)) if seen == done => format!("generation {done} programmed"),
            (Some(seen), Some(done)) => format!("generation {done} programmed, {seen} seen"),
        }
    }

    fn head(&self, now: Timestamp) -> String {
        let services = format!(
            "{}, {}, {} owned here",
            text::count(self.n_services, "Service"),
            text::count(self.n_vips, "VIP"),
            self.n_owned
        );
        let up = text::age(self.started.until(now));
        let rows = [
            [
                "Node",
                &format!("{}, fairlead {}, up {up}", self.node, self.version),
            ],
            ["API server", &self.api_line(now)],
            ["Datapath", &self.generation_line()],
            ["Services", &services],
        ];
        let mut head = text::columns(&[], rows);
        if let Some(heartbeat) = &self.heartbeat {
            let rows = [
                ["Heartbeats", &heartbeat.line()],
                ["Firewall", &heartbeat.firewall()],
            ];
            // Aligned with the rows above, whose longest first word is as long.
            head.push_str(&text::columns(&[], rows));
        }
        head
    }
}

impl Render for StatusView {
    fn table(&self, now: Timestamp) -> String {
        let mut out = self.head(now);
        let mut section = |title: &str, body: &str| {
            out.push('\n');
            out.push_str(title);
            out.push('\n');
            out.push_str(&text::indented(body));
        };
        let interfaces = self.interfaces.iter().map(|i| {
            [
                i.name.clone(),
                if i.is_up { "up" } else { "down" }.to_owned(),
                i.xdp.clone(),
                i.mac.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        });
        section(
            "Interfaces",
            &text::columns(&["NAME", "LINK", "XDP", "MAC"], interfaces),
        );
        if self.peers.is_empty() {
            section("Peers", "none: this node is alone on the LAN");
        } else {
            let peers = self.peers.iter().map(|p| {
                let heard = match p.last_heard_ms {
                    None => "never".to_owned(),
                    // A report is a few heartbeats old when it is read.
                    Some(..1000) => "now".to_owned(),
                    Some(ms) => format!("{} ago", text::age(Duration::from_millis(ms))),
                };
                [p.node.clone(), p.interface.clone(), p.state.clone(), heard]
            });
            section(
                "Peers",
                &text::columns(&["NODE", "INTERFACE", "STATE", "HEARD"], peers),
            );
        }
        if !self.reasons.is_empty() {
            let reasons = self.reasons.iter().map(|r| {
                [
                    text::grouped(r.packets),
                    r.reason.clone(),
                    r.meaning.clone(),
                ]
            });
            section(
                "Counters",
                &text::columns(&["PACKETS", "REASON", "MEANING"], reasons),
            );
        }
        if self.problems.is_empty() {
            section("Problems", "none");
        } else {
            let problems = self
                .problems
                .iter()
                .map(|p| [p.subject.clone(), p.reason.clone(), p.message.clone()]);
            section("Problems", &text::columns(&[], problems));
        }
        out
    }
}

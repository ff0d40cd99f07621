//! What an agent is told: typed configuration, and how Cilium's keys become it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use fairlead_announcer::ownership::{Defence, Settings};
use fairlead_api::watch::Kept;
use fairlead_datapath::Acceleration;
use fairlead_model::{ForwardingMode, NodeName};
use fairlead_observe::client::SOCKET_DIR;
use fairlead_rt::{
    Metrics,
    settings::{self, Sources},
};
use serde::Deserialize;

/// Where pins go unless told otherwise.
pub const PIN_DIR: &str = "/sys/fs/bpf/fairlead";
/// What outlives a restart but not the machine.
pub const STATE_DIR: &str = "/var/lib/fairlead";

/// As Cilium does: shorter Leases become this long.
const LEAST_LEASE: Duration = Duration::from_secs(1);

/// What an agent is told.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// This node's name; its Node object has the same.
    pub node: NodeName,
    /// Interfaces that face the LAN. Empty: the one that the default route uses.
    pub interfaces: Vec<String>,
    /// On a BPF file system; one process at a time.
    pub pin_dir: PathBuf,
    /// Holds the cached heartbeat key (mode 0600).
    pub state_dir: PathBuf,
    /// Where the local API listens.
    pub socket: PathBuf,
    /// How programs attach.
    pub acceleration: Acceleration,
    /// Forward packets in XDP. Off: announce only and leave forwarding to kube-proxy.
    pub is_forwarding: bool,
    /// Announce what policies select. Off: nothing is announced by this node.
    pub is_announcing: bool,
    /// Of Services that ask for no mode, or for `auto`.
    pub forwarding_mode: ForwardingMode,
    /// Lines of 32 Maglev slots, for all Services together; another number is a fresh set of maps.
    pub maglev_lines: Option<u32>,
    /// How long after its last change a Maglev slot forgets whom it chose before.
    pub fold_after: Option<Duration>,
    /// Probes before an address is used.
    pub dad_probes: Option<u8>,
    /// Between these.
    pub dad_interval: Option<Duration>,
    /// Between heartbeats; the same on every node of a segment.
    pub heartbeat_interval: Option<Duration>,
    /// How long after its last heartbeat a hung agent's kernel goes on answering beside others.
    pub l2_deadline: Option<Duration>,
    /// How long a Lease holds without renewal.
    pub lease_duration: Option<Duration>,
    /// What an owner does when a stranger claims its address.
    pub defence: Defence,
    /// Give addresses back to the node that comes first for them.
    pub failback: bool,
    /// Where `/metrics` and `/healthz` are served, besides on the socket.
    pub metrics_listen: Option<SocketAddr>,
    /// What to begin with while the API server is away.
    pub kept: Option<Kept>,
    /// URL of the API server, for people.
    pub api_server: String,
    /// Where its metrics are registered and what the local API shows.
    pub metrics: Metrics,
}

impl AgentConfig {
    /// With the default folders.
    pub fn new(node: NodeName) -> Self {
        let socket = socket_of(&node);
        Self {
            node,
            interfaces: Vec::new(),
            pin_dir: PIN_DIR.into(),
            state_dir: STATE_DIR.into(),
            socket,
            acceleration: Acceleration::default(),
            is_forwarding: true,
            is_announcing: true,
            forwarding_mode: ForwardingMode::Auto,
            maglev_lines: None,
            fold_after: None,
            dad_probes: None,
            dad_interval: None,
            heartbeat_interval: None,
            l2_deadline: None,
            lease_duration: None,
            defence: Defence::default(),
            failback: false,
            metrics_listen: None,
            kept: None,
            api_server: "unknown".to_owned(),
            metrics: Metrics::new(),
        }
    }
}

/// `/run/fairlead/<node>.sock`.
pub fn socket_of(node: &NodeName) -> PathBuf {
    Path::new(SOCKET_DIR).join(format!("{node}.sock"))
}

/// Settings by Cilium's ConfigMap keys, and ours where Cilium has none.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct AgentSettings {
    /// Kubeconfig file; without it the service account of the pod.
    pub k8s_kubeconfig_path: Option<PathBuf>,
    /// Name of this node.
    pub node_name: Option<String>,
    /// Interfaces.
    #[serde(deserialize_with = "settings::list")]
    pub devices: Vec<String>,
    /// Root of the BPF file system; pins go to `fairlead` below it.
    pub bpf_root: Option<PathBuf>,
    /// Folder for pins, in full.
    pub fairlead_bpffs: Option<PathBuf>,
    /// Folder for state.
    pub state_dir: Option<PathBuf>,
    /// `best-effort`, `native` or `generic` forward in XDP; `disabled`, Cilium's default, leaves forwarding to kube-proxy.
    pub bpf_lb_acceleration: Option<String>,
    /// `snat` or `dsr`: the mode of Services that ask for none.
    pub bpf_lb_mode: Option<String>,
    /// How `dsr` reaches backends: `ipip`.
    pub bpf_lb_dsr_dispatch: Option<String>,
    /// Lines of 32 Maglev slots.
    pub fairlead_maglev_lines: Option<u32>,
    /// A time such as `1h`.
    pub fairlead_fold_after: Option<String>,
    /// Probes before an address is used.
    pub fairlead_dad_probes: Option<u8>,
    /// A time such as `100ms`.
    pub fairlead_dad_interval: Option<String>,
    /// A time from `10ms` to `1s`; the same on every node.
    pub fairlead_heartbeat_interval: Option<String>,
    /// A time such as `3s`, at least 10 heartbeats.
    pub fairlead_l2_deadline: Option<String>,
    /// Give addresses back to the node that comes first for them, once that is settled.
    pub fairlead_l2_failback: Option<bool>,
    /// `defend`, `back-off` or `stop` when a stranger claims an address that is owned.
    pub fairlead_l2_conflict: Option<String>,
    /// A time such as `1h`: how long a Lease of L2 announcements holds without renewal.
    pub fairlead_l2_lease_duration: Option<String>,
    /// Forward packets; `false` beside another CNI.
    pub fairlead_forwarding: Option<bool>,
    /// Announce by policies.
    pub enable_l2_announcements: Option<bool>,
    /// Socket of the local API.
    pub fairlead_socket: Option<PathBuf>,
    /// Where metrics are served, as Cilium has it: `:9962` or `192.0.2.1:9962`.
    pub prometheus_serve_addr: Option<String>,
}

/// The announcer's part of these, as written.
struct L2Settings {
    heartbeat_interval: Option<String>,
    deadline: Option<String>,
    lease_duration: Option<String>,
    conflict: Option<String>,
    failback: Option<bool>,
}

impl AgentSettings {
    /// Reads every source.
    ///
    /// # Errors
    /// Names the key and where it was set.
    pub fn load(sources: &Sources) -> Result<Self> {
        Ok(sources.load()?)
    }

    /// The typed configuration.
    ///
    /// # Errors
    /// Names the key that cannot be used.
    pub fn into_config(self) -> Result<AgentConfig> {
        let name = match self.node_name {
            Some(name) => name,
            None => hostname()?,
        };
        let node = NodeName::new(&name.to_lowercase()).context("node-name")?;
        let mut config = AgentConfig::new(node);
        config.interfaces = self.devices;
        if let Some(root) = self.bpf_root {
            config.pin_dir = root.join("fairlead");
        }
        if let Some(dir) = self.fairlead_bpffs {
            config.pin_dir = dir;
        }
        if let Some(dir) = self.state_dir {
            config.state_dir = dir;
        }
        if let Some(socket) = self.fairlead_socket {
            config.socket = socket;
        }
        config.is_announcing = self.enable_l2_announcements.unwrap_or(true);
        (config.acceleration, config.is_forwarding) = forwarding(
            self.bpf_lb_acceleration.as_deref(),
            self.fairlead_forwarding,
        )?;
        if let Some(text) = self.prometheus_serve_addr.filter(|text| !text.is_empty()) {
            config.metrics_listen = Some(serve_addr(&text).context("prometheus-serve-addr")?);
        }
        if let Some(word) = self.bpf_lb_mode {
            config.forwarding_mode = forwarding_mode(&word, self.bpf_lb_dsr_dispatch.as_deref())?;
        }
        if self.fairlead_maglev_lines == Some(0) {
            bail!("fairlead-maglev-lines: `0` leaves no room for any Service");
        }
        config.maglev_lines = self.fairlead_maglev_lines;
        if self.fairlead_dad_probes == Some(0) {
            bail!("fairlead-dad-probes: `0` would take addresses without asking; 1 is the least");
        }
        config.dad_probes = self.fairlead_dad_probes;
        let time = |key: &'static str, text: Option<String>| {
            let time = text.map(|text| time(&text).context(key));
            time.transpose()
        };
        let l2 = L2Settings {
            heartbeat_interval: self.fairlead_heartbeat_interval,
            deadline: self.fairlead_l2_deadline,
            lease_duration: self.fairlead_l2_lease_duration,
            conflict: self.fairlead_l2_conflict,
            failback: self.fairlead_l2_failback,
        };
        config.fold_after = time("fairlead-fold-after", self.fairlead_fold_after)?;
        config.dad_interval = time("fairlead-dad-interval", self.fairlead_dad_interval)?;
        announcements(l2, &mut config)?;
        Ok(config)
    }
}

/// What the announcer is told.
///
/// # Errors
/// Names the key that cannot be used.
fn announcements(settings: L2Settings, config: &mut AgentConfig) -> Result<()> {
    let time = |key: &'static str, text: Option<String>| {
        let time = text.map(|text| time(&text).context(key));
        time.transpose()
    };
    config.heartbeat_interval = time("fairlead-heartbeat-interval", settings.heartbeat_interval)?;
    config.l2_deadline = time("fairlead-l2-deadline", settings.deadline)?;
    let lease = time("fairlead-l2-lease-duration", settings.lease_duration)?;
    config.lease_duration = lease.map(|duration| duration.max(LEAST_LEASE));
    if let Some(word) = settings.conflict {
        config.defence = defence(&word)?;
    }
    config.failback = settings.failback.unwrap_or(false);
    check_timers(config)
}

/// How programs attach, and whether they forward. Cilium's `disabled`, its default, means that XDP carries no packets of Services: they are
/// left to kube-proxy, and programs only answer for addresses (docs/adr, "announce only is acceleration disabled").
///
/// # Errors
/// Names the key and the words that exist.
fn forwarding(word: Option<&str>, forwards: Option<bool>) -> Result<(Acceleration, bool)> {
    match (word, forwards) {
        (Some("disabled"), Some(true)) => bail!(
            "bpf-lb-acceleration: `disabled` leaves forwarding to kube-proxy, and fairlead-forwarding: `true` does not: \
             set best-effort, native or generic, or remove fairlead-forwarding"
        ),
        (Some("disabled"), _) => Ok((Acceleration::default(), false)),
        (Some(word), forwards) => Ok((acceleration(word)?, forwards.unwrap_or(true))),
        (None, forwards) => Ok((Acceleration::default(), forwards.unwrap_or(true))),
    }
}

/// An address and a port; without an address every one of this machine's.
///
/// # Errors
/// Says what one looks like.
pub fn serve_addr(text: &str) -> Result<SocketAddr> {
    let full = match text.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => text.to_owned(),
    };
    let parsed = full.parse();
    parsed.with_context(|| format!("`{text}` is no address such as :9962 or 192.0.2.1:9962"))
}

/// From Cilium's words. What is missing here is refused: packets must not take another way than was asked for.
///
/// # Errors
/// Names the key and the words that exist.
fn forwarding_mode(mode: &str, dispatch: Option<&str>) -> Result<ForwardingMode> {
    match (mode, dispatch) {
        ("snat", _) => Ok(ForwardingMode::Snat),
        ("dsr", Some("ipip")) => Ok(ForwardingMode::DsrIpip),
        ("dsr", dispatch) => bail!(
            "bpf-lb-dsr-dispatch: `{}` does not exist here: set ipip",
            dispatch.unwrap_or("opt")
        ),
        (other, _) => bail!(
            "bpf-lb-mode: `{other}` does not exist here: set snat, or dsr with bpf-lb-dsr-dispatch ipip"
        ),
    }
}

/// What an owner does when a stranger claims its address.
///
/// # Errors
/// Names the key and the words that exist.
fn defence(word: &str) -> Result<Defence> {
    match word {
        "defend" => Ok(Defence::Defend),
        "back-off" => Ok(Defence::BackOff),
        "stop" => Ok(Defence::Stop),
        other => bail!("fairlead-l2-conflict: `{other}` is none of defend, back-off, stop"),
    }
}

/// Timers that contradict each other would move addresses without cause.
fn check_timers(config: &AgentConfig) -> Result<()> {
    let own = Settings::default();
    let beat = config.heartbeat_interval.unwrap_or(own.beat);
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(1));
    if !(least..=most).contains(&beat) {
        bail!(
            "fairlead-heartbeat-interval: `{}ms` is not between 10ms and 1s",
            beat.as_millis()
        );
    }
    let deadline = config.l2_deadline.unwrap_or(own.deadline);
    if deadline < beat * 10 {
        bail!(
            "fairlead-l2-deadline: `{}ms` is less than 10 heartbeats (fairlead-heartbeat-interval) of {}ms: \
             an agent that is late once would fall silent",
            deadline.as_millis(),
            beat.as_millis()
        );
    }
    Ok(())
}

/// A number and its unit.
///
/// # Errors
/// Says what a time looks like.
pub fn time(text: &str) -> Result<Duration> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let parsed = units.iter().find_map(|(unit, ms)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*ms).filter(|ms| *ms > 0)
    });
    match parsed {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => bail!("`{text}` is no time such as 100ms, 5s, 10m or 1h"),
    }
}

/// From Cilium's words.
///
/// # Errors
/// Names the words that exist.
pub fn acceleration(word: &str) -> Result<Acceleration> {
    Ok(match word {
        "best-effort" => Acceleration::BestEffort,
        "native" => Acceleration::Native,
        "generic" | "testing-only" => Acceleration::Generic,
        "disabled" => {
            bail!("`disabled` leaves no way to work: set best-effort, native or generic")
        }
        other => {
            bail!("bpf-lb-acceleration: `{other}` is none of best-effort, native, generic")
        }
    })
}

/// This machine's name, of this UTS namespace.
///
/// # Errors
/// If /proc is not mounted or the name is empty.
pub fn hostname() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("read the host name: set --node-name instead")?;
    match name.trim() {
        "" => bail!("this machine has no host name: set --node-name"),
        name => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use fairlead_datapath::Acceleration;
    use fairlead_model::ForwardingMode;
    use fairlead_rt::settings::Sources;

    use super::{AgentSettings, Defence};

    fn settings(flags: &[(&str, &str)]) -> AgentSettings {
        let flags = flags
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        AgentSettings::load(&Sources {
            flags: flags.collect(),
            ..Sources::default()
        })
        .unwrap()
    }

    #[test]
    fn cilium_s_keys_are_understood() {
        let config = settings(&[
            ("node-name", "LB1"),
            ("devices", "eth0 eth1"),
            ("bpf-root", "/sys/fs/bpf/x"),
            ("bpf-lb-acceleration", "native"),
            ("enable-policy", "default"),
        ])
        .into_config()
        .unwrap();
        assert_eq!(config.node.as_str(), "lb1");
        assert_eq!(config.interfaces, ["eth0", "eth1"]);
        assert_eq!(config.pin_dir, Path::new("/sys/fs/bpf/x/fairlead"));
        assert_eq!(config.acceleration, Acceleration::Native);
        assert_eq!(config.socket, Path::new("/run/fairlead/lb1.sock"));
        assert!(config.is_forwarding);
        assert_eq!(config.forwarding_mode, ForwardingMode::Auto);
    }

    #[test]
    fn modes_and_times_are_settings() {
        let config = settings(&[
            ("node-name", "lb1"),
            ("bpf-lb-mode", "dsr"),
            ("bpf-lb-dsr-dispatch", "ipip"),
            ("fairlead-maglev-lines", "4096"),
            ("fairlead-fold-after", "10m"),
            ("fairlead-dad-probes", "2"),
            ("fairlead-dad-interval", "250ms"),
            ("fairlead-heartbeat-interval", "100ms"),
            ("fairlead-l2-deadline", "5s"),
            ("fairlead-l2-conflict", "back-off"),
            ("fairlead-l2-failback", "true"),
            ("fairlead-l2-lease-duration", "10ms"),
        ])
        .into_config()
        .unwrap();
        assert_eq!(config.forwarding_mode, ForwardingMode::DsrIpip);
        assert_eq!(config.maglev_lines, Some(4096));
        assert_eq!(config.fold_after, Some(Duration::from_mins(10)));
        assert_eq!(config.dad_probes, Some(2));
        assert_eq!(config.dad_interval, Some(Duration::from_millis(250)));
        assert_eq!(config.heartbeat_interval, Some(Duration::from_millis(100)));
        assert_eq!(config.l2_deadline, Some(Duration::from_secs(5)));
        assert_eq!(config.defence, Defence::BackOff);
        assert!(config.failback);
        assert_eq!(config.lease_duration, Some(Duration::from_secs(1)));
    }

    #[test]
    fn cilium_s_default_acceleration_leaves_forwarding_to_kube_proxy() {
        let config = |flags: &[(&str, &str)]| {
            let all = [&[("node-name", "lb1")], flags].concat();
            settings(&all).into_config()
        };
        let disabled = ("bpf-lb-acceleration", "disabled");
        let announcing = config(&[disabled]).unwrap();
        assert!(!announcing.is_forwarding && announcing.is_announcing);
        assert!(
            config(&[("bpf-lb-acceleration", "native")])
                .unwrap()
                .is_forwarding
        );
        let native = [
            ("bpf-lb-acceleration", "native"),
            ("fairlead-forwarding", "false"),
        ];
        let native = config(&native).unwrap();
        assert_eq!(
            (native.acceleration, native.is_forwarding),
            (Acceleration::Native, false)
        );
        let text = config(&[disabled, ("fairlead-forwarding", "true")])
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("bpf-lb-acceleration") && text.contains("fairlead-forwarding"),
            "{text}"
        );
        assert!(
            !config(&[("enable-l2-announcements", "false")])
                .unwrap()
                .is_announcing
        );
    }

    #[test]
    fn a_mode_without_a_way_to_dispatch_it_is_refused() {
        let dsr = settings(&[("node-name", "lb1"), ("bpf-lb-mode", "dsr")]);
        let text = dsr.into_config().unwrap_err().to_string();
        assert!(
            text.contains("bpf-lb-dsr-dispatch: `opt`") && text.contains("ipip"),
            "{text}"
        );
    }

    #[test]
    fn bad_values_name_their_key() {
        for (key, value) in [
            ("node-name", "no_name"),
            ("bpf-lb-acceleration", "warp"),
            ("bpf-lb-mode", "hybrid"),
            ("fairlead-maglev-lines", "0"),
            ("fairlead-fold-after", "soon"),
            ("fairlead-dad-probes", "0"),
            ("fairlead-dad-interval", "0ms"),
            ("fairlead-heartbeat-interval", "5ms"),
            ("fairlead-heartbeat-interval", "2000ms"),
            ("fairlead-l2-deadline", "400ms"),
            ("fairlead-l2-conflict", "shout"),
            ("fairlead-l2-lease-duration", "long"),
        ] {
            let error = settings(&[(key, value)]).into_config().unwrap_err();
            let text = format!("{error:#}");
            assert!(text.contains(key) && text.contains(value), "{text}");
        }
    }
}

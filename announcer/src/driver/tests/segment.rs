//! A LAN of network namespaces: one bridge, one port per node, `lan0` inside each.

use std::{
    collections::BTreeMap,
    fs::File,
    net::IpAddr,
    process::Command,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use fairlead_model::MacAddr;
use fairlead_rt::clock;
use nix::sched::{CloneFlags, setns};
use pnet::datalink::{self, Channel};

use crate::frames::{self, Sender};

static N: AtomicU32 = AtomicU32::new(0);

fn ip_command(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("these tests need `ip` (iproute2)");
    assert!(
        output.status.success(),
        "these tests need root: ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Namespaces `PREFIX-NAME` and `PREFIX-sw`; gone when dropped.
pub(super) struct Lan {
    prefix: String,
    nodes: Vec<String>,
}

impl Lan {
    /// Nodes get 192.0.2.1, .2 and so on, `c` gets .9, and a global IPv6 address.
    pub(super) fn new(nodes: &[&str]) -> Self {
        let n = N.fetch_add(1, Ordering::Relaxed);
        let lan = Self {
            prefix: format!("fla{}-{n}", std::process::id()),
            nodes: nodes.iter().map(ToString::to_string).collect(),
        };
        ip_command(&format!("netns add {}", lan.ns("sw")));
        ip_command(&format!(
            "-n {} link add br0 type bridge mcast_snooping 0",
            lan.ns("sw")
        ));
        ip_command(&format!("-n {} link set br0 up", lan.ns("sw")));
        for (index, name) in nodes.iter().enumerate() {
            lan.plug(name, index);
        }
        lan
    }

    fn ns(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn plug(&self, name: &str, index: usize) {
        let (ns, sw) = (self.ns(name), self.ns("sw"));
        let host = if name == "c" { 9 } else { index + 1 };
        ip_command(&format!("netns add {ns}"));
        ip_command(&format!(
            "-n {ns} link add lan0 address 02:00:00:00:00:{host:02x} type veth peer name port-{name} netns {sw}"
        ));
        ip_command(&format!("-n {sw} link set port-{name} master br0 up"));
        ip_command(&format!("-n {ns} addr add 192.0.2.{host}/24 dev lan0"));
        ip_command(&format!(
            "-n {ns} addr add 2001:db8::{host}/64 dev lan0 nodad"
        ));
        ip_command(&format!("-n {ns} link set lan0 up"));
    }

    /// Runs `body` on a thread of its own inside the node's namespace.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = format!("/run/netns/{}", self.ns(name));
        std::thread::spawn(move || {
            let file = File::open(&path).expect("the namespace was made above");
            setns(file, CloneFlags::CLONE_NEWNET).expect("these tests need root (CAP_SYS_ADMIN)");
            body()
        })
    }

    pub(super) fn mac(&self, name: &str) -> MacAddr {
        let index = self.nodes.iter().position(|n| n == name).unwrap();
        let host = if name == "c" { 9 } else { index + 1 };
        MacAddr([2, 0, 0, 0, 0, u8::try_from(host).unwrap()])
    }

    pub(super) fn ifindex(&self, name: &str) -> u32 {
        let path = "cat /sys/class/net/lan0/ifindex";
        let index = ip_command(&format!("netns exec {} {path}", self.ns(name)));
        index.trim().parse().unwrap()
    }

    /// A folder for pins that no other test uses.
    pub(super) fn pins(&self, name: &str) -> std::path::PathBuf {
        format!("/sys/fs/bpf/{}", self.ns(name)).into()
    }

    /// Takes the node's port down at the switch: carrier is lost.
    pub(super) fn unplug(&self, name: &str) {
        ip_command(&format!("-n {} link set port-{name} down", self.ns("sw")));
    }

    /// Addresses as `ip address` shows them, memberships of the kernel's own among them.
    pub(super) fn addresses(&self, name: &str) -> String {
        ip_command(&format!("-n {} addr show dev lan0", self.ns(name)))
    }

    /// Takes the node's IPv4 address away and gives it back; the source that the kernel then chooses towards `to`.
    pub(super) fn source_after_renewal(&self, name: &str, to: &str) -> String {
        let ns = self.ns(name);
        let IpAddr::V4(own) = self.own_address(name) else {
            unreachable!("nodes have IPv4 addresses");
        };
        ip_command(&format!("-n {ns} addr del {own}/24 dev lan0"));
        ip_command(&format!("-n {ns} addr add {own}/24 dev lan0"));
        ip_command(&format!("-n {ns} route get {to} oif lan0"))
    }

    fn own_address(&self, name: &str) -> IpAddr {
        let host = self.mac(name).0[5];
        IpAddr::from([192, 0, 2, host])
    }

    pub(super) fn add_address(&self, name: &str, address: &str) {
        let ns = self.ns(name);
        ip_command(&format!("-n {ns} addr add {address}/32 dev lan0"));
    }

    pub(super) fn rename(&self, name: &str, from: &str, to: &str) {
        let ns = self.ns(name);
        ip_command(&format!("-n {ns} link set {from} down"));
        ip_command(&format!("-n {ns} link set {from} name {to}"));
        ip_command(&format!("-n {ns} link set {to} up"));
    }

    /// Makes a node's interface a port of a new bridge.
    pub(super) fn enslave(&self, name: &str, interface: &str, bridge: &str) {
        let ns = self.ns(name);
        ip_command(&format!("-n {ns} link add {bridge} type bridge"));
        ip_command(&format!("-n {ns} link set {interface} master {bridge}"));
    }

    pub(super) fn free(&self, name: &str, interface: &str) {
        ip_command(&format!(
            "-n {} link set {interface} nomaster",
            self.ns(name)
        ));
    }

    /// Multicast memberships as `ip maddr` shows them.
    pub(super) fn groups(&self, name: &str) -> String {
        ip_command(&format!("-n {} maddr show dev lan0", self.ns(name)))
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.nodes.iter().map(String::as_str).chain(["sw"]) {
            let ns = self.ns(name);
            drop(Command::new("ip").args(["netns", "del", &ns]).output());
        }
    }
}

/// Listens in a node's namespace and remembers who said when that he has an address; asks for addresses, if told to.
pub(super) struct Ear {
    heard: Arc<RwLock<BTreeMap<(IpAddr, MacAddr), Instant>>>,
    asked: Arc<RwLock<Vec<IpAddr>>>,
    claimed: Arc<RwLock<Vec<IpAddr>>>,
    is_done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    pub(super) fn new(lan: &Lan, name: &str) -> Self {
        let heard = Arc::new(RwLock::new(BTreeMap::new()));
        let asked: Arc<RwLock<Vec<IpAddr>>> = Arc::default();
        let claimed: Arc<RwLock<Vec<IpAddr>>> = Arc::default();
        let is_done = Arc::new(AtomicBool::new(false));
        let (book, done) = (Arc::clone(&heard), Arc::clone(&is_done));
        let (questions, mac) = (Arc::clone(&asked), lan.mac(name));
        let claims = Arc::clone(&claimed);
        let thread = lan.spawn(name, move || {
            let device = datalink::interfaces()
                .into_iter()
                .find(|d| d.name == "lan0")
                .unwrap();
            let config = datalink::Config {
                read_timeout: Some(Duration::from_millis(10)),
                ..datalink::Config::default()
            };
            let Ok(Channel::Ethernet(mut out, mut frames)) = datalink::channel(&device, config)
            else {
                panic!("no packet socket");
            };
            let sender = Sender {
                mac,
                link_local: None,
            };
            let mut asked_at = clock::now();
            while !done.load(Ordering::Relaxed) {
                if clock::now() - asked_at > Duration::from_millis(20) {
                    asked_at = clock::now();
                    for vip in questions.read().unwrap().iter() {
                        let question = frames::probe(&sender, *vip, None);
                        out.send_to(question.as_bytes(), None).unwrap().unwrap();
                    }
                    for vip in claims.read().unwrap().iter() {
                        for claim in frames::announcement(&sender, *vip).iter().flatten() {
                            out.send_to(claim.as_bytes(), None).unwrap().unwrap();
                        }
                    }
                }
                if let Some((vip, mac)) = frames
                    .next()
                    .ok()
                    .and_then(frames::parse)
                    .and_then(|seen| Some((seen.claims?, seen.mac)))
                {
                    book.write().unwrap().insert((vip, mac), clock::now());
                }
            }
        });
        Self {
            heard,
            asked,
            claimed,
            is_done,
            thread: Some(thread),
        }
    }

    /// Asks for an address every 20 ms from now on.
    pub(super) fn ask(&self, vip: IpAddr) {
        self.asked.write().unwrap().push(vip);
    }

    /// Says every 20 ms from now on that this station has an address.
    pub(super) fn claim(&self, vip: IpAddr) {
        self.claimed.write().unwrap().push(vip);
    }

    /// Who has the address, as heard last.
    pub(super) fn heard(&self, vip: IpAddr) -> Option<MacAddr> {
        let heard = self.heard.read().unwrap();
        let of_vip = heard.iter().filter(|((of, _), _)| *of == vip);
        of_vip.max_by_key(|(_, at)| **at).map(|((_, mac), _)| *mac)
    }

    /// Whether `mac` said so within the last half second: room for a machine that is busy with other tests.
    pub(super) fn hears(&self, vip: IpAddr, mac: MacAddr) -> bool {
        let heard = self.heard.read().unwrap();
        let at = heard.get(&(vip, mac));
        at.is_some_and(|at| clock::now() - *at < Duration::from_millis(500))
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.is_done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

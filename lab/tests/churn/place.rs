//! A lab of six servers, one Service in a mode, and hands on its EndpointSlices.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use fairlead_abi::flow::{FlowKey, FlowValue};
use fairlead_datapath::{HashMap, inspect};
use fairlead_lab::drive::{INTERFACE, Job, NODES, Ready, view::NodeView};
use fairlead_lab::runner::Lab;
use fairlead_lab::traffic::requests::requests;
use fairlead_lab::{clab, clock, plan};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::conns;
use crate::tables::{self, Flow, History};

/// How long a change may take to reach every node of a loaded machine.
const CHANGED_WITHIN: Duration = Duration::from_secs(30);
/// The servers of the topology.
pub(crate) const SERVERS: [u16; 6] = [1, 2, 3, 4, 5, 6];
/// New connections by which a node proves that it has a table.
const PROOFS: usize = 64;

/// How packets reach the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `auto` with plain servers.
    Snat,
    /// A new destination MAC address.
    L2,
    /// IPIP and ip6ip6, with the decapsulator on every server.
    Ipip,
}

impl Mode {
    /// The Service of the examples, and the manifest that it is in.
    const fn service(self) -> (&'static str, &'static str) {
        match self {
            Self::Snat => ("web", "main/service.yaml"),
            Self::L2 => ("web-dsr-l2", "dsr/service-l2.yaml"),
            Self::Ipip => ("web-dsr-ipip", "dsr/service-ipip.yaml"),
        }
    }
}

/// The lab with its job; taken down when dropped.
pub(crate) struct Place {
    pub(crate) job: Job,
    mode: Mode,
    name: String,
    /// A process in each node through which its file systems are seen.
    windows: Vec<(&'static str, Child)>,
    _manifests: tempfile::TempDir,
    _down: Down,
}

struct Down(String);

impl Drop for Down {
    fn drop(&mut self) {
        Lab::down(&self.0).expect("a lab goes down");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (_, child) in &mut self.windows {
            // It ends by itself when its input closes; this is for the order of things.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn lab_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn example(name: &str) -> PathBuf {
    lab_dir().join("../configs/examples").join(name)
}

impl Place {
    /// Two appliances and a Service with `servers`; ready.
    pub(crate) fn up(mode: Mode, purpose: &str, servers: &[u16]) -> (Self, Ready) {
        let name = format!("c{}-{purpose}", std::process::id());
        let down = Down(name.clone());
        let manifests = manifests(mode, servers);
        let file = lab_dir().join("churn.clab.yml");
        let topology = clab::load(&file).expect("the topology is good");
        let plan = plan::plan(&topology, &name, lab_dir()).expect("the topology has a plan");
        let bin_dir = Path::new(env!("CARGO_BIN_EXE_fairlead-lab")).parent();
        let bin_dir = bin_dir.expect("a program is in a folder");
        let lab = Lab::up(&plan, &file, bin_dir, &mut |_| {}).expect("the lab comes up");
        if mode == Mode::Ipip {
            decapsulate(&lab);
        }
        let windows = NODES.map(|node| (node, window(&lab, node))).into();
        let folders = [manifests.path().to_owned()];
        let job = Job::start(lab, &folders, &NODES, |_| {}).expect("the appliances start");
        let mut place = Self {
            job,
            mode,
            name: mode.service().0.to_owned(),
            windows,
            _manifests: manifests,
            _down: down,
        };
        let ready = place.ready();
        (place, ready)
    }

    /// Waits until both nodes agree and the client is answered.
    pub(crate) fn ready(&mut self) -> Ready {
        let service = format!("default/{}", self.name);
        self.job.wait_ready(&service).expect("it becomes ready")
    }

    /// Slots of the Service's tables.
    pub(crate) fn table_size(&self) -> u32 {
        let node = self.job.lab().node(NODES[0]).expect("it is a node");
        let view = NodeView::ask(&node).expect("the agent answers");
        let service = view.services.iter().find(|s| s.name == self.name);
        let sizes: BTreeSet<_> = service
            .expect("the Service is known")
            .frontends
            .iter()
            .map(|f| f.table_size)
            .collect();
        assert_eq!(sizes.len(), 1, "one size: {sizes:?}");
        let size = sizes.first().copied().flatten();
        size.expect("the tables are there")
    }

    /// Writes other endpoints into both slices, through the API.
    pub(crate) fn set_servers(&self, servers: &[u16]) {
        let node = self.job.lab().node(NODES[0]).expect("it is a node");
        let kubeconfig = self.job.lab().run_dir(NODES[0]).join("state/kubeconfig");
        let written = node.in_netns(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime starts");
            runtime.block_on(self.patch(&kubeconfig, servers))
        });
        let written = written.expect("the node has a network");
        written.expect("the API takes the slices");
    }

    async fn patch(&self, kubeconfig: &Path, servers: &[u16]) -> kube::Result<()> {
        let file = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig is readable");
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        let client = kube::Client::try_from(config.expect("the kubeconfig is good"))?;
        let slices: kube::Api<EndpointSlice> = kube::Api::default_namespaced(client);
        for is_v6 in [false, true] {
            let endpoints: Vec<_> = servers.iter().map(|s| endpoint(*s, is_v6)).collect();
            let patch = Patch::Merge(json!({ "endpoints": endpoints }));
            let name = slice_name(&self.name, is_v6);
            slices.patch(&name, &PatchParams::default(), &patch).await?;
        }
        Ok(())
    }

    /// Waits until `node` has exactly these servers in its kernel.
    pub(crate) fn wait_programmed(&self, node: &str, servers: &[u16]) {
        let on = self.job.lab().node(node).expect("it is a node");
        let wanted = |is_v6| -> BTreeSet<IpAddr> {
            servers.iter().map(|s| tables::address(*s, is_v6)).collect()
        };
        let wanted = [wanted(false), wanted(true)];
        let mut seen = String::new();
        let programmed = clock::poll(CHANGED_WITHIN, || {
            let has = |view: &NodeView| {
                let service = view.services.iter().find(|s| s.name == self.name)?;
                service
                    .frontends
                    .iter()
                    .find(|f| {
                        let serving = f.backends.iter().filter(|b| b.is_serving());
                        let serving: BTreeSet<IpAddr> = serving.map(|b| b.addr).collect();
                        let wanted = &wanted[usize::from(f.vip.is_ipv6())];
                        f.backends.len() != wanted.len() || serving != *wanted || !f.is_programmed
                    })
                    .is_none()
                    .then_some(())
            };
            let first = NodeView::ask(&on).ok()?;
            seen = format!("{:?}", first.services);
            has(&first)?;
            // The generation of a later answer covers what an earlier one has seen.
            let generation = NodeView::ask(&on).ok()?.status.generation;
            (generation.seen.is_some() && generation.seen == generation.programmed).then_some(())
        });
        assert!(
            programmed.is_some(),
            "{node} does not program {servers:?}: {seen}"
        );
    }

    /// Waits until the VIPs' owner gives new connections the servers that the pure table gives them.
    pub(crate) fn wait_new_flows(&self, ready: &Ready, history: &History) {
        let client = self.job.client().expect("the lab has a client");
        let mut strays = Vec::new();
        let settled = clock::poll(CHANGED_WITHIN, || {
            strays = conns::open(&client, &ready.service, PROOFS)
                .iter()
                .filter(|conn| history.server(conn.flow) != conn.server)
                .map(|conn| (conn.flow, history.server(conn.flow), conn.server))
                .collect();
            strays.is_empty().then_some(())
        });
        assert!(
            settled.is_some(),
            "flow, server by the table, server that took it: {strays:?}"
        );
    }

    /// Changes the servers and waits until both nodes have the change, and new connections feel it.
    pub(crate) fn change(&self, ready: &Ready, history: &mut History, servers: &[u16]) {
        self.set_servers(servers);
        history.change(servers);
        for node in NODES {
            self.wait_programmed(node, servers);
        }
        self.wait_new_flows(ready, history);
    }

    /// The flows that `node` remembers for this Service: established, half-open.
    pub(crate) fn flows(&self, node: &str) -> [BTreeSet<Flow>; 2] {
        let (_, window) = self
            .windows
            .iter()
            .find(|(name, _)| *name == node)
            .expect("every node has one");
        let dir = format!("/proc/{}/root/sys/fs/bpf/fairlead", window.id());
        let tables = inspect::flow_tables(Path::new(&dir)).expect("the node's maps are pinned");
        let all = |table: &HashMap<FlowKey, FlowValue>| {
            let entries = table.entries().expect("the table can be read");
            entries.iter().map(|(key, _)| tables::flow(key)).collect()
        };
        [all(&tables[0]), all(&tables[1])]
    }

    /// Kills the node's process and cuts its link.
    pub(crate) fn cut(&mut self, node: &str) {
        self.job.kill_appliance(node).expect("it can be killed");
        let (switch, port) = self
            .job
            .lab()
            .across(node, INTERFACE)
            .expect("it is linked");
        let switch = self.job.lab().node(&switch).expect("it is a node");
        switch
            .run(&["ip", "link", "set", &port, "down"])
            .expect("ip runs");
    }

    /// Waits until the VIPs answer again.
    pub(crate) fn wait_answers(&self, ready: &Ready) {
        let client = self.job.client().expect("the lab has a client");
        for target in ready.service.tcp() {
            let answers = || {
                let outcome = requests(&client, target, 1).expect("the client runs");
                (outcome.failed == 0).then_some(())
            };
            let back = clock::poll(CHANGED_WITHIN, answers);
            assert!(back.is_some(), "nobody answers for {target}");
        }
    }

    /// Packets that the client's link has dropped, on the way out or in.
    pub(crate) fn dropped_at_the_client(&self) -> usize {
        let (switch, port) = self
            .job
            .lab()
            .across("client", INTERFACE)
            .expect("it is linked");
        let ends = [("client".to_owned(), INTERFACE.to_owned()), (switch, port)];
        let dropped = ends.map(|(node, interface)| {
            let file = format!("/sys/class/net/{interface}/statistics/tx_dropped");
            let node = self.job.lab().node(&node).expect("it is a node");
            let text = node.run(&["cat", &file]).expect("the kernel counts");
            text.trim().parse::<usize>().expect("it is a number")
        });
        dropped.iter().sum()
    }

    /// The mode.
    pub(crate) const fn mode(&self) -> Mode {
        self.mode
    }
}

/// The example's manifests for one mode, with a slice of ours for each family.
fn manifests(mode: Mode, servers: &[u16]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("there is room for a folder");
    let (name, service) = mode.service();
    for (from, to) in [
        ("main/pool.yaml", "pool.yaml"),
        ("main/l2-policy.yaml", "l2-policy.yaml"),
        (service, "service.yaml"),
    ] {
        fs::copy(example(from), dir.path().join(to)).expect("the example is there");
    }
    for is_v6 in [false, true] {
        let endpoints: Vec<_> = servers.iter().map(|s| endpoint(*s, is_v6)).collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": slice_name(name, is_v6),
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": if is_v6 { "IPv6" } else { "IPv4" },
            "ports": [
                { "name": "http", "protocol": "TCP", "port": 8080 },
                { "name": "echo", "protocol": "UDP", "port": 7007 },
            ],
            "endpoints": endpoints,
        });
        let file = dir.path().join(format!("slice-{}.yaml", u8::from(is_v6)));
        // JSON is YAML.
        fs::write(file, slice.to_string()).expect("there is room for a file");
    }
    dir
}

fn slice_name(service: &str, is_v6: bool) -> String {
    format!("{service}-{}", if is_v6 { "ipv6" } else { "ipv4" })
}

fn endpoint(server: u16, is_v6: bool) -> serde_json::Value {
    json!({ "addresses": [tables::address(server, is_v6)], "conditions": { "ready": true } })
}

/// What the owner of the servers sets up on them for IPIP.
fn decapsulate(lab: &Lab) {
    for server in SERVERS {
        let node = lab.node(&format!("b{server}")).expect("it is a server");
        let mut argv = vec!["fairlead-agent", "decap", "--interface", INTERFACE];
        for vip in ["10.10.0.201", "fd10::c0:201"] {
            argv.extend(["--vip", vip]);
        }
        for sender in ["10.10.0.11", "10.10.0.12", "fd10::11", "fd10::12"] {
            argv.extend(["--sender", sender]);
        }
        node.run(&argv).expect("the decapsulator attaches");
    }
}

/// A process that waits in `node` until its input closes.
fn window(lab: &Lab, node: &str) -> Child {
    let node = lab.node(node).expect("it is a node");
    let mut child = node
        .command(&["sh", "-c", "echo here; exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the node runs a shell");
    let output = child.stdout.as_mut().expect("it was asked for");
    let mut line = String::new();
    // Not before it speaks is it in the node's mount namespace.
    BufReader::new(output)
        .read_line(&mut line)
        .expect("the shell speaks");
    assert_eq!(line, "here\n");
    child
}

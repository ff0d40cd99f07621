//! Our agents and operators on the real control plane, in the shape of pods, on the nodes of a lab.
//!
//! ```text
//! lb1, lb2: network namespace ── agent ────▶ proxy 127.0.0.1:6443 ┐
//!           own mounts           operator ─▶ proxy 127.0.0.1:6444 ┴──▶ kube-apiserver, outside
//! ```
//! A pod here is a process with what a kubelet would give it: the token of its ServiceAccount and the CA where every pod has them,
//! `KUBERNETES_SERVICE_HOST`, the node's name and its namespace. The way to the API server is a management network of its own:
//! faults of the LAN are not faults of the API. Permissions are those of `deploy/plain`, nothing is added.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context as _, bail, ensure};
use fairlead_lab::drive::view::{self, NodeView};
use fairlead_lab::drive::{Frontends, INTERFACE, NODES, SERVICE};
use fairlead_lab::runner::Lab;
use fairlead_lab::traffic::requests::requests;
use fairlead_lab::{clab, clock, plan};

use crate::control_plane::{ControlPlane, PATIENCE, repository};
use crate::proxy::Proxy;

/// Where a kubelet mounts the ServiceAccount.
const ACCOUNT_DIR: &str = "/run/secrets/kubernetes.io/serviceaccount";
/// Namespace of our pods.
pub const NAMESPACE: &str = "kube-system";

/// One of our programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// One on each node.
    Agent,
    /// Two in all, of which one leads.
    Operator,
}

impl Program {
    /// Its binary, which is the name of its ServiceAccount too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "fairlead-agent",
            Self::Operator => "fairlead-operator",
        }
    }

    /// Port of its way to the API server, on the loopback address of its node.
    const fn port(self) -> u16 {
        match self {
            Self::Agent => 6443,
            Self::Operator => 6444,
        }
    }
}

/// A lab whose load-balancer nodes are nodes of a real cluster.
pub struct Site {
    /// The control plane.
    pub plane: ControlPlane,
    proxies: BTreeMap<(&'static str, Program), Proxy>,
    pods: BTreeMap<(&'static str, Program), Child>,
    lab: Option<Lab>,
    made: Vec<PathBuf>,
}

impl Site {
    /// Starts the control plane with our CRDs and permissions, and the lab's main topology under a name of `purpose`.
    pub fn up(purpose: &str) -> anyhow::Result<Self> {
        let mut plane = ControlPlane::start()?;
        plane.start_controllers()?;
        for part in ["crds", "rbac"] {
            let file = repository().join(format!("deploy/plain/{part}.yaml"));
            plane.kubectl(&["apply", "-f", &file.display().to_string()])?;
        }
        let crds = [
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=60s",
        ];
        plane.kubectl(&crds)?;
        for node in NODES {
            plane.apply(&node_object(node))?;
        }
        let mut site = Self {
            plane,
            proxies: BTreeMap::new(),
            pods: BTreeMap::new(),
            lab: None,
            made: Vec::new(),
        };
        site.make_account_dir()?;
        let file = repository().join("lab/main.clab.yml").canonicalize()?;
        let topology = clab::load(&file)?;
        let name = format!("k{}-{purpose}", std::process::id());
        let folder = file.parent().context("a file is in a folder")?;
        let plan = plan::plan(&topology, &name, folder)?;
        let lab = Lab::up(&plan, &file, &bin_dir()?, &mut |_| {})?;
        for node in NODES {
            for program in [Program::Agent, Program::Operator] {
                let listen = || TcpListener::bind(("127.0.0.1", program.port()));
                let listener = lab.node(node)?.in_netns(listen)?;
                let proxy = Proxy::start(&site.plane, listener?)?;
                site.proxies.insert((node, program), proxy);
            }
        }
        site.lab = Some(lab);
        Ok(site)
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        self.lab.as_ref().expect("a lab is there from `up` on")
    }

    /// What lies between a program on `node` and the API server.
    pub fn proxy(&self, node: &'static str, program: Program) -> &Proxy {
        &self.proxies[&(node, program)]
    }

    /// Every proxy.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.proxies.values()
    }

    /// Starts a program on `node` as a kubelet would, with a fresh token.
    pub fn start(
        &mut self,
        node: &'static str,
        program: Program,
        flags: &[&str],
    ) -> anyhow::Result<()> {
        let name = program.name();
        let account = self.plane.path(&format!("account-{node}-{name}"));
        fs::create_dir_all(&account)?;
        let token = self.plane.token(NAMESPACE, name)?;
        fs::write(account.join("token"), token)?;
        fs::write(account.join("ca.crt"), self.plane.pki().ca())?;
        fs::write(account.join("namespace"), NAMESPACE)?;
        // Mounts of its own, so that each pod sees its own account.
        let mount = format!(
            "mount --bind {} {ACCOUNT_DIR} && exec \"$@\"",
            account.display()
        );
        let pod = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &mount,
            "sh",
        ];
        let mut argv: Vec<String> = pod.map(str::to_owned).into();
        if program == Program::Agent {
            argv.extend(["setpriv".to_owned(), "--inh-caps=-all".to_owned()]);
            argv.push(format!("--bounding-set=-all{}", capabilities()?));
        }
        argv.push(name.to_owned());
        if program == Program::Agent {
            argv.extend(
                [
                    "--interface",
                    INTERFACE,
                    "--state-dir",
                    "/run/fairlead/state",
                ]
                .map(str::to_owned),
            );
        }
        argv.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let env = [
            ("KUBERNETES_SERVICE_HOST", "127.0.0.1".to_owned()),
            ("KUBERNETES_SERVICE_PORT", program.port().to_string()),
            ("K8S_NODE_NAME", node.to_owned()),
            ("K8S_NAMESPACE", NAMESPACE.to_owned()),
            ("HOSTNAME", format!("{name}-{node}")),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        let lab = self.lab.as_mut().context("the lab is up")?;
        let child = lab.start(node, &format!("{node}-{name}"), &argv, &env)?;
        self.pods.insert((node, program), child);
        Ok(())
    }

    /// Starts again what ended by itself, as a kubelet does; how many there were.
    pub fn restart_ended(&mut self, flags: &[&str]) -> anyhow::Result<usize> {
        let mut ended = Vec::new();
        for (key, child) in &mut self.pods {
            if child.try_wait()?.is_some() {
                ended.push(*key);
            }
        }
        for (node, program) in &ended {
            let flags = if *program == Program::Operator {
                flags
            } else {
                &[]
            };
            self.start(node, *program, flags)?;
        }
        Ok(ended.len())
    }

    /// Kills a program with SIGKILL.
    pub fn kill(&mut self, node: &'static str, program: Program) -> anyhow::Result<()> {
        if let Some(mut child) = self.pods.remove(&(node, program)) {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Everything that the program on `node` ever logged.
    pub fn log(&self, node: &'static str, program: Program) -> anyhow::Result<String> {
        let path = self
            .lab()
            .node(node)?
            .log(&format!("{node}-{}", program.name()));
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Looks until `look` finds something; otherwise, or when a program has ended, fails with what it said last.
    pub fn wait<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.poll(what, |site| {
            for ((node, program), child) in &mut site.pods {
                if let Ok(Some(status)) = child.try_wait() {
                    let name = program.name();
                    return Look::Never(anyhow::anyhow!("{name} on {node} ended: {status}"));
                }
            }
            look(site).map_or_else(Look::NotYet, Look::Found)
        })
    }

    /// As [`Self::wait`], whatever ends.
    pub fn wait_anyway<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.poll(what, |site| {
            look(site).map_or_else(Look::NotYet, Look::Found)
        })
    }

    fn poll<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Look<T>,
    ) -> anyhow::Result<T> {
        let mut missing = None;
        let found = clock::poll(PATIENCE, || match look(self) {
            Look::Found(found) => Some(Some(found)),
            Look::Never(error) => {
                missing = Some(error);
                Some(None)
            }
            Look::NotYet(error) => {
                missing = Some(error);
                None
            }
        });
        match (found.flatten(), missing) {
            (Some(found), _) => Ok(found),
            (None, Some(error)) => {
                let logs = self.logs();
                Err(error.context(format!("{what}, not within {PATIENCE:?}\n{logs}")))
            }
            (None, None) => bail!("{what}: nobody looked"),
        }
    }

    /// The ends of all logs.
    fn logs(&self) -> String {
        let pods = self.pods.keys();
        let ends = pods.map(|(node, program)| {
            let log = self.log(node, *program).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(15)..].join("\n");
            format!("--- {} on {node}\n{end}", program.name())
        });
        ends.collect::<Vec<_>>().join("\n")
    }

    /// What the agents on `nodes` say; they must agree and have it all in the kernel, and the client must be answered.
    pub fn ready(&self, nodes: &[&'static str]) -> anyhow::Result<(Frontends, String)> {
        let mut views = Vec::new();
        for node in nodes {
            views.push(NodeView::ask(&self.lab().node(node)?)?);
        }
        let (service, owner, _why) = view::agreed(SERVICE, &views).map_err(anyhow::Error::msg)?;
        let client = self.lab().node("client")?;
        for target in service.tcp() {
            let answer = requests(&client, target, 1)?;
            ensure!(answer.failed == 0, "{target}: {:?}", answer.why);
        }
        Ok((service, owner))
    }

    fn make_account_dir(&mut self) -> anyhow::Result<()> {
        let missing: Vec<PathBuf> = Path::new(ACCOUNT_DIR)
            .ancestors()
            .take_while(|path| !path.exists())
            .map(Path::to_path_buf)
            .collect();
        for path in missing.iter().rev() {
            fs::create_dir(path).with_context(|| format!("make {}", path.display()))?;
        }
        self.made = missing;
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.proxies.clear();
        if let Some(lab) = self.lab.take() {
            let name = lab.name().to_owned();
            let down = Lab::down(&name);
            assert!(down.is_ok() || std::thread::panicking(), "{down:?}");
        }
        for child in self.pods.values_mut() {
            // The lab ended it; this only reaps it.
            drop(child.wait());
        }
        for path in &self.made {
            // Whoever else uses it meanwhile keeps it.
            drop(fs::remove_dir(path));
        }
    }
}

/// What a look brought.
enum Look<T> {
    Found(T),
    NotYet(anyhow::Error),
    Never(anyhow::Error),
}

/// What the container of the agent may do, as setpriv takes it: `,+bpf,+net_admin`.
fn capabilities() -> anyhow::Result<String> {
    let file = repository().join("deploy/plain/agent.yaml");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let list = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("add: ["));
    let list = list.context("the agent's container adds capabilities")?;
    let names = list.trim_end_matches(']').split(", ");
    Ok(names
        .map(|name| [",+", &name.to_lowercase()].concat())
        .collect())
}

/// As a kubelet would register it.
fn node_object(node: &str) -> String {
    serde_json::json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node, "labels": {"kubernetes.io/hostname": node}}})
    .to_string()
}

/// Folder of the binaries under test: that of this test's own profile.
fn bin_dir() -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.ancestors().nth(2).context("tests are in deps/")?;
    for name in [
        "fairlead-agent",
        "fairlead-operator",
        "fairlead",
        "fairlead-lab",
    ] {
        let path = dir.join(name);
        ensure!(path.exists(), "{} is missing: ./x build", path.display());
    }
    Ok(dir.to_owned())
}

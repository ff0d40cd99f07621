//! etcd, kube-apiserver and, when asked for, kube-controller-manager, as processes of this test.
//!
//! ```text
//! test ── kubectl, kube client ──▶ kube-apiserver 127.a.b.c:6443 ──▶ etcd 127.a.b.c:2379
//! ```
//! Each control plane has a loopback address of its own, so that tests meet neither each other nor anything else of the
//! machine, and ports need not be guessed. Authorization is RBAC; the admin is a certificate of group `system:masters`.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use fairlead_lab::clock;
use rand::Rng as _;
use tempfile::TempDir;

use crate::pki::{self, Pair, Pki};
use crate::process::Process;
use crate::{aside, tools};

/// Long enough for a machine that builds something else at the same time.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Port of every API server here.
const API_PORT: u16 = 6443;
/// Where cluster IPs come from; the embedded API has the same default.
const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:10:96::/112";
/// Signs tokens, and names them.
const ISSUER: &str = "https://kubernetes.default.svc";

/// A running control plane; dropping it ends its processes and removes its data.
pub struct ControlPlane {
    dir: TempDir,
    addr: Ipv4Addr,
    pki: Pki,
    admin: Pair,
    controllers: Option<Process>,
    // In the order in which they are to end.
    api: Option<Process>,
    etcd: Option<Process>,
}

/// What etcd held at a moment.
pub struct Backup(TempDir);

impl ControlPlane {
    /// Starts etcd and the API server and waits until that is ready.
    pub fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir().context("make a folder")?;
        let addr = free_address()?;
        let pki = Pki::new().context("make a CA")?;
        let names = [
            &addr.to_string(),
            "127.0.0.1",
            "localhost",
            "kubernetes.default.svc",
        ];
        let server = pki.server(&names.map(str::to_owned))?;
        let admin = pki.client("admin", "system:masters")?;
        pki::write(dir.path(), "server", &server)?;
        // Tokens are signed with the key and verified with what the certificate holds of it.
        pki::write(dir.path(), "accounts", &pki.client("accounts", "none")?)?;
        let mut plane = Self {
            dir,
            addr,
            pki,
            admin,
            controllers: None,
            api: None,
            etcd: None,
        };
        let ca = plane.path("ca.crt");
        fs::write(ca, plane.pki.ca()).context("write the CA")?;
        let text = plane.kubeconfig_for(&plane.url(), &plane.admin_user());
        fs::write(plane.kubeconfig(), text).context("write the kubeconfig")?;
        plane.start_etcd()?;
        plane.start_api()?;
        Ok(plane)
    }

    /// A file of this control plane.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the API server listens.
    pub const fn address(&self) -> (Ipv4Addr, u16) {
        (self.addr, API_PORT)
    }

    /// URL of the API server.
    pub fn url(&self) -> String {
        format!("https://{}:{API_PORT}", self.addr)
    }

    /// Its CA, which also signs for proxies.
    pub const fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }

    /// The text of a kubeconfig for `server` (the API server itself or a proxy); `user` is the `user` of its one user.
    pub fn kubeconfig_for(&self, server: &str, user: &serde_json::Value) -> String {
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": server, "certificate-authority": self.path("ca.crt")}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        text.to_string()
    }

    fn admin_user(&self) -> serde_json::Value {
        let files = pki::write(self.dir.path(), "admin", &self.admin);
        files.expect("the folder was written to a moment ago");
        serde_json::json!({
            "client-certificate": self.path("admin.crt"), "client-key": self.path("admin.key")})
    }

    /// The admin's client, for the runtime that this is called on.
    pub async fn client(&self) -> anyhow::Result<kube::Client> {
        client(&self.kubeconfig()).await
    }

    /// kubectl as the admin, to be completed and run.
    pub fn kubectl_command(&self, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(tools::path("kubectl")?);
        command
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs kubectl as the admin to its end; its standard output.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.kubectl_command(args)?.output()?;
        ensure!(
            output.status.success(),
            "kubectl {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `kubectl apply` of a manifest's text.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        let path = self.path("applied.yaml");
        fs::write(&path, manifest).context("write the manifest")?;
        self.kubectl(&["apply", "-f", &path.display().to_string()])
    }

    /// Installs our CRDs from `configs/crd` and waits until they are served.
    pub fn install_crds(&self) -> anyhow::Result<()> {
        let crds = repository().join("configs/crd").display().to_string();
        self.kubectl(&["apply", "--server-side", "-f", &crds])?;
        let wait = [
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "-f",
            &crds,
        ];
        self.kubectl(&wait).map(drop)
    }

    /// A token of the ServiceAccount `name`, which must exist: what a kubelet would mount.
    pub fn token(&self, namespace: &str, name: &str) -> anyhow::Result<String> {
        let args = ["create", "token", name, "-n", namespace, "--duration=1h"];
        Ok(self.kubectl(&args)?.trim().to_owned())
    }

    /// Starts kube-controller-manager: ServiceAccounts, garbage collection, namespaces, EndpointSlices. Without the life
    /// cycle of Nodes, which have no kubelet here.
    pub fn start_controllers(&mut self) -> anyhow::Result<()> {
        let kubeconfig = self.kubeconfig().display().to_string();
        let mut command = Command::new(tools::path("kube-controller-manager")?);
        command.args([
            format!("--kubeconfig={kubeconfig}"),
            format!("--root-ca-file={}", self.path("ca.crt").display()),
            format!(
                "--service-account-private-key-file={}",
                self.path("accounts.key").display()
            ),
            "--controllers=*,-node-lifecycle-controller".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ]);
        let log = self.path("controllers.log");
        self.controllers = Some(Process::start("kube-controller-manager", command, &log)?);
        Ok(())
    }

    /// Kills the API server.
    pub fn kill_api(&mut self) {
        self.api = None;
    }

    /// Stops the API server as an upgrade would: it closes watches one by one for a while, and what it has then not ended is cut.
    pub fn stop_api(&mut self) -> anyhow::Result<()> {
        let api = self.api.take();
        api.map_or(Ok(()), |api| api.stop(Duration::from_secs(5)))
    }

    /// Starts the API server and waits until it is ready.
    pub fn start_api(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(tools::path("kube-apiserver")?);
        let file = |name: &str| self.path(name).display().to_string();
        let flags = [
            ("etcd-servers", format!("http://{}:2379", self.addr)),
            ("bind-address", self.addr.to_string()),
            ("secure-port", API_PORT.to_string()),
            // Endpoints may not be loopback addresses; nobody dials this one (RFC 5737).
            ("advertise-address", "192.0.2.1".to_owned()),
            ("endpoint-reconciler-type", "none".to_owned()),
            ("tls-cert-file", file("server.crt")),
            ("tls-private-key-file", file("server.key")),
            ("client-ca-file", file("ca.crt")),
            ("authorization-mode", "RBAC".to_owned()),
            ("service-account-issuer", ISSUER.to_owned()),
            ("service-account-key-file", file("accounts.crt")),
            ("service-account-signing-key-file", file("accounts.key")),
            ("service-cluster-ip-range", SERVICE_CIDRS.to_owned()),
            ("cert-dir", file("certs")),
        ];
        command.args(flags.map(|(name, value)| format!("--{name}={value}")));
        let log = self.path("api.log");
        self.api = Some(Process::start("kube-apiserver", command, &log)?);
        self.wait_ready()
    }

    fn start_etcd(&mut self) -> anyhow::Result<()> {
        let url = |port: u16| format!("http://{}:{port}", self.addr);
        let mut command = Command::new(tools::path("etcd")?);
        let flags = [
            ("data-dir", self.path("etcd").display().to_string()),
            ("listen-client-urls", url(2379)),
            ("advertise-client-urls", url(2379)),
            ("listen-peer-urls", url(2380)),
            ("initial-advertise-peer-urls", url(2380)),
            ("initial-cluster", format!("default={}", url(2380))),
            ("log-level", "warn".to_owned()),
        ];
        command.args(flags.map(|(name, value)| format!("--{name}={value}")));
        // The data is gone with the test: nothing has to survive a power cut.
        command.arg("--unsafe-no-fsync");
        self.etcd = Some(Process::start("etcd", command, &self.path("etcd.log"))?);
        Ok(())
    }

    /// Waits until the API server says that it is ready.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let kubeconfig = self.kubeconfig();
        let is_ready = || {
            aside(async {
                let client = client(&kubeconfig).await.ok()?;
                let request = kube::client::Body::empty();
                let request = http_get("/readyz", request);
                let answer = tokio::time::timeout(Duration::from_secs(5), client.send(request));
                answer
                    .await
                    .ok()?
                    .ok()
                    .filter(|answer| answer.status().is_success())
            })
        };
        let mut failure = None;
        let ready = clock::poll(PATIENCE, || {
            let processes = [&mut self.etcd, &mut self.api];
            for process in processes.into_iter().flatten() {
                if let Err(error) = process.must_run() {
                    failure = Some(error);
                    return Some(false);
                }
            }
            is_ready().map(|_| true)
        });
        match (ready, failure) {
            (Some(true), _) => Ok(()),
            (_, Some(error)) => Err(error),
            _ => bail!(
                "kube-apiserver is not ready within {PATIENCE:?}:\n{}",
                self.api.as_ref().map(Process::tail).unwrap_or_default()
            ),
        }
    }

    /// Copies what etcd holds now. The API server is away for as long as it takes.
    pub fn backup(&mut self) -> anyhow::Result<Backup> {
        self.away()?;
        let kept = tempfile::tempdir()?;
        copy_dir(&self.path("etcd"), kept.path())?;
        self.back()?;
        Ok(Backup(kept))
    }

    /// Stops everything and starts it again with what etcd held then: resourceVersions go backwards, as after a restore
    /// from a backup.
    pub fn restore(&mut self, backup: &Backup) -> anyhow::Result<()> {
        self.away()?;
        let data = self.path("etcd");
        fs::remove_dir_all(&data).context("remove etcd's data")?;
        copy_dir(backup.0.path(), &data)?;
        self.back()
    }

    fn away(&mut self) -> anyhow::Result<()> {
        self.kill_api();
        let etcd = self.etcd.take().context("etcd runs")?;
        etcd.stop(PATIENCE)
    }

    fn back(&mut self) -> anyhow::Result<()> {
        self.start_etcd()?;
        self.start_api()
    }
}

/// The client of a kubeconfig file, for the runtime that this is called on.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    // Several tests install it; whoever is first wins and all are the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok(kube::Client::try_from(config)?)
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn http_get(path: &str, body: kube::client::Body) -> hyper::Request<kube::client::Body> {
    let request = hyper::Request::get(path).body(body);
    request.expect("a literal path makes a request")
}

/// A loopback address that nobody here listens on.
fn free_address() -> anyhow::Result<Ipv4Addr> {
    let mut random = rand::rng();
    for _ in 0..8 {
        let [b, c, d] = [
            random.random_range(1..255_u8),
            random.random_range(0..255_u8),
            random.random_range(1..255_u8),
        ];
        let addr = Ipv4Addr::new(127, b, c, d);
        if std::net::TcpListener::bind((addr, API_PORT)).is_ok() {
            return Ok(addr);
        }
    }
    bail!("no free loopback address for port {API_PORT}: does something listen on every address?")
}

fn copy_dir(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| target.display().to_string())?;
        }
    }
    Ok(())
}

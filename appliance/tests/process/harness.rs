//! A network namespace with one interface, a BPF file system, and the binary in it. Everything goes when it is dropped.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use fairlead_observe::{Client, L2Row, ServiceView, StatusView};
use fairlead_rt::clock;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_fairlead-appliance");
const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `look` finds something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = clock::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            clock::now() < deadline,
            "did not happen within 30 s: {what}"
        );
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// A LAN with nobody else on it.
pub(crate) struct Place {
    namespace: String,
    dir: TempDir,
}

impl Place {
    /// `lan0` has 10.77.0.1/24; its other end answers nothing.
    pub(crate) fn new() -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("flap-{}-{n}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &namespace]));
        let dir = TempDir::new().unwrap();
        let place = Self { namespace, dir };
        std::fs::create_dir(place.dir.path().join("bpf")).unwrap();
        std::fs::create_dir(place.manifests()).unwrap();
        let bpf = place.dir.path().join("bpf");
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(bpf));
        for line in [
            "ip link set lo up",
            "ip link add lan0 type veth peer name far0",
            "ip link set far0 up",
            "ip link set lan0 up",
            "ip addr add 10.77.0.1/24 dev lan0",
        ] {
            run(place.command("sh").args(["-c", line]));
        }
        place
    }

    /// Another interface; its other end answers nothing.
    pub(crate) fn add_interface(&self, name: &str, address: &str) {
        for line in [
            format!("ip link add {name} type veth peer name far-{name}"),
            format!("ip link set far-{name} up"),
            format!("ip link set {name} up"),
            format!("ip addr add {address} dev {name}"),
        ] {
            run(self.command("sh").args(["-c", &line]));
        }
    }

    /// A command in the namespace; the file systems are the machine's.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .args(["--", program]);
        command
    }

    /// Runs `work` on a thread in the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.pins_of("lb1")
    }

    pub(crate) fn pins_of(&self, name: &str) -> PathBuf {
        self.dir.path().join("bpf").join(name)
    }

    fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// Runs a command of the binary to its end; what it says.
    pub(crate) fn command_of(&self, name: &str, args: &[&str]) -> String {
        let output = self.output_of(name, args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says that must fail.
    pub(crate) fn failure_of(&self, name: &str, args: &[&str]) -> String {
        let output = self.output_of(name, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn output_of(&self, name: &str, args: &[&str]) -> Output {
        let mut command = self.command(BINARY);
        command
            .args(args)
            .args(["--node-name", name])
            .arg("--state-dir")
            .arg(self.state().join(name))
            .arg("--socket")
            .arg(self.socket(name));
        command.output().unwrap()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.sock"))
    }

    /// Puts a manifest where the next start finds it.
    pub(crate) fn manifest(&self, name: &str, text: &str) {
        std::fs::write(self.manifests().join(name), text).unwrap();
    }

    /// What a start that must fail says.
    pub(crate) fn refusal(&self, args: &[&str]) -> String {
        self.refusal_as(&[], args)
    }

    /// The same, behind another program.
    pub(crate) fn refusal_as(&self, behind: &[&str], args: &[&str]) -> String {
        let words = [behind, &[BINARY]].concat();
        let mut command = self.command(words[0]);
        command
            .args(&words[1..])
            .args(["--node-name", "lb1"])
            .args(args)
            .arg("--state-dir")
            .arg(self.state())
            .arg("--bpffs")
            .arg(self.pins())
            .arg("--socket")
            .arg(self.socket("lb1"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let output = wait(child);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Whether an XDP program is attached.
    pub(crate) fn has_program(&self, interface: &str) -> bool {
        let output = run(self.command("ip").args(["link", "show", interface]));
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("prog/xdp")
    }
}

/// Where the API of a node listens.
pub(crate) fn port_of(name: &str) -> u16 {
    7000 + name.bytes().map(u16::from).sum::<u16>()
}

/// Waits for the end, but not for ever.
fn wait(mut child: Child) -> Output {
    until("the process ends", || child.try_wait().unwrap());
    child.wait_with_output().unwrap()
}

impl Drop for Place {
    fn drop(&mut self) {
        let bpf = self.dir.path().join("bpf");
        drop(Command::new("umount").arg(bpf).output());
        drop(
            Command::new("ip")
                .args(["netns", "del", &self.namespace])
                .output(),
        );
    }
}

/// A running appliance.
pub(crate) struct Appliance<'a> {
    place: &'a Place,
    name: String,
    child: Child,
}

impl<'a> Appliance<'a> {
    /// With state, pins and socket of its own; two in one place must have different names.
    pub(crate) fn start(place: &'a Place, name: &str) -> Self {
        Self::start_on(place, name, &["lan0"])
    }

    /// The same with other interfaces.
    pub(crate) fn start_on(place: &'a Place, name: &str, interfaces: &[&str]) -> Self {
        let manifests = place.manifests();
        let manifests = manifests.to_str().unwrap();
        Self::start_with(place, name, interfaces, &["--manifests", manifests])
    }

    /// The same with other arguments.
    pub(crate) fn start_with(
        place: &'a Place,
        name: &str,
        interfaces: &[&str],
        extra: &[&str],
    ) -> Self {
        let listen = format!("127.0.0.1:{}", port_of(name));
        let (state, pins) = (place.state().join(name), place.pins_of(name));
        let socket = place.socket(name);
        let mut args = vec!["--node-name", name, "--listen", &listen];
        args.extend(interfaces.iter().flat_map(|i| ["--interface", *i]));
        args.extend(["--state-dir", state.to_str().unwrap()]);
        args.extend(["--bpffs", pins.to_str().unwrap()]);
        args.extend(["--socket", socket.to_str().unwrap()]);
        args.extend(extra);
        Self::start_by(place, name, &args)
    }

    /// With these arguments and no others; its socket must be that of its name.
    pub(crate) fn start_by(place: &'a Place, name: &str, args: &[&str]) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(place.dir.path().join(format!("{name}.log")))
            .unwrap();
        let mut command = place.command(BINARY);
        command.args(args).stdout(Stdio::null()).stderr(log);
        Self {
            place,
            name: name.to_owned(),
            child: command.spawn().unwrap(),
        }
    }

    fn ask<T>(&self, question: impl AsyncFnOnce(Client) -> Option<T>) -> Option<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let client = Client::new(self.place.socket(&self.name).to_str()).unwrap();
        runtime.unwrap().block_on(question(client))
    }

    /// `None` while nobody answers.
    pub(crate) fn status(&self) -> Option<StatusView> {
        self.ask(async |client| client.status().await.ok())
    }

    pub(crate) fn l2(&self) -> Vec<L2Row> {
        self.ask(async |client| client.l2().await.ok())
            .unwrap_or_default()
    }

    pub(crate) fn services(&self) -> Vec<ServiceView> {
        self.ask(async |client| client.services().await.ok())
            .unwrap_or_default()
    }

    /// A Service of the default namespace, as the API has it.
    pub(crate) fn object(&self, name: &str) -> Option<serde_json::Value> {
        let kubeconfig = self.place.state().join(&self.name).join("kubeconfig");
        let text = std::fs::read_to_string(kubeconfig).ok()?;
        self.place.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let (client, _) = fairlead_appliance::join::client(&text, None).await.ok()?;
                let services: kube::Api<k8s_openapi::api::core::v1::Service> =
                    kube::Api::default_namespaced(client);
                serde_json::to_value(services.get(name).await.ok()?).ok()
            })
        })
    }

    /// What Prometheus would read.
    pub(crate) fn metrics(&self) -> String {
        let mut stream = UnixStream::connect(self.place.socket(&self.name)).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn log(&self) -> String {
        let path = self.place.dir.path().join(format!("{}.log", self.name));
        std::fs::read_to_string(Path::new(&path)).unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; it must end with success.
    pub(crate) fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = until("it stops", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Appliance<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            drop(writeln!(
                std::io::stderr(),
                "--- {}\n{}",
                self.name,
                self.log()
            ));
        }
    }
}

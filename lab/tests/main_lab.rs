//! The main topology as a user meets it: built, checked and removed by the program itself, and the
//! measuring tools against real servers. Needs root; without it these fail.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use fairlead_lab::clock;
use fairlead_lab::runner::Lab;
use fairlead_lab::traffic::connections::{Connections, Talker};
use fairlead_lab::traffic::dark::darkness;
use fairlead_lab::traffic::probe::Probe;
use fairlead_lab::traffic::requests::{requests, upload};

/// The main topology under a name of its own, removed at the end of the test; and a folder for evidence.
struct Guard(String, tempfile::TempDir);

impl Guard {
    fn new(purpose: &str) -> Self {
        let evidence = tempfile::tempdir().expect("a temporary folder can be made");
        Self(format!("m{}-{purpose}", std::process::id()), evidence)
    }

    fn run(&self, verb: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fairlead-lab"));
        command
            .args([verb, "main", "--as", &self.0])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        command
            .env("TMPDIR", self.1.path())
            .output()
            .expect("the program starts")
    }

    fn succeed(&self, verb: &str) -> String {
        let output = self.run(verb);
        let text = String::from_utf8([output.stdout, output.stderr].concat())
            .expect("the program writes text");
        assert!(output.status.success(), "{verb}: {text}");
        text
    }

    fn up(&self) -> Lab {
        self.succeed("up");
        self.succeed("check");
        Lab::open(&self.0).expect("it is up")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        Lab::down(&self.0).expect("a lab goes down");
    }
}

#[test]
fn it_comes_up_holds_its_checks_and_goes_down() {
    let lab = Guard::new("cli");
    let text = lab.succeed("up");
    assert!(
        text.contains("is up: b1, b2, b3, client, lb1, lb2, switch"),
        "{text}"
    );
    assert!(lab.succeed("check").contains("23 checks hold"));
    // A fault that a check must see.
    let running = Lab::open(&lab.0).unwrap();
    running
        .node("lb2")
        .unwrap()
        .run(&["ethtool", "-K", "eth1", "gro", "off"])
        .unwrap();
    let output = lab.run("check");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(
        text.contains("lb2 has GRO on and transmit checksums off: it does not"),
        "{text}"
    );
    lab.succeed("down");
    assert!(!lab.run("check").status.success());
}

#[test]
fn a_link_that_is_cut_for_a_while_is_dark_and_breaks_no_connection() {
    let guard = Guard::new("cut");
    let lab = guard.up();
    let client = lab.node("client").unwrap();
    let tcp: SocketAddr = "[fd10::21]:8080".parse().unwrap();
    let talking = Connections::open(&client, tcp, 20, Talker::Client).unwrap();
    let listening = Connections::open(&client, tcp, 20, Talker::Server).unwrap();
    assert_eq!(listening.spread.get("b1"), Some(&20));
    let echoes = Probe::udp(&client, "[fd10::21]:7007".parse().unwrap()).unwrap();
    let connects = Probe::tcp(&client, tcp).unwrap();
    for probe in [&echoes, &connects] {
        assert!(probe.wait_answered_after(Duration::ZERO, Duration::from_secs(5)));
    }
    let (switch, port) = lab.across("b1", "eth1").unwrap();
    let switch = lab.node(&switch).unwrap();
    switch.run(&["ip", "link", "set", &port, "down"]).unwrap();
    let cut = clock::now();
    assert!(!echoes.wait_answered_after(cut, Duration::from_millis(300)));
    switch.run(&["ip", "link", "set", &port, "up"]).unwrap();
    assert!(echoes.wait_answered_after(clock::now(), Duration::from_secs(10)));
    assert_eq!((talking.ask().broken, listening.ask().broken), (0, 0));
    for samples in [echoes.stop().unwrap(), connects.stop().unwrap()] {
        let dark = darkness(&samples);
        assert!(
            dark.longest >= Duration::from_millis(300) && dark.recovered,
            "{dark:?}"
        );
    }
}

#[test]
fn a_server_that_dies_breaks_its_connections_and_requests() {
    let guard = Guard::new("dies");
    let lab = guard.up();
    let client = lab.node("client").unwrap();
    let tcp: SocketAddr = "10.10.0.22:8080".parse().unwrap();
    let talking = Connections::open(&client, tcp, 10, Talker::Client).unwrap();
    let listening = Connections::open(&client, tcp, 10, Talker::Server).unwrap();
    let answered = requests(&client, tcp, 50).unwrap();
    assert_eq!((answered.failed, answered.spread.get("b2")), (0, Some(&50)));
    assert_eq!(upload(&client, tcp, 1 << 20).unwrap(), "b2");
    let namespace = lab.node("b2").unwrap().namespace().to_owned();
    let pids = Command::new("ip")
        .args(["netns", "pids", &namespace])
        .output()
        .unwrap();
    for pid in String::from_utf8(pids.stdout).unwrap().split_whitespace() {
        assert!(
            Command::new("kill")
                .args(["-9", pid])
                .status()
                .unwrap()
                .success()
        );
    }
    let (talking, listening) = (talking.ask(), listening.ask());
    assert_eq!((talking.asked, talking.broken), (10, 10), "{talking:?}");
    assert_eq!(
        (listening.asked, listening.broken),
        (10, 10),
        "{listening:?}"
    );
    let refused = requests(&client, tcp, 8).unwrap();
    assert_eq!(
        (refused.failed, refused.why.get("refused")),
        (8, Some(&8)),
        "{refused:?}"
    );
}

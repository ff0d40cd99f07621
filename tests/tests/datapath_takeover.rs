//! Forwarding survives the process (invariant I3): killed with -9, restarted, taken over, and no packet is lost.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: at once, and where it happened"
)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fairlead_tests::lan::{Lan, mac_text};
use fairlead_tests::pins::PinDir;
use fairlead_tests::require_root;

const VIP: &str = "10.77.9.9";
const PORT: u16 = 7;
/// Every so often one datagram is sent.
const GAP: Duration = Duration::from_micros(300);
/// Nothing in flight takes longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// The process that holds the datapath, and what it said when it was ready.
struct Holder {
    child: Child,
    said: String,
}

impl Holder {
    fn start(lan: &Lan, pins: &PinDir) -> Self {
        let own = mac_text(lan.station(2).unwrap().mac);
        let server = mac_text(lan.station(3).unwrap().mac);
        let mut child = lan
            .node(2)
            .command(env!("CARGO_BIN_EXE_datapath-holder"))
            .arg(pins.path())
            .args(["eth0", &own, VIP, &PORT.to_string(), &server])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut said)
            .unwrap();
        Self { child, said }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_killed_and_restarted_loader_loses_no_packet() {
    require_root();
    let lan = Lan::new(3).unwrap();
    let pins = PinDir::new();
    lan.hold_vip(3, VIP).unwrap();
    lan.point_vip(1, 2, VIP).unwrap();
    let (server, client) = (
        bind(&lan, 3, &format!("{VIP}:{PORT}")),
        bind(&lan, 1, "10.77.0.1:0"),
    );

    let first = Holder::start(&lan, &pins);
    assert_eq!(first.said.trim(), "attached Native taken_over=false");

    let stop = AtomicBool::new(false);
    let (sent, answered) = std::thread::scope(|scope| {
        let at_end = SetOnDrop(&stop);
        scope.spawn(|| echo(&server, &stop));
        let answers = scope.spawn(|| collect(&client, &stop));
        let sender = scope.spawn(|| send(&client, &stop));
        first.kill();
        for _ in 0..5 {
            let next = Holder::start(&lan, &pins);
            assert_eq!(next.said.trim(), "attached Native taken_over=true");
            next.kill();
        }
        drop(at_end);
        (sender.join().unwrap(), answers.join().unwrap())
    });
    assert!(
        sent > 500,
        "only {sent} datagrams were sent: the test shows nothing"
    );
    let lost: Vec<u64> = (0..sent).filter(|n| !answered.contains(n)).collect();
    let some = &lost[..lost.len().min(20)];
    assert!(
        lost.is_empty(),
        "{} of {sent} lost, first {some:?}",
        lost.len()
    );
    assert_one_set_pinned(&pins);
}

/// Ends the traffic, also when the test fails half-way.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// After the last take-over nothing of the earlier sets is left.
fn assert_one_set_pinned(pins: &PinDir) {
    let layouts: Vec<_> = std::fs::read_dir(pins.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap() != "links")
        .collect();
    assert_eq!(layouts.len(), 1, "{layouts:?}");
    let progs: Vec<_> = std::fs::read_dir(&layouts[0])
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("PROGS"))
        .collect();
    assert_eq!(progs, ["PROGS"]);
}

fn bind(lan: &Lan, node: u8, addr: &str) -> UdpSocket {
    let socket = lan
        .node(node)
        .enter(|| UdpSocket::bind(addr))
        .unwrap()
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    socket
}

fn echo(server: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    let mut quiet = Duration::ZERO;
    while !stop.load(Ordering::Acquire) || quiet < PATIENCE {
        match server.recv_from(&mut buffer) {
            Ok((length, peer)) => {
                quiet = Duration::ZERO;
                server.send_to(&buffer[..length], peer).unwrap();
            }
            Err(_) => quiet += Duration::from_millis(50),
        }
    }
}

fn send(client: &UdpSocket, stop: &AtomicBool) -> u64 {
    let mut n = 0_u64;
    while !stop.load(Ordering::Acquire) {
        client
            .send_to(&n.to_be_bytes(), format!("{VIP}:{PORT}"))
            .unwrap();
        n += 1;
        pause(GAP);
    }
    n
}

fn collect(client: &UdpSocket, stop: &AtomicBool) -> BTreeSet<u64> {
    let (mut answered, mut buffer, mut quiet) = (BTreeSet::new(), [0; 64], Duration::ZERO);
    while !stop.load(Ordering::Acquire) || quiet < PATIENCE {
        match client.recv_from(&mut buffer) {
            Ok((8, _)) => {
                quiet = Duration::ZERO;
                answered.insert(u64::from_be_bytes(buffer[..8].try_into().unwrap()));
            }
            Ok((length, peer)) => panic!("{length} bytes from {peer}"),
            Err(_) => quiet += Duration::from_millis(50),
        }
    }
    answered
}

/// Paces the sender; nothing is waited for.
fn pause(gap: Duration) {
    std::thread::park_timeout(gap);
}

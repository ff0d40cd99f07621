//! A LAN for tests: network namespaces of their own for the node and a station; needs root and iproute2, and says so.

use std::{process::Command, sync::mpsc, thread::JoinHandle, time::Duration};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Moves the calling thread into a namespace of its own, with `eth0` (192.0.2.1/24, 2001:db8::1/64) up, and runs `test` there.
pub(crate) fn on_a_lan(station: &'static [&'static str], test: impl AsyncFnOnce(&Station)) {
    unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root (CLONE_NEWNET)");
    ip("link set lo up");
    ip("link add eth0 type veth peer name port");
    let station = Station::new(station);
    ip("link set eth0 up");
    ip("addr add 192.0.2.1/24 dev eth0");
    ip("addr add 2001:db8::1/64 dev eth0 nodad");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test(&station));
}

/// `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("this test needs iproute2");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// What is at the other end of the cable.
pub(crate) struct Station {
    commands: Option<mpsc::Sender<String>>,
    done: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Station {
    fn new(first: &'static [&'static str]) -> Self {
        let (commands, inbox) = mpsc::channel::<String>();
        let (reply, done) = mpsc::channel();
        let (tid_tx, tid_rx) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tid_tx.send(gettid()).unwrap();
            for command in inbox {
                ip(&command);
                reply.send(()).unwrap();
            }
        });
        let tid = tid_rx.recv().unwrap();
        ip(&format!("link set port netns {tid}"));
        let station = Self {
            commands: Some(commands),
            done,
            thread: Some(thread),
        };
        for command in first {
            station.ip(command);
        }
        station.ip("link set port up");
        station
    }

    /// `ip` over there.
    pub(crate) fn ip(&self, arguments: &str) {
        let commands = self.commands.as_ref().unwrap();
        commands.send(arguments.to_owned()).unwrap();
        self.done.recv().expect("the station carried it out");
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed already, and the test fails by the missing answer.
            drop(thread.join());
        }
    }
}

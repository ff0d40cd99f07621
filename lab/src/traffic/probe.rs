//! Probes at a fixed pace, each an attempt of its own, from which [`super::dark`] tells darkness.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::ask::any;
use super::dark::Sample;
use crate::clock;
use crate::error::LabError;
use crate::node::Node;

/// Pause between UDP echoes.
pub const UDP_EVERY: Duration = Duration::from_millis(5);
/// Pause between TCP connects.
pub const TCP_EVERY: Duration = Duration::from_millis(20);
/// How long an attempt may take. Below the second after which TCP would repeat its SYN: a repeated
/// SYN is another attempt, and counting it as this one would hide darkness.
pub const TCP_PATIENCE: Duration = Duration::from_millis(900);
/// How long answers are awaited after the last probe.
const GRACE: Duration = Duration::from_millis(300);

/// A series of probes that is running.
#[derive(Debug)]
pub struct Probe {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Vec<Sample>, LabError>>,
}

/// What the probing threads tell while they run.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Send time of the latest answered probe, in microseconds of [`clock::now`]; 0 = none yet.
    answered: AtomicU64,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, sent: Duration) {
        self.answered.fetch_max(micros(sent), Ordering::Relaxed);
    }
}

impl Probe {
    /// Sends a UDP echo from `node` to `target` every [`UDP_EVERY`].
    pub fn udp(node: &Node, target: SocketAddr) -> Result<Self, LabError> {
        Self::start(node, move |shared| udp(target, shared))
    }

    /// Opens a TCP connection from `node` to `target` every [`TCP_EVERY`].
    pub fn tcp(node: &Node, target: SocketAddr) -> Result<Self, LabError> {
        Self::start(node, move |shared| Ok(tcp(target, shared)))
    }

    fn start<F>(node: &Node, work: F) -> Result<Self, LabError>
    where
        F: FnOnce(&Arc<Shared>) -> std::io::Result<Vec<Sample>> + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let name = node.name().to_owned();
        let thread = node.thread_in_netns(move || {
            work(&theirs).map_err(LabError::io(|| format!("probe from {name}")))
        })?;
        Ok(Self { shared, thread })
    }

    /// Send time of the latest answered probe; `None` before the first.
    pub fn last_answered(&self) -> Option<Duration> {
        let answered = self.shared.answered.load(Ordering::Relaxed);
        (answered != 0).then(|| Duration::from_micros(answered))
    }

    /// Waits until a probe that was sent after `moment` is answered; whether that came to pass.
    pub fn wait_answered_after(&self, moment: Duration, patience: Duration) -> bool {
        let answered = || self.last_answered().filter(|at| *at > moment);
        clock::poll(patience, answered).is_some()
    }

    /// Ends the series; its samples in order of their send times.
    pub fn stop(self) -> Result<Vec<Sample>, LabError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Calls `send` at the given pace until stopped; a late call shifts none of the following ones.
fn paced(shared: &Shared, every: Duration, mut send: impl FnMut(Duration)) {
    let mut next = clock::now();
    while !shared.stopped() {
        clock::wait_until(next);
        send(clock::now());
        next = (next + every).max(clock::now());
    }
}

fn udp(target: SocketAddr, shared: &Arc<Shared>) -> std::io::Result<Vec<Sample>> {
    let socket = UdpSocket::bind((any(target), 0))?;
    super::deepen(&socket)?;
    let answers = socket.try_clone()?;
    answers.set_read_timeout(Some(Duration::from_millis(20)))?;
    let theirs = Arc::clone(shared);
    let receiver = thread::spawn(move || receive(&answers, target, &theirs));
    let mut sent = Vec::new();
    paced(shared, UDP_EVERY, |now| {
        let mut probe = [0; 16];
        probe[..8].copy_from_slice(&(sent.len() as u64).to_be_bytes());
        probe[8..].copy_from_slice(&micros(now).to_be_bytes());
        // No route or no neighbour is an unanswered probe like any other.
        socket.send_to(&probe, target).ok();
        sent.push(now);
    });
    let answered = receiver
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok((0..)
        .zip(sent)
        .map(|(n, at)| (at, answered.get(&n).map(|a| a.saturating_sub(at))))
        .collect())
}

/// Collects the numbers of answered probes, each with the time of its first answer, until [`GRACE`] after the stop.
fn receive(socket: &UdpSocket, target: SocketAddr, shared: &Shared) -> BTreeMap<u64, Duration> {
    let mut answered = BTreeMap::new();
    let mut buffer = [0; 256];
    let mut end = None;
    loop {
        if shared.stopped() && end.is_none() {
            end = Some(clock::now() + GRACE);
        }
        if end.is_some_and(|end| clock::now() >= end) {
            return answered;
        }
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        // An answer from any other address is a broken translation, not an answer.
        if length > 16 && from == target {
            let number = |at: usize| {
                u64::from_be_bytes(
                    buffer[at..at + 8]
                        .try_into()
                        .expect("eight bytes are eight bytes"),
                )
            };
            answered.entry(number(0)).or_insert_with(clock::now);
            shared.note(Duration::from_micros(number(8)));
        }
    }
}

fn tcp(target: SocketAddr, shared: &Arc<Shared>) -> Vec<Sample> {
    let mut attempts: Vec<(Duration, JoinHandle<Option<Duration>>)> = Vec::new();
    paced(shared, TCP_EVERY, |now| {
        let theirs = Arc::clone(shared);
        let attempt = thread::Builder::new().stack_size(64 << 10).spawn(move || {
            TcpStream::connect_timeout(&target, TCP_PATIENCE).ok()?;
            theirs.note(now);
            Some(clock::now().saturating_sub(now))
        });
        // A machine out of threads cannot measure: say so instead of reporting darkness.
        attempts.push((
            now,
            attempt.expect("a lab's client has fewer than a hundred threads"),
        ));
    });
    let outcome = |attempt: JoinHandle<Option<Duration>>| {
        attempt
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    };
    attempts
        .into_iter()
        .map(|(at, attempt)| (at, outcome(attempt)))
        .collect()
}

fn micros(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}

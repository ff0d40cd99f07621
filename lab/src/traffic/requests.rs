//! Requests and uploads, each on a connection of its own.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::thread;

use super::ask::{connect, tcp};
use super::connections::{line, word};
use super::proto;
use crate::error::LabError;
use crate::node::Node;

/// Requests under way at once.
const WORKERS: usize = 8;

/// What became of a number of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Requests made.
    pub requests: usize,
    /// Those without a proper answer.
    pub failed: usize,
    /// Answers by server.
    pub spread: BTreeMap<String, usize>,
    /// How often each failure was seen.
    pub why: BTreeMap<String, usize>,
}

impl Outcome {
    /// Adds what became of other requests.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        for (server, count) in other.spread {
            *self.spread.entry(server).or_default() += count;
        }
        for (why, count) in other.why {
            *self.why.entry(why).or_default() += count;
        }
    }
}

/// Makes `count` requests from `node` to `target`.
pub fn requests(node: &Node, target: SocketAddr, count: usize) -> Result<Outcome, LabError> {
    let answers = node.in_netns(|| {
        thread::scope(|scope| {
            let share = |worker| count / WORKERS + usize::from(worker < count % WORKERS);
            let workers: Vec<_> = (0..WORKERS)
                .map(|w| {
                    scope.spawn(move || (0..share(w)).map(|_| tcp(target)).collect::<Vec<_>>())
                })
                .collect();
            let finish = |w: thread::ScopedJoinHandle<'_, Vec<_>>| {
                w.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers
                .into_iter()
                .flat_map(finish)
                .collect::<Vec<io::Result<String>>>()
        })
    })?;
    let mut outcome = Outcome {
        requests: answers.len(),
        ..Outcome::default()
    };
    for answer in answers {
        match answer {
            Ok(server) => *outcome.spread.entry(server).or_default() += 1,
            Err(e) => {
                outcome.failed += 1;
                *outcome.why.entry(word(&e)).or_default() += 1;
            }
        }
    }
    Ok(outcome)
}

/// Sends `length` bytes from `node` to `target`; the server's name if all arrived unharmed.
pub fn upload(node: &Node, target: SocketAddr, length: usize) -> Result<String, LabError> {
    let what = || format!("upload {length} bytes from {} to {target}", node.name());
    node.in_netns(|| send(target, length))?
        .map_err(LabError::io(what))
}

fn send(target: SocketAddr, length: usize) -> io::Result<String> {
    let body: Vec<u8> = (0..length)
        .map(|i| (i * 31 % 251).to_le_bytes()[0])
        .collect();
    let mut stream = connect(target)?;
    writeln!(stream, "SINK {length}")?;
    let server = line(&mut stream)?;
    stream.write_all(&body)?;
    let arrived = line(&mut stream)?;
    let expected = format!("{length} {}", proto::checksum(proto::CHECKSUM_SEED, &body));
    if arrived == expected {
        Ok(server)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

//! Sets of open TCP connections, and how many a move broke.
//!
//! *Broken*: a reset, or a byte sent after the move that is not echoed within 3 s. *Broken while
//! listening*: a reset, or nothing new from the server within 3 s, on a connection on which only the
//! server talks. Every connection is asked.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::clock;
use crate::error::LabError;
use crate::node::Node;

/// How long a connection has to prove itself.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Who talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talker {
    /// The client; the server echoes.
    Client,
    /// The server only.
    Server,
}

/// A set of open connections.
#[derive(Debug)]
pub struct Connections {
    streams: Vec<TcpStream>,
    talker: Talker,
    /// How many went to which server.
    pub spread: BTreeMap<String, usize>,
}

/// What became of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Connections asked.
    pub asked: usize,
    /// Those that failed the question.
    pub broken: usize,
    /// How often each failure was seen.
    pub why: BTreeMap<String, usize>,
}

impl Outcome {
    /// Adds what became of another set.
    pub fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.broken += other.broken;
        for (why, count) in other.why {
            *self.why.entry(why).or_default() += count;
        }
    }
}

impl Connections {
    /// Opens `count` connections from `node` to `target`; all must open.
    pub fn open(
        node: &Node,
        target: SocketAddr,
        count: usize,
        talker: Talker,
    ) -> Result<Self, LabError> {
        let opened = node.in_netns(|| (0..count).map(|_| open_one(target, talker)).collect());
        let opened: io::Result<Vec<_>> = opened?;
        let what = || format!("open {count} connections from {} to {target}", node.name());
        let mut spread = BTreeMap::new();
        let mut streams = Vec::new();
        for (stream, server) in opened.map_err(LabError::io(what))? {
            *spread.entry(server).or_default() += 1;
            streams.push(stream);
        }
        Ok(Self {
            streams,
            talker,
            spread,
        })
    }

    /// Asks every connection, all at once.
    pub fn ask(self) -> Outcome {
        let until = clock::now() + PATIENCE;
        let asked = self.streams.len();
        let prepared: Vec<_> = self
            .streams
            .into_iter()
            .map(|mut stream| {
                let ready = match self.talker {
                    Talker::Client => stream.write_all(b"?"),
                    Talker::Server => drain(&mut stream),
                };
                ready.map(|()| stream)
            })
            .collect();
        let mut why = BTreeMap::new();
        for failure in prepared.into_iter().filter_map(|ready| {
            ready
                .and_then(|stream| answer(stream, self.talker, until))
                .err()
        }) {
            *why.entry(word(&failure)).or_default() += 1;
        }
        Outcome {
            asked,
            broken: why.values().sum(),
            why,
        }
    }
}

fn open_one(target: SocketAddr, talker: Talker) -> io::Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(match talker {
        Talker::Client => b"HELLO\n",
        Talker::Server => b"TALK\n",
    })?;
    let server = line(&mut stream)?;
    Ok((stream, server))
}

/// Reads a line byte by byte: a buffered reader could swallow what comes behind it.
pub(super) fn line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < super::proto::MAX_LINE {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Throws away what has arrived so far: it may be from before the move.
fn drain(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    stream.set_nonblocking(false)
}

fn answer(mut stream: TcpStream, talker: Talker, until: Duration) -> io::Result<()> {
    let left = until
        .saturating_sub(clock::now())
        .max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    match talker {
        Talker::Client if byte != *b"?" => Err(io::ErrorKind::InvalidData.into()),
        Talker::Client | Talker::Server => Ok(()),
    }
}

/// A closed set of words for what breaks connections.
pub(super) fn word(failure: &io::Error) -> String {
    match failure.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "silent".to_owned(),
        io::ErrorKind::ConnectionReset => "reset".to_owned(),
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::UnexpectedEof => "closed".to_owned(),
        io::ErrorKind::InvalidData => "wrong answer".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "unreachable".to_owned()
        }
        other => format!("{other:?}"),
    }
}

//! Connections that can be asked again and again.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fairlead_lab::clock;
use fairlead_lab::drive::Frontends;
use fairlead_lab::node::Node;

use crate::tables::Flow;

/// How long an answer may take: the 3 s.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two rounds of questions.
const ROUND_EVERY: Duration = Duration::from_millis(50);

/// A live connection.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: TcpStream,
    /// Its ends.
    pub(crate) flow: Flow,
    /// N of the server `bN` that took it.
    pub(crate) server: u16,
    /// Why it broke, once it has.
    pub(crate) broken: Option<String>,
}

/// Opens `count` connections, divided over the TCP frontends; all must open.
pub(crate) fn open(client: &Node, service: &Frontends, count: usize) -> Vec<Conn> {
    let opened = client.in_netns(|| {
        let each = |(target, share): (SocketAddr, usize)| {
            (0..share)
                .map(|_| open_one(target))
                .collect::<io::Result<Vec<_>>>()
        };
        service
            .divide(count)
            .map(each)
            .collect::<io::Result<Vec<_>>>()
    });
    let opened = opened.expect("the client has a network");
    let all = opened.expect("every connection opens");
    all.into_iter().flatten().collect()
}

fn open_one(target: SocketAddr) -> io::Result<Conn> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"HELLO\n")?;
    let mut name = [0; 3];
    stream.read_exact(&mut name)?;
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let name = std::str::from_utf8(&name).map_err(|_utf8| bad())?;
    let server = name.strip_prefix('b').and_then(|n| n.strip_suffix('\n'));
    let server = server.and_then(|n| n.parse().ok()).ok_or_else(bad)?;
    let flow = (stream.local_addr()?, target);
    Ok(Conn {
        stream,
        flow,
        server,
        broken: None,
    })
}

/// Asks all that are whole, all at once; a byte that does not come back within [`PATIENCE`] is a break.
pub(crate) fn ask<'a>(conns: impl IntoIterator<Item = &'a mut Conn>) {
    let until = clock::now() + PATIENCE;
    let whole = conns.into_iter().filter(|conn| conn.broken.is_none());
    let mut asked = Vec::new();
    for conn in whole {
        match conn.stream.write_all(b"?") {
            Ok(()) => asked.push(conn),
            Err(e) => conn.broken = Some(e.to_string()),
        }
    }
    for conn in asked {
        conn.broken = conn.answer(until).err().map(|e| e.to_string());
    }
}

impl Conn {
    fn answer(&mut self, until: Duration) -> io::Result<()> {
        let left = until.saturating_sub(clock::now());
        self.stream
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        if byte == *b"?" {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

/// Runs `work` while `conns` are asked in rounds, from the end of a first round to the end of a last one.
pub(crate) fn while_talking<T>(conns: &mut [&mut Conn], work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    ask(conns.iter_mut().map(|conn| &mut **conn));
    std::thread::scope(|scope| {
        let talk = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let next = clock::now() + ROUND_EVERY;
                ask(conns.iter_mut().map(|conn| &mut **conn));
                clock::wait_until(next);
            }
        });
        // The talk must end when the work panics, or the scope would wait for ever.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        talk.join().expect("asking does not panic");
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Those that broke among the connections for which `counts`: why, by server and family.
pub(crate) fn broken<'a>(
    conns: impl IntoIterator<Item = &'a Conn>,
    counts: impl Fn(&Conn) -> bool,
) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for conn in conns.into_iter().filter(|conn| counts(conn)) {
        if let Some(why) = &conn.broken {
            let what = format!("b{} by {}: {why}", conn.server, conn.flow.1);
            *found.entry(what).or_default() += 1;
        }
    }
    found
}

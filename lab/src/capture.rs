//! The latest frames on a node, kept in memory and written as a pcap file when something failed.
//!
//! On a bridge each frame is taken once, where it comes in. Frames that XDP answers or sends never
//! become visible on the node that runs XDP, so the place to capture is the switch.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::clock;
use crate::error::LabError;
use crate::node::Node;

#[cfg(test)]
mod tests;

/// Frames kept; a failover's few seconds at the lab's load are a tenth of it.
const FRAMES: usize = 100_000;
/// Bytes kept of each frame: headers, and the start of what they carry.
const SNAP: usize = 192;
/// `sll_pkttype` of a frame that this machine sent.
const PACKET_OUTGOING: u8 = 4;

/// A capture that is running.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    /// `None` once it has been asked for its frames.
    thread: Option<JoinHandle<VecDeque<Frame>>>,
}

/// One frame.
#[derive(Debug)]
struct Frame {
    at: Duration,
    length: usize,
    bytes: Vec<u8>,
}

impl Capture {
    /// Captures what comes in on every interface of `node`, `skip` left out.
    pub fn start(node: &Node, skip: &str) -> Result<Self, LabError> {
        let index = node.run(&["cat", &format!("/sys/class/net/{skip}/ifindex")])?;
        let skip = index.trim().parse().unwrap_or(usize::MAX);
        // The socket exists when this returns: no frame sent afterwards is missed.
        let what = format!("capture on {}", node.name());
        let socket = node.in_netns(open)?.map_err(LabError::io(|| what))?;
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let thread = std::thread::spawn(move || frames(&socket, skip, &theirs));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends the capture and writes it to `path`.
    pub fn write(mut self, path: &Path) -> Result<(), LabError> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self
            .thread
            .take()
            .expect("`write` takes the capture, so it runs once");
        let frames = thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        write_pcap(path, &frames).map_err(LabError::io(|| format!("write {}", path.display())))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn open() -> io::Result<OwnedFd> {
    let all = SockProtocol::EthAll;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        all,
    )?;
    setsockopt(
        &socket,
        sockopt::ReceiveTimeout,
        &TimeVal::milliseconds(100),
    )?;
    setsockopt(&socket, sockopt::RcvBuf, &(4 << 20))?;
    Ok(socket)
}

fn frames(socket: &OwnedFd, skip: usize, stop: &AtomicBool) -> VecDeque<Frame> {
    let mut kept = VecDeque::new();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) else {
            continue;
        };
        if from.is_some_and(|f| f.ifindex() == skip || f.pkttype() == PACKET_OUTGOING) {
            continue;
        }
        if kept.len() == FRAMES {
            kept.pop_front();
        }
        let bytes = buffer[..length.min(SNAP)].to_vec();
        kept.push_back(Frame {
            at: clock::wall(),
            length,
            bytes,
        });
    }
    kept
}

/// The classic pcap format, link type Ethernet.
fn write_pcap(path: &Path, frames: &VecDeque<Frame>) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    file.write_all(&0xa1b2_c3d4_u32.to_le_bytes())?;
    file.write_all(&2_u16.to_le_bytes())?;
    file.write_all(&4_u16.to_le_bytes())?;
    file.write_all(&[0; 8])?;
    file.write_all(&word(SNAP))?;
    file.write_all(&1_u32.to_le_bytes())?;
    for frame in frames {
        let seconds = u32::try_from(frame.at.as_secs()).unwrap_or(u32::MAX);
        file.write_all(&seconds.to_le_bytes())?;
        file.write_all(&frame.at.subsec_micros().to_le_bytes())?;
        file.write_all(&word(frame.bytes.len()))?;
        file.write_all(&word(frame.length))?;
        file.write_all(&frame.bytes)?;
    }
    file.flush()
}

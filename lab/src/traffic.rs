//! Clients and servers that measure. Clients are plain blocking code, run on a node's network by
//! [`crate::node::Node::in_netns`]; the protocol between them is in [`proto`].

use std::io;
use std::net::UdpSocket;

use nix::sys::socket::{setsockopt, sockopt};

pub mod ask;
pub mod connections;
pub mod dark;
pub mod echo;
pub mod probe;
pub mod proto;
pub mod requests;

/// Room for a second of everybody's datagrams: a frame that XDP has forwarded counts as a whole page, so the default holds fifty, and a program
/// that waits for a processor must answer late, not lose.
const QUEUE: usize = 8 << 20;

/// Gives a measuring socket room for what comes while its program waits for a processor.
fn deepen(socket: &UdpSocket) -> io::Result<()> {
    // Beyond the machine's limit where we may; a server in a container may not.
    setsockopt(socket, sockopt::RcvBufForce, &QUEUE)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &QUEUE))
        .map_err(Into::into)
}

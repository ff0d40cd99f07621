//! One question to one server, on the network of the calling thread.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::connections::line;

/// How long an answer by UDP is awaited; a lab's LAN answers in less than a millisecond.
const UDP_PATIENCE: Duration = Duration::from_millis(500);
/// How long an answer by TCP is awaited, a repeated SYN included.
const TCP_PATIENCE: Duration = Duration::from_secs(3);

/// A connection that gives up in time.
pub(super) fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, TCP_PATIENCE)?;
    stream.set_read_timeout(Some(TCP_PATIENCE))?;
    stream.set_write_timeout(Some(TCP_PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The name of the server behind `target`, by TCP.
pub fn tcp(target: SocketAddr) -> io::Result<String> {
    let mut stream = connect(target)?;
    stream.write_all(b"HELLO\n")?;
    let server = line(&mut stream)?;
    if server.is_empty() {
        Err(io::ErrorKind::InvalidData.into())
    } else {
        Ok(server)
    }
}

/// The name of the server behind `target`, by UDP.
pub fn udp(target: SocketAddr) -> io::Result<String> {
    let socket = UdpSocket::bind((any(target), 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(UDP_PATIENCE))?;
    socket.send(b"who")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let server = answer.strip_prefix("who ").map(str::to_owned);
    server.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The wildcard address of the family of `target`.
pub(super) fn any(target: SocketAddr) -> IpAddr {
    if target.is_ipv4() {
        [0_u8; 4].into()
    } else {
        [0_u16; 8].into()
    }
}

//! The servers behind the load balancer. Plain threads: a lab has hundreds of connections, not
//! thousands, and a blocking server is the most ordinary peer that the datapath can meet.
//!
//! UDP answers leave from the very address that was asked (packet information), so that a server
//! that holds a VIP on its loopback answers as the VIP.

use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;

use nix::cmsg_space;
use nix::libc::in6_pktinfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
    sockopt,
};

use super::proto;
use crate::clock;

/// Serves until a socket fails. Both sockets are dual-stack wildcards.
pub fn serve(name: &str, tcp_port: u16, udp_port: u16) -> io::Result<()> {
    let any = |port| SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
    let tcp = TcpListener::bind(any(tcp_port))?;
    let udp = UdpSocket::bind(any(udp_port))?;
    super::deepen(&udp)?;
    thread::scope(|scope| {
        let datagrams = scope.spawn(|| answer_datagrams(&udp, name));
        let connections = scope.spawn(|| accept(&tcp, name));
        connections
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        datagrams
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn accept(listener: &TcpListener, name: &str) -> io::Result<()> {
    for stream in listener.incoming() {
        let stream = stream?;
        let name = name.to_owned();
        thread::Builder::new()
            .stack_size(64 << 10)
            // A client that goes away is that client's business; its thread ends.
            .spawn(move || serve_connection(stream, &name).ok())?;
    }
    Ok(())
}

fn serve_connection(stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = stream;
    let mut line = String::new();
    (&mut input)
        .take(proto::MAX_LINE as u64)
        .read_line(&mut line)?;
    writeln!(output, "{name}")?;
    match line
        .trim_end()
        .split_once(' ')
        .unwrap_or_else(|| (line.trim_end(), ""))
    {
        ("TALK", _) => talk(output),
        ("SINK", length) => {
            let length = length.parse().map_err(|bad: std::num::ParseIntError| {
                io::Error::new(io::ErrorKind::InvalidData, bad)
            })?;
            let (count, sum) = swallow(&mut input, length)?;
            writeln!(output, "{count} {sum}")
        }
        _ => io::copy(&mut input, &mut output).map(drop),
    }
}

fn talk(mut output: TcpStream) -> io::Result<()> {
    let mut next = clock::now();
    for count in (0..=u8::MAX).cycle() {
        output.write_all(&[count])?;
        next += proto::TALK_EVERY;
        clock::wait_until(next);
    }
    Ok(())
}

/// Reads up to `length` bytes; how many came, and their sum.
fn swallow(input: &mut impl io::Read, length: u64) -> io::Result<(u64, u64)> {
    let mut input = input.take(length);
    let mut buffer = [0; 16 << 10];
    let (mut count, mut sum) = (0, proto::CHECKSUM_SEED);
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok((count, sum)),
            n => {
                count += n as u64;
                sum = proto::checksum(sum, &buffer[..n]);
            }
        }
    }
}

fn answer_datagrams(socket: &UdpSocket, name: &str) -> io::Result<()> {
    setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    let mut buffer = [0; 2048];
    let mut ancillary = cmsg_space!(in6_pktinfo);
    let fd = socket.as_raw_fd();
    loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let (length, client, asked) = {
            let flags = MsgFlags::empty();
            let message = recvmsg::<SockaddrIn6>(fd, &mut parts, Some(&mut ancillary), flags)?;
            let asked = message.cmsgs()?.find_map(|c| match c {
                ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
                _ => None,
            });
            (message.bytes, message.address, asked)
        };
        let (Some(client), Some(mut from)) = (client, asked) else {
            continue;
        };
        // The route back decides the interface; only the address must be the one that was asked.
        from.ipi6_ifindex = 0;
        let answer = [
            IoSlice::new(&buffer[..length]),
            IoSlice::new(b" "),
            IoSlice::new(name.as_bytes()),
        ];
        let from = [ControlMessage::Ipv6PacketInfo(&from)];
        // An unreachable client must not stop the server for the others.
        sendmsg(fd, &answer, &from, MsgFlags::empty(), Some(&client)).ok();
    }
}

//! What the kernel says about an interface's XDP hook.
//!
//! One netlink request (rtnetlink(7), `RTM_GETLINK`); aya can attach but not ask who is attached.

use std::io;
use std::os::fd::AsRawFd;

use nix::net::if_::{if_indextoname, if_nametoindex};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::DatapathError;
use crate::links::Mode;

const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const ATTACHED_NATIVE: u8 = 1;
const ATTACHED_GENERIC: u8 = 2;
const ATTACHED_MULTI: u8 = 4;
/// Type flags in an attribute's type field.
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSG_HEADER: usize = 16;
const IFINFO: usize = 16;

/// The program on an interface's XDP hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) mode: Mode,
    pub(crate) prog_id: u32,
}

/// Index of an interface in this network namespace.
pub fn ifindex(name: &str) -> Result<u32, DatapathError> {
    if_nametoindex(name).map_err(|_errno| DatapathError::UnknownInterface {
        name: name.to_owned(),
    })
}

/// Name of an interface in this network namespace.
pub fn name(ifindex: u32) -> Result<String, DatapathError> {
    let unknown = || DatapathError::UnknownInterface {
        name: format!("with index {ifindex}"),
    };
    // nix 0.30 takes libc's null for success and returns an empty name.
    match if_indextoname(ifindex).map(std::ffi::CString::into_string) {
        Ok(Ok(name)) if !name.is_empty() => Ok(name),
        _ => Err(unknown()),
    }
}

/// What is attached to the interface's XDP hook, if anything.
pub(crate) fn xdp_hook(ifindex: u32) -> io::Result<Option<Hook>> {
    let request_socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let mut request = Vec::with_capacity(NLMSG_HEADER + IFINFO);
    let length = u32::try_from(NLMSG_HEADER + IFINFO).expect("a small constant");
    request.extend(length.to_ne_bytes());
    request.extend(RTM_GETLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]); // Sequence and port: one request on a socket of its own.
    request.extend([0; 4]); // Family, padding, type.
    request.extend(ifindex.to_ne_bytes());
    request.extend([0; 8]); // Flags, change mask.
    sendto(
        request_socket.as_raw_fd(),
        &request,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut reply = vec![0; 64 * 1024];
    let length = recv(request_socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    parse_link(&reply[..length])
}

fn parse_link(reply: &[u8]) -> io::Result<Option<Hook>> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "a netlink message ends early");
    let kind = reply
        .get(4..6)
        .map(|b| u16::from_ne_bytes([b[0], b[1]]))
        .ok_or_else(short)?;
    if kind == NLMSG_ERROR {
        let errno = reply
            .get(16..20)
            .map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
            .ok_or_else(short)?;
        return Err(io::Error::from_raw_os_error(-errno));
    }
    let attributes = reply.get(NLMSG_HEADER + IFINFO..).ok_or_else(short)?;
    let Some(xdp) = find(attributes, IFLA_XDP) else {
        return Ok(None);
    };
    let id = |kind| {
        find(xdp, kind)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_ne_bytes)
    };
    let attached = find(xdp, IFLA_XDP_ATTACHED)
        .and_then(|b| b.first().copied())
        .unwrap_or(0);
    let (mode, prog_id) = match attached {
        0 => return Ok(None),
        ATTACHED_GENERIC => (
            Mode::Generic,
            id(IFLA_XDP_SKB_PROG_ID).or_else(|| id(IFLA_XDP_PROG_ID)),
        ),
        ATTACHED_NATIVE | ATTACHED_MULTI => (
            Mode::Native,
            id(IFLA_XDP_DRV_PROG_ID).or_else(|| id(IFLA_XDP_PROG_ID)),
        ),
        _ => (Mode::Native, id(IFLA_XDP_PROG_ID)),
    };
    Ok(prog_id.map(|prog_id| Hook { mode, prog_id }))
}

/// The payload of the first attribute of a type.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((header, _)) = attributes.split_at_checked(4) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let payload = attributes.get(4..length)?;
        if kind == wanted {
            return Some(payload);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Hook, Mode, parse_link};

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link(attributes: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 32];
        message[4..6].copy_from_slice(&16_u16.to_ne_bytes());
        message.extend(attributes);
        message
    }

    #[test]
    fn a_native_program_is_found_behind_other_attributes() {
        let xdp = [attribute(2, &[1]), attribute(4, &77_u32.to_ne_bytes())].concat();
        let message = link(&[attribute(3, b"eth0\0"), attribute(0x802b, &xdp)].concat());
        assert_eq!(
            parse_link(&message).unwrap(),
            Some(Hook {
                mode: Mode::Native,
                prog_id: 77
            })
        );
    }

    #[test]
    fn an_empty_hook_is_no_program() {
        let message = link(&attribute(43, &attribute(2, &[0])));
        assert_eq!(parse_link(&message).unwrap(), None);
        assert_eq!(parse_link(&link(&[])).unwrap(), None);
    }

    #[test]
    fn an_error_and_a_cut_message_are_errors() {
        let mut message = vec![0; 36];
        message[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        message[16..20].copy_from_slice(&(-19_i32).to_ne_bytes());
        assert_eq!(
            parse_link(&message).unwrap_err().raw_os_error(),
            Some(libc::ENODEV)
        );
        assert!(parse_link(&[0; 5]).is_err());
    }
}

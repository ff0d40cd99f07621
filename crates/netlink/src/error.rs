//! What can go wrong when the kernel is asked about its network.

use std::{io, net::IpAddr, time::Duration};

use rtnetlink::packet_core::ErrorMessage;

/// `EPERM`, `EACCES`, `ENODEV`, `ENETUNREACH`, `EHOSTUNREACH` (`errno.h`, the same on every Linux this runs on).
mod errno {
    pub(super) const EPERM: i32 = 1;
    pub(super) const ENXIO: i32 = 6;
    pub(super) const EACCES: i32 = 13;
    pub(super) const ENODEV: i32 = 19;
    pub(super) const EINVAL: i32 = 22;
    pub(super) const ENETUNREACH: i32 = 101;
    pub(super) const EHOSTUNREACH: i32 = 113;
}

/// `EEXIST` and `ENOENT`, `EADDRNOTAVAIL`: the change asked for already holds.
pub(crate) const EEXIST: i32 = 17;
pub(crate) const ENOENT: i32 = 2;
pub(crate) const EADDRNOTAVAIL: i32 = 99;

/// Why a question or a change failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No interface has this name.
    #[error("no interface is called {name:?}; this node has {}", existing.join(", "))]
    InterfaceNotFound {
        /// As asked.
        name: String,
        /// Every interface that exists, in the order of its index.
        existing: Vec<String>,
    },
    /// The interface is gone.
    #[error("{operation}: no interface has index {ifindex}")]
    InterfaceGone {
        /// What was attempted.
        operation: &'static str,
        /// As asked.
        ifindex: u32,
    },
    /// The process may not do this.
    #[error(
        "{operation} needs the capability CAP_NET_ADMIN: run as root or grant it (AmbientCapabilities=CAP_NET_ADMIN)"
    )]
    MissingPermission {
        /// What was attempted.
        operation: &'static str,
    },
    /// The routing table leads nowhere.
    #[error("no route to {to}")]
    NoRoute {
        /// Destination.
        to: IpAddr,
    },
    /// The kernel did not answer in time.
    #[error("{operation}: no answer from the kernel within {}s", deadline.as_secs())]
    Timeout {
        /// What was attempted.
        operation: &'static str,
        /// How long was waited.
        deadline: Duration,
    },
    /// The socket cannot be opened or has failed.
    #[error("{operation}: the netlink socket failed")]
    Socket {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// Any other refusal.
    #[error("{operation} was refused")]
    Refused {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's word.
        #[source]
        source: io::Error,
    },
    /// The answer made no sense to the decoder.
    #[error("{operation}: the answer is not understood")]
    Unexpected {
        /// What was attempted.
        operation: &'static str,
    },
}

impl NetlinkError {
    /// The closed word for conditions, metrics and the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::InterfaceNotFound { .. } => "InterfaceNotFound",
            Self::InterfaceGone { .. } => "InterfaceGone",
            Self::MissingPermission { .. } => "MissingPermission",
            Self::NoRoute { .. } => "NoRoute",
            Self::Timeout { .. } => "NetlinkTimeout",
            Self::Socket { .. } => "NetlinkSocket",
            Self::Refused { .. } => "NetlinkRefused",
            Self::Unexpected { .. } => "NetlinkUnexpected",
        }
    }

    /// `errno` of a refusal that has no variant of its own.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// From what rtnetlink reports for `operation` on `ifindex` (0 = none in particular).
    pub(crate) fn from_rtnetlink(
        operation: &'static str,
        ifindex: u32,
        error: &rtnetlink::Error,
    ) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => {
                Self::from_kernel(operation, ifindex, message)
            }
            rtnetlink::Error::RequestFailed => Self::Socket {
                operation,
                source: io::Error::from(io::ErrorKind::BrokenPipe),
            },
            _ => Self::Unexpected { operation },
        }
    }

    fn from_kernel(operation: &'static str, ifindex: u32, message: &ErrorMessage) -> Self {
        let source = message.to_io();
        match source.raw_os_error() {
            Some(errno::EPERM | errno::EACCES) => Self::MissingPermission { operation },
            Some(errno::ENODEV | errno::ENXIO) => Self::InterfaceGone { operation, ifindex },
            _ => Self::Refused { operation, source },
        }
    }

    /// A refused route lookup means that the table leads nowhere (`unreachable`, `blackhole` and `prohibit` routes have an errno each).
    pub(crate) fn or_no_route(self, to: IpAddr) -> Self {
        match self {
            Self::MissingPermission { .. } => Self::NoRoute { to },
            Self::Refused { ref source, .. }
                if matches!(
                    source.raw_os_error(),
                    Some(errno::ENETUNREACH | errno::EHOSTUNREACH | errno::EINVAL)
                ) =>
            {
                Self::NoRoute { to }
            }
            other => other,
        }
    }
}

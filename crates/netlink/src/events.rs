//! What changes in the kernel's network, as it happens.

use std::pin::Pin;

use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::SocketAddr,
};

use crate::{
    error::NetlinkError,
    types::{Event, Link, address, neighbour},
};

const OPERATION: &str = "listen for network changes";

type Incoming = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// A listening socket; nothing runs in the background. While nobody calls [`Events::next`], the kernel queues, and says so when it overflows.
pub struct Events {
    connection: Pin<Box<dyn Future<Output = ()> + Send>>,
    incoming: Incoming,
}

impl Events {
    /// Listens for links, addresses, routes and neighbours of both families in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, _handle, incoming) = new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])
        .map_err(|source| NetlinkError::Socket {
            operation: OPERATION,
            source,
        })?;
        Ok(Self {
            // The kernel reports a loss once and drops in silence until the queue has been empty. Unconstrained, one poll reads the queue to
            // its end, so that whoever sees `Resync` and reads everything again misses nothing.
            connection: Box::pin(tokio::task::unconstrained(connection)),
            incoming,
        })
    }

    /// The next change. [`Event::Resync`] when the kernel dropped some.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`] when the socket has failed for good: open another and read everything again.
    ///
    /// # Cancel safety
    /// Cancel safe: an event is either returned or still queued.
    pub async fn next(&mut self) -> Result<Event, NetlinkError> {
        loop {
            let message = tokio::select! {
                biased;
                message = self.incoming.next() => message,
                () = &mut self.connection => None,
            };
            let Some((message, _)) = message else {
                return Err(NetlinkError::Socket {
                    operation: OPERATION,
                    source: std::io::Error::from(std::io::ErrorKind::UnexpectedEof),
                });
            };
            if let Some(event) = event(message.payload) {
                return Ok(event);
            }
        }
    }
}

fn event(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(Event::Resync),
        _ => return None,
    };
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(Event::Link(Link::from(&link))),
        RouteNetlinkMessage::DelLink(link) => Some(Event::LinkRemoved {
            ifindex: link.header.index,
        }),
        RouteNetlinkMessage::NewAddress(message) => address(&message).map(Event::Address),
        RouteNetlinkMessage::DelAddress(message) => address(&message).map(Event::AddressRemoved),
        RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => Some(Event::Route),
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message).map(Event::Neighbour),
        RouteNetlinkMessage::DelNeighbour(message) => {
            neighbour(&message).map(|gone| Event::NeighbourRemoved {
                ifindex: gone.ifindex,
                ip: gone.ip,
            })
        }
        _ => None,
    }
}

//! Questions to the kernel and changes to its tables.

use std::{net::IpAddr, time::Duration};

use fairlead_model::MacAddr;
use futures::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, new_connection,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        neighbour::{
            NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags,
            NeighbourMessage, NeighbourState,
        },
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};

use crate::{
    error::{EADDRNOTAVAIL, EEXIST, ENOENT, NetlinkError},
    types::{self, Address, Link, Neighbour, NextHop, NudState, Upkeep},
};

/// The kernel answers from memory; a second is an eternity and still bounded.
const DEADLINE: Duration = Duration::from_secs(5);

/// Asks and changes the network of the calling thread's namespace. Costs nothing to make or clone.
///
/// # Cancel safety
/// Dropping any of its futures closes the socket; a change that was already sent may have happened.
#[derive(Debug, Clone, Copy)]
pub struct Netlink {
    deadline: Duration,
}

impl Default for Netlink {
    fn default() -> Self {
        Self { deadline: DEADLINE }
    }
}

impl Netlink {
    /// With the default deadline of 5 s for each question.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every link, in the order of its index.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut links: Vec<Link> = self
            .call("list links", 0, |handle| async move {
                let messages = handle.link().get().execute();
                messages.map_ok(|m| Link::from(&m)).try_collect().await
            })
            .await?;
        links.sort_unstable_by_key(|link| link.index);
        Ok(links)
    }

    /// The link of this name.
    ///
    /// # Errors
    /// [`NetlinkError::InterfaceNotFound`] names those that exist.
    pub async fn link(&self, name: &str) -> Result<Link, NetlinkError> {
        let links = self.links().await?;
        let existing = links.iter().map(|link| link.name.clone()).collect();
        links
            .into_iter()
            .find(|link| link.name == name)
            .ok_or_else(|| NetlinkError::InterfaceNotFound {
                name: name.to_owned(),
                existing,
            })
    }

    /// Every IPv4 and IPv6 address, in the kernel's order: the first of an interface and family is its primary one.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        self.call("list addresses", 0, |handle| async move {
            let messages = handle.address().get().execute();
            let all: Vec<AddressMessage> = messages.try_collect().await?;
            Ok(all.iter().filter_map(types::address).collect())
        })
        .await
    }

    /// Where a packet from this node to `to` would go.
    ///
    /// # Errors
    /// [`NetlinkError::NoRoute`].
    pub async fn route_to(&self, to: IpAddr) -> Result<NextHop, NetlinkError> {
        const OPERATION: &str = "look up a route";
        let mut request = RouteMessage::default();
        request.header.address_family = family(to);
        request.header.destination_prefix_length = full_prefix(to);
        let destination = RouteAttribute::Destination(RouteAddress::from(to));
        request.attributes.push(destination);
        let answer = self
            .call(OPERATION, 0, |handle| async move {
                let answers = handle.route().get(request).execute();
                futures::pin_mut!(answers);
                answers.try_next().await
            })
            .await
            .map_err(|error| error.or_no_route(to))?;
        let answer = answer.ok_or(NetlinkError::Unexpected {
            operation: OPERATION,
        })?;
        match answer.header.kind {
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => {
                Err(NetlinkError::NoRoute { to })
            }
            _ => types::next_hop(&answer).ok_or(NetlinkError::NoRoute { to }),
        }
    }

    /// Every ARP and neighbour entry.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        self.call("list neighbours", 0, |handle| async move {
            let messages = handle.neighbours().get().execute();
            let all: Vec<NeighbourMessage> = messages.try_collect().await?;
            Ok(all.iter().filter_map(types::neighbour).collect())
        })
        .await
    }

    /// One neighbour's hardware address and state; `None` if there is no entry or no address yet.
    pub async fn neighbour(
        &self,
        ifindex: u32,
        ip: IpAddr,
    ) -> Result<Option<(MacAddr, NudState)>, NetlinkError> {
        let entry = self.neighbour_entry(ifindex, ip).await?;
        Ok(entry.and_then(|entry| entry.mac.map(|mac| (mac, entry.state))))
    }

    /// One neighbour's whole entry.
    pub async fn neighbour_entry(
        &self,
        ifindex: u32,
        ip: IpAddr,
    ) -> Result<Option<Neighbour>, NetlinkError> {
        let request = neighbour_message(ifindex, ip);
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(request));
        message.header.flags = NLM_F_REQUEST;
        let answer = self
            .call("look up a neighbour", ifindex, |handle| {
                ask(handle, message)
            })
            .await;
        match answer {
            Ok(Some(RouteNetlinkMessage::NewNeighbour(found))) => Ok(types::neighbour(&found)),
            Ok(_) => Ok(None),
            Err(error) if error.errno() == Some(ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the kernel resolve `ip` and keep it resolved (`NTF_EXT_MANAGED`), and says who really keeps it fresh. Idempotent.
    ///
    /// An entry set by hand is left as it is: making it managed would take its permanence away.
    ///
    /// # Errors
    /// [`NetlinkError::MissingPermission`], [`NetlinkError::InterfaceGone`].
    ///
    /// # Source
    /// `neigh_add` and `__neigh_update` in the kernel's `net/core/neighbour.c`.
    pub async fn manage_neighbour(&self, ifindex: u32, ip: IpAddr) -> Result<Upkeep, NetlinkError> {
        let before = self.neighbour_entry(ifindex, ip).await?;
        if let Some(entry) = before {
            if matches!(entry.state, NudState::Permanent | NudState::NoArp) {
                return Ok(Upkeep::Static);
            }
            if entry.is_managed {
                return Ok(Upkeep::Kernel);
            }
        }
        let mut message = neighbour_message(ifindex, ip);
        let managed = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
        message.attributes.push(managed);
        self.put_neighbour("manage a neighbour", message).await?;
        // A kernel that ignores the attribute would leave an entry that nobody keeps fresh: ask what it has made of it.
        match self.neighbour_entry(ifindex, ip).await? {
            Some(entry) if entry.is_managed => Ok(Upkeep::Kernel),
            Some(entry) if entry.state == NudState::NoArp => Ok(Upkeep::Static),
            _ => {
                self.probe_neighbour(ifindex, ip).await?;
                Ok(Upkeep::Caller)
            }
        }
    }

    /// Has the kernel ask for `ip` now, whatever it knows.
    pub async fn probe_neighbour(&self, ifindex: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let mut message = neighbour_message(ifindex, ip);
        message.header.flags = NeighbourFlags::Use;
        self.put_neighbour("probe a neighbour", message).await
    }

    /// Gives a managed entry back to the kernel's ordinary ageing, by removing it; it returns when it is needed. Idempotent.
    pub async fn release_neighbour(&self, ifindex: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        match self.neighbour_entry(ifindex, ip).await? {
            Some(entry) if entry.is_managed => {}
            _ => return Ok(()),
        }
        let request = neighbour_message(ifindex, ip);
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::DelNeighbour(request));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let removed = self
            .call("release a neighbour", ifindex, |handle| {
                ask(handle, message)
            })
            .await;
        ignore(removed.map(drop), &[ENOENT])
    }

    /// Adds an address, as `ip address add` does. An address that is there already is no error.
    pub async fn add_address(
        &self,
        ifindex: u32,
        ip: IpAddr,
        prefix_len: u8,
    ) -> Result<(), NetlinkError> {
        let message = address_message(ifindex, ip, prefix_len, AddressFlags::empty());
        self.put_address("add an address", message).await
    }

    /// Removes an address. One that is not there is no error.
    pub async fn remove_address(
        &self,
        ifindex: u32,
        ip: IpAddr,
        prefix_len: u8,
    ) -> Result<(), NetlinkError> {
        let request = address_message(ifindex, ip, prefix_len, AddressFlags::empty());
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::DelAddress(request));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let removed = self
            .call("remove an address", ifindex, |handle| ask(handle, message))
            .await;
        ignore(removed.map(drop), &[EADDRNOTAVAIL])
    }

    /// Joins a multicast group in a way that outlives the process: the group is an address with `IFA_F_MCAUTOJOIN` and `nodad`, and the
    /// kernel itself is the member. Idempotent.
    ///
    /// # Errors
    /// [`NetlinkError::MissingPermission`], [`NetlinkError::InterfaceGone`]; `group` must be multicast, else the kernel refuses.
    pub async fn join_group(&self, ifindex: u32, group: IpAddr) -> Result<(), NetlinkError> {
        let flags = AddressFlags::Mcautojoin | AddressFlags::Nodad;
        let message = address_message(ifindex, group, full_prefix(group), flags);
        self.put_address("join a multicast group", message).await
    }

    /// Undoes [`Netlink::join_group`]. Idempotent.
    pub async fn leave_group(&self, ifindex: u32, group: IpAddr) -> Result<(), NetlinkError> {
        let prefix_len = full_prefix(group);
        self.remove_address(ifindex, group, prefix_len).await
    }

    async fn put_neighbour(
        &self,
        operation: &'static str,
        message: NeighbourMessage,
    ) -> Result<(), NetlinkError> {
        let ifindex = message.header.ifindex;
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.call(operation, ifindex, |handle| ask(handle, message))
            .await
            .map(drop)
    }

    async fn put_address(
        &self,
        operation: &'static str,
        message: AddressMessage,
    ) -> Result<(), NetlinkError> {
        let ifindex = message.header.index;
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewAddress(message));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let added = self
            .call(operation, ifindex, |handle| ask(handle, message))
            .await;
        ignore(added.map(drop), &[EEXIST])
    }

    /// Opens a socket, drives it while `question` runs, closes it.
    async fn call<T, F, Fut>(
        &self,
        operation: &'static str,
        ifindex: u32,
        question: F,
    ) -> Result<T, NetlinkError>
    where
        F: FnOnce(Handle) -> Fut,
        Fut: Future<Output = Result<T, rtnetlink::Error>>,
    {
        let (connection, handle, _unsolicited) =
            new_connection().map_err(|source| NetlinkError::Socket { operation, source })?;
        tokio::select! {
            biased;
            answer = question(handle) => {
                answer.map_err(|error| NetlinkError::from_rtnetlink(operation, ifindex, &error))
            }
            () = connection => Err(NetlinkError::Socket {
                operation,
                source: std::io::Error::from(std::io::ErrorKind::UnexpectedEof),
            }),
            () = tokio::time::sleep(self.deadline) => Err(NetlinkError::Timeout {
                operation,
                deadline: self.deadline,
            }),
        }
    }
}

/// Sends one message; the first answer that is no acknowledgement, if any.
async fn ask(
    mut handle: Handle,
    message: NetlinkMessage<RouteNetlinkMessage>,
) -> Result<Option<RouteNetlinkMessage>, rtnetlink::Error> {
    let mut answers = handle.request(message)?;
    let mut first = None;
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
            NetlinkPayload::InnerMessage(message) => first = first.or(Some(message)),
            _ => {}
        }
    }
    Ok(first)
}

fn ignore(result: Result<(), NetlinkError>, errnos: &[i32]) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| errnos.contains(&errno)) => Ok(()),
        other => other,
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Prefix length of a single address.
fn full_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn neighbour_message(ifindex: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::None;
    let destination = match ip {
        IpAddr::V4(four) => NeighbourAddress::Inet(four),
        IpAddr::V6(six) => NeighbourAddress::Inet6(six),
    };
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination));
    message
}

fn address_message(
    ifindex: u32,
    ip: IpAddr,
    prefix_len: u8,
    flags: AddressFlags,
) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = prefix_len;
    message.header.index = ifindex;
    // Of an IPv4 group in a wider scope the kernel would make a source address, once the interface's own one is removed and added again.
    message.header.scope = if ip.is_multicast() {
        AddressScope::Host
    } else {
        AddressScope::Universe
    };
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(ip));
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

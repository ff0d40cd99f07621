//! What this node reaches: asked of its own agent, and of the kernel.

use std::{net::IpAddr, path::Path, time::Duration};

use fairlead_netlink::Netlink;
use fairlead_observe::Client;

use super::trial::Evidence;

/// An agent answers from memory.
const DEADLINE: Duration = Duration::from_secs(2);
/// An address that nobody has (RFC 5737): the way to it is the default route.
const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// A look; `None` if the agent behind the socket does not answer, or has programmed nothing yet.
///
/// # Cancel safety
/// Nothing is changed.
pub async fn look(socket: &Path) -> Option<Evidence> {
    let client = Client::new(socket.to_str()).ok()?;
    let status = tokio::time::timeout(DEADLINE, client.status())
        .await
        .ok()?
        .ok()?;
    status.generation.programmed?;
    let alive = status
        .peers
        .into_iter()
        .filter(|peer| peer.state == "Alive");
    Some(Evidence {
        api: status.api.is_connected,
        peers: alive.map(|peer| peer.node).collect(),
        gateway: gateway_answers().await,
    })
}

/// Whether the default route's gateway has a hardware address. The kernel is asked to find it; the next look sees the outcome.
async fn gateway_answers() -> bool {
    let netlink = Netlink::new();
    let Ok(hop) = netlink.route_to(ELSEWHERE).await else {
        return false;
    };
    let Some(gateway) = hop.gateway else {
        return false;
    };
    let known = netlink.neighbour_entry(hop.ifindex, gateway).await;
    let answers = known.is_ok_and(|entry| entry.is_some_and(|entry| entry.usable_mac().is_some()));
    if let Err(error) = netlink.probe_neighbour(hop.ifindex, gateway).await {
        tracing::debug!(%error, "cannot have the kernel ask for {gateway}");
    }
    answers
}

//! The interfaces that face the LAN: which they are, and what the programs know of them.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use fairlead_netlink::{Link, Netlink};

/// Finds the interfaces by name or, without names, those of the default routes.
///
/// # Errors
/// An unknown name is answered with those that exist.
///
/// # Cancel safety
/// Nothing is changed.
pub async fn resolve(netlink: Netlink, names: &[String]) -> Result<Vec<Link>> {
    let mut links: Vec<Link> = Vec::new();
    if names.is_empty() {
        for link in of_default_routes(netlink).await? {
            if !links.iter().any(|known| known.index == link.index) {
                links.push(link);
            }
        }
        if links.is_empty() {
            bail!("there is no default route to choose an interface by: name one with --interface");
        }
        return Ok(links);
    }
    for name in names {
        let link = netlink.link(name).await.context("--interface")?;
        if link.is_loopback {
            bail!("--interface: {name} is the loopback interface, which reaches no LAN");
        }
        if !links.iter().any(|known| known.index == link.index) {
            links.push(link);
        }
    }
    Ok(links)
}

async fn of_default_routes(netlink: Netlink) -> Result<Vec<Link>> {
    // Documentation addresses (RFC 5737, RFC 3849): only a default route leads there.
    let beyond: [IpAddr; 2] = [
        IpAddr::from([198, 51, 100, 1]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    ];
    let links = netlink.links().await?;
    let mut found = Vec::new();
    for ip in beyond {
        if let Ok(hop) = netlink.route_to(ip).await {
            found.extend(
                links
                    .iter()
                    .find(|l| l.index == hop.ifindex && !l.is_loopback)
                    .cloned(),
            );
        }
    }
    Ok(found)
}

//! `fairlead-agent cleanup`: takes away what outlives an agent by design: links, pins, group memberships, managed neighbours, its socket.

use std::{fmt, net::IpAddr, path::Path};

use anyhow::{Context as _, Result, bail};
use fairlead_abi::l2::{HEARTBEAT_GROUP4, HEARTBEAT_GROUP6};
use fairlead_datapath::Cleaned;
use fairlead_netlink::{Link, Netlink};

use crate::socket;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Links detached.
    pub n_links: usize,
    /// Pins removed.
    pub n_pins: usize,
    /// Groups left: interface name and address.
    pub groups: Vec<(String, IpAddr)>,
    /// Neighbours that the kernel kept fresh for it: interface name and address.
    pub neighbours: Vec<(String, IpAddr)>,
    /// The socket of a dead agent was there.
    pub had_socket: bool,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return writeln!(f, "nothing was left to remove");
        }
        writeln!(
            f,
            "detached {} programs, removed {} pins",
            self.n_links, self.n_pins
        )?;
        for (interface, group) in &self.groups {
            writeln!(f, "left group {group} on {interface}")?;
        }
        for (interface, ip) in &self.neighbours {
            writeln!(f, "gave neighbour {ip} on {interface} back")?;
        }
        if self.had_socket {
            writeln!(f, "removed the socket of a dead agent")?;
        }
        Ok(())
    }
}

/// Removes everything of the agent with these pins. Idempotent.
///
/// # Errors
/// An agent that still runs; missing rights.
///
/// # Cancel safety
/// A dropped future has removed a part; running it again removes the rest.
pub async fn cleanup(pin_dir: &Path, socket_path: &Path) -> Result<Removed> {
    if socket::is_alive(socket_path).await {
        bail!(
            "the agent behind {} runs: stop it first, or it would put everything back",
            socket_path.display()
        );
    }
    let dir = pin_dir.to_owned();
    let Cleaned { n_links, n_pins } =
        fairlead_rt::blocking(move || fairlead_datapath::cleanup(&dir))
            .await
            .context("remove links and pins")?;
    let links = Netlink::new().links().await.context("list links")?;
    Ok(Removed {
        n_links,
        n_pins,
        groups: leave_groups(&links).await?,
        // Without pins no agent was here, and whoever manages neighbours is another.
        neighbours: if n_pins > 0 {
            release_neighbours(&links).await?
        } else {
            Vec::new()
        },
        had_socket: socket::remove(socket_path)
            .with_context(|| format!("remove {}", socket_path.display()))?,
    })
}

/// Memberships that outlive a process are group addresses on an interface (`IFA_F_MCAUTOJOIN`); ours are the heartbeat groups and the
/// solicited-node groups of VIPs.
async fn leave_groups(links: &[Link]) -> Result<Vec<(String, IpAddr)>> {
    let netlink = Netlink::new();
    let mut left = Vec::new();
    for address in netlink.addresses().await.context("list addresses")? {
        if !(address.is_autojoin && is_ours(address.ip)) {
            continue;
        }
        let name = name_of(links, address.ifindex);
        netlink
            .leave_group(address.ifindex, address.ip)
            .await
            .with_context(|| format!("leave group {} on {name}", address.ip))?;
        left.push((name, address.ip));
    }
    Ok(left)
}

/// Next hops of backends (`NTF_EXT_MANAGED`). The kernel does not say who asked for it: another program that does so asks again.
async fn release_neighbours(links: &[Link]) -> Result<Vec<(String, IpAddr)>> {
    let netlink = Netlink::new();
    let mut released = Vec::new();
    for neighbour in netlink.neighbours().await.context("list neighbours")? {
        if !neighbour.is_managed {
            continue;
        }
        let name = name_of(links, neighbour.ifindex);
        netlink
            .release_neighbour(neighbour.ifindex, neighbour.ip)
            .await
            .with_context(|| format!("release neighbour {} on {name}", neighbour.ip))?;
        released.push((name, neighbour.ip));
    }
    Ok(released)
}

fn name_of(links: &[Link], ifindex: u32) -> String {
    let link = links.iter().find(|link| link.index == ifindex);
    link.map_or_else(|| ifindex.to_string(), |link| link.name.clone())
}

fn is_ours(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets() == HEARTBEAT_GROUP4,
        // RFC 4291 section 2.7.1: ff02::1:ff00:0/104.
        IpAddr::V6(ip) => {
            let solicited = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
            ip.octets() == HEARTBEAT_GROUP6 || ip.octets().starts_with(&solicited)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Removed, is_ours};

    #[test]
    fn only_our_groups_are_left() {
        let ours = ["224.0.0.174", "ff02::464c", "ff02::1:ff00:10"];
        assert!(ours.iter().all(|ip| is_ours(ip.parse().unwrap())));
        let theirs = ["224.0.0.251", "ff02::1", "10.0.0.1", "fd10::1:ff00:10"];
        assert!(!theirs.iter().any(|ip| is_ours(ip.parse().unwrap())));
    }

    #[test]
    fn it_says_what_it_removed() {
        assert_eq!(
            Removed::default().to_string(),
            "nothing was left to remove\n"
        );
        let removed = Removed {
            n_links: 1,
            n_pins: 21,
            groups: vec![("eth0".into(), "ff02::1:ff00:10".parse().unwrap())],
            neighbours: vec![("eth0".into(), "10.0.0.7".parse().unwrap())],
            had_socket: true,
        };
        assert_eq!(
            removed.to_string(),
            "detached 1 programs, removed 21 pins\nleft group ff02::1:ff00:10 on eth0\ngave neighbour 10.0.0.7 on eth0 back\nremoved the socket of a dead agent\n"
        );
    }
}

//! `fairlead-agent decap`: the eBPF decapsulator of a server that holds VIPs itself (DSR by IPIP or ip6ip6).
//!
//! It stays attached after the command ends; running it again replaces the lists, `cleanup` takes it away.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use fairlead_abi::lb::{Iface, N_IFACES};
use fairlead_datapath::{Acceleration, Attached, Decap, DecapMaps, HashMap, Insert, Mode};
use fairlead_netlink::{Address, Link, Netlink};

use crate::interfaces;

/// Where the decapsulator's pins go unless told otherwise; never those of an agent.
pub const PIN_DIR: &str = "/sys/fs/bpf/fairlead-decap";

/// What to decapsulate.
#[derive(Debug, Clone)]
pub struct Request {
    /// Addresses that this server holds.
    pub vips: Vec<IpAddr>,
    /// Load balancers that may send.
    pub senders: Vec<IpAddr>,
    /// Where they send to.
    pub interfaces: Vec<String>,
    /// Pins.
    pub pin_dir: PathBuf,
    /// How to attach.
    pub acceleration: Acceleration,
}

/// What holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    attached: Vec<(String, Mode)>,
    n_vips: usize,
    n_senders: usize,
    /// Preconditions that do not hold, each with its remedy.
    warnings: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, mode) in &self.attached {
            let mode = match mode {
                Mode::Native => "native",
                Mode::Generic => "generic",
            };
            writeln!(f, "decapsulating on {name} ({mode})")?;
        }
        writeln!(f, "{} VIPs, {} senders", self.n_vips, self.n_senders)?;
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}

/// Fills the lists, then attaches.
///
/// # Errors
/// Unknown interfaces, missing rights, a busy hook.
///
/// # Cancel safety
/// A dropped future has done a part; running it again does the rest.
pub async fn decap(request: Request) -> Result<Report> {
    if request.vips.is_empty() || request.senders.is_empty() {
        bail!("--vip and --sender are needed, each at least once");
    }
    let netlink = Netlink::new();
    let links = interfaces::resolve(netlink, &request.interfaces).await?;
    let addresses = netlink.addresses().await.context("list addresses")?;
    let warnings = warnings(&request.vips, &addresses);
    fairlead_rt::blocking(move || start(&request, &links, &addresses, warnings)).await
}

fn start(
    request: &Request,
    links: &[Link],
    addresses: &[Address],
    warnings: Vec<String>,
) -> Result<Report> {
    let mut decap = Decap::open(&request.pin_dir).context("load the decapsulator")?;
    fill(decap.maps(), request, links, addresses)?;
    let mut attached = Vec::new();
    for link in links {
        let Attached { mode, .. } = decap
            .attach(link.index, request.acceleration)
            .with_context(|| format!("attach to {}", link.name))?;
        attached.push((link.name.clone(), mode));
    }
    Ok(Report {
        attached,
        n_vips: request.vips.len(),
        n_senders: request.senders.len(),
        warnings,
    })
}

fn fill(maps: &DecapMaps, request: &Request, links: &[Link], addresses: &[Address]) -> Result<()> {
    for link in links {
        let first = |want_v4: bool| {
            // Groups that the kernel holds for an announcer on the same machine are addresses too.
            let mut own = addresses
                .iter()
                .filter(|a| a.ifindex == link.index && !a.ip.is_multicast());
            own.find(|a| a.ip.is_ipv4() == want_v4)
                .map(|a| mapped(a.ip))
        };
        let mac = link
            .mac
            .with_context(|| format!("{} has no MAC address", link.name))?;
        let mut addr4 = [0; 4];
        if let Some(ip) = first(true) {
            addr4.copy_from_slice(&ip[12..]);
        }
        let row = Iface {
            ifindex: link.index,
            mtu: link.mtu,
            mac: mac.0,
            flags: 0,
            addr4,
            l2_cell: 0,
            addr6: first(false).unwrap_or_default(),
        };
        maps.ifaces.write(link.index & (N_IFACES - 1), &row);
    }
    replace(&maps.senders, &request.senders).context("fill the list of senders")?;
    replace(&maps.vips, &request.vips).context("fill the list of VIPs")
}

/// New entries first, so that what stays is never missing.
fn replace(map: &HashMap<[u8; 16], u32>, wanted: &[IpAddr]) -> Result<()> {
    let wanted: BTreeSet<[u8; 16]> = wanted.iter().copied().map(mapped).collect();
    for addr in &wanted {
        map.insert(addr, &1, Insert::Any)?;
    }
    for (addr, _) in map.entries()? {
        if !wanted.contains(&addr) {
            map.remove(&addr)?;
        }
    }
    Ok(())
}

/// IPv6, or IPv4-mapped IPv6; network order.
fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// What direct server return asks of a server.
fn warnings(vips: &[IpAddr], addresses: &[Address]) -> Vec<String> {
    let mut warnings: Vec<String> = vips
        .iter()
        .filter(|vip| !addresses.iter().any(|address| address.ip == **vip))
        .map(|vip| {
            format!("this server does not hold {vip}, so nothing would accept its packets: ip addr add {vip} dev lo")
        })
        .collect();
    if vips.iter().any(IpAddr::is_ipv4) {
        for (key, wanted, what) in [
            ("arp_ignore", 1, "it would answer ARP for the VIP itself"),
            (
                "arp_announce",
                2,
                "it would name the VIP as sender of its own ARP requests",
            ),
        ] {
            let path = format!("/proc/sys/net/ipv4/conf/all/{key}");
            if sysctl(Path::new(&path)).is_some_and(|found| found < wanted) {
                warnings.push(format!(
                    "{what}: sysctl -w net.ipv4.conf.all.{key}={wanted}"
                ));
            }
        }
    }
    warnings
}

fn sysctl(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use fairlead_datapath::HashMap;

    use super::{mapped, replace, warnings};

    #[test]
    fn lists_are_replaced_as_a_whole() {
        let map = HashMap::in_memory(8);
        let ips = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<_>>();
        replace(&map, &ips(&["192.0.2.1", "2001:db8::1"])).unwrap();
        replace(&map, &ips(&["192.0.2.2", "2001:db8::1"])).unwrap();
        let mut keys: Vec<_> = map.entries().unwrap().into_iter().map(|(k, _)| k).collect();
        keys.sort_unstable();
        let mut expected = ips(&["192.0.2.2", "2001:db8::1"])
            .into_iter()
            .map(mapped)
            .collect::<Vec<_>>();
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }

    #[test]
    fn a_vip_that_nobody_holds_is_said() {
        let said = warnings(&["2001:db8::7".parse().unwrap()], &[]);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].contains("ip addr add 2001:db8::7 dev lo"),
            "{said:?}"
        );
    }
}

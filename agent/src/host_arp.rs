//! Whether this machine's own kernel answers ARP for a VIP, whoever owns it.
//!
//! kube-proxy in IPVS mode puts every load balancer address on an interface `kube-ipvs0` of every node, and Linux answers ARP on any
//! interface for any address of the machine. On the owner XDP answers first; on every other node the kernel answers too, and clients go
//! wherever the last answer came from. kube-proxy's `strictARP` sets `arp_ignore` to 1, and all is well.
//!
//! # Source
//! `arp_ignore` in the kernel's Documentation/networking/ip-sysctl.rst; `arp_ignore()` in net/ipv4/arp.c: of `all` and the interface's own
//! value the larger counts. IPv6 is no matter: a solicitation is answered only on the interface that has the address.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use fairlead_model::Snapshot;
use fairlead_netlink::{Address, Link, Netlink};
use fairlead_observe::InterfaceView;
use fairlead_rt::{BoxError, CancellationToken};
use tokio::sync::watch;
use tracing::{debug, warn};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);
/// Where kube-proxy in IPVS mode puts addresses.
const KUBE_PROXY: &str = "kube-ipvs0";

/// An address that the kernel answers for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostArp {
    /// The VIP.
    pub vip: Ipv4Addr,
    /// The interface that has it.
    pub holder: String,
    /// The interface by which it is answered for.
    pub lan: String,
}

impl HostArp {
    /// The closed word.
    pub fn reason(&self) -> &'static str {
        if self.holder == KUBE_PROXY {
            "KubeProxyAnswersArp"
        } else {
            "HostAnswersArp"
        }
    }

    /// What is wrong and what to do.
    pub fn message(&self) -> String {
        let Self { vip, holder, lan } = self;
        let remedy = if holder == KUBE_PROXY {
            "set ipvs.strictARP: true in kube-proxy's configuration".to_owned()
        } else {
            format!("take the address away from {holder}")
        };
        format!(
            "{vip} is on {holder} and arp_ignore of {lan} lets this node's kernel answer ARP for it, whoever owns it: {remedy}"
        )
    }
}

/// Looks until told to stop.
///
/// # Errors
/// None; the signature is that of a supervised task. A kernel that does not say is asked again.
///
/// # Cancel safety
/// Nothing is changed.
pub async fn watch(
    snapshot: watch::Receiver<Arc<Snapshot>>,
    interfaces: watch::Receiver<Vec<InterfaceView>>,
    found: watch::Sender<Arc<[HostArp]>>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    loop {
        let vips = vips(&snapshot.borrow());
        let lans: Vec<String> = interfaces.borrow().iter().map(|i| i.name.clone()).collect();
        match look(&vips, &lans).await {
            Ok(now) => {
                found.send_if_modified(|before| {
                    let differs = **before != *now;
                    if differs {
                        for one in &now {
                            warn!(vip = %one.vip, reason = one.reason(), "{}", one.message());
                        }
                        *before = now.into();
                    }
                    differs
                });
            }
            Err(error) => debug!(%error, "the machine's addresses were not read"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

fn vips(snapshot: &Snapshot) -> BTreeSet<Ipv4Addr> {
    let all = snapshot
        .services
        .values()
        .flat_map(fairlead_model::Service::vips);
    all.filter_map(|vip| match vip {
        IpAddr::V4(vip) => Some(vip),
        IpAddr::V6(_) => None,
    })
    .collect()
}

async fn look(
    vips: &BTreeSet<Ipv4Addr>,
    lans: &[String],
) -> Result<Vec<HostArp>, fairlead_netlink::NetlinkError> {
    if vips.is_empty() {
        return Ok(Vec::new());
    }
    let addresses = Netlink::new().addresses().await?;
    let is_a_vip = |a: &Address| matches!(a.ip, IpAddr::V4(ip) if vips.contains(&ip));
    let held: Vec<Address> = addresses.into_iter().filter(is_a_vip).collect();
    if held.is_empty() {
        return Ok(Vec::new());
    }
    let links = Netlink::new().links().await?;
    Ok(judge(&held, &links, lans, arp_ignore))
}

/// Of addresses on interfaces, those that are answered for on `lans`; `arp_ignore` is that of an interface by name.
fn judge(
    held: &[Address],
    links: &[Link],
    lans: &[String],
    arp_ignore: impl Fn(&str) -> u32,
) -> Vec<HostArp> {
    let mut found = Vec::new();
    for address in held {
        let IpAddr::V4(vip) = address.ip else {
            continue;
        };
        let Some(holder) = links.iter().find(|link| link.index == address.ifindex) else {
            continue;
        };
        let lan = lans
            .iter()
            .find(|lan| is_answered(arp_ignore(lan), holder.name == **lan));
        if let Some(lan) = lan {
            found.push(HostArp {
                vip,
                holder: holder.name.clone(),
                lan: lan.clone(),
            });
        }
    }
    found.sort_by(|a, b| (a.vip, &a.holder).cmp(&(b.vip, &b.holder)));
    found
}

/// Whether a request that arrives is answered for an address of that interface itself, or of another.
const fn is_answered(arp_ignore: u32, is_own: bool) -> bool {
    match arp_ignore {
        8 => false,
        1 | 2 => is_own,
        _ => true,
    }
}

/// The value in force; 0, the kernel's default, where it cannot be read.
fn arp_ignore(interface: &str) -> u32 {
    let of = |conf: &str| {
        let path = Path::new("/proc/sys/net/ipv4/conf")
            .join(conf)
            .join("arp_ignore");
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().parse().ok()
    };
    of("all").unwrap_or(0).max(of(interface).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use fairlead_netlink::{Address, Link};

    use super::{HostArp, judge};

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mac: None,
            mtu: 1500,
            is_up: true,
            has_carrier: true,
            is_operational: true,
            kind: None,
            master: None,
            is_loopback: false,
        }
    }

    fn held(ifindex: u32) -> Vec<Address> {
        vec![Address {
            ifindex,
            ip: "192.0.2.1".parse().unwrap(),
            prefix_len: 32,
            is_secondary: false,
            is_tentative: false,
            is_autojoin: false,
        }]
    }

    #[test]
    fn ipvs_without_strict_arp_is_found_and_with_it_is_not() {
        let links = [link(2, "lan0"), link(3, "kube-ipvs0")];
        let lans = ["lan0".to_owned()];
        let found = judge(&held(3), &links, &lans, |_| 0);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.reason(), "KubeProxyAnswersArp");
        assert!(one.message().contains("192.0.2.1 is on kube-ipvs0"));
        assert!(one.message().contains("strictARP: true"));
        for strict in [1, 2, 8] {
            assert_eq!(judge(&held(3), &links, &lans, |_| strict), []);
        }
    }

    #[test]
    fn an_address_on_the_lan_s_own_interface_is_answered_for_whatever_strict_arp_says() {
        let links = [link(2, "lan0")];
        let lans = ["lan0".to_owned()];
        let found = judge(&held(2), &links, &lans, |_| 1);
        assert_eq!(found[0].reason(), "HostAnswersArp");
        assert!(
            found[0]
                .message()
                .contains("take the address away from lan0")
        );
        assert_eq!(judge(&held(2), &links, &lans, |_| 8), Vec::<HostArp>::new());
    }
}

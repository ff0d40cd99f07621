//! A short tour of every program on the kernel that runs: all verify, and each does its plainest job.
//!
//! Runs on this machine's kernel and, as the first process of an emulated machine, on Linux 6.1 (`tests/kernel_matrix.rs`).

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use fairlead_abi::l2::{DeadlineCell, L2Entry, L2Key};
use fairlead_abi::lb::{Iface, SlotTable, VipState, iface_flags, mode, vip_flags};
use fairlead_datapath::{
    Acceleration, Datapath, DatapathConfig, Decap, Insert, ProgramCost, cleanup,
};

use crate::fill::{self, FrontendSpec};
use crate::frame::{self, Flow};

/// `XDP_DROP`.
pub const XDP_DROP: u32 = 1;
/// `XDP_PASS`.
pub const XDP_PASS: u32 = 2;
/// `XDP_TX`.
pub const XDP_TX: u32 = 3;

/// The loopback device: test-run presents packets as received there.
const LO: u32 = 1;
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
const OWN4: [u8; 4] = [192, 0, 2, 1];
const SERVER4: [u8; 4] = [192, 0, 2, 3];
const OWN6: &str = "2001:db8::1";
const SERVER6: &str = "2001:db8::3";
const VIP4: &str = "203.0.113.7";
const VIP6: &str = "2001:db8:7::7";
const MODES: [(u64, u16); 3] = [(mode::SNAT, 80), (mode::DSR_L2, 81), (mode::DSR_IPIP, 82)];

/// Loads everything below `pin_dir`, checks it and removes it. Returns what each program cost the verifier.
pub fn run(pin_dir: &Path) -> anyhow::Result<Vec<ProgramCost>> {
    let result = checks(pin_dir);
    for part in ["lb", "decap"] {
        cleanup(&pin_dir.join(part))?;
    }
    std::fs::remove_dir(pin_dir)?;
    result
}

fn checks(pin_dir: &Path) -> anyhow::Result<Vec<ProgramCost>> {
    let cfg = DatapathConfig::new(pin_dir.join("lb"));
    let mut datapath = Datapath::open(&cfg).context("load the load balancer")?;
    prepare(&datapath)?;
    for vip in [VIP4, VIP6] {
        forwarding(&datapath, vip.parse()?).with_context(|| format!("forwarding to {vip}"))?;
    }
    responder(&datapath).context("answering ARP")?;
    let mut costs = datapath.program_costs();

    let first = datapath
        .attach(LO, Acceleration::BestEffort)
        .context("attach")?;
    ensure!(!first.taken_over, "nothing was attached before");
    drop(datapath);
    let mut datapath = Datapath::open(&cfg).context("load again")?;
    let second = datapath
        .attach(LO, Acceleration::BestEffort)
        .context("take over")?;
    ensure!(second.taken_over, "the pinned link was not taken over");
    ensure!(
        datapath.lb().frontends.read(1).backend_base == 1,
        "the pinned maps were not taken over"
    );
    ensure!(datapath.detach(LO)?, "nothing to detach");
    drop(datapath);
    ensure!(cleanup(&cfg.pin_dir)?.n_pins > 0, "no pins were removed");

    let decap_dir = pin_dir.join("decap");
    let decap = Decap::open(&decap_dir).context("load the decapsulator")?;
    costs.extend(
        decapsulation(&decap)
            .context("decapsulation")
            .map(|()| decap.program_costs())?,
    );
    Ok(costs)
}

fn prepare(datapath: &Datapath) -> anyhow::Result<()> {
    let lb = datapath.lb();
    let own6: std::net::Ipv6Addr = OWN6.parse()?;
    let server6: std::net::Ipv6Addr = SERVER6.parse()?;
    fill::iface(
        lb,
        &Iface {
            ifindex: LO,
            mtu: 1500,
            mac: OWN_MAC,
            flags: iface_flags::FORWARD | iface_flags::ANNOUNCE,
            addr4: OWN4,
            addr6: own6.octets(),
            ..Iface::default()
        },
    );
    let current = fill::slots(lb, 0, &[0; 251]);
    let state = VipState {
        flags: vip_flags::HAS_SNAT,
        ..VipState::default()
    };
    let mut index = 1;
    for (n, vip) in [(1, VIP4), (2, VIP6)] {
        let vip: IpAddr = vip.parse()?;
        fill::vip(lb, vip, n, &state)?;
        for (mode, port) in MODES {
            let spec = FrontendSpec {
                vip,
                port,
                proto: 17,
                index,
                vip_state: n,
                mode,
                current,
                previous: SlotTable::default(),
                flags: 0,
                backend_base: 1,
                n_backends: 1,
                udp_previous_until: 0,
            };
            fill::frontend(lb, &spec)?;
            index += 1;
        }
    }
    fill::backend4(lb, 1, SERVER4, 8080, SERVER_MAC, 1, OWN4);
    fill::backend6(lb, 1, server6.octets(), 8080, SERVER_MAC, 1);
    Ok(())
}

fn forwarding(datapath: &Datapath, vip: IpAddr) -> anyhow::Result<()> {
    let (client, own, server): (IpAddr, IpAddr, IpAddr) = if vip.is_ipv4() {
        ("198.51.100.5".parse()?, OWN4.into(), SERVER4.into())
    } else {
        ("2001:db8:5::5".parse()?, OWN6.parse()?, SERVER6.parse()?)
    };
    for (mode, port) in MODES {
        let flow = Flow {
            src_mac: CLIENT_MAC,
            dst_mac: OWN_MAC,
            src: client,
            dst: vip,
            sport: 40_000,
            dport: port,
        };
        let sent = frame::udp(&flow, b"a question of sixteen");
        let run = datapath.test_run("lb_ingress", &sent)?;
        ensure!(
            run.verdict == XDP_TX,
            "mode {mode}: verdict {}, not XDP_TX",
            run.verdict
        );
        let expected = match mode {
            mode::DSR_L2 => frame::with_macs(&sent, OWN_MAC, SERVER_MAC),
            mode::DSR_IPIP => frame::encapsulated(OWN_MAC, SERVER_MAC, own, server, &sent),
            _ => {
                let sport = frame::source_port(&run.packet).context("no ports")?;
                let translated = Flow {
                    src_mac: OWN_MAC,
                    dst_mac: SERVER_MAC,
                    src: vip,
                    dst: server,
                    sport,
                    dport: 8080,
                };
                frame::with_hop_limit(&frame::udp(&translated, b"a question of sixteen"), 63)
            }
        };
        ensure!(
            run.packet == expected,
            "mode {mode}:\n got {:02x?}\nwant {expected:02x?}",
            run.packet
        );
    }
    Ok(())
}

fn responder(datapath: &Datapath) -> anyhow::Result<()> {
    let IpAddr::V4(vip) = VIP4.parse()? else {
        unreachable!("an IPv4 address")
    };
    let entry = L2Entry {
        cell_epoch: 1,
        mac: OWN_MAC,
        ..L2Entry::default()
    };
    let key = L2Key {
        addr: vip.to_ipv6_mapped().octets(),
        ifindex: LO,
    };
    datapath.l2().entries.insert(&key, &entry, Insert::Any)?;
    datapath.l2().cells.write(
        0,
        &DeadlineCell {
            deadline: u64::MAX,
            epoch: 1,
        },
    );
    let request = frame::arp_request(CLIENT_MAC, [203, 0, 113, 1], vip.octets());
    let run = datapath.test_run("lb_ingress", &request)?;
    ensure!(run.verdict == XDP_TX, "verdict {}, not XDP_TX", run.verdict);
    let expected = frame::arp_reply(OWN_MAC, vip.octets(), CLIENT_MAC, [203, 0, 113, 1]);
    ensure!(
        run.packet == expected,
        "\n got {:02x?}\nwant {expected:02x?}",
        run.packet
    );
    Ok(())
}

fn decapsulation(decap: &Decap) -> anyhow::Result<()> {
    let mapped = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    };
    for (vip, client, sender, server) in [
        (
            VIP4,
            "198.51.100.5",
            IpAddr::from(OWN4),
            IpAddr::from(SERVER4),
        ),
        (VIP6, "2001:db8:5::5", OWN6.parse()?, SERVER6.parse()?),
    ] {
        let vip: IpAddr = vip.parse()?;
        decap.maps().vips.insert(&mapped(vip), &1, Insert::Any)?;
        decap
            .maps()
            .senders
            .insert(&mapped(sender), &1, Insert::Any)?;
        let flow = Flow {
            src_mac: OWN_MAC,
            dst_mac: SERVER_MAC,
            src: client.parse()?,
            dst: vip,
            sport: 40_000,
            dport: 80,
        };
        let inner = frame::udp(&flow, b"inside");
        let run = decap.test_run(&frame::encapsulated(
            OWN_MAC, SERVER_MAC, sender, server, &inner,
        ))?;
        ensure!(
            run.verdict == XDP_PASS,
            "verdict {}, not XDP_PASS",
            run.verdict
        );
        ensure!(
            run.packet == inner,
            "\n got {:02x?}\nwant {inner:02x?}",
            run.packet
        );
    }
    Ok(())
}

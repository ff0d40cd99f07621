//! Loads the datapath, points one VIP at one server by layer-2 DSR, attaches, says so, and holds still until it is killed.
//!
//! `datapath-holder PIN_DIR INTERFACE OWN_MAC VIP PORT SERVER_MAC`. It prints `attached <mode> taken_over=<bool>` or fails with the error's
//! reason and text on standard error.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use fairlead_abi::lb::{Iface, SlotTable, VipState, iface_flags, mode};
use fairlead_datapath::{Acceleration, Datapath, DatapathConfig, DatapathError, netdev};
use fairlead_tests::fill::{self, FrontendSpec};

fn main() -> ExitCode {
    match hold() {
        Ok(never) => match never {},
        Err(error) => {
            let reason = error
                .downcast_ref::<DatapathError>()
                .map_or("Usage", DatapathError::reason);
            let mut stderr = std::io::stderr();
            // Nobody is left to tell if this fails.
            drop(writeln!(stderr, "{reason}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

enum Never {}

fn hold() -> anyhow::Result<Never> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pin_dir, interface, own_mac, vip, port, server_mac] = arguments.as_slice() else {
        anyhow::bail!("datapath-holder PIN_DIR INTERFACE OWN_MAC VIP PORT SERVER_MAC");
    };
    let mut datapath = Datapath::open(&DatapathConfig::new(PathBuf::from(pin_dir)))?;
    let ifindex = netdev::ifindex(interface)?;
    let vip: IpAddr = vip.parse().context("VIP")?;
    write_maps(
        &datapath,
        ifindex,
        mac(own_mac)?,
        vip,
        port.parse().context("PORT")?,
        mac(server_mac)?,
    )?;
    let attached = datapath.attach(ifindex, Acceleration::BestEffort)?;
    writeln!(
        std::io::stdout(),
        "attached {:?} taken_over={}",
        attached.mode,
        attached.taken_over
    )?;
    loop {
        std::thread::park();
    }
}

fn write_maps(
    datapath: &Datapath,
    ifindex: u32,
    own_mac: [u8; 6],
    vip: IpAddr,
    port: u16,
    server_mac: [u8; 6],
) -> anyhow::Result<()> {
    let lb = datapath.lb();
    let iface = Iface {
        ifindex,
        mtu: 1500,
        mac: own_mac,
        flags: iface_flags::FORWARD | iface_flags::REDIRECT_BACK,
        ..Iface::default()
    };
    fill::iface(lb, &iface);
    let slot = u8::try_from(ifindex & 0xff)?;
    match vip {
        IpAddr::V4(_) => fill::backend4(
            lb,
            1,
            [10, 77, 0, 3],
            port,
            server_mac,
            slot,
            [10, 77, 0, 2],
        ),
        IpAddr::V6(_) => fill::backend6(lb, 1, [0; 16], port, server_mac, slot),
    }
    fill::vip(lb, vip, 1, &VipState::default())?;
    let current = fill::slots(lb, 0, &[0; 251]);
    for (index, proto) in [(1, 17), (2, 6)] {
        let spec = FrontendSpec {
            vip,
            port,
            proto,
            index,
            vip_state: 1,
            mode: mode::DSR_L2,
            current,
            previous: SlotTable::default(),
            flags: 0,
            backend_base: 1,
            n_backends: 1,
            udp_previous_until: 0,
        };
        fill::frontend(lb, &spec)?;
    }
    Ok(())
}

fn mac(text: &str) -> anyhow::Result<[u8; 6]> {
    let mut bytes = [0; 6];
    for (byte, part) in bytes.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(part, 16).context("a MAC address")?;
    }
    Ok(bytes)
}

//! What goes wrong has a name and a remedy, and nothing else is disturbed.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do: at once, and where it happened"
)]

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use fairlead_datapath::{
    Acceleration, Cleaned, Datapath, DatapathConfig, DatapathError, cleanup, netdev,
};
use fairlead_tests::netns::Netns;
use fairlead_tests::pins::PinDir;
use fairlead_tests::require_root;

const HOLDER: &str = env!("CARGO_BIN_EXE_datapath-holder");

/// A pair of veth ends, one in each namespace, addressed and up.
fn pair() -> (Netns, Netns) {
    let (here, there) = (Netns::new("a").unwrap(), Netns::new("b").unwrap());
    here.run(&[
        "ip",
        "link",
        "add",
        "eth0",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        there.name(),
    ])
    .unwrap();
    for (netns, addr) in [(&here, "10.78.0.1/24"), (&there, "10.78.0.2/24")] {
        netns
            .run(&["ip", "addr", "add", addr, "dev", "eth0"])
            .unwrap();
        netns.run(&["ip", "link", "set", "eth0", "up"]).unwrap();
    }
    (here, there)
}

/// A datagram from one end to the other arrives.
fn assert_traffic_flows(from: &Netns, to: &Netns) {
    let receiver = to
        .enter(|| UdpSocket::bind("10.78.0.2:9"))
        .unwrap()
        .unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let sender = from
        .enter(|| UdpSocket::bind("10.78.0.1:0"))
        .unwrap()
        .unwrap();
    sender.send_to(b"still here", "10.78.0.2:9").unwrap();
    let mut buffer = [0; 16];
    let (length, _) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"still here");
}

fn hook_of(netns: &Netns) -> String {
    let text = netns
        .run(&["ip", "-d", "link", "show", "dev", "eth0"])
        .unwrap();
    text.split_whitespace()
        .skip_while(|word| *word != "prog/xdp")
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn a_busy_hook_names_the_program_and_stays_as_it_is() {
    require_root();
    let (here, there) = pair();
    let (theirs, ours) = (PinDir::new(), PinDir::new());
    let occupy = || {
        let mut other = Datapath::open(&DatapathConfig::new(theirs.path()))?;
        other.attach(netdev::ifindex("eth0")?, Acceleration::BestEffort)?;
        Ok::<_, DatapathError>(other)
    };
    let _other = here.enter(occupy).unwrap().unwrap();
    let before = hook_of(&here);
    assert!(before.starts_with("prog/xdp id "), "{before}");

    let mut datapath = Datapath::open(&DatapathConfig::new(ours.path())).unwrap();
    for acceleration in [
        Acceleration::BestEffort,
        Acceleration::Native,
        Acceleration::Generic,
    ] {
        let attempt = || datapath.attach(netdev::ifindex("eth0")?, acceleration);
        let error = here.enter(attempt).unwrap().unwrap_err();
        assert_eq!(error.reason(), "XdpDeviceBusy");
        let text = error.to_string();
        assert!(
            text.contains("eth0") && text.contains("\"lb_ingress\""),
            "{text}"
        );
        assert!(text.contains("ip link set dev eth0 xdp off"), "{text}");
    }
    assert_eq!(hook_of(&here), before);
    assert!(
        here.enter(|| datapath.attached())
            .unwrap()
            .unwrap()
            .is_empty()
    );
    assert_traffic_flows(&here, &there);
}

#[test]
fn an_unknown_interface_is_named() {
    require_root();
    let pins = PinDir::new();
    assert_eq!(
        netdev::ifindex("nosuch0").unwrap_err().reason(),
        "UnknownInterface"
    );
    let mut datapath = Datapath::open(&DatapathConfig::new(pins.path())).unwrap();
    let error = datapath
        .attach(999_999, Acceleration::BestEffort)
        .unwrap_err();
    assert_eq!(error.reason(), "UnknownInterface");
    assert!(error.to_string().contains("999999"), "{error}");
    assert!(datapath.attached().unwrap().is_empty());
}

/// Runs the holder in a namespace without some capabilities; it must fail.
fn hold_without(netns: &Netns, pins: &Path, drop: &str) -> Output {
    let mut command = netns.command("setpriv");
    let drops: Vec<String> = drop
        .split(',')
        .map(|capability| format!("-{capability}"))
        .collect();
    let drops = drops.join(",");
    command.args(["--bounding-set", &drops, "--inh-caps", &drops, HOLDER]);
    command.arg(pins).args([
        "eth0",
        "02:00:00:00:00:01",
        "10.78.9.9",
        "7",
        "02:00:00:00:00:03",
    ]);
    command.output().unwrap()
}

#[test]
fn without_bpf_rights_nothing_is_touched_and_the_rights_are_named() {
    require_root();
    let (here, there) = pair();
    let pins = PinDir::new();
    for missing in ["bpf,sys_admin", "bpf,sys_admin,perfmon,net_admin"] {
        let output = hold_without(&here, pins.path(), missing);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(
            text.starts_with("NoBpfRights: "),
            "without {missing}: {text}"
        );
        assert!(text.contains("CAP_BPF, CAP_NET_ADMIN"), "{text}");
    }
    assert!(!pins.path().exists(), "pins were made");
    assert_eq!(hook_of(&here), "");
    assert_traffic_flows(&here, &there);
}

#[test]
fn a_second_process_is_told_that_the_pins_are_in_use() {
    require_root();
    let pins = PinDir::new();
    let cfg = DatapathConfig::new(pins.path());
    let first = Datapath::open(&cfg).unwrap();
    assert_eq!(Datapath::open(&cfg).unwrap_err().reason(), "PinsInUse");
    assert_eq!(cleanup(pins.path()).unwrap_err().reason(), "PinsInUse");
    drop(first);
    Datapath::open(&cfg).unwrap();
}

#[test]
fn a_pinned_map_of_another_layout_is_not_used() {
    require_root();
    let pins = PinDir::new();
    let cfg = DatapathConfig::new(pins.path());
    drop(Datapath::open(&cfg).unwrap());
    let layout = only_layout(pins.path());
    // Someone puts the map of interfaces where the map of reasons belongs.
    std::fs::remove_file(layout.join("REASONS")).unwrap();
    std::fs::rename(layout.join("IFACES"), layout.join("REASONS")).unwrap();
    let error = Datapath::open(&cfg).unwrap_err();
    assert_eq!(error.reason(), "LayoutChanged");
    assert!(error.to_string().contains("REASONS"), "{error}");
}

#[test]
fn another_size_begins_with_maps_of_its_own_and_leaves_the_old_ones_until_it_is_attached() {
    require_root();
    let (here, _there) = pair();
    let pins = PinDir::new();
    let small = DatapathConfig {
        maglev_lines: 1 << 10,
        ..DatapathConfig::new(pins.path())
    };
    let large = DatapathConfig {
        maglev_lines: 1 << 11,
        ..small.clone()
    };
    let attach = |cfg: &DatapathConfig| {
        let mut datapath = Datapath::open(cfg)?;
        let attached = datapath.attach(netdev::ifindex("eth0")?, Acceleration::BestEffort)?;
        datapath
            .lb()
            .maglev
            .write(0, &fairlead_abi::lb::MaglevLine { slots: [7; 32] });
        Ok::<_, DatapathError>(attached.taken_over)
    };
    assert!(!here.enter(|| attach(&small)).unwrap().unwrap());
    let old = only_layout(pins.path());

    let unattached = Datapath::open(&large).unwrap();
    assert_eq!(unattached.lb().maglev.read(0).slots, [0; 32]);
    assert!(old.exists(), "the maps that packets meet were removed");
    drop(unattached);

    assert!(here.enter(|| attach(&large)).unwrap().unwrap());
    assert!(!old.exists(), "maps that nothing uses are left");
    assert_ne!(only_layout(pins.path()), old);
}

fn only_layout(pin_dir: &Path) -> std::path::PathBuf {
    let mut layouts: Vec<_> = std::fs::read_dir(pin_dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap() != "links")
        .collect();
    assert_eq!(layouts.len(), 1, "{layouts:?}");
    layouts.remove(0)
}

#[test]
fn cleanup_removes_links_and_pins_and_may_be_repeated() {
    require_root();
    let (here, there) = pair();
    let pins = PinDir::new();
    let attach = || {
        let mut datapath = Datapath::open(&DatapathConfig::new(pins.path()))?;
        datapath.attach(netdev::ifindex("eth0")?, Acceleration::BestEffort)
    };
    here.enter(attach).unwrap().unwrap();
    assert_ne!(hook_of(&here), "");

    let cleaned = cleanup(pins.path()).unwrap();
    assert_eq!(cleaned.n_links, 1);
    assert!(cleaned.n_pins > 10, "{cleaned:?}");
    assert_eq!(hook_of(&here), "");
    assert!(!pins.path().exists());
    assert_eq!(cleanup(pins.path()).unwrap(), Cleaned::default());
    assert_traffic_flows(&here, &there);
}

#[test]
fn a_link_whose_device_is_gone_makes_room_for_a_new_one() {
    require_root();
    let pins = PinDir::new();
    let (here, there) = pair();
    let attach = || {
        let mut datapath = Datapath::open(&DatapathConfig::new(pins.path()))?;
        datapath.attach(netdev::ifindex("eth0")?, Acceleration::BestEffort)
    };
    let first = here.enter(attach).unwrap().unwrap();
    here.run(&["ip", "link", "del", "eth0"]).unwrap();
    let index = first.ifindex.to_string();
    let again = [
        "ip", "link", "add", "eth0", "index", &index, "type", "veth", "peer", "name", "eth0",
        "netns",
    ];
    here.run(&[&again[..], &[there.name()]].concat()).unwrap();
    let second = here.enter(attach).unwrap().unwrap();
    assert_eq!(second.ifindex, first.ifindex);
    assert!(!second.taken_over, "a link without device was taken over");
    assert_ne!(hook_of(&here), "");
}

#[test]
fn a_pin_of_another_network_namespace_is_left_alone() {
    require_root();
    let pins = PinDir::new();
    let (here, there) = pair();
    let attach = || {
        let mut datapath = Datapath::open(&DatapathConfig::new(pins.path()))?;
        datapath.attach(netdev::ifindex("eth0")?, Acceleration::BestEffort)
    };
    let first = here.enter(attach).unwrap().unwrap();
    let before = hook_of(&here);
    let index = there.enter(|| netdev::ifindex("eth0")).unwrap().unwrap();
    assert_eq!(
        index, first.ifindex,
        "the two ends have the same index in their namespaces"
    );
    assert_eq!(
        there.enter(attach).unwrap().unwrap_err().reason(),
        "LinkElsewhere"
    );
    assert_eq!(hook_of(&here), before);
}

#[test]
fn a_directory_that_is_no_bpffs_is_refused_with_the_command_to_mount_one() {
    require_root();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Datapath::open(&DatapathConfig::new(file.join("pins"))).unwrap_err();
    assert_eq!(error.reason(), "BpffsUnavailable");
    assert!(error.to_string().contains("mount -t bpf bpf"), "{error}");
}

#[test]
fn the_tools_of_these_tests_are_there() {
    for tool in ["setpriv", "nsenter", "ip", "ethtool"] {
        let found = Command::new(tool).arg("--version").output();
        assert!(
            found.is_ok(),
            "{tool} is not installed (util-linux, iproute2, ethtool)"
        );
    }
}

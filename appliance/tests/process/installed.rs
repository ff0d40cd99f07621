//! Installed, changed, cut off, brought back, and taken away without a trace.

use std::process::Command;

use crate::harness::{Appliance, Place, until};

/// A configuration of a node in its place.
fn config(place: &Place, interface: &str, more: &str) -> String {
    format!(
        "node-name: lb1\ninterface: [{interface}]\nlisten: 127.0.0.1:7255\nstate-dir: {}\nbpffs: {}\nsocket: {}\n{more}",
        place.state().join("lb1").display(),
        place.pins().display(),
        place.socket("lb1").display(),
    )
}

fn slots(place: &Place) -> std::path::PathBuf {
    place.file("slots")
}

fn start(place: &Place) -> Appliance<'_> {
    let (file, slots) = (place.file("appliance.yaml"), slots(place));
    Appliance::start_by(
        place,
        "lb1",
        &[
            "--config",
            file.to_str().unwrap(),
            "--config-state",
            slots.to_str().unwrap(),
        ],
    )
}

fn attached(appliance: &Appliance<'_>, interface: &str) -> Option<()> {
    let interfaces = appliance.status()?.interfaces;
    let mut on = interfaces.iter().filter(|i| i.xdp != "none");
    on.any(|i| i.name == interface).then_some(())
}

#[test]
fn a_configuration_that_cuts_the_node_off_is_taken_back() {
    let place = Place::new();
    place.add_interface("lan1", "10.78.0.1/24");
    let write = |text: String| std::fs::write(place.file("appliance.yaml"), text).unwrap();
    write(config(&place, "lan0", "metrics-listen: 127.0.0.1:7955\n"));
    let first = start(&place);
    until("the first configuration is good", || {
        slots(&place).join("good.yaml").exists().then_some(())
    });
    let healthz = place.inside(|| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect("127.0.0.1:7955").unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    assert!(healthz.starts_with("HTTP/1.1 200"), "{healthz}");
    first.stop();

    // It heard another node, and by the changed configuration it hears nobody.
    let evidence = r#"{"api": true, "peers": ["lb9"], "gateway": false}"#;
    std::fs::write(slots(&place).join("evidence.json"), evidence).unwrap();
    write(config(&place, "lan1", "confirm-within: 2s\n"));
    let second = start(&place);
    until("it goes back", || {
        second.log().contains("ConfigReverted").then_some(())
    });
    assert!(
        second.log().contains("no heartbeat of lb9"),
        "{}",
        second.log()
    );
    until("it works as before", || attached(&second, "lan0"));
    second.stop();
    let third = start(&place);
    until("it is not tried again", || attached(&third, "lan0"));
    assert!(third.log().contains("ConfigRejected"), "{}", third.log());
    third.stop();

    std::fs::write(
        slots(&place).join("evidence.json"),
        r#"{"api": true, "peers": [], "gateway": false}"#,
    )
    .unwrap();
    write(config(&place, "eth9", ""));
    let fourth = start(&place);
    until("what cannot be used is not used", || {
        attached(&fourth, "lan0")
    });
    assert!(
        fourth.log().contains("ConfigInvalid") && fourth.log().contains("eth9"),
        "{}",
        fourth.log()
    );
    fourth.stop();

    let port = place.inside(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let busy = format!("listen: {}", port.local_addr().unwrap());
    write(config(&place, "lan0", "").replace("listen: 127.0.0.1:7255", &busy));
    let fifth = start(&place);
    until("what does not run is taken back", || {
        attached(&fifth, "lan0")
    });
    assert!(fifth.log().contains("it does not run"), "{}", fifth.log());
    fifth.stop();
}

#[test]
fn uninstalling_leaves_nothing_behind() {
    let place = Place::new();
    let root = place.file("");
    let root = root.to_str().unwrap().trim_end_matches('/');
    let from = place.file("appliance.yaml");
    let install = ["install", "--root", root, "--from", from.to_str().unwrap()];
    std::fs::write(&from, "interface: [lan9]\n").unwrap();
    let wrong = place.failure_of("lb1", &install);
    let etc = place.file("etc");
    assert!(wrong.contains("lan9") && !etc.exists(), "{wrong}");

    // As the appliance below lies, seen from this root.
    let config = "node-name: lb1\ninterface: [lan0]\nstate-dir: /state/lb1\nbpffs: /bpf/lb1\nsocket: /lb1.sock\n";
    std::fs::write(&from, config).unwrap();
    let checked = place.command_of("lb1", &["check", from.to_str().unwrap()]);
    assert!(checked.contains("can be used"), "{checked}");
    let said = place.command_of("lb1", &install);
    let unit = format!("{root}/etc/systemd/system/fairlead-appliance.service");
    assert!(said.contains(&unit), "{said}");
    verify(&unit);

    let running = Appliance::start_with(&place, "lb1", &["lan0"], &[]);
    until("it works", || attached(&running, "lan0"));
    let busy = place.failure_of("lb1", &["uninstall", "--root", root]);
    assert!(busy.contains("stop it first"), "{busy}");
    running.kill();
    assert!(
        place.has_program("lan0"),
        "a killed process leaves its programs running"
    );
    let said = place.command_of("lb1", &["uninstall", "--root", root]);
    assert!(said.contains("detached 1 programs"), "{said}");
    assert!(!place.has_program("lan0"));
    for gone in [
        "etc/fairlead",
        "state/lb1",
        "bpf/lb1",
        "lb1.sock",
        "etc/systemd/system/fairlead-appliance.service",
    ] {
        assert!(!place.file(gone).exists(), "{gone}");
    }
    let again = place.command_of("lb1", &["uninstall", "--root", root]);
    assert_eq!(again, "", "twice is as good as once");
}

/// Where systemd's checker is there, it has nothing to say.
fn verify(unit: &str) {
    let checked = Command::new("systemd-analyze")
        .args(["verify", "--man=no", unit])
        .output();
    if let Ok(checked) = checked {
        let said = String::from_utf8_lossy(&checked.stderr);
        let ours: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("fairlead"))
            .collect();
        assert!(ours.is_empty(), "{ours:?}");
    }
}

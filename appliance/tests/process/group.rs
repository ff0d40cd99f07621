//! Two appliances as a group: joining by token, a restart without the API, a takeover, and the former one giving way.

use std::net::TcpStream;

use crate::{
    WEB,
    harness::{Appliance, Place, port_of, until},
};

/// lb1 with the Service on `lan0`, lb2 joined on `lan1`; both have seen it, and lb2 has a copy.
fn group(place: &Place) -> (Appliance<'_>, Appliance<'_>) {
    place.add_interface("lan1", "10.78.0.1/24");
    place.manifest("web.yaml", WEB);
    let first = Appliance::start(place, "lb1");
    until("the API holds the Service", || first.object("web"));
    let token = place.command_of("lb1", &["token", "create", "--ttl", "10m"]);
    let file = place.file("token");
    std::fs::write(&file, token).unwrap();
    let second = join(place);
    until("the second one has seen it", || {
        (second.services().len() == 1).then_some(())
    });
    until("the second one knows where the first serves", || {
        let path = place.state().join("lb2/cluster/membership.json");
        let text = std::fs::read_to_string(path).ok()?;
        (text.contains("\"lb1\": [") && text.contains("\"lb2\": [")).then_some(())
    });
    until("a copy is kept", || {
        let copy = std::fs::read(place.state().join("lb2/cluster/copy")).ok()?;
        String::from_utf8_lossy(&copy).contains("lb2").then_some(())
    });
    // Whoever has joined needs it no more.
    std::fs::remove_file(file).unwrap();
    (first, second)
}

fn join(place: &Place) -> Appliance<'_> {
    let url = format!("https://127.0.0.1:{}", port_of("lb1"));
    let token = place.file("token");
    let args = ["--join", &url, "--token-file", token.to_str().unwrap()];
    Appliance::start_with(place, "lb2", &["lan1"], &args)
}

fn serves(place: &Place, name: &str) -> bool {
    place.inside(|| TcpStream::connect(("127.0.0.1", port_of(name))).is_ok())
}

#[test]
fn after_the_first_is_gone_the_second_serves_its_copy_takes_over_and_the_first_follows() {
    let place = Place::new();
    let (first, second) = group(&place);
    first.kill();
    second.kill();

    let second = join(&place);
    until("it works with what it kept", || {
        (second.services().len() == 1).then_some(())
    });
    assert!(
        second.log().contains("SnapshotFromDisk"),
        "{}",
        second.log()
    );
    assert!(!second.status().unwrap().api.is_connected);

    let said = place.command_of("lb2", &["promote"]);
    assert!(
        said.contains("lb2 serves the API") && said.contains("reign 2"),
        "{said}"
    );
    until("it serves the API itself", || {
        let status = second.status()?;
        (status.api.is_connected && second.object("web").is_some()).then_some(())
    });

    let first = Appliance::start(&place, "lb1");
    until("the former one follows", || {
        let is_connected = first.status()?.api.is_connected;
        (is_connected && first.services().len() == 1).then_some(())
    });
    assert!(first.log().contains("ApiFenced"), "{}", first.log());
    assert!(!serves(&place, "lb1") && serves(&place, "lb2"));
    let kubeconfig = place.state().join("lb1/kubeconfig");
    let kubeconfig = std::fs::read_to_string(kubeconfig).unwrap();
    assert!(
        kubeconfig.contains(&port_of("lb2").to_string()),
        "{kubeconfig}"
    );
}

#[test]
fn a_planned_takeover_makes_the_one_who_serves_a_member_while_it_runs() {
    let place = Place::new();
    let (first, second) = group(&place);
    let said = place.command_of("lb2", &["promote"]);
    assert!(said.contains("lost no write"), "{said}");
    until("the roles are exchanged", || {
        (serves(&place, "lb2") && !serves(&place, "lb1")).then_some(())
    });
    until("both are connected to it", || {
        let connected = [first.status()?, second.status()?];
        connected.iter().all(|s| s.api.is_connected).then_some(())
    });
    let said = place.command_of("lb1", &["promote"]);
    assert!(said.contains("reign 3"), "and back: {said}");
    until("the first serves again", || {
        (serves(&place, "lb1") && !serves(&place, "lb2")).then_some(())
    });
    until("nothing is lost", || first.object("web"));
    first.stop();
    second.stop();
}

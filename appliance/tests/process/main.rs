//! The binary as a whole, as root, in network namespaces of its own: what it refuses and how it says so, and a life from start to cleanup.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod group;
mod harness;
mod installed;

use std::net::TcpListener;

use fairlead_observe::{L2Row, ProblemView};
use harness::{Appliance, Place, until};

#[test]
fn an_unknown_interface_is_answered_with_those_that_exist() {
    let place = Place::new();
    let said = place.refusal(&["--interface", "eth9"]);
    assert!(said.contains("no interface is called \"eth9\""), "{said}");
    assert!(said.contains("lo, ") && said.contains("lan0"), "{said}");
    assert!(
        !place.state().join("api").exists(),
        "it should leave no trace"
    );
}

#[test]
fn a_busy_port_is_named() {
    let place = Place::new();
    let (_held, port) = place.inside(|| {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        (held, port)
    });
    let listen = format!("127.0.0.1:{port}");
    let said = place.refusal(&["--interface", "lan0", "--listen", &listen]);
    assert!(
        said.contains(&format!("cannot listen on {listen}")),
        "{said}"
    );
    assert!(said.contains("in use"), "{said}");
}

#[test]
fn missing_rights_are_named_with_what_to_grant() {
    let place = Place::new();
    let said = place.refusal_as(
        &["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"],
        &["--interface", "lan0"],
    );
    assert!(said.contains("CAP_BPF"), "{said}");
}

#[test]
fn joining_without_a_kubeconfig_says_where_to_get_it() {
    let place = Place::new();
    let join = ["--interface", "lan0", "--join", "https://10.77.0.2:6443"];
    let said = place.refusal(&[&join[..], &["--kubeconfig", "/nonexistent/kubeconfig"]].concat());
    assert!(
        said.contains("/nonexistent/kubeconfig") && said.contains("copy it"),
        "{said}"
    );
}

#[test]
fn a_folder_of_manifests_that_is_not_there_ends_it() {
    let place = Place::new();
    let said = place.refusal(&[
        "--interface",
        "lan0",
        "--manifests",
        "/nonexistent/manifests",
    ]);
    assert!(
        said.contains("--manifests") && said.contains("/nonexistent/manifests"),
        "{said}"
    );
}

#[test]
fn a_busy_hook_is_said_and_whoever_holds_it_is_not_disturbed() {
    let place = Place::new();
    let holder = Appliance::start(&place, "holder");
    until("the first one attaches", || {
        holder
            .status()?
            .interfaces
            .iter()
            .any(|i| i.xdp != "none")
            .then_some(())
    });
    let other = Appliance::start(&place, "other");
    let problem = until("the second one says what is wrong", || {
        let status = other.status()?;
        let interface = status.interfaces.into_iter().find(|i| i.name == "lan0")?;
        interface.problem
    });
    assert!(
        problem.contains("lb_ingress") && problem.contains("xdp off"),
        "{problem}"
    );
    assert!(
        holder
            .status()
            .unwrap()
            .interfaces
            .iter()
            .all(|i| i.problem.is_none())
    );
}

#[test]
fn a_life_from_the_first_start_to_cleanup() {
    let place = Place::new();
    place.manifest("web.yaml", WEB);
    let first = Appliance::start(&place, "lb1");
    until("the VIP is owned", || {
        first.l2().iter().any(|row| row.is_self).then_some(())
    });
    let services = first.services();
    let problem = &services[0].conditions[0];
    assert_eq!(
        (problem.status.as_str(), problem.reason.as_str()),
        ("False", "NoBackend")
    );
    let metrics = first.metrics();
    for line in [
        "fairlead_agent_owned_vips 1",
        "fairlead_agent_attached_interfaces 1",
        "# TYPE fairlead_agent_reason_packets counter",
    ] {
        assert!(metrics.contains(line), "{line}:\n{metrics}");
    }
    first.kill();
    assert!(
        place.has_program("lan0"),
        "a killed process leaves its programs running"
    );

    let second = Appliance::start(&place, "lb1");
    until("it owns the VIP again", || {
        let rows = second.l2();
        rows.iter()
            .any(|row| row.is_self && row.since.is_some())
            .then_some(())
    });
    assert!(second.log().contains("taken_over=true"), "{}", second.log());
    until("the condition is on the Service", || {
        let service = second.object("web")?;
        let conditions = service["status"]["conditions"].as_array()?.clone();
        let ours = conditions
            .into_iter()
            .find(|c| c["type"] == "fairlead.io/Forwarding")?;
        (ours["reason"] == "NoBackend").then_some(())
    });
    second.stop();
    assert!(
        place.has_program("lan0"),
        "a stopped process leaves its programs running too"
    );

    let cleanup = || {
        place.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let (pins, socket) = (place.pins(), place.socket("lb1"));
            let removed = fairlead_agent::cleanup::cleanup(&pins, &socket);
            runtime.unwrap().block_on(removed).unwrap()
        })
    };
    assert_eq!(cleanup().n_links, 1);
    assert!(!place.has_program("lan0"));
    assert_eq!(
        cleanup(),
        fairlead_agent::cleanup::Removed::default(),
        "twice is as good as once"
    );
}

#[test]
fn an_interface_whose_hook_is_busy_is_announced_on_no_more_than_it_is_served() {
    let place = Place::new();
    place.add_interface("lan1", "10.78.0.1/24");
    let holder = Appliance::start_on(&place, "holder", &["lan1"]);
    until("somebody else holds the hook", || {
        place.has_program("lan1").then_some(())
    });
    holder.stop();
    place.manifest("web.yaml", WEB);
    let both = Appliance::start_on(&place, "lb1", &["lan0", "lan1"]);
    until("the VIP is owned where it is served", || {
        let rows = both.l2();
        let is_owned = |row: &&L2Row| row.is_self && row.interface.as_deref() == Some("lan0");
        rows.iter().find(is_owned).map(drop)
    });
    let rows = both.l2();
    assert!(
        rows.iter()
            .all(|row| row.interface.as_deref() == Some("lan0")),
        "{rows:?}"
    );
    until("the status names the reason", || {
        let status = both.status()?;
        let of = |p: &&ProblemView| p.subject == "interface lan1";
        let problem = status.problems.iter().find(of)?;
        (problem.reason == "XdpDeviceBusy").then_some(())
    });
    until("the Service names it too", || {
        let service = both.object("web")?;
        let conditions = service["status"]["conditions"].as_array()?.clone();
        let announced = conditions
            .into_iter()
            .find(|c| c["type"] == "fairlead.io/Announced")?;
        (announced["reason"] == "XdpDeviceBusy").then_some(())
    });
    std::fs::remove_dir_all(place.pins_of("holder")).unwrap();
    until("it is owned there too once the hook is free", || {
        let rows = both.l2();
        let is_owned = |row: &&L2Row| row.is_self && row.interface.as_deref() == Some("lan1");
        rows.iter().find(is_owned).map(drop)
    });
    both.stop();
}

const WEB: &str = "
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: lan}
spec: {blocks: [{cidr: 10.77.0.192/28}]}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata: {name: lan}
spec: {loadBalancerIPs: true}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: LoadBalancer, ports: [{port: 80}]}
";

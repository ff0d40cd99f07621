//! The real API server slow, away, restarted, restored from an older state, answering 429 and 410, and cut in the middle of a
//! list: nothing announced or forwarded changes without cause, and nothing is deleted from an incomplete list (style.md I6).
//!
//! One site meets every fault in turn. Meanwhile the client asks for each VIP all the time, and what the agents say is compared
//! with what they said before: owners, epochs, addresses, and every backend of every frontend.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on should end there, and says what it saw"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use fairlead_cluster::proxy::{Action, Answer, Door, Seen};
use fairlead_cluster::repository;
use fairlead_cluster::site::{Program, Site};
use fairlead_lab::clock;
use fairlead_lab::drive::view::NodeView;
use fairlead_lab::drive::{Frontends, NODES};
use fairlead_lab::traffic::dark::darkness;
use fairlead_lab::traffic::probe::Probe;
use serde_json::Value;

/// How long silence lasts: longer than an agent waits for an answer (3 s), and than its entries in the kernel are good for (3 s).
const SILENCE: Duration = Duration::from_secs(5);
/// How long other faults last: some tries of every watch.
const FAULT: Duration = Duration::from_secs(2);
/// A gap in the client's answers that a busy machine does not make, but a VIP that is withdrawn or taken over does (three probes
/// and two heartbeats before, a second of repeated announcements after).
const DARK: Duration = Duration::from_millis(1500);

/// What must not change.
#[derive(Debug, PartialEq)]
struct Picture {
    /// VIP on a node: owner and epoch.
    vips: BTreeMap<String, (Option<String>, u64, String)>,
    /// Frontend on a node: whether it is in the kernel, and its backends.
    frontends: BTreeMap<String, (bool, Vec<String>)>,
}

/// Of the Services in `only`.
fn picture(site: &Site, only: &[&str]) -> anyhow::Result<Picture> {
    let mut picture = Picture {
        vips: BTreeMap::new(),
        frontends: BTreeMap::new(),
    };
    for node in NODES {
        let view = NodeView::ask(&site.lab().node(node)?)?;
        for row in view
            .l2
            .iter()
            .filter(|row| only.contains(&row.service.as_str()))
        {
            let says = (row.owner.clone(), row.epoch, row.state.clone());
            picture.vips.insert(format!("{} on {node}", row.vip), says);
        }
        for service in &view.services {
            if !only.contains(&format!("{}/{}", service.namespace, service.name).as_str()) {
                continue;
            }
            for frontend in &service.frontends {
                let backends = frontend.backends.iter();
                let backends =
                    backends.map(|b| format!("{}:{} {} {:?}", b.addr, b.port, b.state, b.next_hop));
                let says = (frontend.is_programmed, backends.collect());
                picture
                    .frontends
                    .insert(format!("{} on {node}", frontend.frontend), says);
            }
        }
    }
    Ok(picture)
}

/// The site while faults come and go.
struct Trial {
    site: Site,
    before: Picture,
    only: Vec<&'static str>,
}

impl Trial {
    /// `fault` is on for a while, then off; nothing may change, and then everything must be heard again.
    fn meet(&mut self, name: &str, on: impl FnOnce(&mut Site), off: impl FnOnce(&mut Site)) {
        on(&mut self.site);
        let is_silence = ["slow", "silent", "away"].contains(&name);
        let until = clock::now() + if is_silence { SILENCE } else { FAULT };
        while clock::now() < until {
            self.nothing_changed(name);
        }
        off(&mut self.site);
        self.hears(name);
        self.nothing_changed(name);
    }

    fn nothing_changed(&self, when: &str) {
        let now = picture(&self.site, &self.only).unwrap();
        if now != self.before {
            let shown = NODES.map(|node| {
                let node = self.site.lab().node(node).unwrap();
                node.run(&["fairlead", "l2", "list"]).unwrap()
            });
            panic!(
                "{when}: {:#?}\nwas {:#?}\n{}",
                now,
                self.before,
                shown.join("\n")
            );
        }
    }

    /// A change reaches every agent, by way of the operator: a Service that no policy announces, so that nothing is placed anew.
    fn hears(&mut self, name: &str) {
        let service = format!("after-{name}");
        let manifest = serde_json::json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": service},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
        let began = clock::now();
        self.site.plane.apply(&manifest.to_string()).unwrap();
        // A leader that cannot renew its Lease for 10 s ends, and is started again.
        self.site.restart_ended(&[]).unwrap();
        let heard = self
            .site
            .wait_anyway(&format!("{name}: a new Service is heard"), |site| {
                for node in NODES {
                    let view = NodeView::ask(&site.lab().node(node)?)?;
                    let row = view.services.iter().find(|s| s.name == service);
                    let row = row.with_context(|| format!("{node} does not know it"))?;
                    ensure!(!row.vips.is_empty(), "{node} knows no address of it");
                }
                Ok(())
            });
        heard.unwrap();
        eprintln!(
            "{name}: heard again after {:.1} s",
            clock::now().saturating_sub(began).as_secs_f32()
        );
        self.site
            .plane
            .kubectl(&["delete", "service", &service, "--wait=false"])
            .unwrap();
    }

    fn rule(site: &Site, rule: impl Fn(&Seen) -> Action + Send + Sync + Clone + 'static) {
        for proxy in site.proxies() {
            proxy.rule(rule.clone());
            proxy.cut();
        }
    }

    fn pass(site: &Site) {
        for proxy in site.proxies() {
            proxy.pass();
        }
    }

    fn door(site: &Site, door: Door) {
        for proxy in site.proxies() {
            proxy.door(door);
            proxy.cut();
        }
    }
}

/// Everything the operator writes on the Service, and its version.
fn written(site: &Site) -> Value {
    let text = site
        .plane
        .kubectl(&["get", "service", "web", "-o", "json"])
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn no_fault_of_the_api_changes_what_is_announced_or_forwarded() {
    let mut site = Site::up("faults").unwrap();
    for node in NODES {
        site.start(node, Program::Operator, &[]).unwrap();
        site.start(node, Program::Agent, &[]).unwrap();
    }
    let examples = repository()
        .join("configs/examples/main")
        .display()
        .to_string();
    site.plane.kubectl(&["apply", "-f", &examples]).unwrap();
    let (service, owner) = site
        .wait("the Service is served", |site| site.ready(&NODES))
        .unwrap();
    let only = vec!["default/web"];
    let before = site
        .wait("both nodes agree", |site| picture(site, &["default/web"]))
        .unwrap();
    let probes = Probes::start(&site, &service);
    let object = written(&site);
    let mut trial = Trial { site, before, only };

    trial.meet(
        "slow",
        |site| Trial::rule(site, |_| Action::Slow(Duration::from_secs(1))),
        |site| Trial::pass(site),
    );
    trial.meet(
        "silent",
        |site| Trial::door(site, Door::Hang),
        |site| Trial::door(site, Door::Open),
    );
    trial.meet(
        "away",
        |site| Trial::door(site, Door::Reset),
        |site| Trial::door(site, Door::Open),
    );
    trial.meet(
        "too-many-requests",
        |site| Trial::rule(site, |_| Action::Answer(Answer::too_many())),
        |site| Trial::pass(site),
    );
    for (name, answer) in [
        ("gone", Answer::gone()),
        ("gone-in-watch", Answer::gone_in_watch()),
    ] {
        let gone = move |seen: &Seen| {
            if seen.is_watch() {
                Action::Answer(answer.clone())
            } else {
                Action::Pass
            }
        };
        trial.meet(
            name,
            |site| {
                site.proxies().for_each(|proxy| drop(proxy.take_seen()));
                Trial::rule(site, gone);
            },
            |site| {
                for node in NODES {
                    let seen = site.proxy(node, Program::Agent).seen();
                    let lists = seen.iter().filter(|seen| seen.is_list_of("/services"));
                    assert!(lists.count() > 0, "{name}: {node} lists Services again");
                }
                Trial::pass(site);
            },
        );
    }
    let cut = |seen: &Seen| match seen.is_watch() {
        true => Action::Close,
        false if seen.path.ends_with("/version") => Action::Pass,
        false => Action::CutAfter(700),
    };
    trial.meet(
        "list-cut",
        |site| Trial::rule(site, cut),
        |site| Trial::pass(site),
    );
    // The first page is whole, the second never comes: two slices, of which only one is in the first page.
    let pages = |seen: &Seen| match seen.query.contains("continue=") {
        true => Action::Answer(Answer::gone()),
        false if seen.is_watch() => Action::Close,
        false => Action::Pages(1),
    };
    trial.meet(
        "second-page-gone",
        |site| Trial::rule(site, pages),
        |site| Trial::pass(site),
    );
    trial.meet(
        "killed",
        |site| site.plane.kill_api(),
        |site| site.plane.start_api().unwrap(),
    );
    trial.meet(
        "restarted",
        |site| site.plane.stop_api().unwrap(),
        |site| site.plane.start_api().unwrap(),
    );

    // So far there was nothing to write.
    let now = written(&trial.site);
    assert_eq!(now["status"], object["status"]);
    assert_eq!(
        now["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"],
        "{now}"
    );

    restored(&mut trial);
    agent_starts_while_the_api_is_away(&mut trial, &owner);
    probes.end();
}

/// etcd is taken back to before a Service was made: that one goes, with cause; the others stay as they are; and changes are heard,
/// although every version that was seen lies ahead.
fn restored(trial: &mut Trial) {
    let backup = trial.site.plane.backup().unwrap();
    trial.site.restart_ended(&[]).unwrap();
    trial.hears("backup");
    // Versions go on, so that those seen are far from those after the restore.
    for n in 0..30 {
        let value = format!("n={n}");
        let args = ["annotate", "node", NODES[0], "--overwrite", &value];
        trial.site.plane.kubectl(&args).unwrap();
    }
    let late = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "late", "labels": {"announce": "lan"}},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}"#;
    trial.site.plane.apply(late).unwrap();
    let knows = |site: &Site| -> anyhow::Result<usize> {
        let mut n = 0;
        for node in NODES {
            let view = NodeView::ask(&site.lab().node(node)?)?;
            n += view
                .l2
                .iter()
                .filter(|row| row.service == "default/late")
                .count();
        }
        Ok(n)
    };
    let announced = trial
        .site
        .wait_anyway("the late Service is announced", |site| {
            ensure!(knows(site)? == NODES.len(), "not on every node");
            Ok(())
        });
    announced.unwrap();
    trial.site.plane.restore(&backup).unwrap();
    trial.site.restart_ended(&[]).unwrap();
    trial.nothing_changed("restored");
    let gone = trial
        .site
        .wait_anyway("the late Service is gone, as it is from the API", |site| {
            ensure!(knows(site)? == 0, "still known");
            Ok(())
        });
    gone.unwrap();
    trial.hears("restored");
    trial.nothing_changed("restored");
}

/// The owner's agent is killed and starts while nobody answers: it goes on with what the kernel holds.
fn agent_starts_while_the_api_is_away(trial: &mut Trial, owner: &str) {
    let owner = NODES.into_iter().find(|node| *node == owner).unwrap();
    Trial::door(&trial.site, Door::Hang);
    trial.site.kill(owner, Program::Agent).unwrap();
    trial.site.start(owner, Program::Agent, &[]).unwrap();
    let until = clock::now() + 2 * SILENCE;
    clock::wait_until(until);
    Trial::door(&trial.site, Door::Open);
    trial.site.restart_ended(&[]).unwrap();
    trial.hears("agent-alone");
    let again = trial
        .site
        .wait_anyway("the picture is whole again", |site| {
            let now = picture(site, &["default/web"])?;
            ensure!(now.frontends == trial.before.frontends, "{now:#?}");
            Ok(now)
        });
    assert_eq!(
        again.unwrap().vips,
        trial.before.vips,
        "nobody else took over meanwhile"
    );
}

/// The client asks for every VIP all the time.
struct Probes(Vec<(SocketAddr, Probe)>);

impl Probes {
    fn start(site: &Site, service: &Frontends) -> Self {
        let client = site.lab().node("client").unwrap();
        let start = |target: SocketAddr| {
            let echo = SocketAddr::new(target.ip(), service.udp_port);
            (echo, Probe::udp(&client, echo).unwrap())
        };
        Self(service.tcp().map(start).collect())
    }

    fn end(self) {
        for (target, probe) in self.0 {
            let dark = darkness(&probe.stop().unwrap());
            eprintln!(
                "{target}: {} of {} answered, longest gap {:?}",
                dark.answered, dark.sent, dark.longest
            );
            assert!(
                dark.longest < DARK + dark.longest_pause,
                "{target}: {dark:?}"
            );
        }
    }
}

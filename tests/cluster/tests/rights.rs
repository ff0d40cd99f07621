//! Every right that `deploy/plain/rbac.yaml` grants is taken away once, and its lack gives its own named error: a log line with
//! reason `Forbidden`, the verb and the resource. No other line complains. So nothing is granted that is not used, and nothing
//! that is refused is silent.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should end there"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use fairlead_cluster::proxy::{Action, Answer};
use fairlead_cluster::repository;
use fairlead_cluster::site::{NAMESPACE, Program, Site};
use fairlead_lab::clock;
use fairlead_lab::drive::NODES;
use serde_json::{Value, json};

/// A refusal is logged within a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where everything runs.
const NODE: &str = NODES[0];

/// A verb on a resource (or a path), as the API server names it when it refuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    verb: String,
    resource: String,
}

fn right(text: &str) -> Right {
    let (verb, resource) = text.split_once(' ').unwrap();
    Right {
        verb: verb.to_owned(),
        resource: resource.to_owned(),
    }
}

/// What is taken away at once, and what makes the program need it.
struct Round {
    program: Program,
    without: &'static [&'static str],
    flags: &'static [&'static str],
    /// Before the program starts.
    before: fn(&mut Site),
    /// Once it runs.
    during: fn(&mut Site),
}

/// Written only when a stranger claims an address: what happens then is shown where there are strangers, in announcer's own tests.
const EVENTS: &str = "events";
const NOTHING: fn(&mut Site) = |_| {};
const FAST: [&str; 6] = [
    "--leader-election-lease-duration",
    "2s",
    "--leader-election-renew-deadline",
    "1500ms",
    "--leader-election-retry-period",
    "200ms",
];
const FAST_WITH_CRDS: [&str; 7] = [
    "--create-crds",
    FAST[0],
    FAST[1],
    FAST[2],
    FAST[3],
    FAST[4],
    FAST[5],
];

const fn agent(
    without: &'static [&'static str],
    before: fn(&mut Site),
    during: fn(&mut Site),
) -> Round {
    Round {
        program: Program::Agent,
        without,
        flags: &[],
        before,
        during,
    }
}

const fn operator(without: &'static [&'static str], before: fn(&mut Site)) -> Round {
    Round {
        program: Program::Operator,
        without,
        flags: &FAST,
        before,
        during: NOTHING,
    }
}

const fn installing(without: &'static [&'static str], before: fn(&mut Site)) -> Round {
    Round {
        flags: &FAST_WITH_CRDS,
        ..operator(without, before)
    }
}

/// Rights that stand in one round do not hide one another.
const ROUNDS: &[Round] = &[
    agent(
        &[
            "list services",
            "list nodes",
            "list endpointslices",
            "list ciliuml2announcementpolicies",
            "get secrets",
            "get /version",
        ],
        forget_key,
        NOTHING,
    ),
    agent(
        &[
            "watch services",
            "watch nodes",
            "watch endpointslices",
            "watch ciliuml2announcementpolicies",
            "list leases",
            "list ciliumloadbalancerippools",
        ],
        NOTHING,
        |site| {
            // Asked for by people only, and told them too.
            let node = site.lab().node(NODE).unwrap();
            let told = site.wait("people are told", |_| {
                let output = node.command(&["fairlead", "ippool", "list"]).output()?;
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                ensure!(text.contains("it refuses"), "{text}");
                Ok(())
            });
            told.unwrap();
        },
    ),
    agent(
        &[
            "get services",
            "get ciliuml2announcementpolicies",
            "get leases",
        ],
        NOTHING,
        NOTHING,
    ),
    agent(
        &[
            "patch services/status",
            "patch ciliuml2announcementpolicies/status",
            "create leases",
        ],
        |site| {
            delete_leases(site);
            forget_conditions(site);
        },
        NOTHING,
    ),
    agent(
        &["update secrets"],
        |site| {
            forget_key(site);
            let empty = r#"[{"op": "remove", "path": "/data"}]"#;
            kubectl(
                site,
                &[
                    "patch",
                    "secret",
                    "fairlead-heartbeat",
                    "-n",
                    NAMESPACE,
                    "--type=json",
                    "-p",
                    empty,
                ],
            );
        },
        NOTHING,
    ),
    agent(&["update leases", "delete leases"], lease_of_web, |site| {
        let lease = "cilium-l2announce-default-gone";
        let owned = site.wait("the Service is announced, and its Lease written", |site| {
            site.plane
                .kubectl(&["get", "lease", lease, "-n", NAMESPACE])
        });
        owned.unwrap();
        // It is announced no more: its Lease is to go.
        kubectl(site, &["label", "service", "gone", "announce-"]);
    }),
    operator(
        &[
            "list services",
            "list nodes",
            "list endpointslices",
            "list ciliuml2announcementpolicies",
            "list ciliumloadbalancerippools",
            "list addressreservations",
            "list ippoolusages",
        ],
        NOTHING,
    ),
    operator(
        &[
            "watch services",
            "watch nodes",
            "watch endpointslices",
            "watch ciliuml2announcementpolicies",
            "watch ciliumloadbalancerippools",
            "watch addressreservations",
            "watch ippoolusages",
        ],
        NOTHING,
    ),
    operator(&["get services"], forget_sizes),
    operator(&["patch services"], forget_sizes),
    operator(
        &[
            "patch services/status",
            "patch ciliumloadbalancerippools/status",
            "patch addressreservations/status",
            "patch ippoolusages/status",
        ],
        |site| {
            forget_addresses(site);
            kubectl(site, &["delete", "ippoolusages", "--all"]);
        },
    ),
    operator(&["create ippoolusages"], |site| {
        kubectl(site, &["delete", "ippoolusages", "--all"]);
    }),
    Round {
        during: |site| {
            // A pool that goes takes its usage with it.
            let pool = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool", "metadata": {"name": "short"},
                "spec": {"blocks": [{"cidr": "192.0.2.0/28"}]}});
            site.plane.apply(&pool.to_string()).unwrap();
            let used = site.wait("its usage is written", |site| {
                site.plane.kubectl(&["get", "ippoolusage", "short"])
            });
            used.unwrap();
            kubectl(site, &["delete", "ippool", "short"]);
        },
        ..operator(&["delete ippoolusages"], NOTHING)
    },
    operator(&["get leases"], NOTHING),
    operator(&["create leases"], |site| {
        kubectl(
            site,
            &[
                "delete",
                "lease",
                "fairlead-operator",
                "-n",
                NAMESPACE,
                "--ignore-not-found",
            ],
        );
    }),
    operator(&["patch leases"], NOTHING),
    installing(&["get customresourcedefinitions"], NOTHING),
    installing(&["list customresourcedefinitions"], NOTHING),
    installing(&["watch customresourcedefinitions"], |site| {
        // As if they were not there yet: only then they are watched.
        let none = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinitionList", "metadata": {"resourceVersion": "1"}, "items": []});
        let none = Answer {
            code: 200,
            retry_after: None,
            body: none.to_string(),
        };
        site.proxy(NODE, Program::Operator).rule(move |seen| {
            if seen.is_list_of("/customresourcedefinitions") {
                Action::Answer(none.clone())
            } else {
                Action::Pass
            }
        });
    }),
    installing(&["update customresourcedefinitions"], |site| {
        let other = r#"{"spec": {"names": {"shortNames": ["other"]}}}"#;
        kubectl(
            site,
            &[
                "patch",
                "crd",
                "ciliuml2announcementpolicies.cilium.io",
                "--type=merge",
                "-p",
                other,
            ],
        );
    }),
];

fn kubectl(site: &mut Site, args: &[&str]) {
    site.plane.kubectl(args).unwrap();
}

fn forget_key(site: &mut Site) {
    let key = site.lab().run_dir(NODE).join("state/heartbeat.key");
    drop(std::fs::remove_file(key));
}

/// One that is there already is updated.
fn lease_of_web(site: &mut Site) {
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"holderIdentity": NODE},
        "metadata": {"name": "cilium-l2announce-default-web", "namespace": NAMESPACE}});
    site.plane.apply(&lease.to_string()).unwrap();
}

fn delete_leases(site: &mut Site) {
    kubectl(site, &["delete", "lease", "-n", NAMESPACE, "--all"]);
}

fn forget_conditions(site: &mut Site) {
    let none = r#"[{"op": "add", "path": "/status/conditions", "value": []}]"#;
    kubectl(
        site,
        &[
            "patch",
            "service",
            "bad",
            "--subresource=status",
            "--type=json",
            "-p",
            none,
        ],
    );
    kubectl(
        site,
        &[
            "patch",
            "l2announcement",
            "bad",
            "--subresource=status",
            "--type=json",
            "-p",
            none,
        ],
    );
}

fn forget_sizes(site: &mut Site) {
    kubectl(
        site,
        &[
            "annotate",
            "services",
            "--all",
            "fairlead.io/maglev-table-size-",
        ],
    );
}

fn forget_addresses(site: &mut Site) {
    let none = r#"{"status": {"loadBalancer": {"ingress": null}}}"#;
    kubectl(
        site,
        &[
            "patch",
            "service",
            "web",
            "--subresource=status",
            "--type=merge",
            "-p",
            none,
        ],
    );
    let none = r#"{"status": {"conditions": []}}"#;
    kubectl(
        site,
        &[
            "patch",
            "addressreservation",
            "kept",
            "--subresource=status",
            "--type=merge",
            "-p",
            none,
        ],
    );
    kubectl(
        site,
        &[
            "patch",
            "ippool",
            "lan",
            "--subresource=status",
            "--type=merge",
            "-p",
            none,
        ],
    );
}

/// The documents of the manifest.
fn manifest() -> Vec<Value> {
    let path = repository().join("deploy/plain/rbac.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let documents = serde_norway::Deserializer::from_str(&text);
    let values = documents.map(|d| serde::Deserialize::deserialize(d).unwrap());
    values.filter(|v: &Value| v.is_object()).collect()
}

fn words(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|v| v.as_str().unwrap())
}

/// Roles of one program, by its name.
fn roles(program: Program) -> Vec<Value> {
    let is_role = |v: &Value| matches!(v["kind"].as_str(), Some("Role" | "ClusterRole"));
    let all = manifest().into_iter().filter(is_role);
    all.filter(|v| v["metadata"]["name"] == program.name())
        .collect()
}

fn rights(role: &Value) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for verb in words(&rule["verbs"]) {
            for resource in words(&rule["resources"]).chain(words(&rule["nonResourceURLs"])) {
                rights.insert(right(&format!("{verb} {resource}")));
            }
        }
    }
    rights
}

/// The same role without these rights.
fn less(role: &Value, without: &BTreeSet<Right>) -> Value {
    let mut role = role.clone();
    let mut kept = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        let key = if rule["resources"].is_array() {
            "resources"
        } else {
            "nonResourceURLs"
        };
        for resource in words(&rule[key]) {
            let verbs: Vec<&str> = words(&rule["verbs"])
                .filter(|verb| !without.contains(&right(&format!("{verb} {resource}"))))
                .collect();
            if !verbs.is_empty() {
                let mut rule = rule.clone();
                rule[key] = json!([resource]);
                rule["verbs"] = json!(verbs);
                kept.push(rule);
            }
        }
    }
    role["rules"] = json!(kept);
    role
}

#[test]
fn the_manifest_grants_no_wildcard_and_secrets_by_name_only() {
    for document in manifest() {
        let text = document.to_string();
        assert!(!text.contains("\"*\""), "{text}");
        for rule in document["rules"].as_array().into_iter().flatten() {
            if words(&rule["resources"]).any(|r| r.starts_with("secrets")) {
                assert_eq!(
                    rule["resourceNames"],
                    json!(["fairlead-heartbeat"]),
                    "{rule}"
                );
                assert!(
                    words(&rule["verbs"]).all(|verb| ["get", "update"].contains(&verb)),
                    "{rule}"
                );
            }
        }
        let is_binding = document["kind"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("Binding"));
        if is_binding {
            let known = ["fairlead-agent", "fairlead-operator"];
            assert!(
                known.contains(&document["roleRef"]["name"].as_str().unwrap()),
                "{document}"
            );
        }
    }
    let mut taken = BTreeSet::new();
    for round in ROUNDS {
        taken.extend(
            round
                .without
                .iter()
                .map(|text| (round.program, right(text))),
        );
    }
    let mut granted = BTreeSet::new();
    for program in [Program::Agent, Program::Operator] {
        for role in roles(program) {
            granted.extend(rights(&role).into_iter().map(|right| (program, right)));
        }
    }
    granted.retain(|(_, right)| right.resource != EVENTS);
    let differ: Vec<_> = taken.symmetric_difference(&granted).collect();
    assert!(
        differ.is_empty(),
        "granted without a round, or the other way round: {differ:#?}"
    );
}

#[test]
fn each_right_that_is_missing_is_named() {
    let mut site = Site::up("rights").unwrap();
    let examples = repository()
        .join("configs/examples/main")
        .display()
        .to_string();
    site.plane.kubectl(&["apply", "-f", &examples]).unwrap();
    // A policy and a Service that there is something to say about, and a Service to be given up.
    for object in [
        json!({"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumL2AnnouncementPolicy", "metadata": {"name": "bad"}, "spec": {"interfaces": ["("]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bad"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "externalIPs": ["10.10.0.250"]}}),
        json!({"apiVersion": "fairlead.io/v1alpha1", "kind": "AddressReservation", "metadata": {"name": "kept"},
            "spec": {"blocks": [{"cidr": "10.10.0.200/32"}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "gone", "labels": {"announce": "lan"}},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}),
    ] {
        site.plane.apply(&object.to_string()).unwrap();
    }
    // With every right, nothing is refused; and Services have addresses from here on.
    for program in [Program::Operator, Program::Agent] {
        let flags: &[&str] = if program == Program::Operator {
            &FAST_WITH_CRDS
        } else {
            &[]
        };
        site.start(NODE, program, flags).unwrap();
    }
    let all_well = site.wait("everything works with every right", |site| {
        site.ready(&[NODE])
    });
    all_well.unwrap();
    for program in [Program::Operator, Program::Agent] {
        let log = site.log(NODE, program).unwrap();
        assert!(
            !log.contains("Forbidden") && !log.contains("forbidden"),
            "{log}"
        );
        site.kill(NODE, program).unwrap();
    }
    // Kubernetes itself grants /version to everybody.
    for binding in ["system:discovery", "system:public-info-viewer"] {
        kubectl(&mut site, &["delete", "clusterrolebinding", binding]);
    }
    let silent: Vec<String> = ROUNDS
        .iter()
        .filter_map(|round| play(&mut site, round).err())
        .map(|error| format!("{error:#}"))
        .collect();
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

fn play(site: &mut Site, round: &Round) -> anyhow::Result<()> {
    let without: BTreeSet<Right> = round.without.iter().map(|text| right(text)).collect();
    let apply = |site: &Site, role: &Value| site.plane.apply(&role.to_string()).unwrap();
    (round.before)(site);
    for role in roles(round.program) {
        apply(site, &less(&role, &without));
    }
    let known = site.wait("the authorizer knows", |site| {
        let still = without.iter().find(|right| may(site, round.program, right));
        ensure!(still.is_none(), "{:?} may still {still:?}", round.program);
        Ok(())
    });
    known.unwrap();
    let seen = site.log(NODE, round.program).unwrap_or_default().len();
    site.start(NODE, round.program, round.flags).unwrap();
    (round.during)(site);
    let what = format!("{:?} without {:?}", round.program, round.without);
    let mut refused = BTreeSet::new();
    let all = clock::poll(PATIENCE, || {
        let log = site.log(NODE, round.program).unwrap();
        let lines = log[seen..]
            .lines()
            .filter(|line| line.contains("Forbidden"));
        refused = lines.filter_map(named).collect();
        (refused == without).then_some(())
    });
    site.kill(NODE, round.program)?;
    site.proxy(NODE, round.program).pass();
    for role in roles(round.program) {
        apply(site, &role);
    }
    let log = site.log(NODE, round.program)?;
    let end: Vec<&str> = log[seen..].lines().rev().take(12).collect();
    ensure!(
        all.is_some(),
        "{what}: it named {refused:?}\n{}",
        end.join("\n")
    );
    Ok(())
}

/// Whether the API server would allow it now.
fn may(site: &Site, program: Program, right: &Right) -> bool {
    let user = format!("--as=system:serviceaccount:{NAMESPACE}:{}", program.name());
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, sub)) if !resource.is_empty() => (resource, format!("--subresource={sub}")),
        _ => (right.resource.as_str(), "--subresource=".to_owned()),
    };
    let all: Vec<Value> = roles(program);
    let rules = all
        .iter()
        .flat_map(|role| role["rules"].as_array().unwrap());
    let mut covering = rules.filter(|rule| {
        words(&rule["resources"]).any(|r| r == right.resource)
            && words(&rule["verbs"]).any(|verb| verb == right.verb)
    });
    let name = covering
        .next()
        .and_then(|rule| words(&rule["resourceNames"]).next());
    let object = name.map_or_else(|| resource.to_owned(), |name| format!("{resource}/{name}"));
    let ask = [
        "auth",
        "can-i",
        &right.verb,
        &object,
        &subresource,
        &user,
        "-n",
        NAMESPACE,
    ];
    let answer = site.plane.kubectl_command(&ask).unwrap().output().unwrap();
    answer.stdout.starts_with(b"yes")
}

/// The right that a line of the log names: `cannot VERB resource "RESOURCE"` or `cannot VERB path "PATH"`, with or without escapes.
fn named(line: &str) -> Option<Right> {
    let line = line.replace('\\', "");
    let (_, rest) = line.split_once("cannot ")?;
    let mut words = rest.split_whitespace();
    let verb = words.next()?;
    words.next()?;
    let resource = words.next()?.trim_matches('"');
    Some(right(&format!("{verb} {resource}")))
}

//! Every verb of kubectl 1.36 for every kind that is served.
//!
//! One server and one set of objects; commands that take several objects are given all of them at once, and what they say
//! is looked at kind by kind. A kind that discovery shows and this file does not know fails the test.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should end there"
)]

#[path = "api/harness.rs"]
mod harness;
#[path = "api/tool.rs"]
mod tool;

use std::path::Path;

use harness::Running;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tool::{command, kubectl, kubectl_in, refused, text, words};

/// One kind under test.
struct Case {
    /// As `api-resources -o name` says.
    resource: &'static str,
    /// As kubectl's messages name the object.
    object: &'static str,
    /// The headings of `get` and, after `|`, those that `-o wide` adds.
    columns: &'static str,
    /// A field and what `explain` says of it.
    explained: (&'static str, &'static str),
    /// Everything but `metadata`.
    body: &'static str,
}

const CASES: &[Case] = &[
    Case {
        resource: "namespaces",
        object: "namespace/walk",
        columns: "NAME STATUS AGE",
        explained: ("spec.finalizers", "opaque list of values"),
        body: "apiVersion: v1\nkind: Namespace\n",
    },
    Case {
        resource: "nodes",
        object: "node/walk",
        columns: "NAME STATUS ROLES AGE VERSION | INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME",
        explained: ("spec.podCIDR", "PodCIDR represents the pod IP range"),
        body: "apiVersion: v1\nkind: Node\nspec: {podCIDR: 10.1.0.0/24}\n",
    },
    Case {
        resource: "services",
        object: "service/walk",
        columns: "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE | SELECTOR",
        explained: ("spec.ports.port", "exposed by this service"),
        body: "apiVersion: v1\nkind: Service\nspec: {type: LoadBalancer, selector: {app: walk}, ports: [{port: 80}]}\n",
    },
    Case {
        resource: "secrets",
        object: "secret/walk",
        columns: "NAME TYPE DATA AGE",
        explained: ("stringData", "non-binary secret data in string form"),
        body: "apiVersion: v1\nkind: Secret\ndata: {k: dg==}\n",
    },
    Case {
        resource: "configmaps",
        object: "configmap/walk",
        columns: "NAME DATA AGE",
        explained: ("data", "Data contains the configuration data"),
        body: "apiVersion: v1\nkind: ConfigMap\ndata: {k: v}\n",
    },
    Case {
        resource: "events",
        object: "event/walk",
        columns: "LAST SEEN TYPE REASON OBJECT MESSAGE | SUBOBJECT SOURCE FIRST SEEN COUNT NAME",
        explained: ("involvedObject", "The object that this event is about."),
        body: "apiVersion: v1\nkind: Event\ninvolvedObject: {kind: Service, name: walk, namespace: default}\n\
               reason: Walked\nmessage: by core\ntype: Normal\n",
    },
    Case {
        resource: "events.events.k8s.io",
        object: "event.events.k8s.io/walk-new",
        columns: "LAST SEEN TYPE REASON OBJECT MESSAGE | SUBOBJECT SOURCE FIRST SEEN COUNT NAME",
        explained: (
            "regarding",
            "regarding contains the object this Event is about",
        ),
        body: "apiVersion: events.k8s.io/v1\nkind: Event\neventTime: \"2026-01-02T03:04:05.000000Z\"\nregarding: {kind: Service, name: walk, namespace: default}\n\
               reason: Renamed\nnote: by the newer name\ntype: Warning\naction: Walk\n\
               reportingController: fairlead.io/test\nreportingInstance: t\n",
    },
    Case {
        resource: "endpointslices.discovery.k8s.io",
        object: "endpointslice.discovery.k8s.io/walk",
        columns: "NAME ADDRESSTYPE PORTS ENDPOINTS AGE",
        explained: ("endpoints.addresses", "addresses of this endpoint"),
        body: "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nendpoints: [{addresses: [192.0.2.7]}]\n\
               ports: [{name: http, port: 80, protocol: TCP}]\n",
    },
    Case {
        resource: "leases.coordination.k8s.io",
        object: "lease.coordination.k8s.io/walk",
        columns: "NAME HOLDER AGE",
        explained: (
            "spec.holderIdentity",
            "holderIdentity contains the identity",
        ),
        body: "apiVersion: coordination.k8s.io/v1\nkind: Lease\nspec: {holderIdentity: me}\n",
    },
    Case {
        resource: "pools.example.io",
        object: "pool.example.io/walk",
        columns: "NAME DISABLED IPS AVAILABLE AGE",
        explained: ("spec.blocks.cidr", "A block of addresses."),
        body: "apiVersion: example.io/v2\nkind: Pool\nspec: {blocks: [{cidr: 192.0.2.0/24}]}\n",
    },
    Case {
        resource: "ciliumloadbalancerippools.cilium.io",
        object: "ciliumloadbalancerippool.cilium.io/walk",
        columns: "NAME DISABLED CONFLICTING IPS AVAILABLE AGE",
        explained: ("spec.blocks.cidr", "<string>"),
        body: "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nspec: {blocks: [{cidr: 192.0.2.0/24}]}\n",
    },
    Case {
        resource: "ciliuml2announcementpolicies.cilium.io",
        object: "ciliuml2announcementpolicy.cilium.io/walk",
        columns: "NAME AGE",
        explained: ("spec.loadBalancerIPs", "<boolean>"),
        body: "apiVersion: cilium.io/v2alpha1\nkind: CiliumL2AnnouncementPolicy\nspec: {loadBalancerIPs: true}\n",
    },
];

/// Kinds that can only be read or asked; `reading` and `asking` walk them.
const OTHERS: &[&str] = &[
    "componentstatuses",
    "customresourcedefinitions.apiextensions.k8s.io",
    "selfsubjectreviews.authentication.k8s.io",
    "localsubjectaccessreviews.authorization.k8s.io",
    "selfsubjectaccessreviews.authorization.k8s.io",
    "selfsubjectrulesreviews.authorization.k8s.io",
    "subjectaccessreviews.authorization.k8s.io",
];

impl Case {
    fn name(&self) -> &str {
        self.object.split_once('/').unwrap().1
    }

    fn is_custom(&self) -> bool {
        self.body.contains("example.io") || self.body.contains("cilium.io")
    }

    /// The manifest, labelled.
    fn manifest(&self, label: &str) -> String {
        let name = self.name();
        let body = self.body;
        format!("---\n{body}metadata: {{name: {name}, labels: {{walk: {label}}}}}\n")
    }
}

fn manifests<'a>(cases: impl IntoIterator<Item = &'a Case>, label: &str) -> String {
    cases.into_iter().map(|case| case.manifest(label)).collect()
}

/// One line per kind, in any order: `OBJECT WORD`.
fn each_says(said: &str, word: &str) {
    for case in CASES {
        let line = format!("{} {word}", case.object);
        assert!(
            said.lines().any(|l| l == line),
            "{line:?} missing in:\n{said}"
        );
    }
    assert_eq!(said.lines().count(), CASES.len(), "{said}");
}

fn all(label: &str) -> String {
    manifests(CASES, label)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_works_for_every_kind() {
    let crd = |name: &str| {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../configs/crd/{name}.yaml"));
        serde_norway::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let running = harness::start_with(|config| {
        config.crds.push(crd("ciliumloadbalancerippools"));
        config.crds.push(crd("ciliuml2announcementpolicies"));
    })
    .await;
    let known = discovery(&running).await;
    let custom = CASES.iter().filter(|case| case.is_custom()).count();
    assert_eq!(known, CASES.len() + OTHERS.len(), "{custom} are custom");

    let mut watches = Watches::start(&running);
    creating(&running).await;
    watches.expect("ADDED").await;
    reading(&running).await;
    explaining(&running).await;
    applying(&running).await;
    patching(&running).await;
    watches.expect("MODIFIED").await;
    describing(&running).await;
    asking(&running).await;
    deleting(&running).await;
    watches.expect("DELETED").await;
    watches.stop().await;
}

async fn discovery(running: &Running) -> usize {
    let listed = kubectl(running, &["api-resources", "-o", "name"], "").await;
    let known: Vec<&str> = CASES
        .iter()
        .map(|case| case.resource)
        .chain(OTHERS.iter().copied())
        .collect();
    for resource in listed.lines() {
        assert!(
            known.contains(&resource),
            "{resource} is served and not walked"
        );
    }
    listed.lines().count()
}

/// One `kubectl get -w` per kind.
struct Watches(Vec<(&'static str, Child, Lines<BufReader<ChildStdout>>)>);

impl Watches {
    fn start(running: &Running) -> Self {
        let one = |case: &'static Case| {
            let args = [
                "get",
                case.resource,
                "-w",
                "--output-watch-events",
                "-l",
                "walk",
            ];
            let mut child = tokio::process::Command::from(command(running, &args))
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            (case.resource, child, lines)
        };
        Self(CASES.iter().map(one).collect())
    }

    /// Waits until every watch has told of such an event.
    async fn expect(&mut self, event: &str) {
        for (resource, _, lines) in &mut self.0 {
            loop {
                let line = tokio::time::timeout(harness::PATIENCE, lines.next_line()).await;
                let line = line.unwrap_or_else(|_| panic!("{resource}: no {event} in time"));
                let line = line
                    .unwrap()
                    .unwrap_or_else(|| panic!("{resource}: the watch ended"));
                if words(&line).first() == Some(&event) {
                    break;
                }
            }
        }
    }

    async fn stop(self) {
        for (_, mut child, _) in self.0 {
            child.kill().await.unwrap();
        }
    }
}

async fn creating(running: &Running) {
    let dry = kubectl(
        running,
        &["create", "--dry-run=server", "-f", "-"],
        &all("a"),
    )
    .await;
    each_says(&dry, "created (server dry run)");
    each_says(
        &kubectl(running, &["create", "-f", "-"], &all("a")).await,
        "created",
    );
    let again = refused(running, &["create", "-f", "-"], &all("a")).await;
    assert_eq!(
        again.matches("AlreadyExists").count(),
        CASES.len(),
        "{again}"
    );
}

async fn reading(running: &Running) {
    for case in CASES {
        let get = ["get", case.resource, "-l", "walk=a"];
        let wide = kubectl(running, &[&get[..], &["-o", "wide"]].concat(), "").await;
        let heading = words(wide.lines().next().unwrap()).join(" ");
        // The wide columns of events stand between the others.
        let mut wanted = words(case.columns);
        wanted.retain(|word| *word != "|");
        let (mut heading, mut sorted) = (words(&heading), wanted.clone());
        if case.resource.starts_with("events") {
            heading.sort_unstable();
            sorted.sort_unstable();
        }
        assert_eq!(heading, sorted, "{}", case.resource);
        assert_eq!(
            wide.lines().count(),
            1 + if case.resource.starts_with("events") {
                2
            } else {
                1
            }
        );
        let narrow = case.columns.split('|').next().unwrap();
        let plain = kubectl(running, &get, "").await;
        assert_eq!(
            words(plain.lines().next().unwrap()),
            words(narrow),
            "{}",
            case.resource
        );
        let name = format!("metadata.name={}", case.name());
        let selected = [
            "get",
            case.resource,
            "--field-selector",
            &name,
            "-o",
            "name",
        ];
        assert_eq!(kubectl(running, &selected, "").await.trim(), case.object);
        let none = kubectl_in(
            running,
            &["get", case.resource, "-l", "walk notin (a),walk"],
            "",
        )
        .await;
        assert!(
            text(&none.stderr).starts_with("No resources found"),
            "{}",
            case.resource
        );
        let gone = refused(running, &["get", case.resource, "nobody"], "").await;
        assert_eq!(
            gone,
            format!(
                "Error from server (NotFound): {} \"nobody\" not found\n",
                case.resource
            )
        );
    }
    let yaml = kubectl(running, &["get", "-f", "-", "-o", "yaml"], &all("a")).await;
    assert_eq!(yaml.matches("\n    uid: ").count(), CASES.len(), "{yaml}");
    let named = kubectl(running, &["get", "-f", "-", "-o", "name"], &all("a")).await;
    assert!(
        CASES
            .iter()
            .all(|case| named.lines().any(|line| line == case.object)),
        "{named}"
    );
    // Pages of one.
    let paged = ["get", "namespaces", "--chunk-size=1", "-o", "name"];
    assert_eq!(
        kubectl(running, &paged, "").await,
        "namespace/default\nnamespace/kube-system\nnamespace/walk\n"
    );
    let crds = kubectl(running, &["get", "crd"], "").await;
    assert_eq!(
        words(crds.lines().next().unwrap()),
        ["NAME", "CREATED", "AT"]
    );
    assert_eq!(crds.lines().count(), 4);
    kubectl(
        running,
        &[
            "wait",
            "crd/pools.example.io",
            "--for=condition=Established",
        ],
        "",
    )
    .await;
    let store = kubectl(running, &["get", "cs"], "").await;
    assert_eq!(
        words(store.lines().nth(1).unwrap()),
        ["store", "Healthy", "ok"]
    );
    let closed = refused(running, &["delete", "crd", "pools.example.io"], "").await;
    assert!(
        closed.contains("this API serves the definitions that it was built with"),
        "{closed}"
    );
}

async fn explaining(running: &Running) {
    for case in CASES {
        let (field, wanted) = case.explained;
        let (resource, group) = case.resource.split_once('.').unwrap_or((case.resource, ""));
        let path = format!("{resource}.{field}");
        let version = case
            .body
            .lines()
            .next()
            .unwrap()
            .trim_start_matches("apiVersion: ");
        let mut args = vec!["explain", path.as_str()];
        let flag = format!("--api-version={version}");
        if !group.is_empty() {
            args.push(&flag);
        }
        let said = kubectl(running, &args, "").await;
        let flat = words(&said).join(" ");
        assert!(flat.contains(wanted), "{path}:\n{said}");
        assert!(
            flat.contains("KIND:") && flat.contains("VERSION:"),
            "{path}:\n{said}"
        );
    }
    let whole = kubectl(running, &["explain", "pools", "--recursive"], "").await;
    assert!(whole.contains("allowFirstLastIPs"), "{whole}");
}

async fn applying(running: &Running) {
    // What `create` made has no record of what was applied, which kubectl says and makes good.
    let first = kubectl_in(running, &["apply", "-f", "-"], &all("a")).await;
    each_says(&text(&first.stdout), "configured");
    each_says(
        &kubectl(running, &["apply", "-f", "-"], &all("a")).await,
        "unchanged",
    );
    let same = kubectl_in(running, &["diff", "-f", "-"], &all("a")).await;
    assert_eq!(
        (same.status.code(), text(&same.stdout)),
        (Some(0), String::new())
    );
    let differs = kubectl_in(running, &["diff", "-f", "-"], &all("b")).await;
    let shown = text(&differs.stdout);
    assert_eq!(
        differs.status.code(),
        Some(1),
        "{shown}{}",
        text(&differs.stderr)
    );
    assert_eq!(
        shown.matches("\n+    walk: b").count(),
        CASES.len(),
        "{shown}"
    );
    assert!(
        !shown.contains("\n+  resourceVersion"),
        "a dry run makes no version:\n{shown}"
    );
    let dry = kubectl(
        running,
        &["apply", "--dry-run=server", "-f", "-"],
        &all("b"),
    )
    .await;
    each_says(&dry, "configured (server dry run)");
    each_says(
        &kubectl(running, &["apply", "-f", "-"], &all("b")).await,
        "configured",
    );
    let waited = kubectl(
        running,
        &[
            "wait",
            "-f",
            "-",
            "--for=jsonpath={.metadata.labels.walk}=b",
            "--timeout=20s",
        ],
        &all("b"),
    )
    .await;
    each_says(&waited, "condition met");
    let replaced = kubectl(running, &["replace", "-f", "-"], &all("c")).await;
    each_says(&replaced, "replaced");
    edit(running).await;
}

async fn edit(running: &Running) {
    let file = running.dir.path().join("all.yaml");
    std::fs::write(&file, all("c")).unwrap();
    let mut edit = command(running, &["edit", "-f", file.to_str().unwrap()]);
    edit.env("KUBE_EDITOR", "sed -i 's/walk: c/walk: d/'");
    let edited = tokio::task::spawn_blocking(move || edit.output().unwrap())
        .await
        .unwrap();
    let said = text(&edited.stdout);
    assert!(edited.status.success(), "{said}{}", text(&edited.stderr));
    each_says(&said, "edited");
}

async fn patching(running: &Running) {
    let manifest = all("d");
    let merge = [
        "patch",
        "-f",
        "-",
        "--type=merge",
        "-p",
        r#"{"metadata":{"labels":{"m":"1"}}}"#,
    ];
    each_says(&kubectl(running, &merge, &manifest).await, "patched");
    each_says(&kubectl(running, &merge, &manifest).await, "patched");
    let json = [
        "patch",
        "-f",
        "-",
        "--type=json",
        "-p",
        r#"[{"op":"test","path":"/metadata/labels/m","value":"1"},{"op":"remove","path":"/metadata/labels/m"}]"#,
    ];
    each_says(&kubectl(running, &json, &manifest).await, "patched");
    let stale = refused(running, &json, &manifest).await;
    assert_eq!(
        stale.matches("the server rejected our request").count(),
        CASES.len(),
        "{stale}"
    );
    let strategic = [
        "patch",
        "-f",
        "-",
        "--type=strategic",
        "-p",
        r#"{"metadata":{"finalizers":["example.io/a"],"$deleteFromPrimitiveList/finalizers":["example.io/b"]}}"#,
    ];
    let built_in = manifests(CASES.iter().filter(|case| !case.is_custom()), "d");
    let said = kubectl(running, &strategic, &built_in).await;
    assert_eq!(
        said.lines()
            .filter(|line| line.ends_with(" patched"))
            .count(),
        9,
        "{said}"
    );
    let back = [
        "patch",
        "-f",
        "-",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ];
    kubectl(running, &back, &built_in).await;
    each_says(
        &kubectl(running, &["label", "-f", "-", "l=1"], &manifest).await,
        "labeled",
    );
    each_says(
        &kubectl(running, &["label", "-f", "-", "l-"], &manifest).await,
        "unlabeled",
    );
    each_says(
        &kubectl(running, &["annotate", "-f", "-", "a=1"], &manifest).await,
        "annotated",
    );
}

async fn describing(running: &Running) {
    let said = kubectl(running, &["describe", "-f", "-"], &all("d")).await;
    let named = said
        .lines()
        .filter(|line| line.starts_with("Name:"))
        .count();
    assert_eq!(named, CASES.len(), "{said}");
    let uid = kubectl(
        running,
        &["get", "svc", "walk", "-o", "jsonpath={.metadata.uid}"],
        "",
    )
    .await;
    let about =
        format!("{{apiVersion: v1, kind: Service, name: walk, namespace: default, uid: {uid}}}");
    let events = format!(
        "apiVersion: v1\nkind: Event\nmetadata: {{name: told}}\ninvolvedObject: {about}\nreason: Told\nmessage: by core\ntype: Normal\n\
         ---\napiVersion: events.k8s.io/v1\nkind: Event\nmetadata: {{name: told-new}}\nregarding: {about}\nreason: Retold\n\
         note: by the newer name\ntype: Warning\naction: Tell\nreportingController: fairlead.io/test\nreportingInstance: t\n\
         eventTime: \"2026-01-02T03:04:05.000000Z\"\n"
    );
    kubectl(running, &["create", "-f", "-"], &events).await;
    let service = kubectl(running, &["describe", "service", "walk"], "").await;
    for shown in ["Told", "by core", "Retold", "by the newer name"] {
        assert!(
            service.contains(shown),
            "both names of events show: {shown} missing in\n{service}"
        );
    }
    let events = kubectl(running, &["events", "--for", "service/walk"], "").await;
    assert_eq!(events.lines().count(), 3, "{events}");
}

async fn asking(running: &Running) {
    for case in CASES {
        // Of kinds without a namespace it says so, on standard error.
        let asked = kubectl_in(running, &["auth", "can-i", "patch", case.resource], "").await;
        assert_eq!(text(&asked.stdout), "yes\n", "{}", case.resource);
    }
    let whoami = kubectl(
        running,
        &[
            "auth",
            "whoami",
            "-o",
            "jsonpath={.status.userInfo.username}",
        ],
        "",
    )
    .await;
    assert_eq!(whoami, "admin");
    let list = kubectl(running, &["auth", "can-i", "--list"], "").await;
    assert!(list.contains("*.*"), "{list}");
    // kubectl looks for the PATCH of a kind before it sends it unchecked, and reviews have none.
    let other = "apiVersion: authorization.k8s.io/v1\nkind: SubjectAccessReview\n\
                 spec: {user: somebody, resourceAttributes: {verb: get, resource: services}}\n";
    let asked = [
        "create",
        "--validate=false",
        "-f",
        "-",
        "-o",
        "jsonpath={.status.allowed}",
    ];
    assert_eq!(kubectl(running, &asked, other).await, "false");
    let local = "apiVersion: authorization.k8s.io/v1\nkind: LocalSubjectAccessReview\nmetadata: {namespace: default}\n\
                 spec: {user: admin, resourceAttributes: {namespace: default, verb: get, resource: services}}\n";
    assert_eq!(kubectl(running, &asked, local).await, "true");
    // The typed commands, which send protobuf.
    for args in [
        &["create", "configmap", "typed", "--from-literal=a=b"][..],
        &["create", "secret", "generic", "typed", "--from-literal=a=b"],
        &["create", "service", "clusterip", "typed", "--tcp=80"],
        &["create", "namespace", "typed"],
    ] {
        assert!(
            kubectl(running, args, "")
                .await
                .ends_with("/typed created\n")
        );
    }
}

async fn deleting(running: &Running) {
    let manifest = all("d");
    let hold = [
        "patch",
        "-f",
        "-",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":["example.io/hold"]}}"#,
    ];
    kubectl(running, &hold, &manifest).await;
    let dry = kubectl(
        running,
        &["delete", "--dry-run=server", "-f", "-"],
        &manifest,
    )
    .await;
    assert_eq!(
        dry.matches("(server dry run)").count(),
        CASES.len(),
        "{dry}"
    );
    let asked = kubectl(running, &["delete", "--wait=false", "-f", "-"], &manifest).await;
    assert_eq!(asked.lines().count(), CASES.len(), "{asked}");
    for case in CASES {
        let path = [
            "get",
            case.resource,
            case.name(),
            "-o",
            "jsonpath={.metadata.deletionTimestamp}",
        ];
        assert!(
            !kubectl(running, &path, "").await.is_empty(),
            "{} waits",
            case.resource
        );
    }
    let release = [
        "patch",
        "-f",
        "-",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ];
    kubectl(running, &release, &manifest).await;
    let gone = ["wait", "-f", "-", "--for=delete", "--timeout=20s"];
    let gone = kubectl_in(running, &gone, &manifest).await;
    assert!(gone.status.success(), "{}", text(&gone.stderr));
    for case in CASES {
        refused(running, &["get", case.resource, case.name()], "").await;
    }
}

//! The Helm chart: renders, lints, refuses by name what is not here; and the plain YAML in `deploy/plain` is what it renders.
//!
//! Needs Helm in the cache, which `./x test` builds (tests/tools/helm).
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use fairlead_api::config_keys::{Reader, Treatment, judge, treatment};
use serde_json::{Map, Value, json};

/// Set to rewrite `deploy/plain` instead of comparing it.
const UPDATE: &str = "FAIRLEAD_UPDATE";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Runs Helm; nothing of it stays on the machine.
fn helm(args: &[&str]) -> Output {
    let home = std::env::var_os("HOME").expect("somebody runs this");
    let cache = std::env::var_os("FAIRLEAD_CACHE")
        .map_or_else(|| Path::new(&home).join(".cache/fairlead"), PathBuf::from);
    let helm = cache.join("tools/helm");
    let scratch = tempfile::TempDir::new().unwrap();
    Command::new(&helm)
        .args(args)
        .current_dir(deploy())
        .envs(
            ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"]
                .map(|key| (key, scratch.path())),
        )
        .output()
        .unwrap_or_else(|e| {
            panic!(
                "{}: {e}; ./x test builds it, or tests/tools/helm/build.sh",
                helm.display()
            )
        })
}

fn template(args: &[&str]) -> Result<String, String> {
    let output = helm(
        &[
            &[
                "template",
                "fairlead",
                "chart",
                "--namespace",
                "kube-system",
            ],
            args,
        ]
        .concat(),
    );
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

/// Renders with a file of values.
fn template_with(values: &Value) -> Result<String, String> {
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    fs::write(file.path(), values.to_string()).unwrap();
    template(&["--values", file.path().to_str().unwrap()])
}

fn documents(yaml: &str) -> Vec<Value> {
    let all = serde_norway::Deserializer::from_str(yaml);
    all.map(|one| serde::Deserialize::deserialize(one).unwrap())
        .filter(|one: &Value| !one.is_null())
        .collect()
}

fn of_kind<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |one: &&Value| one["kind"] == kind && one["metadata"]["name"] == name;
    all.iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Every rule of every role, with the role's name.
fn rules(all: &[Value]) -> Vec<(String, &Value)> {
    let is_role = |one: &&Value| one["kind"] == "Role" || one["kind"] == "ClusterRole";
    let of = |role: &'_ Value| role["metadata"]["name"].as_str().unwrap().to_owned();
    all.iter()
        .filter(is_role)
        .flat_map(|role| {
            let rules = role["rules"].as_array().unwrap();
            rules.iter().map(move |rule| (of(role), rule))
        })
        .collect()
}

/// Which file of `deploy/plain` a template of the chart goes to.
fn file_of(source: &str) -> &'static str {
    match source.rsplit_once('/').expect("a template is in a folder") {
        (folder, _) if folder.ends_with("crds") => "crds.yaml",
        (_, "agent-rbac.yaml" | "operator-rbac.yaml") => "rbac.yaml",
        (_, "config.yaml") => "config.yaml",
        (_, "agent.yaml") => "agent.yaml",
        (_, "operator.yaml") => "operator.yaml",
        (_, other) => panic!("say in which file of deploy/plain {other} belongs"),
    }
}

/// The chart with its default values, by file.
fn plain() -> BTreeMap<&'static str, String> {
    let rendered = template(&["--include-crds"]).unwrap();
    let mut files: BTreeMap<&str, String> = BTreeMap::new();
    for part in format!("\n{rendered}").split("\n---\n") {
        let Some(part) = part.trim().strip_prefix("# Source: ") else {
            continue;
        };
        let (source, text) = part.split_once('\n').expect("a template is not empty");
        let file = files.entry(file_of(source)).or_insert_with(|| {
            "# What the chart in deploy/chart renders with its default values; a test compares them.\n"
                .to_owned()
        });
        file.push_str("---\n");
        file.push_str(text.trim());
        file.push('\n');
    }
    files
}

#[test]
fn the_plain_yaml_is_what_the_chart_renders() {
    let files = plain();
    let names: Vec<_> = files.keys().copied().collect();
    assert_eq!(
        names,
        [
            "agent.yaml",
            "config.yaml",
            "crds.yaml",
            "operator.yaml",
            "rbac.yaml"
        ]
    );
    let folder = deploy().join("plain");
    for (name, text) in &files {
        let path = folder.join(name);
        if std::env::var_os(UPDATE).is_some() {
            fs::write(&path, text).unwrap();
        }
        let is = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            is == *text,
            "{} is not what the chart renders: {UPDATE}=1 cargo test -p fairlead-tests --test chart",
            path.display()
        );
    }
    let crds = files["crds.yaml"].clone();
    let ours: BTreeSet<String> = fairlead_api::crds()
        .into_iter()
        .filter_map(|crd| crd.metadata.name)
        .collect();
    let theirs = documents(&crds);
    let theirs = theirs
        .iter()
        .map(|crd| crd["metadata"]["name"].as_str().unwrap().to_owned());
    assert_eq!(theirs.collect::<BTreeSet<_>>(), ours);
}

#[test]
fn it_lints() {
    let output = helm(&["lint", "--strict", "chart"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && !said.contains("[WARNING]"),
        "{said}"
    );
}

#[test]
fn permissions_are_the_least_that_work() {
    let rendered = template(&[]).unwrap();
    let all = documents(&rendered);
    let rules = rules(&all);
    assert!(rules.len() > 15, "{}", rules.len());
    for (role, rule) in &rules {
        let words = |field: &str| -> Vec<&str> {
            let list = rule[field].as_array();
            list.into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect()
        };
        for field in [
            "apiGroups",
            "resources",
            "verbs",
            "nonResourceURLs",
            "resourceNames",
        ] {
            assert!(
                words(field).iter().all(|w| !w.contains('*')),
                "{role}: {rule}"
            );
        }
        if words("resources").contains(&"secrets") {
            assert_eq!(words("resourceNames"), ["fairlead-heartbeat"], "{role}");
            assert_eq!(words("verbs"), ["get", "update"], "{role}");
        }
        let escalating = ["escalate", "bind", "impersonate", "deletecollection"];
        assert!(
            words("verbs").iter().all(|v| !escalating.contains(v)),
            "{role}: {rule}"
        );
        assert!(
            !words("resources")
                .iter()
                .any(|r| ["pods", "configmaps", "roles", "clusterroles"].contains(r)),
            "{role}: {rule}"
        );
    }
    // Each rule stands under a comment that says what it is for.
    let lines: Vec<&str> = rendered.lines().collect();
    let begins =
        |line: &str| line.starts_with("  - apiGroups:") || line.starts_with("  - nonResourceURLs:");
    let n_commented =
        (1..lines.len()).filter(|n| begins(lines[*n]) && lines[n - 1].starts_with("  #"));
    let n_grouped = 2; // Nodes, EndpointSlices and policies of the operator share one comment.
    assert_eq!(n_commented.count() + n_grouped, rules.len());
}

#[test]
fn the_agent_is_not_privileged_and_two_operators_share_a_lease() {
    let all = documents(&template(&[]).unwrap());
    let agent = of_kind(&all, "DaemonSet", "fairlead-agent");
    let pod = &agent["spec"]["template"]["spec"];
    let context = &pod["containers"][0]["securityContext"];
    assert_eq!(
        (&context["privileged"], &context["allowPrivilegeEscalation"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    let added = context["capabilities"]["add"].as_array().unwrap();
    assert!(!added.contains(&json!("SYS_ADMIN")), "{added:?}");
    assert_eq!(pod["hostNetwork"], true);
    let operator = of_kind(&all, "Deployment", "fairlead-operator");
    assert_eq!(operator["spec"]["replicas"], 2);
    let pod = &operator["spec"]["template"]["spec"];
    assert_eq!(
        pod["containers"][0]["securityContext"]["runAsNonRoot"],
        true
    );
    assert_eq!(
        pod["containers"][0]["args"],
        json!(["--config-dir=/etc/fairlead", "--create-crds"])
    );
    let secret = of_kind(&all, "Secret", "fairlead-heartbeat");
    assert!(secret.get("data").is_none() && secret.get("stringData").is_none());
    let kept = documents(&template(&["--set", "operator.skipCRDCreation=true"]).unwrap());
    let asks = |all: &[Value]| {
        rules(all)
            .iter()
            .any(|(_, rule)| rule["resources"][0] == "customresourcedefinitions")
    };
    assert!(asks(&all) && !asks(&kept));
}

/// What a user sets in both places.
fn config(rendered: &str) -> BTreeMap<String, String> {
    let all = documents(rendered);
    let data = of_kind(&all, "ConfigMap", "fairlead-config")["data"]
        .as_object()
        .unwrap()
        .clone();
    let text = |(key, value): (String, Value)| (key, value.as_str().unwrap().to_owned());
    data.into_iter().map(text).collect()
}

#[test]
fn cilium_s_values_become_keys_that_are_read() {
    let defaults = config(&template(&[]).unwrap());
    assert_eq!(
        defaults["bpf-lb-acceleration"], "disabled",
        "announce only, beside another CNI"
    );
    let values = json!({
        "k8sServiceHost": "192.0.2.1", "k8sServicePort": 6443,
        "l2announcements": {"enabled": true}, "externalIPs": {"enabled": true},
        "kubeProxyReplacement": false, "rollOutCiliumPods": true,
        "loadBalancer": {"acceleration": "native", "mode": "dsr", "dsrDispatch": "ipip", "algorithm": "maglev"},
        "maglev": {"tableSize": 65521}, "devices": ["eth0", "eth1"], "bpf": {"root": "/sys/fs/bpf"},
        "ipv6": {"enabled": false}, "nodeIPAM": {"enabled": true}, "prometheus": {"enabled": true, "port": 9100}, "defaultLBServiceIPAM": "none", "operator": {"replicas": 1},
        "hubble": {"enabled": false, "relay": {"enabled": false}}, "ipam": {}, "l7Proxy": false,
        "extraConfig": {"fairlead-dad-interval": "1s"},
    });
    let rendered = template_with(&values).unwrap();
    let full = config(&rendered);
    let expected = [
        ("bpf-lb-acceleration", "native"),
        ("bpf-lb-mode", "dsr"),
        ("bpf-lb-dsr-dispatch", "ipip"),
        ("bpf-lb-maglev-table-size", "65521"),
        ("devices", "eth0 eth1"),
        ("enable-ipv6", "false"),
        ("enable-node-ipam", "true"),
        ("prometheus-serve-addr", ":9100"),
        ("default-lb-service-ipam", "none"),
        ("fairlead-dad-interval", "1s"),
    ];
    for (key, value) in expected {
        assert_eq!(full.get(key).map(String::as_str), Some(value), "{key}");
    }
    for reader in [Reader::Agent, Reader::Operator] {
        judge(reader, &full).unwrap();
        judge(reader, &defaults).unwrap();
    }
    for key in full.keys().filter(|key| *key != "bpf-lb-algorithm") {
        let is_read = |reader| treatment(reader, key) == Some(Treatment::Read);
        assert!(
            is_read(Reader::Agent) || is_read(Reader::Operator),
            "nobody reads {key}"
        );
    }
    assert_eq!(rendered.matches("KUBERNETES_SERVICE_HOST").count(), 2);
    assert!(
        !rendered.contains("PodDisruptionBudget"),
        "one operator can not wait for another"
    );
}

/// `refused.yaml`.
fn refused() -> Vec<Value> {
    let text = fs::read_to_string(deploy().join("chart/refused.yaml")).unwrap();
    serde_norway::from_str(&text).unwrap()
}

fn set(values: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(values.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let below = values.entry(first).or_insert_with(|| json!({}));
            set(below.as_object_mut().unwrap(), rest, value);
        }
    }
}

#[test]
fn what_is_missing_is_refused_by_name_with_a_remedy_and_all_at_once() {
    let rows = refused();
    let mut values = Map::new();
    for row in &rows {
        set(&mut values, row["path"].as_str().unwrap(), json!("wanted"));
    }
    let said = template_with(&Value::Object(values)).unwrap_err();
    for row in &rows {
        let (path, remedy) = (
            row["path"].as_str().unwrap(),
            row["remedy"].as_str().unwrap(),
        );
        assert!(
            said.contains(&format!("  {path}=wanted: {remedy}")),
            "{path}: {said}"
        );
    }
    let ipam = template(&["--set", "ipam.operator.clusterPoolIPv4MaskSize=24"]).unwrap_err();
    assert!(
        ipam.contains("ipam.operator.clusterPoolIPv4MaskSize=24: pods get"),
        "{ipam}"
    );
}

#[test]
fn what_asks_for_nothing_passes() {
    let mut values = Map::new();
    for row in refused() {
        let path = row["path"].as_str().unwrap();
        let nothing = row["unless"]
            .get(0)
            .cloned()
            .unwrap_or_else(|| json!({"enabled": false}));
        set(&mut values, path, nothing);
    }
    template_with(&Value::Object(values)).unwrap();
}

#[test]
fn a_value_that_nobody_knows_is_named_and_so_is_a_bad_one() {
    for (line, named) in [
        ("l2announcments.enabled=true", "l2announcments"),
        ("l2announcements.enable=true", "'enable' not allowed"),
        ("operator.replicas=0", "/operator/replicas"),
        ("loadBalancer.mode=hybrid", "/loadBalancer/mode"),
        ("maglev.tableSize=1000", "/maglev/tableSize"),
        (
            "loadBalancer.algorithm=random",
            "loadBalancer.algorithm=random: every table",
        ),
        ("k8sServiceHost=auto", "k8sServiceHost=auto: "),
        (
            "loadBalancer.mode=dsr",
            "set loadBalancer.dsrDispatch to ipip",
        ),
        (
            "loadBalancer.mode=snat",
            "set loadBalancer.acceleration to best-effort",
        ),
    ] {
        let said = template(&["--set", line]).unwrap_err();
        assert!(said.contains(named), "{line}: {said}");
    }
}

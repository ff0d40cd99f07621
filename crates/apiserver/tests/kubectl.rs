//! kubectl 1.36 against the API, as a user would use it. The tool is built by `tests/tools/build.sh`.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should end there"
)]

#[path = "api/harness.rs"]
mod harness;
#[path = "api/tool.rs"]
mod tool;

use std::path::PathBuf;

use harness::start;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tool::{command, kubectl, kubectl_in, refused, text, words};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata:
  name: web
  labels: {tier: front}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
";

const POOL: &str = "
apiVersion: example.io/v2
kind: Pool
metadata:
  name: blue
spec:
  blocks:
  - cidr: 192.0.2.0/24
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tool_is_what_it_says() {
    let running = start().await;
    let version = kubectl(&running, &["version"], "").await;
    assert!(version.contains("Client Version: v1.36.3"), "{version}");
    assert!(version.contains("Server Version: v1.36"), "{version}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_applied_shown_changed_and_deleted() {
    let running = start().await;
    assert_eq!(
        kubectl(&running, &["apply", "-f", "-"], SERVICE).await,
        "service/web created\n"
    );
    assert_eq!(
        kubectl(&running, &["apply", "-f", "-"], SERVICE).await,
        "service/web unchanged\n"
    );

    let shown = kubectl(&running, &["get", "svc"], "").await;
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        words(lines[0]),
        [
            "NAME",
            "TYPE",
            "CLUSTER-IP",
            "EXTERNAL-IP",
            "PORT(S)",
            "AGE"
        ]
    );
    let row = words(lines[1]);
    assert_eq!(
        (row[0], row[1], row[3], row[4]),
        ("web", "LoadBalancer", "<pending>", "80:30080/TCP")
    );
    let wide = kubectl(&running, &["get", "services", "-o", "wide"], "").await;
    assert_eq!(
        words(wide.lines().next().unwrap()).last(),
        Some(&"SELECTOR")
    );
    assert_eq!(words(wide.lines().nth(1).unwrap()).last(), Some(&"app=web"));
    assert_eq!(
        kubectl(&running, &["get", "all", "-o", "name", "-A"], "").await,
        "service/web\n"
    );
    assert_eq!(
        kubectl(
            &running,
            &["get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}"],
            ""
        )
        .await,
        row[2]
    );

    // The second port is merged in; the address and the first node port stay. This is where a patch by merge key counts.
    let more = format!(
        "{SERVICE}  - {{name: dns-tcp, port: 53}}\n  - {{name: dns, port: 53, protocol: UDP}}\n"
    );
    assert_eq!(
        kubectl(&running, &["apply", "-f", "-"], &more).await,
        "service/web configured\n"
    );
    let ports = kubectl(
        &running,
        &[
            "get",
            "svc",
            "web",
            "-o",
            "jsonpath={.spec.clusterIP} {.spec.ports[*].name}",
        ],
        "",
    )
    .await;
    let mut ports = words(&ports);
    // Which of two ports with one number comes first, kubectl's patch does not say.
    ports[2..].sort_unstable();
    assert_eq!(ports, [row[2], "http", "dns", "dns-tcp"]);
    assert_eq!(
        kubectl(&running, &["apply", "-f", "-"], SERVICE).await,
        "service/web configured\n"
    );
    let ports = kubectl(
        &running,
        &["get", "svc", "web", "-o", "jsonpath={.spec.ports[*].name}"],
        "",
    )
    .await;
    assert_eq!(ports, "http");

    kubectl(
        &running,
        &["label", "svc", "web", "tier=back", "--overwrite"],
        "",
    )
    .await;
    kubectl(
        &running,
        &["annotate", "svc", "web", "lbipam.cilium.io/ips=192.0.2.7"],
        "",
    )
    .await;
    kubectl(
        &running,
        &[
            "patch",
            "svc",
            "web",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/metadata/labels/tier"}]"#,
        ],
        "",
    )
    .await;
    let diff = kubectl_in(&running, &["diff", "-f", "-"], SERVICE).await;
    assert_eq!(
        diff.status.code(),
        Some(1),
        "a label is missing: {}{}",
        text(&diff.stdout),
        text(&diff.stderr)
    );
    let described = kubectl(&running, &["describe", "svc", "web"], "").await;
    assert!(
        described.contains("lbipam.cilium.io/ips: 192.0.2.7"),
        "{described}"
    );
    assert_eq!(
        kubectl(&running, &["delete", "svc", "web"], "").await,
        "service \"web\" deleted from default namespace\n"
    );
    let gone = refused(&running, &["get", "svc", "web"], "").await;
    assert_eq!(
        gone,
        "Error from server (NotFound): services \"web\" not found\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_are_at_home_in_kubectl() {
    let running = start().await;
    assert_eq!(
        kubectl(&running, &["apply", "-f", "-"], POOL).await,
        "pool.example.io/blue created\n"
    );
    let status =
        r#"{"status":{"conditions":[{"type":"IPsAvailable","status":"Unknown","message":"254"}]}}"#;
    kubectl(
        &running,
        &[
            "patch",
            "pool",
            "blue",
            "--subresource=status",
            "--type=merge",
            "-p",
            status,
        ],
        "",
    )
    .await;
    let shown = kubectl(&running, &["get", "pl"], "").await;
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        words(lines[0]),
        ["NAME", "DISABLED", "IPS", "AVAILABLE", "AGE"]
    );
    assert_eq!(words(lines[1])[..3], ["blue", "false", "254"]);
    assert_eq!(
        kubectl(&running, &["get", "lb", "-o", "name"], "").await,
        "pool.example.io/blue\n"
    );

    let changed = POOL.replace("192.0.2.0/24", "198.51.100.0/24");
    assert_eq!(
        kubectl(&running, &["apply", "-f", "-"], &changed).await,
        "pool.example.io/blue configured\n"
    );
    let cidr = kubectl(
        &running,
        &[
            "get",
            "pool",
            "blue",
            "-o",
            "jsonpath={.spec.blocks[*].cidr}",
        ],
        "",
    )
    .await;
    assert_eq!(cidr, "198.51.100.0/24");
    kubectl(
        &running,
        &[
            "wait",
            "pool/blue",
            "--for=jsonpath={.spec.disabled}=false",
            "--timeout=10s",
        ],
        "",
    )
    .await;
    assert_eq!(
        kubectl(&running, &["delete", "pools", "--all"], "").await,
        "pool.example.io \"blue\" deleted\n"
    );
}

/// Cilium's kinds as `./x codegen` writes them, and manifests written for Cilium.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_for_cilium_apply_as_they_are() {
    let configs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let crds = ["ciliumloadbalancerippools", "ciliuml2announcementpolicies"].map(|name| {
        let text = std::fs::read_to_string(configs.join(format!("crd/{name}.yaml"))).unwrap();
        serde_norway::from_str(&text).unwrap()
    });
    let running = harness::start_with(|config| config.crds = crds.into()).await;
    let examples = configs.join("examples/main");
    let apply = ["apply", "-f", examples.to_str().unwrap()];
    let applied = kubectl(&running, &apply, "").await;
    assert!(
        !applied.is_empty() && applied.lines().all(|line| line.ends_with(" created")),
        "{applied}"
    );
    let again = kubectl(&running, &apply, "").await;
    assert!(
        again.lines().all(|line| line.ends_with(" unchanged")),
        "{again}"
    );

    let shown = kubectl(&running, &["get", "ippools"], "").await;
    let heading = words(shown.lines().next().unwrap());
    assert_eq!(
        heading,
        ["NAME", "DISABLED", "CONFLICTING", "IPS", "AVAILABLE", "AGE"]
    );
    let old = kubectl_in(
        &running,
        &[
            "get",
            "ciliumloadbalancerippools.v2alpha1.cilium.io",
            "-o",
            "name",
        ],
        "",
    )
    .await;
    assert_eq!(
        text(&old.stdout),
        "ciliumloadbalancerippool.cilium.io/lan\n"
    );
    kubectl(&running, &["get", "l2announcement"], "").await;
    let explained = kubectl(&running, &["explain", "ippool.spec.blocks"], "").await;
    assert!(explained.contains("cidr\t<string>"), "{explained}");
    kubectl(&running, &["delete", "-f", examples.to_str().unwrap()], "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_are_explained() {
    let running = start().await;
    let ports = kubectl(&running, &["explain", "service.spec.ports"], "").await;
    assert!(
        ports.contains("KIND:       Service") && ports.contains("nodePort\t<integer>"),
        "{ports}"
    );
    let cidr = kubectl(&running, &["explain", "pools.spec.blocks.cidr"], "").await;
    assert!(
        cidr.contains("GROUP:      example.io") && cidr.contains("A block of addresses."),
        "{cidr}"
    );
    let resources = kubectl(
        &running,
        &["api-resources", "-o", "name", "--sort-by=name"],
        "",
    )
    .await;
    for name in [
        "pools.example.io",
        "services",
        "endpointslices.discovery.k8s.io",
        "leases.coordination.k8s.io",
    ] {
        assert!(
            resources.lines().any(|line| line == name),
            "{name} missing in {resources}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_named() {
    let running = start().await;
    let port = SERVICE.replace("port: 80,", "port: 70000,");
    let told = refused(&running, &["apply", "-f", "-"], &port).await;
    assert!(
        told.contains("is invalid: spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"),
        "{told}"
    );
    let typo = SERVICE.replace("selector:", "selektor:");
    let told = refused(&running, &["apply", "-f", "-"], &typo).await;
    assert!(
        told.contains("strict decoding error: unknown field \"spec.selektor\""),
        "{told}"
    );
    let cidr = POOL.replace("192.0.2.0/24", "192.0.2.0");
    let told = refused(&running, &["apply", "-f", "-"], &cidr).await;
    assert!(
        told.contains("The Pool \"blue\" is invalid: spec.blocks[0].cidr: Invalid value"),
        "{told}"
    );
    let told = refused(&running, &["apply", "--server-side", "-f", "-"], SERVICE).await;
    assert!(
        told.contains("server-side apply is not supported"),
        "{told}"
    );
    let told = refused(&running, &["-n", "nowhere", "apply", "-f", "-"], SERVICE).await;
    assert!(told.contains("namespaces \"nowhere\" not found"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_show_as_they_come() {
    let running = start().await;
    let args = ["get", "svc", "-w", "--output-watch-events"];
    let mut child = tokio::process::Command::from(command(&running, &args))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(harness::PATIENCE, lines.next_line())
            .await
            .expect("a line in time");
        line.unwrap().expect("kubectl still watches")
    };
    // The heading comes with the first event, so there must be one before anyone waits for it.
    kubectl(&running, &["apply", "-f", "-"], SERVICE).await;
    assert_eq!(words(&next().await)[..3], ["EVENT", "NAME", "TYPE"]);
    assert_eq!(words(&next().await)[..3], ["ADDED", "web", "LoadBalancer"]);
    let status = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}"#;
    kubectl(
        &running,
        &[
            "patch",
            "svc",
            "web",
            "--subresource=status",
            "--type=merge",
            "-p",
            status,
        ],
        "",
    )
    .await;
    let line = next().await;
    assert_eq!(
        (words(&line)[0], words(&line)[4]),
        ("MODIFIED", "192.0.2.1")
    );
    kubectl(&running, &["delete", "svc", "web"], "").await;
    assert_eq!(words(&next().await)[..2], ["DELETED", "web"]);
    child.kill().await.unwrap();
}

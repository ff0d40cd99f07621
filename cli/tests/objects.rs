//! `get`, `apply` and `delete` against the embedded API, as on a machine without kubectl.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::Path;

use fairlead_apiserver::{Config, Server};
use fairlead_cli::{CliError, Output, execute};
use fairlead_observe::Timestamp;
use fairlead_rt::{CancellationToken, Supervisor};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, labels: {tier: front, old: x}}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{name: http, port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: '1', b: '2'}
";

struct Session<'a>(&'a Path);

impl Session<'_> {
    async fn ask(&self, line: &str) -> Result<Output, CliError> {
        let words = line.split_whitespace().map(str::to_owned);
        let kubeconfig = self.0.join("data/admin.kubeconfig").display().to_string();
        let args = ["fairlead".to_owned()]
            .into_iter()
            .chain(words)
            .chain(["--kubeconfig".to_owned(), kubeconfig]);
        execute(args, Timestamp(1_795_271_400)).await
    }

    async fn text(&self, line: &str) -> String {
        let output = self.ask(line).await.unwrap();
        assert_eq!(output.exit_code, 0, "{line}: {}", output.text);
        output.text
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[tokio::test]
async fn a_machine_without_kubectl_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::open(Config::new(
        dir.path().join("data"),
        "127.0.0.1:0".parse().unwrap(),
    ))
    .unwrap();
    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new("test", stop.clone());
    let token = tasks.token();
    tasks.spawn("api", server.run(token));
    let session = Session(dir.path());
    apply_and_get(&session).await;
    delete(&session).await;
    mistakes(&session).await;
    stop.cancel();
    tasks.first_exit().await.unwrap();
}

async fn apply_and_get(session: &Session<'_>) {
    let file = session.write("all.yaml", SERVICE);
    let dry = session.text(&format!("apply --dry-run -f {file}")).await;
    assert_eq!(
        dry,
        "service/web created (dry run)\nconfigmap/settings created (dry run)\n"
    );
    let apply = format!("apply -f {file}");
    assert_eq!(
        session.text(&apply).await,
        "service/web created\nconfigmap/settings created\n"
    );
    assert_eq!(
        session.text(&apply).await,
        "service/web unchanged\nconfigmap/settings unchanged\n"
    );
    // A label and a key are dropped; what the server gave stays.
    let before = session.text("get svc web -o json").await;
    session.write(
        "all.yaml",
        &SERVICE
            .replace(", old: x", "")
            .replace(", b: '2'", "")
            .replace(", nodePort: 30080", ""),
    );
    assert_eq!(
        session.text(&apply).await,
        "service/web configured\nconfigmap/settings configured\n"
    );
    let after = session.text("get svc web -o json").await;
    let field = |text: &str, pointer: &str| -> serde_json::Value {
        let object: serde_json::Value = serde_json::from_str(text).unwrap();
        object.pointer(pointer).cloned().unwrap_or_default()
    };
    assert_eq!(
        field(&after, "/metadata/labels"),
        serde_json::json!({"tier": "front"})
    );
    for kept in ["/spec/clusterIP", "/spec/ports/0/nodePort", "/metadata/uid"] {
        assert_eq!(field(&after, kept), field(&before, kept), "{kept}");
    }
    let maps = session.text("get configmap settings -o yaml").await;
    assert!(
        maps.contains("a: '1'") && !maps.contains("b: '2'\n"),
        "{maps}"
    );

    let table = session.text("get services").await;
    let mut lines = table.lines();
    assert_eq!(
        words(lines.next().unwrap()),
        [
            "NAME",
            "TYPE",
            "CLUSTER-IP",
            "EXTERNAL-IP",
            "PORT(S)",
            "AGE"
        ]
    );
    assert_eq!(words(lines.next().unwrap())[..2], ["web", "LoadBalancer"]);
    let wide = session.text("get svc -A -w -l tier=front").await;
    let heading = words(wide.lines().next().unwrap()).join(" ");
    assert_eq!(
        heading,
        "NAMESPACE NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR"
    );
    assert_eq!(
        session.text("get svc -l tier=back").await,
        "there are none\n"
    );
    let two = session.text("get svc,cm").await;
    assert!(
        two.contains("\nservice/web ") && two.contains("\nconfigmap/settings "),
        "{two}"
    );
}

async fn delete(session: &Session<'_>) {
    let file = session.0.join("all.yaml").display().to_string();
    assert_eq!(
        session.text("delete cm settings").await,
        "configmap/settings deleted\n"
    );
    let rest = session.ask(&format!("delete -f {file}")).await.unwrap();
    assert_eq!(rest.exit_code, 1);
    assert_eq!(
        rest.text,
        "configmap/settings refused: configmaps \"settings\" not found\nservice/web deleted\n"
    );
    assert_eq!(
        session
            .text(&format!("delete --ignore-not-found -f {file}"))
            .await,
        "configmap/settings was not there\nservice/web was not there\n"
    );
}

async fn mistakes(session: &Session<'_>) {
    let refuse = async |line: &str| session.ask(line).await.unwrap_err();
    assert_eq!(refuse("get things").await.reason(), "NoSuchKind");
    assert_eq!(refuse("get svc nobody").await.reason(), "ApiRefused");
    assert_eq!(refuse("get svc --agent x").await.reason(), "NeedsApi");
    let nameless = session.write("bad.yaml", "apiVersion: v1\nkind: Service\n");
    let error = refuse(&format!("apply -f {nameless}")).await;
    assert!(
        error
            .to_string()
            .ends_with("bad.yaml: document 1: metadata.name: must be given"),
        "{error}"
    );
    let typo = session.write("typo.yaml", &SERVICE.replace("selector", "selektor"));
    let output = session.ask(&format!("apply -f {typo}")).await.unwrap();
    assert_eq!(output.exit_code, 1);
    assert!(
        output.text.contains("service/web refused: ")
            && output.text.contains("unknown field \"spec.selektor\""),
        "{}",
        output.text
    );
    assert!(
        output.text.contains("configmap/settings created"),
        "one refusal stops nothing else: {}",
        output.text
    );
}

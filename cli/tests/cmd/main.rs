//! What each command prints, against an agent that answers from files.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::Path;

use axum::{
    Router, extract::Path as UrlPath, http::StatusCode, response::IntoResponse, routing::get,
};
use fairlead_cli::{CliError, Output, execute};
use fairlead_observe::Timestamp;
use tempfile::TempDir;
use tokio::net::UnixListener;

/// 2026-11-21T14:30:00Z.
const NOW: Timestamp = Timestamp(1_795_271_400);

const REFUSED: &str =
    r#"{"reason":"ServiceNotFound","message":"no Service shop/gone","remedy":"check the name"}"#;

async fn file(UrlPath(path): UrlPath<String>) -> impl IntoResponse {
    let name = format!("{}.json", path.replace('/', "_"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cmd/agent")
        .join(name);
    match std::fs::read_to_string(file) {
        Ok(text) => (StatusCode::OK, text),
        Err(_) => (StatusCode::NOT_FOUND, REFUSED.to_owned()),
    }
}

/// Runs a command line against the canned agent.
async fn ask(line: &str) -> Result<Output, CliError> {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("lb1.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let router = Router::new().route("/v1/{*path}", get(file).post(file));
    let server = axum::serve(listener, router).into_future();
    let args: Vec<String> = ["fairlead".to_owned()]
        .into_iter()
        .chain(line.split_whitespace().map(str::to_owned))
        .chain(["--agent".to_owned(), socket.display().to_string()])
        .collect();
    tokio::select! {
        output = execute(args, NOW) => output,
        _ = server => unreachable!("the canned agent serves for ever"),
    }
}

async fn text(line: &str) -> String {
    let output = ask(line).await.unwrap();
    assert_eq!(output.exit_code, 0, "{}", output.text);
    output.text
}

#[tokio::test]
async fn status() {
    insta::assert_snapshot!(text("status").await);
}

#[tokio::test]
async fn service_list() {
    insta::assert_snapshot!(text("service list").await);
}

#[tokio::test]
async fn ippool_list() {
    insta::assert_snapshot!(text("ippool list").await);
}

#[tokio::test]
async fn l2_list() {
    insta::assert_snapshot!(text("l2 list").await);
}

#[tokio::test]
async fn l2_history() {
    insta::assert_snapshot!(text("l2 history").await);
    let one = text("l2 history 192.0.2.2").await;
    assert_eq!(one.lines().count(), 2, "{one}");
}

#[tokio::test]
async fn l2_watch_shows_each_change_once() {
    assert_eq!(text("l2 watch --for 1").await, "", "nothing is new");
    let all = text("l2 watch --all --for 1 192.0.2.1").await;
    assert_eq!(all.matches("192.0.2.1").count(), 2, "{all}");
}

#[tokio::test]
async fn l2_move_shows_where_the_address_is_now() {
    let said = text("l2 move 192.0.2.1 lb2").await;
    assert!(said.contains("192.0.2.1") && said.contains("lb2"), "{said}");
    let output = ask("l2 move 192.0.2.1 no_name").await.unwrap();
    assert!(output.exit_code == 2 && output.text.contains("no_name"));
}

#[tokio::test]
async fn l2_list_as_yaml() {
    insta::assert_snapshot!(text("l2 list -o yaml").await);
}

#[tokio::test]
async fn every_view_survives_json() {
    for (line, file) in [
        ("status -o json", "status"),
        ("service list -o json", "services"),
        ("ippool list -o json", "ippools"),
        ("l2 list -o json", "l2"),
        ("l2 history -o json", "l2_history"),
        ("l2 move 192.0.2.1 lb2 -o json", "l2_move"),
        ("explain svc shop/web -o json", "explain_shop_web"),
    ] {
        let file = format!("{}/tests/cmd/agent/{file}.json", env!("CARGO_MANIFEST_DIR"));
        let said: serde_json::Value = serde_json::from_str(&text(line).await).unwrap();
        let canned = std::fs::read_to_string(file).unwrap();
        assert_eq!(
            said,
            serde_json::from_str::<serde_json::Value>(&canned).unwrap(),
            "{line}"
        );
    }
}

#[tokio::test]
async fn explain_a_whole_chain() {
    insta::assert_snapshot!(text("explain svc shop/web").await);
}

#[tokio::test]
async fn explain_a_broken_chain() {
    let output = ask("explain svc shop/api").await.unwrap();
    assert_eq!(output.exit_code, 1);
    insta::assert_snapshot!(output.text);
}

#[tokio::test]
async fn a_refusal_is_shown_with_its_remedy() {
    let error = ask("explain svc shop/gone").await.unwrap_err();
    assert_eq!(error.to_string(), "no Service shop/gone");
    let help = miette::Diagnostic::help(&error).unwrap().to_string();
    assert_eq!(help, "check the name");
}

#[tokio::test]
async fn bad_command_lines_say_what_is_wrong() {
    for (line, part) in [
        ("explain svc web", "`web` is not of the form NAMESPACE/NAME"),
        (
            "l2 list -o xml",
            "output format `xml` is none of table, json, yaml",
        ),
        ("l2", "Usage: fairlead l2"),
    ] {
        let output = ask(line).await.unwrap();
        assert!(output.exit_code == 2 && output.is_error, "{line}");
        assert!(output.text.contains(part), "{}", output.text);
    }
}

#[tokio::test]
async fn only_an_agent_knows_the_status() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KUBECONFIG).unwrap();
    let line = [
        "fairlead",
        "status",
        "--kubeconfig",
        file.path().to_str().unwrap(),
    ];
    let error = execute(line, NOW).await.unwrap_err();
    assert!(matches!(error, CliError::NeedsAgent), "{error}");
    let line = [
        "fairlead",
        "ippool",
        "list",
        "--kubeconfig",
        "/nonexistent/config",
    ];
    let error = execute(line, NOW).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/config"), "{error}");
    assert!(miette::Diagnostic::help(&error).is_some());
}

const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
";

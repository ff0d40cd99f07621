//! The two servers, and asking them the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread::JoinHandle;

use fairlead_apiserver::{Config, Server};
use fairlead_cluster::repository;
use fairlead_rt::CancellationToken;
use http_body_util::BodyExt as _;
use hyper::{Request, header};
use kube::client::Body;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::normal;
use crate::step::{Ask, Step, Story};

/// What a server answered, made comparable.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) label: String,
    pub(crate) code: u16,
    pub(crate) warnings: Vec<String>,
    pub(crate) body: Value,
}

/// The embedded API, on a thread of its own.
pub(crate) struct Embedded {
    dir: TempDir,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("data"), "127.0.0.1:0".parse().unwrap());
        config.crds = crds();
        config.kubeconfig_path = Some(dir.path().join("kubeconfig"));
        let server = Server::open(config).unwrap();
        let stop = CancellationToken::new();
        let token = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(server.run(token)).unwrap();
        });
        Self {
            dir,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) async fn client(&self) -> kube::Client {
        fairlead_cluster::client(&self.dir.path().join("kubeconfig"))
            .await
            .unwrap()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking());
        }
    }
}

fn crds() -> Vec<Value> {
    let read = |path: &Path| serde_norway::from_str(&std::fs::read_to_string(path).unwrap());
    let entries = std::fs::read_dir(repository().join("configs/crd")).unwrap();
    entries
        .map(|entry| read(&entry.unwrap().path()).unwrap())
        .collect()
}

/// Tells a server a story; one outcome for each request.
pub(crate) async fn tell(client: &kube::Client, story: &Story) -> Vec<Outcome> {
    let namespace = story.name.replace(['_', '/', '.'], "-").to_lowercase();
    let mut kept = BTreeMap::from([("ns".to_owned(), namespace.clone())]);
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    let made = crate::step::post("/api/v1/namespaces", &body);
    let made = send(client, &made, &kept).await;
    assert_eq!(made.code, 201, "{made:?}");
    let mut outcomes = Vec::new();
    for (idx, step) in story.steps.iter().enumerate() {
        match step {
            Step::One(ask) => {
                let answer = send(client, ask, &kept).await;
                for (name, pointer) in &ask.keep {
                    let value = answer.body.pointer(pointer);
                    let value = value.map_or_else(String::new, |value| {
                        value
                            .as_str()
                            .map_or_else(|| value.to_string(), str::to_owned)
                    });
                    kept.insert((*name).to_owned(), value);
                }
                outcomes.push(normal::outcome(idx, ask, answer, &kept));
            }
            Step::Race(asks) => {
                let answers = asks.iter().map(|ask| send(client, ask, &kept));
                let answers = futures::future::join_all(answers).await;
                outcomes.push(normal::race(idx, &asks[0], &answers));
            }
        }
    }
    outcomes
}

/// A raw answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) warnings: Vec<String>,
    /// Of a watch: an array of events.
    pub(crate) body: Value,
}

async fn send(client: &kube::Client, ask: &Ask, kept: &BTreeMap<String, String>) -> Answer {
    let fill = |text: &str| {
        let mut text = text.to_owned();
        for (name, value) in kept {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    };
    let mut request = Request::builder()
        .method(ask.method)
        .uri(fill(&ask.path))
        .header(header::ACCEPT, ask.accept);
    if let Some(content_type) = ask.content_type {
        request = request.header(header::CONTENT_TYPE, content_type);
    }
    let request = request
        .body(Body::from(fill(&ask.body).into_bytes()))
        .unwrap();
    let response = client.send(request).await;
    let response = response.unwrap_or_else(|error| panic!("{}: {error:?}", ask.label()));
    let code = response.status().as_u16();
    let warnings = response.headers().get_all(header::WARNING);
    let warnings = warnings
        .iter()
        .map(|value| value.to_str().unwrap().to_owned())
        .collect();
    let bytes = response.into_body().collect().await;
    let bytes = bytes.unwrap_or_else(|error| panic!("{}: {error:?}", ask.label()));
    let text = String::from_utf8(bytes.to_bytes().into()).unwrap();
    let body = if ask.is_watch && code == 200 {
        let events = text.lines().map(|line| serde_json::from_str(line).unwrap());
        Value::Array(events.collect())
    } else {
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    };
    Answer {
        code,
        warnings,
        body,
    }
}

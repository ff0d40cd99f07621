//! What the API refuses, and in which words.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use axum::http::{Request, StatusCode};
use base64::Engine as _;
use fairlead_apiserver::Server;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Api, ListParams, PostParams};
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{config_map, from, pool, pools};
use crate::harness::{self, Running, start, start_with};

fn status<T>(result: kube::Result<T>) -> kube::core::Status {
    match result {
        Ok(_) => panic!("was not refused"),
        Err(kube::Error::Api(status)) => *status,
        Err(other) => panic!("{other}"),
    }
}

pub(crate) type Stream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// Sends a raw request over TLS and reads nothing.
pub(crate) async fn send(running: &Running, request: &str) -> Stream {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&running.kubeconfig).unwrap();
    let ca = kubeconfig.clusters[0]
        .cluster
        .as_ref()
        .unwrap()
        .certificate_authority_data
        .clone()
        .unwrap();
    let ca = base64::engine::general_purpose::STANDARD
        .decode(ca)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_slice(&ca).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = tokio::net::TcpStream::connect(running.addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector
        .connect("localhost".try_into().unwrap(), socket)
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// A raw request over TLS, to see headers that clients hide. Returns head and body.
pub(crate) async fn raw(running: &Running, request: &str) -> (String, String) {
    let mut stream = send(running, request).await;
    let mut answer = Vec::new();
    // The server may close without a TLS goodbye once it has refused.
    drop(stream.read_to_end(&mut answer).await);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn strangers_get_401_and_a_status() {
    let running = start().await;
    for auth in [
        "",
        "authorization: Bearer 0000000000000000000000000000000000000000000000000000000000000000\r\n",
    ] {
        for path in [
            "/api/v1/secrets",
            "/apis",
            "/openapi/v3",
            "/version",
            "/nonsense",
        ] {
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: x\r\n{auth}connection: close\r\n\r\n");
            let (head, body) = raw(&running, &request).await;
            assert!(head.starts_with("HTTP/1.1 401"), "{path}: {head}");
            let status: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                (&status["kind"], &status["reason"]),
                (&json!("Status"), &json!("Unauthorized"))
            );
        }
    }
    let (head, _) = raw(
        &running,
        "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[tokio::test]
async fn secrets_of_the_server_are_for_their_owner_only() {
    let running = start().await;
    let dir = running.dir.path();
    for file in [
        "kubeconfig",
        "data/admin.kubeconfig",
        "data/admin.token",
        "data/tls/ca.key",
    ] {
        let mode = std::fs::metadata(dir.join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(
        std::fs::metadata(dir.join("data"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
    // The token survives a restart: kubeconfigs handed out stay good.
    let token = running.token();
    let dir = running.shut_down().await;
    let server = Server::open(harness::config(&dir)).unwrap();
    assert!(server.kubeconfig().contains(&token));
}

#[tokio::test]
async fn a_bad_service_is_named_field_by_field() {
    let running = start().await;
    let services = Api::<Service>::default_namespaced(running.client.clone());
    let bad: Service = from(json!({"metadata": {"name": "web"}, "spec": {"ports": [
        {"name": "a", "port": 70000}, {"name": "a", "port": 443}]}}));
    let status = status(services.create(&PostParams::default(), &bad).await);
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert_eq!(
        status.message,
        "Service \"web\" is invalid: [spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive, \
         spec.ports[1].name: Duplicate value: \"a\"]"
    );
    let causes = status.details.unwrap().causes;
    assert_eq!(causes[0].field, "spec.ports[0].port");
    assert_eq!(causes[1].reason, "FieldValueDuplicate");
}

#[tokio::test]
async fn wrong_types_and_bad_names_are_named_too() {
    let running = start().await;
    let post = |path: &str, value: &Value| {
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(value.to_string().into_bytes()).unwrap();
        let client = running.client.clone();
        async move { client.request::<Value>(request).await }
    };
    let typed = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": "eighty"}]}});
    let refused = status(post("/api/v1/namespaces/default/services", &typed).await);
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.details.unwrap().causes[0].field,
        "spec.ports[0].port"
    );

    let named = json!({"metadata": {"name": "Web_1"}});
    let refused = status(post("/api/v1/namespaces/default/configmaps", &named).await);
    assert!(
        refused
            .message
            .contains("metadata.name: Invalid value: \"Web_1\": a lowercase RFC 1123 subdomain")
    );

    let homeless = json!({"metadata": {"name": "a"}});
    let refused = status(post("/api/v1/namespaces/nowhere/configmaps", &homeless).await);
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (404, "namespaces \"nowhere\" not found")
    );

    let other = json!({"kind": "Secret", "metadata": {"name": "a"}});
    let refused = status(post("/api/v1/namespaces/default/configmaps", &other).await);
    assert_eq!(refused.code, 400);
    assert_eq!(
        status(post("/api/v1/namespaces/default/pods", &homeless).await).code,
        404
    );
}

#[tokio::test]
async fn custom_resources_are_held_to_their_schema() {
    let running = start().await;
    let pools = pools(&running, "v2");
    let bad = pool(
        "v2",
        &json!({"allowFirstLastIPs": "Maybe", "blocks": [{"cidr": "10.0.0.0"}, {"cidr": 5}]}),
    );
    let status = status(pools.create(&PostParams::default(), &bad).await);
    assert_eq!(status.code, 422);
    let fields: Vec<String> = status
        .details
        .unwrap()
        .causes
        .into_iter()
        .map(|cause| cause.field)
        .collect();
    assert_eq!(
        fields,
        [
            "spec.allowFirstLastIPs",
            "spec.blocks[0].cidr",
            "spec.blocks[1].cidr"
        ]
    );
    assert!(
        status
            .message
            .starts_with("Pool.example.io \"blue\" is invalid: ["),
        "{}",
        status.message
    );
}

#[tokio::test]
async fn unknown_fields_are_refused_told_or_dropped_as_asked() {
    let running = start().await;
    let token = running.token();
    let body = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80, "prot": "TCP"}], "colour": "blue"}}).to_string();
    let send = |validation: &str| {
        let request = format!(
            "POST /api/v1/namespaces/default/services?dryRun=All&fieldValidation={validation} HTTP/1.1\r\nhost: x\r\n\
             authorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        let running = &running;
        async move { raw(running, &request).await }
    };
    let (head, body) = send("Strict").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    assert!(
        body.contains("strict decoding error: unknown field \\\"spec.colour\\\", unknown field \\\"spec.ports[0].prot\\\""),
        "{body}"
    );
    let (head, body) = send("Warn").await;
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    assert!(
        head.contains("warning: 299 - \"unknown field \\\"spec.colour\\\"\""),
        "{head}"
    );
    assert!(!body.contains("colour"));
    let (head, _) = send("Ignore").await;
    assert!(
        head.starts_with("HTTP/1.1 201") && !head.contains("warning:"),
        "{head}"
    );
    let (head, _) = send("Loose").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

#[tokio::test]
async fn a_deprecated_version_says_so() {
    let running = start().await;
    let token = running.token();
    let request = format!(
        "GET /apis/example.io/v2alpha1/pools HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    let (head, _) = raw(&running, &request).await;
    assert!(
        head.contains("warning: 299 - \"example.io/v2alpha1 Pool is deprecated\""),
        "{head}"
    );
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_the_server_lives() {
    let running = start_with(|config| config.limits.body_bytes = 64 * 1024).await;
    let maps = Api::<ConfigMap>::default_namespaced(running.client.clone());
    let refused = status(
        maps.create(
            &PostParams::default(),
            &config_map("m", &"x".repeat(100_000)),
        )
        .await,
    );
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (413, "RequestEntityTooLarge")
    );
    maps.create(&PostParams::default(), &config_map("m", "small"))
        .await
        .unwrap();
}

#[tokio::test]
async fn both_http_versions_are_spoken() {
    let running = start().await;
    let mut kubeconfig = kube::Config::from_custom_kubeconfig(
        kube::config::Kubeconfig::from_yaml(&running.kubeconfig).unwrap(),
        &kube::config::KubeConfigOptions::default(),
    )
    .await
    .unwrap();
    kubeconfig.connect_timeout = Some(harness::PATIENCE);
    let client = kube::Client::try_from(kubeconfig).unwrap();
    let request = Request::get("/version")
        .body(kube::client::Body::empty())
        .unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let (head, _) = raw(
        &running,
        "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[tokio::test]
async fn a_second_server_on_the_same_data_or_port_is_refused() {
    let running = start().await;
    let Err(error) = Server::open(harness::config(&running.dir)) else {
        panic!("opened the same store twice")
    };
    assert_eq!(error.reason(), "ApiStoreBusy");
    let dir = tempfile::tempdir().unwrap();
    let mut config = harness::config(&dir);
    config.listen = running.addr;
    let Err(error) = Server::open(config) else {
        panic!("listened twice on one port")
    };
    assert_eq!(error.reason(), "ApiListenFailed");
    assert!(
        error.to_string().contains(&running.addr.to_string()),
        "{error}"
    );
}

/// A connection from `from` that says nothing.
async fn silent(running: &Running, from: &str) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(running.addr).await.unwrap()
}

#[tokio::test]
async fn strangers_cannot_starve_clients() {
    let running = start_with(|config| {
        config.limits.connections = 4;
        config.limits.strangers = 16;
        config.limits.strangers_per_peer = 8;
    })
    .await;
    let mut crowd = Vec::new();
    for n in 0..30 {
        let peer = format!("127.0.{}.1", 1 + n % 3);
        crowd.push(silent(&running, &peer).await);
    }
    // Whoever shows a token is served at once, and goes on being served.
    let maps = Api::<ConfigMap>::default_namespaced(running.client.clone());
    for _ in 0..3 {
        maps.list(&ListParams::default()).await.unwrap();
    }
    // Of the crowd, the limit stays and the others are closed.
    let mut closed = 0;
    harness::eventually("the oldest strangers are closed", async || {
        closed = 0;
        for stranger in &crowd {
            let mut byte = [0];
            closed += usize::from(matches!(stranger.try_read(&mut byte), Ok(0)));
        }
        (closed >= 14).then_some(())
    })
    .await;
    assert!(closed < 30, "but not all");
}

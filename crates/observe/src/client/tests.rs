use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::PathBuf,
};

use super::{Client, ClientError};

fn dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("fairlead-observe-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Answers one request and returns its first line.
fn answer_once(
    listener: UnixListener,
    status: &str,
    body: &str,
) -> std::thread::JoinHandle<String> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = head + body;
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut chunk = [0; 1024];
        while !request.windows(4).any(|w| w == b"\r\n\r\n") {
            let n = stream.read(&mut chunk).unwrap();
            request.extend_from_slice(&chunk[..n]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        let text = String::from_utf8(request).unwrap();
        text.lines().next().unwrap().to_owned()
    })
}

#[tokio::test]
async fn the_only_socket_is_found_and_asked() {
    let dir = dir("one");
    let listener = UnixListener::bind(dir.join("lb1.sock")).unwrap();
    let server = answer_once(listener, "200 OK", "[]");
    let client = Client::with_socket_dir(None, &dir).unwrap();
    assert_eq!(client.l2().await.unwrap(), []);
    assert_eq!(server.join().unwrap(), "GET /v1/l2 HTTP/1.1");
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_refusal_carries_the_agent_s_words() {
    let dir = dir("no");
    let socket = dir.join("lb1.sock");
    let body = r#"{"reason":"ApiAway","message":"the API server is away","remedy":"wait"}"#;
    let server = answer_once(
        UnixListener::bind(&socket).unwrap(),
        "503 Service Unavailable",
        body,
    );
    let client = Client::new(Some(socket.to_str().unwrap())).unwrap();
    let error = client.ip_pools().await.unwrap_err();
    assert_eq!(error.to_string(), "the API server is away");
    assert_eq!(error.remedy().as_deref(), Some("wait"));
    server.join().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn every_way_not_to_reach_an_agent_has_a_remedy() {
    let dir = dir("many");
    let none = Client::with_socket_dir(None, &dir).unwrap_err();
    assert_eq!(none.reason(), "NoAgent");
    std::fs::write(dir.join("lb1.sock"), "").unwrap();
    std::fs::write(dir.join("lb2.sock"), "").unwrap();
    let many = Client::with_socket_dir(None, &dir).unwrap_err();
    assert_eq!(many.to_string(), "2 agents run on this machine: lb1, lb2");
    let bad = Client::new(Some("ftp://lb1")).unwrap_err();
    assert_eq!(bad.reason(), "BadAgentAddress");
    let dead = Client::new(Some(dir.join("lb1.sock").to_str().unwrap())).unwrap();
    let dead = dead.status().await.unwrap_err();
    assert!(matches!(dead, ClientError::Connect { .. }), "{dead}");
    for error in [none, many, bad, dead] {
        assert!(error.remedy().is_some(), "{error}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

//! Watches: nothing missed, nothing twice, and 410 when that cannot be promised.

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::client::{config_map, from, pool, pools};
use crate::harness::{PATIENCE, Running, start, start_in, start_with};
use crate::refusals::{raw, send};

fn maps(running: &Running) -> Api<ConfigMap> {
    Api::default_namespaced(running.client.clone())
}

async fn put(running: &Running, name: &str, value: &str) {
    maps(running)
        .create(&PostParams::default(), &config_map(name, value))
        .await
        .unwrap();
}

async fn version(running: &Running) -> String {
    maps(running)
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap()
}

/// The next `n` events, as `TYPE name`.
async fn take(running: &Running, params: &WatchParams, since: &str, n: usize) -> Vec<String> {
    let stream = maps(running).watch(params, since).await.unwrap();
    let events = stream.map_ok(|event| match event {
        WatchEvent::Added(map) => format!("ADDED {}", map.metadata.name.unwrap()),
        WatchEvent::Modified(map) => format!("MODIFIED {}", map.metadata.name.unwrap()),
        WatchEvent::Deleted(map) => format!("DELETED {}", map.metadata.name.unwrap()),
        WatchEvent::Bookmark(mark) => {
            format!(
                "BOOKMARK {}",
                mark.metadata
                    .annotations
                    .contains_key("k8s.io/initial-events-end")
            )
        }
        WatchEvent::Error(status) => format!("ERROR {}", status.code),
    });
    tokio::time::timeout(PATIENCE, events.take(n).try_collect())
        .await
        .expect("events in time")
        .unwrap()
}

#[tokio::test]
async fn a_watch_resumes_where_it_was_across_a_restart() {
    let running = start().await;
    put(&running, "a", "1").await;
    let since = version(&running).await;
    put(&running, "b", "1").await;
    maps(&running)
        .replace("a", &PostParams::default(), &config_map("a", "2"))
        .await
        .unwrap();
    maps(&running)
        .delete("b", &DeleteParams::default())
        .await
        .unwrap();
    let wanted = ["ADDED b", "MODIFIED a", "DELETED b"];
    assert_eq!(
        take(&running, &WatchParams::default(), &since, 3).await,
        wanted
    );

    let dir = running.shut_down().await;
    let config = crate::harness::config(&dir);
    let running = start_in(dir, config).await;
    assert_eq!(
        take(&running, &WatchParams::default(), &since, 3).await,
        wanted
    );
}

#[tokio::test]
async fn a_watch_from_nothing_begins_with_what_there_is() {
    let running = start().await;
    put(&running, "a", "1").await;
    put(&running, "b", "1").await;
    assert_eq!(
        take(&running, &WatchParams::default(), "0", 2).await,
        ["ADDED a", "ADDED b"]
    );
    let streaming = WatchParams::default().initial_events();
    assert_eq!(
        take(&running, &streaming, "0", 3).await,
        ["ADDED a", "ADDED b", "BOOKMARK true"]
    );
}

#[tokio::test]
async fn objects_come_into_a_selection_and_leave_it() {
    let running = start().await;
    let since = version(&running).await;
    let labelled = |value: &str| -> ConfigMap {
        from(json!({"metadata": {"name": "a", "labels": {"on": value}}}))
    };
    maps(&running)
        .create(&PostParams::default(), &labelled("no"))
        .await
        .unwrap();
    maps(&running)
        .replace("a", &PostParams::default(), &labelled("yes"))
        .await
        .unwrap();
    maps(&running)
        .replace("a", &PostParams::default(), &labelled("no"))
        .await
        .unwrap();
    put(&running, "z", "1").await;
    let only = WatchParams::default().labels("on=yes");
    assert_eq!(
        take(&running, &only, &since, 2).await,
        ["ADDED a", "DELETED a"]
    );
}

#[tokio::test]
async fn a_window_that_has_passed_is_gone_and_so_is_a_foreign_version() {
    let running = start_with(|config| config.limits.history = 4).await;
    let since = version(&running).await;
    for n in 0..6 {
        put(&running, &format!("m{n}"), "1").await;
    }
    for stale in [since.as_str(), "999999"] {
        // kube hands a refused watch on as the stream's first item.
        let mut stream = maps(&running)
            .watch(&WatchParams::default(), stale)
            .await
            .unwrap()
            .boxed();
        let first = tokio::time::timeout(PATIENCE, stream.next())
            .await
            .expect("an answer")
            .unwrap();
        let Err(kube::Error::Api(status)) = first else {
            panic!("watch from {stale}: {first:?}")
        };
        assert_eq!(
            (status.code, status.reason.as_str()),
            (410, "Expired"),
            "{}",
            status.message
        );
    }
    // Another resource's changes do not shorten this one's window.
    let pools = pools(&running, "v2");
    let since = version(&running).await;
    pools
        .create(&PostParams::default(), &pool("v2", &json!({})))
        .await
        .unwrap();
    for n in 0..8 {
        let spec = json!({"blocks": [{"start": format!("192.0.2.{n}")}]});
        let patch = kube::api::Patch::Merge(json!({ "spec": spec }));
        pools
            .patch("blue", &kube::api::PatchParams::default(), &patch)
            .await
            .unwrap();
    }
    put(&running, "last", "1").await;
    assert_eq!(
        take(&running, &WatchParams::default(), &since, 1).await,
        ["ADDED last"]
    );
}

#[tokio::test]
async fn a_watch_that_ends_says_how_far_it_got() {
    let running = start().await;
    let since = version(&running).await;
    let params = WatchParams::default().timeout(1);
    assert_eq!(take(&running, &params, &since, 2).await, ["BOOKMARK false"]);
}

#[tokio::test]
async fn watches_are_bounded() {
    let running = start_with(|config| config.limits.watches = 2).await;
    let since = version(&running).await;
    let first = maps(&running)
        .watch(&WatchParams::default(), &since)
        .await
        .unwrap();
    let _second = maps(&running)
        .watch(&WatchParams::default(), &since)
        .await
        .unwrap();
    // Raw, because kube tries a 429 again for minutes.
    let third = format!(
        "GET /api/v1/configmaps?watch=1&timeoutSeconds=1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         connection: close\r\n\r\n",
        running.token()
    );
    let (head, body) = raw(&running, &third).await;
    assert!(
        head.starts_with("HTTP/1.1 429") && head.contains("retry-after: 1"),
        "{head}"
    );
    assert!(body.contains("too many open watches"), "{body}");
    drop(first);
    crate::harness::eventually("a place is free again", async || {
        raw(&running, &third)
            .await
            .0
            .starts_with("HTTP/1.1 200")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_watcher_that_stops_reading_is_cut_off() {
    let running = start_with(|config| {
        config.limits.watches = 1;
        config.limits.write_stall = std::time::Duration::from_millis(300);
    })
    .await;
    let watch = |timeout: u32| {
        format!(
            "GET /api/v1/configmaps?watch=1&timeoutSeconds={timeout} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             connection: close\r\n\r\n",
            running.token()
        )
    };
    let mut stuck = send(&running, &watch(600)).await;
    // It has the only place once it is answered; from here on it reads nothing.
    let mut head = [0; 12];
    stuck.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let (full, _) = raw(&running, &watch(1)).await;
    assert!(full.starts_with("HTTP/1.1 429"), "{full}");
    // More than all buffers between the server and the client can hold.
    let big = "x".repeat(900_000);
    for n in 0..24 {
        put(&running, &format!("m{n}"), &big).await;
    }
    crate::harness::eventually(
        "the place of the one who does not read is free",
        async || {
            raw(&running, &watch(1))
                .await
                .0
                .starts_with("HTTP/1.1 200")
                .then_some(())
        },
    )
    .await;
}

#[tokio::test]
async fn controllers_follow_through_kube_runtime() {
    for strategy in [
        watcher::InitialListStrategy::ListWatch,
        watcher::InitialListStrategy::StreamingList,
    ] {
        let running = start().await;
        put(&running, "a", "1").await;
        let config = watcher::Config {
            initial_list_strategy: strategy,
            ..watcher::Config::default()
        };
        let mut events = watcher(maps(&running), config).boxed();
        let mut seen = Vec::new();
        let mut added = false;
        while seen.last().map(String::as_str) != Some("apply b") {
            let event = tokio::time::timeout(PATIENCE, events.try_next())
                .await
                .expect("in time")
                .unwrap()
                .unwrap();
            seen.push(match event {
                watcher::Event::Init => continue,
                watcher::Event::InitApply(map) => format!("init {}", map.metadata.name.unwrap()),
                watcher::Event::InitDone => "done".to_owned(),
                watcher::Event::Apply(map) => format!("apply {}", map.metadata.name.unwrap()),
                watcher::Event::Delete(map) => format!("delete {}", map.metadata.name.unwrap()),
            });
            if seen.last().map(String::as_str) == Some("done")
                && !std::mem::replace(&mut added, true)
            {
                put(&running, "b", "1").await;
            }
        }
        assert_eq!(seen, ["init a", "done", "apply b"]);
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_its_watches() {
    let running = start().await;
    let since = version(&running).await;
    let mut stream = maps(&running)
        .watch(&WatchParams::default(), &since)
        .await
        .unwrap()
        .boxed();
    let dir = running.shut_down().await;
    let end = tokio::time::timeout(PATIENCE, stream.next())
        .await
        .expect("the stream ends");
    assert!(!matches!(end, Some(Ok(WatchEvent::Added(_)))));
    drop(dir);
}

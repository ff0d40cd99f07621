//! What must survive: a server killed with -9 in the middle of writes, and a disk that is full.
//!
//! A program of its own: it starts itself again as the server that is killed, and mounts a small disk in a mount namespace of
//! its own, which takes root.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on should end there, and says how far it got"
)]

#[path = "api/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fairlead_apiserver::{Config, Server};
use fairlead_rt::CancellationToken;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ComponentStatus, ConfigMap};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

/// Set for the process that only serves: its data directory.
const CHILD: &str = "FAIRLEAD_TEST_SERVE";
const ROUNDS: u32 = 5;
const WRITERS: usize = 16;

fn main() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return serve(Path::new(&dir));
    }
    // Before any thread exists, so that the mounts below are this process's alone and go with it.
    unshare(CloneFlags::CLONE_NEWNS).expect("needs root: a mount namespace for the small disk");
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    // `cargo test WORD` asks for the tests whose names hold the word.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let mut passed = 0;
    let mut run = |name: &str, test: &mut dyn FnMut()| {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            println!("test {name} ...");
            test();
            println!("test {name} ... ok");
            passed += 1;
        }
    };
    run("an_acknowledged_write_survives_kill_9", &mut || {
        runtime.block_on(an_acknowledged_write_survives_kill_9());
    });
    run("no_log_has_the_token", &mut || {
        runtime.block_on(no_log_has_the_token());
    });
    run("a_thousand_writes_at_once_survive_kill_9", &mut || {
        runtime.block_on(a_thousand_writes_at_once_survive_kill_9());
    });
    run(
        "a_full_disk_refuses_writes_and_gives_them_back",
        &mut || {
            runtime.block_on(a_full_disk_refuses_writes_and_gives_them_back());
        },
    );
    // A failure has ended the program before; the line is what `./x test` sums up.
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}

/// Set for a process that says everything it can on standard error.
const LOUD: &str = "FAIRLEAD_TEST_LOUD";

fn serve(dir: &Path) {
    if std::env::var_os(LOUD).is_some() {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(std::io::stderr)
            .init();
    }
    let server = Server::open(Config::new(dir, "127.0.0.1:0".parse().unwrap())).unwrap();
    println!("ready");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(server.run(CancellationToken::new()))
        .unwrap();
}

/// A server in another process, and its kubeconfig.
fn start_child(dir: &Path) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line.trim(), "ready", "the server did not start");
    (
        child,
        std::fs::read_to_string(dir.join("admin.kubeconfig")).unwrap(),
    )
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": value}})).unwrap()
}

/// Writes until the server is gone; what was acknowledged, by name, with the version it got.
async fn write_until_dead(
    maps: Api<ConfigMap>,
    round: u32,
    writer: usize,
) -> Vec<(String, String)> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let name = format!("r{round}-w{writer}-{n}");
        match maps
            .create(&PostParams::default(), &config_map(&name, "v"))
            .await
        {
            Ok(map) => acknowledged.push((name, map.metadata.resource_version.unwrap())),
            Err(_) => break,
        }
    }
    acknowledged
}

async fn an_acknowledged_write_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut kept: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..ROUNDS {
        let (mut child, kubeconfig) = start_child(dir.path());
        let client = harness::client(&kubeconfig).await;
        let maps = Api::<ConfigMap>::default_namespaced(client);
        let writers = futures::stream::iter(0..WRITERS)
            .map(|writer| write_until_dead(maps.clone(), round, writer))
            .buffer_unordered(WRITERS)
            .collect::<Vec<_>>();
        // The moment varies, so that the kill falls into different steps of a commit.
        let kill = async {
            tokio::time::sleep(Duration::from_millis(150 + u64::from(round) * 67)).await;
            child.kill().unwrap();
            child.wait().unwrap();
        };
        let (acknowledged, ()) =
            tokio::time::timeout(harness::PATIENCE, async { tokio::join!(writers, kill) })
                .await
                .expect("writers notice that the server is dead");
        let before = kept.len();
        kept.extend(acknowledged.into_iter().flatten());
        assert!(kept.len() > before, "round {round} wrote nothing");
        println!("  round {round}: {} acknowledged", kept.len() - before);
    }
    let (mut child, kubeconfig) = start_child(dir.path());
    let maps = Api::<ConfigMap>::default_namespaced(harness::client(&kubeconfig).await);
    let all = maps.list(&ListParams::default()).await.unwrap();
    let there: BTreeMap<String, String> = all
        .items
        .into_iter()
        .map(|map| {
            (
                map.metadata.name.unwrap(),
                map.metadata.resource_version.unwrap(),
            )
        })
        .collect();
    for (name, version) in &kept {
        assert_eq!(there.get(name), Some(version), "{name} was acknowledged");
    }
    let mut versions: Vec<&String> = there.values().collect();
    versions.sort();
    versions.dedup();
    assert_eq!(
        versions.len(),
        there.len(),
        "no version was given out twice"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Every library's every line, while clients with the right, a wrong and no token come and go.
async fn no_log_has_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, dir.path())
        .env(LOUD, "1")
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let kubeconfig = std::fs::read_to_string(dir.path().join("admin.kubeconfig")).unwrap();
    let token = std::fs::read_to_string(dir.path().join("admin.token")).unwrap();
    let wrong = "f00d".repeat(16);
    let maps = Api::<ConfigMap>::default_namespaced(harness::client(&kubeconfig).await);
    maps.create(&PostParams::default(), &config_map("m", "1"))
        .await
        .unwrap();
    maps.get("nobody").await.unwrap_err();
    let stranger = harness::client(&kubeconfig.replace(token.trim(), &wrong)).await;
    let refused = Api::<ConfigMap>::default_namespaced(stranger)
        .get("m")
        .await
        .unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 401));
    child.kill().unwrap();
    child.wait().unwrap();
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("TRACE"), "the process was not loud");
    for secret in [token.trim(), wrong.as_str()] {
        let told = log.lines().find(|line| line.contains(secret));
        assert_eq!(told, None, "a token in the log");
    }
}

/// Objects that one request of the thousand deletes together.
const GROUP: usize = 25;

/// Two fields that every write sets alike, and the group of those that are deleted by one request.
fn pair(name: &str, group: &str, value: &str) -> ConfigMap {
    let object = json!({"metadata": {"name": name, "labels": {"group": group}}, "data": {"a": value, "b": value}});
    serde_json::from_value(object).unwrap()
}

/// 1,000 requests under way at once, of every sort that writes; kill -9 in their middle; whatever was acknowledged is there, and
/// nothing is there by half.
async fn a_thousand_writes_at_once_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, kubeconfig) = start_child(dir.path());
    let maps = Api::<ConfigMap>::default_namespaced(harness::client(&kubeconfig).await);
    let post = PostParams::default();
    // What is there to be replaced, patched and deleted: 10 groups, each of which goes as one or not at all.
    let seeds = futures::stream::iter(0..10 * GROUP).map(|n| {
        let (maps, post) = (maps.clone(), post.clone());
        async move {
            let map = pair(&format!("seed-{n}"), &format!("g{}", n / GROUP), "old");
            maps.create(&post, &map).await.unwrap()
        }
    });
    let seeds: Vec<ConfigMap> = seeds.buffered(32).collect().await;
    let patch = Patch::Merge(json!({"data": {"a": "new", "b": "new"}}));
    let acknowledged = std::sync::Mutex::new(Vec::new());
    let requests = futures::stream::iter(0..1000usize).map(|n| {
        let (maps, post, patch, seeds, acknowledged) =
            (&maps, &post, &patch, &seeds, &acknowledged);
        async move {
            let done = match n % 100 {
                // Ten requests delete a group each.
                99 => {
                    let group = ListParams::default().labels(&format!("group=g{}", n / 100));
                    let gone = maps
                        .delete_collection(&DeleteParams::default(), &group)
                        .await;
                    gone.map(|_| format!("deleted g{}", n / 100))
                }
                even if even % 2 == 0 => {
                    let name = seeds[n / 4].metadata.name.clone().unwrap();
                    let changed = maps.patch(&name, &PatchParams::default(), patch).await;
                    changed.map(|_| format!("patched {name}"))
                }
                _ => {
                    let name = format!("new-{n}");
                    maps.create(post, &pair(&name, "none", "new"))
                        .await
                        .map(|_| format!("created {name}"))
                }
            };
            if let Ok(done) = done {
                acknowledged.lock().unwrap().push(done);
            }
        }
    });
    let kill = async {
        // In the middle of them: the wait is for progress, not for time.
        harness::eventually("a third is acknowledged", async || {
            (acknowledged.lock().unwrap().len() > 333).then_some(())
        })
        .await;
        child.kill().unwrap();
        child.wait().unwrap();
    };
    let all = requests.buffer_unordered(1000).collect::<Vec<()>>();
    tokio::time::timeout(harness::PATIENCE, async { tokio::join!(all, kill) })
        .await
        .expect("clients notice that the server is dead");

    let (mut child, kubeconfig) = start_child(dir.path());
    let maps = Api::<ConfigMap>::default_namespaced(harness::client(&kubeconfig).await);
    let there = maps.list(&ListParams::default()).await.unwrap().items;
    let there: BTreeMap<String, ConfigMap> = there
        .into_iter()
        .map(|map| (map.metadata.name.clone().unwrap(), map))
        .collect();
    for map in there.values() {
        let data = map.data.as_ref().unwrap();
        assert_eq!(data["a"], data["b"], "half a write");
    }
    let group_of = |n: usize| (n * GROUP..(n + 1) * GROUP).map(|n| format!("seed-{n}"));
    for n in 0..10 {
        let left = group_of(n).filter(|name| there.contains_key(name)).count();
        assert!(
            left == 0 || left == GROUP,
            "half of a deletion: {left} of {GROUP}"
        );
    }
    let acknowledged = acknowledged.into_inner().unwrap();
    println!("  {} of 1000 acknowledged", acknowledged.len());
    assert!(
        acknowledged.len() < 1000,
        "the kill came too late to tell anything"
    );
    for done in &acknowledged {
        match done.split_once(' ').unwrap() {
            ("created", name) => assert!(there.contains_key(name), "{done}"),
            ("deleted", group) => {
                let n = group[1..].parse().unwrap();
                assert!(group_of(n).all(|name| !there.contains_key(&name)), "{done}");
            }
            // A group that was deleted afterwards took its objects along.
            (_, name) => assert!(
                there
                    .get(name)
                    .is_none_or(|map| map.data.as_ref().unwrap()["a"] == "new"),
                "{done}"
            ),
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn a_full_disk_refuses_writes_and_gives_them_back() {
    let disk = tempfile::tempdir().unwrap();
    mount(
        Some("tmpfs"),
        disk.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=6m"),
    )
    .unwrap();
    let dir = tempfile::tempdir_in(disk.path()).unwrap();
    let on_disk = |listen| Config::new(disk.path().join("data"), listen);
    let running = harness::start_in(dir, on_disk("127.0.0.1:0".parse().unwrap())).await;
    let maps = Api::<ConfigMap>::default_namespaced(running.client.clone());
    // Something else fills the disk, as it would.
    let ballast = disk.path().join("ballast");
    maps.create(&PostParams::default(), &config_map("before", "1"))
        .await
        .unwrap();
    drop(std::fs::write(&ballast, vec![1u8; 8 << 20]));

    let big = "x".repeat(200_000);
    let mut written = Vec::new();
    let refused = loop {
        let name = format!("m{}", written.len());
        match maps
            .create(&PostParams::default(), &config_map(&name, &big))
            .await
        {
            Ok(_) => written.push(name),
            Err(kube::Error::Api(status)) => break status,
            Err(other) => panic!("{other}"),
        }
        assert!(written.len() < 100, "the disk is never full");
    };
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (507, "StorageFull"),
        "{}",
        refused.message
    );
    println!(
        "  full after {} objects: {}",
        written.len(),
        refused.message
    );
    // It is told as a condition, too.
    let healthy = async || {
        let components = Api::<ComponentStatus>::all(running.client.clone());
        let store = components.get("store").await.unwrap();
        let condition = store.conditions.unwrap().remove(0);
        (
            condition.type_,
            condition.status,
            condition.message.unwrap(),
        )
    };
    let (kind, status, message) = healthy().await;
    assert_eq!((kind.as_str(), status.as_str()), ("Healthy", "False"));
    assert!(message.starts_with("StorageFull"), "{message}");
    // Reads go on, and so do refusals, without a crash.
    for _ in 0..3 {
        assert_eq!(maps.get("before").await.unwrap().data.unwrap()["k"], "1");
        let again = maps
            .create(&PostParams::default(), &config_map("again", &big))
            .await
            .unwrap_err();
        assert!(matches!(again, kube::Error::Api(status) if status.code == 507));
    }
    // A restart needs no room either; on the same port, so that the kubeconfig stays the same.
    let listen = running.addr;
    let dir = running.shut_down().await;
    let running = harness::start_in(dir, on_disk(listen)).await;
    let maps = Api::<ConfigMap>::default_namespaced(running.client.clone());
    assert_eq!(maps.get("before").await.unwrap().data.unwrap()["k"], "1");
    let again = maps
        .create(&PostParams::default(), &config_map("again", &big))
        .await
        .unwrap_err();
    assert!(matches!(again, kube::Error::Api(status) if status.code == 507));

    std::fs::remove_file(&ballast).unwrap();
    harness::eventually("writes work again", async || {
        maps.create(&PostParams::default(), &config_map("after", "1"))
            .await
            .ok()
    })
    .await;
    let names = async |maps: &Api<ConfigMap>| -> Vec<String> {
        let all = maps.list(&ListParams::default()).await.unwrap();
        all.items
            .into_iter()
            .filter_map(|map| map.metadata.name)
            .collect()
    };
    let mut wanted = written;
    wanted.extend(["after".to_owned(), "before".to_owned()]);
    wanted.sort();
    assert_eq!(names(&maps).await, wanted);

    let dir = running.shut_down().await;
    let running = harness::start_in(dir, on_disk(listen)).await;
    assert_eq!(
        names(&Api::default_namespaced(running.client.clone())).await,
        wanted,
        "and after a restart"
    );
    drop(running.shut_down().await);
}

//! Joining, copying, renewing and taking over, against the embedded API in this process: no root, no network beyond loopback.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use fairlead_apiserver::{Config, Server};
use fairlead_appliance::{
    cluster::{
        control, copy, enrol,
        home::{Home, Membership, Role},
        link::{self, Route},
        promote,
        token::{CaHash, JoinToken},
        wire::Wire,
    },
    join,
};
use fairlead_rt::{CancellationToken, clock};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use tempfile::TempDir;

fn config(dir: &Path, node: &str) -> Config {
    let mut config = Config::new(dir.join("api"), SocketAddr::from(([127, 0, 0, 1], 0)));
    node.clone_into(&mut config.node);
    config
}

/// What a test has of an API that runs.
struct Running {
    at: SocketAddr,
    client: Client,
    ca: String,
    stop: CancellationToken,
}

impl Running {
    async fn token(&self, ttl: Duration, ago: Duration) -> JoinToken {
        let token = JoinToken::random(CaHash::of_pem(&self.ca).unwrap());
        let now = time::OffsetDateTime::from(clock::wall()) - ago;
        token.publish(self.client.clone(), ttl, now).await.unwrap();
        token
    }

    async fn join(&self, dir: &Path, node: &str) -> (Home, Membership) {
        let token = self.token(Duration::from_mins(1), Duration::ZERO).await;
        let home = Home::new(dir);
        let url = format!("https://{}", self.at);
        let stop = CancellationToken::new();
        let joined = enrol::join(&home, node, &url, &token, &stop).await;
        (home, joined.unwrap().unwrap())
    }
}

/// An API for the length of `test`.
async fn with_api<T>(config: Config, test: impl AsyncFnOnce(&Running) -> T) -> T {
    let ca = config.data_dir.join("tls/ca.crt");
    let server = Server::open(config).unwrap();
    let at = server.local_addr();
    let url = format!("https://{at}");
    let (client, _) = join::client(server.kubeconfig(), Some(&url)).await.unwrap();
    let stop = CancellationToken::new();
    let running = Running {
        at,
        client,
        ca: std::fs::read_to_string(ca).unwrap(),
        stop: stop.clone(),
    };
    let work = async {
        let value = test(&running).await;
        stop.cancel();
        value
    };
    let (served, value) = tokio::join!(server.run(stop.clone()), work);
    served.unwrap();
    value
}

/// A client with what the node has on disk.
fn member(home: &Home, at: SocketAddr) -> (Wire, Route, Client) {
    let wire = promote::wire(home).unwrap();
    let route = Route::default();
    route.set(vec![at]);
    let client = link::client(&wire, &route);
    (wire, route, client)
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::default_namespaced(client.clone())
}

fn map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = clock::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(clock::now() < deadline, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_a_node_in_and_a_bad_one_says_what_to_do() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    with_api(config(dirs[0].path(), "lb1"), async |api| {
        let secrets: Api<k8s_openapi::api::core::v1::Secret> =
            Api::namespaced(api.client.clone(), "kube-system");
        let heartbeat = serde_json::json!({
            "metadata": {"name": "fairlead-heartbeat"}, "data": {"key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="},
        });
        let heartbeat = serde_json::from_value(heartbeat).unwrap();
        secrets
            .create(&PostParams::default(), &heartbeat)
            .await
            .unwrap();

        let (home, membership) = api.join(dirs[1].path(), "lb2").await;
        assert_eq!(membership.role, Role::Member);
        assert_eq!((membership.fence.number, membership.fence.node.as_str()), (1, "lb1"));
        let key = std::fs::read(dirs[1].path().join("heartbeat.key")).unwrap();
        assert_eq!(key, [7; 32], "the heartbeat key is handed over");
        let (_, _, client) = member(&home, api.at);
        maps(&client)
            .create(&PostParams::default(), &map("by-certificate"))
            .await
            .unwrap();

        let refused = async |token: JoinToken| {
            let dir = TempDir::new().unwrap();
            let url = format!("https://{}", api.at);
            let stop = CancellationToken::new();
            let joined = enrol::join(&Home::new(dir.path()), "lb3", &url, &token, &stop).await;
            let error = joined.unwrap_err();
            assert!(!dir.path().join("cluster/membership.json").exists());
            format!("{error:#}")
        };
        let hour = Duration::from_hours(1);
        let expired = api.token(hour, hour + Duration::from_secs(5)).await;
        let unknown = JoinToken::random(expired.ca);
        for token in [expired, unknown] {
            let said = refused(token).await;
            assert!(said.contains("token create"), "{said}");
        }
        let mut foreign = api.token(hour, Duration::ZERO).await;
        foreign.ca = CaHash([7; 32]);
        let said = refused(foreign).await;
        assert!(said.contains("not the one of the join token"), "{said}");
        let tokens = secrets.list(&ListParams::default()).await.unwrap().items;
        let text = serde_json::to_string(&tokens).unwrap();
        let ended = tokens.iter().filter(|s| s.metadata.name.as_deref().unwrap().starts_with("bootstrap-token-"));
        assert_eq!(ended.count(), 2, "the expired one is gone: {text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_before_it_ends_and_for_its_own_node_only() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let mut config = config(dirs[0].path(), "lb1");
    config.certificate_lifetime = Duration::from_secs(3);
    with_api(config, async |api| {
        let (home, _) = api.join(dirs[1].path(), "lb2").await;
        let (stale, ..) = member(&home, api.at);
        let (wire, route, _) = member(&home, api.at);
        let other = enrol::Request::new("lb9").unwrap();
        let said = other.send(&wire, api.at, None).await.map(drop).unwrap_err();
        assert!(said.to_string().contains("that of lb2"), "{said}");

        let own = enrol::Request::new("lb2").unwrap();
        let check = until("the first certificate ends", async || {
            own.send(&stale, api.at, None).await.is_err()
        });
        tokio::select! {
            never = control::keep_renewing(&home, &wire, &route, "lb2") => match never {},
            () = check => {}
        }
        own.send(&wire, api.at, None).await.map(drop).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_loses_no_acknowledged_write_and_the_former_one_takes_no_more() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (home, written) = with_api(config(dirs[0].path(), "lb1"), async |api| {
        let (home, _) = api.join(dirs[1].path(), "lb2").await;
        let client = api.client.clone();
        let writer = async {
            let mut acknowledged = BTreeSet::new();
            for n in 0.. {
                let name = format!("n{n}");
                let create = PostParams::default();
                let map = map(&name);
                let maps = maps(&client);
                // The client tries a 503 again by itself: no answer is no acknowledgement.
                let patience = Duration::from_secs(2);
                match tokio::time::timeout(patience, maps.create(&create, &map)).await {
                    Ok(Ok(_)) => {
                        acknowledged.insert(name);
                    }
                    Ok(Err(kube::Error::Api(status))) => {
                        assert_eq!(status.code, 503, "{status:?}");
                        break;
                    }
                    Ok(Err(error)) => panic!("{error}"),
                    Err(_elapsed) => break,
                }
            }
            acknowledged
        };
        let takeover = async {
            until("some writes are there", async || {
                let some = maps(&api.client).list(&ListParams::default()).await;
                some.unwrap().items.len() > 20
            })
            .await;
            promote::promote(home.state_dir(), "lb2").await.unwrap()
        };
        let (written, promoted) = tokio::join!(writer, takeover);
        assert!(promoted.has_yielded);
        assert_eq!(promoted.fence.number, 2);
        (home, written)
    })
    .await;
    assert_eq!(home.membership().unwrap().unwrap().role, Role::Api);

    with_api(config(dirs[1].path(), "lb2"), async |api| {
        let list = maps(&api.client)
            .list(&ListParams::default())
            .await
            .unwrap();
        let names: BTreeSet<String> = list
            .items
            .into_iter()
            .filter_map(|m| m.metadata.name)
            .collect();
        assert!(written.is_subset(&names), "{written:?} {names:?}");
        assert!(written.len() > 20);
        let (wire, ..) = member(&home, api.at);
        let serving = control::ask_around(&wire, &[api.at], Duration::from_secs(5)).await;
        assert_eq!(
            (serving[0].1.number, serving[0].1.node.as_str()),
            (2, "lb2")
        );
        let behind = kube::api::WatchParams::default();
        let stream = maps(&api.client).watch(&behind, "5").await.unwrap();
        let mut stream = std::pin::pin!(stream);
        let first = futures::StreamExt::next(&mut stream).await.unwrap();
        let (Ok(kube::api::WatchEvent::Error(status)) | Err(kube::Error::Api(status))) = first
        else {
            panic!("a watch of the former reign went on: {first:?}")
        };
        assert_eq!(status.code, 410, "a watch of the former reign begins anew");
        assert!(!api.stop.is_cancelled());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_s_copy_follows_the_api_and_serves_for_a_takeover_without_it() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let home = with_api(config(dirs[0].path(), "lb1"), async |api| {
        let (home, _) = api.join(dirs[1].path(), "lb2").await;
        let (wire, route, client) = member(&home, api.at);
        let path = home.file("copy");
        let has = |name: &str| {
            copy::read(&path).is_ok_and(|copy| copy.objects.iter().any(|o| o.name == name))
        };
        let check = async {
            for name in ["first", "second"] {
                maps(&client)
                    .create(&PostParams::default(), &map(name))
                    .await
                    .unwrap();
                until("it is in the copy", async || has(name)).await;
            }
            maps(&client)
                .delete("first", &DeleteParams::default())
                .await
                .unwrap();
            until("it is gone from the copy", async || !has("first")).await;
        };
        tokio::select! {
            never = control::keep_copies(&home, &wire, &route) => match never {},
            () = check => {}
        }
        home
    })
    .await;
    let damaged = std::fs::read(home.file("copy")).unwrap();
    std::fs::write(home.file("copy"), &damaged[..damaged.len() - 1]).unwrap();
    let error = promote::promote(home.state_dir(), "lb2").await.unwrap_err();
    assert!(format!("{error:#}").contains("CopyCorrupt"), "{error:#}");
    assert_eq!(home.membership().unwrap().unwrap().role, Role::Member);
    std::fs::write(home.file("copy"), &damaged).unwrap();
    let promoted = promote::promote(home.state_dir(), "lb2").await.unwrap();
    assert!(!promoted.has_yielded);
    let again = promote::promote(home.state_dir(), "lb2").await.unwrap_err();
    assert!(again.to_string().contains("already"), "{again}");
    with_api(config(dirs[1].path(), "lb2"), async |api| {
        let list = maps(&api.client)
            .list(&ListParams::default())
            .await
            .unwrap();
        let names: Vec<String> = list
            .items
            .into_iter()
            .filter_map(|m| m.metadata.name)
            .collect();
        assert_eq!(names, ["second"]);
        // The CA is the group's: what the node was given before still counts.
        let (_, _, client) = member(&home, api.at);
        maps(&client).get("second").await.unwrap();
    })
    .await;
}

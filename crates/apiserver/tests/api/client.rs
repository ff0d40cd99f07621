//! What controllers do all day: create, list, patch, replace, delete.

use axum::http::Request;
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::harness::{self, Running, start};

pub(crate) fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn config_map(name: &str, value: &str) -> ConfigMap {
    from(json!({"metadata": {"name": name}, "data": {"k": value}}))
}

pub(crate) fn pools(running: &Running, version: &str) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("example.io", version, "Pool");
    Api::all_with(
        running.client.clone(),
        &ApiResource::from_gvk_with_plural(&gvk, "pools"),
    )
}

pub(crate) fn pool(version: &str, spec: &Value) -> DynamicObject {
    from(
        json!({"apiVersion": format!("example.io/{version}"), "kind": "Pool", "metadata": {"name": "blue"}, "spec": spec}),
    )
}

#[tokio::test]
async fn the_default_namespaces_are_there() {
    let running = start().await;
    let all = Api::<Namespace>::all(running.client.clone())
        .list(&ListParams::default())
        .await
        .unwrap();
    let names: Vec<_> = all
        .items
        .iter()
        .filter_map(|ns| ns.metadata.name.as_deref())
        .collect();
    assert_eq!(names, ["default", "kube-system"]);
    assert_eq!(
        all.items[0].status.as_ref().unwrap().phase.as_deref(),
        Some("Active")
    );
}

#[tokio::test]
async fn every_built_in_kind_can_be_kept() {
    let running = start().await;
    let client = &running.client;
    let post = PostParams::default();
    Api::<Node>::all(client.clone())
        .create(&post, &from(json!({"metadata": {"name": "n1"}})))
        .await
        .unwrap();
    let secret: Secret = from(json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}}));
    let secret = Api::<Secret>::default_namespaced(client.clone())
        .create(&post, &secret)
        .await
        .unwrap();
    assert_eq!(secret.data.unwrap()["a"].0, b"b");
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    let slice: EndpointSlice = from(
        json!({"metadata": {"generateName": "web-"}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": [{"port": 80}]}),
    );
    let slice = Api::<EndpointSlice>::default_namespaced(client.clone())
        .create(&post, &slice)
        .await
        .unwrap();
    assert!(slice.metadata.name.unwrap().starts_with("web-"));
    assert_eq!(slice.metadata.generation, Some(1));
    assert_eq!(slice.ports.unwrap()[0].protocol.as_deref(), Some("TCP"));
    let leases = Api::<Lease>::default_namespaced(client.clone());
    let lease: Lease = from(json!({"metadata": {"name": "l"},
        "spec": {"holderIdentity": "a", "renewTime": "2026-01-01T00:00:00.123456Z"}}));
    leases.create(&post, &lease).await.unwrap();
    assert_eq!(
        leases
            .get("l")
            .await
            .unwrap()
            .spec
            .unwrap()
            .holder_identity
            .as_deref(),
        Some("a")
    );
    let event: k8s_openapi::api::core::v1::Event = from(json!({"metadata": {"name": "e"},
        "involvedObject": {"kind": "Service", "namespace": "default", "name": "web"}, "reason": "R", "message": "m"}));
    Api::default_namespaced(client.clone())
        .create(&post, &event)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_service_is_completed_and_its_status_is_set_apart() {
    let running = start().await;
    let services = Api::<Service>::default_namespaced(running.client.clone());
    let service: Service = from(json!({"metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.99"}]}}}));
    let made = services
        .create(&PostParams::default(), &service)
        .await
        .unwrap();
    let spec = made.spec.as_ref().unwrap();
    assert!(spec.cluster_ip.as_deref().unwrap().starts_with("10.96."));
    assert!(spec.ports.as_ref().unwrap()[0].node_port.unwrap() >= 30000);
    assert_eq!(made.metadata.generation, None);
    assert!(
        made.status
            .unwrap()
            .load_balancer
            .unwrap()
            .ingress
            .is_none(),
        "a client's status is not taken at creation"
    );

    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]},
        "conditions": [{"type": "cilium.io/IPAMRequestSatisfied", "status": "True", "reason": "satisfied",
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}, "spec": {"type": "ClusterIP"}});
    services
        .patch_status("web", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    let now = services.get("web").await.unwrap();
    assert_eq!(
        now.spec.unwrap().type_.as_deref(),
        Some("LoadBalancer"),
        "a status patch leaves the spec alone"
    );
    let now = now.status.unwrap();
    assert_eq!(
        now.load_balancer.unwrap().ingress.unwrap()[0].ip.as_deref(),
        Some("192.0.2.1")
    );
    assert_eq!(now.conditions.unwrap().len(), 1);

    // What LB-IPAM does: a JSON patch of its own paths that tests the resourceVersion.
    let patch: json_patch::Patch = from(json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": "1"},
        {"op": "replace", "path": "/status/loadBalancer", "value": {}}]));
    let refused = services
        .patch_status("web", &PatchParams::default(), &Patch::Json::<()>(patch))
        .await;
    assert_eq!(code(refused), 422);
}

fn code<T>(result: kube::Result<T>) -> u16 {
    match result {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn all_patches_do_their_thing() {
    let running = start().await;
    let services = Api::<Service>::default_namespaced(running.client.clone());
    let service: Service = from(
        json!({"metadata": {"name": "web", "labels": {"a": "1", "b": "2"}},
        "spec": {"ports": [{"name": "http", "port": 80}]}}),
    );
    services
        .create(&PostParams::default(), &service)
        .await
        .unwrap();
    let params = PatchParams::default();

    let merge = json!({"metadata": {"labels": {"a": null, "c": "3"}}});
    let now = services
        .patch("web", &params, &Patch::Merge(&merge))
        .await
        .unwrap();
    assert_eq!(
        now.metadata.labels.unwrap().into_keys().collect::<Vec<_>>(),
        ["b", "c"]
    );

    let strategic = json!({"spec": {"ports": [{"name": "https", "port": 443}]}});
    let now = services
        .patch("web", &params, &Patch::Strategic(&strategic))
        .await
        .unwrap();
    let ports: Vec<i32> = now
        .spec
        .unwrap()
        .ports
        .unwrap()
        .iter()
        .map(|port| port.port)
        .collect();
    assert_eq!(ports, [80, 443]);

    let json: json_patch::Patch = from(json!([{"op": "remove", "path": "/metadata/labels/b"}]));
    let now = services
        .patch("web", &params, &Patch::Json::<()>(json))
        .await
        .unwrap();
    assert_eq!(
        now.metadata.labels.unwrap().into_keys().collect::<Vec<_>>(),
        ["c"]
    );

    let apply = PatchParams::apply("me");
    let refused = services
        .patch("web", &apply, &Patch::Apply(&merge))
        .await
        .unwrap_err();
    let kube::Error::Api(status) = refused else {
        panic!("{refused}")
    };
    assert_eq!(
        (status.code, status.reason.as_str()),
        (415, "UnsupportedMediaType")
    );
    assert!(
        status
            .message
            .contains("server-side apply is not supported"),
        "{}",
        status.message
    );

    let pools = pools(&running, "v2");
    pools
        .create(&PostParams::default(), &pool("v2", &json!({})))
        .await
        .unwrap();
    assert_eq!(
        code(
            pools
                .patch("blue", &params, &Patch::Strategic(&merge))
                .await
        ),
        415
    );
}

#[tokio::test]
async fn stale_writers_are_told_so() {
    let running = start().await;
    let maps = Api::<ConfigMap>::default_namespaced(running.client.clone());
    let first = maps
        .create(&PostParams::default(), &config_map("m", "1"))
        .await
        .unwrap();
    let mut second = first.clone();
    second.data.as_mut().unwrap().insert("k".into(), "2".into());
    let second = maps
        .replace("m", &PostParams::default(), &second)
        .await
        .unwrap();
    assert_ne!(
        first.metadata.resource_version,
        second.metadata.resource_version
    );
    assert_eq!(first.metadata.uid, second.metadata.uid);
    let error = maps
        .replace("m", &PostParams::default(), &first)
        .await
        .unwrap_err();
    let kube::Error::Api(status) = error else {
        panic!("{error}")
    };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    // The same again is no change, and so no new version.
    let again = maps
        .replace("m", &PostParams::default(), &second)
        .await
        .unwrap();
    assert_eq!(
        again.metadata.resource_version,
        second.metadata.resource_version
    );
    assert_eq!(
        code(
            maps.create(&PostParams::default(), &config_map("m", "1"))
                .await
        ),
        409
    );
}

#[tokio::test]
async fn custom_resources_are_served_in_all_versions() {
    let running = start().await;
    let (new, old) = (pools(&running, "v2"), pools(&running, "v2alpha1"));
    let made = old
        .create(
            &PostParams::default(),
            &pool("v2alpha1", &json!({"blocks": [{"cidr": "192.0.2.0/24"}]})),
        )
        .await;
    let made = made.unwrap();
    assert_eq!(made.types.unwrap().api_version, "example.io/v2alpha1");
    assert_eq!(
        made.data["spec"]["disabled"], false,
        "defaults are filled in"
    );
    assert_eq!(made.metadata.generation, Some(1));

    let seen = new.get("blue").await.unwrap();
    assert_eq!(seen.types.unwrap().api_version, "example.io/v2");

    let patch = json!({"spec": {"disabled": true}, "status": {"conditions": []}});
    let now = new
        .patch("blue", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    assert_eq!(now.metadata.generation, Some(2));
    assert_eq!(now.data.get("status"), None, "status only by /status");

    let status = json!({"status": {"conditions": [{"type": "IPsAvailable", "status": "Unknown", "message": "254"}]},
        "spec": {"disabled": false}});
    let now = new
        .patch_status("blue", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    assert_eq!(
        now.metadata.generation,
        Some(2),
        "a status is no new generation"
    );
    assert_eq!(now.data["spec"]["disabled"], true);
    assert_eq!(now.data["status"]["conditions"][0]["message"], "254");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let running = start().await;
    let maps = Api::<ConfigMap>::default_namespaced(running.client.clone());
    let mut map = config_map("m", "1");
    map.metadata.finalizers = Some(vec!["example.io/wait".into()]);
    maps.create(&PostParams::default(), &map).await.unwrap();
    let kept = maps
        .delete("m", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .expect("it is still there");
    assert!(kept.metadata.deletion_timestamp.is_some());
    let more = json!({"metadata": {"finalizers": ["example.io/wait", "example.io/more"]}});
    assert_eq!(
        code(
            maps.patch("m", &PatchParams::default(), &Patch::Merge(&more))
                .await
        ),
        422
    );
    let none = json!({"metadata": {"finalizers": null}});
    maps.patch("m", &PatchParams::default(), &Patch::Merge(&none))
        .await
        .unwrap();
    assert!(maps.get_opt("m").await.unwrap().is_none());
}

#[tokio::test]
async fn a_namespace_takes_its_content_with_it() {
    let running = start().await;
    let namespaces = Api::<Namespace>::all(running.client.clone());
    namespaces
        .create(
            &PostParams::default(),
            &from(json!({"metadata": {"name": "lab"}})),
        )
        .await
        .unwrap();
    let maps = Api::<ConfigMap>::namespaced(running.client.clone(), "lab");
    maps.create(&PostParams::default(), &config_map("free", "1"))
        .await
        .unwrap();
    let mut held = config_map("held", "1");
    held.metadata.finalizers = Some(vec!["example.io/wait".into()]);
    maps.create(&PostParams::default(), &held).await.unwrap();

    namespaces
        .delete("lab", &DeleteParams::default())
        .await
        .unwrap();
    assert!(maps.get_opt("free").await.unwrap().is_none());
    let waiting = namespaces.get("lab").await.unwrap();
    assert_eq!(
        waiting.status.unwrap().phase.as_deref(),
        Some("Terminating")
    );
    assert_eq!(
        code(
            maps.create(&PostParams::default(), &config_map("late", "1"))
                .await
        ),
        403
    );

    let none = json!({"metadata": {"finalizers": []}});
    maps.patch("held", &PatchParams::default(), &Patch::Merge(&none))
        .await
        .unwrap();
    assert!(namespaces.get_opt("lab").await.unwrap().is_none());
    assert_eq!(
        code(namespaces.delete("default", &DeleteParams::default()).await),
        403
    );
}

#[tokio::test]
async fn lists_are_selected_and_paged() {
    let running = start().await;
    let maps = Api::<ConfigMap>::default_namespaced(running.client.clone());
    for n in 0..5 {
        let mut map = config_map(&format!("m{n}"), "1");
        map.metadata.labels = Some([("even".to_owned(), (n % 2 == 0).to_string())].into());
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let even = maps
        .list(&ListParams::default().labels("even=true"))
        .await
        .unwrap();
    assert_eq!(even.items.len(), 3);
    let one = maps
        .list(&ListParams::default().fields("metadata.name=m3"))
        .await
        .unwrap();
    assert_eq!(one.items.len(), 1);
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(
        (first.items.len(), first.metadata.remaining_item_count),
        (2, Some(3))
    );
    let token = first.metadata.continue_.unwrap();
    let rest = maps
        .list(&ListParams::default().continue_token(&token))
        .await
        .unwrap();
    let names: Vec<_> = rest
        .items
        .iter()
        .filter_map(|map| map.metadata.name.as_deref())
        .collect();
    assert_eq!(names, ["m2", "m3", "m4"]);
    assert_eq!(
        rest.metadata.resource_version,
        first.metadata.resource_version
    );
    maps.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("even=true"),
    )
    .await
    .unwrap();
    assert_eq!(
        maps.list(&ListParams::default()).await.unwrap().items.len(),
        2
    );
    let metadata = maps.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.len(), 2);
}

#[tokio::test]
async fn a_dry_run_shows_and_does_not_keep() {
    let running = start().await;
    let maps = Api::<ConfigMap>::default_namespaced(running.client.clone());
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    assert!(
        maps.create(&dry, &config_map("m", "1"))
            .await
            .unwrap()
            .metadata
            .uid
            .is_some()
    );
    assert!(maps.get_opt("m").await.unwrap().is_none());
}

#[tokio::test]
async fn a_thousand_services_get_a_thousand_addresses() {
    const N: usize = 1000;
    let running = start().await;
    let services = Api::<Service>::default_namespaced(running.client.clone());
    let creations = (0..N).map(|n| {
        let services = services.clone();
        async move {
            let service: Service = from(json!({"metadata": {"name": format!("s{n}")},
                "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}));
            services
                .create(&PostParams::default(), &service)
                .await
                .unwrap();
        }
    });
    futures::stream::iter(creations)
        .buffer_unordered(64)
        .collect::<Vec<()>>()
        .await;
    let all = services.list(&ListParams::default()).await.unwrap().items;
    let mut ips: Vec<_> = all
        .iter()
        .filter_map(|svc| svc.spec.as_ref()?.cluster_ip.clone())
        .collect();
    let mut ports: Vec<_> = all
        .iter()
        .filter_map(|svc| svc.spec.as_ref()?.ports.as_ref()?[0].node_port)
        .collect();
    ips.sort();
    ips.dedup();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!((ips.len(), ports.len()), (N, N));
}

#[tokio::test]
async fn discovery_tells_short_names_and_categories() {
    let running = start().await;
    let version = running.client.apiserver_version().await.unwrap();
    assert_eq!(
        (version.major.as_str(), version.minor.as_str()),
        ("1", "36")
    );
    let resources = running
        .client
        .list_api_group_resources("example.io/v2")
        .await
        .unwrap();
    let pool = resources
        .resources
        .iter()
        .find(|resource| resource.name == "pools")
        .unwrap();
    assert_eq!(pool.short_names.as_deref(), Some(&["pl".to_owned()][..]));
    assert_eq!(pool.categories.as_deref(), Some(&["lb".to_owned()][..]));
    assert!(
        resources
            .resources
            .iter()
            .any(|resource| resource.name == "pools/status")
    );
    let aggregated = Request::get("/apis")
        .header(
            "accept",
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        )
        .body(Vec::new())
        .unwrap();
    let aggregated: Value = running.client.request(aggregated).await.unwrap();
    assert_eq!(aggregated["kind"], "APIGroupDiscoveryList");
    assert!(aggregated["items"].to_string().contains("\"pools\""));
    harness::eventually("health", async || {
        let request = Request::get("/readyz").body(Vec::new()).unwrap();
        (running.client.request_text(request).await.ok()? == "ok").then_some(())
    })
    .await;
    running.shut_down().await;
}

//! The control plane itself: it starts, refuses who has no rights, goes back in time, and leaves nothing behind.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should end there"
)]

use std::fs;

use fairlead_cluster::{ControlPlane, client};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde_json::json;

#[tokio::test]
async fn it_starts_authorizes_by_rbac_and_goes_back_in_time() {
    let mut plane = ControlPlane::start().unwrap();
    plane.install_crds().unwrap();
    let kinds = plane.kubectl(&["get", "ippools,l2announcement"]).unwrap();
    assert_eq!(kinds, "");
    let version = plane.kubectl(&["version"]).unwrap();
    assert!(version.contains("Server Version: v1.36.3"), "{version}");

    // A ServiceAccount may nothing but what it is told.
    plane
        .kubectl(&["create", "serviceaccount", "nobody"])
        .unwrap();
    let token = plane.token("default", "nobody").unwrap();
    let text = plane.kubeconfig_for(&plane.url(), &json!({"token": token}));
    let path = plane.path("nobody.kubeconfig");
    fs::write(&path, text).unwrap();
    let nobody: Api<ConfigMap> = Api::default_namespaced(client(&path).await.unwrap());
    let refused = nobody.list(&ListParams::default()).await.unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 403),
        "{refused}"
    );

    let maps: Api<ConfigMap> = Api::default_namespaced(plane.client().await.unwrap());
    let map = |name: &str| ConfigMap {
        metadata: kube::api::ObjectMeta {
            name: Some(name.to_owned()),
            ..Default::default()
        },
        ..ConfigMap::default()
    };
    let params = PostParams::default();
    maps.create(&params, &map("before")).await.unwrap();
    let backup = plane.backup().unwrap();
    let after = maps.create(&params, &map("after")).await.unwrap();
    let after = after.resource_version().unwrap();
    plane.restore(&backup).unwrap();
    let list = maps.list(&ListParams::default()).await.unwrap();
    let names: Vec<String> = list.iter().map(kube::ResourceExt::name_any).collect();
    assert!(names.contains(&"before".to_owned()), "{names:?}");
    assert!(!names.contains(&"after".to_owned()), "{names:?}");
    let now = list.metadata.resource_version.unwrap();
    assert!(
        now.parse::<u64>().unwrap() <= after.parse::<u64>().unwrap(),
        "{now} is after {after}"
    );

    let (addr, data) = (plane.address(), plane.path("etcd"));
    assert!(data.exists());
    drop(plane);
    let refused = std::net::TcpStream::connect(addr).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!data.exists());
}

//! Owners and what they own: background, foreground, orphan, and owners that never were.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::client::from;
use crate::harness::{Running, start};

struct Family {
    services: Api<Service>,
    maps: Api<ConfigMap>,
    secrets: Api<Secret>,
}

impl Family {
    async fn names(&self) -> Vec<String> {
        let mut all = names(&self.services).await;
        all.extend(names(&self.maps).await);
        all.extend(names(&self.secrets).await);
        all
    }
}

async fn names<K>(api: &Api<K>) -> Vec<String>
where
    K: Clone + Debug + DeserializeOwned + Resource,
{
    let all = api.list(&ListParams::default()).await.unwrap();
    all.items.iter().map(ResourceExt::name_any).collect()
}

fn owner(kind: &str, name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: kind.into(),
        name: name.into(),
        uid: uid.into(),
        block_owner_deletion: Some(true),
        controller: None,
    }
}

/// A Service owns a ConfigMap, which owns a Secret.
async fn family(running: &Running) -> Family {
    let client = running.client.clone();
    let family = Family {
        services: Api::default_namespaced(client.clone()),
        maps: Api::default_namespaced(client.clone()),
        secrets: Api::default_namespaced(client),
    };
    let post = PostParams::default();
    let service = json!({"metadata": {"name": "grandmother"}, "spec": {"ports": [{"port": 80}]}});
    let service = family.services.create(&post, &from(service)).await.unwrap();
    let by = owner("Service", "grandmother", &service.metadata.uid.unwrap());
    let map = json!({"metadata": {"name": "mother", "ownerReferences": [by]}});
    let map = family.maps.create(&post, &from(map)).await.unwrap();
    let by = owner("ConfigMap", "mother", &map.metadata.uid.unwrap());
    let secret = json!({"metadata": {"name": "child", "ownerReferences": [by]}});
    family.secrets.create(&post, &from(secret)).await.unwrap();
    family
}

fn with(policy: PropagationPolicy) -> DeleteParams {
    DeleteParams {
        propagation_policy: Some(policy),
        ..DeleteParams::default()
    }
}

#[tokio::test]
async fn what_is_owned_goes_with_its_owner() {
    let running = start().await;
    for policy in [PropagationPolicy::Background, PropagationPolicy::Foreground] {
        let family = family(&running).await;
        family
            .services
            .delete("grandmother", &with(policy))
            .await
            .unwrap();
        assert_eq!(family.names().await, [""; 0]);
    }
    // Nobody says how: in the background.
    let family = family(&running).await;
    family
        .services
        .delete("grandmother", &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(family.names().await, [""; 0]);
}

#[tokio::test]
async fn an_orphan_stays_and_has_no_owner() {
    let running = start().await;
    let family = family(&running).await;
    family
        .services
        .delete("grandmother", &with(PropagationPolicy::Orphan))
        .await
        .unwrap();
    assert_eq!(family.names().await, ["mother", "child"]);
    let mother = family.maps.get("mother").await.unwrap();
    assert_eq!(mother.metadata.owner_references, None);
    assert_eq!(
        family
            .secrets
            .get("child")
            .await
            .unwrap()
            .metadata
            .owner_references
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn in_the_foreground_the_owner_waits_for_what_holds_it() {
    let running = start().await;
    let family = family(&running).await;
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["example.io/hold"]}}));
    family
        .secrets
        .patch("child", &PatchParams::default(), &hold)
        .await
        .unwrap();
    family
        .services
        .delete("grandmother", &with(PropagationPolicy::Foreground))
        .await
        .unwrap();
    // All three are on their way out, from the inside.
    assert_eq!(family.names().await, ["grandmother", "mother", "child"]);
    let grandmother = family.services.get("grandmother").await.unwrap().metadata;
    assert!(grandmother.deletion_timestamp.is_some());
    assert_eq!(grandmother.finalizers.unwrap(), ["foregroundDeletion"]);
    assert!(
        family
            .secrets
            .get("child")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_some()
    );
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    family
        .secrets
        .patch("child", &PatchParams::default(), &release)
        .await
        .unwrap();
    assert_eq!(family.names().await, [""; 0]);
}

#[tokio::test]
async fn one_owner_that_stays_is_enough() {
    let running = start().await;
    let family = family(&running).await;
    let post = PostParams::default();
    let other = json!({"metadata": {"name": "aunt"}});
    let aunt = family.maps.create(&post, &from(other)).await.unwrap();
    let mut child = family.secrets.get("child").await.unwrap();
    let references = child.metadata.owner_references.as_mut().unwrap();
    references.push(owner("ConfigMap", "aunt", &aunt.metadata.uid.unwrap()));
    family
        .secrets
        .replace("child", &post, &child)
        .await
        .unwrap();
    family
        .services
        .delete("grandmother", &with(PropagationPolicy::Foreground))
        .await
        .unwrap();
    assert_eq!(family.names().await, ["aunt", "child"]);
    let left = family
        .secrets
        .get("child")
        .await
        .unwrap()
        .metadata
        .owner_references
        .unwrap();
    assert_eq!(
        left.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(),
        ["aunt"]
    );
}

#[tokio::test]
async fn an_owner_that_never_was_owns_nothing_for_long() {
    let running = start().await;
    let family = family(&running).await;
    let post = PostParams::default();
    let stray = json!({"metadata": {"name": "stray", "ownerReferences": [owner("ConfigMap", "nobody", "no-such-uid")]}});
    let made = family.maps.create(&post, &from(stray)).await.unwrap();
    assert!(
        made.metadata.uid.is_some(),
        "the answer is the object as it was made"
    );
    assert!(family.maps.get_opt("stray").await.unwrap().is_none());
    // Of a kind that is not served here, nobody can say that it is gone.
    let foreign =
        json!({"metadata": {"name": "foreign", "ownerReferences": [owner("Pod", "p", "pod-uid")]}});
    family.maps.create(&post, &from(foreign)).await.unwrap();
    assert!(family.maps.get_opt("foreign").await.unwrap().is_some());
}

#[tokio::test]
async fn a_policy_that_is_none_is_refused() {
    let running = start().await;
    let family = family(&running).await;
    let body = br#"{"propagationPolicy": "Sideways"}"#.to_vec();
    let request = kube::core::Request::new("/api/v1/namespaces/default/services");
    let mut request = request
        .delete("grandmother", &DeleteParams::default())
        .unwrap();
    *request.body_mut() = body;
    let refused = running
        .client
        .request::<serde_json::Value>(request)
        .await
        .unwrap_err();
    let kube::Error::Api(status) = refused else {
        panic!("{refused}")
    };
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert!(
        status
            .message
            .contains("propagationPolicy: Unsupported value: \"Sideways\""),
        "{}",
        status.message
    );
    assert_eq!(family.names().await.len(), 3);
}

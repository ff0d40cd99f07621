//! The same questions to every kind: what any client may do with any object.

use serde_json::{Value, json};

use crate::step::{
    APPLY, Ask, JSON_PATCH, MERGE, STRATEGIC, Step, Story, TABLE, YAML, delete, delete_with, get,
    patch, post, put, raw, story, watch,
};

/// A kind and how to write one.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// `/api/v1/namespaces/{ns}/services`
    pub(crate) path: &'static str,
    pub(crate) api_version: &'static str,
    /// Everything but name and type.
    pub(crate) body: fn() -> Value,
    /// A merge patch that changes it.
    pub(crate) change: fn() -> Value,
    pub(crate) is_cluster_wide: bool,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "Service",
        path: "/api/v1/namespaces/{ns}/services",
        api_version: "v1",
        body: || json!({"spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "targetPort": 8080}], "selector": {"app": "web"}}}),
        change: || json!({"spec": {"sessionAffinity": "ClientIP"}}),
        is_cluster_wide: false,
    },
    Kind {
        name: "EndpointSlice",
        path: "/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices",
        api_version: "discovery.k8s.io/v1",
        body: || {
            json!({"addressType": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
            "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": true}}]})
        },
        change: || json!({"endpoints": [{"addresses": ["192.0.2.2"]}]}),
        is_cluster_wide: false,
    },
    Kind {
        name: "ConfigMap",
        path: "/api/v1/namespaces/{ns}/configmaps",
        api_version: "v1",
        body: || json!({"data": {"a": "1"}}),
        change: || json!({"data": {"b": "2", "a": null}}),
        is_cluster_wide: false,
    },
    Kind {
        name: "Secret",
        path: "/api/v1/namespaces/{ns}/secrets",
        api_version: "v1",
        body: || json!({"data": {"a": "MQ=="}}),
        change: || json!({"stringData": {"b": "2"}}),
        is_cluster_wide: false,
    },
    Kind {
        name: "Lease",
        path: "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases",
        api_version: "coordination.k8s.io/v1",
        body: || json!({"spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}}),
        change: || json!({"spec": {"holderIdentity": "b", "leaseTransitions": 1}}),
        is_cluster_wide: false,
    },
    Kind {
        name: "Event",
        path: "/api/v1/namespaces/{ns}/events",
        api_version: "v1",
        body: || {
            json!({"involvedObject": {"kind": "Service", "namespace": "{ns}", "name": "web"}, "reason": "Done", "message": "m", "type": "Normal",
            "firstTimestamp": "2024-01-01T00:00:00Z", "lastTimestamp": "2024-01-01T00:00:00Z", "count": 1})
        },
        change: || json!({"count": 2}),
        is_cluster_wide: false,
    },
    Kind {
        name: "Node",
        path: "/api/v1/nodes",
        api_version: "v1",
        body: || json!({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}}),
        change: || json!({"spec": {"unschedulable": true}}),
        is_cluster_wide: true,
    },
    Kind {
        name: "Namespace",
        path: "/api/v1/namespaces",
        api_version: "v1",
        body: || json!({}),
        change: || json!({"metadata": {"annotations": {"note": "changed"}}}),
        is_cluster_wide: true,
    },
    Kind {
        name: "CiliumLoadBalancerIPPool",
        path: "/apis/cilium.io/v2/ciliumloadbalancerippools",
        api_version: "cilium.io/v2",
        body: || json!({"spec": {"blocks": [{"cidr": "198.51.100.0/28"}]}}),
        change: || json!({"spec": {"disabled": true}}),
        is_cluster_wide: true,
    },
    Kind {
        name: "CiliumL2AnnouncementPolicy",
        path: "/apis/cilium.io/v2alpha1/ciliuml2announcementpolicies",
        api_version: "cilium.io/v2alpha1",
        body: || json!({"spec": {"interfaces": ["^eth0$"], "loadBalancerIPs": true}}),
        change: || json!({"spec": {"externalIPs": true}}),
        is_cluster_wide: true,
    },
];

impl Kind {
    /// An object named `name` with what else is given.
    fn object(&self, name: &str, more: Value) -> Value {
        let mut object = (self.body)();
        object["apiVersion"] = json!(self.api_version);
        object["kind"] = json!(self.name);
        merge(&mut object, json!({"metadata": {"name": name}}));
        merge(&mut object, more);
        object
    }

    fn at(&self, rest: &str) -> String {
        format!("{}{rest}", self.path)
    }

    /// Objects that are not in the story's namespace need names of their own.
    fn unique(&self, part: &str, name: &str) -> String {
        if self.is_cluster_wide {
            format!("{name}-{part}-{}", self.name.to_lowercase())
        } else {
            name.to_owned()
        }
    }

    fn only(&self, part: &str) -> Value {
        json!({"metadata": {"labels": {"story": format!("{part}-{}", self.name.to_lowercase())}}})
    }

    fn selector(&self, part: &str) -> String {
        format!("labelSelector=story%3D{part}-{}", self.name.to_lowercase())
    }
}

/// JSON merge patch (RFC 7386), without deletion.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

pub(crate) fn stories() -> Vec<Story> {
    let all = KINDS.iter().flat_map(|kind| {
        [
            life(kind),
            refusals(kind),
            patches(kind),
            finalizers(kind),
            lists(kind),
            watches(kind),
            races(kind),
            odd_bodies(kind),
        ]
    });
    all.collect()
}

fn named(kind: &Kind, part: &str, steps: impl IntoIterator<Item = Ask>) -> Story {
    story(format!("{part}/{}", kind.name), steps)
}

fn life(kind: &Kind) -> Story {
    let name = kind.unique("life", "web");
    let one = kind.at(&format!("/{name}"));
    let object = |more| kind.object(&name, more);
    let version = json!({"metadata": {"resourceVersion": "{rv}"}});
    let mut replaced = object(version.clone());
    merge(
        &mut replaced,
        json!({"metadata": {"labels": {"tier": "front"}}}),
    );
    named(
        kind,
        "life",
        [
            post(&kind.at("?dryRun=All"), &object(json!({}))),
            get(&one),
            post(&kind.at(""), &object(json!({}))).keep("rv", "/metadata/resourceVersion"),
            post(&kind.at(""), &object(json!({}))),
            get(&one),
            get(&one).accept(TABLE),
            put(&kind.at(&format!("/{name}?dryRun=All")), &replaced),
            put(&one, &replaced),
            put(&one, &replaced),
            patch(&one, MERGE, &(kind.change)()),
            patch(
                &kind.at(&format!("/{name}?dryRun=All")),
                MERGE,
                &json!({"metadata": {"labels": {"dry": "run"}}}),
            ),
            get(&one).keep("uid", "/metadata/uid"),
            delete(&kind.at(&format!("/{name}?dryRun=All"))),
            delete_with(
                &one,
                &json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "another"}}),
            ),
            delete_with(
                &one,
                &json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"resourceVersion": "1"}}),
            ),
            delete_with(
                &one,
                &json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "{uid}"}}),
            ),
            get(&one),
            delete(&one),
            put(&one, &object(json!({}))),
            patch(
                &kind.at("/missing"),
                MERGE,
                &json!({"metadata": {"labels": {"a": "b"}}}),
            ),
        ],
    )
}

fn refusals(kind: &Kind) -> Story {
    let name = kind.unique("refuse", "web");
    let one = kind.at(&format!("/{name}"));
    let dry = kind.at("?dryRun=All");
    let make = |more| post(&dry, &kind.object(&name, more));
    let mut nameless = kind.object("", json!({}));
    nameless["metadata"] = json!({});
    let mut other = kind.object(&name, json!({}));
    other["kind"] = json!("Other");
    let mut version = kind.object(&name, json!({}));
    version["apiVersion"] = json!("other/v1");
    named(
        kind,
        "refuse",
        [
            post(&dry, &nameless),
            make(json!({"metadata": {"name": "Upper"}})),
            make(json!({"metadata": {"name": "-dash"}})),
            make(json!({"metadata": {"name": "x".repeat(254)}})),
            post(&dry, &other),
            post(&dry, &version),
            make(json!({"metadata": {"resourceVersion": "7"}})),
            make(json!({"metadata": {"labels": {"bad key!": "x"}}})),
            make(json!({"metadata": {"labels": {"a": "bad value!"}}})),
            make(json!({"metadata": {"labels": {"a": 1}}})),
            make(json!({"metadata": {"annotations": {"bad key!": "x"}}})),
            make(json!({"metadata": {"finalizers": ["unqualified"]}})),
            make(
                json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x"}]}}),
            ),
            make(json!({"metadata": {"namespace": "elsewhere"}})),
            post(
                &kind.at("?fieldValidation=Strict&dryRun=All"),
                &kind.object(&name, json!({"unknown": 1})),
            ),
            post(
                &kind.at("?fieldValidation=Warn&dryRun=All"),
                &kind.object(&name, json!({"unknown": 1})),
            ),
            post(
                &kind.at("?fieldValidation=Ignore&dryRun=All"),
                &kind.object(&name, json!({"unknown": 1})),
            ),
            post(
                &kind.at("?fieldValidation=Never&dryRun=All"),
                &kind.object(&name, json!({})),
            ),
            post(&kind.at("?dryRun=Some"), &kind.object(&name, json!({}))),
            post(&format!("{one}?dryRun=All"), &kind.object(&name, json!({}))),
            make(json!({"metadata": {"generateName": "unused-"}})),
            put(
                &format!("{one}?dryRun=All"),
                &kind.object("another", json!({})),
            ),
            put(
                &one,
                &kind.object(&name, json!({"metadata": {"resourceVersion": "1"}})),
            ),
            put(
                &one,
                &kind.object(&name, json!({"metadata": {"uid": "another"}})),
            ),
            put(
                &one,
                &kind.object(
                    &name,
                    json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z"}}),
                ),
            ),
            put(&dry, &kind.object(&name, json!({}))),
            patch(&dry, MERGE, &json!({})),
            get(&kind.at(&format!("/{name}/nothing"))),
            get(&kind.at(&format!("/{name}/status"))),
        ],
    )
}

fn patches(kind: &Kind) -> Story {
    let name = kind.unique("patch", "web");
    let one = kind.at(&format!("/{name}"));
    let apply = |query: &str, more: Value| {
        let mut object =
            json!({"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": name}});
        merge(&mut object, more);
        patch(&format!("{one}?{query}"), APPLY, &object)
    };
    named(
        kind,
        "patch",
        [
            post(
                &kind.at(""),
                &kind.object(&name, json!({"metadata": {"labels": {"a": "1", "b": "2"}}})),
            ),
            patch(
                &one,
                MERGE,
                &json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            ),
            patch(
                &one,
                MERGE,
                &json!({"metadata": {"resourceVersion": "1", "labels": {"d": "4"}}}),
            ),
            patch(&one, MERGE, &json!({"metadata": {"name": "another"}})),
            patch(
                &one,
                MERGE,
                &json!({"metadata": {"labels": {"a": "bad value!"}}}),
            ),
            patch(
                &one,
                JSON_PATCH,
                &json!([{"op": "add", "path": "/metadata/labels/d", "value": "4"}]),
            ),
            patch(
                &one,
                JSON_PATCH,
                &json!([{"op": "test", "path": "/metadata/labels/d", "value": "5"}]),
            ),
            patch(
                &one,
                JSON_PATCH,
                &json!([{"op": "remove", "path": "/metadata/labels/missing"}]),
            ),
            patch(
                &one,
                JSON_PATCH,
                &json!([{"op": "jump", "path": "/metadata/labels/d"}]),
            ),
            patch(&one, JSON_PATCH, &json!({"op": "add"})),
            patch(
                &one,
                STRATEGIC,
                &json!({"metadata": {"labels": {"e": "5"}}}),
            ),
            patch(
                &one,
                STRATEGIC,
                &json!({"metadata": {"labels": {"$patch": "replace", "f": "6"}}}),
            ),
            patch(
                &one,
                "application/json",
                &json!({"metadata": {"labels": {"g": "7"}}}),
            ),
            raw("PATCH", &one, MERGE, "{"),
            raw("PATCH", &one, MERGE, "[]"),
            raw("PATCH", &one, MERGE, "{}"),
            apply("", json!({"metadata": {"labels": {"owned": "one"}}})),
            apply(
                "fieldManager=one",
                json!({"metadata": {"labels": {"owned": "one"}}}),
            ),
            apply(
                "fieldManager=two",
                json!({"metadata": {"labels": {"owned": "two"}}}),
            ),
            apply(
                "fieldManager=two&force=true",
                json!({"metadata": {"labels": {"owned": "two"}}}),
            ),
            apply("fieldManager=two", json!({})),
            patch(
                &format!("{one}?fieldManager={}", "m".repeat(200)),
                MERGE,
                &json!({}),
            ),
            get(&one),
            delete(&one),
        ],
    )
}

fn finalizers(kind: &Kind) -> Story {
    let name = kind.unique("final", "web");
    let one = kind.at(&format!("/{name}"));
    named(
        kind,
        "final",
        [
            post(
                &kind.at(""),
                &kind.object(
                    &name,
                    json!({"metadata": {"finalizers": ["example.com/hold"]}}),
                ),
            ),
            delete(&one),
            get(&one),
            delete(&one),
            patch(
                &one,
                MERGE,
                &json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}),
            ),
            patch(
                &one,
                MERGE,
                &json!({"metadata": {"labels": {"still": "here"}}}),
            ),
            patch(&one, MERGE, &json!({"metadata": {"finalizers": null}})),
            get(&one),
        ],
    )
}

fn lists(kind: &Kind) -> Story {
    let mut steps = Vec::new();
    for (idx, name) in ["a", "b", "c"].iter().enumerate() {
        let mut object = kind.object(&kind.unique("list", name), kind.only("list"));
        object["metadata"]["labels"]["nth"] = json!(idx.to_string());
        steps.push(post(&kind.at(""), &object));
    }
    let ours = kind.selector("list");
    let list = |query: &str| get(&kind.at(&format!("?{ours}&{query}")));
    let also = |selector: &str| get(&kind.at(&format!("?{ours}%2C{selector}")));
    steps.extend([
        list(""),
        list("").accept(TABLE),
        also("nth%3D1"),
        also("nth!%3D1"),
        also("nth%20in%20(0%2C2)"),
        also("nth%20notin%20(0%2C2)"),
        also("nth"),
        also("!nth"),
        get(&kind.at("?labelSelector=a%3D%3D%3D")),
        get(&kind.at("?labelSelector=bad%20key!%3Dx")),
        get(&kind.at(&format!(
            "?fieldSelector=metadata.name%3D{}",
            kind.unique("list", "b")
        ))),
        get(&kind.at("?fieldSelector=spec.nothing%3D1")),
        get(&kind.at("?fieldSelector=metadata.name%3D%3D%3D")),
        list("limit=2").keep("continue", "/metadata/continue"),
        get(&kind.at(&format!("?{ours}&limit=2&continue={{continue}}"))),
        list("limit=0"),
        list("limit=x"),
        list("continue=nonsense"),
        list("resourceVersion=0"),
        list("resourceVersion=x"),
        list("resourceVersion=0&resourceVersionMatch=Exact"),
        list("resourceVersionMatch=Exact"),
        list("resourceVersion=0&resourceVersionMatch=NotOlderThan"),
        list("resourceVersion=0&resourceVersionMatch=Sometimes"),
        list("sendInitialEvents=true"),
        list("timeoutSeconds=x"),
        delete(&kind.at(&format!("?{ours}&dryRun=All"))),
        list(""),
    ]);
    if kind.name != "Namespace" {
        steps.extend([delete(&kind.at(&format!("?{ours}"))), list("")]);
    }
    named(kind, "list", steps)
}

fn watches(kind: &Kind) -> Story {
    let name = kind.unique("watch", "web");
    let one = kind.at(&format!("/{name}"));
    let ours = kind.selector("watch");
    named(
        kind,
        "watch",
        [
            get(&kind.at(&format!("?{ours}"))).keep("start", "/metadata/resourceVersion"),
            post(&kind.at(""), &kind.object(&name, kind.only("watch")))
                .keep("made", "/metadata/resourceVersion"),
            patch(&one, MERGE, &json!({"metadata": {"labels": {"step": "2"}}}))
                .keep("two", "/metadata/resourceVersion"),
            patch(&one, MERGE, &json!({"metadata": {"labels": {"step": "3"}}})),
            patch(
                &one,
                MERGE,
                &json!({"metadata": {"labels": {"story": "left"}}}),
            ),
            watch(kind.path, &format!("{ours}&resourceVersion={{start}}")),
            watch(kind.path, &format!("{ours}&resourceVersion={{made}}")),
            watch(
                kind.path,
                &format!("fieldSelector=metadata.name%3D{name}&resourceVersion={{two}}"),
            ),
            watch(kind.path, &format!("fieldSelector=metadata.name%3D{name}")),
            watch(
                kind.path,
                &format!("fieldSelector=metadata.name%3D{name}&resourceVersion=0"),
            ),
            watch(
                kind.path,
                &format!(
                    "fieldSelector=metadata.name%3D{name}&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&resourceVersion={{made}}"
                ),
            ),
            watch(kind.path, "resourceVersion=x"),
            watch(kind.path, "sendInitialEvents=true"),
            watch(kind.path, "labelSelector=a%3D%3D%3D"),
            watch(&one, "resourceVersion={two}"),
            delete(&one),
            watch(
                kind.path,
                &format!("fieldSelector=metadata.name%3D{name}&resourceVersion={{two}}"),
            )
            .accept(TABLE),
        ],
    )
}

fn races(kind: &Kind) -> Story {
    let name = kind.unique("race", "web");
    let one = kind.at(&format!("/{name}"));
    let made = post(&kind.at(""), &kind.object(&name, json!({})));
    let nth = |n: usize| {
        let more = json!({"metadata": {"resourceVersion": "{rv}", "labels": {"n": n.to_string()}}});
        put(&one, &kind.object(&name, more))
    };
    let keep = get(&one).keep("rv", "/metadata/resourceVersion");
    let mut story = named(kind, "race", []);
    story.steps = vec![
        Step::Race(vec![made; 8]),
        Step::One(keep),
        Step::Race((0..8).map(nth).collect()),
        Step::Race(
            (0..8)
                .map(|n| {
                    let label = format!("l{n}");
                    patch(&one, MERGE, &json!({"metadata": {"labels": {label: "x"}}}))
                })
                .collect(),
        ),
        Step::One(patch(
            &one,
            MERGE,
            &json!({"metadata": {"labels": {"n": null}}}),
        )),
        Step::One(get(&one)),
    ];
    if kind.name != "Namespace" {
        story.steps.push(Step::Race(vec![delete(&one); 4]));
    }
    story
}

fn odd_bodies(kind: &Kind) -> Story {
    let name = kind.unique("odd", "web");
    let object = kind.object(&name, json!({}));
    let text = object.to_string();
    let one = kind.at(&format!("/{name}"));
    let dry = kind.at("?dryRun=All");
    named(
        kind,
        "odd",
        [
            raw("POST", &dry, "text/plain", &text),
            raw("POST", &dry, "application/json", "{"),
            raw("POST", &dry, "application/json", ""),
            raw("POST", &dry, "application/json", "[]"),
            raw("POST", &dry, "application/json", "null"),
            raw("POST", &dry, "application/json", "\"text\""),
            raw("POST", &dry, "application/json; charset=utf-8", &text),
            raw("POST", &dry, YAML, &text),
            raw("POST", &dry, YAML, "a: [unclosed"),
            raw(
                "POST",
                &dry,
                "application/json",
                &text.replacen('{', "{\"apiVersion\":\"v1\",", 1),
            ),
            raw("DELETE", &one, "application/json", "{"),
            get(&kind.at("")).accept("text/html"),
            get(&one).accept("application/json;as=Table;v=v1;g=meta.k8s.io"),
            get(&kind.at("?fieldSelector=metadata.name%3Dmissing")).accept(
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json",
            ),
            raw("OPTIONS", &one, "application/json", ""),
            raw(
                "POST",
                &kind.at(&format!("/{name}/status")),
                "application/json",
                &text,
            ),
        ],
    )
}

//! An API server and an operator in this process, and questions that wait for their answer.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]
#![allow(
    dead_code,
    reason = "every test binary uses its own part of the harness"
)]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use fairlead_api::{
    CiliumLoadBalancerIPPool, IPPoolUsage, condition, ip_pool_usage::IPPoolUsageStatus,
};
use fairlead_apiserver::{Config as ApiConfig, Server};
use fairlead_operator::Config;
use fairlead_rt::{CancellationToken, Metrics, Supervisor};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams,
    },
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Long enough for a machine that builds something else at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Writes that do not get through: refused with 403, or held until allowed.
#[derive(Clone)]
pub(crate) struct Refusals {
    rules: Arc<watch::Sender<Rules>>,
    held: Arc<watch::Sender<usize>>,
}

#[derive(Debug, Clone, Default)]
struct Rules {
    refused: Vec<&'static str>,
    held: Vec<&'static str>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            rules: Arc::new(watch::Sender::new(Rules::default())),
            held: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Refusals {
    pub(crate) fn refuse(&self, path: &'static str) {
        self.rules.send_modify(|rules| rules.refused.push(path));
    }

    pub(crate) fn hold(&self, path: &'static str) {
        self.rules.send_modify(|rules| rules.held.push(path));
    }

    pub(crate) fn allow_all(&self) {
        self.rules.send_replace(Rules::default());
    }

    /// Until a write is held.
    pub(crate) async fn until_held(&self) {
        let mut held = self.held.subscribe();
        let wait = held.wait_for(|n| *n > 0);
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("a write is held")
            .unwrap();
    }

    async fn pass(&self, path: &str) -> bool {
        let mut rules = self.rules.subscribe();
        if rules.borrow().held.iter().any(|held| path.ends_with(held)) {
            self.held.send_modify(|n| *n += 1);
            rules
                .wait_for(|rules| !rules.held.iter().any(|held| path.ends_with(held)))
                .await
                .unwrap();
        }
        let rules = rules.borrow();
        !rules.refused.iter().any(|refused| path.ends_with(refused))
    }
}

type Request = hyper::Request<Body>;
type Response = hyper::Response<Body>;

/// Lets everything through to `inner` but the writes that the rules stop.
#[derive(Clone)]
struct Guard {
    inner: Client,
    refusals: Refusals,
}

impl tower::Service<Request> for Guard {
    type Response = Response;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let inner = self.inner.clone();
        let refusals = self.refusals.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            if request.method() == hyper::Method::PATCH && !refusals.pass(&path).await {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
                    "reason": "Forbidden", "message": "patch is forbidden for this test"});
                let body = Body::from(serde_json::to_vec(&status).unwrap());
                return Ok(hyper::Response::builder().status(403).body(body).unwrap());
            }
            inner.send(request).await
        })
    }
}

pub(crate) struct Lab {
    client: Client,
    guarded: Client,
    metrics: Metrics,
    dir: tempfile::TempDir,
    addr: SocketAddr,
    server: Option<Running>,
    operator: Option<Running>,
    second: Option<Running>,
    node_ipam: Option<fairlead_lb_ipam::Settings>,
}

/// Something in the background with its own end.
struct Running {
    stop: CancellationToken,
    supervisor: tokio::task::JoinHandle<()>,
}

impl Running {
    #[expect(
        clippy::disallowed_methods,
        reason = "the handle is awaited by `end`, and a panic in it fails the test there"
    )]
    fn start<F>(name: &'static str, part: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let mut tasks = Supervisor::new(name, stop.clone());
        tasks.spawn(name, part(tasks.token()));
        let supervisor = tokio::spawn(async move { tasks.first_exit().await.unwrap() });
        Self { stop, supervisor }
    }

    async fn end(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.supervisor).await;
        ended.expect("ends in time").unwrap();
    }
}

impl Lab {
    pub(crate) async fn start(refusals: Refusals) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = open(&dir, "127.0.0.1:0".parse().unwrap());
        let addr = server.local_addr();
        let kubeconfig = Kubeconfig::from_yaml(server.kubeconfig()).unwrap();
        let server = serve(server);
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        let client = Client::try_from(config).unwrap();
        let mut lab = Self::over(client, refusals);
        (lab.dir, lab.addr, lab.server) = (dir, addr, Some(server));
        lab
    }

    /// Over an API server that somebody else runs and ends.
    pub(crate) fn over(client: Client, refusals: Refusals) -> Self {
        let guard = Guard {
            inner: client.clone(),
            refusals,
        };
        let guarded = Client::new(guard, "default");
        let mut lab = Self {
            client,
            guarded,
            metrics: Metrics::new(),
            dir: tempfile::tempdir().unwrap(),
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            server: None,
            operator: None,
            second: None,
            node_ipam: None,
        };
        lab.start_operator();
        lab
    }

    pub(crate) fn start_operator(&mut self) {
        assert!(self.operator.is_none());
        self.metrics = Metrics::new();
        let config = Config {
            node_ipam: self.node_ipam,
            ..Config::appliance(self.metrics.clone())
        };
        self.operator = Some(operate(config, self.guarded.clone()));
    }

    /// Another operator that believes to lead, with its own refusals.
    pub(crate) fn start_second_operator(&mut self, refusals: Refusals) {
        let guard = Guard {
            inner: self.client.clone(),
            refusals,
        };
        let client = Client::new(guard, "default");
        self.second = Some(operate(Config::appliance(Metrics::new()), client));
    }

    pub(crate) async fn stop_second_operator(&mut self) {
        self.second.take().expect("it runs").end().await;
    }

    /// For the next operator that is started.
    pub(crate) const fn with_node_ipam(&mut self, settings: fairlead_lb_ipam::Settings) {
        self.node_ipam = Some(settings);
    }

    pub(crate) async fn stop_operator(&mut self) {
        self.operator.take().expect("it runs").end().await;
    }

    pub(crate) async fn stop(mut self) {
        self.stop_operator().await;
        if self.second.is_some() {
            self.stop_second_operator().await;
        }
        if let Some(server) = self.server.take() {
            server.end().await;
        }
    }

    /// The API server ends and starts again on the same port with the same data.
    pub(crate) async fn restart_server(&mut self) {
        self.server.take().expect("it runs").end().await;
        self.server = Some(serve(open(&self.dir, self.addr)));
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn pools(&self) -> Api<CiliumLoadBalancerIPPool> {
        Api::all(self.client.clone())
    }

    pub(crate) async fn apply(&self, yaml: &str) {
        self.try_apply(yaml).await.unwrap();
    }

    pub(crate) async fn try_apply(&self, yaml: &str) -> Result<DynamicObject, kube::Error> {
        let object: DynamicObject = serde_norway::from_str(yaml).unwrap();
        let types = object.types.clone().unwrap();
        let gvk = GroupVersionKind::try_from(&types).unwrap();
        let plural = match gvk.kind.as_str() {
            "AddressReservation" => "addressreservations",
            _ => "ciliumloadbalancerippools",
        };
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
        api.create(&PostParams::default(), &object).await
    }

    pub(crate) async fn service(&self, name: &str, spec: Value) {
        let mut object = json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}]}});
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        let object: Service = serde_json::from_value(object).unwrap();
        self.services()
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    pub(crate) async fn slice(&self, service: &str, addrs: &[&str]) {
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), "default");
        let endpoints: Vec<Value> = addrs
            .iter()
            .map(|addr| json!({"addresses": [addr]}))
            .collect();
        let name = format!("{service}-1");
        let object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints});
        let mut object: EndpointSlice = serde_json::from_value(object).unwrap();
        match api.get_opt(&name).await.unwrap() {
            Some(old) => {
                object.metadata.resource_version = old.metadata.resource_version;
                api.replace(&name, &PostParams::default(), &object)
                    .await
                    .unwrap();
            }
            None => {
                api.create(&PostParams::default(), &object).await.unwrap();
            }
        }
    }

    pub(crate) async fn get(&self, name: &str) -> Service {
        self.services().get(name).await.unwrap()
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.services()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    pub(crate) async fn delete_pool(&self, name: &str) {
        self.pools()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    async fn merge(&self, name: &str, patch: Value) {
        let params = PatchParams::default();
        self.services()
            .patch(name, &params, &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub(crate) async fn annotate(&self, name: &str, key: &str, value: &str) {
        self.merge(name, json!({"metadata": {"annotations": {key: value}}}))
            .await;
    }

    pub(crate) async fn set_type(&self, name: &str, type_: &str) {
        self.merge(name, json!({"spec": {"type": type_}})).await;
    }

    pub(crate) async fn patch_status(&self, name: &str, status: Value) {
        let params = PatchParams::default();
        let patch = Patch::Merge(json!({"status": status}));
        self.services()
            .patch_status(name, &params, &patch)
            .await
            .unwrap();
    }

    pub(crate) async fn versions(&self) -> BTreeMap<String, String> {
        let services = self.services().list(&ListParams::default()).await.unwrap();
        let each = services.items.into_iter();
        each.map(|s| (s.name_any(), s.metadata.resource_version.unwrap()))
            .collect()
    }

    /// Every address in a status, once for each Service that has it.
    pub(crate) async fn held(&self) -> Vec<String> {
        let services = self.services().list(&ListParams::default()).await.unwrap();
        services.items.iter().flat_map(addresses).collect()
    }

    pub(crate) async fn eventually(&self, what: &str, check: impl AsyncFn(&Self) -> bool) {
        self.until(what, async |lab| {
            check(lab).await.then_some(()).ok_or_else(String::new)
        })
        .await;
    }

    async fn until(&self, what: &str, check: impl AsyncFn(&Self) -> Result<(), String>) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let Err(seen) = check(self).await else {
                return;
            };
            assert!(
                tokio::time::Instant::now() < deadline,
                "not within {PATIENCE:?}: {what}; last seen: {seen}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Addresses, status and reason, as `kubectl` would show them.
    pub(crate) async fn shows(&self, name: &str, wanted: &str) {
        self.until(&format!("{name} shows `{wanted}`"), async |lab| {
            let service = lab.get(name).await;
            let conditions = service
                .status
                .clone()
                .unwrap_or_default()
                .conditions
                .unwrap_or_default();
            let found = condition::find(&conditions, "cilium.io/IPAMRequestSatisfied");
            let said =
                found.map_or_else(|| "-".to_owned(), |c| format!("{} {}", c.status, c.reason));
            let seen = format!("{} {said}", addresses(&service).join(","));
            if seen == wanted { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    pub(crate) async fn pool_shows(&self, name: &str, type_: &str, wanted: &str) {
        self.until(&format!("pool {name} shows `{wanted}`"), async |lab| {
            let pool = lab.pools().get(name).await.unwrap();
            let conditions = pool.status.unwrap_or_default().conditions;
            let found = condition::find(&conditions, type_);
            let seen = found.map_or_else(String::new, |c| {
                format!("{} {} {}", c.status, c.reason, c.message)
                    .trim_end()
                    .to_owned()
            });
            if seen == wanted { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// Creates a Node with an InternalIP and a pod prefix.
    pub(crate) async fn node(&self, name: &str, address: &str, pods: &str) {
        let api = Api::<Node>::all(self.client.clone());
        let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
        let object = json!({"metadata": {"name": name}, "spec": {"podCIDR": pods, "podCIDRs": [pods]}, "status": status});
        let object: Node = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    pub(crate) async fn annotate_pool(&self, name: &str, key: &str, value: &str) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        let params = PatchParams::default();
        self.pools().patch(name, &params, &patch).await.unwrap();
    }

    /// What is remembered about a pool, when it is what `check` wants.
    pub(crate) async fn usage(&self, pool: &str, check: impl Fn(&IPPoolUsageStatus) -> bool) {
        let api = Api::<IPPoolUsage>::all(self.client.clone());
        self.until(&format!("usage of {pool}"), async |_| {
            let found = api.get_opt(pool).await.unwrap();
            match found.and_then(|u| u.status) {
                Some(status) if check(&status) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    pub(crate) async fn annotation_is(&self, name: &str, key: &str, wanted: &str) {
        self.until(&format!("{name} has {key}={wanted}"), async |lab| {
            let service = lab.get(name).await;
            match service.annotations().get(key) {
                Some(value) if value == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// A counter above zero.
    pub(crate) async fn metric(&self, name: &str) {
        self.until(&format!("metric {name}"), async |lab| {
            let text = lab.metrics.encode();
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
            match lines.next() {
                Some(value) if value.trim() != "0" => Ok(()),
                _ => Err(text),
            }
        })
        .await;
    }
}

fn operate(config: Config, client: Client) -> Running {
    Running::start("operator", |stop| async move {
        let ran = fairlead_operator::run(config, client, stop).await;
        ran.map_err(|e| format!("{e:#}"))
    })
}

fn open(dir: &tempfile::TempDir, listen: SocketAddr) -> Server {
    let mut config = ApiConfig::new(dir.path().join("data"), listen);
    config.crds = fairlead_api::crds().iter().map(|crd| json!(crd)).collect();
    Server::open(config).unwrap()
}

fn serve(server: Server) -> Running {
    Running::start("api", |stop| async move {
        server.run(stop).await.map_err(|e| e.to_string())
    })
}

fn addresses(service: &Service) -> Vec<String> {
    let status = service.status.as_ref();
    let ingress = status
        .and_then(|s| s.load_balancer.as_ref())
        .and_then(|lb| lb.ingress.as_ref());
    ingress
        .into_iter()
        .flatten()
        .filter_map(|e| e.ip.clone())
        .collect()
}

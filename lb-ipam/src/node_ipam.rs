//! Node IPAM: Services whose addresses are those of nodes.
//!
//! ```text
//! Services ───────┐ kube watchers   Book ──▶ addresses() per Service that changed ──▶ at most WRITES patches of /status
//! Nodes ──────────┼──(merged)─────▶  ▲                                                          │
//! EndpointSlices ─┘                  └── answers ◀──────────────────────────────────────────────┘
//! ```
//! [`addresses`] is pure. One task owns everything; nothing is written before every list is whole, and a write carries the
//! resourceVersion that it was decided on. A node that no longer qualifies wakes every Service, as one that begins to.

mod book;
pub mod selector;

use std::{collections::BTreeSet, convert::Infallible, net::IpAddr, time::Duration};

use fairlead_api::{names::manager, watch::feed};
use fairlead_model::{Labels, LoadBalancerClass, Selector, ServiceName};
use fairlead_rt::{CancellationToken, clock};
use futures::{
    FutureExt as _, StreamExt as _,
    stream::{self, SelectAll, select_all},
};
use k8s_openapi::api::{core::v1, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};

use crate::{
    alloc::{DefaultIpam, Family, Settings},
    controller::write::{self, Fault},
};
use book::{Book, Change, Todo};

/// Patches under way at a time.
const WRITES: usize = 16;
/// Most events taken together before Services are looked at.
const BATCH: usize = 8192;
/// First pause after a failed write; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest pause between tries.
const RETRY_MAX: Duration = Duration::from_mins(5);

/// A node as node IPAM sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Not being deleted, and not kept out of external load balancers.
    pub is_candidate: bool,
    /// Its labels.
    pub labels: Labels,
    /// `ExternalIP` addresses.
    pub external: Vec<IpAddr>,
    /// `InternalIP` addresses.
    pub internal: Vec<IpAddr>,
}

/// What a Service asks of node IPAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `spec.ipFamilies`.
    pub families: Vec<Family>,
    /// Which nodes; `Err` says why the annotation cannot be read.
    pub nodes: Result<Selector, String>,
    /// `externalTrafficPolicy: Local`: only nodes that host a ready endpoint.
    pub is_local: bool,
}

/// Why a Service gets no addresses of nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoNodes {
    /// The annotation is no label selector.
    #[error("annotation io.cilium.nodeipam/match-node-labels: {0}")]
    BadSelector(String),
    /// No node fits.
    #[error("no node that takes external traffic is selected")]
    NoNode,
    /// Nodes fit, but none of them hosts a ready endpoint.
    #[error("externalTrafficPolicy is Local and no selected node hosts a ready endpoint")]
    NoEndpoint,
    /// Nodes fit, but have no address of a wanted family.
    #[error("no selected node has an address of the wanted families")]
    NoAddress,
}

impl NoNodes {
    /// The closed word for the condition and the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::BadSelector(_) => "invalid_selector",
            Self::NoNode => "no_node",
            Self::NoEndpoint => "no_endpoint",
            Self::NoAddress => "no_address",
        }
    }
}

/// The addresses of the nodes that fit, each once, sorted as text as Cilium does. If any of them has an ExternalIP of a wanted
/// family, only ExternalIPs count.
///
/// # Errors
/// Why there are none.
pub fn addresses<'a>(
    request: &Request,
    nodes: impl Iterator<Item = &'a NodeFacts>,
    hosts: &BTreeSet<String>,
) -> Result<Vec<IpAddr>, NoNodes> {
    let selector = request
        .nodes
        .as_ref()
        .map_err(|why| NoNodes::BadSelector(why.clone()))?;
    let candidates: Vec<&NodeFacts> = nodes
        .filter(|node| node.is_candidate && selector.matches(&node.labels))
        .collect();
    if candidates.is_empty() {
        return Err(NoNodes::NoNode);
    }
    let hosting: Vec<&NodeFacts> = candidates
        .into_iter()
        .filter(|node| !request.is_local || hosts.contains(&node.name))
        .collect();
    if hosting.is_empty() {
        return Err(NoNodes::NoEndpoint);
    }
    let wanted = |of: fn(&NodeFacts) -> &Vec<IpAddr>| {
        let all = hosting.iter().flat_map(move |node| of(node));
        let mut found: Vec<IpAddr> = all
            .copied()
            .filter(|ip| request.families.contains(&Family::of(*ip)))
            .collect();
        found.sort_by_cached_key(ToString::to_string);
        found.dedup();
        found
    };
    let external = wanted(|node| &node.external);
    let found = if external.is_empty() {
        wanted(|node| &node.internal)
    } else {
        external
    };
    if found.is_empty() {
        return Err(NoNodes::NoAddress);
    }
    Ok(found)
}

/// Whether node IPAM serves Services of this class.
pub const fn serves(settings: &Settings, class: &LoadBalancerClass) -> bool {
    match class {
        LoadBalancerClass::Node => true,
        LoadBalancerClass::Unset => matches!(settings.default_ipam, DefaultIpam::NodeIpam),
        LoadBalancerClass::L2Announcer
        | LoadBalancerClass::BgpControlPlane
        | LoadBalancerClass::Other(_) => false,
    }
}

/// Node IPAM as a task.
pub struct NodeIpam {
    client: Client,
    feed: SelectAll<stream::BoxStream<'static, Option<Change>>>,
    book: Book,
}

impl NodeIpam {
    /// Begins nothing yet.
    pub fn new(client: Client, settings: Settings) -> Self {
        let feed = select_all([
            feed::one(
                "services",
                Api::<v1::Service>::all(client.clone()),
                Change::Service,
            ),
            feed::one("nodes", Api::<v1::Node>::all(client.clone()), Change::Node),
            feed::one(
                "endpointslices",
                Api::<EndpointSlice>::all(client.clone()),
                Change::Slice,
            ),
        ]);
        Self {
            book: Book::new(settings),
            feed,
            client,
        }
    }

    /// Runs until `stop` fires. An API server that is away or refuses us is tried again for ever.
    ///
    /// # Cancel safety
    /// Dropping the future ends it; a write under way may still land, guarded by its resourceVersion.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut pause = RETRY_MIN;
        loop {
            let has_failed = self.book.has_failed();
            let retry = async {
                if has_failed {
                    tokio::time::sleep(pause).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = self.feed.next() => self.take_batch(event.expect("watchers never end")),
                () = retry => {
                    pause = (pause * 2).min(RETRY_MAX);
                    self.book.try_again();
                }
            }
            let wall = fairlead_api::condition::time(clock::wall());
            let todo = self.book.todo(&wall);
            let client = &self.client;
            let answers: Vec<(ServiceName, Result<v1::Service, Fault>)> = stream::iter(todo)
                .map(|todo| async move { (todo.name.clone(), send(client, &todo).await) })
                .buffer_unordered(WRITES)
                .collect()
                .await;
            if answers.iter().any(|(_, answer)| answer.is_ok()) {
                pause = RETRY_MIN;
            }
            for (name, answer) in answers {
                self.book.written(&name, answer);
            }
        }
    }

    /// Takes an event and whatever has already arrived with it.
    fn take_batch(&mut self, first: Option<Change>) {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(event) = next else { break };
            if let Some(change) = event {
                self.book.apply(change);
            }
            next = self.feed.next().now_or_never().flatten();
        }
    }
}

async fn send(client: &Client, todo: &Todo) -> Result<v1::Service, Fault> {
    let params = PatchParams {
        field_manager: Some(manager::NODE_IPAM.to_owned()),
        ..PatchParams::default()
    };
    let api = Api::<v1::Service>::namespaced(client.clone(), todo.name.namespace());
    let patch = Patch::Json::<()>(todo.patch.clone());
    let answer = api.patch_status(todo.name.name(), &params, &patch);
    match tokio::time::timeout(write::DEADLINE, answer).await {
        Ok(answer) => answer.map_err(Fault::of),
        Err(_elapsed) => Err(Fault::Timeout),
    }
}

#[cfg(test)]
mod tests;

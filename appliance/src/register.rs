//! The Node object of this machine: made when missing, its addresses kept current.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use fairlead_model::NodeName;
use fairlead_netlink::Netlink;
use fairlead_rt::{BoxError, CancellationToken};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tracing::{info, warn};

/// Annotation of a Node: where its appliance serves the API, or would if it were promoted; a comma list.
pub const API_ADDRESS: &str = "fairlead.io/api-address";

/// One API call.
const DEADLINE: Duration = Duration::from_secs(5);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Addresses change rarely.
const EVERY: Duration = Duration::from_secs(30);

/// Keeps the Node object as it should be until told to stop; an API that is away is asked again.
///
/// # Errors
/// None; the signature is that of a supervised task.
///
/// # Cancel safety
/// Nothing is lost.
pub async fn keep(
    client: Client,
    node: NodeName,
    interfaces: Vec<String>,
    api: Option<SocketAddr>,
    stop: CancellationToken,
) -> std::result::Result<(), BoxError> {
    let mut said = false;
    loop {
        let outcome = tokio::time::timeout(DEADLINE, once(&client, &node, &interfaces, api)).await;
        let pause = match outcome {
            Ok(Ok(is_new)) => {
                said = false;
                if is_new {
                    info!(node = %node, "registered this node");
                }
                EVERY
            }
            Ok(Err(error)) => {
                if !std::mem::replace(&mut said, true) {
                    warn!(
                        error = format!("{error:#}"),
                        "cannot register this node yet"
                    );
                }
                RETRY
            }
            Err(_elapsed) => {
                if !std::mem::replace(&mut said, true) {
                    warn!("cannot register this node yet: the API does not answer");
                }
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Makes or corrects the object; returns whether it was made.
async fn once(
    client: &Client,
    name: &NodeName,
    interfaces: &[String],
    api: Option<SocketAddr>,
) -> Result<bool> {
    let nodes: Api<Node> = Api::all(client.clone());
    let addresses = addresses(interfaces).await?;
    let found = nodes
        .get_opt(name.as_str())
        .await
        .context("read the Node")?;
    let is_new = found.is_none();
    let node = if let Some(node) = found {
        node
    } else {
        let mut node = Node::default();
        let label = ("kubernetes.io/hostname".to_owned(), name.to_string());
        node.metadata.name = Some(name.to_string());
        node.metadata.labels = Some(BTreeMap::from([label]));
        let made = nodes.create(&PostParams::default(), &node).await;
        made.context("make the Node")?
    };
    if let Some(api) = api {
        let at = api_addresses(api, &addresses);
        if node.annotations().get(API_ADDRESS) != Some(&at) {
            let patch = json!({"metadata": {"annotations": {API_ADDRESS: at}}});
            nodes
                .patch(name.as_str(), &PatchParams::default(), &Patch::Merge(patch))
                .await
                .context("write where the Node serves")?;
        }
    }
    let wanted: Vec<_> = addresses
        .iter()
        .map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}))
        .chain([json!({"type": "Hostname", "address": name.to_string()})])
        .collect();
    let has = node.status.and_then(|status| status.addresses);
    if serde_json::to_value(&has)? != json!(wanted) {
        let patch = json!({"status": {"addresses": wanted}});
        nodes
            .patch_status(name.as_str(), &PatchParams::default(), &Patch::Merge(patch))
            .await
            .context("write the Node's addresses")?;
    }
    Ok(is_new)
}

/// Where others reach an API that listens there.
fn api_addresses(listen: SocketAddr, addresses: &[IpAddr]) -> String {
    if !listen.ip().is_unspecified() {
        return listen.to_string();
    }
    let all = addresses
        .iter()
        .filter(|ip| listen.is_ipv6() || ip.is_ipv4());
    let all: Vec<_> = all
        .map(|ip| SocketAddr::new(*ip, listen.port()).to_string())
        .collect();
    all.join(",")
}

/// Global addresses of the interfaces, in the kernel's order.
async fn addresses(interfaces: &[String]) -> Result<Vec<IpAddr>> {
    let netlink = Netlink::new();
    let links = fairlead_agent::interfaces::resolve(netlink, interfaces).await?;
    let all = netlink.addresses().await.context("list addresses")?;
    let ours = all
        .iter()
        .filter(|a| links.iter().any(|link| link.index == a.ifindex));
    let global = ours.filter(|a| !a.is_autojoin && is_global(a.ip));
    Ok(global.map(|address| address.ip).collect())
}

fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_link_local() || ip.is_multicast()),
        IpAddr::V6(ip) => !(ip.is_unicast_link_local() || ip.is_multicast()),
    }
}

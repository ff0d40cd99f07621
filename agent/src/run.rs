//! The order of things on a node.
//!
//! ```text
//!                    Snapshot n            Programmed(n)
//!   api::watch ───────────────▶ driver ──────────────────▶ announcer ───▶ LAN
//!       │ watch::channel          │ maps                      │ responder entries, heartbeats
//!       │ (newest wins)           ▼                           ▼
//!       │                     attachments (links)         Leases
//!       └──▶ views ◀── all of them ──▶ local API (Unix socket), conditions (bounded writes)
//! ```
//!
//! Every channel is a `watch`: it holds one value, a slow reader skips what was between, nothing can fill up. Start: interfaces, maps, local
//! API and the announcer, which adopts what the kernel still answers for and takes nothing yet; as soon as there is a snapshot the driver,
//! as soon as that has programmed it the links, and where a link holds the announcer may take addresses. Stop: announcer (gives its
//! addresses away), then driver and local API; programs, maps and links stay. The API server may go at any time: the last snapshot stays,
//! and when the server answers again every watch begins anew.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use fairlead_announcer::{policy, status::L2Status};
use fairlead_datapath::{Datapath, DatapathConfig};
use fairlead_model::{Generation, Snapshot};
use fairlead_netlink::{Link, Netlink};
use fairlead_observe::{ApiView, Timestamp};
use fairlead_rt::{CancellationToken, Stages, clock};
use kube::Client;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};
use tracing::info;

use crate::{
    attachments::Attachments,
    config::AgentConfig,
    interfaces, metrics,
    parts::{L2Part, LbPart},
    socket,
    views::Views,
};

mod announcing;
mod forwarding;
mod front;

/// Handing addresses over: the announcer waits a second for its successors.
const ANNOUNCER_GRACE: Duration = Duration::from_secs(4);
/// The rest has nothing to wait for.
const GRACE: Duration = Duration::from_secs(3);

/// Runs until `stop` fires or a part fails. Programs, maps and links stay in the kernel either way.
///
/// # Errors
/// The first failure, with its causes: an unknown interface, missing rights, another agent's socket or pins, ...
///
/// # Cancel safety
/// Dropping the future is a kill: nothing is handed over, the kernel goes on by itself.
pub async fn run(config: AgentConfig, client: Client, stop: CancellationToken) -> Result<()> {
    let links = interfaces::resolve(Netlink::new(), &config.interfaces).await?;
    let listener = socket::bind(&config.socket).await?;
    let observers = match config.metrics_listen {
        Some(at) => {
            let bound = TcpListener::bind(at).await;
            Some(bound.with_context(|| format!("listen on {at} for /metrics and /healthz"))?)
        }
        None => None,
    };
    let mut pins = DatapathConfig::new(&config.pin_dir);
    if let Some(lines) = config.maglev_lines {
        pins.maglev_lines = lines;
    }
    let datapath = fairlead_rt::blocking(move || Datapath::open(&pins))
        .await
        .context("open the datapath")?;
    let names: Vec<String> = links.iter().map(|link| link.name.clone()).collect();
    info!(
        node = %config.node,
        interfaces = names.join(","),
        pins = %config.pin_dir.display(),
        "the agent starts"
    );
    let socket_path = config.socket.clone();
    let (announcing, mut front, forwarding) = parts(config, &links, names, datapath, client);
    front.observers = observers;
    let mut stages = Stages::new("agent", stop);
    stages.add("announcer", ANNOUNCER_GRACE, |stop| announcing.run(stop));
    stages.add("local api", GRACE, |stop| front.run(listener, stop));
    stages.add("load balancer", GRACE, |stop| forwarding.run(stop));
    let ended = stages.run().await;
    // A socket that nobody listens on would make `fairlead` say that the agent hangs.
    if let Err(error) = socket::remove(&socket_path) {
        tracing::warn!(%error, "the socket stays behind");
    }
    Ok(ended?)
}

/// Makes the parts and the channels between them; nothing runs yet.
fn parts(
    config: AgentConfig,
    links: &[Link],
    names: Vec<String>,
    datapath: Datapath,
    client: Client,
) -> (announcing::Announcing, front::Front, forwarding::Forwarding) {
    let (lb_maps, l2_maps) = (datapath.lb().clone(), datapath.l2().clone());
    let attachments = Attachments::new(datapath, config.acceleration, links);
    let attached = attachments.view();
    let (snapshot, snapshots) = watch::channel(Arc::new(NOTHING));
    let (l2_status, l2_statuses) = watch::channel(Arc::new(L2Status::default()));
    let (history, histories) = watch::channel(fairlead_announcer::History::new());
    let (moves, movers) = watch::channel(None);
    let (gate, gates) = watch::channel(policy::Programmed::default());
    let (api, apis) = watch::channel(ApiView {
        server: config.api_server.clone(),
        is_connected: false,
        since: None,
        error: None,
    });
    let again = Arc::new(Notify::new());
    let (host_arp, host_arps) = watch::channel(Arc::from([]));
    let (unreadable, unreadables) = watch::channel(fairlead_api::watch::Problems::default());
    let (forwarding, programmed) = forwarding::Forwarding::new(forwarding::Inputs {
        client: client.clone(),
        interfaces: names,
        kept: config.kept.clone(),
        is_forwarding: config.is_forwarding,
        is_announcing: config.is_announcing,
        mode: config.forwarding_mode,
        fold_after: config.fold_after,
        maps: lb_maps.clone(),
        again: Arc::clone(&again),
        snapshot,
        unreadable,
        l2: l2_statuses.clone(),
        gate,
        attachments,
    });
    let announcing = announcing::Announcing {
        config: config.clone(),
        interfaces: attached.clone(),
        client: client.clone(),
        maps: l2_maps.clone(),
        snapshots: snapshots.clone(),
        gates,
        status: l2_status,
        history,
        moves,
    };
    let views = Views {
        started: Timestamp::from_system(clock::wall()),
        client,
        snapshot: snapshots,
        api: apis,
        interfaces: attached,
        lb: LbPart {
            maps: lb_maps,
            programmed,
            unreadable: unreadables,
        },
        l2: L2Part {
            maps: l2_maps,
            status: l2_statuses,
            history: histories,
            moves: movers,
        },
        host_arp: host_arps,
        config,
    };
    let views = Arc::new(views);
    metrics::register(&views);
    let front = front::Front {
        views,
        api,
        again,
        observers: None,
        host_arp,
    };
    (announcing, front, forwarding)
}

/// Before the first snapshot: generation 0, from which nothing is planned.
const NOTHING: Snapshot = Snapshot {
    generation: Generation(0),
    services: std::collections::BTreeMap::new(),
    l2_policies: std::collections::BTreeMap::new(),
    nodes: std::collections::BTreeMap::new(),
};

//! Who does what: the node that serves runs API and operator until it hears of a later reign; a member follows whoever serves, keeps a copy
//! of everything and its certificate fresh, until it is promoted.
//!
//! ```text
//!            heard of a later reign, or asked to yield
//!  serve ────────────────────────────────────────────────▶ follow
//!    ▲  api ◀── operator, health checks                      │  route · copy · renew
//!    └───────────────────────────────────────────────────────┘
//!                 membership.json says so (`promote`)
//! ```
//! The agent is no part of it: its client follows the [`Route`]. No channel here can fill: the route is one value.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use fairlead_apiserver::{
    Config, Fence, Server,
    copy::set_aside,
    member::{COPY, FENCE},
};
use fairlead_rt::{BoxError, CancellationToken, Stages};
use futures::{StreamExt as _, stream::FuturesUnordered};
use hyper::{Method, StatusCode};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use serde_json::Value;
use tracing::{info, warn};

use super::{
    copy, disk,
    enrol::{self, Request},
    home::{Home, Membership, Role},
    link::Route,
    wire::{Ask, Wire},
};
use crate::register::API_ADDRESS;

/// How often everybody is asked who serves.
const EVERY: Duration = Duration::from_secs(1);
/// One such question.
const ASK: Duration = Duration::from_millis(800);
/// How often the list of nodes is read.
const NODES: Duration = Duration::from_secs(3);
/// How often a member looks whether it was promoted.
const TURN: Duration = Duration::from_millis(500);
/// A copy that has not changed is answered after 20 s.
const COPY_DEADLINE: Duration = Duration::from_secs(40);
/// Between two copies: a thousand changes in a second are one copy.
const COPY_PACE: Duration = Duration::from_secs(1);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
const API_GRACE: Duration = Duration::from_secs(5);

/// Makes the stages that run beside the API, given a client of it.
pub type Beside = Box<dyn Fn(&mut Stages, &Client) + Send + Sync>;

/// What the two roles need.
pub struct Control {
    /// This node's name.
    pub node: String,
    /// What is on disk.
    pub home: Home,
    /// Who it is, and whom it trusts.
    pub wire: Wire,
    /// Where the client's connections go.
    pub route: Route,
    /// Follows the route.
    pub client: Client,
    /// Of the embedded API, should it serve.
    pub config: Config,
    /// Where `kubeconfig` lies.
    pub kubeconfig: PathBuf,
    /// Runs beside the API: the operator, the health checks.
    pub beside: Beside,
    /// As it was at the start.
    pub membership: Membership,
}

/// Why a role ended.
enum Turn {
    /// The process stops.
    Stop,
    /// The other role's turn.
    Over,
}

/// Opens the embedded API.
///
/// # Errors
/// What keeps it from opening.
///
/// # Cancel safety
/// Nothing is kept open.
pub async fn open(config: Config) -> Result<Server> {
    fairlead_rt::blocking(move || Server::open(config))
        .await
        .context("open the API")
}

/// Asks every address who serves there; in the order of the answers.
///
/// # Cancel safety
/// Nothing is changed.
pub async fn ask_around(
    wire: &Wire,
    everybody: &[SocketAddr],
    deadline: Duration,
) -> Vec<(SocketAddr, Fence)> {
    let ask = Ask {
        method: &Method::GET,
        path: FENCE,
        bearer: None,
        body: None,
        deadline,
    };
    let asked = everybody.iter().map(|to| async move {
        let (_, answer) = wire.ask(*to, ask).await.ok()?;
        Some((*to, serde_json::from_slice(&answer).ok()?))
    });
    let answers: FuturesUnordered<_> = asked.collect();
    answers.filter_map(std::future::ready).collect().await
}

impl Control {
    /// Runs until `stop` fires; `server` is the API if this node begins by serving it.
    ///
    /// # Errors
    /// What ends a part that should not end.
    ///
    /// # Cancel safety
    /// Dropping the future ends everything at once; acknowledged writes are on disk.
    pub async fn run(mut self, mut server: Option<Server>, stop: CancellationToken) -> Result<()> {
        loop {
            let turn = match self.membership.role {
                Role::Api => self.serve(server.take(), &stop).await?,
                Role::Member => self.follow(&stop).await?,
            };
            match turn {
                Turn::Stop => return Ok(()),
                Turn::Over => {}
            }
        }
    }

    /// Serves until told to stop, or until a later reign is heard of.
    async fn serve(&mut self, server: Option<Server>, stop: &CancellationToken) -> Result<Turn> {
        if let Some((at, later)) = self.later_reign().await {
            return self.give_way(later, Some(at));
        }
        let server = match server {
            Some(server) => server,
            None => open(self.config.clone()).await?,
        };
        let own = server.fence().clone();
        info!("serving the API, reign {}", own.number);
        self.membership.fence = own;
        let local = crate::run::loopback(server.local_addr());
        self.route.set(vec![local]);
        let mut yielded = server.yielded();
        let turn = stop.child_token();
        let mut stages = Stages::new("control", turn.clone());
        (self.beside)(&mut stages, &self.client);
        stages.add("api", API_GRACE, |stop| server.run(stop));
        let running = stages.run();
        tokio::pin!(running);
        let later = tokio::select! {
            ended = &mut running => {
                ended?;
                return Ok(Turn::Stop);
            }
            later = self.watch_for_later(&mut yielded) => later,
        };
        turn.cancel();
        running.await?;
        self.give_way(later.1, later.0)
    }

    /// Becomes a member of a later reign.
    fn give_way(&mut self, later: Fence, at: Option<SocketAddr>) -> Result<Turn> {
        warn!(
            reason = "ApiFenced",
            "giving way: {} serves the API, reign {}; this node's was {}",
            later.node,
            later.number,
            self.membership.fence.number
        );
        set_aside(&self.home.api_dir(), later.number).context("set the former store aside")?;
        self.membership.role = Role::Member;
        self.membership.api = match at {
            Some(at) => vec![at],
            None => self
                .membership
                .peers
                .get(&later.node)
                .cloned()
                .unwrap_or_default(),
        };
        self.membership.fence = later;
        self.home.keep(&self.membership)?;
        self.route.set(self.membership.api.clone());
        self.point_kubeconfig();
        Ok(Turn::Over)
    }

    /// The admin's kubeconfig goes on naming an API that answers. Its token and CA are the group's.
    fn point_kubeconfig(&self) {
        let Some(at) = self
            .membership
            .api
            .first()
            .filter(|_| self.kubeconfig.exists())
        else {
            return;
        };
        let changed = std::fs::read_to_string(&self.kubeconfig).map(|text| {
            let lines = text.lines().map(|line| match line.split_once("server: ") {
                Some((before, _)) => format!("{before}server: https://{at}\n"),
                None => format!("{line}\n"),
            });
            lines.collect::<String>()
        });
        let written = changed.and_then(|text| disk::replace(&self.kubeconfig, text.as_bytes()));
        if let Err(error) = written {
            warn!(%error, "cannot let {} name the new API", self.kubeconfig.display());
        }
    }

    /// A later reign than our own, and where it is served.
    async fn later_reign(&self) -> Option<(SocketAddr, Fence)> {
        let everybody = self.membership.candidates(&self.node);
        let answers = ask_around(&self.wire, &everybody, ASK).await;
        let later = answers
            .into_iter()
            .filter(|(_, fence)| *fence > self.membership.fence && fence.node != self.node);
        later.max_by(|(_, a), (_, b)| a.cmp(b))
    }

    async fn watch_for_later(
        &mut self,
        yielded: &mut tokio::sync::watch::Receiver<Option<Fence>>,
    ) -> (Option<SocketAddr>, Fence) {
        let mut until_nodes = Duration::ZERO;
        loop {
            if until_nodes.is_zero() {
                self.learn_peers().await;
                until_nodes = NODES;
            }
            if let Some((at, later)) = self.later_reign().await {
                return (Some(at), later);
            }
            let asked = async {
                let asked = yielded.wait_for(Option::is_some).await;
                asked.ok().and_then(|asked| asked.clone())
            };
            let asked = tokio::select! {
                () = tokio::time::sleep(EVERY) => None,
                asked = asked => asked,
            };
            if let Some(later) = asked {
                // It may have joined a moment ago; reads are still answered.
                self.learn_peers().await;
                return (None, later);
            }
            until_nodes = until_nodes.saturating_sub(EVERY);
        }
    }

    /// Reads where each node would serve, and keeps it for a start without an API.
    async fn learn_peers(&mut self) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let params = ListParams::default();
        let Ok(Ok(list)) = tokio::time::timeout(ASK * 4, nodes.list(&params)).await else {
            return;
        };
        let peers = list.items.iter().filter_map(|node| {
            let addresses = node.annotations().get(API_ADDRESS)?;
            let addresses = addresses.split(',').filter_map(|a| a.parse().ok());
            Some((node.name_any(), addresses.collect()))
        });
        let membership = Membership {
            peers: peers.collect(),
            ..self.membership.clone()
        };
        if membership == self.membership {
            return;
        }
        self.membership = membership;
        if let Err(error) = self.home.keep(&self.membership) {
            warn!(
                error = format!("{error:#}"),
                "the next start will not know every node"
            );
        }
    }

    /// Follows until told to stop, or until promoted.
    async fn follow(&mut self, stop: &CancellationToken) -> Result<Turn> {
        self.route.set(self.membership.api.clone());
        self.point_kubeconfig();
        let (home, wire, route) = (self.home.clone(), self.wire.clone(), self.route.clone());
        let node = self.node.clone();
        let copying = keep_copies(&home, &wire, &route);
        let renewing = keep_renewing(&home, &wire, &route, &node);
        let turned = promoted(&home);
        let routing = self.keep_routing();
        tokio::select! {
            () = stop.cancelled() => Ok(Turn::Stop),
            never = copying => match never {},
            never = renewing => match never {},
            never = routing => match never {},
            membership = turned => {
                info!("promoted: this node takes the API over");
                self.membership = membership;
                Ok(Turn::Over)
            }
        }
    }

    /// Points the route at the latest reign that answers; an earlier one than was ever heard of is not followed.
    async fn keep_routing(&mut self) -> std::convert::Infallible {
        let mut until_nodes = Duration::ZERO;
        loop {
            let everybody = self.membership.candidates(&self.node);
            let answers = ask_around(&self.wire, &everybody, ASK).await;
            let latest = answers
                .into_iter()
                .filter(|(_, fence)| *fence >= self.membership.fence)
                .max_by(|(_, a), (_, b)| a.cmp(b));
            if let Some((at, fence)) = latest {
                if fence != self.membership.fence {
                    info!(api = %at, "{} serves the API now, reign {}", fence.node, fence.number);
                }
                let before = self.membership.clone();
                self.membership.fence = fence;
                self.membership.api = vec![at];
                if before != self.membership {
                    self.route.set(vec![at]);
                    self.remember();
                    self.point_kubeconfig();
                }
            }
            if until_nodes.is_zero() {
                self.learn_peers().await;
                until_nodes = NODES;
            }
            tokio::time::sleep(EVERY).await;
            until_nodes = until_nodes.saturating_sub(EVERY);
        }
    }

    /// Keeps the membership, unless it says meanwhile that this node was promoted.
    fn remember(&self) {
        let is_promoted = matches!(self.home.membership(), Ok(Some(m)) if m.role == Role::Api);
        if is_promoted {
            return;
        }
        if let Err(error) = self.home.keep(&self.membership) {
            warn!(
                error = format!("{error:#}"),
                "the next start will not know who serves"
            );
        }
    }
}

/// Waits until the membership on disk is that of a node that serves.
async fn promoted(home: &Home) -> Membership {
    loop {
        if let Ok(Some(membership)) = home.membership()
            && membership.role == Role::Api
        {
            return membership;
        }
        tokio::time::sleep(TURN).await;
    }
}

/// Keeps a copy of everything, fresh within [`COPY_PACE`] of a change.
pub async fn keep_copies(home: &Home, wire: &Wire, route: &Route) -> std::convert::Infallible {
    let path = home.file("copy");
    let mut mark = None;
    let mut said = false;
    loop {
        let pause = match next_copy(wire, route, mark.as_deref()).await {
            Ok(Some((fresh, json))) => {
                let to = path.clone();
                match fairlead_rt::blocking(move || copy::keep(&to, &json)).await {
                    Ok(()) => {
                        (mark, said) = (Some(fresh), false);
                        COPY_PACE
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut said, true) {
                            let reason = error.reason();
                            warn!(reason, %error, "cannot keep a copy of the API");
                        }
                        RETRY * 10
                    }
                }
            }
            Ok(None) => Duration::ZERO,
            Err(_away) => RETRY,
        };
        tokio::time::sleep(pause).await;
    }
}

/// The next copy and its mark; `None` if nothing has changed.
async fn next_copy(
    wire: &Wire,
    route: &Route,
    after: Option<&str>,
) -> Result<Option<(String, Vec<u8>)>, BoxError> {
    let to = *route.now().first().ok_or("nobody serves")?;
    let path = match after {
        Some(mark) => format!("{COPY}?after={mark}"),
        None => COPY.to_owned(),
    };
    let ask = Ask {
        method: &Method::GET,
        path: &path,
        bearer: None,
        body: None,
        deadline: COPY_DEADLINE,
    };
    let (status, json) = wire.ask(to, ask).await?;
    if status == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    let copy: Value = serde_json::from_slice(&json)?;
    let mark = copy["mark"].as_str().ok_or("a copy without a mark")?;
    Ok(Some((mark.to_owned(), json.to_vec())))
}

/// Renews the certificate now and then three times in its life. Counted from now: this machine's clock may be wrong.
pub async fn keep_renewing(
    home: &Home,
    wire: &Wire,
    route: &Route,
    node: &str,
) -> std::convert::Infallible {
    let mut said = false;
    loop {
        let pause = match renew(home, wire, route, node).await {
            Ok(lifetime) => {
                said = false;
                lifetime / 3
            }
            Err(error) => {
                let is_unauthorized = error
                    .downcast_ref::<super::wire::WireError>()
                    .is_some_and(super::wire::WireError::is_unauthorized);
                if is_unauthorized && !std::mem::replace(&mut said, true) {
                    warn!(
                        reason = "CertificateRefused",
                        error = format!("{error:#}"),
                        "this node's certificate is not accepted any more: remove {} and join again with a new token",
                        home.file("membership.json").display()
                    );
                }
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew(home: &Home, wire: &Wire, route: &Route, node: &str) -> Result<Duration> {
    let to = *route.now().first().context("nobody serves")?;
    let request = Request::new(node)?;
    let answer = request.send(wire, to, None).await?;
    enrol::keep_certificate(home, &request.key, &answer.certificate)?;
    wire.show(&answer.certificate, &request.key)?;
    tracing::debug!("renewed this node's certificate");
    Ok(Duration::from_secs(answer.lifetime_seconds.max(3)))
}

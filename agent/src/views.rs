//! What people are shown: every view from the parts' own reports. Nothing here decides anything.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::http::StatusCode;
use fairlead_abi::l2;
use fairlead_api::{CiliumLoadBalancerIPPool, condition::Wanted, view, watch::feed::WatchFault};
use fairlead_model::{ServiceName, Snapshot};
use fairlead_observe::{
    ApiView, ExplainView, GenerationView, HeartbeatView, InterfaceView, IpPoolRow, L2Row,
    ProblemView, ServiceView, StatusView, Timestamp,
    explain::{LocalFacts, explain},
};
use fairlead_rt::clock;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::ListParams};
use tokio::sync::watch;

use crate::{
    api::Refusal,
    config::AgentConfig,
    connection,
    host_arp::HostArp,
    parts::{L2Part, LbPart},
};

pub mod spoken;

/// The API server's part of an answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// Everything that views are made of.
pub struct Views {
    /// What the agent was told.
    pub config: AgentConfig,
    /// When it started.
    pub started: Timestamp,
    /// For what only the API server knows.
    pub client: Client,
    /// The newest complete snapshot; generation 0 before the first.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Whether the API server answers.
    pub api: watch::Receiver<ApiView>,
    /// Interfaces and what is attached to them.
    pub interfaces: watch::Receiver<Vec<InterfaceView>>,
    /// The load balancer.
    pub lb: LbPart,
    /// The announcer.
    pub l2: L2Part,
    /// What this machine's kernel answers for by itself.
    pub host_arp: watch::Receiver<Arc<[HostArp]>>,
}

impl Views {
    /// How the node is doing.
    pub fn status(&self) -> StatusView {
        let snapshot = self.snapshot();
        let api = self.api.borrow().clone();
        let interfaces = self.interfaces.borrow().clone();
        let rows = self.l2();
        let n_vips = snapshot.services.values().map(|s| s.vips().len()).sum();
        let generation = GenerationView {
            seen: Some(snapshot.generation.0).filter(|generation| *generation > 0),
            programmed: self.lb.programmed().map(|generation| generation.0),
        };
        StatusView {
            node: self.config.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            problems: self.problems(&api, &interfaces, &rows, generation),
            api,
            generation,
            n_services: snapshot.services.len(),
            n_vips,
            n_owned: rows.iter().filter(|row| row.is_self).count(),
            heartbeat: Some(heartbeat(&interfaces)),
            interfaces,
            peers: self.l2.peers(),
            reasons: self.lb.reasons(),
        }
    }

    fn problems(
        &self,
        api: &ApiView,
        interfaces: &[InterfaceView],
        rows: &[L2Row],
        generation: GenerationView,
    ) -> Vec<ProblemView> {
        let mut problems = Vec::new();
        let mut add = |subject: String, reason: &str, message: String| {
            problems.push(ProblemView {
                subject,
                reason: reason.to_owned(),
                message,
            });
        };
        if let (false, Some(error)) = (api.is_connected, &api.error) {
            let message = match generation.seen {
                Some(seen) => format!("{error}; working with generation {seen}"),
                None => error.clone(),
            };
            add("API server".to_owned(), "ApiAway", message);
        }
        for interface in interfaces {
            let subject = format!("interface {}", interface.name);
            if let Some(problem) = &interface.problem {
                let reason = interface.reason.as_deref().unwrap_or("NotAttached");
                add(subject, reason, problem.clone());
            } else if !interface.is_up {
                add(subject, "LinkDown", "it has no carrier".to_owned());
            }
        }
        for host_arp in self.host_arp.borrow().iter() {
            let subject = format!("address {}", host_arp.vip);
            add(subject, host_arp.reason(), host_arp.message());
        }
        for row in rows.iter().filter(|row| row.owner.is_none()) {
            let subject = format!("service {}", row.service);
            add(subject, &row.state, format!("{}: {}", row.vip, row.why));
        }
        for problem in &self.lb.problems() {
            let subject = format!("service {}", problem.service);
            add(subject, problem.reason.as_str(), problem.message.clone());
        }
        for (object, error) in self.lb.unreadable().iter() {
            add(object.to_string(), error.reason(), error.to_string());
        }
        problems
    }

    /// Every Service that has or wants a VIP.
    pub fn services(&self) -> Vec<ServiceView> {
        let (snapshot, rows, problems) = (self.snapshot(), self.l2(), self.lb.problems());
        let interfaces = self.interfaces.borrow().clone();
        let unreadable = self.lb.unreadable();
        let found = spoken::Found::new(&rows, &problems, &interfaces, &unreadable);
        let host_arp = Arc::clone(&self.host_arp.borrow());
        let found = found.beside(&host_arp, !self.config.is_forwarding);
        let each = snapshot.services.values().map(|service| {
            let own = found.rows(&service.name);
            let owner = own.iter().find(|row| row.owner.is_some());
            let conditions = found.judge(&snapshot, service);
            ServiceView {
                namespace: service.name.namespace().to_owned(),
                name: service.name.name().to_owned(),
                vips: service.vips(),
                owner: owner.and_then(|row| row.owner.clone()),
                frontends: self.lb.frontends(service, &interfaces),
                conditions: conditions.iter().map(spoken::view).collect(),
            }
        });
        each.collect()
    }

    /// Who answers for which VIP.
    pub fn l2(&self) -> Vec<L2Row> {
        self.l2.rows()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// What this node says on objects; nothing before it has seen a snapshot, programmed it, and tried every interface. A node that
    /// cannot attach anywhere has all the more to say.
    pub fn spoken(&self) -> BTreeMap<ServiceName, Vec<Wanted>> {
        let is_tried = |i: &InterfaceView| i.xdp != "none" || i.problem.is_some();
        let is_new = self.snapshot.borrow().generation.0 == 0
            || self.lb.programmed().is_none()
            || !self.interfaces.borrow().iter().all(is_tried);
        if is_new {
            return BTreeMap::new();
        }
        let (snapshot, rows, problems) = (self.snapshot(), self.l2(), self.lb.problems());
        let interfaces = self.interfaces.borrow().clone();
        let unreadable = self.lb.unreadable();
        let found = spoken::Found::new(&rows, &problems, &interfaces, &unreadable);
        let host_arp = Arc::clone(&self.host_arp.borrow());
        let found = found.beside(&host_arp, !self.config.is_forwarding);
        spoken::spoken(&self.config.node, &snapshot, &found)
    }

    /// Pools, from the API server.
    ///
    /// # Errors
    /// The API server's.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn ip_pools(&self) -> Result<Vec<IpPoolRow>, Refusal> {
        let pools: Api<CiliumLoadBalancerIPPool> = Api::all(self.client.clone());
        let list = tokio::time::timeout(DEADLINE, pools.list(&ListParams::default())).await;
        let why = match list {
            Ok(Ok(list)) => {
                let mut rows: Vec<IpPoolRow> = list.items.iter().map(view::ip_pool_row).collect();
                rows.sort_by(|a, b| a.name.cmp(&b.name));
                return Ok(rows);
            }
            Ok(Err(error)) if WatchFault::of_call(&error) == WatchFault::Forbidden => {
                let why = connection::brief(&error);
                let reason = WatchFault::Forbidden.reason();
                tracing::error!(reason, error = why, "may not list pools for who asks");
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    reason,
                    format!("pools are known to the API server only, and it refuses: {why}"),
                    "grant the agent `list` on ciliumloadbalancerippools, as deploy/plain/rbac.yaml does",
                ));
            }
            Ok(Err(error)) => connection::brief(&error),
            Err(_elapsed) => format!("no answer within {} s", DEADLINE.as_secs()),
        };
        Err(Refusal::new(
            StatusCode::BAD_GATEWAY,
            "ApiAway",
            format!("pools are known to the API server only, and asking it failed: {why}"),
            "`fairlead status` says since when it is away",
        ))
    }

    /// The chain of one Service. While the API server is away, the last snapshot stands in for it.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn explain(&self, name: &ServiceName) -> ExplainView {
        let now = Timestamp::from_system(clock::wall());
        let snapshot = self.snapshot();
        let interfaces = self.interfaces.borrow().clone();
        let service = snapshot.services.get(name);
        let objects: Api<Service> = Api::namespaced(self.client.clone(), name.namespace());
        let asked = tokio::time::timeout(DEADLINE, objects.get_opt(name.name())).await;
        let object = match asked {
            Ok(Ok(object)) => object,
            Ok(Err(_)) | Err(_) => service.map(stand_in),
        };
        let pools = self.ip_pools().await.ok();
        let pools = pools.map(|rows| rows.into_iter().map(|row| row.name).collect());
        let mut l2 = self.l2();
        l2.retain(|row| row.service == name.to_string());
        let mut facts = view::facts(name, object.as_ref(), &snapshot, pools, l2);
        facts.local = Some(LocalFacts {
            node: self.config.node.to_string(),
            frontends: service
                .map(|service| self.lb.frontends(service, &interfaces))
                .unwrap_or_default(),
            interfaces,
            answering: self.l2.answering(),
            is_forwarding: self.config.is_forwarding,
        });
        explain(&facts, now)
    }

    /// All metrics as text.
    pub fn metrics(&self) -> String {
        self.config.metrics.encode()
    }

    /// What is missing before the node does its work.
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.snapshot.borrow().generation.0 == 0 {
            return Some("the API server has not sent its lists yet");
        }
        if self.lb.programmed().is_none() {
            return Some("nothing is programmed yet");
        }
        let interfaces = self.interfaces.borrow();
        interfaces
            .iter()
            .all(|interface| interface.xdp == "none")
            .then_some("no program is attached to any interface")
    }
}

fn heartbeat(interfaces: &[InterfaceView]) -> HeartbeatView {
    HeartbeatView {
        port: l2::HEARTBEAT_PORT,
        groups: vec![l2::HEARTBEAT_GROUP4.into(), l2::HEARTBEAT_GROUP6.into()],
        interfaces: interfaces.iter().map(|i| i.name.clone()).collect(),
    }
}

/// An object with what the last snapshot knows.
fn stand_in(service: &fairlead_model::Service) -> Service {
    let type_ = if service.is_load_balancer {
        "LoadBalancer"
    } else {
        "ClusterIP"
    };
    let mut object = Service::default();
    object.spec.get_or_insert_default().type_ = Some(type_.to_owned());
    object
}

//! Whom to ask: the agent on this machine, or the API server.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fairlead_api::{CiliumLoadBalancerIPPool, names, view, watch::SnapshotSource};
use fairlead_model::{ServiceName, Snapshot};
use fairlead_observe::{Client, ExplainView, IpPoolRow, L2Row, Timestamp, explain::explain};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Service};
use kube::{
    Api, ResourceExt as _,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio_util::sync::CancellationToken;

use crate::error::CliError;

/// How long the API server may take to send its lists.
const LISTS: Duration = Duration::from_secs(10);

/// Whom to ask.
pub enum Source {
    /// An agent: it knows everything.
    Agent(Client),
    /// The API server: it knows the objects, not what the nodes do.
    Api(kube::Client),
}

impl Source {
    /// Whom the flag names; without one, the agent that the environment names, else the one on this machine.
    ///
    /// # Errors
    /// [`CliError::TwoSources`], [`CliError::Agent`], [`CliError::Kubeconfig`], [`CliError::Connection`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn choose(
        agent: Option<String>,
        kubeconfig: Option<PathBuf>,
        environment: Option<String>,
    ) -> Result<Self, CliError> {
        match (agent, kubeconfig) {
            (Some(_), Some(_)) => Err(CliError::TwoSources),
            (None, Some(path)) => Ok(Self::Api(client(&path).await?)),
            (agent, None) => Ok(Self::Agent(Client::new(agent.or(environment).as_deref())?)),
        }
    }

    /// The agent, where nobody else can answer.
    ///
    /// # Errors
    /// [`CliError::NeedsAgent`].
    pub const fn agent(&self) -> Result<&Client, CliError> {
        match self {
            Self::Agent(client) => Ok(client),
            Self::Api(_) => Err(CliError::NeedsAgent),
        }
    }

    /// The API server, where nobody else can answer.
    ///
    /// # Errors
    /// [`CliError::NeedsApi`].
    pub const fn api(&self) -> Result<&kube::Client, CliError> {
        match self {
            Self::Api(client) => Ok(client),
            Self::Agent(_) => Err(CliError::NeedsApi),
        }
    }

    /// Pools in the order of their names.
    ///
    /// # Errors
    /// [`CliError::Agent`], [`CliError::Api`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn ip_pools(&self) -> Result<Vec<IpPoolRow>, CliError> {
        match self {
            Self::Agent(client) => Ok(client.ip_pools().await?),
            Self::Api(client) => pools(client).await,
        }
    }

    /// VIPs in order.
    ///
    /// # Errors
    /// [`CliError::Agent`], [`CliError::Api`], [`CliError::ApiSilent`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn l2(&self) -> Result<Vec<L2Row>, CliError> {
        match self {
            Self::Agent(client) => Ok(client.l2().await?),
            Self::Api(client) => {
                let (snapshot, leases) = (snapshot(client).await?, leases(client).await?);
                let services = snapshot.services.values();
                let mut rows: Vec<L2Row> = services
                    .filter(|service| {
                        snapshot
                            .l2_policies
                            .values()
                            .any(|p| view::selects(p, service))
                    })
                    .flat_map(|service| view::lease_rows(service, &leases))
                    .collect();
                rows.sort_by_key(|row| row.vip);
                Ok(rows)
            }
        }
    }

    /// The chain of one Service.
    ///
    /// # Errors
    /// [`CliError::Agent`], [`CliError::Api`], [`CliError::ApiSilent`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn explain(
        &self,
        name: &ServiceName,
        now: Timestamp,
    ) -> Result<ExplainView, CliError> {
        let client = match self {
            Self::Agent(client) => {
                return Ok(client.explain(name.namespace(), name.name()).await?);
            }
            Self::Api(client) => client,
        };
        let services: Api<Service> = Api::namespaced(client.clone(), name.namespace());
        let object = services
            .get_opt(name.name())
            .await
            .map_err(api("services"))?;
        let (snapshot, leases) = (snapshot(client).await?, leases(client).await?);
        let pools = pools(client)
            .await?
            .into_iter()
            .map(|pool| pool.name)
            .collect();
        let service = snapshot.services.get(name);
        let l2 = service
            .map(|service| view::lease_rows(service, &leases))
            .unwrap_or_default();
        let facts = view::facts(name, object.as_ref(), &snapshot, Some(pools), l2);
        Ok(explain(&facts, now))
    }
}

/// A client of the API server that the kubeconfig names.
pub(crate) async fn client(path: &Path) -> Result<kube::Client, CliError> {
    let bad = |source| CliError::Kubeconfig {
        path: PathBuf::from(path),
        source,
    };
    let file = Kubeconfig::read_from(path).map_err(bad)?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(bad)?;
    kube::Client::try_from(config).map_err(|error| CliError::Connection(Box::new(error)))
}

fn api(what: &'static str) -> impl FnOnce(kube::Error) -> CliError {
    move |source| CliError::Api {
        what,
        source: Box::new(source),
    }
}

async fn pools(client: &kube::Client) -> Result<Vec<IpPoolRow>, CliError> {
    let pools: Api<CiliumLoadBalancerIPPool> = Api::all(client.clone());
    let list = pools.list(&ListParams::default()).await;
    let list = list.map_err(api("ciliumloadbalancerippools"))?;
    let mut rows: Vec<IpPoolRow> = list.items.iter().map(view::ip_pool_row).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

/// L2 Leases by name, of all namespaces: Cilium keeps them beside its agent, wherever that is.
async fn leases(client: &kube::Client) -> Result<BTreeMap<String, Lease>, CliError> {
    let leases: Api<Lease> = Api::all(client.clone());
    let list = leases
        .list(&ListParams::default())
        .await
        .map_err(api("leases"))?;
    let ours = list
        .items
        .into_iter()
        .map(|lease| (lease.name_any(), lease));
    Ok(ours
        .filter(|(name, _)| name.starts_with(names::LEASE_PREFIX))
        .collect())
}

async fn snapshot(client: &kube::Client) -> Result<Arc<Snapshot>, CliError> {
    let stop = CancellationToken::new();
    let source = SnapshotSource::new(client);
    let ready = tokio::time::timeout(LISTS, source.ready(&stop)).await;
    let ready = ready.ok().flatten();
    let (snapshots, _driver) = ready.ok_or(CliError::ApiSilent(LISTS))?;
    let newest = snapshots.borrow();
    Ok(Arc::clone(&newest))
}

#[cfg(test)]
mod tests {
    use super::Source;
    use crate::CliError;

    #[tokio::test]
    async fn a_flag_beats_the_environment_and_two_flags_are_one_too_many() {
        let kubeconfig = || Some("/nonexistent/config".into());
        let agent = || Some("http://127.0.0.1:1".to_owned());
        let chosen = Source::choose(None, kubeconfig(), agent()).await;
        assert!(matches!(chosen, Err(CliError::Kubeconfig { .. })));
        let chosen = Source::choose(agent(), kubeconfig(), None).await;
        assert!(matches!(chosen, Err(CliError::TwoSources)));
        let chosen = Source::choose(None, None, agent()).await;
        assert!(matches!(chosen, Ok(Source::Agent(_))));
    }
}

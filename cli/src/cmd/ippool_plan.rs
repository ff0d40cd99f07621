//! `fairlead ippool plan`: what a changed manifest of pools would do to Services, without doing it.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use fairlead_api::{AddressReservation, CiliumLoadBalancerIPPool, names};
use fairlead_lb_ipam::{
    Inputs, Settings,
    alloc::InUse,
    controller,
    forecast::{Fate, Forecast, forecast},
    request,
};
use fairlead_observe::{Render, Timestamp, text};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::{Api, Client, Resource, ResourceExt as _, api::ListParams};
use serde::{Deserialize as _, Serialize, de::DeserializeOwned};

use super::{Context, Output};
use crate::error::CliError;

/// `fairlead ippool plan -f FILE`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Manifest with the pools as they would be; `-` reads standard input. Pools that it does not name stay as they are
    #[arg(short, long, value_name = "FILE", required_unless_present = "delete")]
    pub filename: Option<PathBuf>,
    /// A pool that would be deleted; may be given several times
    #[arg(long, value_name = "POOL")]
    pub delete: Vec<String>,
}

/// Asks the API server, computes and renders; exit code 1 if any Service would lose an address.
///
/// # Errors
/// [`CliError::NeedsApi`], [`CliError::Api`], [`CliError::File`], [`CliError::Manifest`].
///
/// # Cancel safety
/// Nothing is changed.
pub async fn run(context: &Context, args: &Args) -> Result<Output, CliError> {
    let client = context.source.api()?;
    let changed = match &args.filename {
        Some(path) => pools(path, &read(path)?)?,
        None => Vec::new(),
    };
    let inputs = inputs(client, &changed, &args.delete).await?;
    let forecast = forecast(inputs);
    let exit_code = u8::from(forecast.loses_any());
    let view = PlanView::of(&forecast);
    Ok(Output {
        exit_code,
        ..context.output(&view)?
    })
}

/// The file's text, or standard input's.
///
/// # Errors
/// [`CliError::File`].
pub(super) fn read(path: &PathBuf) -> Result<String, CliError> {
    let file = |source| CliError::File {
        path: path.clone(),
        source,
    };
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(file)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(file)
}

/// Every document of a YAML text that is not empty.
///
/// # Errors
/// [`CliError::Manifest`] with the number of the document.
pub(super) fn documents(path: &Path, text: &str) -> Result<Vec<serde_norway::Value>, CliError> {
    let mut found = Vec::new();
    for (idx, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let value = serde_norway::Value::deserialize(document);
        let value = value.map_err(|e| manifest(path, idx, e.to_string()))?;
        match value
            .get("items")
            .and_then(serde_norway::Value::as_sequence)
        {
            Some(items) => found.extend(items.iter().cloned()),
            None if value.is_null() => {}
            None => found.push(value),
        }
    }
    Ok(found)
}

pub(super) fn manifest(path: &Path, idx: usize, problem: String) -> CliError {
    CliError::Manifest {
        path: path.to_owned(),
        document: idx + 1,
        problem,
    }
}

fn pools(path: &Path, text: &str) -> Result<Vec<CiliumLoadBalancerIPPool>, CliError> {
    let mut found = Vec::new();
    for (idx, value) in documents(path, text)?.into_iter().enumerate() {
        let kind = value
            .get("kind")
            .and_then(|k| k.as_str())
            .unwrap_or_default();
        // A file may hold more than pools; the rest has no part in this.
        if kind != "CiliumLoadBalancerIPPool" {
            continue;
        }
        let pool: CiliumLoadBalancerIPPool =
            serde_norway::from_value(value).map_err(|e| manifest(path, idx, e.to_string()))?;
        if pool.metadata.name.is_none() {
            return Err(manifest(path, idx, "metadata.name is missing".to_owned()));
        }
        found.push(pool);
    }
    if found.is_empty() {
        let problem = "no CiliumLoadBalancerIPPool in it".to_owned();
        return Err(manifest(path, 0, problem));
    }
    Ok(found)
}

/// The cluster as it is, with the pools as they would be.
async fn inputs(
    client: &Client,
    changed: &[CiliumLoadBalancerIPPool],
    deleted: &[String],
) -> Result<Inputs, CliError> {
    let mut pools: Vec<CiliumLoadBalancerIPPool> =
        list(client, "ciliumloadbalancerippools").await?;
    for name in deleted {
        if !pools.iter().any(|p| p.name_any() == *name) {
            return Err(CliError::NoPool(name.clone()));
        }
    }
    pools.retain(|p| !deleted.contains(&p.name_any()));
    for new in changed {
        match pools.iter_mut().find(|p| p.name_any() == new.name_any()) {
            Some(pool) => {
                pool.spec = new.spec.clone();
                pool.metadata
                    .annotations
                    .clone_from(&new.metadata.annotations);
            }
            // Without a time of creation it is younger than any other, as it would be.
            None => pools.push(new.clone()),
        }
    }
    let services: Vec<Service> = list(client, "services").await?;
    let nodes: Vec<Node> = list(client, "nodes").await?;
    let reservations: Vec<AddressReservation> = match list(client, "addressreservations").await {
        Ok(found) => found,
        // Its kind need not be installed.
        Err(CliError::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 404) => {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let in_use: Vec<InUse> = nodes.iter().flat_map(controller::state::in_use).collect();
    let services: Vec<_> = services
        .iter()
        .filter_map(|s| request::service(s).ok())
        .collect();
    let has_answer = |s: &fairlead_lb_ipam::alloc::ServiceInput| s.condition.is_some();
    Ok(Inputs {
        // What the operator serves shows in the conditions it wrote; Services that it said nothing about are none of its own,
        // unless it has said nothing at all yet.
        settings: Settings {
            bgp: true,
            l2: true,
            ..Settings::default()
        },
        services: if services.iter().any(has_answer) {
            services.into_iter().filter(has_answer).collect()
        } else {
            services
        },
        pools: pools.iter().map(request::pool).collect(),
        reservations: reservations.iter().map(request::reservation).collect(),
        in_use,
        former: Vec::new(),
    })
}

async fn list<K>(client: &Client, what: &'static str) -> Result<Vec<K>, CliError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let listed = Api::<K>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let api = |source| CliError::Api {
        what,
        source: Box::new(source),
    };
    Ok(listed.map_err(api)?.items)
}

/// What is shown.
#[derive(Debug, Serialize)]
struct PlanView {
    services: Vec<ServiceRow>,
    pools: Vec<PoolRow>,
    warnings: Vec<Warning>,
    n_loses: usize,
    n_moves: usize,
    n_gains: usize,
    n_keeps: usize,
}

#[derive(Debug, Serialize)]
struct ServiceRow {
    service: String,
    fate: &'static str,
    before: Vec<String>,
    after: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Debug, Serialize)]
struct PoolRow {
    pool: String,
    total: String,
    used: String,
    available: String,
}

#[derive(Debug, Serialize)]
struct Warning {
    pool: String,
    says: String,
}

impl PlanView {
    fn of(forecast: &Forecast) -> Self {
        let count = |fate| forecast.services.iter().filter(|s| s.fate == fate).count();
        let text = |ips: &[std::net::IpAddr]| ips.iter().map(ToString::to_string).collect();
        let services = forecast.services.iter().map(|s| ServiceRow {
            service: s.service.to_string(),
            fate: s.fate.word(),
            before: text(&s.before),
            after: text(&s.after),
            why: s.why.clone(),
        });
        let pools = forecast.counts.iter().map(|(pool, counts)| PoolRow {
            pool: pool.clone(),
            total: counts.total.to_string(),
            used: counts.used.to_string(),
            available: counts.available.to_string(),
        });
        let warnings = forecast.warnings.iter().map(|(pool, says)| Warning {
            pool: pool.clone(),
            says: says.clone(),
        });
        Self {
            services: services.collect(),
            pools: pools.collect(),
            warnings: warnings.collect(),
            n_loses: count(Fate::Loses),
            n_moves: count(Fate::Moves),
            n_gains: count(Fate::Gains),
            n_keeps: count(Fate::Keeps),
        }
    }
}

impl Render for PlanView {
    fn table(&self, _: Timestamp) -> String {
        let shown = |ips: &[String]| match ips {
            [] => "-".to_owned(),
            ips => ips.join(","),
        };
        // Those that keep what they have are a number below: they may be thousands.
        let touched = self
            .services
            .iter()
            .filter(|s| s.fate != Fate::Keeps.word());
        let rows: Vec<[String; 5]> = touched
            .map(|s| {
                [
                    s.service.clone(),
                    s.fate.to_owned(),
                    shown(&s.before),
                    shown(&s.after),
                    s.why.clone().unwrap_or_default(),
                ]
            })
            .collect();
        let mut out = String::new();
        if !rows.is_empty() {
            out += &text::columns(&["SERVICE", "FATE", "HAS", "WOULD HAVE", "WHY"], rows);
            out.push('\n');
        }
        let pools = self.pools.iter().map(|p| {
            [
                p.pool.clone(),
                p.total.clone(),
                p.used.clone(),
                p.available.clone(),
            ]
        });
        out += &text::columns(&["POOL", "TOTAL", "USED", "FREE"], pools);
        for warning in &self.warnings {
            out.extend(["\n", &warning.pool, ": ", &warning.says, "\n"]);
        }
        let sums = format!(
            "\n{} lose an address, {} move, {} gain, {} stay as they are.\n",
            self.n_loses, self.n_moves, self.n_gains, self.n_keeps
        );
        out + &sums
    }
}

/// What the annotation is called that replaces other controllers' pool annotations.
pub(super) const IP_POOL: &str = names::annotation::IP_POOL;

//! The order of things: check what can be checked, open the API, start operator and agent, apply the manifests; stop in reverse.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use fairlead_agent::{AgentConfig, config, interfaces};
use fairlead_apiserver::{Config, Server};
use fairlead_model::NodeName;
use fairlead_netlink::Netlink;
use fairlead_rt::{BoxError, CancellationToken, Stages, Supervisor};
use kube::Client;
use tracing::{info, warn};

use crate::{args::Args, join, manifests, register};

/// Handing over addresses takes about a second; the rest is allowance for a slow disk.
const AGENT_GRACE: Duration = Duration::from_secs(10);
const OPERATOR_GRACE: Duration = Duration::from_secs(5);
const API_GRACE: Duration = Duration::from_secs(5);

/// Runs until `stop` fires or a part fails.
///
/// # Errors
/// The first failure, with its causes: an unknown interface, a busy port, missing rights, ...
///
/// # Cancel safety
/// Dropping the future stops everything at once, without handing addresses over; forwarding stays in the kernel.
pub async fn run(args: Args, stop: CancellationToken) -> Result<()> {
    let agent = agent_config(&args)?;
    // Before anything is made: a misspelt interface should leave no trace.
    interfaces::resolve(Netlink::new(), &args.interfaces).await?;
    match (&args.join, &args.kubeconfig) {
        (Some(url), Some(kubeconfig)) => {
            let (client, server) = join::remote(url, kubeconfig).await?;
            join_other(&args, agent, client, server, stop).await
        }
        _ => serve_own(&args, agent, stop).await,
    }
}

fn agent_config(args: &Args) -> Result<AgentConfig> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => config::hostname()?,
    };
    let node = NodeName::new(&name.to_lowercase()).context("--node-name")?;
    let mut agent = AgentConfig::new(node);
    agent.interfaces.clone_from(&args.interfaces);
    agent.pin_dir.clone_from(&args.bpffs);
    agent.state_dir.clone_from(&args.state_dir);
    agent.acceleration = config::acceleration(&args.acceleration).context("--acceleration")?;
    if let Some(socket) = &args.socket {
        agent.socket.clone_from(socket);
    }
    Ok(agent)
}

async fn serve_own(args: &Args, mut agent: AgentConfig, stop: CancellationToken) -> Result<()> {
    let config = api_config(args, &agent.node).await?;
    let server = fairlead_rt::blocking(move || Server::open(config))
        .await
        .context("open the API")?;
    let local = loopback(server.local_addr());
    let (client, url) = join::client(server.kubeconfig(), Some(&local)).await?;
    agent.api_server = url;
    let kubeconfig = args.state_dir.join("kubeconfig");
    info!(
        listen = %server.local_addr(),
        "the API is open: kubectl --kubeconfig {} get services",
        kubeconfig.display()
    );
    let metrics = agent.metrics.clone();
    let mut stages = Stages::new("appliance", stop);
    add_agent(&mut stages, args, agent, client.clone());
    let operator = fairlead_operator::Config::appliance(metrics);
    let operator_client = client.clone();
    stages.add("operator", OPERATOR_GRACE, |stop| {
        fairlead_operator::run(operator, operator_client, stop)
    });
    if let Some(dir) = args.manifests.clone() {
        stages.add("manifests", OPERATOR_GRACE, |stop| async move {
            apply(&client, &dir, &stop).await?;
            stop.cancelled().await;
            Ok::<_, BoxError>(())
        });
    }
    stages.add("api", API_GRACE, |stop| server.run(stop));
    Ok(stages.run().await?)
}

async fn join_other(
    args: &Args,
    mut agent: AgentConfig,
    client: Client,
    server: String,
    stop: CancellationToken,
) -> Result<()> {
    info!(server, "joining");
    agent.api_server = server;
    let mut stages = Stages::new("appliance", stop);
    if let Some(dir) = args.manifests.clone() {
        let client = client.clone();
        stages.add("manifests", OPERATOR_GRACE, |stop| async move {
            apply(&client, &dir, &stop).await?;
            stop.cancelled().await;
            Ok::<_, BoxError>(())
        });
    }
    add_agent(&mut stages, args, agent, client);
    Ok(stages.run().await?)
}

/// The agent and this machine's Node object.
fn add_agent(stages: &mut Stages, args: &Args, agent: AgentConfig, client: Client) {
    let interfaces = args.interfaces.clone();
    stages.add("agent", AGENT_GRACE, |stop| async move {
        let mut tasks = Supervisor::new("node", stop);
        let node = agent.node.clone();
        tasks.spawn(
            "register",
            register::keep(client.clone(), node, interfaces, tasks.token()),
        );
        tasks.spawn("agent", fairlead_agent::run(agent, client, tasks.token()));
        tasks.first_exit().await
    });
}

/// A folder that cannot be read ends the process: it was asked for. Refused documents are logged, and nothing else is disturbed.
async fn apply(client: &Client, dir: &Path, stop: &CancellationToken) -> Result<()> {
    let applied = tokio::select! {
        applied = manifests::apply(client, dir) => applied?,
        () = stop.cancelled() => return Ok(()),
    };
    info!(
        created = applied.n_created,
        changed = applied.n_changed,
        unchanged = applied.n_same,
        refused = applied.bad.len(),
        "applied the manifests in {}",
        dir.display()
    );
    if applied.n_created + applied.n_changed + applied.n_same + applied.bad.len() == 0 {
        warn!("{} holds no .yaml, .yml or .json file", dir.display());
    }
    Ok(())
}

/// The embedded API: reachable under every address of the LAN interfaces.
async fn api_config(args: &Args, node: &NodeName) -> Result<Config> {
    let netlink = Netlink::new();
    let links = interfaces::resolve(netlink, &args.interfaces).await?;
    let addresses = netlink.addresses().await.context("list addresses")?;
    let own = addresses
        .iter()
        .filter(|a| links.iter().any(|l| l.index == a.ifindex));
    let own: Vec<_> = own.filter(|a| !a.is_autojoin).map(|a| a.ip).collect();
    let mut config = Config::new(args.state_dir.join("api"), args.listen);
    config.sans = own
        .iter()
        .map(ToString::to_string)
        .chain([node.to_string()])
        .collect();
    config.kubeconfig_path = Some(args.state_dir.join("kubeconfig"));
    if args.listen.ip().is_unspecified()
        && let Some(ip) = own.iter().find(|ip| ip.is_ipv4()).or_else(|| own.first())
    {
        let reachable = SocketAddr::new(*ip, args.listen.port());
        config.advertise_url = Some(format!("https://{reachable}"));
    }
    let crds: serde_json::Result<Vec<_>> = fairlead_api::crds()
        .iter()
        .map(serde_json::to_value)
        .collect();
    config.crds = crds.context("write our CRDs")?;
    Ok(config)
}

/// How this process itself dials its API: not over an interface that may lose its link.
fn loopback(listen: SocketAddr) -> String {
    let mut dialled = listen;
    if listen.ip().is_unspecified() {
        let ip = if listen.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        dialled.set_ip(ip);
    }
    format!("https://{dialled}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_own_api_is_dialled_over_loopback() {
        assert_eq!(
            super::loopback("0.0.0.0:6443".parse().unwrap()),
            "https://127.0.0.1:6443"
        );
        assert_eq!(
            super::loopback("[::]:6443".parse().unwrap()),
            "https://[::1]:6443"
        );
        assert_eq!(
            super::loopback("192.0.2.1:1".parse().unwrap()),
            "https://192.0.2.1:1"
        );
    }
}

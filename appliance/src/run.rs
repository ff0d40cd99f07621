//! The order of things: check what can be checked, open the API or join one, start the agent, apply the manifests; stop in reverse.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use fairlead_agent::{AgentConfig, config, interfaces};
use fairlead_api::watch::Kept;
use fairlead_apiserver::{Config, Server};
use fairlead_model::NodeName;
use fairlead_netlink::Netlink;
use fairlead_rt::{BoxError, CancellationToken, Metrics, Stages, Supervisor};
use kube::Client;
use tracing::{info, warn};

use crate::{
    args::Args,
    cluster::{
        control::{self, Control},
        copy::{self, CopyError},
        enrol,
        home::{Home, Membership, Role},
        link::{self, Route},
        promote,
        token::JoinToken,
        wire::Wire,
    },
    join, manifests, register,
};

/// Handing over addresses takes about a second; the rest is allowance for a slow disk.
const AGENT_GRACE: Duration = Duration::from_secs(10);
const OPERATOR_GRACE: Duration = Duration::from_secs(5);
/// Operator and API.
const CONTROL_GRACE: Duration = Duration::from_secs(10);
/// How long other nodes are asked whether they serve, before this one does.
const FENCE_WAIT: Duration = Duration::from_secs(1);

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
    let home = Home::new(&args.state_dir);
    if let (Some(url), Some(kubeconfig)) = (&args.join, &args.kubeconfig) {
        let (client, server) = join::remote(url, kubeconfig).await?;
        return join_other(&args, agent, client, server, stop).await;
    }
    let config = api_config(&args, &agent.node).await?;
    let begun = match (home.membership()?, &args.join, &args.token_file) {
        (Some(membership), ..) => begin_again(&home, config, membership).await?,
        (None, Some(url), Some(token)) => {
            let token = JoinToken::read(token)?;
            let joined = enrol::join(&home, agent.node.as_str(), url, &token, &stop).await?;
            let Some(membership) = joined else {
                return Ok(());
            };
            begin_as_member(&home, config, membership)?
        }
        (None, ..) => begin_with_api(&home, config, None).await?,
    };
    together(&args, agent, home, begun, stop).await
}

/// What a node of a group begins with.
struct Begun {
    membership: Membership,
    wire: Wire,
    config: Config,
    /// If it serves.
    server: Option<Server>,
}

async fn begin_again(home: &Home, config: Config, mut membership: Membership) -> Result<Begun> {
    if membership.role == Role::Member {
        return begin_as_member(home, config, membership);
    }
    // Before anything of ours is served: perhaps somebody took over while this node was away.
    let wire = match home.read("ca.crt")? {
        Some(ca) => Wire::trusting(&ca)?,
        None => return begin_with_api(home, config, Some(membership)).await,
    };
    let candidates = membership.candidates(&config.node);
    let answers = control::ask_around(&wire, &candidates, FENCE_WAIT).await;
    let later = answers.into_iter().max_by(|(_, a), (_, b)| a.cmp(b));
    match later {
        Some((at, fence)) if fence > membership.fence && fence.node != config.node => {
            warn!(
                reason = "ApiFenced",
                "giving way: {} serves the API, reign {}; this node's was {}",
                fence.node,
                fence.number,
                membership.fence.number
            );
            fairlead_apiserver::copy::set_aside(&home.api_dir(), fence.number)
                .context("set the former store aside")?;
            membership.role = Role::Member;
            membership.fence = fence;
            membership.api = vec![at];
            home.keep(&membership)?;
            begin_as_member(home, config, membership)
        }
        _ => begin_with_api(home, config, Some(membership)).await,
    }
}

fn begin_as_member(home: &Home, config: Config, membership: Membership) -> Result<Begun> {
    Ok(Begun {
        wire: promote::wire(home)?,
        membership,
        config,
        server: None,
    })
}

/// Opens the API and gives its own node a certificate, as every other one has.
async fn begin_with_api(
    home: &Home,
    config: Config,
    membership: Option<Membership>,
) -> Result<Begun> {
    let server = control::open(config.clone()).await?;
    let ca = config.data_dir.join("tls/ca.crt");
    let ca = std::fs::read_to_string(&ca).with_context(|| format!("read {}", ca.display()))?;
    home.write("ca.crt", &ca)?;
    let request = enrol::Request::new(&config.node)?;
    let certificate = server.certificate(&request.body)?;
    enrol::keep_certificate(home, &request.key, &certificate)?;
    let wire = promote::wire(home)?;
    let at = loopback(server.local_addr());
    let own = Membership::new(Role::Api, server.fence().clone(), vec![at]);
    let membership = Membership {
        peers: membership.map(|m| m.peers).unwrap_or_default(),
        ..own
    };
    home.keep(&membership)?;
    info!(
        listen = %server.local_addr(),
        "the API is open: kubectl --kubeconfig {} get services",
        config.kubeconfig_path.clone().unwrap_or_default().display()
    );
    Ok(Begun {
        membership,
        wire,
        config,
        server: Some(server),
    })
}

/// Agent and control side by side. The agent stops first: its API stays until it has handed its addresses over.
async fn together(
    args: &Args,
    mut agent: AgentConfig,
    home: Home,
    begun: Begun,
    stop: CancellationToken,
) -> Result<()> {
    let route = Route::default();
    route.set(begun.membership.api.clone());
    let client = link::client(&begun.wire, &route);
    agent.api_server = match (&begun.server, &args.join) {
        (Some(server), _) => format!("https://{}", loopback(server.local_addr())),
        (None, Some(url)) => url.clone(),
        (None, None) => "another appliance".to_owned(),
    };
    agent.kept = Some(kept(&home));
    let metrics = agent.metrics.clone();
    let beside = beside(metrics);
    let control = Control {
        node: agent.node.to_string(),
        home,
        wire: begun.wire,
        route,
        client: client.clone(),
        kubeconfig: args.state_dir.join("kubeconfig"),
        config: begun.config,
        beside,
        membership: begun.membership,
    };
    let mut stages = Stages::new("appliance", stop);
    add_agent(&mut stages, args, agent, client.clone(), Some(args.listen));
    if let Some(dir) = args.manifests.clone() {
        stages.add("manifests", OPERATOR_GRACE, |stop| async move {
            apply(&client, &dir, &stop).await?;
            stop.cancelled().await;
            Ok::<_, BoxError>(())
        });
    }
    let server = begun.server;
    stages.add("control", CONTROL_GRACE, |stop| control.run(server, stop));
    Ok(stages.run().await?)
}

/// What runs where the API is served.
fn beside(metrics: Metrics) -> control::Beside {
    Box::new(move |stages, client| {
        let operator = fairlead_operator::Config::appliance(metrics.clone());
        let (client, checked) = (client.clone(), client.clone());
        stages.add("operator", OPERATOR_GRACE, |stop| {
            fairlead_operator::run(operator, client, stop)
        });
        let (client, metrics) = (checked, metrics.clone());
        stages.add("health checks", OPERATOR_GRACE, |stop| {
            fairlead_health::run(client, metrics, stop)
        });
    })
}

/// The copy on disk, for an agent whose API server is away.
fn kept(home: &Home) -> Kept {
    let path = home.file("copy");
    Kept::new(move || match copy::read(&path) {
        Ok(copy) => Some(copy::changes(&copy)),
        Err(CopyError::Missing) => None,
        Err(error) => {
            warn!(reason = error.reason(), %error, "ignoring the copy in {}", path.display());
            None
        }
    })
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
    agent.metrics_listen = args.metrics_listen;
    agent.acceleration = config::acceleration(&args.acceleration).context("--acceleration")?;
    if let Some(socket) = &args.socket {
        agent.socket.clone_from(socket);
    }
    Ok(agent)
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
    add_agent(&mut stages, args, agent, client, None);
    Ok(stages.run().await?)
}

/// The agent and this machine's Node object.
fn add_agent(
    stages: &mut Stages,
    args: &Args,
    agent: AgentConfig,
    client: Client,
    api: Option<SocketAddr>,
) {
    let interfaces = args.interfaces.clone();
    stages.add("agent", AGENT_GRACE, |stop| async move {
        let mut tasks = Supervisor::new("node", stop);
        let node = agent.node.clone();
        tasks.spawn(
            "register",
            register::keep(client.clone(), node, interfaces, api, tasks.token()),
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
    config.node = node.to_string();
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
pub(crate) fn loopback(listen: SocketAddr) -> SocketAddr {
    let mut dialled = listen;
    if listen.ip().is_unspecified() {
        let ip = if listen.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        dialled.set_ip(ip);
    }
    dialled
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_own_api_is_dialled_over_loopback() {
        assert_eq!(
            super::loopback("0.0.0.0:6443".parse().unwrap()),
            "127.0.0.1:6443".parse().unwrap()
        );
        assert_eq!(
            super::loopback("[::]:6443".parse().unwrap()),
            "[::1]:6443".parse().unwrap()
        );
        assert_eq!(
            super::loopback("192.0.2.1:1".parse().unwrap()),
            "192.0.2.1:1".parse().unwrap()
        );
    }
}

//! The binary `fairlead-operator`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use fairlead_operator::{Config, args::Cli, crds, gateways, leader, serve};
use fairlead_rt::{BoxError, CancellationToken, Metrics, Supervisor};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = fairlead_rt::logging::init(cli.log_format, "info") {
        // No subscriber, no events: the exit code and the error's own text are all there is.
        drop(std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("{error}\n").as_bytes(),
        ));
        return ExitCode::FAILURE;
    }
    fairlead_rt::root::run(|stop| async move { operate(cli, stop).await.map_err(BoxError::from) })
}

async fn operate(cli: Cli, stop: CancellationToken) -> anyhow::Result<()> {
    let identity = identity();
    let options = cli.options(std::env::vars().collect(), identity)?;
    let client = client(&cli).await?;
    if cli.create_crds {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            installed = crds::install(&client) => installed?,
        }
    }
    let metrics = Metrics::new();
    let config = Config {
        lb_ipam: options.lb_ipam,
        node_ipam: options.node_ipam,
        table_size: options.table_size,
        gateways: gateways::own(),
        metrics: metrics.clone(),
    };
    let mut tasks = Supervisor::new("fairlead-operator", stop);
    let stop = tasks.token();
    if let Some(addr) = options.serve {
        let listener = serve::bind(addr).await?;
        tasks.spawn("http", serve::serve(listener, metrics, stop.clone()));
    }
    let worker = client.clone();
    tasks.spawn("leader", async move {
        let work = |stop| fairlead_operator::run(config, worker, stop);
        let led = leader::lead(client, options.election, stop, work).await;
        led.map_err(BoxError::from)
    });
    tasks.first_exit().await.context("run the operator")
}

async fn client(cli: &Cli) -> anyhow::Result<Client> {
    let config = match &cli.k8s_kubeconfig_path {
        Some(path) => {
            let at = || format!("read {} (--k8s-kubeconfig-path)", path.display());
            let kubeconfig = Kubeconfig::read_from(path).with_context(at)?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(at)?
        }
        None => kube::Config::infer()
            .await
            .context("find the API server: run in a pod, or give --k8s-kubeconfig-path")?,
    };
    Client::try_from(config).context("connect to the API server")
}

/// The pod's name, or the host's and the process's: one per process.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    let host = host.map_or_else(|_| "fairlead-operator".to_owned(), |h| h.trim().to_owned());
    format!("{host}-{}", std::process::id())
}

//! The binary `fairlead-agent`.
#![forbid(unsafe_code)]

use std::{io::Write as _, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use fairlead_agent::{
    args::{CleanupArgs, Cli, Command, DecapArgs, RunArgs},
    cleanup, config, decap,
};
use fairlead_model::NodeName;
use fairlead_rt::{CancellationToken, logging, root::chain};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = logging::init(cli.log_format, logging::DEFAULT_FILTER) {
        return refuse(&error.into());
    }
    match cli.command {
        None => fairlead_rt::root::run(|stop| run(cli.run, stop)),
        Some(Command::Run(args)) => fairlead_rt::root::run(|stop| run(args, stop)),
        Some(Command::Cleanup(args)) => once(clean(args)),
        Some(Command::Decap(args)) => once(unwrap_packets(args)),
    }
}

/// A command that ends by itself tells its error to people, not to a log.
fn once(command: impl Future<Output = Result<()>>) -> ExitCode {
    let mut failure = None;
    let code = fairlead_rt::root::run(|_stop| async {
        failure = command.await.err();
        Ok::<_, anyhow::Error>(())
    });
    failure.map_or(code, |error| refuse(&error))
}

fn refuse(error: &anyhow::Error) -> ExitCode {
    drop(writeln!(
        std::io::stderr(),
        "error: {}",
        chain(error.as_ref())
    ));
    ExitCode::FAILURE
}

async fn run(args: RunArgs, stop: CancellationToken) -> Result<()> {
    let (mut config, kubeconfig) = args.load(std::env::vars().collect())?;
    let (client, server) = client(kubeconfig.as_deref()).await?;
    config.api_server = server;
    fairlead_agent::run(config, client, stop).await
}

async fn client(kubeconfig: Option<&Path>) -> Result<(kube::Client, String)> {
    let mut settings = match kubeconfig {
        Some(path) => {
            let file = kube::config::Kubeconfig::read_from(path)
                .with_context(|| format!("k8s-kubeconfig-path: {}", path.display()))?;
            let options = kube::config::KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(file, &options).await?
        }
        None => kube::Config::incluster()
            .context("no service account is mounted: outside a pod, set --k8s-kubeconfig-path")?,
    };
    settings.connect_timeout = Some(Duration::from_secs(3));
    settings.write_timeout = Some(Duration::from_secs(10));
    let server = settings.cluster_url.to_string();
    Ok((kube::Client::try_from(settings)?, server))
}

async fn clean(args: CleanupArgs) -> Result<()> {
    let name = match args.node_name {
        Some(name) => name,
        None => config::hostname()?,
    };
    let node = NodeName::new(&name.to_lowercase()).context("--node-name")?;
    let socket = args.socket.unwrap_or_else(|| config::socket_of(&node));
    for dir in &args.bpffs {
        let removed = cleanup::cleanup(dir, &socket).await?;
        say(&format!("{}: {removed}", dir.display()))?;
    }
    Ok(())
}

async fn unwrap_packets(args: DecapArgs) -> Result<()> {
    let report = decap::decap(decap::Request {
        vips: args.vips,
        senders: args.senders,
        interfaces: args.interfaces,
        pin_dir: args.bpffs,
        acceleration: config::acceleration(&args.acceleration).context("--acceleration")?,
    })
    .await?;
    say(&report.to_string())
}

fn say(text: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

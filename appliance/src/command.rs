//! Commands that end by themselves. Each returns what it has to say; only `main` writes it.

use anyhow::{Context as _, Result, bail};
use fairlead_model::NodeName;

use crate::{
    args::{Args, Check, Command, TokenCommand, TokenCreate},
    cluster::{
        disk, promote,
        token::{CaHash, JoinToken},
    },
    config::supervise,
    install, join,
};

/// Runs one.
///
/// # Errors
/// What keeps it from being done, with a remedy.
///
/// # Cancel safety
/// That of each command.
pub async fn run(command: Command, args: &Args) -> Result<String> {
    match command {
        Command::Token(TokenCommand::Create(create)) => token_create(args, &create).await,
        Command::Promote => take_over(args).await,
        Command::Check(check) => self::check(&check).await,
        Command::Install(wanted) => install::install(&wanted).await,
        Command::Uninstall(wanted) => install::uninstall(&wanted, args).await,
    }
}

async fn token_create(args: &Args, create: &TokenCreate) -> Result<String> {
    let path = args.state_dir.join("kubeconfig");
    let ca = args.state_dir.join("api/tls/ca.crt");
    let read = |path: &std::path::Path| {
        disk::read(path).with_context(|| format!("read {}", path.display()))
    };
    let (Some(kubeconfig), Some(ca)) = (read(&path)?, read(&ca)?) else {
        bail!(
            "{} holds no API: run this on the machine that serves it, as root, with its --state-dir",
            args.state_dir.display()
        );
    };
    let (client, _) = join::client(&kubeconfig, None).await?;
    let token = JoinToken::random(CaHash::of_pem(&ca)?);
    let now = time::OffsetDateTime::from(fairlead_rt::clock::wall());
    let published = token.publish(client, create.ttl, now);
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), published)
        .await
        .context("the API does not answer: does the appliance run?")??;
    Ok(format!(
        "# A secret; lets machines in until {end}.\n{}\n",
        token.reveal()
    ))
}

async fn check(check: &Check) -> Result<String> {
    let file = check.file.display();
    let text = std::fs::read_to_string(&check.file).with_context(|| format!("read {file}"))?;
    match supervise::problem(&text).await {
        None => Ok(format!("{file} can be used\n")),
        Some(problem) => bail!("{file}: {problem}"),
    }
}

async fn take_over(args: &Args) -> Result<String> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => fairlead_agent::config::hostname()?,
    };
    let node = NodeName::new(&name.to_lowercase()).context("--node-name")?;
    let done = promote::promote(&args.state_dir, node.as_str()).await?;
    let from = if done.has_yielded {
        "the node that served it gave way and lost no write"
    } else {
        "the node that served it does not answer; what it wrote after the copy is lost, and it gives way when it comes back"
    };
    Ok(format!(
        "{node} serves the API from now on, reign {}, {} objects; {from}\n",
        done.fence.number, done.n_objects
    ))
}

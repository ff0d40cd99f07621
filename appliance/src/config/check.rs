//! What can be known of a configuration before it is used.

use fairlead_agent::{config, interfaces};
use fairlead_model::NodeName;
use fairlead_netlink::Netlink;
use fairlead_rt::root::chain;

use crate::{
    args::Args,
    cluster::{enrol, home::Home, token::JoinToken},
    manifests,
};

/// Everything that is wrong, each with its key.
///
/// # Cancel safety
/// Nothing is changed.
pub async fn check(args: &Args) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut note = |key: &str, outcome: anyhow::Result<()>| {
        if let Err(error) = outcome {
            let text = chain(error.as_ref());
            let text = text.trim_start_matches(&format!("--{key}: ")).to_owned();
            wrong.push(format!("{key}: {text}"));
        }
    };
    let resolved = interfaces::resolve(Netlink::new(), &args.interfaces).await;
    note("interface", resolved.map(drop));
    note(
        "acceleration",
        config::acceleration(&args.acceleration).map(drop),
    );
    if let Some(name) = &args.node_name {
        let name = NodeName::new(&name.to_lowercase());
        note("node-name", name.map(drop).map_err(Into::into));
    }
    if let Some(dir) = &args.manifests {
        match manifests::read(dir) {
            Ok((_, bad)) => {
                for bad in bad {
                    note("manifests", Err(anyhow::anyhow!("{bad}")));
                }
            }
            Err(error) => note("manifests", Err(error)),
        }
    }
    if let Some(url) = &args.join {
        note("join", enrol::host_and_port(url).map(drop));
    }
    let membership = Home::new(&args.state_dir).membership();
    if let (Some(file), Ok(None)) = (&args.token_file, &membership) {
        note("token-file", JoinToken::read(file).map(drop));
    }
    note("state-dir", membership.map(drop));
    if let Some(file) = &args.kubeconfig {
        let read = kube::config::Kubeconfig::read_from(file);
        note("kubeconfig", read.map(drop).map_err(Into::into));
    }
    wrong
}

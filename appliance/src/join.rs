//! How a process finds its API: the embedded one over loopback, or another appliance's over the LAN.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// A LAN answers in milliseconds.
const CONNECT: Duration = Duration::from_secs(3);
/// Largest time for sending a request.
const WRITE: Duration = Duration::from_secs(10);

/// A client for the API described by `text`, a kubeconfig.
///
/// # Errors
/// An unreadable kubeconfig.
///
/// # Cancel safety
/// Nothing is changed.
pub async fn client(text: &str, url: Option<&str>) -> Result<(Client, String)> {
    let mut file = Kubeconfig::from_yaml(text).context("read the kubeconfig")?;
    if let Some(url) = url {
        check_url(url)?;
        for cluster in file.clusters.iter_mut().filter_map(|c| c.cluster.as_mut()) {
            cluster.server = Some(url.to_owned());
        }
    }
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .context("use the kubeconfig")?;
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(WRITE);
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).context("make a client of the kubeconfig")?;
    Ok((client, server))
}

/// A client for another appliance's API.
///
/// # Errors
/// Names the file that is missing, the URL that is none.
///
/// # Cancel safety
/// Nothing is changed.
pub async fn remote(url: &str, kubeconfig: &Path) -> Result<(Client, String)> {
    let text = std::fs::read_to_string(kubeconfig).with_context(|| {
        format!(
            "--kubeconfig: read {} (copy it from STATE_DIR/kubeconfig of the first appliance)",
            kubeconfig.display()
        )
    })?;
    client(&text, Some(url))
        .await
        .with_context(|| format!("--kubeconfig {}", kubeconfig.display()))
}

/// Whether it is a URL that can be dialled.
///
/// # Errors
/// Names the flag.
pub fn check_url(url: &str) -> Result<()> {
    if url.starts_with("https://") && url.len() > "https://".len() {
        return Ok(());
    }
    bail!("--join: `{url}` is no URL such as https://192.0.2.11:6443")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{check_url, remote};

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let Err(error) = remote("https://lb1:6443", Path::new("/nonexistent/kubeconfig")).await
        else {
            panic!("there is no such file")
        };
        let text = format!("{error:#}");
        assert!(
            text.contains("/nonexistent/kubeconfig") && text.contains("copy it"),
            "{text}"
        );
        assert!(
            check_url("lb1:6443")
                .unwrap_err()
                .to_string()
                .contains("--join")
        );
    }
}

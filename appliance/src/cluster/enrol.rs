//! Being let in, and having the certificate renewed: a key made here, a certificate made there.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use fairlead_apiserver::{
    Fence,
    member::{JOIN, JoinAnswer, JoinRequest},
};
use fairlead_rt::CancellationToken;
use hyper::Method;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tracing::{info, warn};

use super::{
    disk,
    home::{Home, Membership, Role},
    token::{CaHash, JoinToken},
    wire::{Ask, Wire, WireError},
};

/// One request.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// A key and the request for its certificate.
pub struct Request {
    /// PEM.
    pub key: String,
    /// What is sent.
    pub body: JoinRequest,
}

impl Request {
    /// A new key.
    ///
    /// # Errors
    /// None that a node with a valid name has.
    pub fn new(node: &str) -> Result<Self> {
        let key = KeyPair::generate().context("make a key")?;
        let params = CertificateParams::new(vec![node.to_owned()]);
        let params = params.context("use the node's name in a certificate")?;
        let csr = params.serialize_request(&key).and_then(|csr| csr.pem());
        Ok(Self {
            key: key.serialize_pem(),
            body: JoinRequest {
                node: node.to_owned(),
                csr: csr.context("make a certificate signing request")?,
            },
        })
    }

    /// Asks `to` for the certificate.
    ///
    /// # Errors
    /// [`WireError`].
    ///
    /// # Cancel safety
    /// A certificate may have been made that nobody has.
    pub async fn send(
        &self,
        wire: &Wire,
        to: SocketAddr,
        bearer: Option<&str>,
    ) -> Result<JoinAnswer, WireError> {
        let body = json!(self.body);
        let ask = Ask {
            method: &Method::POST,
            path: JOIN,
            bearer,
            body: Some(&body),
            deadline: DEADLINE,
        };
        let (_, answer) = wire.ask(to, ask).await?;
        serde_json::from_slice(&answer).map_err(|error| WireError::Broken {
            to,
            source: error.into(),
        })
    }
}

/// Joins the group of `token` at `url`, and keeps what it takes to come back without either. An API that is away is asked again.
/// `None` if `stop` fires first.
///
/// # Errors
/// A refusal, a URL that is none, a disk that cannot be written.
///
/// # Cancel safety
/// Nothing is kept by halves: the membership is written last.
pub async fn join(
    home: &Home,
    node: &str,
    url: &str,
    token: &JoinToken,
    stop: &CancellationToken,
) -> Result<Option<Membership>> {
    let (host, port) = host_and_port(url)?;
    let wire = Wire::pinning(token.ca)?;
    let request = Request::new(node)?;
    let mut said = false;
    loop {
        let failure = match tokio::net::lookup_host((host.as_str(), port)).await {
            Ok(found) => {
                let found: Vec<_> = found.collect();
                match first_answer(&request, &wire, &found, token).await {
                    Ok((to, answer)) => {
                        return admitted(home, &request, to, &answer, token).map(Some);
                    }
                    Err(Some(error)) if matches!(error, WireError::Refused { .. }) => {
                        let remedy = if error.is_unauthorized() {
                            "the join token is wrong or has expired: make another with `fairlead appliance token create`"
                        } else {
                            "the node that serves the API does not let this one in"
                        };
                        return Err(anyhow::Error::new(error).context(remedy));
                    }
                    Err(Some(error)) if error.is_foreign() => {
                        return Err(anyhow::Error::new(error)
                            .context("another group serves at --join, or somebody is in between"));
                    }
                    Err(Some(error)) => fairlead_rt::root::chain(&error),
                    Err(None) => format!("{host} has no address"),
                }
            }
            Err(error) => format!("find {host}: {error}"),
        };
        if !std::mem::replace(&mut said, true) {
            warn!(
                reason = "JoinPending",
                error = failure,
                "cannot join {url} yet; trying again"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

async fn first_answer(
    request: &Request,
    wire: &Wire,
    found: &[SocketAddr],
    token: &JoinToken,
) -> Result<(SocketAddr, JoinAnswer), Option<WireError>> {
    let mut last = None;
    for to in found {
        match request.send(wire, *to, Some(&token.bearer())).await {
            Ok(answer) => return Ok((*to, answer)),
            Err(error) => last = Some(error),
        }
    }
    Err(last)
}

/// Keeps everything; the membership last, for without it the rest counts for nothing.
fn admitted(
    home: &Home,
    request: &Request,
    api: SocketAddr,
    answer: &JoinAnswer,
    token: &JoinToken,
) -> Result<Membership> {
    if CaHash::of_pem(&answer.ca_certificate)? != token.ca {
        bail!("{api} sent another CA than the one of the join token");
    }
    home.write("ca.crt", &answer.ca_certificate)?;
    keep_certificate(home, &request.key, &answer.certificate)?;
    hand_over_heartbeat_key(home, answer)?;
    let membership = Membership::new(Role::Member, answer.fence.clone(), vec![api]);
    home.keep(&membership)?;
    let Fence { number, node } = &answer.fence;
    info!(api = %api, "joined: {node} serves the API, reign {number}");
    Ok(membership)
}

/// The heartbeat key, where the agent looks for it.
fn hand_over_heartbeat_key(home: &Home, answer: &JoinAnswer) -> Result<()> {
    let Some(key) = &answer.heartbeat_key else {
        return Ok(());
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(key)
        .context("read the heartbeat key")?;
    let path = home.state_dir().join("heartbeat.key");
    disk::replace(&path, &bytes).with_context(|| format!("write {}", path.display()))
}

/// Key and certificate are one file, so that a crash cannot part them.
///
/// # Errors
/// The disk's.
pub fn keep_certificate(home: &Home, key: &str, certificate: &str) -> Result<()> {
    home.write("node.pem", &format!("{key}\n{certificate}"))
}

/// `https://HOST:PORT`; 6443 where no port is named.
///
/// # Errors
/// Names the flag.
pub fn host_and_port(url: &str) -> Result<(String, u16)> {
    crate::join::check_url(url)?;
    let uri: hyper::Uri = url
        .parse()
        .with_context(|| format!("--join: `{url}` is no URL"))?;
    let host = uri
        .host()
        .with_context(|| format!("--join: `{url}` names no host"))?;
    let host = host.trim_matches(['[', ']']).to_owned();
    Ok((host, uri.port_u16().unwrap_or(6443)))
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn a_url_names_host_and_port() {
        let of = |url: &str| host_and_port(url).unwrap();
        assert_eq!(of("https://lb1:7443"), ("lb1".to_owned(), 7443));
        assert_eq!(of("https://[fd00::1]"), ("fd00::1".to_owned(), 6443));
        assert!(host_and_port("lb1:6443").is_err());
    }
}

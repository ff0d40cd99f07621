//! The key that authenticates heartbeats: a Secret, kept on disk too so that a node comes up while the API server is away.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use fairlead_rt::CancellationToken;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams};
use tracing::{info, warn};

/// Namespace of the Secret.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "fairlead-heartbeat";
/// The entry in its data.
pub const ENTRY: &str = "key";
/// Bytes of a key.
pub const LEN: usize = 32;

/// One API call.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long the API server is waited for where there is a key from before: what the kernel still answers for is adopted within its deadline.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// A heartbeat key. Does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct HeartbeatKey([u8; LEN]);

impl std::fmt::Debug for HeartbeatKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeartbeatKey(..)")
    }
}

impl HeartbeatKey {
    /// The secret bytes.
    pub const fn reveal(&self) -> &[u8; LEN] {
        &self.0
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// The key of the Secret, which is made if there is none: whoever comes first makes it, the others read it.
///
/// # Errors
/// The API server's; a Secret whose entry is not 32 bytes long.
///
/// # Cancel safety
/// The Secret may have been made.
pub async fn ensure(client: &Client) -> Result<HeartbeatKey> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    for _ in 0..2 {
        let found = tokio::time::timeout(DEADLINE, secrets.get_opt(NAME));
        let found = found.await.context("the API server does not answer")?;
        if let Some(secret) = found.context("read Secret kube-system/fairlead-heartbeat")? {
            return of_secret(&secret);
        }
        let mut bytes = vec![0; LEN];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes))
            .context("read random bytes")?;
        let mut secret = Secret {
            data: Some(BTreeMap::from([(ENTRY.to_owned(), ByteString(bytes))])),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        secret.metadata.name = Some(NAME.to_owned());
        let params = PostParams::default();
        let made = tokio::time::timeout(DEADLINE, secrets.create(&params, &secret));
        match made.await.context("the API server does not answer")? {
            Ok(made) => {
                info!("made Secret {NAMESPACE}/{NAME}");
                return of_secret(&made);
            }
            // Another node was faster: read what it made.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                return Err(error).context("make Secret kube-system/fairlead-heartbeat");
            }
        }
    }
    bail!("Secret {NAMESPACE}/{NAME} comes and goes")
}

fn of_secret(secret: &Secret) -> Result<HeartbeatKey> {
    let entry = secret.data.as_ref().and_then(|data| data.get(ENTRY));
    match entry.and_then(|bytes| HeartbeatKey::from_bytes(&bytes.0)) {
        Some(key) => Ok(key),
        None => bail!(
            "Secret {NAMESPACE}/{NAME}: data.{ENTRY} must be {LEN} bytes; delete the Secret to have a new one made, then restart every agent"
        ),
    }
}

/// The key from the API server or, while that is away, from `state_dir`. Waits until there is one; `None` if `stop` fires first.
/// A disk that is full or read-only costs the next start without an API server, nothing more.
///
/// # Cancel safety
/// Nothing is lost.
pub async fn obtain(
    client: &Client,
    state_dir: &Path,
    stop: &CancellationToken,
) -> Option<HeartbeatKey> {
    let mut said = false;
    loop {
        let kept = cached(state_dir);
        let fresh = tokio::select! {
            fresh = ensure(client) => fresh,
            () = tokio::time::sleep(PATIENCE), if kept.is_some() => Err(anyhow!("no answer yet")),
            () = stop.cancelled() => return None,
        };
        match fresh {
            Ok(key) => {
                if let Err(error) = keep(state_dir, &key) {
                    let error = format!("{error:#}");
                    warn!(
                        error,
                        "without the API server, the next start will have no key"
                    );
                }
                return Some(key);
            }
            Err(error) => {
                let error = format!("{error:#}");
                if let Some(key) = kept {
                    warn!(error, "using the heartbeat key kept from before");
                    return Some(key);
                }
                if !std::mem::replace(&mut said, true) {
                    warn!(error, "no heartbeat key yet: waiting for the API server");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return None,
        }
    }
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("heartbeat.key")
}

fn cached(state_dir: &Path) -> Option<HeartbeatKey> {
    HeartbeatKey::from_bytes(&std::fs::read(file(state_dir)).ok()?)
}

/// Replaces the file in one step, so that a crash leaves the old or the new key.
fn keep(state_dir: &Path, key: &HeartbeatKey) -> Result<()> {
    let path = file(state_dir);
    if cached(state_dir).as_ref() == Some(key) {
        return make_private(&path)
            .with_context(|| format!("take {} away from others", path.display()));
    }
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(state_dir)?;
        let new = path.with_extension("new");
        drop(std::fs::remove_file(&new));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(key.reveal())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)
    };
    write().with_context(|| format!("keep the heartbeat key in {}", path.display()))
}

/// A file that was copied or restored may have come with any mode.
fn make_private(path: &Path) -> io::Result<()> {
    let is_private = std::fs::metadata(path)?.permissions().mode() & 0o777 == 0o600;
    if is_private {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use axum::{Json, Router, routing::get};
    use fairlead_rt::{CancellationToken, clock};
    use kube::Client;
    use tokio::net::TcpListener;

    use super::{DEADLINE, HeartbeatKey, LEN, cached, keep, obtain, of_secret};

    async fn listener() -> (TcpListener, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = kube::Config::new(url.parse().unwrap());
        (listener, Client::try_from(config).unwrap())
    }

    #[tokio::test]
    async fn a_state_folder_that_cannot_be_written_is_no_reason_to_stop() {
        let (listener, client) = listener().await;
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": super::NAME},
            "data": {"key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="},
        });
        let router = Router::new().route("/{*path}", get(|| async { Json(secret) }));
        let file = tempfile::NamedTempFile::new().unwrap();
        let stop = CancellationToken::new();
        tokio::select! {
            key = obtain(&client, file.path(), &stop) => assert_eq!(key, Some(HeartbeatKey([7; LEN]))),
            served = axum::serve(listener, router) => panic!("{served:?}"),
        }
    }

    #[tokio::test]
    async fn a_kept_key_serves_well_before_a_silent_api_server_is_given_up() {
        let (_accepts_and_says_nothing, client) = listener().await;
        let dir = tempfile::TempDir::new().unwrap();
        let key = HeartbeatKey([7; LEN]);
        keep(dir.path(), &key).unwrap();
        let began = clock::now();
        let obtained = obtain(&client, dir.path(), &CancellationToken::new()).await;
        assert_eq!(obtained, Some(key));
        assert!(clock::now() - began < DEADLINE / 2);
    }

    #[test]
    fn a_kept_key_is_private_and_reads_back() {
        let dir = tempfile::TempDir::new().unwrap();
        let state = dir.path().join("state");
        assert_eq!(cached(&state), None);
        for byte in [7, 8] {
            let key = HeartbeatKey([byte; LEN]);
            keep(&state, &key).unwrap();
            assert_eq!(cached(&state), Some(key));
        }
        let path = state.join("heartbeat.key");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        keep(&state, &HeartbeatKey([8; LEN])).unwrap();
        assert_eq!(mode(), 0o600, "a restored file is made private again");
        assert_eq!(format!("{:?}", HeartbeatKey([7; LEN])), "HeartbeatKey(..)");
    }

    #[test]
    fn a_secret_of_another_length_is_refused_with_a_remedy() {
        let secret =
            serde_json::from_value(serde_json::json!({"data": {"key": "c2hvcnQ="}})).unwrap();
        let text = of_secret(&secret).unwrap_err().to_string();
        assert!(
            text.contains("32 bytes") && text.contains("delete the Secret"),
            "{text}"
        );
    }
}

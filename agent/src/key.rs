//! The key that authenticates heartbeats: a Secret, kept on disk too so that a node comes up while the API server is away.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use fairlead_api::watch::feed::WatchFault;
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

/// The key of the Secret. Where there is none, or one without an entry (as our manifests install it, so that nobody needs the right to
/// create Secrets), whoever comes first fills it and the others read that; `kept` from before is put back rather than replaced by another.
///
/// # Errors
/// The API server's; a Secret whose entry is not 32 bytes long.
///
/// # Cancel safety
/// The Secret may have been made.
pub async fn ensure(client: &Client, kept: Option<&HeartbeatKey>) -> Result<HeartbeatKey> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let params = PostParams::default();
    for _ in 0..2 {
        let found = tokio::time::timeout(DEADLINE, secrets.get_opt(NAME));
        let found = found.await.context("the API server does not answer")?;
        let found = found.context("read Secret kube-system/fairlead-heartbeat")?;
        if let Some(secret) = found.as_ref().filter(|secret| has_entry(secret)) {
            return of_secret(secret);
        }
        let is_new = found.is_none();
        let secret = filled(found, kept)?;
        let write = async {
            if is_new {
                secrets.create(&params, &secret).await
            } else {
                // With the resourceVersion just read: of two that fill it, one is refused.
                secrets.replace(NAME, &params, &secret).await
            }
        };
        let written = tokio::time::timeout(DEADLINE, write).await;
        match written.context("the API server does not answer")? {
            Ok(written) => {
                info!("filled Secret {NAMESPACE}/{NAME}");
                return of_secret(&written);
            }
            // Another node was faster: read what it wrote.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).with_context(|| refused(is_new)),
        }
    }
    bail!("Secret {NAMESPACE}/{NAME} comes and goes")
}

fn refused(is_new: bool) -> String {
    let remedy = if is_new {
        "make it without an entry, as deploy/plain does, or grant `create` on secrets"
    } else {
        "grant `update` on it by name"
    };
    format!("fill Secret {NAMESPACE}/{NAME} (if refused: {remedy})")
}

fn has_entry(secret: &Secret) -> bool {
    secret
        .data
        .as_ref()
        .is_some_and(|data| data.contains_key(ENTRY))
}

/// The Secret with a key in it.
fn filled(found: Option<Secret>, kept: Option<&HeartbeatKey>) -> Result<Secret> {
    let bytes = if let Some(kept) = kept {
        kept.reveal().to_vec()
    } else {
        let mut bytes = vec![0; LEN];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes))
            .context("read random bytes")?;
        bytes
    };
    let mut secret = found.unwrap_or_else(|| {
        let mut secret = Secret {
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        secret.metadata.name = Some(NAME.to_owned());
        secret
    });
    let data = secret.data.get_or_insert_with(BTreeMap::new);
    data.insert(ENTRY.to_owned(), ByteString(bytes));
    Ok(secret)
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
            fresh = ensure(client, kept.as_ref()) => fresh,
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
                let reason = reason(&error);
                let error = format!("{error:#}");
                if let Some(key) = kept {
                    warn!(reason, error, "using the heartbeat key kept from before");
                    return Some(key);
                }
                if !std::mem::replace(&mut said, true) {
                    warn!(reason, error, "no heartbeat key yet: trying again");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return None,
        }
    }
}

/// The API server's word, if it is its error.
fn reason(error: &anyhow::Error) -> &'static str {
    let call = error.chain().find_map(|e| e.downcast_ref::<kube::Error>());
    let fault = call.map_or(WatchFault::Unavailable, WatchFault::of_call);
    fault.reason()
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
    use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

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

    #[tokio::test]
    async fn a_secret_installed_empty_is_filled_once_and_with_the_kept_key() {
        let (listener, client) = listener().await;
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let empty = || {
            Json(serde_json::json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                "metadata": {"name": super::NAME, "resourceVersion": "7"},
            }))
        };
        let written = Arc::clone(&seen);
        let fill = move |Json(secret): Json<serde_json::Value>| async move {
            written.lock().unwrap().push(secret.clone());
            Json(secret)
        };
        let router = Router::new().route("/{*path}", get(move || async move { empty() }).put(fill));
        let kept = HeartbeatKey([7; LEN]);
        tokio::select! {
            key = super::ensure(&client, Some(&kept)) => assert_eq!(key.unwrap(), kept),
            served = axum::serve(listener, router) => panic!("{served:?}"),
        }
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 1);
        assert_eq!(
            seen[0]["metadata"]["resourceVersion"], "7",
            "a guarded write"
        );
        assert_eq!(
            seen[0]["data"]["key"],
            "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
        );
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

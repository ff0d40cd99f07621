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
use fairlead_rt::{BoxError, CancellationToken};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams};
use tokio::sync::watch;
use tracing::{info, warn};

/// Namespace of the Secret.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "fairlead-heartbeat";
/// The entry in its data.
pub const ENTRY: &str = "key";
/// The entry of the key before, while a key is being replaced: accepted, and used beside the new one.
pub const PREVIOUS: &str = "previous";
/// Bytes of a key.
pub const LEN: usize = 32;

/// One API call.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long the API server is waited for where there is a key from before: what the kernel still answers for is adopted within its deadline.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two attempts.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks at the Secret. Two keys are valid while one is replaced, so nothing hangs on being quick.
const LOOK: Duration = Duration::from_secs(30);

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

/// What the Secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatKeys {
    /// The key.
    pub key: HeartbeatKey,
    /// The one before, while it is being replaced.
    pub previous: Option<HeartbeatKey>,
}

impl HeartbeatKeys {
    /// All that is valid, the newest first.
    pub fn reveal(&self) -> Vec<Vec<u8>> {
        let all = std::iter::once(&self.key).chain(&self.previous);
        all.map(|key| key.reveal().to_vec()).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (key, previous) = bytes.split_at_checked(LEN)?;
        let previous = match previous {
            [] => None,
            previous => Some(HeartbeatKey::from_bytes(previous)?),
        };
        let key = HeartbeatKey::from_bytes(key)?;
        Some(Self { key, previous })
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
pub async fn ensure(client: &Client, kept: Option<&HeartbeatKey>) -> Result<HeartbeatKeys> {
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

fn of_secret(secret: &Secret) -> Result<HeartbeatKeys> {
    let entry = |name: &str| secret.data.as_ref().and_then(|data| data.get(name));
    let key = entry(ENTRY).and_then(|bytes| HeartbeatKey::from_bytes(&bytes.0));
    let Some(key) = key else {
        bail!(
            "Secret {NAMESPACE}/{NAME}: data.{ENTRY} must be {LEN} bytes; delete the Secret to have a new one made, then restart every agent"
        );
    };
    let previous = match entry(PREVIOUS) {
        None => None,
        Some(bytes) if bytes.0.is_empty() => None,
        Some(bytes) => match HeartbeatKey::from_bytes(&bytes.0) {
            Some(previous) => Some(previous),
            None => bail!(
                "Secret {NAMESPACE}/{NAME}: data.{PREVIOUS} must be the {LEN} bytes of the former key, or absent"
            ),
        },
    };
    Ok(HeartbeatKeys { key, previous })
}

/// Follows the Secret: keys that are replaced while the agent runs reach `keys`. What is unreadable changes nothing.
///
/// # Errors
/// None; the signature is that of a supervised task.
///
/// # Cancel safety
/// Nothing is lost: the next look finds the same.
pub async fn follow(
    client: Client,
    state_dir: PathBuf,
    keys: watch::Sender<Vec<Vec<u8>>>,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let mut said = String::new();
    loop {
        let found = async {
            tokio::time::sleep(LOOK).await;
            tokio::time::timeout(DEADLINE, secrets.get_opt(NAME)).await
        };
        let Some(found) = stop.run_until_cancelled(found).await else {
            return Ok(());
        };
        // Away, or about to be filled: the next look will tell.
        let Ok(Ok(Some(secret))) = found else {
            continue;
        };
        if !has_entry(&secret) {
            continue;
        }
        let error = match take(&secret, &state_dir, &keys) {
            Ok(()) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        if !error.is_empty() && error != said {
            warn!(error, "the heartbeat keys stay as they are");
        }
        said = error;
    }
}

/// Uses what the Secret holds now.
fn take(secret: &Secret, state_dir: &Path, keys: &watch::Sender<Vec<Vec<u8>>>) -> Result<()> {
    let found = of_secret(secret)?;
    let is_news = keys.send_if_modified(|keys| {
        let revealed = found.reveal();
        let is_news = *keys != revealed;
        *keys = revealed;
        is_news
    });
    if is_news {
        info!("the heartbeat keys of Secret {NAMESPACE}/{NAME} have changed");
        keep(state_dir, &found)?;
    }
    Ok(())
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
) -> Option<HeartbeatKeys> {
    let mut said = false;
    loop {
        let kept = cached(state_dir);
        let fresh = tokio::select! {
            fresh = ensure(client, kept.as_ref().map(|keys| &keys.key)) => fresh,
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

fn cached(state_dir: &Path) -> Option<HeartbeatKeys> {
    HeartbeatKeys::from_bytes(&std::fs::read(file(state_dir)).ok()?)
}

/// Replaces the file in one step, so that a crash leaves the old or the new key.
fn keep(state_dir: &Path, keys: &HeartbeatKeys) -> Result<()> {
    let path = file(state_dir);
    if cached(state_dir).as_ref() == Some(keys) {
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
        file.write_all(&keys.reveal().concat())?;
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

    use super::{DEADLINE, HeartbeatKey, HeartbeatKeys, LEN, cached, keep, obtain, of_secret};

    fn keys(byte: u8) -> HeartbeatKeys {
        HeartbeatKeys {
            key: HeartbeatKey([byte; LEN]),
            previous: None,
        }
    }

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
            key = obtain(&client, file.path(), &stop) => assert_eq!(key, Some(keys(7))),
            served = axum::serve(listener, router) => panic!("{served:?}"),
        }
    }

    #[tokio::test]
    async fn a_kept_key_serves_well_before_a_silent_api_server_is_given_up() {
        let (_accepts_and_says_nothing, client) = listener().await;
        let dir = tempfile::TempDir::new().unwrap();
        let key = keys(7);
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
        let kept = keys(7);
        tokio::select! {
            key = super::ensure(&client, Some(&kept.key)) => assert_eq!(key.unwrap(), kept),
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
            let key = keys(byte);
            keep(&state, &key).unwrap();
            assert_eq!(cached(&state), Some(key));
        }
        let path = state.join("heartbeat.key");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        keep(&state, &keys(8)).unwrap();
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

    #[test]
    fn two_keys_are_valid_while_one_is_replaced() {
        let secret = |data: serde_json::Value| {
            serde_json::from_value(serde_json::json!({ "data": data })).unwrap()
        };
        let text = |byte: u8| k8s_openapi::ByteString(vec![byte; LEN]);
        let both = HeartbeatKeys {
            previous: Some(HeartbeatKey([7; LEN])),
            ..keys(8)
        };
        let data = serde_json::json!({ "key": text(8), "previous": text(7) });
        assert_eq!(of_secret(&secret(data)).unwrap(), both);
        assert_eq!(both.reveal(), [vec![8; LEN], vec![7; LEN]]);
        let dir = tempfile::TempDir::new().unwrap();
        keep(dir.path(), &both).unwrap();
        assert_eq!(cached(dir.path()), Some(both), "a restart knows both");
        let short = serde_json::json!({ "key": text(8), "previous": "c2hvcnQ=" });
        let error = of_secret(&secret(short)).unwrap_err().to_string();
        assert!(error.contains("data.previous"), "{error}");
    }

    #[test]
    fn what_the_secret_says_reaches_the_announcer_once_and_nonsense_does_not() {
        let dir = tempfile::TempDir::new().unwrap();
        let (keys_of, mut seen) = tokio::sync::watch::channel(keys(7).reveal());
        let secret = |byte: u8, len: usize| {
            let key = k8s_openapi::ByteString(vec![byte; len]);
            serde_json::from_value(serde_json::json!({ "data": { "key": key } })).unwrap()
        };
        super::take(&secret(7, LEN), dir.path(), &keys_of).unwrap();
        assert!(!seen.has_changed().unwrap());
        super::take(&secret(8, LEN), dir.path(), &keys_of).unwrap();
        assert_eq!(*seen.borrow_and_update(), keys(8).reveal());
        assert_eq!(cached(dir.path()), Some(keys(8)));
        assert!(super::take(&secret(9, 3), dir.path(), &keys_of).is_err());
        assert!(!seen.has_changed().unwrap());
    }
}

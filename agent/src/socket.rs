//! The Unix socket of the local API: private to root, one agent per node name, left-overs of a killed agent replaced.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

/// Why the local API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// An agent answers there.
    #[error("an agent already listens on {}: stop it, or give this one another --node-name", path.display())]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot {action} {}", path.display())]
    System {
        /// What was attempted.
        action: &'static str,
        /// File or folder.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

impl SocketError {
    /// The closed word for the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "AgentRuns",
            Self::System { .. } => "SocketUnusable",
        }
    }
}

/// Whether an agent accepts connections at `path`.
///
/// # Cancel safety
/// Nothing is changed.
pub async fn is_alive(path: &Path) -> bool {
    UnixStream::connect(path).await.is_ok()
}

/// Listens at `path`, with mode 0600; a socket that nobody listens on any more is replaced.
///
/// # Errors
/// [`SocketError`].
///
/// # Cancel safety
/// A dropped future may leave a socket behind, which the next call replaces.
pub async fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let fail = |action| {
        let path = path.to_owned();
        move |source| SocketError::System {
            action,
            path,
            source,
        }
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(fail("make the folder of"))?;
    }
    if is_alive(path).await {
        return Err(SocketError::Busy {
            path: path.to_owned(),
        });
    }
    remove(path).map_err(fail("replace"))?;
    let listener = UnixListener::bind(path).map_err(fail("listen on"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(fail("restrict"))?;
    Ok(listener)
}

/// Removes a socket; one that is not there is no error. Returns whether it was.
///
/// # Errors
/// The system's.
pub fn remove(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{SocketError, bind};

    #[tokio::test]
    async fn a_left_over_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("run/lb1.sock");
        drop(bind(&path).await.unwrap());
        let live = bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(bind(&path).await, Err(SocketError::Busy { .. })));
        drop(live);
    }
}

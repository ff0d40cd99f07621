//! The BPF file system: mounted when missing, and one process at a time per pin directory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::DatapathError;

/// Where distributions mount it.
const DEFAULT_MOUNT: &str = "/sys/fs/bpf";

/// A pin directory that this process alone works with until the value is dropped.
#[derive(Debug)]
pub(crate) struct PinDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PinDir {
    /// Makes sure that `path` is a directory on a BPF file system, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, DatapathError> {
        if !is_bpffs(path) {
            mount_for(path)?;
        }
        create_dir(path)?;
        Self::lock(path)
    }

    /// Locks `path` if it is a directory on a BPF file system.
    pub(crate) fn open_existing(path: &Path) -> Result<Option<Self>, DatapathError> {
        if path.is_dir() && is_bpffs(path) {
            Self::lock(path).map(Some)
        } else {
            Ok(None)
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn lock(path: &Path) -> Result<Self, DatapathError> {
        let directory = File::open(path)
            .map_err(|source| DatapathError::pin("opening the pin directory", path, source))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(DatapathError::PinsInUse {
                pin_dir: path.to_owned(),
            }),
            Err((_, errno)) => Err(DatapathError::pin(
                "locking the pin directory",
                path,
                errno.into(),
            )),
        }
    }
}

/// Creates a directory and its parents.
pub(crate) fn create_dir(path: &Path) -> Result<(), DatapathError> {
    fs::create_dir_all(path)
        .map_err(|source| DatapathError::pin("creating a pin directory", path, source))
}

/// Whether the nearest existing ancestor of `path` is on a BPF file system.
fn is_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .and_then(|ancestor| statfs(ancestor).ok())
        .is_some_and(|status| status.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_for(path: &Path) -> Result<(), DatapathError> {
    let default = Path::new(DEFAULT_MOUNT);
    let mount_point = if path.starts_with(default) {
        default
    } else {
        path
    };
    let refused = |source: io::Error| DatapathError::BpffsUnavailable {
        mount_point: mount_point.to_owned(),
        source,
    };
    if mount_point != default {
        fs::create_dir_all(mount_point).map_err(refused)?;
    }
    mount(
        Some("bpf"),
        mount_point,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(|errno| match errno {
        nix::errno::Errno::EPERM => DatapathError::NoBpfRights {
            call: "mounting bpffs",
            source: errno.into(),
        },
        other => refused(other.into()),
    })?;
    tracing::info!(mount_point = %mount_point.display(), "bpffs mounted");
    if is_private_mount_namespace() {
        tracing::warn!(
            mount_point = %mount_point.display(),
            "bpffs is mounted in a mount namespace of this process's own: forwarding ends when the namespace does"
        );
    }
    Ok(())
}

fn is_private_mount_namespace() -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    match (namespace("self"), namespace("1")) {
        (Some(own), Some(init)) => own != init,
        _ => false,
    }
}

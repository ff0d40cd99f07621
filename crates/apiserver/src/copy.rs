//! Everything that a successor needs to serve the API in this one's place, as one value; and how it becomes a store again.
//!
//! Invariant: a copy is of one revision. Who restores it goes on with far higher revisions, so that a watch that knew the former
//! API begins anew instead of waiting for numbers that mean something else here.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::OpenError;
use crate::files;
use crate::member::Fence;
use crate::store::{Key, RedbStore};

/// Added to the revision at each takeover: more than the former API can have written since the copy was taken.
const LEAP: u64 = 1 << 32;

/// Every object at one revision, and what clients of this API trust.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copy {
    /// Whose it is.
    pub fence: Fence,
    /// Differs as soon as anything that is copied does.
    pub mark: String,
    /// The API's revision.
    pub revision: u64,
    /// CA and admin token. Secrets.
    pub authority: Authority,
    /// In the order of resource, namespace and name; Leases and Events are left out.
    pub objects: Vec<CopiedObject>,
}

/// CA and admin token. Does not print.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// PEM.
    pub ca_certificate: String,
    /// PEM.
    pub ca_key: String,
    /// As in `admin.token`.
    pub admin_token: String,
}

/// One object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CopiedObject {
    /// `services`, `ciliumloadbalancerippools.cilium.io`.
    pub resource: String,
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// As it is served.
    pub object: Value,
}

impl Copy {
    /// Makes `data_dir` the folder of an API that serves this copy as `fence`. A store that is there already is kept beside it,
    /// as `objects.redb.before-N`. The API of this folder must not run. A crash leaves the former store or the new one.
    ///
    /// # Errors
    /// [`OpenError`]; the former store is untouched then.
    pub fn restore(&self, data_dir: &Path, fence: u64) -> Result<(), OpenError> {
        files::private_dir(data_dir)?;
        let tls = data_dir.join("tls");
        files::private_dir(&tls)?;
        let write = |path: &Path, text: &str| files::write_private(path, text.as_bytes());
        write(&tls.join("ca.key"), &self.authority.ca_key)?;
        write(&tls.join("ca.crt"), &self.authority.ca_certificate)?;
        write(&data_dir.join("admin.token"), &self.authority.admin_token)?;

        let path = data_dir.join("objects.redb");
        let beside = data_dir.join("objects.redb.new");
        let failed = |action| {
            let path = path.clone();
            move |source| OpenError::File {
                action,
                path,
                source,
            }
        };
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("replace")(error));
            }
            _ => {}
        }
        let objects = self.objects.iter().map(|copied| {
            let key = Key {
                resource: copied.resource.as_str().into(),
                namespace: copied.namespace.clone(),
                name: copied.name.clone(),
            };
            (key, copied.object.to_string().into_bytes())
        });
        RedbStore::fill(&beside, self.revision.saturating_add(LEAP), fence, objects)?;
        if path.exists() {
            set_aside(data_dir, fence)?;
        }
        std::fs::rename(&beside, &path).map_err(failed("replace"))?;
        std::fs::File::open(data_dir)
            .and_then(|folder| folder.sync_all())
            .map_err(failed("keep"))
    }
}

/// Renames the store in `data_dir`, which somebody else's reign `fence` has made worthless, so that nobody serves it any more;
/// of several such, the latest is kept. No store is no error.
///
/// # Errors
/// [`OpenError::File`].
pub fn set_aside(data_dir: &Path, fence: u64) -> Result<(), OpenError> {
    let path = data_dir.join("objects.redb");
    let failed = |source| OpenError::File {
        action: "set aside",
        path: path.clone(),
        source,
    };
    let old = std::fs::read_dir(data_dir).map_err(failed)?;
    for entry in old.filter_map(Result::ok) {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("objects.redb.before-") {
            std::fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    let to = data_dir.join(format!("objects.redb.before-{fence}"));
    match std::fs::rename(&path, to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed),
    }
}

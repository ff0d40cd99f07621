//! Objects of the API server: which kinds it has, where they are, and manifests as people write them.
//!
//! For machines that have no kubectl. Next: `cmd/get.rs`, `cmd/apply.rs`, `cmd/delete.rs`.

pub mod manifest;
pub mod merge;

use std::path::PathBuf;

use kube::api::ListParams;
use kube::core::Request;
use serde_json::Value;

use crate::error::CliError;
use crate::source::client;

/// Where an appliance keeps its kubeconfig.
const APPLIANCE: &str = "/var/lib/fairlead/kubeconfig";
const DISCOVERY: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
/// A table, as `kubectl get` asks for it.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// One kind in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub namespaced: bool,
}

impl Kind {
    /// The folder of its objects; `None` means all namespaces.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    /// `service`, `ciliumloadbalancerippool.cilium.io`: how messages name it.
    pub fn title(&self) -> String {
        if self.group.is_empty() {
            self.singular.clone()
        } else {
            format!("{}.{}", self.singular, self.group)
        }
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    fn is_called(&self, word: &str) -> bool {
        let plain = [&self.plural, &self.singular];
        let mut full = plain.map(|name| {
            [
                format!("{name}.{}", self.group),
                format!("{name}.{}.{}", self.version, self.group),
            ]
        });
        plain
            .into_iter()
            .chain(&self.short_names)
            .any(|name| name == word)
            || self.kind.to_lowercase() == word
            || full.iter_mut().flatten().any(|name| name == word)
    }
}

/// A connection, and the kinds behind it.
pub struct Objects {
    pub client: kube::Client,
    kinds: Vec<Kind>,
}

impl Objects {
    /// Connects and asks which kinds there are.
    ///
    /// # Errors
    /// [`CliError::Kubeconfig`], [`CliError::NoKubeconfig`], [`CliError::Connection`], [`CliError::Object`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn connect(kubeconfig: Option<PathBuf>) -> Result<Self, CliError> {
        let environment = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty());
        let path = kubeconfig
            .or_else(|| environment.map(PathBuf::from))
            .or_else(|| Some(PathBuf::from(APPLIANCE)).filter(|path| path.exists()))
            .or_else(|| {
                let home = PathBuf::from(std::env::var_os("HOME")?);
                Some(home.join(".kube/config")).filter(|path| path.exists())
            })
            .ok_or(CliError::NoKubeconfig)?;
        let client = client(&path).await?;
        let mut kinds = Vec::new();
        for path in ["/api", "/apis"] {
            let answer = ask(&client, path, DISCOVERY).await?;
            kinds.extend(parse(&answer));
        }
        Ok(Self { client, kinds })
    }

    /// The kind that a word of the command line means: plural, singular, short name, or `plural.group`.
    ///
    /// # Errors
    /// [`CliError::NoSuchKind`].
    pub fn kind(&self, word: &str) -> Result<&Kind, CliError> {
        let wanted = word.to_lowercase();
        let mut all = self.kinds.iter();
        all.find(|kind| kind.is_called(&wanted))
            .ok_or_else(|| CliError::NoSuchKind {
                word: word.to_owned(),
            })
    }

    /// The kind of a manifest.
    ///
    /// # Errors
    /// [`CliError::NoSuchKind`].
    pub fn kind_of(&self, object: &Value) -> Result<&Kind, CliError> {
        let (version, kind) = (
            manifest::text(object, "/apiVersion"),
            manifest::text(object, "/kind"),
        );
        let mut all = self.kinds.iter();
        all.find(|known| known.kind == kind && known.api_version() == version)
            .ok_or_else(|| CliError::NoSuchKind {
                word: format!("{kind} of {version}"),
            })
    }

    /// Reads what lies at a path, in the form that `accept` asks for.
    ///
    /// # Errors
    /// [`CliError::Object`].
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn read(&self, path: &str, accept: &str) -> Result<Value, CliError> {
        ask(&self.client, path, accept).await
    }
}

/// What the API server says of an object, as an error.
pub fn refused(what: impl Into<String>) -> impl FnOnce(kube::Error) -> CliError {
    let what = what.into();
    move |source| CliError::Object {
        what,
        source: Box::new(source),
    }
}

async fn ask(client: &kube::Client, path: &str, accept: &str) -> Result<Value, CliError> {
    let failed = |error: kube::Error| refused(path)(error);
    let mut request = Request::new("/")
        .list(&ListParams::default())
        .map_err(|error| failed(kube::Error::BuildRequest(error)))?;
    *request.uri_mut() = path.parse().map_err(|_not_a_path| CliError::NoSuchKind {
        word: path.to_owned(),
    })?;
    let accept = accept.parse().expect("media types are header values");
    request.headers_mut().insert("accept", accept);
    client.request(request).await.map_err(failed)
}

/// The kinds of an `APIGroupDiscoveryList`.
fn parse(answer: &Value) -> Vec<Kind> {
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let word = |value: &Value, pointer: &str| manifest::text(value, pointer).to_owned();
    let mut kinds = Vec::new();
    for group in list(answer, "items") {
        for version in list(&group, "versions") {
            for resource in list(&version, "resources") {
                let short = list(&resource, "shortNames");
                let kind = word(&resource, "/responseKind/kind");
                let singular = word(&resource, "/singularResource");
                kinds.push(Kind {
                    group: word(&group, "/metadata/name"),
                    version: word(&version, "/version"),
                    plural: word(&resource, "/resource"),
                    singular: if singular.is_empty() {
                        kind.to_lowercase()
                    } else {
                        singular
                    },
                    short_names: short
                        .iter()
                        .filter_map(|name| Some(name.as_str()?.to_owned()))
                        .collect(),
                    namespaced: resource["scope"] == "Namespaced",
                    kind,
                });
            }
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_are_found_by_every_name_they_have() {
        let answer = json!({"items": [{"metadata": {"name": "cilium.io"}, "versions": [{"version": "v2", "resources": [
            {"resource": "ciliumloadbalancerippools", "singularResource": "ciliumloadbalancerippool", "scope": "Cluster",
             "shortNames": ["ippools"], "responseKind": {"kind": "CiliumLoadBalancerIPPool"}}]}]}]});
        let kinds = parse(&answer);
        for word in [
            "ippools",
            "ciliumloadbalancerippool",
            "ciliumloadbalancerippools.cilium.io",
            "ciliumloadbalancerippools.v2.cilium.io",
        ] {
            assert!(kinds[0].is_called(word), "{word}");
        }
        assert!(!kinds[0].is_called("pools"));
        assert_eq!(
            kinds[0].path(Some("x")),
            "/apis/cilium.io/v2/ciliumloadbalancerippools"
        );
        assert_eq!(kinds[0].title(), "ciliumloadbalancerippool.cilium.io");
    }
}

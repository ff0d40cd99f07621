//! `fairlead ippool import`: manifests of another load balancer as Cilium's and ours.
//!
//! Standard output is a manifest that can be applied as it is; what has no equivalent stands in comments above it. One file per
//! source below; [`Import`] collects what they find.

mod kube_vip;
mod metallb;
mod purelb;

use std::path::PathBuf;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::{Value, json};

use super::{
    Output,
    ippool_plan::{documents, read},
};
use crate::{error::CliError, source::Source};

/// `fairlead ippool import --from NAME FILE|cluster`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose manifests they are
    #[arg(long, value_name = "NAME")]
    pub from: From,
    /// A file with its objects, `-` for standard input, or the word `cluster` to ask the API server of --kubeconfig
    #[arg(value_name = "FILE|cluster")]
    pub source: PathBuf,
}

/// Load balancers whose manifests are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum From {
    /// MetalLB: its kinds, or its former ConfigMap
    Metallb,
    /// kube-vip: the ConfigMap of its cloud provider, its DaemonSet
    KubeVip,
    /// PureLB: ServiceGroup, LBNodeAgent
    Purelb,
}

/// A kind to list in a cluster: group, version, kind, plural.
type Kind = (&'static str, &'static str, &'static str, &'static str);

/// Reads objects of one load balancer.
type Translate = fn(&[Value], &mut Import);

/// What is found while reading.
#[derive(Debug, Default)]
struct Import {
    objects: Vec<Value>,
    /// What has no equivalent, or not quite.
    notes: Vec<String>,
}

/// Reads and translates.
///
/// # Errors
/// [`CliError::File`], [`CliError::Manifest`], [`CliError::NeedsApi`], [`CliError::Api`], [`CliError::NothingToImport`].
///
/// # Cancel safety
/// Nothing is changed.
pub async fn run(kubeconfig: Option<PathBuf>, args: &Args) -> Result<Output, CliError> {
    let (kinds, translate): (&[Kind], Translate) = match args.from {
        From::Metallb => (&metallb::KINDS, metallb::translate),
        From::KubeVip => (&kube_vip::KINDS, kube_vip::translate),
        From::Purelb => (&purelb::KINDS, purelb::translate),
    };
    let objects = if args.source.as_os_str() == "cluster" {
        let kubeconfig = kubeconfig.ok_or(CliError::NeedsApi)?;
        let source = Source::choose(None, Some(kubeconfig), None).await?;
        from_cluster(source.api()?, kinds).await?
    } else {
        let text = read(&args.source)?;
        documents(&args.source, &text)?
            .into_iter()
            .filter_map(|value| serde_json::to_value(value).ok())
            .collect()
    };
    let mut import = Import::default();
    translate(&objects, &mut import);
    for service in objects.iter().filter(|o| kind_of(o) == "Service") {
        service_notes(args.from, service, &mut import);
    }
    if import.objects.is_empty() && import.notes.is_empty() {
        return Err(CliError::NothingToImport);
    }
    Ok(Output {
        text: import.text(),
        exit_code: 0,
        is_error: false,
    })
}

async fn from_cluster(client: &Client, kinds: &[Kind]) -> Result<Vec<Value>, CliError> {
    let mut found = Vec::new();
    let services = [("", "v1", "Service", "services")];
    for (group, version, kind, plural) in kinds.iter().chain(&services) {
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
        match api.list(&ListParams::default()).await {
            Ok(list) => {
                let items = list.items.into_iter().filter_map(|object| {
                    let mut plain = serde_json::to_value(object).ok()?;
                    plain["kind"] = json!(kind);
                    Some(plain)
                });
                found.extend(items);
            }
            // Not every version of it has every kind.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => {
                return Err(CliError::Api {
                    what: plural,
                    source: Box::new(source),
                });
            }
        }
    }
    Ok(found)
}

impl Import {
    fn pool(&mut self, name: &str, blocks: &[Value], selector: Option<Value>) -> &mut Value {
        let mut spec = json!({ "blocks": blocks });
        if let Some(selector) = selector {
            spec["serviceSelector"] = selector;
        }
        self.objects.push(json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumLoadBalancerIPPool",
            "metadata": {"name": name}, "spec": spec,
        }));
        self.objects.last_mut().expect("it was pushed just now")
    }

    fn l2_policy(&mut self, name: &str, node_selector: Option<&Value>, interfaces: &[String]) {
        let mut spec = json!({"loadBalancerIPs": true});
        if let Some(selector) = node_selector {
            spec["nodeSelector"] = selector.clone();
        }
        if !interfaces.is_empty() {
            // Cilium's are expressions that are found anywhere in the name.
            let exact = interfaces
                .iter()
                .map(|i| format!("^{}$", i.replace('.', "\\.")));
            spec["interfaces"] = json!(exact.collect::<Vec<_>>());
        }
        self.objects.push(json!({
            "apiVersion": "cilium.io/v2alpha1", "kind": "CiliumL2AnnouncementPolicy",
            "metadata": {"name": name}, "spec": spec,
        }));
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// What has no equivalent as comments, then the objects.
    fn text(&self) -> String {
        let mut out = String::new();
        for note in &self.notes {
            for (n, line) in note.lines().enumerate() {
                out += if n == 0 { "# - " } else { "#   " };
                out += line;
                out.push('\n');
            }
        }
        if !self.notes.is_empty() {
            out = format!("# What has no equivalent, or is to be done by hand:\n{out}");
        }
        for object in &self.objects {
            let yaml = serde_norway::to_string(object).unwrap_or_default();
            out += "---\n";
            out += &yaml;
        }
        out
    }
}

fn kind_of(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or("unnamed")
        .to_owned()
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// `a-b` is a range, anything else a prefix or one address.
fn block(text: &str) -> Value {
    let text = text.trim();
    match text.split_once('-') {
        Some((start, stop)) => json!({"start": start.trim(), "stop": stop.trim()}),
        None if text.contains('/') => json!({ "cidr": text }),
        None => json!({ "start": text }),
    }
}

/// Selects by namespace.
fn namespaces(operator: &str, names: &[String]) -> Value {
    json!({"key": "io.kubernetes.service.namespace", "operator": operator, "values": names})
}

/// A pool that serves only on request: Services carry this label.
fn only_on_request(pool: &str) -> Value {
    json!({"matchLabels": {(super::ippool_plan::IP_POOL): pool}})
}

fn on_request_note(import: &mut Import, what: &str, pool: &str) {
    import.note(format!(
        "{what}: pool {pool} serves only Services with the label {0}: {pool};\ngive it to those that named the pool before",
        super::ippool_plan::IP_POOL
    ));
}

/// What each Service of the source must be told, as commands.
fn service_notes(from: From, service: &Value, import: &mut Import) {
    let table: &[(&str, &str)] = match from {
        From::Metallb => &[
            ("metallb.io/loadBalancerIPs", "lbipam.cilium.io/ips"),
            (
                "metallb.universe.tf/loadBalancerIPs",
                "lbipam.cilium.io/ips",
            ),
            ("metallb.io/allow-shared-ip", "lbipam.cilium.io/sharing-key"),
            (
                "metallb.universe.tf/allow-shared-ip",
                "lbipam.cilium.io/sharing-key",
            ),
            ("metallb.io/address-pool", super::ippool_plan::IP_POOL),
            (
                "metallb.universe.tf/address-pool",
                super::ippool_plan::IP_POOL,
            ),
        ],
        From::KubeVip => &[("kube-vip.io/loadbalancerIPs", "lbipam.cilium.io/ips")],
        From::Purelb => &[
            ("purelb.io/addresses", "lbipam.cilium.io/ips"),
            ("purelb.io/allow-shared-ip", "lbipam.cilium.io/sharing-key"),
            ("purelb.io/service-group", super::ippool_plan::IP_POOL),
        ],
    };
    let prefixes: &[&str] = match from {
        From::Metallb => &["metallb.io/", "metallb.universe.tf/"],
        From::KubeVip => &["kube-vip.io/"],
        From::Purelb => &["purelb.io/"],
    };
    let namespace = service["metadata"]["namespace"]
        .as_str()
        .unwrap_or("default");
    let name = name_of(service);
    let annotations = service["metadata"]["annotations"].as_object();
    for (key, value) in annotations.into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        if let Some((_, ours)) = table.iter().find(|(theirs, _)| theirs == key) {
            import.note(format!(
                "kubectl -n {namespace} annotate service {name} {ours}='{text}'"
            ));
        } else if prefixes.iter().any(|prefix| key.starts_with(prefix)) {
            import.note(format!(
                "Service {namespace}/{name}: annotation {key} has no equivalent"
            ));
        }
    }
}

#[cfg(test)]
mod tests;

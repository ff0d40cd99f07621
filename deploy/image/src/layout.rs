//! The OCI layout: blobs by digest, an index, and all of it in one tar file.
//!
//! # Source
//! OCI image specification 1.1: image-layout.md, manifest.md, config.md, annotations.md.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tar::{Builder, Header};

use crate::layer::{Layer, digest};

/// What an image is called and how it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Full name with its tag, such as `ghcr.io/fairlead/fairlead:0.1.0`.
    pub name: String,
    /// Version of what is inside.
    pub version: String,
    /// What runs if nothing else is said.
    pub entrypoint: Vec<String>,
    /// When it was made, in RFC 3339.
    pub created: String,
    /// The same in seconds since 1970.
    pub time: u64,
}

/// The tar file.
///
/// # Errors
/// None that can arise in memory.
pub fn write(image: &Image, layer: &Layer) -> Result<Vec<u8>> {
    let config = config(image, layer).to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer.compressed)],
        "annotations": annotations(image),
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["platform"] = json!({"architecture": "amd64", "os": "linux"});
    // The first is the specification's, for tools that read layouts; the second is by which containerd and Docker name what they load.
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": tag(&image.name),
        "io.containerd.image.name": image.name,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    let mut blobs = [&config[..], &manifest[..], &layer.compressed[..]]
        .map(|blob| (path_of(&digest(blob)), blob));
    blobs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut tar = Builder::new(Vec::new());
    let mut put = |path: &str, content: &[u8]| -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(image.time);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content)
            .with_context(|| format!("pack {path}"))
    };
    put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    put("index.json", index.to_string().as_bytes())?;
    for (path, blob) in blobs {
        put(&path, blob)?;
    }
    tar.into_inner().context("end the tar")
}

fn config(image: &Image, layer: &Layer) -> Value {
    json!({
        "created": image.created,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": image.entrypoint,
            "Env": ["PATH=/usr/bin"],
            "WorkingDir": "/",
            "Labels": annotations(image),
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": image.created, "created_by": "./x image"}],
    })
}

fn annotations(image: &Image) -> Value {
    json!({
        "org.opencontainers.image.title": "fairlead",
        "org.opencontainers.image.version": image.version,
        "org.opencontainers.image.created": image.created,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
    })
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn path_of(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// What stands behind the last colon, unless that belongs to a port.
fn tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

#[cfg(test)]
mod tests {
    use super::tag;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(tag("ghcr.io/fairlead/fairlead:0.1.0"), "0.1.0");
        assert_eq!(tag("localhost:5000/fairlead"), "latest");
    }
}

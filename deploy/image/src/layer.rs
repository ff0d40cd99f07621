//! A layer: a tar of the tree, compressed, with both digests.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::tree::{Node, Tree};

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What is stored.
    pub compressed: Vec<u8>,
    /// Digest of the tar before it was compressed, `sha256:...`.
    pub diff_id: String,
}

/// `sha256:` and hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("a String takes every write");
    }
    text
}

/// Packs the tree; every file has this time, in seconds since 1970.
///
/// # Errors
/// A path that does not fit into a tar.
pub fn layer(tree: &Tree, time: u64) -> Result<Layer> {
    let mut builder = Builder::new(Vec::new());
    for (path, node) in tree.iter() {
        let mut header = Header::new_ustar();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(time);
        header.set_size(0);
        match node {
            Node::Folder => {
                header.set_entry_type(EntryType::Directory);
                // As everywhere, who may not write elsewhere may write to /tmp.
                header.set_mode(if path.as_os_str() == "tmp" {
                    0o1777
                } else {
                    0o755
                });
                builder.append_data(
                    &mut header,
                    format!("{}/", path.display()),
                    std::io::empty(),
                )
            }
            Node::File {
                content,
                is_executable,
            } => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(if *is_executable { 0o755 } else { 0o644 });
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, content.as_slice())
            }
            Node::Link(to) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                builder.append_link(&mut header, path, to)
            }
        }
        .with_context(|| format!("pack {}", path.display()))?;
    }
    let tar = builder.into_inner().context("end the tar")?;
    // Neither a name nor a time in the header.
    let mut gzip = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::new(6));
    gzip.write_all(&tar).context("compress the layer")?;
    Ok(Layer {
        compressed: gzip.finish().context("compress the layer")?,
        diff_id: digest(&tar),
    })
}

//! `./x image`: writes the container image as one file.
#![forbid(unsafe_code)]

use std::{fs, io::Write as _, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use fairlead_image::{
    layer::{digest, layer},
    layout::{Image, write},
    tree::{BIN, Tree},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What the image runs on a node and in a cluster, and what people ask them with.
const BINARIES: [&str; 3] = ["fairlead-agent", "fairlead-operator", "fairlead"];

/// Writes the container image as one tar file (an OCI layout): binaries, the libraries that they load, and little else.
///
/// Load it with `podman load -i FILE`, `docker load -i FILE` or `ctr -n k8s.io images import FILE`; push it with `skopeo copy oci-archive:FILE docker://NAME`.
#[derive(Parser)]
struct Args {
    /// Folder of the binaries
    #[arg(long, value_name = "DIR")]
    bin_dir: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Name and tag
    #[arg(long, value_name = "NAME", default_value = concat!("ghcr.io/fairlead/fairlead:", env!("CARGO_PKG_VERSION")))]
    name: String,
    /// Time of every file, in seconds since 1970: the same binaries and time give the same bytes
    #[arg(
        long,
        value_name = "SECONDS",
        env = "SOURCE_DATE_EPOCH",
        default_value_t = 0
    )]
    time: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let binaries = BINARIES.map(|name| args.bin_dir.join(name));
    let tree = Tree::of(&binaries)?;
    let created = i64::try_from(args.time).context("--time")?;
    let created = OffsetDateTime::from_unix_timestamp(created).context("--time")?;
    let image = Image {
        name: args.name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        entrypoint: vec![format!("/{BIN}/{}", BINARIES[0])],
        created: created.format(&Rfc3339).context("write the time")?,
        time: args.time,
    };
    let file = write(&image, &layer(&tree, args.time)?)?;
    if let Some(folder) = args.out.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    fs::write(&args.out, &file).with_context(|| format!("write {}", args.out.display()))?;
    let mib = file.len() / (1 << 20);
    writeln!(
        std::io::stdout(),
        "{}: {}, {mib} MiB, {}",
        args.out.display(),
        image.name,
        digest(&file)
    )?;
    Ok(())
}

//! What clippy cannot see: the import rule, file sizes, vocabulary, `unsafe`, the map table, and documents that drift from the tree.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use fairlead_abi::maps::MAPS;
use serde_json::Value;

use crate::{root, run};

/// Hard cap of lines in one source file.
const MAX_LINES: usize = 900;
/// Where `unsafe` may stand: two crates, and one module of a third (docs/adr/0009).
const UNSAFE_PLACES: &[&str] = &[
    "bpf/kern",
    "crates/datapath",
    "announcer/src/driver/realtime.rs",
    // The allocator that counts in its test.
    "announcer/tests/steady_state.rs",
];
/// Parts of a public type's name that the house has another word for.
const NAMES: &[(&str, &str)] = &[
    ("Upstream", "Backend"),
    ("VirtualServer", "Frontend"),
    ("ExternalIp", "Vip"),
    ("ServiceIp", "Vip"),
    ("Workload", "Endpoint"),
    ("SecurityId", "Identity"),
    ("Master", "Owner"),
    ("DropCode", "DropReason"),
];
/// Words that the house does not use, and what it says instead.
const VOCABULARY: &[(&str, &str)] = &[
    ("todo!(", "write it, or leave it out"),
    ("unimplemented!(", "write it, or leave it out"),
    ("#[ignore", "a test that does not run proves nothing"),
    ("#[should_panic", "assert the error instead"),
    ("thread::sleep", "poll with a deadline"),
    ("struct Manager", "name what it owns"),
];

/// Runs every check and lists all findings at once.
pub(crate) fn tidy() -> Result<()> {
    eprintln!("==> tidy");
    let files = tracked_files()?;
    let mut findings = Vec::new();
    layers(&mut findings)?;
    sources(&files, &mut findings)?;
    map_rows(&files, &mut findings)?;
    documents(&files, &mut findings)?;
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    ensure!(
        findings.is_empty(),
        "tidy found {} thing(s)",
        findings.len()
    );
    Ok(())
}

fn tracked_files() -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root());
    let output = git.output().context("list files with git")?;
    ensure!(
        output.status.success(),
        "git ls-files failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let files = String::from_utf8(output.stdout).context("file names are UTF-8")?;
    Ok(files
        .lines()
        .map(PathBuf::from)
        .filter(|f| root().join(f).is_file())
        .collect())
}

/// Every edge of the crate graph against `[workspace.metadata.layers]`.
fn layers(findings: &mut Vec<String>) -> Result<()> {
    let output = run::cargo(&["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let mut level = BTreeMap::new();
    let table = metadata["metadata"]["layers"]
        .as_object()
        .context("no [workspace.metadata.layers]")?;
    for (layer, crates) in table {
        for name in crates
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            level.insert(name.to_owned(), layer.clone());
        }
    }
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(own) = level.get(name) else {
            findings.push(format!(
                "{name} is in no layer of [workspace.metadata.layers]"
            ));
            continue;
        };
        // Tests may look anywhere; what ships may not.
        let shipped = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|d| d["kind"].as_str() != Some("dev"));
        for dependency in shipped.filter_map(|d| d["name"].as_str()) {
            if let Some(theirs) = level.get(dependency)
                && !edge_allowed(own, theirs, name)
            {
                findings.push(format!(
                    "{name} ({own}) must not import {dependency} ({theirs})"
                ));
            }
            let owner = match dependency {
                "aya" => Some("fairlead-datapath"),
                "rtnetlink" => Some("fairlead-netlink"),
                "redb" => Some("fairlead-apiserver"),
                _ => None,
            };
            if owner.is_some_and(|owner| owner != name) {
                findings.push(format!(
                    "{name} must not use {dependency}: only {} does",
                    owner.unwrap_or_default()
                ));
            }
        }
    }
    Ok(())
}

/// Arrows point down; inside a layer only L1 to L1, L2 to L2 and L3 to L3; features never one another; only `appliance` composes roots.
fn edge_allowed(own: &str, theirs: &str, name: &str) -> bool {
    match (own, theirs) {
        ("outside", _) => true,
        (_, "outside") | ("L4", "L4") => false,
        ("L5", "L5") => name == "fairlead-appliance",
        _ => theirs <= own,
    }
}

fn sources(files: &[PathBuf], findings: &mut Vec<String>) -> Result<()> {
    for file in files
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "rs"))
    {
        let text = fs::read_to_string(root().join(file))
            .with_context(|| format!("read {}", file.display()))?;
        let shown = file.display();
        let n_lines = text.lines().count();
        if n_lines > MAX_LINES {
            findings.push(format!("{shown}: {n_lines} lines, the cap is {MAX_LINES}"));
        }
        if file.file_name().is_some_and(|n| n == "mod.rs") {
            findings.push(format!("{shown}: foo.rs beside foo/, not mod.rs"));
        }
        if !text.starts_with("//!")
            && file.components().any(|c| c.as_os_str() == "src")
            && !file.ends_with("tests.rs")
        {
            findings.push(format!("{shown}: no //! header that says what it is for"));
        }
        if file != Path::new("xtask/src/tidy.rs") {
            for (word, instead) in VOCABULARY {
                if text.contains(word) {
                    findings.push(format!("{shown}: `{word}`: {instead}"));
                }
            }
        }
        let is_root = file.ends_with("src/lib.rs") || file.ends_with("src/main.rs");
        let may_be_unsafe = UNSAFE_PLACES.iter().any(|p| file.starts_with(p));
        let holds_place = UNSAFE_PLACES
            .iter()
            .any(|p| Path::new(p).starts_with(file.parent().unwrap_or(file)));
        if is_root && !may_be_unsafe && !holds_place && !text.contains("forbid(unsafe_code)") {
            findings.push(format!("{shown}: no #![forbid(unsafe_code)]"));
        }
        if !may_be_unsafe
            && ["unsafe {", "unsafe impl", "unsafe fn"]
                .iter()
                .any(|w| text.contains(w))
            && file != Path::new("xtask/src/tidy.rs")
        {
            findings.push(format!(
                "{shown}: unsafe outside {}",
                UNSAFE_PLACES.join(", ")
            ));
        }
        names(file, &text, findings);
    }
    Ok(())
}

/// Public types are called by the house's words (style: one word for one thing).
fn names(file: &Path, text: &str, findings: &mut Vec<String>) {
    let types = ["pub struct ", "pub enum ", "pub trait ", "pub type "];
    for line in text.lines() {
        let Some(name) = types.iter().find_map(|t| line.trim_start().strip_prefix(t)) else {
            continue;
        };
        let name: String = name
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        for (word, instead) in NAMES {
            if name.contains(word) {
                findings.push(format!("{}: `{name}`: say {instead}", file.display()));
            }
        }
    }
}

/// A map row needs a static in the kernel programs (the object is compared with the table in `tests/`).
fn map_rows(files: &[PathBuf], findings: &mut Vec<String>) -> Result<()> {
    let mut kern = String::new();
    for file in files.iter().filter(|f| f.starts_with("bpf/kern/src")) {
        kern.push_str(
            &fs::read_to_string(root().join(file))
                .with_context(|| format!("read {}", file.display()))?,
        );
    }
    for row in MAPS {
        if !kern.contains(&format!("static {}:", row.name)) {
            findings.push(format!(
                "map {}: a row in bpf/abi/src/maps.rs, but no static in bpf/kern",
                row.name
            ));
        }
    }
    Ok(())
}

/// ARCHITECTURE.md names every crate's folder; no document carries a path of somebody's machine.
fn documents(files: &[PathBuf], findings: &mut Vec<String>) -> Result<()> {
    let architecture =
        fs::read_to_string(root().join("ARCHITECTURE.md")).context("read ARCHITECTURE.md")?;
    for manifest in files
        .iter()
        .filter(|f| f.file_name().is_some_and(|n| n == "Cargo.toml"))
    {
        let folder = manifest
            .parent()
            .map(|p| p.display().to_string())
            .unwrap_or_default();
        if !folder.is_empty() && !architecture.contains(&format!("`{folder}`")) {
            findings.push(format!("ARCHITECTURE.md does not name `{folder}`"));
        }
    }
    for file in files.iter().filter(|f| {
        f.extension()
            .is_some_and(|e| e == "md" || e == "yaml" || e == "yml")
    }) {
        let text = fs::read_to_string(root().join(file))
            .with_context(|| format!("read {}", file.display()))?;
        if ["/root/", "/work/"].iter().any(|p| text.contains(p)) {
            findings.push(format!("{}: a path of one machine", file.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::edge_allowed;

    #[test]
    fn arrows_point_down() {
        assert!(
            edge_allowed("L4", "L3", "fairlead-announcer")
                && edge_allowed("L3", "L3", "fairlead-apiserver")
        );
        assert!(
            !edge_allowed("L3", "L4", "fairlead-api")
                && !edge_allowed("L4", "L4", "fairlead-xdp-lb")
        );
        assert!(
            edge_allowed("L5", "L5", "fairlead-appliance")
                && !edge_allowed("L5", "L5", "fairlead-cli")
        );
        assert!(
            !edge_allowed("L4", "outside", "fairlead-xdp-lb")
                && edge_allowed("outside", "L5", "fairlead-tests")
        );
    }
}

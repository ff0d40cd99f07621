//! The image as a runtime sees it: digests, configuration, and programs that run with nothing but what is in it.
//!
//! Needs root (chroot) and the binaries that `./x build` makes.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use fairlead_image::layer::digest;
use flate2::read::GzDecoder;
use serde_json::Value;
use tar::Archive;

/// Where cargo puts what `./x build` makes: beside this test's own folder.
fn bin_dir() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_fairlead-image")).parent();
    folder.expect("a program is in a folder").to_owned()
}

/// The binaries without what only a debugger reads, which is most of them and would only be packed and unpacked.
fn stripped(folder: &Path) -> PathBuf {
    fs::create_dir(folder).unwrap();
    for name in ["fairlead-agent", "fairlead-operator", "fairlead"] {
        let built = bin_dir().join(name);
        let output = Command::new("strip")
            .arg("-o")
            .arg(folder.join(name))
            .arg(&built)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}: ./x build makes it: {output:?}",
            built.display()
        );
    }
    folder.to_owned()
}

/// Writes an image of these binaries.
fn image(bin_dir: &Path, out: &Path, time: &str) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_fairlead-image"))
        .args(["--time", time])
        .arg("--bin-dir")
        .arg(bin_dir)
        .arg("--out")
        .arg(out)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::read(out).unwrap()
}

/// The blobs and other files of a layout, by path.
fn files(layout: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = Archive::new(layout);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (path, content)
        })
        .collect()
}

/// The blob of a descriptor, after its digest and size were checked.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let name = descriptor["digest"].as_str().unwrap();
    let content = &files[&format!("blobs/{}", name.replace(':', "/"))];
    assert_eq!(digest(content), name);
    assert_eq!(descriptor["size"], content.len());
    content
}

fn json(content: &[u8]) -> Value {
    serde_json::from_slice(content).unwrap()
}

#[test]
fn the_layout_is_whole_and_its_programs_run_with_nothing_else() {
    assert!(
        nix::unistd::Uid::effective().is_root(),
        "this test needs root, to change its root"
    );
    let scratch = tempfile::TempDir::new().unwrap();
    let bins = stripped(&scratch.path().join("bin"));
    let layout = image(&bins, &scratch.path().join("image.tar"), "1798761599");
    let files = files(&layout);
    assert_eq!(json(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");
    let index = json(&files["index.json"]);
    let entry = &index["manifests"][0];
    assert_eq!(
        entry["annotations"]["org.opencontainers.image.ref.name"],
        env!("CARGO_PKG_VERSION")
    );
    let manifest = json(blob(&files, entry));
    let config = json(blob(&files, &manifest["config"]));
    assert_eq!(config["created"], "2026-12-31T23:59:59Z");
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/fairlead-agent");
    let mut layer = Vec::new();
    let compressed = blob(&files, &manifest["layers"][0]);
    GzDecoder::new(compressed).read_to_end(&mut layer).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
    assert_eq!(files.len(), 5, "nothing lies there that nobody names");

    let root = scratch.path().join("root");
    fs::create_dir(&root).unwrap();
    let mut archive = Archive::new(&layer[..]);
    for entry in archive.entries().unwrap() {
        let header = entry.unwrap().header().clone();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        assert_eq!(header.mtime().unwrap(), 1_798_761_599);
    }
    Archive::new(&layer[..]).unpack(&root).unwrap();
    for program in ["fairlead-agent", "fairlead-operator", "fairlead"] {
        let output = Command::new("chroot")
            .arg(&root)
            .args([&format!("/usr/bin/{program}"), "--version"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && said.contains(env!("CARGO_PKG_VERSION")),
            "{program}: {output:?}"
        );
    }
    // Names are looked up by what is inside, too: the operator gets as far as its API server's name.
    let output = Command::new("chroot")
        .arg(&root)
        .args([
            "/usr/bin/fairlead-operator",
            "--k8s-kubeconfig-path",
            "/nowhere",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("/nowhere"),
        "{said}"
    );
    let status = fs::read_to_string(root.join("var/lib/dpkg/status.d/libc6")).unwrap();
    assert!(
        status.contains("Package: libc6\n") && status.contains("Version: "),
        "{status}"
    );
    assert!(root.join("usr/share/doc/libc6/copyright").exists());
    assert!(!root.join("usr/bin/sh").exists(), "no shell");
}

#[test]
fn the_same_binaries_give_the_same_bytes() {
    let scratch = tempfile::TempDir::new().unwrap();
    // Small binaries of this machine: what matters here is the order of things, not what they are.
    let bins = scratch.path().join("bin");
    fs::create_dir(&bins).unwrap();
    for name in ["fairlead-agent", "fairlead-operator", "fairlead"] {
        fs::copy(env!("CARGO_BIN_EXE_fairlead-image"), bins.join(name)).unwrap();
    }
    let first = image(&bins, &scratch.path().join("a.tar"), "0");
    let later = image(&bins, &scratch.path().join("b/c.tar"), "0");
    assert!(first == later);
    let another_time = image(&bins, &scratch.path().join("d.tar"), "1");
    assert!(first != another_time, "the time is in it");
    let another = fs::OpenOptions::new()
        .append(true)
        .open(bins.join("fairlead"));
    std::io::Write::write_all(&mut another.unwrap(), b"x").unwrap();
    assert!(first != image(&bins, &scratch.path().join("e.tar"), "0"));
}

#[test]
fn a_binary_that_is_not_there_is_named_with_what_makes_it() {
    let scratch = tempfile::TempDir::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_fairlead-image"))
        .arg("--bin-dir")
        .arg(scratch.path())
        .arg("--out")
        .arg(scratch.path().join("image.tar"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("fairlead-agent") && said.contains("./x build"),
        "{said}"
    );
    assert!(!output.status.success());
}

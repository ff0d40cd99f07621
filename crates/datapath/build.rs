//! Builds the kernel programs (`bpf/kern`, a workspace of its own) and leaves their objects in `OUT_DIR` for embedding.
//!
//! Two toolchains serve (docs/adr/0001): the distribution's `rustc` with a ready-made `core` for the BPF target, else rustup's nightly with
//! `rust-src`. `bpf-linker` comes from `FAIRLEAD_BPF_LINKER`, Fairlead's cache, or `PATH`.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const TARGET: &str = "bpfel-unknown-none";
/// Flags of both toolchains: line information for the verifier's log and BTF for the maps.
const RUSTFLAGS: &str = "-C debuginfo=2 -C link-arg=--btf";
/// Binary of `bpf/kern` and the file it is embedded from.
const OBJECTS: [(&str, &str); 2] = [("fairlead", "fairlead.o"), ("fairlead-bench", "bench.o")];

/// A compiler that can produce BPF objects.
struct Toolchain {
    linker: PathBuf,
    rustc: Compiler,
}

enum Compiler {
    /// `rustc` with `core` for the BPF target in its sysroot.
    Distribution(PathBuf),
    /// `cargo +nightly`, building `core` from `rust-src`.
    Nightly,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let bpf = manifest.join("../../bpf").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for part in [
        "abi/src",
        "abi/Cargo.toml",
        "logic/src",
        "logic/Cargo.toml",
        "kern/src",
        "kern/Cargo.toml",
        "kern/Cargo.lock",
    ] {
        // Relative: checkouts may share a target folder, and each must look at its own sources.
        println!("cargo::rerun-if-changed=../../bpf/{part}");
    }
    for variable in ["FAIRLEAD_BPF_LINKER", "FAIRLEAD_CACHE"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let toolchain = toolchain()?;
    let target_dir = out.join("bpf");
    build(&toolchain, &bpf.join("kern"), &target_dir)?;
    for (binary, object) in OBJECTS {
        let built = target_dir.join(TARGET).join("release").join(binary);
        fs::copy(&built, out.join(object))
            .map_err(|error| format!("{}: {error}", built.display()))?;
    }
    Ok(())
}

fn build(toolchain: &Toolchain, kern: &Path, target_dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut cargo = match &toolchain.rustc {
        Compiler::Distribution(rustc) => {
            let mut cargo = Command::new(env::var_os("CARGO").ok_or("CARGO is not set")?);
            clean(&mut cargo);
            cargo
                .env("RUSTC", rustc)
                .env("RUSTC_BOOTSTRAP", "1")
                .arg("build");
            cargo
        }
        Compiler::Nightly => {
            let mut cargo = Command::new("rustup");
            clean(&mut cargo);
            cargo.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
            cargo
        }
    };
    let status = cargo
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", RUSTFLAGS)
        .args(["--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .current_dir(kern)
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("building {} failed: {status}", kern.display()).into())
    }
}

/// Removes what the outer cargo set for the host build: wrappers, flags, features and the chosen toolchain.
fn clean(cargo: &mut Command) {
    const ALSO: [&str; 6] = [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUSTC_LINKER",
    ];
    const KEPT: [&str; 1] = ["CARGO_HOME"];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if (text.starts_with("CARGO") && !KEPT.contains(&text)) || ALSO.contains(&text) {
            cargo.env_remove(&name);
        }
    }
}

fn toolchain() -> Result<Toolchain, String> {
    let linker = linker();
    let distribution = distribution_rustc();
    let rustc = match (&distribution, has_nightly_source()) {
        (Some(rustc), _) => Some(Compiler::Distribution(rustc.clone())),
        (None, true) => Some(Compiler::Nightly),
        (None, false) => None,
    };
    match (linker, rustc) {
        (Some(linker), Some(rustc)) => Ok(Toolchain { linker, rustc }),
        (linker, rustc) => Err(missing(linker.is_some(), rustc.is_some())),
    }
}

fn missing(has_linker: bool, has_rustc: bool) -> String {
    let mut text =
        String::from("the kernel programs cannot be built. `./x build` installs what is missing:");
    if !has_rustc {
        text.push_str(
            "\n  a compiler for BPF: `apt-get install rustc-web libstd-rust-web-dev-bpf` (Debian), \
             or `rustup toolchain install nightly --component rust-src`",
        );
    }
    if !has_linker {
        text.push_str(
            "\n  bpf-linker: `apt-get install llvm-22-dev && LLVM_PREFIX=/usr/lib/llvm-22 \
             cargo install bpf-linker@0.13.0 --no-default-features --features llvm-22` \
             (or name it in FAIRLEAD_BPF_LINKER)",
        );
    }
    text
}

fn linker() -> Option<PathBuf> {
    if let Some(named) = env::var_os("FAIRLEAD_BPF_LINKER") {
        return Some(PathBuf::from(named));
    }
    let cache = env::var_os("FAIRLEAD_CACHE")
        .map(PathBuf::from)
        .or_else(|| {
            let base = env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
            Some(base.join("fairlead"))
        });
    let cached = cache.map(|cache| cache.join("bpf-linker/bin/bpf-linker"));
    let paths = env::var_os("PATH").unwrap_or_default();
    cached
        .into_iter()
        .chain(env::split_paths(&paths).map(|dir| dir.join("bpf-linker")))
        .find(|path| path.is_file())
}

/// The distribution's compiler, if its sysroot holds `core` for the BPF target.
fn distribution_rustc() -> Option<PathBuf> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    let output = Command::new(&rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .ok()?;
    let libraries = fs::read_dir(String::from_utf8(output.stdout).ok()?.trim()).ok()?;
    let has_core = libraries.filter_map(Result::ok).any(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| {
            name.starts_with("libcore-") && Path::new(name).extension() == Some(OsStr::new("rlib"))
        })
    });
    has_core.then_some(rustc)
}

fn has_nightly_source() -> bool {
    let Ok(output) = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .output()
    else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success()
        && Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
}

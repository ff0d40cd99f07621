//! The project's own tasks, behind `./x`: test, lint, tidy, codegen, bench, lab.
//!
//! `./x` installs what is missing and hands over here; this program only runs cargo and checks the tree.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool talks to its terminal"
)]

mod codegen;
mod run;
mod test;
mod tidy;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "x", about = "The front door of the project")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The main job: lab, two load balancers, manifests, traffic, failover.
    Run {
        /// `--linux-6.1`: once, on the oldest supported kernel, in an emulated machine. The rest is handed to the lab: `--once`, `-o json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Every test; with a word, only tests whose name contains it.
    Test {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Everything that is installed on a machine.
    Build {
        #[arg(long)]
        release: bool,
    },
    /// The container image as one file, without a daemon.
    Image {
        /// Of the development build, which is there already, instead of a release build.
        #[arg(long)]
        debug: bool,
        /// Handed on: `--out FILE`, `--name NAME`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// fmt, clippy, tidy, generated files, lab topologies.
    Lint,
    /// Layers, file sizes, vocabulary, map table (part of lint).
    Tidy,
    /// Rewrites generated files; `--check` only compares.
    Codegen {
        #[arg(long)]
        check: bool,
    },
    /// `xdp`, `failover` or `lb-ipam`; `-o json` prints one object a line.
    Bench {
        name: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// `up`, `check`, `down` and the name of a topology in `lab/`.
    Lab {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// The repository's root: two levels above this file's manifest.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the repository")
        .to_path_buf()
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("x: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Run { args } => run::main_job(&args),
        Command::Test { args } => test::test(&args),
        Command::Build { release } => run::build(release),
        Command::Image { debug, args } => run::image(debug, &args),
        Command::Lint => lint(),
        Command::Tidy => tidy::tidy(),
        Command::Codegen { check } => codegen::codegen(check),
        Command::Bench { name, args } => run::bench(&name, &args),
        Command::Lab { args } => match args.split_first() {
            Some((verb, rest)) => run::lab(verb, rest),
            None => anyhow::bail!("say which: ./x lab up|check|down NAME"),
        },
    }
}

/// clippy of the workspace of the kernel programs. The distribution's, because that compiler has `core` for their target
/// (docs/adr/0001), and called by its name: cargo would look for rustup's first.
fn clippy_kern() -> std::process::Command {
    let mut command = std::process::Command::new("/usr/bin/cargo-clippy");
    command
        .args(["clippy", "-q", "--release", "--locked"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(run::target_dir().join("bpf-lint"))
        .args(["--", "-D", "warnings"])
        .current_dir(root().join("bpf/kern"))
        .env("CARGO", "/usr/bin/cargo")
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn lint() -> Result<()> {
    run::step("formatting", run::cargo(&["fmt", "--all", "--check"]))?;
    run::step(
        "formatting of the kernel programs",
        run::cargo(&["fmt", "--manifest-path", "bpf/kern/Cargo.toml", "--check"]),
    )?;
    tidy::tidy()?;
    run::step(
        "clippy",
        run::cargo(&[
            "clippy",
            "-q",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    run::step("clippy of the kernel programs", clippy_kern())?;
    codegen::codegen(true)?;
    run::lab("lint", &[])
}

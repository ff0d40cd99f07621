//! The command line, shared by `fairlead-lab` and `cargo xtask`: one file per command under `cmd/`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

mod bench;
mod check;
mod echo;
mod exec;
mod lint;
mod run;
mod updown;

/// Topologies as data, checks as code, and the network-namespace runner.
#[derive(Debug, Parser)]
#[command(name = "fairlead-lab", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build a lab from network namespaces.
    Up(LabArgs),
    /// Check that a lab that is up does what it should.
    Check(LabArgs),
    /// Remove a lab and everything that runs in it.
    Down(LabArgs),
    /// The main job on real input: two appliances, manifests, requests, and a node that dies.
    Run(run::RunArgs),
    /// Measure how long VIPs are dark when their owner dies, over many rounds.
    BenchFailover(bench::BenchArgs),
    /// Run a command in a node of a lab.
    Exec(exec::ExecArgs),
    /// Ask one of the lab's servers for its name.
    Ask(exec::AskArgs),
    /// Check every topology file against the subset of containerlab's format used here.
    Lint(lint::LintArgs),
    /// Serve TCP and UDP echo: what the lab's servers run.
    Echo(echo::EchoArgs),
}

/// How results are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// For programs: results only, on standard output.
    Json,
}

/// Which lab.
#[derive(Debug, Clone, clap::Args)]
pub struct LabArgs {
    /// Name of the topology: lab/NAME.clab.yml.
    #[arg(default_value = "main")]
    pub name: String,
    /// The topology file, if it is elsewhere.
    #[arg(long)]
    pub topo: Option<PathBuf>,
    /// Name to run it under, if not its own; lets one topology be up twice.
    #[arg(long = "as")]
    pub run_as: Option<String>,
    /// Folder of the binaries under test; default: the folder of this program.
    #[arg(long)]
    pub bin_dir: Option<PathBuf>,
}

impl LabArgs {
    /// The topology file.
    pub fn file(&self) -> PathBuf {
        self.topo
            .clone()
            .unwrap_or_else(|| lab_dir().join(format!("{}.clab.yml", self.name)))
    }

    /// Folder whose programs nodes find first.
    pub fn bin_dir(&self) -> miette::Result<PathBuf> {
        use miette::IntoDiagnostic as _;
        if let Some(dir) = &self.bin_dir {
            return dir.canonicalize().into_diagnostic();
        }
        let program = std::env::current_exe().into_diagnostic()?;
        Ok(program.parent().map(PathBuf::from).unwrap_or_default())
    }
}

/// The folder of the topologies: `lab/` below the working directory, else where this was built from.
pub fn lab_dir() -> PathBuf {
    let here = PathBuf::from("lab");
    if here.is_dir() {
        here
    } else {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
    }
}

/// Runs the command of `cli`, progress and results to standard output.
pub fn run(cli: Cli) -> miette::Result<()> {
    match cli.command {
        Command::Up(args) => updown::up(&args),
        Command::Check(args) => check::check(&args),
        Command::Down(args) => updown::down(&args),
        Command::Run(args) => run::run(&args),
        Command::BenchFailover(args) => bench::bench(&args),
        Command::Exec(args) => exec::exec(&args),
        Command::Ask(args) => exec::ask(&args),
        Command::Lint(args) => lint::lint(&args),
        Command::Echo(args) => echo::echo(&args),
    }
}

/// Writes one line of progress to standard error.
pub(crate) fn tell(line: impl std::fmt::Display) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{line}").ok();
}

/// Writes one line to standard output; a closed pipe is the reader's choice.
pub(crate) fn say(line: impl std::fmt::Display) {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{line}").ok();
}

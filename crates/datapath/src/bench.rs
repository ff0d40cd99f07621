//! The benchmark's object over the real maps: generator, floor, bare head move, bare XDP_TX (protocol: `fairlead_abi::bench`).
//!
//! Nothing of it is linked into a binary that does not name it.

use aya::maps::ProgramArray;
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use fairlead_abi::bench::{BenchFlow, BenchState, N_BENCH_FLOWS};

use crate::maps::Window;
use crate::object::{self, missing};
use crate::test_run::{self, Run};
use crate::{Datapath, DatapathError};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench.o"));

/// What a packet meets after the generator wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing: the generator measures itself.
    Nothing,
    /// A head move only.
    Head,
    /// `XDP_TX` only.
    Tx,
    /// Stateless, encapsulating Maglev without counters.
    Floor,
    /// The program that is attached to interfaces.
    LoadBalancer,
}

/// The loaded benchmark.
pub struct Bench {
    ebpf: Ebpf,
    flows: Window<BenchFlow>,
    state: Window<BenchState>,
    load_balancer: ProgramFd,
}

impl Bench {
    /// Loads the benchmark's programs over the maps of `datapath`.
    pub fn open(datapath: &Datapath) -> Result<Self, DatapathError> {
        let mut loader = EbpfLoader::new();
        for (name, max_entries, path) in datapath.shared_maps() {
            loader
                .map_max_entries(name, max_entries)
                .map_pin_path(name, path);
        }
        let mut ebpf = loader.load(OBJECT).map_err(object::from_ebpf)?;
        for name in ["bench_gen", "bench_head", "bench_tx", "bench_floor"] {
            xdp_mut(&mut ebpf, name)?
                .load()
                .map_err(|error| object::from_program(name, error))?;
        }
        let flows = Window::over(object::map_fd(&ebpf, "BENCH_FLOWS")?, N_BENCH_FLOWS);
        let state = Window::over(object::map_fd(&ebpf, "BENCH_STATE")?, 1);
        let load_balancer = datapath.entry_fd()?;
        Ok(Self {
            ebpf,
            flows,
            state,
            load_balancer,
        })
    }

    /// Headers in the order in which they are sent.
    pub const fn flows(&self) -> &Window<BenchFlow> {
        &self.flows
    }

    /// The generator's state, one element.
    pub const fn state(&self) -> &Window<BenchState> {
        &self.state
    }

    /// Chooses what the generator calls.
    pub fn aim(&mut self, target: Target) -> Result<(), DatapathError> {
        let program = match target {
            Target::Nothing => None,
            Target::Head => Some(object::program_fd(&self.ebpf, "bench_head")?),
            Target::Tx => Some(object::program_fd(&self.ebpf, "bench_tx")?),
            Target::Floor => Some(object::program_fd(&self.ebpf, "bench_floor")?),
            Target::LoadBalancer => Some(self.load_balancer.try_clone().map_err(|source| {
                DatapathError::pin("duplicating a program's descriptor", "lb_ingress", source)
            })?),
        };
        let map = self
            .ebpf
            .map_mut("BENCH_PROGS")
            .ok_or_else(|| missing("map", "BENCH_PROGS"))?;
        let mut programs =
            ProgramArray::try_from(map).map_err(|error| object::from_map("BENCH_PROGS", error))?;
        match program {
            Some(program) => programs.set(0, &program, 0),
            // An empty slot is no error: the generator was alone before.
            None => programs.clear_index(&0).or(Ok(())),
        }
        .map_err(|error| object::from_map("BENCH_PROGS", error))
    }

    /// Sends `n` packets; the frame handed in only sets the length.
    pub fn send(&self, frame: &[u8], n: u32) -> Result<(), DatapathError> {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: n,
            ..TestRunOptions::new()
        };
        let run = xdp(&self.ebpf, "bench_gen")?.test_run(options);
        run.map(drop)
            .map_err(|error| test_run::failed("bench_gen", error))
    }

    /// What the floor does to one packet.
    pub fn floor(&self, packet: &[u8]) -> Result<Run, DatapathError> {
        test_run::run(xdp(&self.ebpf, "bench_floor").ok(), "bench_floor", packet)
    }
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").finish_non_exhaustive()
    }
}

fn xdp<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a Xdp, DatapathError> {
    let program = ebpf.program(name).ok_or_else(|| missing("program", name))?;
    program
        .try_into()
        .map_err(|error| object::from_program(name, error))
}

fn xdp_mut<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DatapathError> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| missing("program", name))?;
    program
        .try_into()
        .map_err(|error| object::from_program(name, error))
}

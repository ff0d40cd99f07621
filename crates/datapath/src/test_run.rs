//! Packets through a loaded program without a wire (`BPF_PROG_TEST_RUN`).
//!
//! The kernel presents the packet as received on the loopback device (index 1) of the caller's network namespace.

use std::io;
use std::time::Duration;

use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp};

use crate::DatapathError;

/// Room for what programs put in front of a packet.
const HEADROOM: usize = 512;

/// What a program did to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The program's return value (`XDP_*`).
    pub verdict: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// As the kernel measured it.
    pub duration: Duration,
}

pub(crate) fn run(program: Option<&Xdp>, name: &str, packet: &[u8]) -> Result<Run, DatapathError> {
    let program = program.ok_or_else(|| DatapathError::TestRun {
        prog: name.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    let mut out = vec![0; packet.len() + HEADROOM];
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ..TestRunOptions::new()
    };
    let result = program
        .test_run(options)
        .map_err(|error| failed(name, error))?;
    out.truncate(result.data_size_out as usize);
    Ok(Run {
        verdict: result.return_value,
        packet: out,
        duration: result.duration,
    })
}

pub(crate) fn failed(name: &str, error: ProgramError) -> DatapathError {
    let source = match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other.to_string()),
    };
    DatapathError::TestRun {
        prog: name.to_owned(),
        source,
    }
}

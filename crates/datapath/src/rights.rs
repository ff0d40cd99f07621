//! Whether this process may use BPF at all, asked before anything is touched.

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::{DatapathError, sys};

/// Creates and drops the smallest map. On a kernel that still counts BPF memory against `RLIMIT_MEMLOCK`, raises that first.
pub(crate) fn check() -> Result<(), DatapathError> {
    let Err(first) = sys::probe_map() else {
        return Ok(());
    };
    if first.raw_os_error() != Some(libc::EPERM) {
        return Err(DatapathError::OutOfMemory {
            map: "probe".to_owned(),
            source: first,
        });
    }
    match setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        Ok(()) => sys::probe_map(),
        Err(Errno::EPERM) => Err(first),
        Err(errno) => Err(errno.into()),
    }
    .map_err(|source| DatapathError::NoBpfRights {
        call: "creating a map",
        source,
    })
}

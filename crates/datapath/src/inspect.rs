//! Looking into the maps of a running node from outside, beside the process that works with them. Nothing is loaded, made or locked.

use std::path::Path;

use fairlead_abi::flow::{FlowKey, FlowValue};

use crate::layout::{self, Spec};
use crate::{DatapathConfig, DatapathError, HashMap, sys};

/// `FLOWS` and `FLOWS_NEW` as pinned below `pin_dir` by a process with the default sizes.
///
/// The directory may be seen through another process (`/proc/PID/root/sys/fs/bpf/...`), which is how a file system of another mount
/// namespace is reached.
///
/// # Errors
/// `Pin` when there is no such pin, `LayoutChanged` when it was made by another build.
pub fn flow_tables(pin_dir: &Path) -> Result<[HashMap<FlowKey, FlowValue>; 2], DatapathError> {
    let cfg = DatapathConfig::new(pin_dir);
    let specs = layout::load_balancer(&cfg);
    let dir = pin_dir.join(layout::directory(&specs));
    Ok([
        table(&dir, &specs, "FLOWS")?,
        table(&dir, &specs, "FLOWS_NEW")?,
    ])
}

fn table(
    dir: &Path,
    specs: &[Spec],
    name: &'static str,
) -> Result<HashMap<FlowKey, FlowValue>, DatapathError> {
    use std::os::fd::AsFd as _;

    let spec = specs
        .iter()
        .find(|spec| spec.row.name == name)
        .expect("the load balancer's maps include both flow tables");
    let path = dir.join(name);
    let map = sys::open_pin(&path)
        .map_err(|source| DatapathError::pin("opening a pinned map", &path, source))?;
    spec.check(map.as_fd())?;
    Ok(HashMap::over(name, map, spec.max_entries))
}

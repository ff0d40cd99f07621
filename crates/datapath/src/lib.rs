//! Kernel objects and their life: load, pin, attach, typed maps. The only user of aya.
//!
//! [`Datapath::open`] loads the embedded programs over maps pinned on a BPF file system, [`Datapath::attach`] puts them on an interface by a
//! pinned link. Killing the process leaves both in place (invariant I3); the next `open` and `attach` take over without a lost packet. A
//! pinned map of another layout is never reused (I8): the new layout gets a directory of its own.
//!
//! ```text
//! <pin_dir>/links/<ifindex>      XDP links
//! <pin_dir>/v<layout hash>/NAME  maps; PROGS is the tail-call array of the running programs
//! ```
//!
//! Features work with [`maps`], whose types exist without a kernel too.

pub mod bench;
mod bpffs;
mod datapath;
mod error;
mod hash;
pub mod inspect;
mod layout;
mod links;
pub mod maps;
pub mod netdev;
mod object;
mod per_cpu;
mod rights;
mod sys;
mod test_run;
mod window;

pub use datapath::{Cleaned, Datapath, DatapathConfig, Decap, cleanup};
pub use error::DatapathError;
pub use links::{Acceleration, Attached, Mode};
pub use maps::{DecapMaps, HashMap, Insert, L2Maps, LbMaps, MapError, PerCpuArray, Plain, Window};
pub use object::{MapLayout, ProgramCost};
pub use test_run::Run;

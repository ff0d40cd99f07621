//! The embedded object: one load makes one set of programs over the pinned maps.
//!
//! Each set has a tail-call array of its own, so that an entry program of one build never calls into another build's programs. The kernel
//! empties such an array when its last pin and descriptor are gone, so each stays pinned until no link runs its set.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError as AyaMapError, ProgramArray};
use aya::programs::{Program, ProgramError, ProgramFd, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use fairlead_abi::maps::MAPS;

use crate::layout::Spec;
use crate::{DatapathError, sys};

/// The programs, built from `bpf/kern` by this crate's build script.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fairlead.o"));

const PROGS: &str = "PROGS";

/// Which programs and maps of the object a process uses.
pub(crate) struct Role {
    /// Runs on the hook.
    pub(crate) entry: &'static str,
    /// Programs in the slots of `PROGS`.
    pub(crate) tails: &'static [(u32, &'static str)],
    pub(crate) specs: Vec<Spec>,
}

/// Loaded programs and open maps.
pub(crate) struct ProgramSet {
    ebpf: Ebpf,
    maps: BTreeMap<&'static str, OwnedFd>,
    /// Where this set's tail-call array is pinned.
    progs_pin: Option<PathBuf>,
    entry: ProgramFd,
    entry_id: u32,
}

/// One loaded program and what it cost the verifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    pub name: String,
    /// Instructions that the verifier looked at.
    pub verified: u32,
    /// Bytes after the kernel's rewriting.
    pub translated: u32,
}

/// A map of the object as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapLayout {
    pub name: String,
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Bytes.
    pub key: u32,
    /// Bytes.
    pub value: u32,
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
}

impl ProgramSet {
    /// Loads the role's programs over the maps pinned in `directory`; makes and pins those that are missing.
    pub(crate) fn load(role: &Role, directory: &Path) -> Result<Self, DatapathError> {
        crate::bpffs::create_dir(directory)?;
        for spec in &role.specs {
            let path = directory.join(spec.row.name);
            if spec.row.name != PROGS && path.exists() {
                let map = sys::open_pin(&path)
                    .map_err(|source| DatapathError::pin("opening a pinned map", &path, source))?;
                spec.check(map.as_fd())?;
            }
        }
        let uses_tails = !role.tails.is_empty();
        let progs_pin = uses_tails.then(|| unused_progs_pin(directory));
        let mut ebpf = loader(role, directory, progs_pin.as_deref())
            .load(OBJECT)
            .map_err(from_ebpf)?;
        load_programs(&mut ebpf, role)?;
        if uses_tails {
            fill_tails(&mut ebpf, role)?;
        }
        let maps = open_maps(&ebpf, role)?;
        let entry = program_fd(&ebpf, role.entry)?;
        let entry_id = sys::prog_info(entry.as_fd())
            .map_err(|source| DatapathError::pin("describing a program", role.entry, source))?
            .id;
        Ok(Self {
            ebpf,
            maps,
            progs_pin,
            entry,
            entry_id,
        })
    }

    /// Another descriptor of the entry program.
    pub(crate) fn entry_fd(&self) -> Result<ProgramFd, DatapathError> {
        let failed =
            |source| DatapathError::pin("duplicating a program's descriptor", "entry", source);
        self.entry.try_clone().map_err(failed)
    }

    pub(crate) fn entry(&self) -> BorrowedFd<'_> {
        self.entry.as_fd()
    }

    pub(crate) const fn entry_id(&self) -> u32 {
        self.entry_id
    }

    /// A descriptor of one of the role's maps.
    pub(crate) fn map(&self, name: &'static str) -> Result<OwnedFd, DatapathError> {
        let map = self.maps.get(name).ok_or_else(|| missing("map", name))?;
        map.try_clone()
            .map_err(|source| DatapathError::pin("duplicating a map's descriptor", name, source))
    }

    /// Makes this set's tail-call array the only one that is pinned. Call when no link runs another set.
    pub(crate) fn retire_others(&mut self, directory: &Path) -> Result<(), DatapathError> {
        let Some(current) = &self.progs_pin else {
            return Ok(());
        };
        let settled = directory.join(PROGS);
        // bpffs renames in one step, so at no time is the array without a pin.
        if *current != settled {
            fs::rename(current, &settled)
                .map_err(|source| DatapathError::pin("renaming a pin", current, source))?;
            self.progs_pin = Some(settled.clone());
        }
        for path in progs_pins(directory)? {
            if path != settled {
                fs::remove_file(&path)
                    .map_err(|source| DatapathError::pin("removing a pin", path, source))?;
            }
        }
        Ok(())
    }

    /// The program of this name.
    pub(crate) fn xdp(&self, name: &str) -> Option<&Xdp> {
        match self.ebpf.program(name) {
            Some(Program::Xdp(program)) => Some(program),
            _ => None,
        }
    }

    pub(crate) fn layouts(&self) -> Vec<MapLayout> {
        let layout = |(name, map): (&str, &Map)| {
            let info = sys::map_info(map_data(map)?.fd().as_fd()).ok()?;
            Some(MapLayout {
                name: name.to_owned(),
                kind: info.kind,
                key: info.key_size,
                value: info.value_size,
                max_entries: info.max_entries,
                flags: info.flags,
            })
        };
        self.ebpf.maps().filter_map(layout).collect()
    }

    pub(crate) fn costs(&self) -> Vec<ProgramCost> {
        let mut costs: Vec<_> = self
            .ebpf
            .programs()
            .filter_map(|(name, program)| {
                let info = program.info().ok()?;
                Some(ProgramCost {
                    name: name.to_owned(),
                    verified: info.verified_instruction_count()?,
                    translated: info.size_translated()?,
                })
            })
            .collect();
        costs.sort_by(|a, b| a.name.cmp(&b.name));
        costs
    }
}

fn loader<'a>(role: &Role, directory: &Path, progs_pin: Option<&Path>) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    for row in MAPS {
        match role.specs.iter().find(|spec| spec.row.name == row.name) {
            Some(spec) => {
                let path = match progs_pin {
                    Some(pin) if row.name == PROGS => pin.to_owned(),
                    _ => directory.join(row.name),
                };
                loader
                    .map_max_entries(row.name, spec.max_entries)
                    .map_pin_path(row.name, path);
            }
            // The object holds every role's maps; those of other roles stay as small as can be and are not pinned.
            None => {
                loader.map_max_entries(row.name, 1);
            }
        }
    }
    loader
}

fn load_programs(ebpf: &mut Ebpf, role: &Role) -> Result<(), DatapathError> {
    for name in role.tails.iter().map(|(_, name)| *name).chain([role.entry]) {
        let program: &mut Xdp = ebpf
            .program_mut(name)
            .ok_or_else(|| missing("program", name))?
            .try_into()
            .map_err(|_error: ProgramError| missing("XDP program", name))?;
        program.load().map_err(|error| from_program(name, error))?;
    }
    Ok(())
}

fn fill_tails(ebpf: &mut Ebpf, role: &Role) -> Result<(), DatapathError> {
    let fds = role
        .tails
        .iter()
        .map(|(slot, name)| Ok((*slot, program_fd(ebpf, name)?)))
        .collect::<Result<Vec<_>, DatapathError>>()?;
    let map = ebpf.map_mut(PROGS).ok_or_else(|| missing("map", PROGS))?;
    let mut progs = ProgramArray::try_from(map).map_err(|error| from_map(PROGS, error))?;
    for (slot, program) in fds {
        progs
            .set(slot, &program, 0)
            .map_err(|error| from_map(PROGS, error))?;
    }
    Ok(())
}

fn open_maps(ebpf: &Ebpf, role: &Role) -> Result<BTreeMap<&'static str, OwnedFd>, DatapathError> {
    let mut maps = BTreeMap::new();
    for spec in &role.specs {
        let name = spec.row.name;
        let fd = map_fd(ebpf, name)?;
        spec.check(fd.as_fd())?;
        maps.insert(name, fd);
    }
    Ok(maps)
}

/// A descriptor of a map of the object.
pub(crate) fn map_fd(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, DatapathError> {
    let data = ebpf
        .map(name)
        .and_then(map_data)
        .ok_or_else(|| missing("map", name))?;
    data.fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| DatapathError::pin("duplicating a map's descriptor", name, source))
}

/// A descriptor of a loaded program.
pub(crate) fn program_fd(ebpf: &Ebpf, name: &'static str) -> Result<ProgramFd, DatapathError> {
    match ebpf.program(name) {
        Some(Program::Xdp(program)) => program
            .fd()
            .map_err(|error| from_program(name, error))?
            .try_clone()
            .map_err(|source| {
                DatapathError::pin("duplicating a program's descriptor", name, source)
            }),
        _ => Err(missing("XDP program", name)),
    }
}

const fn map_data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::ProgramArray(data) => Some(data),
        _ => None,
    }
}

/// Pins of tail-call arrays: `PROGS`, and `PROGS_<n>` while sets change (bpffs refuses names with a dot).
fn progs_pins(directory: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let paths = fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        let is_progs = |path: &PathBuf| {
            path.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n.starts_with(PROGS))
        };
        Ok(paths.into_iter().filter(is_progs).collect())
    };
    list().map_err(|source| DatapathError::pin("listing pins", directory, source))
}

/// A crash while sets change leaves several arrays pinned, any of which a link may still need: take the first name that is free.
fn unused_progs_pin(directory: &Path) -> PathBuf {
    let settled = directory.join(PROGS);
    if !settled.exists() {
        return settled;
    }
    (1..u32::MAX)
        .map(|n| directory.join(format!("{PROGS}_{n}")))
        .find(|path| !path.exists())
        .expect("a directory holds finitely many names")
}

pub(crate) fn missing(what: &str, name: &str) -> DatapathError {
    DatapathError::ObjectMalformed {
        what: format!("{what} {name} is missing"),
    }
}

pub(crate) fn from_ebpf(error: EbpfError) -> DatapathError {
    match error {
        EbpfError::MapError(error) => from_map("a map", error),
        EbpfError::ProgramError(error) => from_program("a program", error),
        other => DatapathError::ObjectMalformed {
            what: other.to_string(),
        },
    }
}

pub(crate) fn from_map(name: &str, error: AyaMapError) -> DatapathError {
    match error {
        AyaMapError::CreateError { name, io_error } => match io_error.raw_os_error() {
            Some(libc::EPERM) => DatapathError::NoBpfRights {
                call: "creating a map",
                source: io_error,
            },
            Some(libc::ENOMEM) => DatapathError::OutOfMemory {
                map: name,
                source: io_error,
            },
            _ => DatapathError::Pin {
                path: name.into(),
                source: io_error,
            },
        },
        AyaMapError::PinError {
            name: pinned,
            error: aya::pin::PinError::SyscallError(error),
        } => DatapathError::pin(
            "pinning a map",
            pinned.unwrap_or_else(|| name.to_owned()),
            error.io_error,
        ),
        AyaMapError::SyscallError(error) => DatapathError::pin(error.call, name, error.io_error),
        other => DatapathError::ObjectMalformed {
            what: format!("{name}: {other}"),
        },
    }
}

pub(crate) fn from_program(prog: &'static str, error: ProgramError) -> DatapathError {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = tail(&verifier_log.to_string());
            if log.is_empty() && io_error.raw_os_error() == Some(libc::EPERM) {
                return DatapathError::NoBpfRights {
                    call: "loading a program",
                    source: io_error,
                };
            }
            DatapathError::VerifierRejected {
                prog,
                log,
                source: io_error,
            }
        }
        other => DatapathError::ObjectMalformed {
            what: format!("{prog}: {other}"),
        },
    }
}

/// The end of the verifier's log, where the reason stands.
fn tail(log: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

//! The map table with this process's sizes, and what the kernel says about a map.
//!
//! Invariant I8: a pinned map whose layout differs is never reused; the pin directory's name is derived from the whole table.

use std::fmt::Write;
use std::os::fd::BorrowedFd;

use fairlead_abi::maps::{Kind, MAPS, MapRow};

use crate::{DatapathConfig, DatapathError, sys};

const BPF_F_MMAPABLE: u32 = 1 << 10;

/// One map as it must be: the row, with the number of entries of this process's settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) row: &'static MapRow,
    pub(crate) max_entries: u32,
}

/// Type, sizes and flags of a map, comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    kind: u32,
    key: u32,
    value: u32,
    max_entries: u32,
    flags: u32,
}

impl Spec {
    /// Compares a map of the kernel with this row.
    pub(crate) fn check(&self, map: BorrowedFd<'_>) -> Result<(), DatapathError> {
        let info = sys::map_info(map).map_err(|source| {
            DatapathError::pin("reading a map's layout", self.row.name, source)
        })?;
        let found = Shape {
            kind: info.kind,
            key: info.key_size,
            value: info.value_size,
            max_entries: info.max_entries,
            flags: info.flags,
        };
        let expected = self.shape();
        if found == expected {
            return Ok(());
        }
        Err(DatapathError::LayoutChanged {
            map: self.row.name,
            expected: format!("{expected:?}"),
            found: format!("{found:?}"),
        })
    }

    fn shape(&self) -> Shape {
        let (kind, flags) = match self.row.kind {
            Kind::Hash => (1, 0),
            Kind::MappedArray => (2, BPF_F_MMAPABLE),
            Kind::ProgArray => (3, 0),
            Kind::PerCpuArray => (6, 0),
            Kind::LruHash => (9, 0),
        };
        let size = |bytes: usize| u32::try_from(bytes).expect("layouts are small");
        Shape {
            kind,
            key: size(self.row.key),
            value: size(self.row.value),
            max_entries: self.max_entries,
            flags,
        }
    }
}

/// The rows that `wanted` names, with the sizes of the settings.
pub(crate) fn specs(cfg: &DatapathConfig, wanted: impl Fn(&str) -> bool) -> Vec<Spec> {
    MAPS.iter()
        .filter(|row| wanted(row.name))
        .map(|row| Spec {
            row,
            max_entries: match row.name {
                "MAGLEV" => cfg.maglev_lines,
                "FLOWS" => cfg.n_flows,
                "FLOWS_NEW" => cfg.n_flows_new,
                "SNAT" => cfg.n_snat,
                "SNAT_NEW" => cfg.n_snat_new,
                _ => row.max_entries,
            },
        })
        .collect()
}

/// The rows of the load balancer and the responder.
pub(crate) fn load_balancer(cfg: &DatapathConfig) -> Vec<Spec> {
    specs(cfg, |name| !name.starts_with("DECAP_"))
}

/// Name of the directory that holds maps of exactly these layouts.
pub(crate) fn directory(specs: &[Spec]) -> String {
    let mut text = String::new();
    for spec in specs {
        write!(text, "{} {:?};", spec.row.name, spec.shape()).expect("writing to a string");
    }
    // FNV-1a, 64 bits: stable across builds, unlike std's hasher.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{DIRECTORY_PREFIX}{hash:016x}")
}

/// How the names of layout directories begin.
pub(crate) const DIRECTORY_PREFIX: &str = "v";

#[cfg(test)]
mod tests {
    use super::{directory, specs};
    use crate::DatapathConfig;

    #[test]
    fn another_size_is_another_directory_and_the_same_size_is_the_same() {
        let cfg = DatapathConfig::new("/sys/fs/bpf/x");
        let larger = DatapathConfig {
            maglev_lines: cfg.maglev_lines * 2,
            ..cfg.clone()
        };
        let of = |cfg: &DatapathConfig| directory(&specs(cfg, |_| true));
        assert_eq!(of(&cfg), of(&cfg.clone()));
        assert_ne!(of(&cfg), of(&larger));
        assert_ne!(
            directory(&specs(&cfg, |name| name == "SNAT")),
            directory(&specs(&cfg, |name| name == "FLOWS"))
        );
    }
}

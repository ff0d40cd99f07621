//! Per-CPU arrays: counters that programs raise without locks and user space sums.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fairlead_abi::lb::Counter;

use crate::maps::{MapError, Plain};
use crate::sys;

/// An array with one element per possible CPU at each index. Clones share it.
pub struct PerCpuArray<T> {
    values: Arc<Values>,
    element: PhantomData<fn() -> T>,
}

struct Values {
    name: &'static str,
    len: u32,
    kind: Kind,
}

enum Kind {
    Kernel { map: OwnedFd, n_cpus: usize },
    Memory(Box<[AtomicU64]>),
}

// === impl PerCpuArray ===

impl<T: Plain> PerCpuArray<T> {
    /// The kernel rounds per-CPU elements up to 8 bytes.
    const STRIDE: usize = size_of::<T>().div_ceil(8) * 8;

    /// A zeroed array with one CPU, in this process only.
    pub fn in_memory(len: u32) -> Self {
        let words = (0..len as usize * Self::STRIDE / 8)
            .map(|_| AtomicU64::new(0))
            .collect();
        Self {
            values: Arc::new(Values {
                name: "in-memory",
                len,
                kind: Kind::Memory(words),
            }),
            element: PhantomData,
        }
    }

    /// A map of the kernel whose value size the caller has compared with `T`.
    pub(crate) fn over(name: &'static str, map: OwnedFd, len: u32, n_cpus: usize) -> Self {
        Self {
            values: Arc::new(Values {
                name,
                len,
                kind: Kind::Kernel { map, n_cpus },
            }),
            element: PhantomData,
        }
    }

    /// Number of indices.
    pub fn len(&self) -> u32 {
        self.values.len
    }

    /// No indices at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every CPU's element at `index`.
    ///
    /// # Panics
    ///
    /// On an index beyond [`PerCpuArray::len`].
    pub fn per_cpu(&self, index: u32) -> Result<Vec<T>, MapError> {
        assert!(
            index < self.len(),
            "element {index} of an array of {}",
            self.len()
        );
        match &self.values.kind {
            Kind::Kernel { map, n_cpus } => {
                let mut bytes = vec![0_u8; Self::STRIDE * n_cpus];
                sys::lookup(map.as_fd(), &index.to_ne_bytes(), &mut bytes)
                    .map_err(|source| self.system("lookup", source))?;
                Ok(bytes.chunks_exact(Self::STRIDE).map(element).collect())
            }
            Kind::Memory(words) => {
                let first = index as usize * Self::STRIDE / 8;
                let bytes: Vec<u8> = words[first..first + Self::STRIDE / 8]
                    .iter()
                    .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
                    .collect();
                Ok(vec![element(&bytes)])
            }
        }
    }

    /// Writes `value` for one CPU and zero for all others: for a record that is used anew, with a zeroed value.
    ///
    /// # Panics
    ///
    /// On an index beyond [`PerCpuArray::len`].
    pub fn reset(&self, index: u32, value: &T) -> Result<(), MapError> {
        assert!(
            index < self.len(),
            "element {index} of an array of {}",
            self.len()
        );
        match &self.values.kind {
            Kind::Kernel { map, n_cpus } => {
                let mut bytes = vec![0_u8; Self::STRIDE * n_cpus];
                bytes[..size_of::<T>()].copy_from_slice(value.as_bytes());
                sys::update(map.as_fd(), &index.to_ne_bytes(), &bytes, sys::ANY)
                    .map_err(|source| self.system("update", source))
            }
            Kind::Memory(words) => {
                let first = index as usize * Self::STRIDE / 8;
                for (word, bytes) in words[first..].iter().zip(value.as_bytes().chunks(8)) {
                    let mut padded = [0; 8];
                    padded[..bytes.len()].copy_from_slice(bytes);
                    word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
                }
                Ok(())
            }
        }
    }

    fn system(&self, call: &'static str, source: io::Error) -> MapError {
        MapError::System {
            map: self.values.name,
            call,
            source,
        }
    }
}

impl PerCpuArray<Counter> {
    /// The sum over all CPUs, wrapping.
    pub fn sum(&self, index: u32) -> Result<Counter, MapError> {
        Ok(self
            .per_cpu(index)?
            .into_iter()
            .fold(Counter::default(), |sum, one| Counter {
                packets: sum.packets.wrapping_add(one.packets),
                bytes: sum.bytes.wrapping_add(one.bytes),
            }))
    }
}

fn element<T: Plain>(bytes: &[u8]) -> T {
    T::read_from_bytes(&bytes[..size_of::<T>()]).expect("an element has the size of its type")
}

impl<T> Clone for PerCpuArray<T> {
    fn clone(&self) -> Self {
        Self {
            values: Arc::clone(&self.values),
            element: PhantomData,
        }
    }
}

impl<T> fmt::Debug for PerCpuArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerCpuArray")
            .field("name", &self.values.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Counter, PerCpuArray};

    #[test]
    fn a_reset_counter_reads_back_and_leaves_its_neighbours_alone() {
        let array = PerCpuArray::<Counter>::in_memory(4);
        array
            .reset(
                2,
                &Counter {
                    packets: 3,
                    bytes: 5,
                },
            )
            .unwrap();
        assert_eq!(
            array.sum(2).unwrap(),
            Counter {
                packets: 3,
                bytes: 5
            }
        );
        assert_eq!(array.sum(1).unwrap(), Counter::default());
        assert_eq!(array.sum(3).unwrap(), Counter::default());
    }
}

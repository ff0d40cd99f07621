//! Hash maps (plain and LRU) by system call, or in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zerocopy::IntoBytes;

use crate::maps::{MapError, Plain};
use crate::sys;

/// Elements asked for in one batch; doubled while one bucket of the kernel's table holds more.
const BATCH: u32 = 1024;

/// What an insertion does when the key exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// Create or replace.
    Any,
    /// Only create: [`MapError::Exists`] otherwise.
    New,
    /// Only replace: [`MapError::Missing`] otherwise.
    Replace,
}

/// A hash map shared with the programs. Clones share it; each call is one system call and atomic.
pub struct HashMap<K, V> {
    table: Arc<Table>,
    types: PhantomData<fn() -> (K, V)>,
}

struct Table {
    name: &'static str,
    max_entries: u32,
    kind: Kind,
}

/// Keys and values as bytes.
type Elements = BTreeMap<Box<[u8]>, Box<[u8]>>;

enum Kind {
    Kernel(OwnedFd),
    Memory(Mutex<Elements>),
}

// === impl HashMap ===

impl<K: Plain, V: Plain> HashMap<K, V> {
    /// An empty map in this process only. It is full at `max_entries`; nothing is evicted.
    pub fn in_memory(max_entries: u32) -> Self {
        Self::from_kind("in-memory", max_entries, Kind::Memory(Mutex::default()))
    }

    /// A map of the kernel whose key and value sizes the caller has compared with `K` and `V`.
    pub(crate) fn over(name: &'static str, map: OwnedFd, max_entries: u32) -> Self {
        Self::from_kind(name, max_entries, Kind::Kernel(map))
    }

    fn from_kind(name: &'static str, max_entries: u32, kind: Kind) -> Self {
        Self {
            table: Arc::new(Table {
                name,
                max_entries,
                kind,
            }),
            types: PhantomData,
        }
    }

    /// How many elements fit.
    pub fn capacity(&self) -> u32 {
        self.table.max_entries
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        match &self.table.kind {
            Kind::Kernel(map) => {
                let mut value = V::new_zeroed();
                let found = sys::lookup(map.as_fd(), key.as_bytes(), value.as_mut_bytes())
                    .map_err(|source| self.system("lookup", source))?;
                Ok(found.then_some(value))
            }
            Kind::Memory(elements) => {
                Ok(held(elements).get(key.as_bytes()).map(|bytes| plain(bytes)))
            }
        }
    }

    /// Writes a value.
    pub fn insert(&self, key: &K, value: &V, how: Insert) -> Result<(), MapError> {
        match &self.table.kind {
            Kind::Kernel(map) => {
                let flags = match how {
                    Insert::Any => sys::ANY,
                    Insert::New => sys::NOEXIST,
                    Insert::Replace => sys::EXIST,
                };
                sys::update(map.as_fd(), key.as_bytes(), value.as_bytes(), flags).map_err(
                    |source| match source.raw_os_error() {
                        Some(libc::E2BIG | libc::ENOMEM) => MapError::Full {
                            map: self.table.name,
                        },
                        Some(libc::EEXIST) => MapError::Exists {
                            map: self.table.name,
                        },
                        Some(libc::ENOENT) => MapError::Missing {
                            map: self.table.name,
                        },
                        _ => self.system("update", source),
                    },
                )
            }
            Kind::Memory(elements) => self.insert_in_memory(&mut held(elements), key, value, how),
        }
    }

    /// Removes a key; `false` when there was none.
    pub fn remove(&self, key: &K) -> Result<bool, MapError> {
        match &self.table.kind {
            Kind::Kernel(map) => sys::delete(map.as_fd(), key.as_bytes())
                .map_err(|source| self.system("delete", source)),
            Kind::Memory(elements) => Ok(held(elements).remove(key.as_bytes()).is_some()),
        }
    }

    /// Every element, in no order. Elements that come or go meanwhile may be missed, none is returned twice unless it came back.
    ///
    /// # Complexity
    ///
    /// One system call for about a thousand elements.
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        let mut all = Vec::new();
        self.for_each(|key, value| all.push((key, value)))?;
        Ok(all)
    }

    /// Number of elements, by counting them.
    pub fn len(&self) -> Result<usize, MapError> {
        let mut n_elements = 0;
        self.for_each(|_, _| n_elements += 1)?;
        Ok(n_elements)
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> Result<bool, MapError> {
        Ok(self.len()? == 0)
    }

    /// Calls `visit` for every element, without holding them all at once.
    pub fn for_each(&self, mut visit: impl FnMut(K, V)) -> Result<(), MapError> {
        match &self.table.kind {
            Kind::Kernel(map) => self.for_each_in_kernel(map, &mut visit),
            Kind::Memory(elements) => {
                let copy: Vec<(K, V)> = held(elements)
                    .iter()
                    .map(|(k, v)| (plain(k), plain(v)))
                    .collect();
                for (key, value) in copy {
                    visit(key, value);
                }
                Ok(())
            }
        }
    }

    fn for_each_in_kernel(
        &self,
        map: &OwnedFd,
        visit: &mut impl FnMut(K, V),
    ) -> Result<(), MapError> {
        let mut room = BATCH.min(self.table.max_entries.max(1));
        let (mut first, mut cursor) = (true, [0_u8; 8]);
        let mut keys = vec![K::new_zeroed(); room as usize];
        let mut values = vec![V::new_zeroed(); room as usize];
        loop {
            let step = sys::lookup_batch(
                map.as_fd(),
                first,
                &mut cursor,
                keys.as_mut_bytes(),
                values.as_mut_bytes(),
                room,
            );
            let batch = match step {
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC)
                        && room < self.table.max_entries =>
                {
                    room = room.saturating_mul(2).min(self.table.max_entries);
                    keys.resize(room as usize, K::new_zeroed());
                    values.resize(room as usize, V::new_zeroed());
                    continue;
                }
                other => other.map_err(|source| self.system("batched lookup", source))?,
            };
            for (key, value) in keys.iter().zip(&values).take(batch.count as usize) {
                visit(*key, *value);
            }
            if batch.done {
                return Ok(());
            }
            first = false;
        }
    }

    fn insert_in_memory(
        &self,
        elements: &mut Elements,
        key: &K,
        value: &V,
        how: Insert,
    ) -> Result<(), MapError> {
        let map = self.table.name;
        let exists = elements.contains_key(key.as_bytes());
        match how {
            Insert::New if exists => return Err(MapError::Exists { map }),
            Insert::Replace if !exists => return Err(MapError::Missing { map }),
            _ if !exists && elements.len() >= self.table.max_entries as usize => {
                return Err(MapError::Full { map });
            }
            _ => {}
        }
        elements.insert(key.as_bytes().into(), value.as_bytes().into());
        Ok(())
    }

    fn system(&self, call: &'static str, source: io::Error) -> MapError {
        MapError::System {
            map: self.table.name,
            call,
            source,
        }
    }
}

impl<K, V> Clone for HashMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
            types: PhantomData,
        }
    }
}

impl<K, V> fmt::Debug for HashMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashMap")
            .field("name", &self.table.name)
            .finish_non_exhaustive()
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plain<T: Plain>(bytes: &[u8]) -> T {
    T::read_from_bytes(bytes).expect("elements are stored with the size of their type")
}

#[cfg(test)]
mod tests;

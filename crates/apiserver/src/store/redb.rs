//! The embedded store: one redb file.
//!
//! Tables: `meta` (format, revision), `objects`, `history` (key: resource and revision) and `floors` (per resource, what was
//! forgotten last). Keys are `resource NUL namespace NUL name`; no part can hold a NUL byte.
//!
//! redb refuses everything after an I/O error until the file is opened again, and a full disk is an I/O error. So the
//! database is an `Option`: a failed commit drops it and `recover` opens it again, which also rolls back whatever half was
//! written.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use super::{Bound, Change, History, Key, PastChange, Record, Store, StoreError};
use crate::config::OpenError;

/// Raised when the tables change shape; an older file is then converted in `open`.
const FORMAT: u64 = 1;
/// A file smaller than this is left as it is, and so is one of which this part is used.
const SHRINK_FROM: u64 = 32 * 1024 * 1024;
const SHRINK_RATIO: u64 = 4;
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Changes and bytes in the history of each resource.
type Sizes = HashMap<String, (usize, usize)>;
type Past<'a> = (&'a str, &'a str, &'a [u8], &'a [u8]);

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Value: revision, JSON.
const OBJECTS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("objects");
/// Key: resource, revision. Value: namespace, name, object after, object before; an absent object is empty.
const HISTORY: TableDefinition<'_, (&str, u64), Past<'_>> = TableDefinition::new("history");
const FLOORS: TableDefinition<'_, &str, u64> = TableDefinition::new("floors");

pub(crate) struct RedbStore {
    path: PathBuf,
    db: Option<Database>,
    bound: Bound,
    /// Changes and bytes of each resource's history, so that a commit need not count.
    kept: Sizes,
}

impl RedbStore {
    pub(crate) fn open(path: &Path, bound: Bound) -> Result<Self, OpenError> {
        let failed = |error: &dyn std::fmt::Display| OpenError::Store {
            path: path.to_owned(),
            detail: error.to_string(),
        };
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => OpenError::StoreBusy {
                    path: path.to_owned(),
                },
                other => failed(&other),
            })?;
        let mut store = Self {
            path: path.to_owned(),
            db: Some(db),
            bound,
            kept: HashMap::new(),
        };
        let found = store.prepare().map_err(|error| failed(&error))?;
        if found > FORMAT {
            return Err(OpenError::StoreFormat {
                path: path.to_owned(),
                found,
                known: FORMAT,
            });
        }
        store.kept = store.count().map_err(|error| failed(&error))?;
        if let Err(error) = store.shrink() {
            // A full disk, most likely: the file serves as it is.
            tracing::warn!(error = %error, "could not make the API's database smaller");
        }
        Ok(store)
    }

    /// Which reign this store belongs to; the first is 1.
    pub(crate) fn fence(&self) -> Result<u64, StoreError> {
        let txn = self.db()?.begin_read().map_err(failed)?;
        let meta = txn.open_table(META).map_err(failed)?;
        let found = meta.get("fence").map_err(failed)?;
        Ok(found.map_or(1, |guard| guard.value()))
    }

    /// Makes a new file of `objects`, all at `revision`, without a history. On disk when it returns.
    pub(crate) fn fill(
        path: &Path,
        revision: u64,
        fence: u64,
        objects: impl Iterator<Item = (Key, Vec<u8>)>,
    ) -> Result<(), OpenError> {
        let bound = Bound {
            changes: 1,
            bytes: 1,
        };
        let store = Self::open(path, bound)?;
        let fill = || {
            let txn = store.db()?.begin_write().map_err(failed)?;
            {
                let mut meta = txn.open_table(META).map_err(failed)?;
                meta.insert("revision", revision).map_err(failed)?;
                // What any resource's history begins after, also of one without objects.
                meta.insert("base", revision).map_err(failed)?;
                meta.insert("fence", fence).map_err(failed)?;
                let mut table = txn.open_table(OBJECTS).map_err(failed)?;
                for (key, json) in objects {
                    let path = path_of(&key);
                    table
                        .insert(path.as_str(), (revision, json.as_slice()))
                        .map_err(failed)?;
                }
            }
            txn.commit().map_err(failed)
        };
        fill().map_err(|error| OpenError::Store {
            path: path.to_owned(),
            detail: error.to_string(),
        })
    }

    /// Gives room back to the disk if most of a large file is unused: pages that were freed are used again, but a file that was
    /// large once stays so by itself.
    fn shrink(&mut self) -> Result<(), StoreError> {
        let Some(db) = self.db.as_mut() else {
            return Ok(());
        };
        let size = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        let history: usize = self.kept.values().map(|(_, bytes)| bytes).sum();
        let used = history as u64 + stored_bytes(db)?;
        if size > SHRINK_FROM && size / SHRINK_RATIO > used {
            db.compact()
                .map_err(|error| failed(redb::Error::from(error)))?;
        }
        Ok(())
    }

    /// Makes the tables of a new file; returns the format of the file. Writes nothing to an older one, whose disk may be full.
    fn prepare(&self) -> Result<u64, StoreError> {
        let txn = self.db()?.begin_read().map_err(failed)?;
        match txn.open_table(META) {
            Ok(meta) => {
                if let Some(found) = meta.get("format").map_err(failed)? {
                    return Ok(found.value());
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(failed(error)),
        }
        let txn = self.db()?.begin_write().map_err(failed)?;
        {
            let mut meta = txn.open_table(META).map_err(failed)?;
            meta.insert("format", FORMAT).map_err(failed)?;
            // Starts at 1: clients read resourceVersion "0" as "whatever you have".
            meta.insert("revision", 1).map_err(failed)?;
            txn.open_table(OBJECTS).map_err(failed)?;
            txn.open_table(HISTORY).map_err(failed)?;
            txn.open_table(FLOORS).map_err(failed)?;
        }
        txn.commit().map_err(failed)?;
        Ok(FORMAT)
    }

    fn count(&self) -> Result<Sizes, StoreError> {
        let txn = self.db()?.begin_read().map_err(failed)?;
        let history = txn.open_table(HISTORY).map_err(failed)?;
        let mut kept = HashMap::new();
        for row in history.iter().map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            let (n, bytes) = kept.entry(key.value().0.to_owned()).or_insert((0, 0));
            let (_, _, after, before) = value.value();
            *n += 1;
            *bytes += after.len() + before.len();
        }
        Ok(kept)
    }

    fn db(&self) -> Result<&Database, StoreError> {
        self.db.as_ref().ok_or_else(|| StoreError::Failed {
            detail: "the database is closed".into(),
        })
    }

    fn try_commit(&self, changes: &[Change]) -> Result<(u64, Sizes), StoreError> {
        let txn = self.db()?.begin_write().map_err(failed)?;
        let mut kept = HashMap::new();
        let first = {
            let mut meta = txn.open_table(META).map_err(failed)?;
            let mut objects = txn.open_table(OBJECTS).map_err(failed)?;
            let mut history = txn.open_table(HISTORY).map_err(failed)?;
            let mut floors = txn.open_table(FLOORS).map_err(failed)?;
            let mut revision = meta
                .get("revision")
                .map_err(failed)?
                .map_or(1, |guard| guard.value());
            let first = revision + 1;
            for change in changes {
                revision += 1;
                let resource = &*change.key.resource;
                let path = path_of(&change.key);
                let found = objects
                    .get(path.as_str())
                    .map_err(failed)?
                    .map(|guard| guard.value().0);
                if found != change.expected {
                    return Err(raced(&change.key));
                }
                match &change.value {
                    Some(json) => objects
                        .insert(path.as_str(), (revision, json.as_slice()))
                        .map(drop),
                    None => objects.remove(path.as_str()).map(drop),
                }
                .map_err(failed)?;
                let after = change.value.as_deref().unwrap_or_default();
                let before = change.previous.as_deref().unwrap_or_default();
                let (namespace, name) = (change.key.namespace.as_str(), change.key.name.as_str());
                history
                    .insert((resource, revision), (namespace, name, after, before))
                    .map_err(failed)?;

                let (n, bytes) = kept
                    .entry(resource.to_owned())
                    .or_insert_with(|| self.kept.get(resource).copied().unwrap_or_default());
                *n += 1;
                *bytes += after.len() + before.len();
                while self.bound.exceeded(*n, *bytes) {
                    let Some((oldest, freed)) = oldest(&history, resource)? else {
                        break;
                    };
                    history.remove((resource, oldest)).map_err(failed)?;
                    floors.insert(resource, oldest).map_err(failed)?;
                    *n -= 1;
                    *bytes -= freed;
                }
            }
            meta.insert("revision", revision).map_err(failed)?;
            first
        };
        txn.commit().map_err(failed)?;
        Ok((first, kept))
    }
}

impl Store for RedbStore {
    fn revision(&self) -> Result<u64, StoreError> {
        let txn = self.db()?.begin_read().map_err(failed)?;
        let meta = txn.open_table(META).map_err(failed)?;
        Ok(meta
            .get("revision")
            .map_err(failed)?
            .map_or(1, |guard| guard.value()))
    }

    fn list(&self) -> Result<Vec<(Key, Record)>, StoreError> {
        let txn = self.db()?.begin_read().map_err(failed)?;
        let objects = txn.open_table(OBJECTS).map_err(failed)?;
        let mut all = Vec::new();
        for row in objects.iter().map_err(failed)? {
            let (path, value) = row.map_err(failed)?;
            let mut parts = path.value().splitn(3, '\0');
            let (Some(resource), Some(namespace), Some(name)) =
                (parts.next(), parts.next(), parts.next())
            else {
                return Err(StoreError::Failed {
                    detail: format!("bad key {:?}", path.value()),
                });
            };
            let (revision, json) = value.value();
            let key = Key {
                resource: resource.into(),
                namespace: namespace.into(),
                name: name.into(),
            };
            all.push((
                key,
                Record {
                    revision,
                    json: json.to_vec(),
                },
            ));
        }
        Ok(all)
    }

    fn history(&self, resource: &str) -> Result<History, StoreError> {
        let txn = self.db()?.begin_read().map_err(failed)?;
        let floors = txn.open_table(FLOORS).map_err(failed)?;
        let meta = txn.open_table(META).map_err(failed)?;
        let base = meta.get("base").map_err(failed)?;
        let floor = floors
            .get(resource)
            .map_err(failed)?
            .or(base)
            .map_or(0, |guard| guard.value());
        let table = txn.open_table(HISTORY).map_err(failed)?;
        let mut changes = Vec::new();
        for row in table
            .range((resource, 0)..=(resource, u64::MAX))
            .map_err(failed)?
        {
            let (key, value) = row.map_err(failed)?;
            let (namespace, name, after, before) = value.value();
            let some = |json: &[u8]| (!json.is_empty()).then(|| json.to_vec());
            changes.push(PastChange {
                revision: key.value().1,
                key: Key {
                    resource: resource.into(),
                    namespace: namespace.into(),
                    name: name.into(),
                },
                value: some(after),
                previous: some(before),
            });
        }
        Ok(History { floor, changes })
    }

    /// Opens the file again; repairs it if need be, which may itself find no room.
    fn recover(&mut self) -> Result<(), StoreError> {
        if self.db.is_none() {
            self.db = Some(
                Database::builder()
                    .set_cache_size(CACHE_BYTES)
                    .open(&self.path)
                    .map_err(failed)?,
            );
            self.kept = self.count()?;
        }
        Ok(())
    }

    fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        match self.try_commit(changes) {
            Ok((first, kept)) => {
                self.kept.extend(kept);
                Ok(first)
            }
            Err(raced @ StoreError::Raced { .. }) => Err(raced),
            Err(error) => {
                self.db = None;
                Err(error)
            }
        }
    }
}

fn stored_bytes(db: &Database) -> Result<u64, StoreError> {
    let txn = db.begin_read().map_err(failed)?;
    let stats = txn
        .open_table(OBJECTS)
        .map_err(failed)?
        .stats()
        .map_err(failed)?;
    Ok(stats.stored_bytes())
}

/// The oldest remembered change of a resource: its revision and its size.
fn oldest(
    history: &redb::Table<'_, (&str, u64), Past<'_>>,
    resource: &str,
) -> Result<Option<(u64, usize)>, StoreError> {
    let mut rows = history
        .range((resource, 0)..=(resource, u64::MAX))
        .map_err(failed)?;
    let Some(row) = rows.next() else {
        return Ok(None);
    };
    let (key, value) = row.map_err(failed)?;
    let (_, _, after, before) = value.value();
    Ok(Some((key.value().1, after.len() + before.len())))
}

fn path_of(key: &Key) -> String {
    format!("{}\0{}\0{}", key.resource, key.namespace, key.name)
}

fn raced(key: &Key) -> StoreError {
    StoreError::Raced {
        resource: key.resource.to_string(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

/// Sorts out "no room" from every other failure of redb.
fn failed(error: impl Into<redb::Error>) -> StoreError {
    let error = error.into();
    let full = |kind: io::ErrorKind| {
        matches!(
            kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    };
    match &error {
        redb::Error::Io(source) if full(source.kind()) => StoreError::Full {
            detail: source.to_string(),
        },
        other => StoreError::Failed {
            detail: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests;

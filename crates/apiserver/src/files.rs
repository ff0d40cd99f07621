//! Small private files, written whole or not at all.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::config::OpenError;

/// Makes `dir` and its parents; what it makes is for its owner only.
pub(crate) fn private_dir(dir: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| OpenError::File {
            action: "make the folder",
            path: dir.to_owned(),
            source,
        })
}

/// Writes `content` to `path` with mode 0600, on disk when it returns. A crash leaves the old file or the new one. What is
/// there already is not written again, so that a restart needs no room on the disk.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), OpenError> {
    let is_private = |meta: std::fs::Metadata| meta.permissions().mode() & 0o777 == 0o600;
    if std::fs::metadata(path).is_ok_and(is_private)
        && std::fs::read(path).is_ok_and(|present| present == content)
    {
        return Ok(());
    }
    replace(path, content).map_err(|source| OpenError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = folder.join(name);
    // A leftover of a crash may have another mode: it goes first, so that ours is created with 0600.
    match std::fs::remove_file(&beside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

/// The content of `path`, or `None` when it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<String>, OpenError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::File {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

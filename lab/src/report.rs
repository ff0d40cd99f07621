//! Telling people: error chains in one line, and copies of logs.

use std::error::Error;
use std::fs;
use std::path::Path;

/// An error with its causes, in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Copies the files of `from` into `to`, which is made if there are any, as far as possible: it serves a report about another failure.
pub fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        drop(fs::create_dir_all(to));
        drop(fs::copy(entry.path(), to.join(entry.file_name())));
    }
}

//! Writes the CRDs to `configs/crd`, or with `--check` only names those that are stale: what `./x codegen` runs.
//!
//! What is written is [`fairlead_api::codegen::files`], and nothing else is touched.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use fairlead_api::codegen;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => write(&root()),
        ["--check"] => check(&root()),
        _ => Err(format!(
            "unknown arguments {arguments:?}: give none to write the CRDs, or --check to compare them"
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Files that differ from what they should hold, or are missing.
fn stale(root: &Path) -> Vec<(String, String)> {
    let mut files = codegen::files();
    files.retain(|(path, content)| {
        !fs::read_to_string(root.join(path)).is_ok_and(|old| old == *content)
    });
    files
}

fn check(root: &Path) -> Result<(), String> {
    let paths: Vec<String> = stale(root).into_iter().map(|(path, _)| path).collect();
    if paths.is_empty() {
        Ok(())
    } else {
        Err(format!("stale: {}; run ./x codegen", paths.join(", ")))
    }
}

fn write(root: &Path) -> Result<(), String> {
    for (path, content) in stale(root) {
        write_file(&root.join(&path), &content).map_err(|e| format!("cannot write {path}: {e}"))?;
        println!("wrote {path}");
    }
    Ok(())
}

fn write_file(file: &Path, content: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_is_stale_and_says_so_before() {
        let root = env::temp_dir().join(format!("fairlead-codegen-{}", std::process::id()));
        let named = check(&root).unwrap_err();
        for (path, _) in codegen::files() {
            assert!(named.contains(&path), "{named}");
        }
        write(&root).unwrap();
        assert_eq!(check(&root), Ok(()));

        let (path, _) = codegen::files().remove(0);
        fs::write(root.join(&path), "old").unwrap();
        assert_eq!(check(&root), Err(format!("stale: {path}; run ./x codegen")));
        write(&root).unwrap();
        assert_eq!(check(&root), Ok(()));
        fs::remove_dir_all(&root).unwrap();
    }
}

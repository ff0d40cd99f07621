//! What binaries load, and which Debian packages it comes from.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

/// The loader of x86-64, by the path that is written into every binary.
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
/// Loaded by name when a host name is looked up, so that no binary lists it.
const RESOLVER: &str = "libresolv.so.2";

/// A Debian package that a library comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name without the architecture.
    pub name: String,
    /// As in dpkg's status: name, version, architecture.
    pub record: String,
    /// Its copyright notice.
    pub copyright: Vec<u8>,
}

/// The loader and every library that the binaries load, by the paths that they are loaded by.
///
/// # Errors
/// A binary that the loader does not take, or a library that is not there.
pub fn closure(binaries: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::from([PathBuf::from(LOADER)]);
    for binary in binaries {
        let output = Command::new(LOADER)
            .arg("--list")
            .arg(binary)
            .output()
            .with_context(|| format!("start {LOADER}: an image is made on x86-64 with glibc"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{}: {}{}",
            binary.display(),
            text,
            String::from_utf8_lossy(&output.stderr)
        );
        found.extend(listed(&text)?);
    }
    let libc = found.iter().find(|path| path.ends_with("libc.so.6"));
    let resolver = libc
        .and_then(|libc| libc.parent())
        .map(|folder| folder.join(RESOLVER));
    found.extend(resolver.filter(|path| path.exists()));
    Ok(found)
}

/// Lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f00)`; the kernel's own library has no path.
fn listed(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines() {
        let Some((name, place)) = line.split_once("=>") else {
            continue;
        };
        let place = place.trim();
        if place == "not found" {
            bail!("{} is not on this machine", name.trim());
        }
        let path = place.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

/// The packages that hold these files, by name.
///
/// # Errors
/// A file that no package holds: nobody could say what it is and under which licence it comes.
pub fn packages(files: &BTreeSet<PathBuf>) -> Result<Vec<Package>> {
    let mut found = BTreeMap::new();
    for file in files {
        if let Entry::Vacant(new) = found.entry(owner(file)?) {
            let package = package(new.key())?;
            new.insert(package);
        }
    }
    Ok(found.into_values().collect())
}

/// `libc6:amd64`. dpkg knows a file by one of its two paths.
fn owner(file: &Path) -> Result<String> {
    let real = fs::canonicalize(file).with_context(|| format!("find {}", file.display()))?;
    let without_usr = real
        .strip_prefix("/usr")
        .map(|rest| Path::new("/").join(rest));
    let names = [Some(file.to_owned()), Some(real), without_usr.ok()];
    for name in names.into_iter().flatten() {
        let output = Command::new("dpkg-query")
            .arg("--search")
            .arg(&name)
            .output()
            .context("start dpkg-query: an image is made on Debian or Ubuntu")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // `diversion by ...` lines name no package.
        let line = text.lines().find(|line| !line.starts_with("diversion"));
        if let Some((package, _)) = line.and_then(|line| line.split_once(": ")) {
            return Ok(package.to_owned());
        }
    }
    bail!("{} belongs to no Debian package", file.display())
}

fn package(name: &str) -> Result<Package> {
    let format = "Package: ${Package}\\nStatus: ${Status}\\nVersion: ${Version}\\nArchitecture: ${Architecture}\\nSource: ${source:Package} (${source:Version})\\nMaintainer: ${Maintainer}\\n";
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", format, name])
        .output()
        .context("start dpkg-query")?;
    ensure!(
        output.status.success(),
        "dpkg-query knows nothing of {name}"
    );
    let plain = name.split(':').next().unwrap_or(name).to_owned();
    let notice = Path::new("/usr/share/doc").join(&plain).join("copyright");
    let copyright = fs::read(&notice).with_context(|| format!("read {}", notice.display()))?;
    Ok(Package {
        name: plain,
        record: String::from_utf8(output.stdout).context("dpkg-query's answer is no text")?,
        copyright,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::listed;

    #[test]
    fn what_the_loader_lists_is_read() {
        let text = "\tlinux-vdso.so.1 (0x7fc0)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7fc1)\n\t/lib64/ld-linux-x86-64.so.2 (0x7fc2)\n";
        assert_eq!(
            listed(text).unwrap(),
            [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6")]
        );
        let error = listed("\tlibz.so.1 => not found\n").unwrap_err();
        assert_eq!(error.to_string(), "libz.so.1 is not on this machine");
    }
}

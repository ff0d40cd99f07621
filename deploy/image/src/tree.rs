//! The files of the image.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::libraries;

/// Where the binaries go.
pub const BIN: &str = "usr/bin";
/// What the image is made of, as Debian's own tools and scanners of images find it.
const PACKAGES: &str = "var/lib/dpkg/status.d";

/// A file of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Folder,
    /// A file and whether it can be run.
    File {
        /// Its bytes.
        content: Vec<u8>,
        /// Mode 0755, else 0644.
        is_executable: bool,
    },
    /// A symbolic link.
    Link(PathBuf),
}

/// Every file by its path, without the leading `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, Node>);

impl Tree {
    /// Binaries, what they load, and what a program expects of any machine.
    ///
    /// # Errors
    /// A binary that is not there or not for this machine; a library that no Debian package holds.
    pub fn of(binaries: &[PathBuf]) -> Result<Self> {
        let mut tree = Self::default();
        tree.base();
        for binary in binaries {
            let name = binary.file_name().context("a binary has a name")?;
            let content = fs::read(binary).with_context(|| {
                format!(
                    "read {}: ./x build makes it, with --release for an image that is shipped",
                    binary.display()
                )
            })?;
            tree.add(Path::new(BIN).join(name), Node::executable(content));
        }
        let closure = libraries::closure(binaries)?;
        for path in &closure {
            let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            let mode = fs::metadata(path)?.permissions().mode();
            let is_executable = mode & 0o111 != 0;
            tree.add(
                inside(path)?,
                Node::File {
                    content,
                    is_executable,
                },
            );
        }
        for package in libraries::packages(&closure)? {
            let record = package.record.into_bytes();
            tree.add(Path::new(PACKAGES).join(&package.name), Node::text(record));
            let notice = Path::new("usr/share/doc")
                .join(&package.name)
                .join("copyright");
            tree.add(notice, Node::text(package.copyright));
        }
        Ok(tree)
    }

    fn base(&mut self) {
        for folder in [
            "etc/fairlead",
            "proc",
            "run/fairlead",
            "sys/fs/bpf",
            "tmp",
            "var/lib/fairlead",
        ] {
            self.add(PathBuf::from(folder), Node::Folder);
        }
        // As on every merged-usr Debian: libraries are named by either path.
        for (link, to) in [
            ("bin", "usr/bin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
        ] {
            self.add(PathBuf::from(link), Node::Link(to.into()));
        }
        let files = [
            (
                "etc/passwd",
                "root:x:0:0:root:/root:/sbin/nologin\nfairlead:x:65532:65532:fairlead:/:/sbin/nologin\n",
            ),
            ("etc/group", "root:x:0:\nfairlead:x:65532:\n"),
            ("etc/nsswitch.conf", "hosts: files dns\n"),
            (
                "etc/os-release",
                "ID=fairlead\nNAME=\"Fairlead\"\nPRETTY_NAME=\"Fairlead on libraries of Debian\"\n",
            ),
        ];
        for (path, text) in files {
            self.add(PathBuf::from(path), Node::text(text.as_bytes().to_vec()));
        }
    }

    /// Adds a file and the folders above it.
    fn add(&mut self, path: PathBuf, node: Node) {
        for above in path
            .ancestors()
            .skip(1)
            .filter(|p| !p.as_os_str().is_empty())
        {
            self.0.entry(above.to_owned()).or_insert(Node::Folder);
        }
        self.0.insert(path, node);
    }

    /// In the order of paths: a folder before what is in it.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_path(), node))
    }
}

impl Node {
    const fn executable(content: Vec<u8>) -> Self {
        Self::File {
            content,
            is_executable: true,
        }
    }

    const fn text(content: Vec<u8>) -> Self {
        Self::File {
            content,
            is_executable: false,
        }
    }
}

/// A path of this machine inside the image: `/lib` is `/usr/lib` there.
fn inside(path: &Path) -> Result<PathBuf> {
    let path = path
        .strip_prefix("/")
        .context("libraries have absolute paths")?;
    ensure!(!path.as_os_str().is_empty(), "/ is no library");
    Ok(if path.starts_with("usr") {
        path.to_owned()
    } else {
        Path::new("usr").join(path)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Node, Tree, inside};

    #[test]
    fn a_folder_comes_before_what_is_in_it() {
        let mut tree = Tree::default();
        tree.base();
        tree.add("usr/lib/x/libc.so.6".into(), Node::text(vec![1]));
        let paths: Vec<_> = tree.iter().map(|(path, _)| path.to_owned()).collect();
        for path in &paths {
            let above = path.parent().filter(|p| !p.as_os_str().is_empty());
            let place = |of: &Path| paths.iter().position(|p| p == of);
            assert!(
                above.is_none_or(|above| place(above) < place(path)),
                "{path:?}"
            );
        }
        assert!(paths.contains(&"usr/lib/x".into()));
    }

    #[test]
    fn libraries_lie_below_usr() {
        assert_eq!(
            inside(Path::new("/lib64/ld.so")).unwrap(),
            Path::new("usr/lib64/ld.so")
        );
        assert_eq!(
            inside(Path::new("/usr/lib/x.so")).unwrap(),
            Path::new("usr/lib/x.so")
        );
        assert!(inside(Path::new("relative")).is_err());
    }
}

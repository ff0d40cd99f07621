//! Archives that a kernel unpacks as its first file system.

/// A cpio archive of the `newc` kind (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
pub(super) struct Newc {
    bytes: Vec<u8>,
    n_entries: u32,
    directories: std::collections::BTreeSet<String>,
}

impl Newc {
    const DIRECTORY: u32 = 0o040_755;
    const FILE: u32 = 0o100_755;

    pub(super) fn directory(&mut self, name: &str) {
        if self.directories.insert(name.to_owned()) {
            self.entry(name, Self::DIRECTORY, &[]);
        }
    }

    pub(super) fn directories_of(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.directory(&path[..end]);
        }
    }

    pub(super) fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, Self::FILE, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.n_entries += 1;
        let size = u32::try_from(content.len()).expect("files are below 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        // inode, mode, uid, gid, links, mtime, size, device and special device (major, minor), name size, checksum.
        let fields = [
            self.n_entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

//! A folder of the demo's own.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
};

/// A new folder that nobody else may enter. Dropped, it is removed with all that is in it.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes one where the system keeps temporary files.
    pub(super) fn new() -> io::Result<Self> {
        let name = format!("pillion-demo-{}-{:08x}", process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        // Fails if something of that name is there, a link included.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| {
                let place = path.display();
                io::Error::new(error.kind(), format!("cannot make {place}: {error}"))
            })?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Replaces a file as an editor does: a new one renamed over it, so that no reader sees half of it.
pub(super) fn save(path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, text)?;
    fs::rename(next, path)
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("pillion: cannot remove {}: {error}", self.0.display());
        }
    }
}

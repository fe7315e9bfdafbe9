//! Files of a configuration: one, or a folder of them.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{LoadError, tree::Source};

/// All files together, in bytes.
const MAX_TOTAL: u64 = 16 << 20;

/// Reads a file, or every `*.yaml` and `*.yml` of a folder in the order of their names.
///
/// In a folder, names that begin with a dot are passed over: editors and Kubernetes (`..data`)
/// put things there that are not for us. Links are followed, subfolders are not entered.
pub(super) fn read(path: &Path) -> Result<Vec<Source>, LoadError> {
    let unreadable = |path: &Path, error| LoadError::Unreadable {
        path: path.to_owned(),
        error,
    };
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, error))?;
    let paths = if metadata.is_dir() {
        entries(path).map_err(|error| unreadable(path, error))?
    } else {
        vec![path.to_owned()]
    };
    let mut left = MAX_TOTAL;
    let mut sources = Vec::with_capacity(paths.len());
    for path in paths {
        let bytes = bytes(&path, &mut left).map_err(|error| unreadable(&path, error))?;
        sources.push(Source::new(path, bytes));
    }
    Ok(sources)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = path
            .extension()
            .is_some_and(|suffix| suffix == "yaml" || suffix == "yml");
        if yaml && !hidden && fs::metadata(&path)?.is_file() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no *.yaml or *.yml file in it",
        ));
    }
    paths.sort();
    Ok(paths)
}

fn bytes(path: &Path, left: &mut u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = left.saturating_add(1);
    let read = File::open(path)?.take(limit).read_to_end(&mut bytes)? as u64;
    *left = left.checked_sub(read).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("a configuration is at most {} MiB in all", MAX_TOTAL >> 20),
        )
    })?;
    Ok(bytes)
}

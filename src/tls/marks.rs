//! By what files are known to be still those that were read.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use rustls::pki_types::UnixTime;

/// A file system's clock moves in steps: of two writes within one only the size may tell. A file that
/// was touched later than this before it is looked at, in seconds, is not told by its marks.
const SETTLED: i64 = 2;

/// What tells apart the files behind some paths, whichever links lead there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marks(Box<[Mark]>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds. A change of content, of permissions, or of anything else; unlike the
    /// time of the content it can't be set back.
    changed: (i64, i64),
}

impl Marks {
    /// Of those files now. Take them before you read: a change while you do is one more. `None`
    /// where they would not tell the next change, or a file is not there.
    pub(super) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>, now: UnixTime) -> Option<Self> {
        let now = i64::try_from(now.as_secs()).ok()?;
        let marks = paths.into_iter().map(|path| {
            let found = fs::metadata(path).ok()?;
            let changed = (found.ctime(), found.ctime_nsec());
            (changed.0 + SETTLED <= now).then_some(Mark {
                device: found.dev(),
                inode: found.ino(),
                size: found.size(),
                changed,
            })
        });
        marks.collect::<Option<_>>().map(Self)
    }
}

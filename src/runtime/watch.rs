//! Notices that files may have changed on disk: the configuration, and what it names.
//!
//! Folders are watched, not files: an editor renames a new file over the old one, and Kubernetes
//! swaps the link `..data` beside the files of a mounted `ConfigMap`; a watch on the file itself
//! would follow the old one. Whether anything has really changed is decided by the content
//! ([`fingerprint`]), so an event too many costs a read, and one that was lost is made up for by a
//! look every 30 seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

/// A look without an event.
const POLL: Duration = Duration::from_secs(30);
/// The same where the kernel gave no watch (`fs.inotify.max_user_instances` is soon used up by many
/// containers on one node): then looking is all there is, and a change shall still be live within
/// 250 ms.
const LOOK: Duration = Duration::from_millis(150);
/// Changes come in several events: this long after the last of them it is looked,
const QUIET: Duration = Duration::from_millis(20);
/// and this long after the first at the latest, while more keep coming.
const PATIENCE: Duration = Duration::from_millis(100);
/// Links followed on the way to a file; the kernel follows as many.
const MAX_LINKS: usize = 40;
/// No more of a file than this is compared.
const MAX_FILE: u64 = 16 << 20;

/// Starts to watch files and folders: a change after this has returned is noticed. Each
/// message means that there may be one. Must be called within a runtime; ends when the receiver is
/// dropped.
pub fn watch(paths: Vec<PathBuf>) -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    let mut folders = Folders::new();
    folders.follow(&paths);
    tokio::spawn(run(paths, folders, sender));
    receiver
}

/// What the files at `path` hold: equal as long as nothing has changed. `None`: unreadable.
pub fn fingerprint(path: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    for file in files(path).ok()? {
        let mut content = Vec::new();
        fs::File::open(&file)
            .ok()?
            .take(MAX_FILE)
            .read_to_end(&mut content)
            .ok()?;
        (file.file_name(), content).hash(&mut hasher);
    }
    Some(hasher.finish())
}

async fn run(paths: Vec<PathBuf>, mut folders: Folders, changed: mpsc::Sender<()>) {
    loop {
        tokio::select! {
            () = folders.event() => {
                let latest = Instant::now() + PATIENCE;
                while timeout_at(latest.min(Instant::now() + QUIET), folders.event()).await.is_ok() {}
            }
            () = sleep(if folders.complete { POLL } else { LOOK }) => {}
            () = changed.closed() => return,
        }
        // The folders themselves may have been replaced. Then the message: what is looked at after
        // it is watched already.
        folders.follow(&paths);
        // One that still waits says the same.
        let _waits = changed.try_send(());
    }
}

/// The folders that are watched.
struct Folders {
    /// `None`: this machine has no more watches to give, and only looking is left.
    inotify: Option<AsyncFd<OwnedFd>>,
    watched: BTreeMap<PathBuf, i32>,
    /// Every folder that matters is watched.
    complete: bool,
}

/// What may change a file's content or where a link leads. Not each write: a log in the same folder
/// would keep us busy, and who writes a configuration closes it.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

impl Folders {
    fn new() -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(io::Error::from)
            .and_then(|inotify| {
                #[expect(
                    deprecated,
                    reason = "the new form is unsafe; an `OwnedFd` keeps its descriptor for life"
                )]
                AsyncFd::with_interest(inotify, Interest::READABLE)
            });
        if let Err(error) = &inotify {
            tracing::warn!(%error, "files are not watched, but looked at every 150 ms");
        }
        Self {
            inotify: inotify.ok(),
            watched: BTreeMap::new(),
            complete: false,
        }
    }

    /// Waits for something to happen; what it was does not matter.
    async fn event(&self) {
        let Some(inotify) = &self.inotify else {
            return std::future::pending().await;
        };
        let mut events = [0; 4096];
        loop {
            let Ok(mut ready) = inotify.readable().await else {
                return std::future::pending().await;
            };
            match rustix::io::read(inotify, &mut events[..]) {
                Ok(_) => return,
                Err(Errno::INTR) => {}
                Err(_) => ready.clear_ready(),
            }
        }
    }

    /// Watches what has to be, and no more.
    fn follow(&mut self, paths: &[PathBuf]) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        let wanted: BTreeSet<PathBuf> = paths.iter().flat_map(|path| folders(path)).collect();
        for (_, &watch) in self
            .watched
            .iter()
            .filter(|(gone, _)| !wanted.contains(*gone))
        {
            // It may be gone from the disk, and its watch with it.
            let _ = inotify::remove_watch(inotify, watch);
        }
        let count = wanted.len();
        // Also those that were watched: the same name may be another folder now.
        self.watched = wanted
            .into_iter()
            .filter_map(|folder| match inotify::add_watch(inotify, &folder, CHANGES) {
                Ok(watch) => Some((folder, watch)),
                Err(error) => {
                    tracing::debug!(folder = %folder.display(), %error, "folder is not watched");
                    None
                }
            })
            .collect();
        self.complete = self.watched.len() == count;
    }
}

/// The folders in which a change may change what `path` leads to: that of the file, those of all
/// links on the way to it, and `path` itself if it is one.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut folders = BTreeSet::new();
    let mut ways = vec![absolute];
    let mut links = 0;
    while let Some(way) = ways.pop() {
        folders.extend(way.parent().map(Path::to_owned));
        if way.is_dir() {
            folders.insert(way.clone());
            // A mounted ConfigMap: its files are links through ..data.
            ways.extend(
                files(&way)
                    .unwrap_or_default()
                    .into_iter()
                    .filter(|file| file.is_symlink()),
            );
        }
        // The first link on the way, from the root: what follows it is elsewhere.
        let link = way.ancestors().filter(|prefix| prefix.is_symlink()).last();
        if let Some((link, target)) = link.and_then(|link| Some((link, fs::read_link(link).ok()?)))
            && links < MAX_LINKS
        {
            links += 1;
            let parent = link.parent().unwrap_or_else(|| Path::new("/"));
            folders.insert(parent.to_owned());
            let rest = way.strip_prefix(link).unwrap_or_else(|_| Path::new(""));
            ways.push(parent.join(target).join(rest));
        }
    }
    folders
}

/// The file, or those of the folder that hold a configuration.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let yaml = file
            .extension()
            .is_some_and(|suffix| suffix == "yaml" || suffix == "yml");
        if yaml && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pillion-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path.canonicalize().unwrap())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// As the kubelet lays it out.
    fn mount(folder: &Path, version: &str, text: &str) {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("a.yaml"), text).unwrap();
        symlink(version, folder.join("..next")).unwrap();
        fs::rename(folder.join("..next"), folder.join("..data")).unwrap();
        if !folder.join("a.yaml").exists() {
            symlink("..data/a.yaml", folder.join("a.yaml")).unwrap();
        }
    }

    async fn changes(
        events: &mut mpsc::Receiver<()>,
        path: &Path,
        before: Option<u64>,
    ) -> Option<u64> {
        loop {
            events.recv().await.unwrap();
            let now = fingerprint(path);
            if now != before {
                return now;
            }
        }
    }

    #[tokio::test]
    async fn a_file_written_renamed_and_rewritten_is_noticed() {
        let folder = Folder::new("watch-file");
        let path = folder.0.join("a.yaml");
        fs::write(&path, "1").unwrap();
        let mut events = watch(vec![path.clone()]);
        let mut last = fingerprint(&path);
        fs::write(&path, "2").unwrap();
        last = changes(&mut events, &path, last).await;
        fs::write(folder.0.join("next"), "3").unwrap();
        fs::rename(folder.0.join("next"), &path).unwrap();
        last = changes(&mut events, &path, last).await;
        fs::write(&path, "4").unwrap();
        changes(&mut events, &path, last).await;
    }

    #[tokio::test]
    async fn the_link_of_a_mounted_config_map_is_noticed() {
        for by_folder in [true, false] {
            let folder = Folder::new(&format!("watch-mount-{by_folder}"));
            mount(&folder.0, "..1", "1");
            let path = if by_folder {
                folder.0.clone()
            } else {
                folder.0.join("a.yaml")
            };
            let mut events = watch(vec![path.clone()]);
            let mut last = fingerprint(&path);
            for version in ["2", "3"] {
                mount(&folder.0, &format!("..{version}"), version);
                last = changes(&mut events, &path, last).await;
            }
        }
    }

    #[test]
    fn every_folder_on_the_way_counts() {
        let folder = Folder::new("watch-links");
        let root = &folder.0;
        fs::create_dir_all(root.join("releases/1")).unwrap();
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("releases/1/a.yaml"), "").unwrap();
        symlink("releases/1", root.join("current")).unwrap();
        symlink("../current/a.yaml", root.join("etc/a.yaml")).unwrap();
        let found = folders(&root.join("etc/a.yaml"));
        for expected in ["etc", "", "releases/1"] {
            let expected = root.join(expected).canonicalize().unwrap();
            assert!(
                found
                    .iter()
                    .any(|folder| folder.canonicalize().is_ok_and(|real| real == expected)),
                "{expected:?} in {found:?}"
            );
        }
    }

    #[test]
    fn links_in_a_circle_come_to_an_end() {
        let folder = Folder::new("watch-circle");
        symlink("b", folder.0.join("a")).unwrap();
        symlink("a", folder.0.join("b")).unwrap();
        assert!(folders(&folder.0.join("a")).contains(&folder.0));
        assert_eq!(fingerprint(&folder.0.join("a")), None);
    }

    #[test]
    fn names_and_content_make_the_fingerprint() {
        let folder = Folder::new("fingerprint");
        fs::write(folder.0.join("a.yaml"), "1").unwrap();
        let first = fingerprint(&folder.0);
        fs::write(folder.0.join("notes.txt"), "1").unwrap();
        assert_eq!(fingerprint(&folder.0), first);
        fs::rename(folder.0.join("a.yaml"), folder.0.join("b.yaml")).unwrap();
        assert_ne!(fingerprint(&folder.0), first);
    }
}

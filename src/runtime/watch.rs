//! Notices that the configuration may have changed on disk.
//!
//! Folders are watched, not files: an editor renames a new file over the old one, and Kubernetes
//! swaps the link `..data` beside the files of a mounted `ConfigMap`; a watch on the file itself
//! would follow the old one. Whether anything has really changed is decided by the content
//! ([`fingerprint`]), so an event too many costs a read, and one that was lost is made up for by a
//! look every 30 seconds.

use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::{Notify, mpsc},
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

/// Starts to watch `path`, a file or a folder: a change after this has returned is noticed. Each
/// message means that there may be one. Must be called within a runtime; ends when the receiver is
/// dropped.
pub fn watch(path: PathBuf) -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    let events = Arc::new(Notify::new());
    let mut folders = Folders::new(Arc::clone(&events));
    folders.follow(&path);
    tokio::spawn(run(path, folders, events, sender));
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

async fn run(path: PathBuf, mut folders: Folders, events: Arc<Notify>, changed: mpsc::Sender<()>) {
    loop {
        tokio::select! {
            () = events.notified() => {
                let latest = Instant::now() + PATIENCE;
                while timeout_at(latest.min(Instant::now() + QUIET), events.notified()).await.is_ok() {}
            }
            () = sleep(if folders.complete { POLL } else { LOOK }) => {}
            () = changed.closed() => return,
        }
        // The folders themselves may have been replaced. Then the message: what is looked at after
        // it is watched already.
        folders.follow(&path);
        // One that still waits says the same.
        let _waits = changed.try_send(());
    }
}

/// The folders that are watched.
struct Folders {
    /// `None`: this machine has no more watches to give, and only looking is left.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    /// Every folder that matters is watched.
    complete: bool,
}

impl Folders {
    fn new(events: Arc<Notify>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the file is an event too, and would call for another look without end. An
            // error (too many events at once) calls for one.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                events.notify_one();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "configuration is not watched, but looked at every 150 ms");
        }
        Self {
            watcher: watcher.ok(),
            watched: BTreeSet::new(),
            complete: false,
        }
    }

    /// Watches what has to be, and no more.
    fn follow(&mut self, path: &Path) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let wanted = folders(path);
        for gone in self.watched.difference(&wanted) {
            // It may be gone from the disk, and its watch with it.
            drop(watcher.unwatch(gone));
        }
        let count = wanted.len();
        // Also those that were watched: the same name may be another folder now.
        self.watched = wanted
            .into_iter()
            .filter(|folder| match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => true,
                Err(error) => {
                    tracing::debug!(folder = %folder.display(), %error, "folder is not watched");
                    false
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
        let mut events = watch(path.clone());
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
            let mut events = watch(path.clone());
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

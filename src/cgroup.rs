//! The control groups that this process is in, as the kernel shows them: version 2, and version 1
//! where there is no other.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the kernel shows its groups.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// The groups that this process is in: `/proc/self/cgroup`.
pub(crate) fn own() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// What the groups of this process have used, and may use. `None`: not told, or no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Periods in which something of the group wanted to run.
    pub(crate) periods: Option<u64>,
    /// Those of them in which it had to wait, as its share was used up.
    pub(crate) throttled_periods: Option<u64>,
    pub(crate) throttled: Option<Duration>,
    /// Bytes, caches of files included.
    pub(crate) memory: Option<u64>,
    pub(crate) memory_limit: Option<u64>,
}

impl Usage {
    /// Reads it. Processor and memory are each those of the innermost group that is limited, for
    /// that is whom a limit concerns; of the innermost one there is if none is.
    pub(crate) fn read(root: &Path, own: &str) -> Self {
        let mut usage = Self::default();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            let has = |name| controllers.split(',').any(|each| each == name);
            if controllers.is_empty() {
                usage.processor(&folders(root, path), "throttled_usec", 1000);
                usage.memory(&folders(root, path), "memory.current", "memory.max");
            }
            // Both names are in use for the same hierarchy.
            if has("cpu") {
                for name in [controllers, "cpu"] {
                    usage.processor(&folders(&root.join(name), path), "throttled_time", 1);
                }
            }
            if has("memory") {
                let folders = folders(&root.join("memory"), path);
                let (used, limit) = ("memory.usage_in_bytes", "memory.limit_in_bytes");
                usage.memory(&folders, used, limit);
            }
        }
        usage
    }

    /// `cpu.stat`, in which version 1 gives nanoseconds and version 2 microseconds.
    fn processor(&mut self, folders: &[PathBuf], throttled: &str, nanos: u64) {
        let periods = |folder: &PathBuf| {
            let stat = fs::read_to_string(folder.join("cpu.stat")).ok()?;
            value(&stat, "nr_periods").map(|periods| (stat, periods))
        };
        let stats: Vec<_> = folders.iter().filter_map(periods).collect();
        // Periods are counted where there is a limit.
        let limited = stats.iter().find(|(_, periods)| *periods > 0);
        let Some((stat, periods)) = limited.or_else(|| stats.first()) else {
            return;
        };
        self.periods = Some(*periods);
        self.throttled_periods = value(stat, "nr_throttled");
        self.throttled =
            value(stat, throttled).map(|count| Duration::from_nanos(count.saturating_mul(nanos)));
    }

    fn memory(&mut self, folders: &[PathBuf], used: &str, limit: &str) {
        let number = |folder: &PathBuf, name| {
            let text = fs::read_to_string(folder.join(name)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        let groups = || {
            let used = folders.iter().map(|folder| (folder, number(folder, used)));
            used.filter_map(|(folder, used)| Some((number(folder, limit), used?)))
        };
        // Version 1 says "no limit" by the largest number of pages there is.
        let is_limit = |limit: &Option<u64>| limit.is_some_and(|limit| limit < 1 << 60);
        let found = groups().find(|(limit, _)| is_limit(limit));
        if let Some((limit, used)) = found.or_else(|| groups().next()) {
            self.memory = Some(used);
            self.memory_limit = limit.filter(|limit| is_limit(&Some(*limit)));
        }
    }
}

/// The group's folder and those around it, innermost first. In a container the path is often seen
/// from outside and leads nowhere; its last visible parent is the container's own root then.
fn folders(root: &Path, path: &str) -> Vec<PathBuf> {
    let relative = Path::new(path.trim().trim_start_matches('/'));
    relative.ancestors().map(|group| root.join(group)).collect()
}

/// The number in the line that begins with `key`.
fn value(stat: &str, key: &str) -> Option<u64> {
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Files as the kernel has them, gone with this.
    pub(crate) struct Tree(pub(crate) PathBuf);

    impl Tree {
        pub(crate) fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("pillion-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn version_2_tells_of_the_innermost_group_with_a_limit() {
        let tree = Tree::new(
            "usage2",
            &[
                (
                    "pod/cpu.stat",
                    "usage_usec 9\nnr_periods 40\nnr_throttled 4\nthrottled_usec 1500\n",
                ),
                ("pod/memory.current", "900\n"),
                ("pod/memory.max", "1000\n"),
                (
                    "pod/app/cpu.stat",
                    "usage_usec 9\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
                ),
                ("pod/app/memory.current", "700\n"),
                ("pod/app/memory.max", "max\n"),
            ],
        );
        let expected = Usage {
            periods: Some(40),
            throttled_periods: Some(4),
            throttled: Some(Duration::from_micros(1500)),
            memory: Some(900),
            memory_limit: Some(1000),
        };
        assert_eq!(Usage::read(&tree.0, "0::/pod/app\n"), expected);
        assert_eq!(Usage::read(&tree.0, "0::/\n"), Usage::default());
        assert_eq!(Usage::read(&tree.0, "nonsense"), Usage::default());
    }

    #[test]
    fn version_1_has_other_names_and_units() {
        let tree = Tree::new(
            "usage1",
            &[
                (
                    "cpu,cpuacct/a/cpu.stat",
                    "nr_periods 2\nnr_throttled 1\nthrottled_time 5000\n",
                ),
                ("memory/a/memory.usage_in_bytes", "700\n"),
                ("memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
            ],
        );
        let usage = Usage::read(&tree.0, "5:memory:/a\n4:cpu,cpuacct:/a\n");
        let expected = Usage {
            periods: Some(2),
            throttled_periods: Some(1),
            throttled: Some(Duration::from_micros(5)),
            memory: Some(700),
            memory_limit: None,
        };
        assert_eq!(usage, expected);
    }
}

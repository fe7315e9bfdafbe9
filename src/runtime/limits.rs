//! What the machine and the container allow: processors and file descriptors.

use std::{fs, io, path::Path};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cgroup;

/// Data-plane workers to start: `PILLION_WORKERS`, else the cgroup's CPU limit rounded up; never
/// more than the processors this process may run on, unless it was asked for.
pub fn workers() -> Result<usize, String> {
    if let Ok(asked) = std::env::var("PILLION_WORKERS") {
        return match asked.parse() {
            Ok(count @ 1..=1024) => Ok(count),
            _ => Err(format!(
                "PILLION_WORKERS is {asked:?}, not a number from 1 to 1024"
            )),
        };
    }
    let usable = usable_processors();
    Ok(cgroup_limit(Path::new(cgroup::ROOT), &cgroup::own())
        .map_or(usable, |limit| limit.clamp(1, usable)))
}

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_open_files() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Leaves no core file, which would hold private keys. One byte, not none: a program that takes core
/// files through a pipe is asked about no other limit (core(5)).
pub fn forbid_core_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Core);
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(limit.maximum.map_or(1, |most| most.min(1))),
            maximum: limit.maximum,
        },
    )?;
    Ok(())
}

/// Processors that the scheduler may put this process on.
fn usable_processors() -> usize {
    rustix::thread::sched_getaffinity(None)
        .map_or(1, |set| usize::try_from(set.count()).unwrap_or(1))
        .max(1)
}

/// The tightest CPU limit on the way from this process's group to the root, in whole processors,
/// rounded up. In a container the path of the group is often seen from outside and leads nowhere;
/// its last visible parent counts then, which is the container's own root.
fn cgroup_limit(root: &Path, own: &str) -> Option<usize> {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            if controllers.is_empty() {
                return tightest(root, path, v2_limit);
            }
            let cpu = controllers.split(',').any(|controller| controller == "cpu");
            cpu.then(|| {
                // Both names are in use for the same hierarchy.
                [controllers, "cpu"]
                    .iter()
                    .find_map(|name| tightest(&root.join(name), path, v1_limit))
            })?
        })
        .min_by(f64::total_cmp)
        .map(|processors| processors.ceil() as usize)
}

fn tightest(root: &Path, path: &str, limit: fn(&Path) -> Option<f64>) -> Option<f64> {
    let relative = Path::new(path.trim_start_matches('/'));
    relative
        .ancestors()
        .filter_map(|group| limit(&root.join(group)))
        .min_by(f64::total_cmp)
}

/// `cpu.max`: `QUOTA PERIOD`, or `max PERIOD`.
fn v2_limit(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota, period)
}

/// A quota of -1 means none.
fn v1_limit(group: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    ratio(
        read("cpu.cfs_quota_us")?.trim(),
        read("cpu.cfs_period_us")?.trim(),
    )
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::tests::Tree;

    #[test]
    fn version_2_is_rounded_up_and_the_tightest_parent_counts() {
        let tree = Tree::new(
            "cgroup2",
            &[
                ("cpu.max", "max 100000\n"),
                ("pod/cpu.max", "150000 100000\n"),
                ("pod/app/cpu.max", "400000 100000\n"),
            ],
        );
        assert_eq!(cgroup_limit(&tree.0, "0::/pod/app\n"), Some(2));
        assert_eq!(cgroup_limit(&tree.0, "0::/\n"), None);
    }

    #[test]
    fn a_path_seen_from_outside_falls_back_to_the_visible_root() {
        let tree = Tree::new("cgroup2-namespace", &[("cpu.max", "50000 100000\n")]);
        assert_eq!(cgroup_limit(&tree.0, "0::/kubepods/pod1/abc\n"), Some(1));
    }

    #[test]
    fn version_1_is_read_under_either_name() {
        let tree = Tree::new(
            "cgroup1",
            &[
                ("cpu,cpuacct/a/cpu.cfs_quota_us", "250000\n"),
                ("cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"),
                ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!(
            cgroup_limit(&tree.0, "5:memory:/a\n4:cpu,cpuacct:/a\n"),
            Some(3)
        );
        assert_eq!(cgroup_limit(&tree.0, "4:cpu,cpuacct:/\n"), None);
    }

    #[test]
    fn the_real_machine_has_at_least_one() {
        assert!(usable_processors() >= 1);
    }
}

//! Samples how hard pressed the process is.

use std::{fs, path::Path, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    cgroup,
    protect::{Level, Load},
    worker::Shared,
};

/// Between two samples.
const LOOK: Duration = Duration::from_millis(250);

/// Samples for as long as the process lives.
pub(super) async fn watch(shared: Arc<Shared>) {
    let groups = cgroup::own();
    let mut level = Level::None;
    loop {
        let due = Instant::now() + LOOK;
        tokio::time::sleep_until(due).await;
        let load = Load {
            memory: memory(Path::new(cgroup::ROOT), &groups),
            lag: due.elapsed().as_secs_f64(),
        };
        let next = load.level(level);
        if next != level {
            level = next;
            shared.pressure.set(level);
            shared.registry.process().set_pressure(level);
            tracing::warn!(?level, memory = load.memory, lag = load.lag, "pressure");
        }
    }
}

/// The largest share of its memory that a group uses, of this process's own group (cgroup v2) and
/// those around it. Pages of files that can be dropped at any time don't count.
fn memory(root: &Path, groups: &str) -> Option<f64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = Path::new(own.trim().trim_start_matches('/'));
    own.ancestors()
        .filter_map(|group| share(&root.join(group)))
        .max_by(f64::total_cmp)
}

fn share(group: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let max = number(&read("memory.max")?).filter(|&max| max > 0)?;
    let used = number(&read("memory.current")?)?;
    let cache = read("memory.stat").and_then(|stat| {
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix("inactive_file "))?;
        number(line)
    });
    Some(used.saturating_sub(cache.unwrap_or(0)) as f64 / max as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts_without_what_can_be_dropped() {
        let root = std::env::temp_dir().join(format!("pillion-pressure-{}", std::process::id()));
        let group = root.join("pod/app");
        fs::create_dir_all(&group).unwrap();
        let write = |folder: &Path, name: &str, text: &str| {
            fs::write(folder.join(name), text).unwrap();
        };
        let read = || memory(&root, "0::/pod/app\n");
        assert_eq!(read(), None);
        write(&group, "memory.max", "max\n");
        write(&group, "memory.current", "700\n");
        assert_eq!(read(), None, "nobody limits it");
        write(&group, "memory.max", "1000\n");
        assert_eq!(read(), Some(0.7));
        write(&group, "memory.stat", "anon 1\ninactive_file 200\n");
        assert_eq!(read(), Some(0.5));
        write(&root.join("pod"), "memory.max", "2000\n");
        write(&root.join("pod"), "memory.current", "1800\n");
        assert_eq!(read(), Some(0.9));
        assert_eq!(memory(&root, "3:memory:/old\n"), None);
        fs::remove_dir_all(&root).unwrap();
    }
}

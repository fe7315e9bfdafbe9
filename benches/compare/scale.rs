//! What one search among so many routes and endpoints takes, timed: the same that
//! `benches/instructions` counts. Argument: how many. Prints JSON, nanoseconds of CPU a search.

#[path = "../instructions/matching.rs"]
mod matching;

use std::{env, io, time::Duration};

use rustix::time::{ClockId, clock_gettime};

const TURNS: u32 = 200_000;
/// The quickest of these counts: what slows others down is other programs in the same cache.
const TRIES: usize = 10;

fn main() -> io::Result<()> {
    let size = env::args().nth(1).and_then(|size| size.parse().ok());
    let Some(size) = size else {
        return Err(io::Error::other("usage: scale SIZE"));
    };
    let mut table = matching::Table::new(size);
    let tries = (0..TRIES).map(|_| {
        let start = cpu_time();
        (0..TURNS).for_each(|_| table.turn());
        cpu_time() - start
    });
    let each = tries.min().unwrap_or_default().as_secs_f64() / f64::from(TURNS);
    println!("{}", serde_json::json!({ "ns": each * 1e9 }));
    Ok(())
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

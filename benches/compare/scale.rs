//! What one search among so many routes and endpoints takes, timed: the same that
//! `benches/instructions` counts. Argument: how many. Prints JSON, nanoseconds a search.

#[path = "../instructions/matching.rs"]
mod matching;

use std::{env, io};

use tokio::time::Instant;

const WARM: u32 = 100_000;
const TURNS: u32 = 1_000_000;

fn main() -> io::Result<()> {
    let size = env::args().nth(1).and_then(|size| size.parse().ok());
    let Some(size) = size else {
        return Err(io::Error::other("usage: scale SIZE"));
    };
    let mut table = matching::Table::new(size);
    (0..WARM).for_each(|_| table.turn());
    let start = Instant::now();
    (0..TURNS).for_each(|_| table.turn());
    let each = start.elapsed().as_secs_f64() / f64::from(TURNS);
    println!("{}", serde_json::json!({ "ns": each * 1e9 }));
    Ok(())
}

//! Threads, signals, reload and drain.

pub mod limits;
pub mod workers;

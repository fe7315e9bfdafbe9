//! Pillion rides beside an application and carries every request in and out.
//!
//! # Two worlds
//!
//! *Workers* ([`runtime`]) move bytes: one single-threaded runtime a core, each with its own
//! connection pools and its own cells of every metric, so that a request meets no shared lock.
//! The *control thread* decides: it reads configuration ([`config`]), resolves names
//! ([`discovery`]), answers the operator ([`admin`]). It hands over immutable values, the
//! [`snapshot`] above all, with one atomic swap; workers hand back counters and log lines over
//! bounded, lossy channels.
//!
//! # The life of a request
//!
//! 1. [`listener`] accepts a connection, reads its PROXY protocol header, counts it.
//! 2. [`http`] tells HTTP/1.1 from HTTP/2 by the first bytes and reads the head; [`tcp`] carries
//!    what is not HTTP.
//! 3. The worker's [`snapshot`] is loaded once; [`router`] finds the plan of the request:
//!    everything that was decided before it came; [`access`] says whether its caller may,
//!    [`protect`] whether it comes too often, or too much does.
//! 4. [`policy`] is the stack that the request passes: limits, the deadline, attempts until one
//!    stands. Each attempt tells what it found of its endpoint, and what a failure proves.
//! 5. [`upstream`] picks an endpoint that is neither broken nor worse than the others; a connection
//!    comes from the worker's pool or is made.
//! 6. Where no attempt stands, the rule's fallback may answer.
//! 7. The response streams back with a guard in its body that, at its end or when it is dropped,
//!    counts, logs and releases what was held ([`telemetry`]). If the request belongs to a trace that
//!    is sampled, its spans are written now, of what the log would say and of what each attempt noted
//!    ([`telemetry::trace`]).
//!
//! What fails on the way is an [`error::Error`], turned into a response by one table.

pub mod access;
pub mod admin;
mod cgroup;
pub mod cli;
pub mod config;
pub mod discovery;
pub mod error;
mod hex;
pub mod http;
pub mod listener;
pub mod net;
pub mod policy;
pub mod protect;
mod protobuf;
pub mod router;
pub mod runtime;
pub mod snapshot;
mod sys;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod worker;

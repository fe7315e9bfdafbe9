//! HTTP/2 (RFC 9113) on both sides, our own.
//!
//! [`connection`] and [`receive`] are the protocol without a socket: frames, states, windows. A
//! [`link`] joins it with a socket and with those who hold its streams. One task drives a
//! connection; in a turn it reads once, lets every stream go on that can, and writes once for all of
//! them.

pub mod body;
pub mod client;
pub mod connection;
pub mod flow;
pub mod frame;
pub mod hpack;
pub(crate) mod keepalive;
pub mod link;
pub mod receive;
pub mod section;
pub mod send;
pub mod server;
#[cfg(test)]
mod simulation;
pub(crate) mod solo;
pub mod streams;
pub mod tunnel;

/// What a peer may send on one stream before we have passed it on, in octets.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// And on a connection. Larger than a stream's, or one stream that nobody reads would stop all.
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Streams that the peer has reset before we looked at them, more than were served well since;
/// beyond this the connection ends (rapid reset, CVE-2023-44487).
pub const MAX_UNSEEN_RESETS: u32 = 100;
/// Streams that were at fault, more than were served well since; beyond this the connection ends.
pub const MAX_FAULTS: u32 = 256;
/// DATA frames without content or end, more than had some since; beyond this the connection ends.
pub const MAX_EMPTY: u32 = 1000;

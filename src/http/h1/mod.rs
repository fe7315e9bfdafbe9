//! HTTP/1.1 (RFC 9112) on both sides, our own: what is strict, what is buffered and when memory
//! is given back is decided here.

pub(super) mod claims;
pub mod client;
pub mod decode;
pub mod encode;
mod farewell;
pub mod head;
pub mod output;
mod rest;
pub mod scan;
mod sender;
pub mod server;
pub mod trailers;
pub mod wire;

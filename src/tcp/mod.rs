//! Opaque bytes, forwarded.

pub mod copy;
mod forward;

pub use forward::serve;

//! Opaque bytes, forwarded.

pub mod copy;
mod forward;
pub mod patience;

pub use forward::serve;

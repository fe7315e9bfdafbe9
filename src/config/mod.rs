//! From a file to a compiled snapshot.
pub mod model;

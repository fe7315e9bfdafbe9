//! The two worlds: the workers that move bytes ([`workers`]) and the control thread that decides
//! ([`control`]): signals, reload, drain.

pub mod admin;
pub mod control;
pub mod drain;
pub mod ebb;
mod examine;
mod export;
pub mod limits;
pub mod live;
mod pressure;
mod security;
pub mod signals;
pub mod watch;
pub mod workers;

pub use control::run;
pub use live::StartError;

//! The watch, against an agent that does what it is told.

mod agent;
mod pki;
mod refusals;
mod watch;

use super::message::encode;
use pki::{Authority, Identity};

/// The message with that identity alone.
fn message(identity: &Identity, authority: &Authority) -> Vec<u8> {
    let Identity { id, chain, key } = identity;
    encode::svid(id, chain, key, &authority.der)
}

//! Who may call what.
//!
//! A listener's rules are compiled into one [`Policy`], which is asked once a request, or once a
//! connection where opaque bytes are carried; without rules there is none, and nothing is asked.
//! Asking is pure: who calls, what is called and the time go in, a [`Verdict`] comes out. Whoever
//! was let in on what it asked is asked about again when the policy changes ([`standing`]).
//!
//! ```text
//! rule      one rule: does it hold?
//! decision  all rules of a listener: may it?
//! jwt       one token: is it valid, and what does it claim?
//! keys      the public keys that tokens are signed with, and where they stand
//! keeper    reads and fetches them, on the control thread
//! standing  what was let in, asked again
//! ```

pub mod decision;
mod fetch;
pub mod jwt;
pub mod keeper;
pub mod keys;
pub mod rule;
pub mod standing;

#[cfg(test)]
mod oracle;

pub use decision::{Decision, Policy, Verdict};
pub use keeper::Keeper;
pub use keys::{KeySet, Provider};
pub use rule::{Call, Caller, Target};
pub use standing::Standing;

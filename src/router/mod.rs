//! From a request to the plan made for it, and the edits that the plan asks for.
//!
//! Everything here is pure: no socket, no clock, no randomness of its own. A [`Router`] is built
//! once a snapshot and asked once a request.
//!
//! # Precedence
//!
//! Of all matches that a request satisfies, one wins, as Gateway API v1 orders them:
//!
//! 1. the most specific hostname: exact, then the longest wildcard, then none;
//! 2. an exact path, then a regular expression, then the prefix with the most characters;
//! 3. a match that names a method;
//! 4. the most header matches, then the most query parameter matches;
//! 5. the first in the file: route, then rule.
//!
//! Where the specification leaves a choice: regular expressions rank between exact paths and
//! prefixes, and equal among each other, since the length of an expression says nothing about how
//! specific it is. A hostname gives its rules precedence, it does not claim the host: a request
//! that none of them takes goes on to the rules of less specific hostnames. Of two conditions on
//! the same header or parameter in one match, the first counts.
//!
//! Paths are compared in their canonical form ([`normalize`]). A rule may spell an exact path or a
//! prefix in any way; a regular expression is tried on the canonical form, in which `é` is
//! `%C3%A9`.

mod condition;
pub mod host;
pub mod path;
mod pattern;
pub mod query;
pub mod rewrite;
pub mod table;
mod tree;

#[cfg(test)]
mod oracle;

pub(crate) use condition::header_matches;
pub use host::{Authority, HostError, valid_host};
pub use path::{PathError, normalize};
pub use query::{decode, decoded_eq, first, pairs};
pub use rewrite::{Target, edit_headers, location, rewrite_path};
pub use table::{Found, Lookup, Router};

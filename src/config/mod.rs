//! From files to a configuration in which every name is resolved and every default filled in.
//!
//! ```text
//! source   files -> text
//! yaml     text -> tree: every key and value with its place; env replaces ${NAME}
//! decode   tree -> raw: what may be written, every mistake of form noted
//! resolve  raw -> model: names, addresses, patterns, every mistake of meaning noted
//! ```
//!
//! Mistakes are collected over all stages and all files: [`load`] answers with a whole
//! [`model::Config`] or with a [`Report`] of everything that is wrong. A mistake hides no other
//! one: what was refused is replaced by a stand-in about which nothing more is said.

mod decode;
mod env;
mod merge;
pub mod model;
mod notes;
mod otel;
mod raw;
mod reference;
mod report;
mod resolve;
mod secret;
mod source;
mod syntax;
#[cfg(test)]
mod tests;
mod tree;
mod units;
mod yaml;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use sha1::{Digest, Sha1};

use decode::At;
pub use env::Environment;
pub use notes::Notes;
use otel::Otel;
pub use reference::{reference, schema};
use report::Problems;
pub use report::{Problem, Report};
use tree::{Source, Tree};

/// A configuration that holds, and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: model::Config,
    /// The files that were read, in the order in which they were.
    pub files: Vec<PathBuf>,
    /// Of the names and the text of all files: equal for equal content, on every machine.
    pub hash: u64,
    /// What was ignored of the environment, for a person.
    pub warnings: Vec<String>,
    pub notes: Notes,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file or the folder can't be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    /// It was read, and is wrong.
    #[error("{0}")]
    Invalid(Report),
}

/// Reads a file, or a folder of files that are merged. Blocks on the file system.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let sources = source::read(path)?;
    let set = std::env::vars_os().filter(|(_, value)| !value.is_empty());
    let names = set.filter_map(|(name, _)| name.into_string().ok());
    build(sources, &|name| std::env::var(name).ok(), names)
}

/// The same for one text, with an environment of one's own.
pub fn parse(name: &str, text: &str, env: Environment<'_>) -> Result<Loaded, LoadError> {
    build(
        vec![Source::new(name.into(), text.as_bytes().to_vec())],
        env,
        [],
    )
}

/// `set`: the names of what the environment has.
fn build(
    sources: Vec<Source>,
    env: Environment<'_>,
    set: impl IntoIterator<Item = String>,
) -> Result<Loaded, LoadError> {
    let files: Vec<PathBuf> = sources.iter().map(|source| source.path.clone()).collect();
    let hash = hash(&sources);
    let mut tree = Tree::new(sources);
    let mut problems = Problems::default();
    let otel = Otel::read(env);
    let used = RefCell::new(BTreeSet::new());
    let noting = |name: &str| {
        used.borrow_mut().insert(name.to_owned());
        env(name)
    };
    let config = merge::read(&mut tree, &mut problems, &noting)
        .and_then(|root| {
            secret::hide(&mut tree, root);
            decode::decode(&mut tree, root, &mut problems)
        })
        .map(|raw: At<raw::Config>| resolve::resolve(&raw, &tree, &otel, &mut problems));
    match config {
        Some((config, notes)) if problems.is_empty() => Ok(Loaded {
            config,
            files,
            hash,
            warnings: [otel.unread(set, &used.borrow()), otel.warnings].concat(),
            notes,
        }),
        _ => Err(LoadError::Invalid(problems.into_report(&tree))),
    }
}

fn hash(sources: &[Source]) -> u64 {
    let mut sha1 = Sha1::new();
    for source in sources {
        // Lengths between them, so that text can't move from one file to the next unseen.
        let name = source
            .path
            .file_name()
            .unwrap_or_default()
            .as_encoded_bytes();
        sha1.update((name.len() as u64).to_be_bytes());
        sha1.update(name);
        sha1.update((source.text.len() as u64).to_be_bytes());
        sha1.update(source.text.as_bytes());
    }
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 20]>::from(sha1.finalize());
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

//! All that was loaded of identities and trust, as of one moment.

use std::{collections::HashMap, sync::Arc};

use super::{Bundle, Credential, Trust};
use crate::config::model::KeyPair;

/// Immutable: a rotation makes another one.
#[derive(Clone, Debug)]
pub struct Materials {
    /// Grows with every change.
    pub generation: u64,
    /// Who this process is; `None` if nobody is configured, or not there yet.
    pub identity: Option<Arc<Credential>>,
    /// Certificates of listeners.
    pub files: HashMap<KeyPair, Arc<Credential>>,
    pub trust: Trust,
    /// The operating system's authorities, where an upstream wants them.
    pub system: Option<Trust>,
}

impl Materials {
    /// Whether both hold the same, whichever generation they are of.
    pub fn same_as(&self, other: &Self) -> bool {
        let print = |credential: &Arc<Credential>| *credential.fingerprint();
        self.identity.as_ref().map(print) == other.identity.as_ref().map(print)
            && self.trust == other.trust
            && self.system == other.system
            && self.files.len() == other.files.len()
            && self.files.iter().all(|(pair, credential)| {
                other.files.get(pair).map(print) == Some(print(credential))
            })
    }
}

impl Default for Materials {
    fn default() -> Self {
        Self {
            generation: 0,
            identity: None,
            files: HashMap::new(),
            trust: Trust::new::<Bundle>(Vec::new()),
            system: None,
        }
    }
}

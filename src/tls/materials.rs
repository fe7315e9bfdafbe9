//! All that was loaded of identities and trust, as of one moment.

use std::{collections::HashMap, sync::Arc};

use super::{Bundle, Credential, Trust};
use crate::{config::model::KeyPair, telemetry::Expiring};

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

impl Materials {
    /// Everything in it that ends at a known time.
    pub fn expiring(&self) -> Vec<Expiring> {
        let mut all: Vec<Expiring> = self
            .identity
            .iter()
            .map(|identity| ("identity", identity))
            .chain(
                self.files
                    .values()
                    .filter(|file| self.identity.as_ref() != Some(file))
                    .map(|file| ("certificate", file)),
            )
            .map(|(kind, credential)| Expiring {
                kind,
                name: credential.leaf().name().into(),
                at: credential.not_after().as_secs(),
            })
            .collect();
        for bundle in self.trust.bundles() {
            all.extend(bundle.authorities().map(|authority| Expiring {
                kind: "authority",
                name: authority.subject.clone(),
                at: authority.not_after.as_secs(),
            }));
            all.extend(bundle.revocation_lists().filter_map(|(issuer, next)| {
                Some(Expiring {
                    kind: "crl",
                    name: issuer.into(),
                    at: next?.as_secs(),
                })
            }));
        }
        // Of those with one name the first to end is the one to know of.
        all.sort_by(|a, b| (a.kind, &a.name, a.at).cmp(&(b.kind, &b.name, b.at)));
        all.dedup_by(|later, first| later.kind == first.kind && later.name == first.name);
        all
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

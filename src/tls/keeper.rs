//! What the control thread keeps loaded: certificates, keys, authorities, revocation lists.
//!
//! A file that can't be used is refused, and what it replaced stays in use: half a rotation, or a
//! truncated write, must not take a good identity away. A configuration that names something which
//! was never good is refused as a whole; only at the start, when files may still be on their way,
//! is it waited for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
};

use rustls::pki_types::UnixTime;

use super::{Bundle, Credential, Loaded, MaterialError, Materials, Trust};
use crate::config::model::{self, Config, Identity, KeyPair};

/// All that the configuration names, loaded as well as it could be.
#[derive(Clone, Default)]
pub struct Keeper {
    pairs: HashMap<KeyPair, Arc<Credential>>,
    bundles: Vec<(model::Trust, Arc<Bundle>)>,
    system: Option<Trust>,
    /// What comes from the Workload API.
    workload: Option<Workload>,
    /// What was said of each source last, so that it is said once.
    said: BTreeMap<String, String>,
}

/// The latest of the Workload API.
#[derive(Clone)]
struct Workload {
    credential: Arc<Credential>,
    bundles: Vec<Arc<Bundle>>,
}

/// What loading has led to.
pub struct Outcome {
    pub materials: Materials,
    /// What could not be used, a sentence each, and has no predecessor that stays in its place.
    pub missing: Vec<String>,
}

impl Keeper {
    /// Reads everything that `config` names. Blocks on the file system.
    pub fn load(&mut self, config: &Config, now: UnixTime) -> Outcome {
        let mut missing = Vec::new();
        let mut said = BTreeMap::new();
        let pairs = key_pairs(config)
            .into_iter()
            .filter_map(|pair| {
                let loaded = Credential::load(&pair.certificate, &pair.key, now);
                let known = self.pairs.get(&pair).cloned();
                let kept = self.judge(
                    &mut said,
                    pair.certificate.display(),
                    loaded,
                    known,
                    &mut missing,
                );
                Some((pair, kept?))
            })
            .collect();
        self.pairs = pairs;
        let bundles = config
            .trust
            .iter()
            .filter_map(|trust| {
                let domain = trust.trust_domain.clone();
                let loaded = Bundle::load(&trust.authorities, &trust.crls, domain);
                let known = self.bundles.iter().find(|(known, _)| known == trust);
                let known = known.map(|(_, bundle)| Arc::clone(bundle));
                let name = trust.authorities.first().cloned().unwrap_or_default();
                let kept = self.judge(&mut said, name.display(), loaded, known, &mut missing);
                Some((trust.clone(), kept?))
            })
            .collect();
        self.bundles = bundles;
        let wants_system = config
            .upstreams
            .iter()
            .any(|upstream| upstream.tls.as_ref().is_some_and(|tls| tls.system_trust));
        if wants_system && self.system.is_none() {
            match Trust::system() {
                Ok(trust) => self.system = Some(trust),
                Err(error) => missing.push(error.to_string()),
            }
        }
        if !matches!(config.identity, Some(Identity::WorkloadApi(_))) {
            self.workload = None;
        }
        self.said = said;
        Outcome {
            materials: self.materials(config),
            missing,
        }
    }

    /// Takes what the Workload API has sent.
    pub fn take(&mut self, credential: Arc<Credential>, bundles: Vec<Bundle>) {
        self.workload = Some(Workload {
            credential,
            bundles: bundles.into_iter().map(Arc::new).collect(),
        });
    }

    /// What there is, as one value.
    pub fn materials(&self, config: &Config) -> Materials {
        let identity = match &config.identity {
            None => None,
            Some(Identity::Files(pair)) => self.pairs.get(pair).cloned(),
            Some(Identity::WorkloadApi(_)) => self
                .workload
                .as_ref()
                .map(|workload| Arc::clone(&workload.credential)),
        };
        let written = self.bundles.iter().map(|(_, bundle)| bundle);
        let sent = self.workload.iter().flat_map(|workload| &workload.bundles);
        Materials {
            generation: 0,
            identity,
            files: self.pairs.clone(),
            trust: Trust::new(written.chain(sent).cloned().collect()),
            system: self.system.clone(),
        }
    }

    /// What was loaded, or else what was good before. Says in the log what is wrong, once.
    fn judge<T: From<L>, L: Warned>(
        &self,
        said: &mut BTreeMap<String, String>,
        name: impl std::fmt::Display,
        loaded: Result<L, MaterialError>,
        known: Option<Arc<T>>,
        missing: &mut Vec<String>,
    ) -> Option<Arc<T>> {
        let name = name.to_string();
        match loaded {
            Ok(loaded) => {
                let warnings = loaded.warnings();
                if !warnings.is_empty() && self.said.get(&name) != Some(&warnings) {
                    tracing::warn!(file = name, "{warnings}");
                }
                said.insert(name, warnings);
                Some(Arc::new(loaded.into()))
            }
            Err(error) => {
                let text = error.to_string();
                if known.is_none() {
                    missing.push(text.clone());
                } else if self.said.get(&name) != Some(&text) {
                    tracing::error!(
                        problem = text,
                        "refused; what was loaded before stays in use"
                    );
                }
                said.insert(name, text);
                known
            }
        }
    }
}

/// What a person should know of something that was loaded.
trait Warned {
    fn warnings(&self) -> String;
}

impl Warned for Loaded {
    fn warnings(&self) -> String {
        let warnings: Vec<String> = self.warnings.iter().map(ToString::to_string).collect();
        warnings.join("; ")
    }
}

impl From<Loaded> for Credential {
    fn from(loaded: Loaded) -> Self {
        loaded.credential
    }
}

impl Warned for Bundle {
    fn warnings(&self) -> String {
        String::new()
    }
}

fn key_pairs(config: &Config) -> BTreeSet<KeyPair> {
    let identity = match &config.identity {
        Some(Identity::Files(pair)) => Some(pair),
        _ => None,
    };
    let shown = config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref());
    identity
        .into_iter()
        .chain(shown.flat_map(|tls| &tls.certificates))
        .cloned()
        .collect()
}

/// Every file that a change of may change what is loaded.
pub fn files(config: &Config) -> BTreeSet<PathBuf> {
    let pairs = key_pairs(config).into_iter();
    let trust = config
        .trust
        .iter()
        .flat_map(|trust| trust.authorities.iter().chain(&trust.crls))
        .cloned();
    pairs
        .flat_map(|pair| [pair.certificate, pair.key])
        .chain(trust)
        .collect()
}

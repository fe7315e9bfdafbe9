//! What the control thread keeps loaded: certificates, keys, authorities, revocation lists.
//!
//! A file that can't be used is refused, and what it replaced stays in use: half a rotation, or a
//! truncated write, must not take a good identity away. A configuration that names something which
//! was never good is refused as a whole; only at the start, when files may still be on their way,
//! is it waited for. What has not changed since it was read is not read again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::pki_types::UnixTime;

use super::{Bundle, Credential, Loaded, MaterialError, Materials, Trust, marks::Marks};
use crate::config::model::{self, Config, Identity, KeyPair};

/// All that the configuration names, loaded as well as it could be.
#[derive(Clone, Default)]
pub struct Keeper {
    pairs: HashMap<KeyPair, Kept<Credential>>,
    bundles: Vec<(model::Trust, Kept<Bundle>)>,
    system: Option<Trust>,
    /// What comes from the Workload API.
    workload: Option<Workload>,
    /// What was said of each source last, so that it is said once.
    said: BTreeMap<String, String>,
}

/// The last that was good, and the marks of its files if it is what they held.
struct Kept<T> {
    value: Arc<T>,
    marks: Option<Marks>,
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
    /// Reads everything that `config` names and that is not known already. Blocks on the file system.
    pub fn load(&mut self, config: &Config, now: UnixTime) -> Outcome {
        let mut tale = Tale::default();
        let pairs = key_pairs(config)
            .into_iter()
            .filter_map(|pair| {
                let files: [&Path; 2] = [&pair.certificate, &pair.key];
                let known = self.pairs.get(&pair);
                // Of one that ends soon there is something to say, and later something else.
                let lasts = known.is_none_or(|known| !known.value.expires_soon(now));
                let marks = Marks::of(files, now).filter(|_| lasts);
                let load = || Credential::load(files[0], files[1], now);
                let name = files[0].display().to_string();
                let kept = self.keep(name, marks, known, load, &mut tale);
                Some((pair, kept?))
            })
            .collect();
        self.pairs = pairs;
        let bundles = config
            .trust
            .iter()
            .filter_map(|trust| {
                let files = trust.authorities.iter().chain(&trust.crls);
                let marks = Marks::of(files.map(PathBuf::as_path), now);
                let known = self.bundles.iter().find(|(known, _)| known == trust);
                let known = known.map(|(_, bundle)| bundle);
                let domain = trust.trust_domain.clone();
                let load = || Bundle::load(&trust.authorities, &trust.crls, domain);
                let name = trust
                    .authorities
                    .first()
                    .map(|file| file.display().to_string());
                let name = name.unwrap_or_default();
                let kept = self.keep(name, marks, known, load, &mut tale);
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
                Err(error) => tale.missing.push(error.to_string()),
            }
        }
        if !matches!(config.identity, Some(Identity::WorkloadApi(_))) {
            self.workload = None;
        }
        self.said = tale.said;
        Outcome {
            materials: self.materials(config),
            missing: tale.missing,
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
            Some(Identity::Files(pair)) => self.pairs.get(pair).map(|kept| Arc::clone(&kept.value)),
            Some(Identity::WorkloadApi(_)) => self
                .workload
                .as_ref()
                .map(|workload| Arc::clone(&workload.credential)),
        };
        let written = self.bundles.iter().map(|(_, bundle)| &bundle.value);
        let sent = self.workload.iter().flat_map(|workload| &workload.bundles);
        Materials {
            generation: 0,
            identity,
            files: self
                .pairs
                .iter()
                .map(|(pair, kept)| (pair.clone(), Arc::clone(&kept.value)))
                .collect(),
            trust: Trust::new(written.chain(sent).cloned().collect()),
            system: self.system.clone(),
        }
    }

    /// What is known if its files are the same, else what they hold now, or else what was good
    /// before. Says in the log what is wrong, once.
    fn keep<T: From<L>, L: Warned>(
        &self,
        name: String,
        marks: Option<Marks>,
        known: Option<&Kept<T>>,
        load: impl FnOnce() -> Result<L, MaterialError>,
        tale: &mut Tale,
    ) -> Option<Kept<T>> {
        if let Some(known) = known.filter(|known| marks.is_some() && known.marks == marks) {
            let said = self.said.get(&name).cloned();
            tale.said.insert(name, said.unwrap_or_default());
            return Some(known.clone());
        }
        match load() {
            Ok(loaded) => {
                let warnings = loaded.warnings();
                if !warnings.is_empty() && self.said.get(&name) != Some(&warnings) {
                    tracing::warn!(file = name, "{warnings}");
                }
                tale.said.insert(name, warnings);
                let value = Arc::new(loaded.into());
                Some(Kept { value, marks })
            }
            Err(error) => {
                let text = error.to_string();
                if known.is_none() {
                    tale.missing.push(text.clone());
                } else if self.said.get(&name) != Some(&text) {
                    tracing::error!(
                        problem = text,
                        "refused; what was loaded before stays in use"
                    );
                }
                tale.said.insert(name, text);
                // Its files are read until they are good again.
                known.map(|known| Kept {
                    value: Arc::clone(&known.value),
                    marks: None,
                })
            }
        }
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            marks: self.marks.clone(),
        }
    }
}

/// What there is to say of one look at everything.
#[derive(Default)]
struct Tale {
    said: BTreeMap<String, String>,
    missing: Vec<String>,
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, time::Duration};

    use rcgen::{CertificateParams, SerialNumber};

    use super::*;
    use crate::{config, tls::pem};

    /// A mounted secret, as the kubelet lays it out.
    struct Mount(PathBuf);

    impl Mount {
        fn new() -> Self {
            let name = format!("pillion-{}-keeper", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            for file in ["tls.crt", "tls.key"] {
                symlink(format!("..data/{file}"), path.join(file)).unwrap();
            }
            Self(path)
        }

        fn swap(&self, version: &str, certificate: &[u8], key: &str) {
            let folder = self.0.join(version);
            fs::create_dir(&folder).unwrap();
            let certificate = pem::encode("CERTIFICATE", certificate);
            fs::write(folder.join("tls.crt"), certificate.as_bytes()).unwrap();
            fs::write(folder.join("tls.key"), key).unwrap();
            symlink(version, self.0.join("..next")).unwrap();
            fs::rename(self.0.join("..next"), self.0.join("..data")).unwrap();
        }

        fn config(&self) -> Config {
            let folder = self.0.display();
            let text = format!(
                "identity: {{ certificate: {folder}/tls.crt, key: {folder}/tls.key }}
upstreams: [{{ name: a, endpoints: [127.0.0.1:9] }}]
listeners: [{{ address: 127.0.0.1:0, upstream: a }}]"
            );
            config::parse("test.yaml", &text, &|_| None).unwrap().config
        }
    }

    impl Drop for Mount {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// A certificate and its key.
    fn pair(serial: u64) -> (Vec<u8>, String) {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(serial));
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let key = pem::encode("PRIVATE KEY", key.serialized_der()).to_string();
        (der, key)
    }

    #[test]
    fn only_what_has_changed_is_read_again() {
        let (mount, (first, key)) = (Mount::new(), pair(1));
        mount.swap("..1", &first, &key);
        let config = mount.config();
        let mut keeper = Keeper::default();
        let mut identity = |later: u64| {
            let now = UnixTime::now().as_secs() + later;
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
            keeper.load(&config, now).materials.identity.unwrap()
        };
        let is_same = |a: &Arc<Credential>, b: &Arc<Credential>| Arc::ptr_eq(a, b);
        // Just written: its marks would not tell another write.
        let fresh = identity(0);
        let settled = identity(100);
        assert!(!is_same(&fresh, &settled));
        assert!(is_same(&settled, &identity(200)));
        // Another file of the same length, behind the same name.
        let (second, key) = pair(2);
        mount.swap("..2", &second, &key);
        let swapped = identity(300);
        assert_eq!(swapped.chain()[0].as_ref(), &second[..]);
        assert!(is_same(&swapped, &identity(400)));
        // What is refused leaves the last, and is looked at until it is good.
        mount.swap("..3", b"nonsense", &key);
        assert!(is_same(&swapped, &identity(500)));
        fs::remove_dir_all(mount.0.join("..3")).unwrap();
        mount.swap("..3", &first, &key);
        assert!(is_same(&swapped, &identity(600)), "the key of another");
        mount.swap("..4", &second, &key);
        assert!(!is_same(&swapped, &identity(700)));
    }
}

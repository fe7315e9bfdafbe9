//! The public keys that tokens are signed with: a JSON Web Key Set (RFC 7517, RFC 8037), and where
//! the newest one stands.

use std::{collections::HashMap, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;

use crate::config::model::{Jwks, JwtAlgorithm, JwtProvider};

/// The largest set, in bytes.
pub const MAX_SIZE: usize = 256 * 1024;
/// Keys in one set.
const MAX_KEYS: usize = 64;

/// A provider of tokens, and the keys that it signs with now. Carried over by reloads that leave
/// its configuration as it is.
#[derive(Debug)]
pub struct Provider {
    pub config: Arc<JwtProvider>,
    keys: ArcSwap<KeySet>,
    wanted: Notify,
}

impl Provider {
    /// Without keys, until there are some.
    pub fn new(config: Arc<JwtProvider>) -> Arc<Self> {
        Self::with_keys(config, Arc::default())
    }

    fn with_keys(config: Arc<JwtProvider>, keys: Arc<KeySet>) -> Arc<Self> {
        Arc::new(Self {
            config,
            keys: ArcSwap::new(keys),
            wanted: Notify::new(),
        })
    }

    /// The keys that are valid now.
    pub fn keys(&self) -> Guard<Arc<KeySet>> {
        self.keys.load()
    }

    /// A token came that is signed with a key which is not here.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Resolves when that has happened since the last time.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Replaces them.
    pub fn replace(&self, keys: KeySet) {
        self.keys.store(Arc::new(keys));
    }
}

/// The providers of a configuration; those that it leaves as they were are `previous` ones, and keys
/// that come from the same place stay.
pub fn providers(
    configs: &[Arc<JwtProvider>],
    previous: Option<&HashMap<Arc<str>, Arc<Provider>>>,
) -> HashMap<Arc<str>, Arc<Provider>> {
    let provider = |config: &Arc<JwtProvider>| {
        let before = previous.and_then(|previous| previous.get(&config.name));
        let provider = match before {
            Some(before) if before.config == *config => Arc::clone(before),
            Some(before)
                if before.config.jwks == config.jwks
                    && before.config.algorithms == config.algorithms =>
            {
                Provider::with_keys(Arc::clone(config), before.keys.load_full())
            }
            _ => Provider::new(Arc::clone(config)),
        };
        (Arc::clone(&config.name), provider)
    };
    configs.iter().map(provider).collect()
}

/// Keys that fit a provider's algorithms.
#[derive(Debug, Default)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<Box<str>>,
    /// The same key once for each algorithm that it may be used with.
    verifiers: Vec<(JwtAlgorithm, ParsedPublicKey)>,
}

/// Why a text is no key set.
#[derive(Debug, thiserror::Error)]
pub enum BadKeys {
    #[error("it is larger than {MAX_SIZE} bytes")]
    TooLarge,
    #[error("it is no JSON Web Key Set: {0}")]
    Json(serde_json::Error),
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
    #[error("no key in it fits the provider's algorithms")]
    NoneFits,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// RFC 7517 section 4. What is not known is ignored.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<Box<str>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set. Keys that are not understood, or are for something else, are passed over, as
    /// RFC 7517 section 5 says; but none at all is an error.
    pub fn parse(text: &[u8], algorithms: &[JwtAlgorithm]) -> Result<Self, BadKeys> {
        if text.len() > MAX_SIZE {
            return Err(BadKeys::TooLarge);
        }
        let Document { keys } = serde_json::from_slice(text).map_err(BadKeys::Json)?;
        if keys.len() > MAX_KEYS {
            return Err(BadKeys::TooMany);
        }
        let keys: Vec<Key> = keys
            .into_iter()
            .filter_map(|key| serde_json::from_value(key).ok())
            .filter_map(|key| Key::new(key, algorithms))
            .collect();
        match keys.is_empty() {
            true => Err(BadKeys::NoneFits),
            false => Ok(Self(keys)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys for an algorithm: of this id if the token names one, else all.
    pub fn fitting<'k>(
        &'k self,
        algorithm: JwtAlgorithm,
        id: Option<&'k str>,
    ) -> impl Iterator<Item = &'k ParsedPublicKey> {
        self.0
            .iter()
            .filter(move |key| id.is_none() || key.id.as_deref() == id)
            .flat_map(|key| &key.verifiers)
            .filter(move |(fits, _)| *fits == algorithm)
            .map(|(_, key)| key)
    }
}

impl Key {
    /// `None` if it can't verify a token, or must not.
    fn new(jwk: Jwk, algorithms: &[JwtAlgorithm]) -> Option<Self> {
        let signs = jwk.r#use.as_deref().is_none_or(|what| what == "sig");
        let operations = jwk.key_ops.as_deref();
        let verifies = operations.is_none_or(|all| all.iter().any(|one| one == "verify"));
        if !signs || !verifies {
            return None;
        }
        let verifiers: Vec<_> = algorithms
            .iter()
            .filter(|algorithm| jwk.alg.as_deref().is_none_or(|own| own == algorithm.name()))
            .filter_map(|&algorithm| Some((algorithm, jwk.parse(algorithm)?)))
            .collect();
        (!verifiers.is_empty()).then_some(Self {
            id: jwk.kid,
            verifiers,
        })
    }
}

impl Jwk {
    /// The key for this algorithm, if it is of its kind.
    fn parse(&self, algorithm: JwtAlgorithm) -> Option<ParsedPublicKey> {
        match algorithm {
            JwtAlgorithm::Rs256 => self.rsa(&RSA_PKCS1_2048_8192_SHA256),
            JwtAlgorithm::Rs384 => self.rsa(&RSA_PKCS1_2048_8192_SHA384),
            JwtAlgorithm::Rs512 => self.rsa(&RSA_PKCS1_2048_8192_SHA512),
            JwtAlgorithm::Ps256 => self.rsa(&RSA_PSS_2048_8192_SHA256),
            JwtAlgorithm::Ps384 => self.rsa(&RSA_PSS_2048_8192_SHA384),
            JwtAlgorithm::Ps512 => self.rsa(&RSA_PSS_2048_8192_SHA512),
            JwtAlgorithm::Es256 => {
                let point = self.point("P-256", 32)?;
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()
            }
            JwtAlgorithm::Es384 => {
                let point = self.point("P-384", 48)?;
                ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).ok()
            }
            JwtAlgorithm::EdDSA => {
                let of_kind = self.kty == "OKP" && self.crv.as_deref() == Some("Ed25519");
                let key = octets(self.x.as_ref()).filter(|key| of_kind && key.len() == 32)?;
                ParsedPublicKey::new(&ED25519, key).ok()
            }
        }
    }

    fn rsa(&self, parameters: &'static RsaParameters) -> Option<ParsedPublicKey> {
        if self.kty != "RSA" {
            return None;
        }
        let (n, e) = (octets(self.n.as_ref())?, octets(self.e.as_ref())?);
        let (n, e) = (significant(n)?, significant(e)?);
        // Smaller ones can be broken, larger ones would cost too much to verify with.
        if !(2048 / 8..=8192 / 8).contains(&n.len()) || e.len() > 4 {
            return None;
        }
        RsaPublicKeyComponents { n, e }
            .to_parsed_public_key(parameters)
            .ok()
    }

    /// Uncompressed (SEC 1 section 2.3.3); coordinates have their full length (RFC 7518 section
    /// 6.2.1.2).
    fn point(&self, curve: &str, length: usize) -> Option<Vec<u8>> {
        if self.kty != "EC" || self.crv.as_deref() != Some(curve) {
            return None;
        }
        let (x, y) = (octets(self.x.as_ref())?, octets(self.y.as_ref())?);
        (x.len() == length && y.len() == length).then(|| [&[4], &*x, &*y].concat())
    }
}

fn octets(text: Option<&String>) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text?).ok()
}

/// Without zeros in front, which some issuers write.
fn significant(number: Vec<u8>) -> Option<Vec<u8>> {
    let first = number.iter().position(|&byte| byte != 0)?;
    Some(number[first..].to_vec())
}

/// Where the keys of a provider are, for a message.
pub(super) fn source(config: &JwtProvider) -> String {
    match &config.jwks {
        Jwks::File(path) => path.display().to_string(),
        Jwks::Url { url, .. } => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RsaKeyPair};

    use super::*;

    fn encode(bytes: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn fitting(keys: &KeySet) -> Vec<JwtAlgorithm> {
        let all = JwtAlgorithm::ALL.into_iter();
        all.filter(|&algorithm| keys.fitting(algorithm, None).next().is_some())
            .collect()
    }

    #[test]
    fn keys_fit_the_algorithms_of_their_kind_and_no_other() {
        use JwtAlgorithm::{EdDSA, Ps256, Rs256};
        let ed = Ed25519KeyPair::generate().unwrap();
        let ed = encode(ed.public_key());
        let rsa = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        // A sequence of two numbers: 256 bytes with a zero before them, and 65537.
        let rsa = &rsa.public_key().as_ref()[9..][..256];
        let (n, e) = (encode(rsa), encode([1, 0, 1]));
        let small = encode(&rsa[..128]);
        for (key, fits) in [
            (
                format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{ed}"}}"#),
                &[EdDSA][..],
            ),
            (format!(r#"{{"kty":"OKP","crv":"Ed448","x":"{ed}"}}"#), &[]),
            (
                format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{ed}A"}}"#),
                &[],
            ),
            (
                format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{ed}","use":"enc"}}"#),
                &[],
            ),
            (
                format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{ed}","key_ops":["sign"]}}"#),
                &[],
            ),
            (
                format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{ed}","alg":"ES256"}}"#),
                &[],
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}"}}"#),
                &[Rs256, Ps256],
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}","alg":"PS256"}}"#),
                &[Ps256],
            ),
            (format!(r#"{{"kty":"RSA","n":"{small}","e":"{e}"}}"#), &[]),
            (
                format!(r#"{{"kty":"EC","crv":"P-256","x":"{ed}","y":"{ed}"}}"#),
                &[],
            ),
            (r#"{"kty":"oct","k":"AAAA","alg":"HS256"}"#.to_owned(), &[]),
            (r#"{"kty":"new"}"#.to_owned(), &[]),
            ("[]".to_owned(), &[]),
        ] {
            let text = format!(r#"{{"keys":[{key}],"more":1}}"#);
            match KeySet::parse(text.as_bytes(), &[Rs256, Ps256, EdDSA]) {
                Ok(keys) => assert_eq!(fitting(&keys), fits, "{key}"),
                Err(BadKeys::NoneFits) => assert!(fits.is_empty(), "{key}"),
                Err(error) => panic!("{error}: {key}"),
            }
        }
    }

    #[test]
    fn keys_stay_while_they_come_from_the_same_place() {
        let (provider, _) = crate::access::jwt::testing::provider();
        let before = HashMap::from([(Arc::clone(&provider.config.name), Arc::clone(&provider))]);
        let after = |change: fn(&mut JwtProvider)| {
            let mut config = JwtProvider::clone(&provider.config);
            change(&mut config);
            let after = providers(&[Arc::new(config)], Some(&before));
            Arc::clone(&after["corp"])
        };
        assert!(Arc::ptr_eq(&after(|_| {}), &provider));
        let changed = after(|config| config.audiences = vec!["other".into()]);
        assert!(!Arc::ptr_eq(&changed, &provider) && !changed.keys().is_empty());
        assert!(
            after(|config| config.jwks = Jwks::File("b".into()))
                .keys()
                .is_empty()
        );
        assert!(
            after(|config| config.algorithms.truncate(1))
                .keys()
                .is_empty()
        );
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let parse = |text: &str| KeySet::parse(text.as_bytes(), &JwtAlgorithm::ALL).unwrap_err();
        assert!(matches!(parse(""), BadKeys::Json(_)));
        assert!(matches!(parse("{}"), BadKeys::Json(_)));
        assert!(matches!(parse(r#"{"keys":[]}"#), BadKeys::NoneFits));
        let many = format!(r#"{{"keys":[{}]}}"#, ["{}"; MAX_KEYS + 1].join(","));
        assert!(matches!(parse(&many), BadKeys::TooMany));
        assert!(matches!(
            parse(&" ".repeat(MAX_SIZE + 1)),
            BadKeys::TooLarge
        ));
    }
}

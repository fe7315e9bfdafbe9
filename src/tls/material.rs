//! What we show of ourselves: a certificate chain and its key, from files or from whoever hands
//! out identities. A pair that would not work is refused here, with the file and the reason, and
//! never reaches a listener.

use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    sign::CertifiedKey,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};
use zeroize::Zeroizing;

use super::{
    certificate::{Certificate, Date, Unfit},
    pem::{self, BadPem, Block},
    sha256,
};

/// The largest file of certificates or keys that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// A certificate with less than this share of its life left should have been replaced: 1 / 5.
const SOON: u32 = 5;

/// A chain and its key that belong together and are valid. Equal if the certificates are.
#[derive(Clone)]
pub struct Credential {
    certified: Arc<CertifiedKey>,
    leaf: Certificate,
    not_after: UnixTime,
    fingerprint: [u8; 32],
}

/// A credential, and what a person should know about it.
#[derive(Debug)]
pub struct Loaded {
    pub credential: Credential,
    pub warnings: Vec<Warning>,
}

/// A text, and the name that an error gives it: its file, or where else it came from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub name: &'a str,
    pub text: &'a [u8],
}

/// Works, and should not stay so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    #[error("{}: the key can be read by others (mode {mode:04o}); chmod 600", file.display())]
    Readable { file: PathBuf, mode: u32 },
    #[error("{certificate} expires soon, at {}", Date(*not_after))]
    ExpiresSoon {
        certificate: Box<str>,
        not_after: UnixTime,
    },
}

/// What is wrong with a file of certificates, keys or revocation lists.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct MaterialError {
    pub file: Box<str>,
    pub problem: Problem,
}

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("is larger than {MAX_FILE} bytes")]
    TooLarge,
    #[error(transparent)]
    Pem(#[from] BadPem),
    /// Another kind of block than belongs there.
    #[error("line {line}: a {found}, where a {wanted} belongs")]
    WrongBlock {
        line: usize,
        found: Box<str>,
        wanted: &'static str,
    },
    #[error("has no {0}")]
    Missing(&'static str),
    #[error("has {0} private keys; one belongs here")]
    SeveralKeys(usize),
    #[error("certificate {index} {unfit}")]
    Certificate { index: usize, unfit: Unfit },
    #[error(
        "the key is of no kind that can be used: RSA from 2048 bits, P-256, P-384, P-521, Ed25519"
    )]
    Key,
    #[error("the key does not belong to the {0}")]
    Mismatch(Box<str>),
    #[error(
        "the key belongs to certificate {index} of the chain; the one it belongs to comes first"
    )]
    LeafNotFirst { index: usize },
    #[error("{0}")]
    Window(Box<str>),
    #[error("the {0} is no authority (its basic constraints don't say CA)")]
    NoAuthority(Box<str>),
    #[error("revocation list {index} cannot be used: {why}")]
    RevocationList { index: usize, why: Box<str> },
    #[error("the system has no certificate authorities that could be read{0}")]
    NoSystemRoots(Box<str>),
}

impl Credential {
    /// Reads both from files: the chain in PEM, leaf first, and the key in PEM as PKCS#8, PKCS#1 or
    /// SEC1. They may be the same file. Blocks on the file system.
    pub fn load(chain: &Path, key: &Path, now: UnixTime) -> Result<Loaded, MaterialError> {
        let (chain_text, _) = read(chain)?;
        let (key_text, mode) = read(key)?;
        let (chain_name, key_name) = (chain.to_string_lossy(), key.to_string_lossy());
        let mut loaded = Self::from_pem(
            Source {
                name: &chain_name,
                text: &chain_text,
            },
            Source {
                name: &key_name,
                text: &key_text,
            },
            now,
        )?;
        if mode & 0o044 != 0 {
            loaded.warnings.push(Warning::Readable {
                file: key.to_owned(),
                mode: mode & 0o7777,
            });
        }
        Ok(loaded)
    }

    /// The same from texts.
    pub fn from_pem(
        chain: Source<'_>,
        key: Source<'_>,
        now: UnixTime,
    ) -> Result<Loaded, MaterialError> {
        let certificates = certificates(chain)?;
        let blocks = pem::blocks(key.text).map_err(|error| key.error(error))?;
        let keys: Vec<&Block> = blocks
            .iter()
            .filter(|block| block.label.ends_with("PRIVATE KEY"))
            .collect();
        let block = match keys[..] {
            [block] => block,
            [] => {
                return Err(key.error(Problem::WrongBlock {
                    line: blocks[0].line,
                    found: blocks[0].label.as_str().into(),
                    wanted: "PRIVATE KEY",
                }));
            }
            ref several => return Err(key.error(Problem::SeveralKeys(several.len()))),
        };
        let der: &[u8] = &block.der;
        let parsed = match block.label.as_str() {
            "PRIVATE KEY" => PrivateKeyDer::Pkcs8(der.into()),
            "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(der.into()),
            "EC PRIVATE KEY" => PrivateKeyDer::Sec1(der.into()),
            _ => return Err(key.error(Problem::Key)),
        };
        Self::assemble(chain.name, certificates, key.name, &parsed, now)
    }

    /// The same from what is parsed already, as the Workload API gives it: the certificates leaf
    /// first ([`split_der`]) and the key in PKCS#8. `name` stands for a file in errors.
    pub fn from_der(
        name: &str,
        chain: Vec<CertificateDer<'static>>,
        pkcs8: &[u8],
        now: UnixTime,
    ) -> Result<Loaded, MaterialError> {
        if chain.is_empty() {
            return Err(error(name, Problem::Missing("certificate")));
        }
        Self::assemble(name, chain, name, &PrivateKeyDer::Pkcs8(pkcs8.into()), now)
    }

    /// What rustls shows and signs with.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// The chain in DER, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// When the first certificate of the chain expires: nobody admits us after that.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// How long that is from now; zero if it is over.
    pub fn remaining(&self, now: UnixTime) -> Duration {
        Duration::from_secs(self.not_after.as_secs().saturating_sub(now.as_secs()))
    }

    /// Whether less than a fifth of its life is left: its replacement is late.
    pub fn expires_soon(&self, now: UnixTime) -> bool {
        let life =
            self.not_after.as_secs() - self.leaf.not_before.as_secs().min(self.not_after.as_secs());
        self.remaining(now) < Duration::from_secs(life) / SOON
    }

    /// SHA-256 of the chain.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    fn assemble(
        chain_name: &str,
        chain: Vec<CertificateDer<'static>>,
        key_name: &str,
        key: &PrivateKeyDer<'_>,
        now: UnixTime,
    ) -> Result<Loaded, MaterialError> {
        let unfit = |index, unfit| {
            error(
                chain_name,
                Problem::Certificate {
                    index: index + 1,
                    unfit,
                },
            )
        };
        let signing = any_supported_type(key).map_err(|_| error(key_name, Problem::Key))?;
        // Certificates that the key belongs to; a key that can't tell is believed.
        let belongs = |certificate: &CertificateDer<'static>| {
            let pair = CertifiedKey::new(vec![certificate.clone()], Arc::clone(&signing));
            !matches!(
                pair.keys_match(),
                Err(rustls::Error::InconsistentKeys(
                    rustls::InconsistentKeys::KeyMismatch
                ))
            )
        };
        if let Err(found) = Certificate::any(&chain[0]) {
            return Err(unfit(0, found));
        }
        match chain.iter().position(belongs) {
            Some(0) => {}
            Some(index) => {
                return Err(error(
                    chain_name,
                    Problem::LeafNotFirst { index: index + 1 },
                ));
            }
            None => {
                let first = Certificate::any(&chain[0]).map_err(|found| unfit(0, found))?;
                let whose = format!("{first} in {chain_name}");
                return Err(error(key_name, Problem::Mismatch(whose.into())));
            }
        }
        let leaf = Certificate::leaf(&chain[0]).map_err(|found| unfit(0, found))?;
        let mut not_after = leaf.not_after;
        for (index, der) in chain.iter().enumerate() {
            let certificate = Certificate::any(der).map_err(|found| unfit(index, found))?;
            if !certificate.is_current(now) {
                return Err(error(
                    chain_name,
                    Problem::Window(out_of_window(&certificate, now)),
                ));
            }
            not_after = not_after.min(certificate.not_after);
        }
        let credential = Self {
            fingerprint: sha256(chain.iter().map(|der| der.as_ref())),
            certified: Arc::new(CertifiedKey::new(chain, signing)),
            leaf,
            not_after,
        };
        let mut warnings = Vec::new();
        if credential.expires_soon(now) {
            warnings.push(Warning::ExpiresSoon {
                certificate: credential.leaf.to_string().into(),
                not_after,
            });
        }
        Ok(Loaded {
            credential,
            warnings,
        })
    }
}

/// The sentence about a certificate whose time is over or has not come.
pub(super) fn out_of_window(certificate: &Certificate, now: UnixTime) -> Box<str> {
    let state = if now < certificate.not_before {
        "is not valid yet"
    } else {
        "has expired"
    };
    format!("{certificate} {state}: {}", certificate.window(now)).into()
}

/// Certificates one behind the other without anything between, as the Workload API sends them.
pub fn split_der(mut rest: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unfit> {
    let mut certificates = Vec::new();
    while !rest.is_empty() {
        let (after, _) = X509Certificate::from_der(rest)
            .map_err(|error| Unfit::Encoding(error.to_string().into()))?;
        let (der, after) = rest.split_at(rest.len() - after.len());
        certificates.push(CertificateDer::from(der.to_vec()));
        rest = after;
    }
    Ok(certificates)
}

/// Every certificate of a text; a private key beside them is left alone, anything else refused.
pub(super) fn certificates(
    source: Source<'_>,
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let mut certificates = Vec::new();
    for block in pem::blocks(source.text).map_err(|error| source.error(error))? {
        match block.label.as_str() {
            "CERTIFICATE" => certificates.push(CertificateDer::from(block.der.to_vec())),
            // One file for both is a custom that HAProxy has spread.
            label if label.ends_with("PRIVATE KEY") || label == "EC PARAMETERS" => {}
            label => {
                return Err(source.error(Problem::WrongBlock {
                    line: block.line,
                    found: label.into(),
                    wanted: "CERTIFICATE",
                }));
            }
        }
    }
    if certificates.is_empty() {
        return Err(source.error(Problem::Missing("CERTIFICATE")));
    }
    Ok(certificates)
}

/// A whole file, and its mode.
pub(super) fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), MaterialError> {
    let refuse = |problem| error(&path.to_string_lossy(), problem);
    let unreadable = |error| refuse(Problem::Unreadable(error));
    let file = fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.len() > MAX_FILE {
        return Err(refuse(Problem::TooLarge));
    }
    // Room for all of it and a byte to see its end by: it is not moved, and leaves no copy.
    let room = usize::try_from(metadata.len()).map_or(0, |length| length + 64);
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_FILE + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE {
        return Err(refuse(Problem::TooLarge));
    }
    Ok((text, metadata.mode()))
}

pub(super) fn error(file: &str, problem: Problem) -> MaterialError {
    MaterialError {
        file: file.into(),
        problem,
    }
}

impl Source<'_> {
    pub(super) fn error(&self, problem: impl Into<Problem>) -> MaterialError {
        error(self.name, problem.into())
    }
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Credential {}

/// Never the key.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("leaf", &self.leaf.to_string())
            .finish_non_exhaustive()
    }
}

/// Never the text: it may be a key.
impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

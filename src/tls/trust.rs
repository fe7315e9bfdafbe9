//! Whom we believe: bundles of authorities, immutable once made.
//!
//! Several bundles make federation and overlap: one for each trust domain, with the old and the new
//! authority side by side while the authority changes. A bundle with a trust domain vouches for
//! that domain and for nothing else, no DNS name either, so a federated partner can't speak for a
//! neighbour. One without vouches for whatever its authorities sign.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{CertRevocationList, OwnedCertRevocationList, anchor_from_trusted_cert};
use x509_parser::{
    extensions::ParsedExtension, prelude::FromDer, revocation_list::CertificateRevocationList,
};

use super::{
    certificate::{self, Certificate},
    material::{self, MaterialError, Problem, Source},
    pem, sha256,
    spiffe::{SpiffeId, TrustDomain},
};

/// All bundles together. Cheap to clone, and to compare: equal if the content is.
#[derive(Clone, Debug)]
pub struct Trust {
    bundles: Arc<[Arc<Bundle>]>,
    fingerprint: [u8; 32],
}

/// Authorities, whom they may vouch for, and whom they have taken it back from.
///
/// A revocation list speaks for the authority that issued it and for no other: certificates of
/// authorities without a list are not judged by it. Every certificate of a chain is looked up, and
/// a list past its `nextUpdate` is refused with all that it covers: what it would say by now is not
/// known, and whoever keeps a list from being renewed must not win by that.
#[derive(Debug)]
pub struct Bundle {
    domain: Option<TrustDomain>,
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    /// The same in the same order.
    pub(super) authorities: Vec<Authority>,
    pub(super) lists: Vec<RevocationList>,
    fingerprint: [u8; 32],
}

#[derive(Debug)]
pub(super) struct Authority {
    pub(super) certificate: Certificate,
    pub(super) key: Option<Box<[u8]>>,
}

#[derive(Debug)]
pub(super) struct RevocationList {
    pub(super) list: CertRevocationList<'static>,
    /// Identifies the key that signed it, where it says so.
    pub(super) key: Option<Box<[u8]>>,
    issuer: Box<str>,
    next_update: Option<UnixTime>,
}

impl Trust {
    pub fn new<B: Into<Arc<Bundle>>>(bundles: Vec<B>) -> Self {
        let bundles: Arc<[Arc<Bundle>]> = bundles.into_iter().map(Into::into).collect();
        let prints: BTreeSet<[u8; 32]> = bundles.iter().map(|bundle| bundle.fingerprint).collect();
        Self {
            fingerprint: sha256(prints.iter().map(|print| &print[..])),
            bundles,
        }
    }

    /// The system's authorities alone, for servers of the internet.
    pub fn system() -> Result<Self, MaterialError> {
        Ok(Self::new(vec![Bundle::system()?]))
    }

    pub fn bundles(&self) -> &[Arc<Bundle>] {
        &self.bundles
    }

    /// SHA-256 of the content, whatever the order.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The bundles that may vouch for a workload of that name, or for somebody without one.
    pub(super) fn for_peer(&self, id: Option<&SpiffeId>) -> impl Iterator<Item = &Bundle> {
        self.bundles
            .iter()
            .map(|bundle| &**bundle)
            .filter(move |bundle| match (&bundle.domain, id) {
                (Some(domain), Some(id)) => domain.contains(id),
                (Some(_), None) => false,
                (None, _) => true,
            })
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Trust {}

impl Bundle {
    /// Reads authorities in PEM and revocation lists in PEM or DER. `domain`: whom it may vouch
    /// for; `None`: anybody.
    pub fn from_pem(
        authorities: &[Source<'_>],
        lists: &[Source<'_>],
        domain: Option<TrustDomain>,
    ) -> Result<Self, MaterialError> {
        let mut bundle = Builder::default();
        for source in authorities {
            for der in material::certificates(*source)? {
                bundle.authority(source.name, &der)?;
            }
        }
        for source in lists {
            bundle.lists(*source)?;
        }
        Ok(bundle.finish(domain))
    }

    /// The same from files. Blocks on the file system.
    pub fn load(
        authorities: &[impl AsRef<Path>],
        lists: &[impl AsRef<Path>],
        domain: Option<TrustDomain>,
    ) -> Result<Self, MaterialError> {
        let mut bundle = Builder::default();
        for path in authorities {
            let name = path.as_ref().to_string_lossy();
            let (text, _) = material::read(path.as_ref())?;
            let source = Source {
                name: &name,
                text: &text,
            };
            for der in material::certificates(source)? {
                bundle.authority(&name, &der)?;
            }
        }
        for path in lists {
            let (text, _) = material::read(path.as_ref())?;
            bundle.lists(Source {
                name: &path.as_ref().to_string_lossy(),
                text: &text,
            })?;
        }
        Ok(bundle.finish(domain))
    }

    /// The same from what is parsed already, as the Workload API gives it. `name` stands for a
    /// file in errors.
    pub fn from_der(
        name: &str,
        authorities: &[CertificateDer<'_>],
        lists: &[&[u8]],
        domain: Option<TrustDomain>,
    ) -> Result<Self, MaterialError> {
        let mut bundle = Builder::default();
        for der in authorities {
            bundle.authority(name, der)?;
        }
        for der in lists {
            bundle.list(name, der)?;
        }
        Ok(bundle.finish(domain))
    }

    /// The system's authorities, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. They are those
    /// that the operator and the distribution keep up to date, not those of the day on which
    /// Pillion was built. Blocks on the file system.
    pub fn system() -> Result<Self, MaterialError> {
        let found = rustls_native_certs::load_native_certs();
        let mut bundle = Builder::default();
        for der in &found.certs {
            // A system keeps what others once needed; what can't be used is not ours to mend.
            let _ = bundle.authority("system", der);
        }
        if bundle.anchors.is_empty() {
            let why = found.errors.first().map(|error| format!(": {error}"));
            return Err(material::error(
                "system",
                Problem::NoSystemRoots(why.unwrap_or_default().into()),
            ));
        }
        Ok(bundle.finish(None))
    }

    /// Whom it may vouch for; `None`: anybody.
    pub fn domain(&self) -> Option<&TrustDomain> {
        self.domain.as_ref()
    }

    pub fn authorities(&self) -> impl Iterator<Item = &Certificate> {
        self.authorities
            .iter()
            .map(|authority| &authority.certificate)
    }

    /// Each revocation list: who issued it, and when it must have been replaced.
    pub fn revocation_lists(&self) -> impl Iterator<Item = (&str, Option<UnixTime>)> {
        self.lists
            .iter()
            .map(|list| (&*list.issuer, list.next_update))
    }
}

#[derive(Default)]
struct Builder {
    anchors: Vec<TrustAnchor<'static>>,
    authorities: Vec<Authority>,
    lists: Vec<RevocationList>,
    /// What is in it already, by its SHA-256.
    seen: BTreeSet<[u8; 32]>,
}

impl Builder {
    fn authority(&mut self, file: &str, der: &CertificateDer<'_>) -> Result<(), MaterialError> {
        let index = self.anchors.len() + 1;
        let unfit = |unfit| material::error(file, Problem::Certificate { index, unfit });
        let certificate = Certificate::any(der).map_err(unfit)?;
        if !certificate::is_authority(der) {
            let whose = certificate.to_string();
            return Err(material::error(file, Problem::NoAuthority(whose.into())));
        }
        let anchor = anchor_from_trusted_cert(der)
            .map_err(|error| unfit(certificate::Unfit::Encoding(error.to_string().into())))?;
        if self.seen.insert(certificate.fingerprint) {
            self.anchors.push(anchor.to_owned());
            self.authorities.push(Authority {
                certificate,
                key: certificate::subject_key(der),
            });
        }
        Ok(())
    }

    fn lists(&mut self, source: Source<'_>) -> Result<(), MaterialError> {
        // DER begins with a SEQUENCE, a byte that no text begins with.
        if source.text.first() == Some(&0x30) {
            return self.list(source.name, source.text);
        }
        for block in pem::blocks(source.text).map_err(|error| source.error(error))? {
            if block.label != "X509 CRL" {
                return Err(source.error(Problem::WrongBlock {
                    line: block.line,
                    found: block.label.as_str().into(),
                    wanted: "X509 CRL",
                }));
            }
            self.list(source.name, &block.der)?;
        }
        Ok(())
    }

    fn list(&mut self, file: &str, der: &[u8]) -> Result<(), MaterialError> {
        let index = self.lists.len() + 1;
        let refuse = |why: String| {
            let why = why.into();
            material::error(file, Problem::RevocationList { index, why })
        };
        let list = OwnedCertRevocationList::from_der(der).map_err(|e| refuse(e.to_string()))?;
        let (_, parsed) =
            CertificateRevocationList::from_der(der).map_err(|e| refuse(e.to_string()))?;
        let key = parsed
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(key) => {
                    Some(key.key_identifier.as_ref()?.0)
                }
                _ => None,
            })
            .map(Box::from);
        if self.seen.insert(sha256([der])) {
            self.lists.push(RevocationList {
                list: list.into(),
                key,
                issuer: certificate::text(parsed.issuer()),
                next_update: parsed.next_update().map(certificate::unix),
            });
        }
        Ok(())
    }

    fn finish(self, domain: Option<TrustDomain>) -> Bundle {
        let name = domain.as_ref().map_or("", TrustDomain::as_str);
        let parts = self.seen.iter().map(|print| &print[..]);
        Bundle {
            fingerprint: sha256([name.as_bytes(), b"\0"].into_iter().chain(parts)),
            domain,
            anchors: self.anchors,
            authorities: self.authorities,
            lists: self.lists,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        IsCa, KeyIdMethod, KeyPair, SerialNumber,
    };

    use super::*;

    /// An authority and its revocation list, which is good for an hour.
    fn authority() -> (CertificateDer<'static>, Vec<u8>) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let list = CertificateRevocationListParams {
            this_update: SystemTime::UNIX_EPOCH.into(),
            next_update: (SystemTime::UNIX_EPOCH + Duration::from_secs(3600)).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&ca).unwrap().der().to_vec();
        (ca.der().clone(), list)
    }

    fn bundle(authorities: &[u8], lists: &[u8]) -> Result<Bundle, String> {
        let source = |name, text| Source { name, text };
        let lists = source("ca.crl", lists);
        Bundle::from_pem(&[source("ca.crt", authorities)], &[lists], None)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_read_as_text_and_as_der_and_are_the_same() {
        let ((one, list), (two, other)) = (authority(), authority());
        let certificates =
            [&one, &two, &one].map(|der| pem::encode("CERTIFICATE", der).to_string());
        let certificates = certificates.concat();
        let text = pem::encode("X509 CRL", &list).to_string();
        let from_text = bundle(certificates.as_bytes(), (text.clone() + &text).as_bytes()).unwrap();
        let from_der = bundle(certificates.as_bytes(), &list).unwrap();
        assert_eq!(from_text.authorities().count(), 2);
        assert_eq!(from_text.fingerprint, from_der.fingerprint);
        let hour = UnixTime::since_unix_epoch(Duration::from_secs(3600));
        let lists: Vec<_> = from_der.revocation_lists().collect();
        assert_eq!(lists, [("CN=rcgen self signed cert", Some(hour))]);

        let both = text + &pem::encode("X509 CRL", &other);
        let both = bundle(certificates.as_bytes(), both.as_bytes()).unwrap();
        assert_eq!(both.revocation_lists().count(), 2);
        assert_ne!(
            Trust::new(vec![Arc::new(both)]),
            Trust::new(vec![Arc::new(from_der)])
        );
    }

    #[test]
    fn a_list_that_cannot_be_used_is_refused() {
        let (ca, list) = authority();
        let ca = pem::encode("CERTIFICATE", &ca);
        let error = |text: &[u8]| bundle(ca.as_bytes(), text).unwrap_err();
        assert_eq!(error(b""), "ca.crl: is empty");
        assert_eq!(
            error(ca.as_bytes()),
            "ca.crl: line 1: a CERTIFICATE, where a X509 CRL belongs"
        );
        let cut = error(&list[..list.len() - 9]);
        assert!(
            cut.starts_with("ca.crl: revocation list 1 cannot be used: "),
            "{cut}"
        );
        let garbled = pem::encode("X509 CRL", b"nonsense");
        let garbled = error(garbled.as_bytes());
        assert!(
            garbled.starts_with("ca.crl: revocation list 1 cannot be used: "),
            "{garbled}"
        );
    }

    #[test]
    fn the_systems_authorities_are_many_or_it_is_said_that_there_are_none() {
        match Trust::system() {
            Ok(trust) => assert!(trust.bundles()[0].authorities().count() > 0),
            Err(error) => assert!(error.to_string().starts_with("system: the system has no")),
        }
    }
}

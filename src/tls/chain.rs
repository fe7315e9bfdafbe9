//! Whether a bundle vouches for a chain: paths, signatures, windows, purposes, revocation.

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{
    Cert, CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::{
    certificate::{self, Certificate},
    fault::{Fault, FaultKind},
    material::out_of_window,
    provider,
    trust::{Bundle, RevocationList},
};

/// What the peer shows, leaf first, and what is known of it already.
pub(super) struct Shown<'a> {
    pub(super) leaf: &'a Certificate,
    pub(super) chain: &'a [CertificateDer<'a>],
    pub(super) now: UnixTime,
}

impl Shown<'_> {
    /// Follows the chain to an authority of `bundle` that is in its own window, then asks the
    /// bundle's revocation lists about every certificate on the way.
    pub(super) fn verify(&self, bundle: &Bundle, usage: KeyUsage) -> Result<(), Fault> {
        let Some((leaf, intermediates)) = self.chain.split_first() else {
            return Err(Fault::new(FaultKind::BadCertificate, "the chain is empty"));
        };
        let leaf = EndEntityCert::try_from(leaf).map_err(|error| self.fault(bundle, &error))?;
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms.all;
        let is_sound = |path: &VerifiedPath<'_>| self.is_sound(bundle, path);
        let path = leaf
            .verify_for_usage(
                algorithms,
                &bundle.anchors,
                intermediates,
                self.now,
                usage,
                None,
                Some(&is_sound),
            )
            .map_err(|error| self.fault(bundle, &error))?;
        let lists: Vec<&CertRevocationList<'static>> = bundle
            .lists
            .iter()
            .filter(|list| !is_of_a_namesake(list, bundle, &path))
            .map(|list| &list.list)
            .collect();
        let Ok(revocation) = RevocationOptionsBuilder::new(&lists) else {
            return Ok(());
        };
        let revocation = revocation
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build();
        leaf.verify_for_usage(
            algorithms,
            std::slice::from_ref(path.anchor()),
            intermediates,
            self.now,
            usage,
            Some(revocation),
            Some(&is_sound),
        )
        .map(drop)
        .map_err(|error| self.fault(bundle, &error))
    }

    /// What webpki leaves to others: that the authorities on the way may sign certificates by their
    /// key usage, and that ours at its end is in its window. Refused, it looks for another path.
    fn is_sound(&self, bundle: &Bundle, path: &VerifiedPath<'_>) -> Result<(), Error> {
        let may_sign = |issuer: &Cert<'_>| certificate::is_authority(&issuer.der());
        if !path.intermediate_certificates().all(may_sign) {
            return Err(Error::EndEntityUsedAsCa);
        }
        let anchor = path.anchor();
        let place = bundle.anchors.iter().position(|known| known == anchor);
        let Some(authority) = place.map(|place| &bundle.authorities[place].certificate) else {
            return Err(Error::UnknownIssuer);
        };
        if self.now > authority.not_after {
            return Err(Error::CertExpired {
                time: self.now,
                not_after: authority.not_after,
            });
        }
        if self.now < authority.not_before {
            return Err(Error::CertNotValidYet {
                time: self.now,
                not_before: authority.not_before,
            });
        }
        Ok(())
    }

    fn fault(&self, bundle: &Bundle, error: &Error) -> Fault {
        let leaf = self.leaf;
        let kind = self.kind(bundle, error);
        let detail = match (error, kind) {
            (Error::CertExpired { .. } | Error::CertNotValidYet { .. }, kind) => {
                return self.out_of_window(bundle, kind, error);
            }
            (_, FaultKind::SelfSigned) => format!("{leaf} vouches for itself"),
            (_, FaultKind::UnknownAuthority) => format!(
                "no authority that is trusted here vouches for {leaf}; it was issued by {}{}",
                leaf.issuer,
                match self.chain.len() {
                    1 => " and came without intermediate certificates",
                    _ => "",
                }
            ),
            (_, FaultKind::Revoked) => format!("{leaf} or an authority of it is revoked"),
            (Error::CrlExpired { next_update, .. }, _) => format!(
                "the revocation list for {leaf} should have been replaced by {}, and our clock \
                 says {}",
                certificate::Date(*next_update),
                certificate::Date(self.now)
            ),
            (error, FaultKind::RevocationUnknown) => {
                format!("the revocation list for {leaf} can't be believed: {error}")
            }
            (Error::RequiredEkuNotFoundContext(_), _) => {
                format!("the extended key usage of {leaf} doesn't allow this side of a connection")
            }
            (error, _) => format!("{leaf}: {error}"),
        };
        Fault::new(kind, detail)
    }

    fn kind(&self, bundle: &Bundle, error: &Error) -> FaultKind {
        use Error as E;
        match error {
            E::CertExpired { .. } | E::InvalidCertValidity => FaultKind::CertificateExpired,
            E::CertNotValidYet { .. } => FaultKind::CertificateNotYetValid,
            E::UnknownIssuer if self.leaf.is_self_issued() => FaultKind::SelfSigned,
            E::UnknownIssuer => FaultKind::UnknownAuthority,
            E::InvalidSignatureForPublicKey if self.is_of_unknown_key(bundle) => {
                FaultKind::UnknownAuthority
            }
            E::InvalidSignatureForPublicKey => FaultKind::BadSignature,
            E::CertRevoked => FaultKind::Revoked,
            E::CrlExpired { .. }
            | E::UnknownRevocationStatus
            | E::InvalidCrlSignatureForPublicKey
            | E::IssuerNotCrlSigner
            | E::UnsupportedCrlSignatureAlgorithmContext(_)
            | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => {
                FaultKind::RevocationUnknown
            }
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => FaultKind::WrongPurpose,
            E::CaUsedAsEndEntity => FaultKind::AuthorityAsLeaf,
            E::EndEntityUsedAsCa | E::PathLenConstraintViolated | E::NameConstraintViolation => {
                FaultKind::ConstraintViolated
            }
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                FaultKind::UnsupportedAlgorithm
            }
            E::MaximumSignatureChecksExceeded
            | E::MaximumPathBuildCallsExceeded
            | E::MaximumPathDepthExceeded
            | E::MaximumNameConstraintComparisonsExceeded => FaultKind::ChainTooComplex,
            _ => FaultKind::BadCertificate,
        }
    }

    /// Names the certificate that is out of its window: one of the chain, or an authority of ours.
    fn out_of_window(&self, bundle: &Bundle, kind: FaultKind, error: &Error) -> Fault {
        let is_meant = |certificate: &Certificate| match error {
            Error::CertExpired { not_after, .. } => certificate.not_after == *not_after,
            Error::CertNotValidYet { not_before, .. } => certificate.not_before == *not_before,
            _ => false,
        };
        let shown = self
            .chain
            .iter()
            .filter_map(|der| Certificate::any(der).ok())
            .find(is_meant);
        if let Some(mut certificate) = shown {
            if certificate.fingerprint == self.leaf.fingerprint {
                certificate = self.leaf.clone();
            }
            return Fault::new(kind, out_of_window(&certificate, self.now));
        }
        let detail = match bundle.authorities().find(|authority| is_meant(authority)) {
            Some(authority) => format!(
                "the authority of {}: {}",
                self.leaf,
                out_of_window(authority, self.now)
            ),
            None => format!("{}: {error}", self.leaf),
        };
        Fault::new(FaultKind::AuthorityExpired, detail)
    }

    /// Whether the signature fails only because an authority here has the same name as the one that
    /// signed, and another key: after a change of the authority that is the usual case.
    fn is_of_unknown_key(&self, bundle: &Bundle) -> bool {
        let signed_by: Vec<_> = self
            .chain
            .iter()
            .filter_map(|der| certificate::authority_key(der))
            .collect();
        let shown: Vec<_> = self.chain[1..]
            .iter()
            .filter_map(|der| certificate::subject_key(der))
            .collect();
        signed_by.iter().any(|key| {
            !shown.contains(key)
                && bundle
                    .authorities
                    .iter()
                    .all(|authority| authority.key.as_ref().is_some_and(|known| known != key))
        })
    }
}

/// Whether a revocation list is that of an authority with the name of one on the path, and another
/// key: webpki takes the first list by name, and would refuse the path for its signature. Lists of
/// authorities that are not on the path stay, as it may find another path.
fn is_of_a_namesake(list: &RevocationList, bundle: &Bundle, path: &VerifiedPath<'_>) -> bool {
    let Some(key) = &list.key else { return false };
    let differs = |subject: &[u8], own: Option<&[u8]>| {
        *subject == *list.list.issuer() && own.is_some_and(|own| *own != **key)
    };
    let anchor = path.anchor();
    let authority = bundle.anchors.iter().position(|known| known == anchor);
    let anchor_key = authority.and_then(|place| bundle.authorities[place].key.as_deref());
    differs(&anchor.subject, anchor_key)
        || path.intermediate_certificates().any(|issuer| {
            let own = certificate::subject_key(&issuer.der());
            differs(issuer.subject(), own.as_deref())
        })
}

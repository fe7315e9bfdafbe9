//! Why a handshake came to nothing: one kind with a stable name for metrics and logs, and one
//! sentence for the person who has to mend it.
//!
//! rustls chooses the alert that the peer hears by the error that a verifier returns, and the one
//! error that could carry our sentence always sends `certificate_unknown`. A peer whose certificate
//! has expired shall hear just that, for its own log depends on it. So a verifier returns the plain
//! error, and leaves the [`Fault`] on its thread, from where [`Fault::of`] takes it when the
//! handshake fails, which is in the same poll.

use std::{cell::RefCell, fmt, io};

use rustls::{
    AlertDescription, CertificateError, InvalidMessage, PeerIncompatible, PeerMisbehaved,
};

thread_local! {
    /// What the last verifier on this thread refused for.
    static LEFT: RefCell<Option<Fault>> = const { RefCell::new(None) };
}

/// Why a handshake, or a connection whose peer is no longer admitted, came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: FaultKind,
    detail: Box<str>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $name:literal, $token:literal;)*) => {
        /// The stable kinds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FaultKind {
            $($(#[$doc])* $kind,)*
        }

        impl FaultKind {
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The stable name: metric label, log field.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Error type of RFC 9209 section 2.3.
            pub const fn proxy_status(self) -> &'static str {
                match self { $(Self::$kind => $token,)* }
            }
        }
    };
}

kinds! {
    // The peer's certificate.
    CertificateExpired: "certificate_expired", "tls_certificate_error";
    CertificateNotYetValid: "certificate_not_yet_valid", "tls_certificate_error";
    /// An authority of ours is out of its window.
    AuthorityExpired: "authority_expired", "tls_certificate_error";
    UnknownAuthority: "unknown_authority", "tls_certificate_error";
    SelfSigned: "self_signed", "tls_certificate_error";
    /// No bundle here may vouch for the trust domain of the peer.
    WrongTrustDomain: "wrong_trust_domain", "tls_certificate_error";
    /// Another server's DNS name or IP address.
    WrongName: "wrong_name", "tls_certificate_error";
    /// Another workload's SPIFFE ID, or none where one is expected.
    WrongIdentity: "wrong_identity", "tls_certificate_error";
    /// It claims to be a SPIFFE identity, and breaks the rules of one.
    BadIdentity: "bad_identity", "tls_certificate_error";
    /// An authority's certificate where a workload's belongs.
    AuthorityAsLeaf: "authority_as_leaf", "tls_certificate_error";
    /// Its extended key usage doesn't allow this side of a connection.
    WrongPurpose: "wrong_purpose", "tls_certificate_error";
    /// An authority on the way to ours went beyond its rights: path length, names, not an authority.
    ConstraintViolated: "constraint_violated", "tls_certificate_error";
    Revoked: "revoked", "tls_certificate_error";
    /// A revocation list has expired or can't be believed: nobody it covers is admitted.
    RevocationUnknown: "revocation_unknown", "tls_certificate_error";
    WeakKey: "weak_key", "tls_certificate_error";
    UnsupportedAlgorithm: "unsupported_algorithm", "tls_certificate_error";
    BadSignature: "bad_signature", "tls_certificate_error";
    BadCertificate: "bad_certificate", "tls_certificate_error";
    /// More paths or signatures than are looked at.
    ChainTooComplex: "chain_too_complex", "tls_certificate_error";
    NoClientCertificate: "no_client_certificate", "tls_certificate_error";
    // The handshake.
    /// Plaintext, or another protocol.
    NotTls: "not_tls", "tls_protocol_error";
    NoCommonVersion: "no_common_version", "tls_protocol_error";
    NoCommonAlgorithm: "no_common_algorithm", "tls_protocol_error";
    NoApplicationProtocol: "no_application_protocol", "tls_protocol_error";
    ProtocolViolation: "protocol_violation", "tls_protocol_error";
    ClosedInHandshake: "closed_in_handshake", "connection_terminated";
    HandshakeTimeout: "handshake_timeout", "connection_timeout";
    // What the peer said of us.
    AlertCertificateExpired: "alert_certificate_expired", "tls_alert_received";
    AlertCertificateRevoked: "alert_certificate_revoked", "tls_alert_received";
    AlertUnknownAuthority: "alert_unknown_authority", "tls_alert_received";
    AlertBadCertificate: "alert_bad_certificate", "tls_alert_received";
    AlertUnsupportedCertificate: "alert_unsupported_certificate", "tls_alert_received";
    AlertCertificateUnknown: "alert_certificate_unknown", "tls_alert_received";
    AlertCertificateRequired: "alert_certificate_required", "tls_alert_received";
    AlertAccessDenied: "alert_access_denied", "tls_alert_received";
    AlertHandshakeFailure: "alert_handshake_failure", "tls_alert_received";
    AlertProtocolVersion: "alert_protocol_version", "tls_alert_received";
    AlertNoApplicationProtocol: "alert_no_application_protocol", "tls_alert_received";
    AlertUnrecognizedName: "alert_unrecognized_name", "tls_alert_received";
    AlertDecryptError: "alert_decrypt_error", "tls_alert_received";
    AlertOther: "alert_other", "tls_alert_received";
    // Here.
    /// The identity that is to be shown is not there yet.
    NoIdentity: "no_identity", "proxy_configuration_error";
    Internal: "internal", "proxy_internal_error";
}

impl Fault {
    pub fn new(kind: FaultKind, detail: impl Into<Box<str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }

    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// What a handshake failed for, or a connection after it. Takes what a verifier left on this
    /// thread: call it in the poll in which the error came, on the thread of the handshake.
    pub fn of(error: &rustls::Error) -> Self {
        use rustls::Error;
        match error {
            Error::InvalidCertificate(refused) => {
                let left = LEFT.take().filter(|fault| fault.said(refused));
                left.unwrap_or_else(|| Self::new(of_certificate(refused), refused.to_string()))
            }
            Error::AlertReceived(alert) => Self::alert(*alert),
            Error::NoCertificatesPresented => Self::new(
                FaultKind::NoClientCertificate,
                "the client showed no certificate, and one is required",
            ),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::new(FaultKind::NotTls, "what the peer sent is not TLS"),
            Error::PeerIncompatible(why) => Self::new(of_incompatible(why), error.to_string()),
            Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme) => {
                Self::new(FaultKind::UnsupportedAlgorithm, error.to_string())
            }
            Error::NoApplicationProtocol => Self::new(
                FaultKind::NoApplicationProtocol,
                "the peer speaks none of our application protocols (ALPN)",
            ),
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerMisbehaved(_)
            | Error::PeerSentOversizedRecord
            | Error::DecryptError => Self::new(FaultKind::ProtocolViolation, error.to_string()),
            _ => Self::new(FaultKind::Internal, error.to_string()),
        }
    }

    /// The same of what an asynchronous stream returns. `None`: TLS has nothing to do with it.
    pub fn of_io(error: &io::Error) -> Option<Self> {
        error
            .get_ref()?
            .downcast_ref::<rustls::Error>()
            .map(Self::of)
    }

    /// The same of a handshake that isn't over: whatever it ends with is a fault of it.
    pub fn of_handshake(error: &io::Error) -> Self {
        Self::of_io(error).unwrap_or_else(|| match error.kind() {
            io::ErrorKind::TimedOut => Self::timeout(),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe => Self::new(
                FaultKind::ClosedInHandshake,
                format!("the peer closed the connection within the handshake ({error})"),
            ),
            _ => Self::new(FaultKind::Internal, error.to_string()),
        })
    }

    /// The handshake took longer than it may.
    pub fn timeout() -> Self {
        Self::new(
            FaultKind::HandshakeTimeout,
            "the handshake was not over in time",
        )
    }

    /// The same fault with the peer's address or name before the sentence.
    pub fn at(self, peer: impl fmt::Display) -> Self {
        Self {
            kind: self.kind,
            detail: format!("{peer}: {}", self.detail).into(),
        }
    }

    /// Leaves it on this thread and returns the error with the right alert.
    pub(super) fn refuse(self) -> rustls::Error {
        let error = to_certificate_error(self.kind);
        LEFT.set(Some(self));
        error.into()
    }

    /// Forgets what an earlier handshake on this thread left and nobody asked for.
    pub(super) fn forget() {
        LEFT.set(None);
    }

    /// Whether this is what was refused with that error.
    fn said(&self, error: &CertificateError) -> bool {
        to_certificate_error(self.kind) == *error
    }

    fn alert(alert: AlertDescription) -> Self {
        use AlertDescription as A;
        let (kind, meaning) = match alert {
            A::CertificateExpired => (
                FaultKind::AlertCertificateExpired,
                "our certificate has expired or is not valid yet by its clock",
            ),
            A::CertificateRevoked => (
                FaultKind::AlertCertificateRevoked,
                "our certificate is revoked",
            ),
            A::UnknownCA => (
                FaultKind::AlertUnknownAuthority,
                "it doesn't know the authority of our certificate",
            ),
            A::BadCertificate => (
                FaultKind::AlertBadCertificate,
                "our certificate is broken or has the wrong name",
            ),
            A::UnsupportedCertificate => (
                FaultKind::AlertUnsupportedCertificate,
                "our certificate is of the wrong kind or for another purpose",
            ),
            A::CertificateUnknown => (
                FaultKind::AlertCertificateUnknown,
                "it doesn't accept our certificate",
            ),
            A::CertificateRequired => (
                FaultKind::AlertCertificateRequired,
                "it wants a client certificate, and we showed none",
            ),
            A::AccessDenied => (
                FaultKind::AlertAccessDenied,
                "our certificate is good, but we may not talk to it",
            ),
            A::HandshakeFailure => (
                FaultKind::AlertHandshakeFailure,
                "no common ground, or no client certificate",
            ),
            A::ProtocolVersion => (FaultKind::AlertProtocolVersion, "no common version of TLS"),
            A::NoApplicationProtocol => (
                FaultKind::AlertNoApplicationProtocol,
                "no common application protocol (ALPN)",
            ),
            A::UnrecognisedName => (
                FaultKind::AlertUnrecognizedName,
                "it doesn't know the server name that we asked for (SNI)",
            ),
            A::DecryptError => (
                FaultKind::AlertDecryptError,
                "a signature or a finished message doesn't hold",
            ),
            _ => (FaultKind::AlertOther, "no further meaning"),
        };
        Self::new(
            kind,
            format!("the peer sent the alert {alert:?}: {meaning}"),
        )
    }
}

impl FaultKind {
    /// How many there are: the size of a table indexed by [`FaultKind::index`].
    pub const COUNT: usize = Self::ALL.len();

    /// Position in [`FaultKind::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// rustls's error of a kind, chosen by the alert that it sends.
fn to_certificate_error(kind: FaultKind) -> CertificateError {
    use FaultKind as K;
    match kind {
        // certificate_expired.
        K::CertificateExpired => CertificateError::Expired,
        K::CertificateNotYetValid => CertificateError::NotValidYet,
        // unknown_ca.
        K::UnknownAuthority | K::SelfSigned | K::WrongTrustDomain | K::AuthorityExpired => {
            CertificateError::UnknownIssuer
        }
        K::RevocationUnknown => CertificateError::UnknownRevocationStatus,
        // certificate_revoked.
        K::Revoked => CertificateError::Revoked,
        // access_denied: the certificate is good.
        K::WrongIdentity => CertificateError::ApplicationVerificationFailure,
        // unsupported_certificate.
        K::WrongPurpose | K::AuthorityAsLeaf | K::WeakKey | K::UnsupportedAlgorithm => {
            CertificateError::InvalidPurpose
        }
        // decrypt_error.
        K::BadSignature => CertificateError::BadSignature,
        // bad_certificate.
        K::WrongName => CertificateError::NotValidForName,
        _ => CertificateError::BadEncoding,
    }
}

/// The kind of an error that no verifier of ours has explained.
fn of_certificate(error: &CertificateError) -> FaultKind {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => FaultKind::CertificateExpired,
        E::NotValidYet | E::NotValidYetContext { .. } => FaultKind::CertificateNotYetValid,
        E::UnknownIssuer => FaultKind::UnknownAuthority,
        E::Revoked => FaultKind::Revoked,
        E::UnknownRevocationStatus
        | E::ExpiredRevocationList
        | E::ExpiredRevocationListContext { .. } => FaultKind::RevocationUnknown,
        E::BadSignature => FaultKind::BadSignature,
        E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            FaultKind::UnsupportedAlgorithm
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => FaultKind::WrongName,
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => FaultKind::WrongPurpose,
        E::ApplicationVerificationFailure => FaultKind::WrongIdentity,
        _ => FaultKind::BadCertificate,
    }
}

fn of_incompatible(why: &PeerIncompatible) -> FaultKind {
    use PeerIncompatible as P;
    match why {
        P::ServerDoesNotSupportTls12Or13
        | P::ServerTlsVersionIsDisabledByOurConfig
        | P::SupportedVersionsExtensionRequired
        | P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled => FaultKind::NoCommonVersion,
        _ => FaultKind::NoCommonAlgorithm,
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The sentence alone.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_verifier_left_is_taken_once_and_by_its_error_only() {
        let fault = || Fault::new(FaultKind::Revoked, "web is revoked");
        let error = fault().refuse();
        assert_eq!(Fault::of(&error), fault());
        assert_eq!(Fault::of(&error).kind(), FaultKind::Revoked);
        assert_ne!(Fault::of(&error), fault());

        let _ = fault().refuse();
        let other = rustls::Error::InvalidCertificate(CertificateError::Expired);
        assert_eq!(Fault::of(&other).kind(), FaultKind::CertificateExpired);

        let error = fault().refuse();
        Fault::forget();
        assert_ne!(Fault::of(&error), fault());
    }

    #[test]
    fn each_kind_has_a_name_of_its_own_and_is_explained() {
        let text = include_str!("../../docs/identity.md");
        for (index, kind) in FaultKind::ALL.iter().enumerate() {
            assert_eq!(kind.index(), index);
            let mut others = FaultKind::ALL[..index].iter();
            assert!(others.all(|other| other.name() != kind.name()));
            assert!(text.contains(&format!("`{kind}`")), "{kind}");
        }
    }
}

//! Who is admitted: the question that every handshake asks, and that is asked again of open
//! connections when the answer may have changed.

use std::{cell::Cell, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{EndEntityCert, KeyUsage};

use super::{
    certificate::{Certificate, Unfit},
    chain::Shown,
    fault::{Fault, FaultKind},
    peer_match::PeerMatch,
    provider,
    trust::Trust,
};

/// In which role a peer comes, and who it has to be.
#[derive(Clone, Copy, Debug)]
pub enum Admission<'a> {
    /// A client with one of these names; with none given, any that the trust vouches for.
    Client(&'a [PeerMatch]),
    /// A server with one of these names.
    Server(&'a [PeerMatch]),
    /// A server with this DNS name or IP address.
    ServerName(&'a ServerName<'a>),
}

/// Who a server has to be, for as long as a configuration of connections to it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One of these workloads.
    Identity(Box<[PeerMatch]>),
    /// The server of this name, whatever name was dialled.
    Name(ServerName<'static>),
    /// The server of the name that is dialled.
    Dialled,
}

impl Expected {
    /// The question about a server that was dialled by that name.
    pub fn admission<'a>(&'a self, dialled: &'a ServerName<'a>) -> Admission<'a> {
        match self {
            Self::Identity(names) => Admission::Server(names),
            Self::Name(name) => Admission::ServerName(name),
            Self::Dialled => Admission::ServerName(dialled),
        }
    }
}

/// Whether a peer that shows `chain`, leaf first, is admitted at `now`, and who it is.
///
/// A name in a trust domain is believed from bundles of that domain and from those without one; a
/// peer without such a name from those without a domain only.
pub fn admit(
    trust: &Trust,
    admission: Admission<'_>,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<Certificate, Fault> {
    let Some(first) = chain.first() else {
        return Err(Fault::new(FaultKind::BadCertificate, "the chain is empty"));
    };
    let leaf = Certificate::leaf(first).map_err(|unfit| unfit_leaf(first, &unfit))?;
    vouched_for(trust, admission, &leaf, chain, now)?;
    expected(admission, &leaf, first)?;
    Ok(leaf)
}

/// Whether the peer of an open connection would be admitted today. One whose certificate has
/// expired meanwhile is not.
pub fn still_admits(
    trust: &Trust,
    admission: Admission<'_>,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Fault> {
    admit(trust, admission, chain, now).map(drop)
}

fn vouched_for(
    trust: &Trust,
    admission: Admission<'_>,
    leaf: &Certificate,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Fault> {
    let usage = match admission {
        Admission::Client(_) => KeyUsage::client_auth(),
        Admission::Server(_) | Admission::ServerName(_) => KeyUsage::server_auth(),
    };
    let shown = Shown { leaf, chain, now };
    let mut refused: Option<Fault> = None;
    for bundle in trust.for_peer(leaf.spiffe.as_ref()) {
        match shown.verify(bundle, usage) {
            Ok(()) => return Ok(()),
            // A bundle that knows the authority has more to say than one that doesn't.
            Err(fault) if refused.as_ref().is_none_or(is_of_a_stranger) => refused = Some(fault),
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or_else(|| match &leaf.spiffe {
        Some(id) => Fault::new(
            FaultKind::WrongTrustDomain,
            format!(
                "{leaf}: nothing that is trusted here may vouch for the trust domain {}",
                id.domain()
            ),
        ),
        None => Fault::new(
            FaultKind::WrongTrustDomain,
            format!("{leaf} is in no trust domain, and what is trusted here vouches for such only"),
        ),
    }))
}

fn is_of_a_stranger(fault: &Fault) -> bool {
    matches!(
        fault.kind(),
        FaultKind::UnknownAuthority | FaultKind::SelfSigned
    )
}

fn expected(
    admission: Admission<'_>,
    leaf: &Certificate,
    der: &CertificateDer<'_>,
) -> Result<(), Fault> {
    let names = match admission {
        Admission::Client([]) => return Ok(()),
        Admission::Client(names) | Admission::Server(names) => names,
        Admission::ServerName(name) => return has_name(name, leaf, der),
    };
    let is_meant = |id| names.iter().any(|name| name.matches(id));
    if leaf.spiffe.as_ref().is_some_and(is_meant) {
        return Ok(());
    }
    let wanted: Vec<String> = names.iter().take(5).map(ToString::to_string).collect();
    let why = match &leaf.spiffe {
        Some(_) => "is another one",
        None => "has no SPIFFE ID",
    };
    Err(Fault::new(
        FaultKind::WrongIdentity,
        format!("{leaf} {why}; expected is {}", wanted.join(" or ")),
    ))
}

fn has_name(
    name: &ServerName<'_>,
    leaf: &Certificate,
    der: &CertificateDer<'_>,
) -> Result<(), Fault> {
    let verified = EndEntityCert::try_from(der)
        .and_then(|parsed| parsed.verify_is_valid_for_subject_name(name));
    verified.map_err(|_| {
        let known: Vec<&str> = leaf.dns_names.iter().take(5).map(|name| &**name).collect();
        let known = match known.is_empty() {
            true => "it has no DNS name".to_owned(),
            false => format!("it is for {}", known.join(", ")),
        };
        let detail = format!("{leaf} is not for {}; {known}", name.to_str());
        Fault::new(FaultKind::WrongName, detail)
    })
}

fn unfit_leaf(der: &CertificateDer<'_>, unfit: &Unfit) -> Fault {
    let kind = match unfit {
        Unfit::Encoding(_) => FaultKind::BadCertificate,
        Unfit::Identity(_) => FaultKind::BadIdentity,
        Unfit::WeakKey(_) => FaultKind::WeakKey,
        Unfit::Authority => FaultKind::AuthorityAsLeaf,
    };
    let detail = match Certificate::any(der) {
        Ok(certificate) => format!("{certificate} {unfit}"),
        Err(_) => format!("what was shown {unfit}"),
    };
    Fault::new(kind, detail)
}

/// The part of both verifiers' traits that is the same: whether the peer has the key.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(
                message,
                cert,
                dss,
                &provider().signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(
                message,
                cert,
                dss,
                &provider().signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    };
}

/// Judges servers, on our way out.
#[derive(Debug)]
pub struct ServerVerifier {
    trust: Trust,
    expected: Expected,
}

impl ServerVerifier {
    pub fn new(trust: Trust, expected: Expected) -> Arc<Self> {
        Arc::new(Self { trust, expected })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let admission = self.expected.admission(server_name);
        judge(&self.trust, admission, end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

/// Judges clients, on their way in.
#[derive(Debug)]
pub struct ClientVerifier {
    trust: Trust,
    admitted: Box<[PeerMatch]>,
    required: bool,
}

impl ClientVerifier {
    /// `admitted`: whom to let in, anybody that the trust vouches for if empty. `required`: whether
    /// a client without a certificate is refused. One with a bad certificate always is.
    pub fn new(trust: Trust, admitted: Box<[PeerMatch]>, required: bool) -> Arc<Self> {
        Arc::new(Self {
            trust,
            admitted,
            required,
        })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    /// None: a workload has one certificate to show, and whom we trust is not everybody's business.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let admission = Admission::Client(&self.admitted);
        judge(&self.trust, admission, end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

thread_local! {
    /// Whom the last verifier on this thread has admitted.
    static ADMITTED: Cell<Option<Certificate>> = const { Cell::new(None) };
}

/// Who was admitted in the handshake that was worked on last, if it came to that: the verifier knows
/// him, and rustls has no place to keep that. Call it before the thread turns to another one.
pub(super) fn admitted() -> Option<Certificate> {
    ADMITTED.take()
}

fn judge(
    trust: &Trust,
    admission: Admission<'_>,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Error> {
    Fault::forget();
    // Borrowed, not copied.
    let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity)
        .chain(intermediates)
        .map(|der| CertificateDer::from(&der[..]))
        .collect();
    let peer = admit(trust, admission, &chain, now).map_err(Fault::refuse)?;
    ADMITTED.set(Some(peer));
    Ok(())
}

//! Who is at the other end, and how that is proven: everything about certificates that touches
//! neither a socket nor a listener.
//!
//! What we show is a [`Credential`]: a chain and its key, parsed and checked against each other
//! before anybody sees them. Whom we believe is a [`Trust`]: bundles of authorities, each with the
//! trust domain it may vouch for and its revocation lists. Whom we want to talk to is a list of
//! [`PeerMatch`]es, or a server's name. All three are immutable; a rotation makes new ones.
//!
//! [`ServerVerifier`] and [`ClientVerifier`] put that question in a handshake, and [`admit`] is the
//! same question without one: it is asked again of open connections when a bundle, a revocation
//! list or the expectation has changed. Whoever is admitted is a [`Certificate`], whose
//! [`SpiffeId`] is what access rules speak of; every refusal is a [`Fault`] with a stable name.
//!
//! Time is an argument everywhere.

pub mod alpn;
mod certificate;
mod chain;
pub mod client;
mod current;
mod fault;
pub mod handshake;
pub mod keeper;
mod manner;
mod marks;
mod material;
mod materials;
mod peer_match;
pub(crate) mod pem;
pub mod roster;
pub mod server;
mod spiffe;
mod term;
mod trust;
mod verify;
pub mod warden;
pub mod workload;

use std::sync::{Arc, LazyLock};

use rustls::{
    SupportedProtocolVersion,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
    version::{TLS12, TLS13},
};

use crate::config::model::TlsVersion;

pub use certificate::{Certificate, Date, Unfit};
pub use current::{Current, Taken};
pub use fault::{Fault, FaultKind};
pub use handshake::{Desk, Secured};
pub use manner::Manner;
pub use material::{Credential, Loaded, MaterialError, Problem, Source, Warning, split_der};
pub use materials::Materials;
pub use peer_match::{BadPeerMatch, Pattern, PeerMatch};
pub use pem::BadPem;
pub use roster::{Leash, Proven, Roster};
pub use spiffe::{BadSpiffeId, SpiffeId, TrustDomain};
pub use trust::{Bundle, Trust};
pub use verify::{Admission, ClientVerifier, Expected, ServerVerifier, admit, still_admits};

/// What speaks TLS here and by whose cryptography, for `--version`.
pub const PROVIDER: &str = "rustls with aws-lc-rs; 1.3 and 1.2; X25519MLKEM768 preferred";

/// The cryptography of every handshake, passed explicitly and never by the process-wide default.
///
/// Key exchange in the order of preference: X25519MLKEM768, which a recording of today's traffic
/// keeps secret from a quantum computer of tomorrow, X25519, P-256, P-384. Towards endpoints
/// AES-128-GCM is preferred, ten rounds a block where AES-256 has fourteen; clients get what they
/// prefer.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            kx_groups: vec![
                kx_group::X25519MLKEM768,
                kx_group::X25519,
                kx_group::SECP256R1,
                kx_group::SECP384R1,
            ],
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ],
            ..aws_lc_rs::default_provider()
        })
    });
    Arc::clone(&PROVIDER)
}

/// The versions of TLS from `oldest` on.
fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static ALL: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match oldest {
        TlsVersion::V1_2 => &ALL,
        TlsVersion::V1_3 => &ALL[..1],
    }
}

/// SHA-256, of which every fingerprint here is made.
fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = ::aws_lc_rs::digest::Context::new(&::aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;

    use super::*;

    #[test]
    fn post_quantum_key_exchange_comes_first() {
        let groups: Vec<NamedGroup> = provider().kx_groups.iter().map(|kx| kx.name()).collect();
        assert_eq!(
            groups,
            [
                NamedGroup::X25519MLKEM768,
                NamedGroup::X25519,
                NamedGroup::secp256r1,
                NamedGroup::secp384r1
            ]
        );
    }
}

//! An authority and one certificate under it, P-256, as `pillion dev-ca` makes them.

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

pub(crate) const IDENTITY: &str = "spiffe://bench.local/ns/default/sa/server";

/// Makes `ca.crt`, `server.crt` and `server.key`.
pub(crate) fn make(directory: &Path) {
    let write = |name: &str, kind: &str, der: &[u8]| {
        let text = STANDARD.encode(der);
        let text = format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n");
        fs::write(directory.join(name), text).expect("a folder of our own");
    };
    let key = || KeyPair::generate().expect("randomness");
    let authority_key = key();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let made = authority.self_signed(&authority_key).expect("an authority");
    write("ca.crt", "CERTIFICATE", made.der());
    let issuer = Issuer::new(authority, authority_key);

    let own_key = key();
    let mut own = CertificateParams::default();
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    own.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    own.subject_alt_names = vec![SanType::URI(IDENTITY.try_into().expect("ASCII"))];
    let made = own.signed_by(&own_key, &issuer).expect("a certificate");
    write("server.crt", "CERTIFICATE", made.der());
    write("server.key", "PRIVATE KEY", &own_key.serialize_der());
}

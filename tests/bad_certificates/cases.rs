//! The tables: bad certificates with their reasons, and good ones that come close.

use pillion::tls::{Bundle, FaultKind as Kind, Trust};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
    SerialNumber,
};

use crate::pki::{Ca, DAY, HOUR, SERIAL, Shown, SmallRsa, at, bundle, dns, uri};

/// What is shown, and who looks at it.
pub(crate) struct Scene {
    pub(crate) shown: Shown,
    pub(crate) trust: Trust,
    pub(crate) wants: Vec<&'static str>,
    /// As a client: the name to dial.
    pub(crate) name: &'static str,
}

pub(crate) fn scene(shown: Shown, trust: Trust) -> Scene {
    Scene {
        shown,
        trust,
        wants: vec!["spiffe://d/ns/*/sa/web"],
        name: "web.example",
    }
}

/// A root of the trust domain `d`, and what it is made to sign.
pub(crate) fn issued(make: impl FnOnce(&Ca) -> Shown) -> Scene {
    let ca = Ca::root("root");
    let shown = make(&ca);
    scene(shown, Trust::new(vec![bundle(Some("d"), &[&ca], &[])]))
}

pub(crate) fn leaf(change: impl FnOnce(&mut CertificateParams)) -> Scene {
    issued(|ca| ca.leaf_with(change))
}

pub(crate) fn named(names: Vec<SanType>) -> Scene {
    leaf(|params| params.subject_alt_names = names)
}

/// The same for whom no trust domain counts: a server of the internet.
pub(crate) fn plain(names: Vec<SanType>, name: &'static str) -> Scene {
    let ca = Ca::root("root");
    let shown = ca.leaf_with(|params| params.subject_alt_names = names);
    Scene {
        wants: vec![],
        name,
        ..scene(shown, Trust::new(vec![bundle(None, &[&ca], &[])]))
    }
}

pub(crate) fn with_sub(change: impl FnOnce(&mut CertificateParams)) -> Scene {
    issued(|ca| {
        let sub = ca.sub("sub", change);
        sub.leaf().through(&sub)
    })
}

pub(crate) fn with_crl(make: impl FnOnce(&Ca) -> Vec<u8>) -> Scene {
    let ca = Ca::root("root");
    let list = make(&ca);
    scene(
        ca.leaf(),
        Trust::new(vec![bundle(Some("d"), &[&ca], &[list])]),
    )
}

pub(crate) fn wanting(scene: Scene, wants: Vec<&'static str>) -> Scene {
    Scene { wants, ..scene }
}

pub(crate) fn trusting(shown: Shown, bundles: Vec<Bundle>) -> Scene {
    scene(shown, Trust::new(bundles))
}

/// A name, what is shown, the reason, and the alert that its owner hears.
pub(crate) type Case = (&'static str, fn() -> Scene, Kind, Kind);
/// A name, and what is shown.
pub(crate) type Good = (&'static str, fn() -> Scene);

/// Refused whoever shows them, client or server.
#[rustfmt::skip]
pub(crate) const EITHER: &[Case] = &[
    ("expired", || leaf(|p| p.not_after = at!(-1)), Kind::CertificateExpired, Kind::AlertCertificateExpired),
    ("not yet valid", || leaf(|p| p.not_before = at!(1)), Kind::CertificateNotYetValid, Kind::AlertCertificateExpired),
    ("window the wrong way round", || leaf(|p| (p.not_before, p.not_after) = (at!(HOUR), at!(-HOUR))), Kind::CertificateExpired, Kind::AlertCertificateExpired),
    ("intermediate expired", || with_sub(|p| p.not_after = at!(-1)), Kind::CertificateExpired, Kind::AlertCertificateExpired),
    ("intermediate not yet valid", || with_sub(|p| p.not_before = at!(1)), Kind::CertificateNotYetValid, Kind::AlertCertificateExpired),
    ("root expired", || {
        let ca = Ca::root_with("root", |p| p.not_after = at!(-1));
        trusting(ca.leaf(), vec![bundle(Some("d"), &[&ca], &[])])
    }, Kind::AuthorityExpired, Kind::AlertUnknownAuthority),
    ("root not yet valid", || {
        let ca = Ca::root_with("root", |p| p.not_before = at!(1));
        trusting(ca.leaf(), vec![bundle(Some("d"), &[&ca], &[])])
    }, Kind::AuthorityExpired, Kind::AlertUnknownAuthority),
    ("unknown authority", || trusting(Ca::root("stranger").leaf(), vec![bundle(Some("d"), &[&Ca::root("root")], &[])]), Kind::UnknownAuthority, Kind::AlertUnknownAuthority),
    ("unknown authority of the same name", || trusting(Ca::root("root").leaf(), vec![bundle(Some("d"), &[&Ca::root("root")], &[])]), Kind::UnknownAuthority, Kind::AlertUnknownAuthority),
    ("unknown authority that comes along", || {
        let stranger = Ca::root("stranger");
        trusting(stranger.leaf().through(&stranger), vec![bundle(Some("d"), &[&Ca::root("root")], &[])])
    }, Kind::UnknownAuthority, Kind::AlertUnknownAuthority),
    ("no authority at all", || trusting(Ca::root("root").leaf(), vec![bundle(Some("d"), &[], &[])]), Kind::UnknownAuthority, Kind::AlertUnknownAuthority),
    ("self-signed", || {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_after = at!(DAY);
        params.subject_alt_names = vec![uri("spiffe://d/ns/default/sa/web"), dns("web.example")];
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        trusting(Shown { chain, key: key.serialize_der() }, vec![bundle(Some("d"), &[&Ca::root("root")], &[])])
    }, Kind::SelfSigned, Kind::AlertUnknownAuthority),
    ("intermediate missing", || issued(|ca| ca.sub("sub", |_| {}).leaf()), Kind::UnknownAuthority, Kind::AlertUnknownAuthority),
    ("another intermediate instead", || issued(|ca| ca.sub("sub", |_| {}).leaf().through(&ca.sub("other", |_| {}))), Kind::UnknownAuthority, Kind::AlertUnknownAuthority),
    ("intermediate that is no authority", || with_sub(|p| p.is_ca = IsCa::NoCa), Kind::ConstraintViolated, Kind::AlertBadCertificate),
    ("intermediate that may not sign", || with_sub(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]), Kind::ConstraintViolated, Kind::AlertBadCertificate),
    ("path too long", || issued(|ca| {
        let sub = ca.sub("sub", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        let subsub = sub.sub("subsub", |_| {});
        subsub.leaf().through(&subsub).through(&sub)
    }), Kind::ConstraintViolated, Kind::AlertBadCertificate),
    ("outside of the permitted names", || with_sub(|p| p.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("other.example".into())],
        excluded_subtrees: vec![],
    })), Kind::ConstraintViolated, Kind::AlertBadCertificate),
    ("within the excluded names", || with_sub(|p| p.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![],
        excluded_subtrees: vec![GeneralSubtree::DnsName("example".into())],
    })), Kind::ConstraintViolated, Kind::AlertBadCertificate),
    ("intermediate for another purpose", || with_sub(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]), Kind::WrongPurpose, Kind::AlertUnsupportedCertificate),
    ("leaf for another purpose", || leaf(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection]), Kind::WrongPurpose, Kind::AlertUnsupportedCertificate),
    ("trust domain without a bundle", || named(vec![uri("spiffe://e/ns/default/sa/web")]), Kind::WrongTrustDomain, Kind::AlertUnknownAuthority),
    ("trust domain of another's bundle", || {
        let (d, e) = (Ca::root("d"), Ca::root("e"));
        let shown = e.leaf();
        trusting(shown, vec![bundle(Some("d"), &[&d], &[]), bundle(Some("e"), &[&e], &[])])
    }, Kind::UnknownAuthority, Kind::AlertUnknownAuthority),
    ("DNS name under a bundle for identities", || named(vec![dns("web.example")]), Kind::WrongTrustDomain, Kind::AlertUnknownAuthority),
    ("no name under a bundle for identities", || named(vec![]), Kind::WrongTrustDomain, Kind::AlertUnknownAuthority),
    ("another workload", || named(vec![uri("spiffe://d/ns/default/sa/db")]), Kind::WrongIdentity, Kind::AlertAccessDenied),
    ("another workload than this one", || wanting(leaf(|_| {}), vec!["spiffe://d/ns/default/sa/db", "spiffe://d/x"]), Kind::WrongIdentity, Kind::AlertAccessDenied),
    ("another trust domain than wanted", || wanting(leaf(|_| {}), vec!["spiffe://e"]), Kind::WrongIdentity, Kind::AlertAccessDenied),
    ("no identity where one is wanted", || wanting(plain(vec![dns("web.example")], "web.example"), vec!["spiffe://d"]), Kind::WrongIdentity, Kind::AlertAccessDenied),
    ("two identities", || named(vec![uri("spiffe://d/ns/default/sa/web"), uri("spiffe://d/ns/default/sa/db")]), Kind::BadIdentity, Kind::AlertBadCertificate),
    ("the same identity twice", || named(vec![uri("spiffe://d/ns/default/sa/web"), uri("spiffe://d/ns/default/sa/web")]), Kind::BadIdentity, Kind::AlertBadCertificate),
    ("identity and another URI", || named(vec![uri("https://d/web"), uri("spiffe://d/ns/default/sa/web")]), Kind::BadIdentity, Kind::AlertBadCertificate),
    ("identity in capitals", || named(vec![uri("SPIFFE://d/ns/default/sa/web")]), Kind::BadIdentity, Kind::AlertBadCertificate),
    ("identity with a query", || named(vec![uri("spiffe://d/ns/default/sa/web?admin")]), Kind::BadIdentity, Kind::AlertBadCertificate),
    ("identity with dots", || named(vec![uri("spiffe://d/ns/../sa/web")]), Kind::BadIdentity, Kind::AlertBadCertificate),
    ("identity too long", || named(vec![uri(&format!("spiffe://d/{}", "a".repeat(2048)))]), Kind::BadIdentity, Kind::AlertBadCertificate),
    ("a trust domain's own identity", || named(vec![uri("spiffe://d")]), Kind::BadIdentity, Kind::AlertBadCertificate),
    ("identity that may sign certificates", || leaf(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), Kind::BadIdentity, Kind::AlertBadCertificate),
    ("identity that may sign revocation lists", || leaf(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)), Kind::BadIdentity, Kind::AlertBadCertificate),
    ("authority as leaf", || leaf(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Kind::AuthorityAsLeaf, Kind::AlertUnsupportedCertificate),
    ("root itself as leaf", || {
        let key = KeyPair::generate().unwrap();
        let ca = Ca::root("root");
        let shown = Shown { chain: vec![ca.der.clone()], key: key.serialize_der() };
        trusting(shown, vec![bundle(Some("d"), &[&ca], &[])])
    }, Kind::AuthorityAsLeaf, Kind::AlertUnsupportedCertificate),
    ("revoked", || with_crl(|ca| ca.crl(&[1, SERIAL])), Kind::Revoked, Kind::AlertCertificateRevoked),
    ("revoked intermediate", || {
        let ca = Ca::root("root");
        let sub = ca.sub("sub", |p| p.serial_number = Some(SerialNumber::from(7_u64)));
        trusting(sub.leaf().through(&sub), vec![bundle(Some("d"), &[&ca], &[ca.crl(&[7])])])
    }, Kind::Revoked, Kind::AlertCertificateRevoked),
    ("revoked by an intermediate", || {
        let ca = Ca::root("root");
        let sub = ca.sub("sub", |_| {});
        trusting(sub.leaf().through(&sub), vec![bundle(Some("d"), &[&ca], &[ca.crl(&[]), sub.crl(&[SERIAL])])])
    }, Kind::Revoked, Kind::AlertCertificateRevoked),
    ("revoked by one of two authorities of the same name", || {
        let (old, new) = (Ca::root("root"), Ca::root("root"));
        trusting(new.leaf(), vec![bundle(Some("d"), &[&old, &new], &[old.crl(&[]), new.crl(&[SERIAL])])])
    }, Kind::Revoked, Kind::AlertCertificateRevoked),
    ("revocation list expired", || with_crl(|ca| ca.crl_with(&[], |p| p.next_update = at!(-1))), Kind::RevocationUnknown, Kind::AlertUnknownAuthority),
    ("revocation list with another's signature", || with_crl(|ca| {
        let claimed = KeyIdMethod::PreSpecified(ca.key_id());
        Ca::root("root").crl_with(&[], |p| p.key_identifier_method = claimed)
    }), Kind::RevocationUnknown, Kind::AlertUnknownAuthority),
    ("revocation list of an authority that may sign none", || {
        let ca = Ca::root_with("root", |p| p.key_usages = vec![]);
        let sub = ca.sub("sub", |p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
        let list = sub.unlimited("sub").crl(&[]);
        trusting(sub.leaf().through(&sub), vec![bundle(Some("d"), &[&ca], &[list])])
    }, Kind::RevocationUnknown, Kind::AlertUnknownAuthority),
    ("RSA key of 1024 bits", || issued(|ca| ca.leaf_of(&SmallRsa::new())), Kind::WeakKey, Kind::AlertUnsupportedCertificate),
    ("signature algorithm that nobody believes", || issued(|ca| ca.leaf().garbled(|der| {
        // ecdsa-with-SHA224 in place of ecdsa-with-SHA256, in both places.
        let known = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
        for place in 0..der.len() - known.len() {
            if der[place..].starts_with(&known) {
                der[place + known.len() - 1] = 0x01;
            }
        }
    })), Kind::UnsupportedAlgorithm, Kind::AlertUnsupportedCertificate),
    ("two signature algorithms", || issued(|ca| ca.leaf().garbled(|der| {
        let known = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
        let place = (0..der.len()).find(|&place| der[place..].starts_with(&known)).unwrap();
        der[place + known.len() - 1] = 0x03;
    })), Kind::BadCertificate, Kind::AlertBadCertificate),
    ("signature changed", || issued(|ca| ca.leaf().garbled(|der| *der.last_mut().unwrap() ^= 1)), Kind::BadSignature, Kind::AlertDecryptError),
    ("name changed after it was signed", || issued(|ca| ca.leaf().garbled(|der| {
        let place = (0..der.len()).find(|&place| der[place..].starts_with(b"sa/web")).unwrap();
        der[place + 3] = b'W';
    })), Kind::BadSignature, Kind::AlertDecryptError),
    ("cut off", || issued(|ca| ca.leaf().garbled(|der| der.truncate(der.len() / 2))), Kind::BadCertificate, Kind::AlertBadCertificate),
    ("with a byte too many", || issued(|ca| ca.leaf().garbled(|der| der.push(0))), Kind::BadCertificate, Kind::AlertBadCertificate),
    ("not a certificate", || issued(|ca| ca.leaf().garbled(|der| der.fill(0x41))), Kind::BadCertificate, Kind::AlertBadCertificate),
    ("one byte", || issued(|ca| ca.leaf().garbled(|der| *der = vec![0x30])), Kind::BadCertificate, Kind::AlertBadCertificate),
    ("alternative names that are none", || leaf(|p| {
        p.subject_alt_names = vec![];
        p.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x04, 0x00])];
    }), Kind::BadCertificate, Kind::AlertBadCertificate),
    ("critical extension that nobody knows", || leaf(|p| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0x05, 0x00]);
        extension.set_criticality(true);
        p.custom_extensions = vec![extension];
    }), Kind::BadCertificate, Kind::AlertBadCertificate),
    ("key of another certificate", || issued(|ca| Shown { key: KeyPair::generate().unwrap().serialize_der(), ..ca.leaf() }), Kind::BadSignature, Kind::AlertDecryptError),
    ("a wood of authorities", || {
        let ca = Ca::root("root");
        let subs: Vec<Ca> = (0..50).map(|_| ca.sub("sub", |_| {})).collect();
        let leaf = Ca::root("sub").leaf();
        let shown = subs.iter().fold(leaf, Shown::through);
        trusting(shown, vec![bundle(Some("d"), &[&ca], &[])])
    }, Kind::UnknownAuthority, Kind::AlertUnknownAuthority),
];

/// Refused of a client.
#[rustfmt::skip]
pub(crate) const CLIENT: &[Case] = &[
    ("for servers only", || leaf(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]), Kind::WrongPurpose, Kind::AlertUnsupportedCertificate),
];

/// Refused of a server.
#[rustfmt::skip]
pub(crate) const SERVER: &[Case] = &[
    ("for clients only", || leaf(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]), Kind::WrongPurpose, Kind::AlertUnsupportedCertificate),
    ("another server", || plain(vec![dns("other.example")], "web.example"), Kind::WrongName, Kind::AlertBadCertificate),
    ("a server below", || plain(vec![dns("a.web.example")], "web.example"), Kind::WrongName, Kind::AlertBadCertificate),
    ("a wildcard two levels up", || plain(vec![dns("*.web.example")], "b.a.web.example"), Kind::WrongName, Kind::AlertBadCertificate),
    ("a name in the subject only", || {
        let ca = Ca::root("root");
        let shown = ca.leaf_with(|p| {
            p.subject_alt_names = vec![];
            p.distinguished_name.push(DnType::CommonName, "web.example");
        });
        wanting(trusting(shown, vec![bundle(None, &[&ca], &[])]), vec![])
    }, Kind::WrongName, Kind::AlertBadCertificate),
    ("an address for a name", || plain(vec![SanType::IpAddress("127.0.0.1".parse().unwrap())], "web.example"), Kind::WrongName, Kind::AlertBadCertificate),
    ("another address", || plain(vec![SanType::IpAddress("127.0.0.2".parse().unwrap())], "127.0.0.1"), Kind::WrongName, Kind::AlertBadCertificate),
    ("an address as a DNS name", || plain(vec![dns("127.0.0.1")], "127.0.0.1"), Kind::WrongName, Kind::AlertBadCertificate),
];

/// Admitted: what is close to a mistake and is none.
#[rustfmt::skip]
pub(crate) const GOOD: &[Good] = &[
    ("a workload", || leaf(|_| {})),
    ("through an intermediate", || with_sub(|_| {})),
    ("with the root in the chain", || issued(|ca| ca.leaf().through(ca))),
    ("in its last second", || leaf(|p| p.not_after = at!(0))),
    ("in its first second", || leaf(|p| p.not_before = at!(0))),
    ("without extended key usage", || leaf(|p| p.extended_key_usages = vec![])),
    ("without key usage", || leaf(|p| p.key_usages = vec![])),
    ("P-384", || issued(|ca| ca.leaf_for(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(), |_| {}))),
    ("Ed25519", || issued(|ca| ca.leaf_for(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), |_| {}))),
    ("RSA of 2048 bits", || issued(|ca| ca.leaf_for(&KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap(), |_| {}))),
    ("a bundle without a domain", || {
        let ca = Ca::root("root");
        trusting(ca.leaf(), vec![bundle(None, &[&ca], &[])])
    }),
    ("the same authority three times", || {
        let ca = Ca::root("root");
        trusting(ca.leaf(), vec![bundle(Some("d"), &[&ca, &ca], &[]), bundle(Some("d"), &[&ca], &[])])
    }),
    ("old and new authority of the same name", || {
        let (old, new) = (Ca::root("root"), Ca::root("root"));
        trusting(new.leaf(), vec![bundle(Some("d"), &[&old, &new], &[old.crl(&[SERIAL]), new.crl(&[])])])
    }),
    ("expired authority beside the new one", || {
        let (old, new) = (Ca::root_with("root", |p| p.not_after = at!(-1)), Ca::root("root"));
        trusting(new.leaf(), vec![bundle(Some("d"), &[&old, &new], &[])])
    }),
    ("federation", || {
        let (d, e) = (Ca::root("d"), Ca::root("e"));
        let shown = e.leaf_with(|p| p.subject_alt_names = vec![uri("spiffe://e/web")]);
        wanting(trusting(shown, vec![bundle(Some("d"), &[&d], &[]), bundle(Some("e"), &[&e], &[])]), vec!["spiffe://e/web"])
    }),
    ("not on the list", || with_crl(|ca| ca.crl(&[SERIAL + 1]))),
    ("on the list of another authority", || with_crl(|_| Ca::root("other").crl(&[SERIAL]))),
    ("another URI than an identity", || plain(vec![uri("https://web.example"), dns("web.example")], "web.example")),
];

/// Admitted of a server.
#[rustfmt::skip]
pub(crate) const GOOD_SERVER: &[Good] = &[
    ("by its name", || plain(vec![dns("web.example")], "web.example")),
    ("by a wildcard", || plain(vec![dns("*.web.example")], "a.web.example")),
    ("by its address", || plain(vec![SanType::IpAddress("127.0.0.1".parse().unwrap())], "127.0.0.1")),
    ("by the name of a workload", || wanting(leaf(|_| {}), vec![])),
];

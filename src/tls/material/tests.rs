//! Pairs of certificate and key, good and bad.

use std::{os::unix::fs::PermissionsExt, time::SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_RSA_SHA256, SanType,
};

use super::*;
use crate::tls::{Bundle, pem};

const NOW: u64 = 1_800_000_000;

fn at(offset: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW.checked_add_signed(offset).unwrap()))
}

/// Valid for a thousand seconds from `NOW`.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = system(0).into();
    params.not_after = system(1000).into();
    params
}

fn system(offset: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW + offset)
}

fn certificate(der: &[u8]) -> String {
    pem::encode("CERTIFICATE", der).to_string()
}

fn secret(label: &str, der: &[u8]) -> String {
    pem::encode(label, der).to_string()
}

/// A certificate that vouches for itself, and its key.
fn pair(name: &str) -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let der = params(name).self_signed(&key).unwrap().der().to_vec();
    (certificate(&der), key)
}

fn load(chain: &str, key: &str, now: UnixTime) -> Result<Loaded, MaterialError> {
    let source = |name, text: &'static [u8]| Source { name, text };
    let chain = chain.to_owned().into_bytes().leak();
    let key = key.to_owned().into_bytes().leak();
    Credential::from_pem(source("web.crt", chain), source("web.key", key), now)
}

fn error(chain: &str, key: &str) -> String {
    load(chain, key, at(1)).unwrap_err().to_string()
}

/// The key inside of PKCS#8: the last field that is an octet string (RFC 5958).
fn inner(pkcs8: &[u8]) -> &[u8] {
    let (place, length) = (0..pkcs8.len())
        .find_map(|place| match pkcs8[place..] {
            [0x04, 0x82, a, b, ..] => Some((place + 4, usize::from(a) << 8 | usize::from(b))),
            [0x04, length, 0x30, ..] if length < 0x80 => Some((place + 2, usize::from(length))),
            _ => None,
        })
        .unwrap();
    &pkcs8[place..place + length]
}

#[test]
fn each_form_of_a_key_is_read() {
    let (crt, key) = pair("web");
    let pkcs8 = secret("PRIVATE KEY", key.serialized_der());
    let sec1 = secret("EC PRIVATE KEY", inner(key.serialized_der()));
    for text in [&pkcs8, &sec1, &format!("{crt}{pkcs8}")] {
        let loaded = load(&crt, text, at(1)).unwrap();
        assert_eq!(loaded.warnings, []);
        assert_eq!(&*loaded.credential.leaf().subject, "CN=web");
    }
    assert!(load(&format!("{crt}{pkcs8}"), &pkcs8, at(1)).is_ok());
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let crt = certificate(params("rsa").self_signed(&key).unwrap().der());
    let pkcs1 = secret("RSA PRIVATE KEY", inner(key.serialized_der()));
    assert!(load(&crt, &pkcs1, at(1)).is_ok());
}

#[test]
fn what_does_not_fit_is_said() {
    let (crt, key) = pair("web");
    let (other_crt, other) = pair("db");
    let (key, other) = (key.serialized_der(), other.serialized_der());
    let pkcs8 = secret("PRIVATE KEY", key);
    let starts = |found: String, expected: &str| assert!(found.starts_with(expected), "{found}");
    starts(
        error(&crt, &secret("PRIVATE KEY", other)),
        "web.key: the key does not belong to the certificate (CN=web, serial ",
    );
    assert_eq!(
        error(&format!("{other_crt}{crt}"), &pkcs8),
        "web.crt: the key belongs to certificate 2 of the chain; the one it belongs to comes first"
    );
    assert_eq!(error("", &pkcs8), "web.crt: is empty");
    assert_eq!(error(&crt, ""), "web.key: is empty");
    assert_eq!(
        error(&crt, "x"),
        "web.key: has no -----BEGIN line: it is not PEM"
    );
    starts(
        error(&crt[..100], &pkcs8),
        "web.crt: is cut off: the CERTIFICATE that begins on line 1",
    );
    assert_eq!(
        error(&crt, &crt),
        "web.key: line 1: a CERTIFICATE, where a PRIVATE KEY belongs"
    );
    assert_eq!(error(&pkcs8, &pkcs8), "web.crt: has no CERTIFICATE");
    assert_eq!(
        error(&secret("CERTIFICATE REQUEST", b"x"), &pkcs8),
        "web.crt: line 1: a CERTIFICATE REQUEST, where a CERTIFICATE belongs"
    );
    assert_eq!(
        error(&crt, &format!("{pkcs8}{pkcs8}")),
        "web.key: has 2 private keys; one belongs here"
    );
    for text in [
        secret("PRIVATE KEY", b"nonsense"),
        secret("DSA PRIVATE KEY", key),
    ] {
        starts(
            error(&crt, &text),
            "web.key: the key is of no kind that can be used",
        );
    }
    starts(
        error(&certificate(b"nonsense"), &pkcs8),
        "web.crt: certificate 1 is not a certificate: ",
    );
    starts(
        error(&format!("{crt}{}", certificate(b"nonsense")), &pkcs8),
        "web.crt: certificate 2 is not a certificate: ",
    );
}

#[test]
fn the_window_counts() {
    let (crt, key) = pair("web");
    let key = secret("PRIVATE KEY", key.serialized_der());
    let said = |offset| load(&crt, &key, at(offset)).unwrap_err().to_string();
    assert!(said(1001).contains(
        "has expired: valid from 2027-01-15T08:00:00Z to 2027-01-15T08:16:40Z, and our clock says \
         2027-01-15T08:16:41Z"
    ));
    assert!(said(-1).contains("is not valid yet: valid from 2027-01-15T08:00:00Z"));
    assert_eq!(load(&crt, &key, at(800)).unwrap().warnings, []);
    let loaded = load(&crt, &key, at(801)).unwrap();
    assert!(
        loaded.warnings[0]
            .to_string()
            .ends_with("expires soon, at 2027-01-15T08:16:40Z")
    );
    assert_eq!(
        loaded.credential.remaining(at(801)),
        Duration::from_secs(199)
    );
    assert_eq!(loaded.credential.remaining(at(2000)), Duration::ZERO);
}

#[test]
fn an_intermediate_limits_the_chain() {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = params("ca");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.not_after = system(500).into();
    let ca_der = ca.self_signed(&ca_key).unwrap().der().to_vec();
    let key = KeyPair::generate().unwrap();
    let leaf = params("web")
        .signed_by(&key, &Issuer::new(ca, ca_key))
        .unwrap();
    let chain = certificate(leaf.der()) + &certificate(&ca_der);
    let key = secret("PRIVATE KEY", key.serialized_der());
    let loaded = load(&chain, &key, at(1)).unwrap();
    assert_eq!(loaded.credential.not_after(), at(500));
    assert!(error_at(&chain, &key, 501).contains("certificate (CN=ca, serial"));

    // The same as the Workload API sends it.
    let together = [leaf.der(), &ca_der[..]].concat();
    let split = split_der(&together).unwrap();
    assert_eq!(split, loaded.credential.chain());
    assert!(split_der(&together[..together.len() - 1]).is_err());

    let authority = |text: &str| {
        let text = text.as_bytes();
        let source = Source {
            name: "ca.crt",
            text,
        };
        Bundle::from_pem(&[source], &[], None).map_err(|error| error.to_string())
    };
    assert_eq!(
        authority(&certificate(&ca_der))
            .unwrap()
            .authorities()
            .count(),
        1
    );
    assert!(authority(&chain).unwrap_err().contains("is no authority"));
    assert_eq!(authority("").unwrap_err(), "ca.crt: is empty");
}

fn error_at(chain: &str, key: &str, offset: i64) -> String {
    load(chain, key, at(offset)).unwrap_err().to_string()
}

#[test]
fn an_identity_that_peers_would_refuse_is_refused_here() {
    let key = KeyPair::generate().unwrap();
    let mut params = params("web");
    let uri = |id: &str| SanType::URI(id.try_into().unwrap());
    params.subject_alt_names = vec![uri("spiffe://d/a"), uri("spiffe://d/b")];
    let crt = certificate(params.self_signed(&key).unwrap().der());
    assert_eq!(
        error(&crt, &secret("PRIVATE KEY", key.serialized_der())),
        "web.crt: certificate 1 is no SPIFFE identity: it has 2 URI names and may have one"
    );
}

#[test]
fn files_are_read_and_their_modes_looked_at() {
    let folder = std::env::temp_dir().join(format!(
        "pillion-material-{}-{:08x}",
        std::process::id(),
        fastrand::u32(..)
    ));
    fs::create_dir(&folder).unwrap();
    let (crt_path, key_path) = (folder.join("web.crt"), folder.join("web.key"));
    let (crt, key) = pair("web");
    fs::write(&crt_path, crt).unwrap();
    fs::write(&key_path, secret("PRIVATE KEY", key.serialized_der())).unwrap();
    let warnings = |mode| {
        fs::set_permissions(&key_path, fs::Permissions::from_mode(mode)).unwrap();
        Credential::load(&crt_path, &key_path, at(1))
            .unwrap()
            .warnings
    };
    assert_eq!(warnings(0o600), []);
    for mode in [0o640, 0o604] {
        let file = key_path.clone();
        assert_eq!(warnings(mode), [Warning::Readable { file, mode }]);
    }
    let missing = Credential::load(&folder.join("none"), &key_path, at(1)).unwrap_err();
    assert!(matches!(missing.problem, Problem::Unreadable(_)));
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_key_is_never_shown() {
    let (crt, key) = pair("web");
    let text = secret("PRIVATE KEY", key.serialized_der());
    let loaded = load(&crt, &text, at(1)).unwrap();
    let shown = format!("{loaded:?}");
    assert!(shown.contains("CN=web"));
    assert!(!shown.contains(&text.lines().nth(1).unwrap()[..20]));
    let source = Source {
        name: "web.key",
        text: text.as_bytes(),
    };
    assert_eq!(format!("{source:?}"), "Source { name: \"web.key\", .. }");
    // Equal by what is shown to others.
    assert_eq!(loaded.credential, loaded.credential.clone());
}

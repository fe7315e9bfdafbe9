//! What is taken of a message, and what it is refused for.

use rustls::pki_types::UnixTime;

use super::{Authority, encode, message};
use crate::tls::{
    Bundle,
    workload::update::{Refused, Update, read},
};

const WEB: &str = "spiffe://d/web";

fn take(message: &[u8], wanted: Option<&str>) -> Result<Update, Refused> {
    let wanted = wanted.map(|id| id.parse().unwrap());
    read(message, wanted.as_ref(), UnixTime::now()).map(|(update, _)| update)
}

/// The sentence, with what differs from run to run cut off.
fn refused(message: &[u8], wanted: Option<&str>) -> String {
    let text = take(message, wanted).err().unwrap().to_string();
    text.split(", serial").next().unwrap().to_owned()
}

fn lists(bundle: &Bundle) -> usize {
    bundle.revocation_lists().count()
}

#[test]
fn the_first_identity_is_the_default_one() {
    let ca = Authority::new("ca");
    let both = [
        message(&ca.identity(WEB), &ca),
        message(&ca.identity("spiffe://d/db"), &ca),
    ]
    .concat();
    let name = |wanted| {
        let update = take(&both, wanted).unwrap();
        update
            .credential
            .leaf()
            .spiffe
            .as_ref()
            .unwrap()
            .to_string()
    };
    assert_eq!(name(None), WEB);
    assert_eq!(name(Some("spiffe://d/db")), "spiffe://d/db");
    assert_eq!(
        refused(&both, Some("spiffe://d/other")),
        "spiffe://d/other is not in it, but \"spiffe://d/web\", \"spiffe://d/db\""
    );
}

#[test]
fn a_bundle_speaks_for_its_domain() {
    let (ca, next, partner) = (
        Authority::new("ca"),
        Authority::new("next"),
        Authority::new("partner"),
    );
    let identity = ca.identity(WEB);
    // The old and the new authority side by side, while it changes.
    let authorities = [&ca.der[..], &next.der].concat();
    let message = [
        encode::svid(WEB, &identity.chain, &identity.key, &authorities),
        encode::federated("spiffe://partner", &partner.der),
        encode::federated("other", &partner.der),
        // Nobody else speaks for our own domain.
        encode::federated("spiffe://d", &partner.der),
    ]
    .concat();
    let bundles = take(&message, None).unwrap().bundles;
    let told: Vec<_> = bundles
        .iter()
        .map(|bundle| {
            let domain = bundle.domain().unwrap().as_str();
            (domain, bundle.authorities().count())
        })
        .collect();
    assert_eq!(told, [("d", 2), ("other", 1), ("partner", 1)]);
}

#[test]
fn a_revocation_list_goes_where_its_issuer_is() {
    let (ca, partner) = (Authority::new("ca"), Authority::new("partner"));
    let stranger = Authority::new("intermediate");
    let base = [
        message(&ca.identity(WEB), &ca),
        encode::federated("partner", &partner.der),
    ]
    .concat();
    let counts = |list: Vec<u8>| {
        let message = [&base[..], &encode::field(2, &list)].concat();
        let bundles = take(&message, None).unwrap().bundles;
        bundles.iter().map(lists).collect::<Vec<_>>()
    };
    assert_eq!(counts(ca.list()), [1, 0]);
    assert_eq!(counts(partner.list()), [0, 1]);
    assert_eq!(counts(stranger.list()), [1, 1]);
}

#[test]
fn a_bad_message_is_refused_with_its_reason() {
    let ca = Authority::new("ca");
    let (web, other) = (ca.identity(WEB), ca.identity("spiffe://d/other"));
    let svid = |id: &str, chain: &[u8], key: &[u8], bundle: &[u8]| {
        refused(&encode::svid(id, chain, key, bundle), None)
    };
    assert_eq!(refused(b"", None), "there is no identity in it");
    assert_eq!(
        refused(b"\x0a\x7f", None),
        "the message cannot be read: the message ends inside a field"
    );
    assert_eq!(
        svid("web", &web.chain, &web.key, &ca.der),
        "\"web\" names no workload: a SPIFFE ID begins with spiffe://"
    );
    assert_eq!(
        svid(WEB, b"", &web.key, &ca.der),
        "spiffe://d/web: has no certificate"
    );
    assert!(
        svid(WEB, &web.chain[..40], &web.key, &ca.der)
            .starts_with("spiffe://d/web: certificate is not a certificate")
    );
    assert!(svid(WEB, &web.chain, b"key", &ca.der).contains("the key is of no kind"));
    assert!(
        svid(WEB, &web.chain, &other.key, &ca.der)
            .starts_with("spiffe://d/web: the key does not belong to the certificate")
    );
    assert!(
        svid(WEB, &other.chain, &other.key, &ca.der).starts_with(
            "spiffe://d/web: its certificate is another's, certificate spiffe://d/other"
        )
    );
    let late = ca.expired(WEB);
    assert!(
        take(&message(&late, &ca), None)
            .err()
            .unwrap()
            .to_string()
            .contains("has expired")
    );
    assert_eq!(
        svid(WEB, &web.chain, &web.key, b""),
        "there are no authorities of d"
    );
    assert!(
        svid(WEB, &web.chain, &web.key, &web.chain)
            .starts_with("authorities of d: the certificate")
    );
    let with = |part: Vec<u8>| refused(&[message(&web, &ca), part].concat(), None);
    assert!(with(encode::field(2, b"list")).starts_with("authorities of d: revocation list 1"));
    assert!(with(encode::federated("other", b"x")).starts_with("other: certificate is not"));
    assert!(with(encode::federated("Other", &ca.der)).starts_with("\"Other\" names no trust"));
}

#[test]
fn a_copied_list_is_counted() {
    let ca = Authority::new("ca");
    let list = encode::field(2, &vec![0; 1 << 20]);
    let federated: Vec<u8> = (0..40)
        .flat_map(|number| encode::federated(&format!("d{number}"), b""))
        .collect();
    let message = [message(&ca.identity(WEB), &ca), federated, list].concat();
    assert!(refused(&message, None).ends_with("bytes of revocation lists"));
}

#[test]
fn nothing_tells_the_key() {
    let ca = Authority::new("ca");
    let web = ca.identity(WEB);
    let update = take(&message(&web, &ca), None).unwrap();
    let told = format!("{update:?}");
    let bytes = format!("{:?}", &web.key[web.key.len() - 8..]);
    assert!(!told.contains(bytes.trim_matches(['[', ']'])));
}

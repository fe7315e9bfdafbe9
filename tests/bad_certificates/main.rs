//! What becomes of bad certificates in real handshakes: who refuses, what for by its stable name,
//! with which sentence, and what the other side hears.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

mod cases;
mod handshake;
mod pki;

use cases::{CLIENT, EITHER, GOOD, GOOD_SERVER, SERVER, Scene, issued, leaf, trusting, wanting};
use handshake::{Side, client, feed, server, shake};
use pillion::tls::{Admission, Fault, FaultKind as Kind, Trust, admit, still_admits};
use pki::{Ca, DAY, NOW, SERIAL, at, bundle};
use rustls::{
    SupportedProtocolVersion,
    pki_types::{ServerName, UnixTime},
    version::{TLS12, TLS13},
};

/// Who shows the certificate that the case is about.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Role {
    Client,
    Server,
}

/// Both sides have a good certificate of the same workload, but for what the scene changes.
fn sides(scene: &Scene, role: Role, version: &'static SupportedProtocolVersion) -> (Side, Side) {
    let other = Ca::root("the other side's root");
    let presenter = Side {
        shows: Some(scene.shown.clone()),
        trust: Trust::new(vec![bundle(None, &[&other], &[])]),
        wants: vec![],
        name: "web.example",
        required: true,
        version,
        alpn: vec![],
    };
    let judge = Side {
        shows: Some(other.leaf()),
        trust: scene.trust.clone(),
        wants: scene
            .wants
            .iter()
            .map(|want| want.parse().unwrap())
            .collect(),
        name: scene.name,
        ..presenter.clone()
    };
    match role {
        Role::Client => (presenter, judge),
        Role::Server => (judge, presenter),
    }
}

/// The judge's fault and what the presenter heard.
fn judged(
    scene: &Scene,
    role: Role,
    version: &'static SupportedProtocolVersion,
) -> (Option<Fault>, Option<Fault>) {
    let (c, s) = sides(scene, role, version);
    let outcome = shake(client(c.client(), c.name), server(s.server()));
    match role {
        Role::Client => (outcome.server, outcome.client),
        Role::Server => (outcome.client, outcome.server),
    }
}

#[test]
fn each_is_refused_for_its_reason() {
    let mut wrong = Vec::new();
    let roles = [
        (EITHER, Role::Client),
        (EITHER, Role::Server),
        (CLIENT, Role::Client),
        (SERVER, Role::Server),
    ];
    for (cases, role) in roles {
        for (name, make, kind, alert) in cases {
            for version in [&TLS13, &TLS12] {
                let (fault, heard) = judged(&make(), role, version);
                let found = (
                    fault.as_ref().map(Fault::kind),
                    heard.as_ref().map(Fault::kind),
                );
                if found != (Some(*kind), Some(*alert)) {
                    wrong.push(format!(
                        "{name} ({role:?}, {version:?}): {found:?} {fault:?}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{:#?}", wrong);
    assert!(EITHER.len() + CLIENT.len() + SERVER.len() >= 60);
}

#[test]
fn none_is_refused_without_need() {
    for (cases, roles) in [
        (GOOD, &[Role::Client, Role::Server][..]),
        (GOOD_SERVER, &[Role::Server]),
    ] {
        for (name, make) in cases {
            for role in roles {
                for version in [&TLS13, &TLS12] {
                    let (fault, heard) = judged(&make(), *role, version);
                    assert_eq!(
                        (fault, heard),
                        (None, None),
                        "{name} ({role:?}, {version:?})"
                    );
                }
            }
        }
    }
}

#[test]
fn the_sentence_names_certificate_window_clock_and_authority() {
    let sentence = |scene: Scene| {
        judged(&scene, Role::Client, &TLS13)
            .0
            .unwrap()
            .at("10.0.0.1:5")
            .to_string()
    };
    assert_eq!(
        sentence(leaf(|p| p.not_after = at!(-1))),
        "10.0.0.1:5: certificate spiffe://d/ns/default/sa/web (subject CN=web, serial 1267) has expired: valid from \
         2027-01-15T07:00:00Z to 2027-01-15T07:59:59Z, and our clock says 2027-01-15T08:00:00Z"
    );
    assert_eq!(
        sentence(issued(|ca| ca.sub("sub", |_| {}).leaf())),
        "10.0.0.1:5: no authority that is trusted here vouches for certificate spiffe://d/ns/default/sa/web \
         (subject CN=web, serial 1267); it was issued by CN=sub and came without intermediate certificates"
    );
    assert_eq!(
        sentence(wanting(leaf(|_| {}), vec!["spiffe://d/db", "spiffe://e"])),
        "10.0.0.1:5: certificate spiffe://d/ns/default/sa/web (subject CN=web, serial 1267) is another one; \
         expected is spiffe://d/db or spiffe://e"
    );
    let expired =
        |scene: Scene| sentence(scene).contains("the authority of certificate spiffe://d/");
    let ca = Ca::root_with("root", |p| p.not_after = at!(-1));
    assert!(expired(trusting(
        ca.leaf(),
        vec![bundle(Some("d"), &[&ca], &[])]
    )));
}

#[test]
fn a_client_may_be_asked_without_being_made_to_answer() {
    let good = leaf(|_| {});
    let (mut c, mut s) = sides(&good, Role::Client, &TLS13);
    c.shows = None;
    for version in [&TLS13, &TLS12] {
        let (mut c, s) = sides(&good, Role::Client, version);
        c.shows = None;
        let outcome = shake(client(c.client(), c.name), server(s.server()));
        assert_eq!(outcome.server.unwrap().kind(), Kind::NoClientCertificate);
        let heard = outcome.client.unwrap().kind();
        assert_eq!(heard, Kind::AlertCertificateRequired);
    }
    s.required = false;
    let outcome = shake(client(c.client(), c.name), server(s.server()));
    assert_eq!((outcome.client, outcome.server), (None, None));
    // A bad certificate is worse than none.
    c.shows = Some(Ca::root("stranger").leaf());
    let outcome = shake(client(c.client(), c.name), server(s.server()));
    assert_eq!(outcome.server.unwrap().kind(), Kind::UnknownAuthority);
}

#[test]
fn what_is_no_handshake_has_its_name_too() {
    let (c, s) = sides(&leaf(|_| {}), Role::Client, &TLS13);
    let fed = |mut connection, bytes: &[u8]| {
        let mut fault = None;
        feed(&mut connection, bytes, &mut fault);
        fault.map(|fault| fault.kind())
    };
    let accept = || server(s.server());
    let connect = || client(c.client(), c.name);
    assert_eq!(fed(accept(), b"GET / HTTP/1.1\r\n\r\n"), Some(Kind::NotTls));
    assert_eq!(
        fed(accept(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        Some(Kind::NotTls)
    );
    assert_eq!(
        fed(connect(), b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        Some(Kind::NotTls)
    );
    assert_eq!(
        fed(accept(), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"),
        Some(Kind::ProtocolViolation)
    );
    assert_eq!(fed(accept(), b"\x16\x03\x01\x00\x05\x01\x00"), None);

    let mut old = c.clone();
    old.version = &TLS12;
    let outcome = shake(client(old.client(), c.name), server(s.server()));
    assert_eq!(outcome.server.unwrap().kind(), Kind::NoCommonVersion);
    assert_eq!(outcome.client.unwrap().kind(), Kind::AlertProtocolVersion);

    let (mut h1, mut h2) = (c.clone(), s.clone());
    (h1.alpn, h2.alpn) = (vec![b"http/1.1".to_vec()], vec![b"h2".to_vec()]);
    let outcome = shake(client(h1.client(), c.name), server(h2.server()));
    assert_eq!(outcome.server.unwrap().kind(), Kind::NoApplicationProtocol);
    assert_eq!(
        outcome.client.unwrap().kind(),
        Kind::AlertNoApplicationProtocol
    );

    let io = |kind: std::io::ErrorKind| Fault::of_handshake(&kind.into()).kind();
    assert_eq!(
        io(std::io::ErrorKind::UnexpectedEof),
        Kind::ClosedInHandshake
    );
    assert_eq!(
        io(std::io::ErrorKind::ConnectionReset),
        Kind::ClosedInHandshake
    );
    assert_eq!(io(std::io::ErrorKind::TimedOut), Kind::HandshakeTimeout);
    assert!(Fault::of_io(&std::io::ErrorKind::ConnectionReset.into()).is_none());
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, alert);
    assert_eq!(
        Fault::of_io(&error).unwrap().kind(),
        Kind::AlertCertificateExpired
    );
}

#[test]
fn an_open_connection_is_asked_again() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    let shown = old.leaf();
    let wanted = ["spiffe://d/ns/default/**".parse().unwrap()];
    let client = Admission::Client(&wanted);
    let both = Trust::new(vec![bundle(Some("d"), &[&old, &new], &[])]);
    let peer = admit(&both, client, &shown.chain, pki::now()).unwrap();
    let id = peer.spiffe.unwrap();
    assert_eq!(
        (id.namespace(), id.service_account()),
        (Some("default"), Some("web"))
    );
    assert_eq!(&*peer.dns_names, [Box::from("web.example")]);

    let kind = |trust: &Trust, admission, time| {
        still_admits(trust, admission, &shown.chain, time).map_err(|fault| fault.kind())
    };
    assert_eq!(kind(&both, client, pki::now()), Ok(()));
    let only_new = Trust::new(vec![bundle(Some("d"), &[&new], &[])]);
    assert_eq!(
        kind(&only_new, client, pki::now()),
        Err(Kind::UnknownAuthority)
    );
    let revoked = Trust::new(vec![bundle(
        Some("d"),
        &[&old, &new],
        &[old.crl(&[SERIAL])],
    )]);
    assert_eq!(kind(&revoked, client, pki::now()), Err(Kind::Revoked));
    let nobody = ["spiffe://d/ns/prod/**".parse().unwrap()];
    assert_eq!(
        kind(&both, Admission::Client(&nobody), pki::now()),
        Err(Kind::WrongIdentity)
    );
    let name = ServerName::try_from("web.example").unwrap();
    assert_eq!(
        kind(&both, Admission::ServerName(&name), pki::now()),
        Ok(())
    );
    let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW + 2 * DAY as u64));
    assert_eq!(kind(&both, client, later), Err(Kind::CertificateExpired));

    // Compared by content.
    let same = Trust::new(vec![bundle(Some("d"), &[&new, &old, &new], &[])]);
    assert_eq!(both, same);
    assert_ne!(both, only_new);
    assert_ne!(both, revoked);
    assert_ne!(both, Trust::new(vec![bundle(None, &[&old, &new], &[])]));
}

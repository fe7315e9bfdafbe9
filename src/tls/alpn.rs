//! Which protocol is spoken over TLS, agreed on in the handshake (RFC 7301).

/// HTTP/2 between two Pillions. It is offered by and to the authenticated only, and means that the
/// client may say in [`x-pillion-protocol`](crate::http::name) what its own client spoke.
const LINK: &[u8] = b"pillion/1";
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// What a handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    Http2,
    /// HTTP/2 between two Pillions.
    Link,
}

impl Spoken {
    /// Without an agreement it is HTTP/1.1 for whoever dials; `None` for a protocol of which there
    /// was no talk.
    pub fn agreed(protocol: Option<&[u8]>) -> Option<Self> {
        match protocol {
            None | Some(HTTP1) => Some(Self::Http1),
            Some(HTTP2) => Some(Self::Http2),
            Some(LINK) => Some(Self::Link),
            Some(_) => None,
        }
    }
}

/// What a listener for HTTP takes, the best first.
pub fn offered_to_clients(authenticated: bool) -> Vec<Vec<u8>> {
    let link = authenticated.then_some(LINK);
    owned(link.into_iter().chain([HTTP2, HTTP1]))
}

/// What a connection to an endpoint is to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Bytes of which we know nothing.
    Opaque,
    /// HTTP/1.1 and nothing else.
    Http1,
    /// HTTP/2 and nothing else.
    Http2,
    /// The best that both sides speak.
    Best,
}

impl Offer {
    /// The protocols to offer, the best first. `identified`: the endpoint may learn who we are.
    pub fn protocols(self, identified: bool) -> Vec<Vec<u8>> {
        let link = identified.then_some(LINK).into_iter();
        match self {
            Self::Opaque => Vec::new(),
            Self::Http1 => owned([HTTP1]),
            Self::Http2 => owned(link.chain([HTTP2])),
            Self::Best => owned(link.chain([HTTP2, HTTP1])),
        }
    }
}

fn owned<'a>(protocols: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    protocols.into_iter().map(<[u8]>::to_vec).collect()
}

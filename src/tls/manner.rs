//! How a client has come, for when its listener asks for more than it did then.

use super::Secured;
use crate::config::model::{ClientCertificates, ListenerTls};

/// What a client has shown of itself, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Plaintext,
    /// TLS without a certificate.
    Anonymous,
    Known,
}

impl Manner {
    pub fn of(secured: Option<&Secured>) -> Self {
        match secured {
            None => Self::Plaintext,
            Some(secured) if secured.peer.is_none() => Self::Anonymous,
            Some(_) => Self::Known,
        }
    }

    /// Whether a listener with such settings, or without TLS, takes clients that come like this.
    pub fn suits(self, tls: Option<&ListenerTls>) -> bool {
        let Some(tls) = tls else {
            return true;
        };
        match self {
            Self::Plaintext => tls.permissive,
            Self::Anonymous => tls.client_certificates != ClientCertificates::Required,
            Self::Known => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn suited(tls: &str) -> [bool; 3] {
        let text = format!(
            "identity: {{ certificate: a.crt, key: a.key }}
trust: [{{ authorities: [ca.crt] }}]
upstreams: [{{ name: a, endpoints: [127.0.0.1:9] }}]
listeners: [{{ address: 127.0.0.1:0, upstream: a{tls} }}]"
        );
        let config = config::parse("test.yaml", &text, &|_| None).unwrap().config;
        let tls = config.listeners[0].tls.as_ref();
        [Manner::Plaintext, Manner::Anonymous, Manner::Known].map(|manner| manner.suits(tls))
    }

    #[test]
    fn whoever_a_listener_would_refuse_today_does_not_suit_it() {
        assert_eq!(suited(""), [true, true, true]);
        let tls = |mode: &str, certificates: &str| {
            suited(&format!(
                ", tls: {{ mode: {mode}, clientCertificates: {certificates} }}"
            ))
        };
        assert_eq!(tls("permissive", "optional"), [true, true, true]);
        assert_eq!(tls("permissive", "required"), [true, false, true]);
        assert_eq!(tls("required", "optional"), [false, true, true]);
        assert_eq!(tls("required", "required"), [false, false, true]);
    }
}

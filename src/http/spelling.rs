//! How a message spelled its header names.
//!
//! Names are matched without regard to case, yet old HTTP/1.1 peers exist that compare them byte
//! by byte. Between two HTTP/1.1 peers Pillion keeps the spelling. Nearly every message is either
//! canonical (`Content-Type`) or all lower case, which is one tag; only others keep their names.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, header};

/// How the names of one message are written to HTTP/1.1.
#[derive(Clone, Debug, Default)]
pub enum Spelling {
    /// `Content-Type`: also for what came over HTTP/2, where names have no case.
    #[default]
    Canonical,
    Lower,
    /// As received: the head, and where in it each name lies.
    Kept(Box<Kept>),
}

/// A received head and the places of its names.
#[derive(Clone, Debug)]
pub struct Kept {
    head: Bytes,
    names: Vec<(u32, u32)>,
}

/// Watches the names of a head go by and decides how to remember them.
#[derive(Debug)]
pub(crate) struct Observer {
    canonical: bool,
    lower: bool,
}

impl Observer {
    pub(crate) const fn new() -> Self {
        Self {
            canonical: true,
            lower: true,
        }
    }

    pub(crate) fn see(&mut self, name: &HeaderName, raw: &[u8]) {
        if self.lower && raw != name.as_str().as_bytes() {
            self.lower = false;
        }
        if self.canonical && !is_canonical(name, raw) {
            self.canonical = false;
        }
    }

    /// `names` is asked for only if they have to be kept.
    pub(crate) fn finish(self, head: &Bytes, names: impl FnOnce() -> Vec<(u32, u32)>) -> Spelling {
        if self.canonical {
            Spelling::Canonical
        } else if self.lower {
            Spelling::Lower
        } else {
            Spelling::Kept(Box::new(Kept {
                head: head.clone(),
                names: names(),
            }))
        }
    }
}

impl Spelling {
    /// Appends `name` the way this message spells it.
    pub(crate) fn write(&self, name: &HeaderName, out: &mut BytesMut) {
        match self {
            Self::Lower => out.put_slice(name.as_str().as_bytes()),
            Self::Canonical => write_canonical(name, out),
            Self::Kept(kept) => match kept.find(name.as_str().as_bytes()) {
                Some(raw) => out.put_slice(raw),
                None => write_canonical(name, out),
            },
        }
    }
}

impl Kept {
    fn find(&self, name: &[u8]) -> Option<&[u8]> {
        self.names
            .iter()
            .map(|&(start, len)| &self.head[start as usize..(start + len) as usize])
            .find(|raw| raw.eq_ignore_ascii_case(name))
    }
}

/// Names whose customary spelling is not a capital after each dash.
fn exception(name: &HeaderName) -> Option<&'static [u8]> {
    Some(match *name {
        header::ETAG => b"ETag",
        header::TE => b"TE",
        header::DNT => b"DNT",
        header::WWW_AUTHENTICATE => b"WWW-Authenticate",
        header::X_XSS_PROTECTION => b"X-XSS-Protection",
        _ => return None,
    })
}

fn is_canonical(name: &HeaderName, raw: &[u8]) -> bool {
    if let Some(spelled) = exception(name) {
        return raw == spelled;
    }
    let mut capital = true;
    raw.iter().all(|&byte| {
        let fits = if capital {
            !byte.is_ascii_lowercase()
        } else {
            !byte.is_ascii_uppercase()
        };
        capital = byte == b'-';
        fits
    })
}

fn write_canonical(name: &HeaderName, out: &mut BytesMut) {
    if let Some(spelled) = exception(name) {
        return out.put_slice(spelled);
    }
    let start = out.len();
    out.put_slice(name.as_str().as_bytes());
    let mut capital = true;
    for byte in &mut out[start..] {
        if capital {
            byte.make_ascii_uppercase();
        }
        capital = *byte == b'-';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(raw: &[&str], ask: &str) -> String {
        let head = Bytes::from(raw.join("\n"));
        let mut observer = Observer::new();
        let mut places = Vec::new();
        let mut at = 0u32;
        for text in raw {
            observer.see(
                &HeaderName::from_bytes(text.as_bytes()).unwrap(),
                text.as_bytes(),
            );
            places.push((at, text.len() as u32));
            at += text.len() as u32 + 1;
        }
        let mut out = BytesMut::new();
        observer
            .finish(&head, || places)
            .write(&HeaderName::from_bytes(ask.as_bytes()).unwrap(), &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn canonical_messages_need_no_memory() {
        assert_eq!(spelled(&["Host", "ETag", "X-Request-Id"], "etag"), "ETag");
        assert_eq!(
            spelled(&["Host", "X-Request-Id"], "x-forwarded-for"),
            "X-Forwarded-For"
        );
    }

    #[test]
    fn lower_case_stays_lower_case() {
        assert_eq!(spelled(&["host", "x-a"], "via"), "via");
    }

    #[test]
    fn odd_spelling_is_kept() {
        assert_eq!(
            spelled(&["HOST", "x-SOAPaction"], "x-soapaction"),
            "x-SOAPaction"
        );
        assert_eq!(spelled(&["HOST", "x-SOAPaction"], "via"), "Via");
    }
}

//! Fields that follow a body (RFC 9110 section 6.5).

use std::ops::Deref;

use super::{fields::Fields, name::Kind};

/// Trailers without those fields that would change how the message is framed, routed or
/// authenticated (RFC 9110 section 6.5.1), from whatever protocol they came.
#[derive(Clone, Debug)]
pub struct Trailers(Fields);

impl From<Fields> for Trailers {
    fn from(mut fields: Fields) -> Self {
        fields.remove_if(|name, _| is_forbidden(name));
        Self(fields)
    }
}

impl Deref for Trailers {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.0
    }
}

/// Whether a field must not be taken from a trailer section. What is not believed, or not passed
/// on, in a head is neither in what some append to it.
fn is_forbidden(name: &[u8]) -> bool {
    const OTHERS: [&[u8]; 6] = [
        b"authorization",
        b"content-encoding",
        b"content-range",
        b"set-cookie",
        b"max-forwards",
        b"cache-control",
    ];
    match Kind::of(name) {
        Kind::Other => OTHERS.iter().any(|other| name.eq_ignore_ascii_case(other)),
        Kind::XRequestId | Kind::GrpcTimeout | Kind::IdempotencyKey | Kind::Date => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_hold_no_framing() {
        let fields = [("X-A", "1"), ("Content-Length", "7"), ("X-B", "2")];
        let trailers = Trailers::from(Fields::from_iter(fields));
        let left: Vec<_> = trailers.iter().collect();
        assert_eq!(left, [(&b"X-A"[..], &b"1"[..]), (b"X-B", b"2")]);
    }
}

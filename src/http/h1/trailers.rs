//! Trailer sections (RFC 9112 section 7.1.2), and what must not come in them.

use super::head::{HeadError, MAX_HEADERS, why};
use crate::http::{fields::Fields, name::Kind};

/// Reads a trailer section, its final empty line included. Fields that would change how the
/// message is framed, routed or authenticated are dropped (RFC 9110 section 6.5.1).
pub fn trailers(section: &[u8]) -> Result<Fields, HeadError> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let httparse::Status::Complete((_, lines)) =
        httparse::parse_headers(section, &mut lines).map_err(why)?
    else {
        return Err(HeadError::Bad("an incomplete trailer section"));
    };
    let mut fields = Fields::over(section, lines);
    fields.remove_if(|name, _| forbidden_in_trailers(name));
    Ok(fields)
}

/// Whether a field must not be taken from a trailer section. What is not believed, or not passed
/// on, in a head is neither in what some append to it.
pub fn forbidden_in_trailers(name: &[u8]) -> bool {
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
        Kind::XRequestId | Kind::GrpcTimeout | Kind::Date => false,
        _ => true,
    }
}

//! Trailer sections (RFC 9112 section 7.1.2).

use super::head::{HeadError, MAX_HEADERS, why};
use crate::http::{fields::Fields, trailers::Trailers};

/// Reads a trailer section, its final empty line included.
pub fn trailers(section: &[u8]) -> Result<Trailers, HeadError> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let httparse::Status::Complete((_, lines)) =
        httparse::parse_headers(section, &mut lines).map_err(why)?
    else {
        return Err(HeadError::Bad("an incomplete trailer section"));
    };
    Ok(Fields::over(section, lines).into())
}

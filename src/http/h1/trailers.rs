//! Trailer sections (RFC 9112 section 7.1.2), and what must not come in them.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::head::{HeadError, MAX_HEADERS, why};

/// Reads a trailer section, its final empty line included. Fields that would change how the
/// message is framed, routed or authenticated are dropped (RFC 9110 section 6.5.1).
pub fn trailers(section: &[u8]) -> Result<HeaderMap, HeadError> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let httparse::Status::Complete((_, lines)) =
        httparse::parse_headers(section, &mut lines).map_err(why)?
    else {
        return Err(HeadError::Bad("an incomplete trailer section"));
    };
    let mut map = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes())
            .map_err(|_| HeadError::Bad("a trailer name is not a token"))?;
        let value = HeaderValue::from_bytes(line.value)
            .map_err(|_| HeadError::Bad("an invalid trailer value"))?;
        if !forbidden_in_trailers(&name) {
            map.append(name, value);
        }
    }
    Ok(map)
}

/// Whether a field must not be taken from a trailer section.
pub fn forbidden_in_trailers(name: &HeaderName) -> bool {
    const PREFIXES: [&str; 2] = ["x-forwarded-", "x-pillion-"];
    const NAMES: [&str; 3] = ["keep-alive", "proxy-connection", "http2-settings"];
    let text = name.as_str();
    // What is not believed, or not passed on, in a head is neither in what some append to it.
    if NAMES.contains(&text) || PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
        return true;
    }
    matches!(
        *name,
        header::TRANSFER_ENCODING
            | header::CONTENT_LENGTH
            | header::HOST
            | header::CONNECTION
            | header::TE
            | header::TRAILER
            | header::UPGRADE
            | header::AUTHORIZATION
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::CONTENT_ENCODING
            | header::CONTENT_TYPE
            | header::CONTENT_RANGE
            | header::SET_COOKIE
            | header::EXPECT
            | header::MAX_FORWARDS
            | header::CACHE_CONTROL
            | header::FORWARDED
            | header::VIA
    )
}

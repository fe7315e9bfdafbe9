//! Where a request wants to go: its host and its path in the one form that is matched, authorized
//! and forwarded.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Uri, header, uri::PathAndQuery};

use super::message::Upgrade;
use crate::{
    config::model::PathPolicy,
    error::{Error, Reason, Result},
    router::{Authority, PathError, normalize},
};

/// A request's target after normalisation.
#[derive(Debug)]
pub struct Target {
    /// Lower case, without port; empty where HTTP/1.0 named none.
    pub host: Box<str>,
}

/// Brings `uri` and `Host` into one form: origin form in the one, what was asked for in the other.
///
/// # Errors
/// A path that the policy refuses, or a host that is none.
pub fn settle(
    uri: &mut Uri,
    headers: &mut HeaderMap,
    policy: PathPolicy,
    upgrade: Option<&Upgrade>,
) -> Result<Target> {
    // The target's own authority is the one that counts (RFC 9112 section 3.2.2, RFC 9113
    // section 8.3.1).
    if let Some(authority) = uri.authority() {
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| Error::new(Reason::BadRequest, "an invalid authority"))?;
        if upgrade != Some(&Upgrade::Connect)
            && uri.scheme().is_some()
            && let Some(given) = headers.get(header::HOST)
            && !given.as_bytes().eq_ignore_ascii_case(host.as_bytes())
            && headers.get_all(header::HOST).iter().count() > 1
        {
            return Err(Error::new(Reason::BadRequest, "more than one Host"));
        }
        headers.insert(header::HOST, host);
    }
    let host = match headers.get(header::HOST) {
        Some(host) => Authority::parse(host.as_bytes())
            .map_err(|_| Error::new(Reason::BadRequest, "an invalid host"))?
            .host
            .into_owned()
            .into_boxed_str(),
        None => Box::default(),
    };
    if upgrade == Some(&Upgrade::Connect) {
        return Ok(Target { host });
    }
    let normal = normalize(uri.path(), policy).map_err(refused)?;
    let changed = matches!(normal, Cow::Owned(_));
    if changed || uri.scheme().is_some() || uri.authority().is_some() {
        let target = match uri.query() {
            Some(query) => format!("{normal}?{query}"),
            None => normal.into_owned(),
        };
        let target = PathAndQuery::try_from(target)
            .map_err(|error| Error::new(Reason::BadRequest, "an invalid path").source(error))?;
        *uri = Uri::from(target);
    }
    Ok(Target { host })
}

fn refused(error: PathError) -> Error {
    Error::new(Reason::BadRequest, "the path was refused").source(error)
}

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

/// Where a settled request goes.
#[derive(Debug)]
pub struct Target {
    /// As it is forwarded; `None` where HTTP/1.0 named none.
    pub host: Option<HeaderValue>,
}

impl Target {
    /// The host as rules match it: lower case, without port, empty for none.
    ///
    /// # Errors
    /// A host that is none.
    pub fn name(&self) -> Result<Cow<'_, str>> {
        let Some(host) = &self.host else {
            return Ok(Cow::Borrowed(""));
        };
        Ok(Authority::parse(host.as_bytes())
            .map_err(|_| Error::new(Reason::BadRequest, "an invalid host"))?
            .host)
    }
}

/// Brings `uri` and `Host` into one form: origin form in the one, what was asked for in the other.
///
/// # Errors
/// A path that the policy refuses.
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
    let target = Target {
        host: headers.get(header::HOST).cloned(),
    };
    if upgrade == Some(&Upgrade::Connect) {
        return Ok(target);
    }
    let normal = normalize(uri.path(), policy).map_err(refused)?;
    let changed = matches!(normal, Cow::Owned(_));
    if changed || uri.scheme().is_some() || uri.authority().is_some() {
        let path = match uri.query() {
            Some(query) => format!("{normal}?{query}"),
            None => normal.into_owned(),
        };
        let path = PathAndQuery::try_from(path)
            .map_err(|error| Error::new(Reason::BadRequest, "an invalid path").source(error))?;
        *uri = Uri::from(path);
    }
    Ok(target)
}

fn refused(error: PathError) -> Error {
    Error::new(Reason::BadRequest, "the path was refused").source(error)
}

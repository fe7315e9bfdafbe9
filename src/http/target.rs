//! Where a request wants to go: its host and its path in the one form that is matched, authorized
//! and forwarded.

use std::borrow::Cow;

use http::{Uri, uri::PathAndQuery};

use super::{
    fields::{Fields, Place},
    message::{RequestHead, Upgrade},
    name,
};
use crate::{
    config::model::PathPolicy,
    error::{Error, Reason, Result},
    router::{Authority, PathError, normalize},
};

/// Where a settled request goes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Where in the fields its host is, as it is forwarded; `None` where HTTP/1.0 named none.
    pub host: Option<Place>,
}

impl Target {
    /// The host as rules match it: lower case, without port, empty for none.
    ///
    /// # Errors
    /// A host that is none.
    pub fn name<'f>(&self, fields: &'f Fields) -> Result<Cow<'f, str>> {
        let Some(host) = self.host else {
            return Ok(Cow::Borrowed(""));
        };
        Ok(Authority::parse(fields.at(host))
            .map_err(|_| Error::new(Reason::BadRequest, "an invalid host"))?
            .host)
    }
}

/// Brings target and `Host` into one form: origin form in the one, what was asked for in the other.
///
/// # Errors
/// A path that the policy refuses.
pub fn settle(
    head: &mut RequestHead,
    policy: PathPolicy,
    upgrade: Option<&Upgrade>,
) -> Result<Target> {
    let RequestHead { uri, fields, .. } = head;
    // The target's own authority is the one that counts (RFC 9112 section 3.2.2, RFC 9113
    // section 8.3.1).
    if let Some(authority) = uri.authority() {
        let host = authority.as_str().as_bytes();
        if upgrade != Some(&Upgrade::Connect)
            && uri.scheme().is_some()
            && let Some(given) = fields.get(&name::HOST)
            && !given.eq_ignore_ascii_case(host)
            && fields.get_all(&name::HOST).count() > 1
        {
            return Err(Error::new(Reason::BadRequest, "more than one Host"));
        }
        fields.insert(&name::HOST, host);
    }
    let target = Target {
        host: fields.place(&name::HOST),
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

//! What a message of the Workload API means for us: an identity and whom to trust, or a reason to
//! keep what we have.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, revocation_list::CertificateRevocationList,
};

use super::message::{Response, Svid};
use crate::{
    protobuf::Malformed,
    tls::{
        BadSpiffeId, Bundle, Credential, MaterialError, SpiffeId, TrustDomain, Unfit, Warning,
        split_der,
    },
};

/// Revocation lists that no authority here has issued go into every bundle. So many bytes of them,
/// counted in every bundle, are the most.
const MAX_COPIED: usize = 32 << 20;
/// Names of identities that an error tells.
const MAX_TOLD: usize = 10;

/// Who we are and whom we trust from now on. All of it is good.
#[derive(Debug)]
pub struct Update {
    pub credential: Arc<Credential>,
    /// Of our own trust domain first, then of those that it federates with; each with the
    /// revocation lists that concern it.
    pub bundles: Vec<Bundle>,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the message cannot be read: {0}")]
    Malformed(#[from] Malformed),
    #[error("there is no identity in it")]
    NoIdentity,
    #[error("{wanted} is not in it, but {offered}")]
    NotOffered { wanted: SpiffeId, offered: Box<str> },
    #[error("{text:?} names no workload: {why}")]
    Name { text: Box<str>, why: BadSpiffeId },
    #[error("{text:?} names no trust domain: {why}")]
    Domain { text: Box<str>, why: BadSpiffeId },
    #[error(transparent)]
    Material(#[from] MaterialError),
    #[error("{of}: certificate {unfit}")]
    Certificates { of: Box<str>, unfit: Unfit },
    #[error("{id}: its certificate is another's, {certificate}")]
    OtherIdentity { id: SpiffeId, certificate: Box<str> },
    #[error("there are no authorities of {0}")]
    NoAuthorities(TrustDomain),
    #[error("more than {MAX_COPIED} bytes of revocation lists")]
    TooManyLists,
}

/// Reads a message as of `now`. `wanted`: which identity to take; `None`: the first, which is the
/// default one (SPIFFE Workload API, section 5.3).
pub(super) fn read(
    message: &[u8],
    wanted: Option<&SpiffeId>,
    now: UnixTime,
) -> Result<(Update, Vec<Warning>), Refused> {
    let response = Response::decode(message)?;
    let (svid, id) = choose(&response.svids, wanted)?;
    let loaded = Credential::from_der(id.as_str(), split(id.as_str(), svid.chain)?, svid.key, now)?;
    let leaf = loaded.credential.leaf();
    if leaf.spiffe.as_ref() != Some(&id) {
        let certificate = leaf.to_string().into();
        return Err(Refused::OtherIdentity { id, certificate });
    }
    let update = Update {
        bundles: bundles(&response, svid, &id.trust_domain())?,
        credential: Arc::new(loaded.credential),
    };
    Ok((update, loaded.warnings))
}

fn choose<'r, 'a>(
    svids: &'r [Svid<'a>],
    wanted: Option<&SpiffeId>,
) -> Result<(&'r Svid<'a>, SpiffeId), Refused> {
    let first = svids.first().ok_or(Refused::NoIdentity)?;
    let Some(wanted) = wanted else {
        let id = first.id.parse().map_err(|why| Refused::Name {
            text: first.id.into(),
            why,
        })?;
        return Ok((first, id));
    };
    let chosen = svids.iter().find(|svid| svid.id == wanted.as_str());
    let offered = || {
        let names = svids.iter().take(MAX_TOLD);
        let mut names: Vec<String> = names.map(|svid| format!("{:?}", svid.id)).collect();
        if svids.len() > MAX_TOLD {
            names.push(format!("{} more", svids.len() - MAX_TOLD));
        }
        names.join(", ").into()
    };
    let chosen = chosen.ok_or_else(|| Refused::NotOffered {
        wanted: wanted.clone(),
        offered: offered(),
    })?;
    Ok((chosen, wanted.clone()))
}

fn bundles(
    response: &Response<'_>,
    svid: &Svid<'_>,
    own: &TrustDomain,
) -> Result<Vec<Bundle>, Refused> {
    let mut sources = vec![(own.clone(), split(own.as_str(), svid.bundle)?)];
    if sources[0].1.is_empty() {
        return Err(Refused::NoAuthorities(own.clone()));
    }
    for (&name, &authorities) in &response.federated {
        let domain: TrustDomain = name.parse().map_err(|why| Refused::Domain {
            text: name.into(),
            why,
        })?;
        // Nobody else speaks for our own.
        if domain != *own {
            sources.push((domain, split(name, authorities)?));
        }
    }
    let lists = assign(&response.lists, &sources)?;
    let bundles = sources.into_iter().zip(lists);
    bundles
        .map(|((domain, authorities), lists)| {
            let name = format!("authorities of {domain}");
            Ok(Bundle::from_der(&name, &authorities, &lists, Some(domain))?)
        })
        .collect()
}

/// Finds, for each bundle, the revocation lists that its authorities have issued. One that none of
/// them has may be an intermediate's, of any domain: it goes to all.
fn assign<'a>(
    lists: &[&'a [u8]],
    sources: &[(TrustDomain, Vec<CertificateDer<'_>>)],
) -> Result<Vec<Vec<&'a [u8]>>, Refused> {
    let names: Vec<Vec<&[u8]>> = sources
        .iter()
        .map(|(_, authorities)| authorities.iter().filter_map(|der| subject(der)).collect())
        .collect();
    let mut assigned = vec![Vec::new(); sources.len()];
    let mut copied = 0;
    for &list in lists {
        // One that can't be read is in the first bundle, which then says what is wrong with it.
        let issuer = issuer(list);
        let of_nobody = !names.iter().flatten().any(|&name| Some(name) == issuer);
        for (names, assigned) in names.iter().zip(&mut assigned) {
            if of_nobody || names.iter().any(|&name| Some(name) == issuer) {
                assigned.push(list);
                copied += list.len();
            }
        }
        if copied > MAX_COPIED {
            return Err(Refused::TooManyLists);
        }
    }
    Ok(assigned)
}

fn subject(certificate: &[u8]) -> Option<&[u8]> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.subject.as_raw())
}

fn issuer(list: &[u8]) -> Option<&[u8]> {
    let (_, list) = CertificateRevocationList::from_der(list).ok()?;
    Some(list.tbs_cert_list.issuer.as_raw())
}

fn split(of: &str, certificates: &[u8]) -> Result<Vec<CertificateDer<'static>>, Refused> {
    split_der(certificates).map_err(|unfit| Refused::Certificates {
        of: of.into(),
        unfit,
    })
}

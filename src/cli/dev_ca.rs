//! `pillion dev-ca`: certificates for development, tests and the demo.

use std::{
    fmt, fs,
    io::{self, ErrorKind, Write},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{self, ExitCode},
    time::{Duration, SystemTime},
};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, DnsName, UnixTime};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};
use zeroize::Zeroizing;

use crate::{
    hex,
    tls::{Certificate, Date, SpiffeId, TrustDomain, pem},
};

/// In the name of every authority that this command makes, by which it knows what it may replace.
const ORGANIZATION: &str = "Pillion dev-ca";
/// How long an authority is valid: ten years.
const AUTHORITY_LIFE: Duration = days(3650);
/// Certificates are valid from a little before now, for clocks that are behind.
const SKEW: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Args)]
pub(super) struct Order {
    /// Where to put them; made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The trust domain of the SPIFFE IDs
    #[arg(long, value_name = "DOMAIN", default_value = "pillion.local")]
    trust_domain: TrustDomain,
    /// One more DNS name for every certificate; may be given again
    #[arg(long, value_name = "NAME", value_parser = dns_name)]
    dns: Vec<String>,
    /// How many days the certificates are valid
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Whom they are for: the last segment of the SPIFFE ID, a DNS name, and the files' name
    #[arg(value_name = "NAME", required = true, value_parser = workload)]
    names: Vec<String>,
}

/// Makes what is ordered: 0 if all of it is there, 1 if not, 2 if a file can't be read.
pub(super) fn dev_ca(order: &Order) -> ExitCode {
    match make(order, say) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, text) = match failure {
                Failure::Unreadable(text) => (2, text),
                Failure::Refused(text) => (1, text),
            };
            let _ = writeln!(io::stderr(), "pillion: {text}");
            ExitCode::from(code)
        }
    }
}

/// Makes certificates of these names, or renews them, and tells nobody.
pub(super) fn quietly(out: &Path, domain: &TrustDomain, names: &[&str]) -> Result<(), String> {
    let order = Order {
        out: out.to_owned(),
        trust_domain: domain.clone(),
        dns: Vec::new(),
        days: 1,
        names: names.iter().map(|&name| name.to_owned()).collect(),
    };
    make(&order, |_| {}).map_err(|failure| match failure {
        Failure::Unreadable(text) | Failure::Refused(text) => text,
    })
}

/// Where is told what was done.
type Say = fn(fmt::Arguments<'_>);

enum Failure {
    Unreadable(String),
    Refused(String),
}

fn make(order: &Order, say: Say) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&order.out)
        .map_err(|error| refused(&order.out, format_args!("cannot be made: {error}")))?;
    // Whatever is in the way is found before anything is written.
    for name in &order.names {
        may_replace(&order.out, name)?;
    }
    let authority = Authority::of(&order.out, say)?;
    order
        .names
        .iter()
        .try_for_each(|name| authority.issue(order, name, say))
}

/// Refuses to write over what is not of this command's making.
fn may_replace(out: &Path, name: &str) -> Result<(), Failure> {
    let (crt, key) = (file(out, name, "crt"), file(out, name, "key"));
    let Some(text) = read(&crt)? else {
        return match read(&key)? {
            Some(_) => Err(refused(
                &key,
                "is there without a certificate; not overwritten",
            )),
            None => Ok(()),
        };
    };
    let ours = certificate(&text)
        .and_then(|der| Certificate::any(&der).map_err(|unfit| unfit.to_string()))
        .is_ok_and(|facts| facts.issuer.contains(ORGANIZATION));
    if !ours {
        return Err(refused(
            &crt,
            "was not made by pillion dev-ca; not overwritten",
        ));
    }
    Ok(())
}

/// The authority of a folder, ready to sign.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
}

impl Authority {
    /// That which is there, or a new one.
    fn of(out: &Path, say: Say) -> Result<Self, Failure> {
        let (crt, key) = (file(out, "ca", "crt"), file(out, "ca", "key"));
        match (read(&crt)?, read(&key)?) {
            (Some(public), Some(secret)) => Self::known((&crt, &public), (&key, &secret), say),
            (None, None) => Self::new(&crt, &key, say),
            (Some(_), None) => Err(refused(
                &crt,
                "is there without ca.key, so nothing can be signed; remove it for a new authority",
            )),
            (None, Some(_)) => Err(refused(
                &key,
                "is there without ca.crt; remove it for a new authority",
            )),
        }
    }

    fn known(
        (crt, public): (&Path, &[u8]),
        (key, secret): (&Path, &[u8]),
        say: Say,
    ) -> Result<Self, Failure> {
        let der = certificate(public).map_err(|why| refused(crt, why))?;
        let facts = Certificate::any(&der).map_err(|unfit| refused(crt, unfit))?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|error| refused(crt, error.to_string()))?;
        if !parsed.is_ca() {
            return Err(refused(crt, "is not an authority's certificate"));
        }
        if !facts.is_current(UnixTime::now()) {
            let window = format!(
                "is valid from {} to {}, not now; remove it and ca.key for a new authority",
                Date(facts.not_before),
                Date(facts.not_after)
            );
            return Err(refused(crt, window));
        }
        let pair = key_pair(secret).map_err(|why| refused(key, why))?;
        if pair.subject_public_key_info() != parsed.public_key().raw {
            return Err(refused(key, "does not belong to ca.crt"));
        }
        let issuer = Issuer::from_ca_cert_der(&der, pair)
            .map_err(|error| refused(crt, error.to_string()))?;
        say(format_args!(
            "used {}, valid to {}",
            crt.display(),
            Date(facts.not_after)
        ));
        Ok(Self {
            issuer,
            not_after: system(facts.not_after),
        })
    }

    fn new(crt: &Path, key: &Path, say: Say) -> Result<Self, Failure> {
        let broken = |error: rcgen::Error| refused(crt, error);
        let pair = KeyPair::generate().map_err(broken)?;
        let now = SystemTime::now();
        let not_after = now + AUTHORITY_LIFE;
        let mut params = CertificateParams::default();
        let serial: String = params.key_identifier(&pair)[..4]
            .iter()
            .flat_map(|&byte| hex::lower(byte).map(char::from))
            .collect();
        params.distinguished_name = Default::default();
        params
            .distinguished_name
            .push(DnType::OrganizationName, ORGANIZATION);
        // Two authorities never have one name.
        params
            .distinguished_name
            .push(DnType::CommonName, format!("development CA {serial}"));
        params.not_before = (now - SKEW).into();
        params.not_after = not_after.into();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let made = CertifiedIssuer::self_signed(params.clone(), &pair).map_err(broken)?;
        write_pair(crt, made.der(), key, &pair)?;
        say(format_args!(
            "made {} and {}: what both sides trust, and its key, valid to {}",
            crt.display(),
            key.display(),
            date(not_after)
        ));
        Ok(Self {
            issuer: Issuer::new(params, pair),
            not_after,
        })
    }

    fn issue(&self, order: &Order, name: &str, say: Say) -> Result<(), Failure> {
        let (crt, key) = (file(&order.out, name, "crt"), file(&order.out, name, "key"));
        let broken = |error: rcgen::Error| refused(&crt, error);
        let id = format!("spiffe://{}/ns/default/sa/{name}", order.trust_domain);
        let pair = KeyPair::generate().map_err(broken)?;
        let now = SystemTime::now();
        let not_after = (now + days(order.days)).min(self.not_after);
        let mut params = CertificateParams::default();
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = (now - SKEW).into();
        params.not_after = not_after.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let uri = id.as_str().try_into().map_err(broken)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let mut names = vec![name, "localhost"];
        names.extend(order.dns.iter().map(String::as_str));
        for (place, dns) in names.iter().enumerate() {
            if !names[..place].contains(dns) {
                let dns = (*dns).try_into().map_err(broken)?;
                params.subject_alt_names.push(SanType::DnsName(dns));
            }
        }
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        params.subject_alt_names.push(SanType::IpAddress(loopback));
        let made = params.signed_by(&pair, &self.issuer).map_err(broken)?;
        let verb = if crt.exists() { "renewed" } else { "made" };
        write_pair(&crt, made.der(), &key, &pair)?;
        say(format_args!(
            "{verb} {} and {}: {id}, valid to {}",
            crt.display(),
            key.display(),
            date(not_after)
        ));
        Ok(())
    }
}

/// The key first: a reader that sees the new key beside the old certificate refuses the pair, and
/// looks again when the certificate comes.
fn write_pair(crt: &Path, der: &[u8], key: &Path, pair: &KeyPair) -> Result<(), Failure> {
    let secret = pem::encode("PRIVATE KEY", pair.serialized_der());
    write(key, 0o600, secret.as_bytes())?;
    write(crt, 0o644, pem::encode("CERTIFICATE", der).as_bytes())
}

/// Puts a whole file in place of the old one: nobody sees half of it, nor a key with another mode.
fn write(path: &Path, mode: u32, content: &[u8]) -> Result<(), Failure> {
    let next = path.with_extension(format!("next-{}", process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&next)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&next, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&next);
        refused(path, format_args!("cannot be written: {error}"))
    })
}

/// The content; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    match fs::read(path) {
        Ok(content) => Ok(Some(Zeroizing::new(content))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let path = path.display();
            Err(Failure::Unreadable(format!("cannot read {path}: {error}")))
        }
    }
}

/// The one certificate of a text.
fn certificate(text: &[u8]) -> Result<CertificateDer<'static>, String> {
    let blocks = pem::blocks(text).map_err(|error| error.to_string())?;
    match &blocks[..] {
        [block] if block.label == "CERTIFICATE" => Ok(block.der.to_vec().into()),
        _ => Err("is not one certificate in PEM".into()),
    }
}

fn key_pair(text: &[u8]) -> Result<KeyPair, String> {
    let blocks = pem::blocks(text).map_err(|error| error.to_string())?;
    match &blocks[..] {
        [block] if block.label == "PRIVATE KEY" => {
            KeyPair::try_from(&block.der[..]).map_err(|error| error.to_string())
        }
        _ => Err("is not one PRIVATE KEY (PKCS#8) in PEM".into()),
    }
}

/// One word for files, SPIFFE ID and DNS.
fn workload(name: &str) -> Result<String, String> {
    if name == "ca" {
        return Err("that is the name of the authority's files".into());
    }
    if name.len() > 63 {
        return Err("at most 63 bytes".into());
    }
    format!("spiffe://d/{name}")
        .parse::<SpiffeId>()
        .map_err(|error| error.to_string())?;
    dns_name(name)
}

fn dns_name(name: &str) -> Result<String, String> {
    // A certificate may be for all names of a domain.
    let concrete = name.strip_prefix("*.").unwrap_or(name);
    DnsName::try_from(concrete).map_err(|_| "not a DNS name".to_owned())?;
    Ok(name.to_owned())
}

fn file(out: &Path, name: &str, kind: &str) -> PathBuf {
    out.join(format!("{name}.{kind}"))
}

fn refused(path: &Path, why: impl fmt::Display) -> Failure {
    Failure::Refused(format!("{}: {why}", path.display()))
}

fn say(line: fmt::Arguments<'_>) {
    // A reader that went away (`| head`) has seen what it wanted; the files count.
    let _ = writeln!(io::stdout(), "{line}");
}

const fn days(count: u32) -> Duration {
    Duration::from_secs(count as u64 * 24 * 60 * 60)
}

fn system(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

fn date(time: SystemTime) -> Date {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    Date(UnixTime::since_unix_epoch(since.unwrap_or_default()))
}

//! Authorities and certificates, good ones and others, made on the spot.

use std::time::{Duration, SystemTime};

use pillion::tls::{Bundle, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, UnixTime};

/// When all of it happens, in seconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const HOUR: i64 = 3600;
pub(crate) const DAY: i64 = 24 * HOUR;
/// The serial number of the certificates that are revoked.
pub(crate) const SERIAL: u64 = 4711;

pub(crate) fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

/// A moment so many seconds from now, as rcgen wants it.
macro_rules! at {
    ($seconds:expr) => {
        $crate::pki::system($seconds).into()
    };
}
pub(crate) use at;

pub(crate) fn system(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.checked_add_signed(seconds).unwrap())
}

pub(crate) struct Ca {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) der: CertificateDer<'static>,
}

/// What somebody shows: a chain and the key of its leaf.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Vec<u8>,
}

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub(crate) fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(name);
        change(&mut params);
        let der = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        Self { issuer, der }
    }

    /// An intermediate authority.
    pub(crate) fn sub(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(name);
        change(&mut params);
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        Self { issuer, der }
    }

    /// The same key under the same name, and no say in what it may be used for.
    pub(crate) fn unlimited(&self, name: &str) -> Self {
        let mut params = ca_params(name);
        params.key_usages = vec![];
        let key = KeyPair::try_from(self.issuer.key().serialize_der()).unwrap();
        let der = self.der.clone();
        let issuer = Issuer::new(params, key);
        Self { issuer, der }
    }

    /// By which certificates and lists name its key.
    pub(crate) fn key_id(&self) -> Vec<u8> {
        CertificateParams::default().key_identifier(self.issuer.key())
    }

    pub(crate) fn leaf(&self) -> Shown {
        self.leaf_with(|_| {})
    }

    pub(crate) fn leaf_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        self.leaf_for(&KeyPair::generate().unwrap(), change)
    }

    pub(crate) fn leaf_for(
        &self,
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Shown {
        let mut params = leaf_params();
        change(&mut params);
        Shown {
            chain: vec![params.signed_by(key, &self.issuer).unwrap().der().clone()],
            key: key.serialize_der(),
        }
    }

    /// One that names a public key of somebody else.
    pub(crate) fn leaf_of(&self, public: &impl PublicKeyData) -> Shown {
        let made = leaf_params().signed_by(public, &self.issuer).unwrap();
        Shown {
            chain: vec![made.der().clone()],
            key: KeyPair::generate().unwrap().serialize_der(),
        }
    }

    pub(crate) fn crl(&self, serials: &[u64]) -> Vec<u8> {
        self.crl_with(serials, |_| {})
    }

    pub(crate) fn crl_with(
        &self,
        serials: &[u64],
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> Vec<u8> {
        let mut params = CertificateRevocationListParams {
            this_update: at!(-HOUR),
            next_update: at!(DAY),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|&serial| RevokedCertParams {
                    serial_number: SerialNumber::from(serial),
                    revocation_time: at!(-HOUR),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

impl Shown {
    pub(crate) fn through(mut self, ca: &Ca) -> Self {
        self.chain.push(ca.der.clone());
        self
    }

    /// With other bytes in place of the leaf's.
    pub(crate) fn garbled(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut der = self.chain[0].to_vec();
        change(&mut der);
        self.chain[0] = der.into();
        self
    }
}

/// A bundle for the trust domain `d`, or for anybody.
pub(crate) fn bundle(domain: Option<&str>, cas: &[&Ca], lists: &[Vec<u8>]) -> Bundle {
    let ders: Vec<CertificateDer<'static>> = cas.iter().map(|ca| ca.der.clone()).collect();
    let lists: Vec<&[u8]> = lists.iter().map(|list| &list[..]).collect();
    let domain = domain.map(|domain| domain.parse::<TrustDomain>().unwrap());
    Bundle::from_der("test", &ders, &lists, domain).unwrap()
}

pub(crate) fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = at!(-DAY);
    params.not_after = at!(300 * DAY);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, "web");
    params.serial_number = Some(SerialNumber::from(SERIAL));
    params.not_before = at!(-HOUR);
    params.not_after = at!(DAY);
    params.subject_alt_names = vec![uri("spiffe://d/ns/default/sa/web"), dns("web.example")];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params
}

/// A public RSA key of 1024 bits, of which nobody has the other half.
pub(crate) struct SmallRsa(Vec<u8>);

impl SmallRsa {
    pub(crate) fn new() -> Self {
        let mut der = vec![0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00];
        der.extend([0xc5; 128]);
        der.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
        Self(der)
    }
}

impl PublicKeyData for SmallRsa {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

//! Small authorities, and what they sign.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};

const HOUR: Duration = Duration::from_secs(3600);

pub(super) struct Authority {
    pub(super) der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

pub(super) struct Identity {
    pub(super) id: String,
    pub(super) chain: Vec<u8>,
    pub(super) key: Vec<u8>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - HOUR).into();
    params.not_after = (now + 8 * HOUR).into();
    params
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let issuer = Issuer::new(params, key);
        Self { der, issuer }
    }

    pub(super) fn identity(&self, id: &str) -> Identity {
        self.sign(id, params(""))
    }

    /// One whose time is over.
    pub(super) fn expired(&self, id: &str) -> Identity {
        let mut params = params("");
        params.not_after = (SystemTime::now() - HOUR / 2).into();
        self.sign(id, params)
    }

    fn sign(&self, id: &str, mut params: CertificateParams) -> Identity {
        let name = id.try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(name));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            id: id.to_owned(),
            chain: certificate.der().to_vec(),
            key: key.serialized_der().to_vec(),
        }
    }

    /// A revocation list.
    pub(super) fn list(&self) -> Vec<u8> {
        let now = SystemTime::now();
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(7),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + HOUR).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

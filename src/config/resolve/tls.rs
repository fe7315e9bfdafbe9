//! Identity, trust, and what listeners and upstreams make of them.

use std::{path::PathBuf, sync::Arc};

use super::Resolver;
use crate::config::{
    decode::At,
    model::{
        ClientCertificates, ForwardedClientCert, Identity, KeyPair, ListenerTls, TlsVersion, Trust,
        UpstreamTls, WorkloadApi,
    },
    raw,
    report::Fault,
    syntax,
};

/// Each is looked through for every certificate that is verified.
const MAX_BUNDLES: usize = 64;

/// What of the process's own there is to refer to.
#[derive(Clone, Copy)]
pub(super) struct Security {
    pub(super) has_identity: bool,
    /// Somebody is believed: a bundle, or those that come with the Workload API.
    pub(super) has_trust: bool,
}

impl Security {
    /// As written: what was refused has been blamed already.
    pub(super) fn of(raw: &raw::Config) -> Self {
        let identity = raw.identity.as_ref();
        let workload_api = identity.is_some_and(|identity| identity.value.workload_api.is_some());
        Self {
            has_identity: identity.is_some(),
            has_trust: workload_api || !raw.trust.value.is_empty(),
        }
    }
}

impl Resolver<'_> {
    pub(super) fn identity(&mut self, written: &At<raw::Identity>) -> Option<Identity> {
        let raw = &written.value;
        match (&raw.certificate, &raw.key, &raw.workload_api) {
            (Some(certificate), Some(key), None) => {
                if let Some(id) = &raw.spiffe_id {
                    let fault = Fault::new("`spiffeId` does not belong to an identity from files");
                    self.fault(
                        id.node,
                        fault.hint("the certificate says which it is; leave it out"),
                    );
                }
                let certificate = self.file(certificate)?;
                let key = self.file(key)?;
                Some(Identity::Files(KeyPair { certificate, key }))
            }
            (None, None, Some(socket)) => {
                let spiffe_id = raw
                    .spiffe_id
                    .as_ref()
                    .and_then(|id| self.parse(id, syntax::spiffe_id));
                let directory = self.tree.directory(socket.node);
                let socket = self.parse(socket, |text| syntax::workload_api(text, directory))?;
                Some(Identity::WorkloadApi(WorkloadApi { socket, spiffe_id }))
            }
            _ => {
                let fault =
                    Fault::new("an identity is a `certificate` with its `key`, or a `workloadApi`");
                self.fault(written.node, fault.hint("write one of the two, whole"));
                None
            }
        }
    }

    pub(super) fn trust(&mut self, written: &At<Vec<At<raw::Trust>>>) -> Vec<Trust> {
        if written.value.len() > MAX_BUNDLES {
            let count = written.value.len();
            let fault = Fault::new(format!("{count} bundles are more than {MAX_BUNDLES}"));
            self.fault(written.node, fault);
            return Vec::new();
        }
        written
            .value
            .iter()
            .map(|At { value: raw, .. }| {
                if raw.authorities.value.is_empty() {
                    let fault = Fault::new("there is no file of authorities");
                    self.fault(raw.authorities.node, fault.hint("at least one is needed"));
                }
                Trust {
                    authorities: self.files(&raw.authorities.value),
                    trust_domain: raw
                        .trust_domain
                        .as_ref()
                        .and_then(|name| self.parse(name, syntax::trust_domain)),
                    crls: self.files(&raw.crls),
                }
            })
            .collect()
    }

    pub(super) fn listener_tls(
        &mut self,
        written: &At<raw::ListenerTls>,
        security: Security,
    ) -> Option<ListenerTls> {
        let raw = &written.value;
        let client_certificates = match raw.client_certificates.value {
            raw::ClientCertificates::Off => ClientCertificates::Off,
            raw::ClientCertificates::Optional => ClientCertificates::Optional,
            raw::ClientCertificates::Required => ClientCertificates::Required,
        };
        let permissive = match raw.mode {
            raw::TlsMode::Off => return None,
            raw::TlsMode::Permissive => true,
            raw::TlsMode::Required => false,
        };
        if !security.has_identity && raw.certificates.is_empty() {
            let fault = Fault::new("this listener has no certificate to show");
            self.fault(
                written.node,
                fault.hint("write an `identity` for the whole process, or `certificates` here"),
            );
        }
        if client_certificates != ClientCertificates::Off && !security.has_trust {
            let fault = Fault::new("no authority is trusted that could vouch for clients");
            self.fault(
                raw.client_certificates.node.or(written.node),
                fault.hint(
                    "write `trust`, or `clientCertificates: off` for TLS without client certificates",
                ),
            );
        }
        Some(ListenerTls {
            permissive,
            client_certificates,
            certificates: raw
                .certificates
                .iter()
                .filter_map(|pair| {
                    let certificate = self.file(&pair.certificate);
                    let key = self.file(&pair.key);
                    Some(KeyPair {
                        certificate: certificate?,
                        key: key?,
                    })
                })
                .collect(),
            min_version: version(raw.min_version),
            handshake_timeout: self.positive(&raw.handshake_timeout),
            forwarded_client_cert: match raw.forwarded_client_cert {
                raw::ForwardedClientCert::Sanitize => ForwardedClientCert::Sanitize,
                raw::ForwardedClientCert::Set => ForwardedClientCert::Set,
                raw::ForwardedClientCert::Append => ForwardedClientCert::Append,
                raw::ForwardedClientCert::Forward => ForwardedClientCert::Forward,
            },
        })
    }

    pub(super) fn upstream_tls(
        &mut self,
        written: &At<raw::UpstreamTls>,
        security: Security,
    ) -> UpstreamTls {
        let raw = &written.value;
        let system_trust = match raw.trust.value {
            raw::UpstreamTrust::Configured => false,
            raw::UpstreamTrust::System => true,
        };
        if !system_trust && !security.has_trust {
            let fault = Fault::new("no authority is trusted that could vouch for this upstream");
            self.fault(
                raw.trust.node.or(written.node),
                fault.hint(
                    "write `trust` for the whole process, or `tls: { trust: system }` here for the \
                     authorities of the operating system",
                ),
            );
        }
        let peers = raw
            .peers
            .iter()
            .filter_map(|peer| self.parse(peer, syntax::peer))
            .collect();
        if let (true, Some(first)) = (system_trust, raw.peers.first()) {
            let fault = Fault::new("public authorities vouch for no SPIFFE identity");
            self.fault(
                first.node,
                fault.hint("leave out `peers` or `trust: system`"),
            );
        }
        let present_identity = match &raw.present_identity {
            None => security.has_identity && !system_trust,
            Some(present) => {
                if present.value && !security.has_identity {
                    let fault = Fault::new("there is no identity to present");
                    self.fault(present.node, fault.hint("write an `identity`"));
                }
                present.value
            }
        };
        UpstreamTls {
            peers,
            server_name: raw
                .server_name
                .as_ref()
                .and_then(|name| self.parse(name, server_name)),
            system_trust,
            present_identity,
            min_version: version(raw.min_version),
        }
    }

    pub(super) fn file(&mut self, written: &At<String>) -> Option<PathBuf> {
        let directory = self.tree.directory(written.node);
        self.parse(written, |text| syntax::file_path(text, directory))
    }

    pub(super) fn files(&mut self, written: &[At<String>]) -> Vec<PathBuf> {
        written.iter().filter_map(|file| self.file(file)).collect()
    }
}

fn version(raw: raw::TlsVersion) -> TlsVersion {
    match raw {
        raw::TlsVersion::V1_2 => TlsVersion::V1_2,
        raw::TlsVersion::V1_3 => TlsVersion::V1_3,
    }
}

/// A host name, or an IP address.
pub(super) fn server_name(text: &str) -> Result<Arc<str>, Fault> {
    match text.parse::<std::net::IpAddr>() {
        Ok(address) => Ok(address.to_string().into()),
        Err(_) => syntax::precise_hostname(text),
    }
}

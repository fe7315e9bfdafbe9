//! The two files of the demo.

use std::net::SocketAddr;

/// The trust domain of both.
pub(super) const DOMAIN: &str = "demo.local";
/// Beside the files: the authority, and the certificates of both.
pub(super) const PKI: &str = "pki";

/// The sidecar's `backendRefs`, as it starts, with a canary, and with a mistake.
pub(super) const ONLY_STABLE: &str = "[{ name: stable }]";
pub(super) const WITH_CANARY: &str = "[{ name: stable, weight: 3 }, { name: canary, weight: 1 }]";
pub(super) const WITH_MISTAKE: &str =
    "[{ name: stable, weight: 3 }, { name: canaries, weight: 1 }]";

/// Takes what the application's clients send, and passes it to the sidecar, to nobody else, over
/// mutual TLS.
pub(super) fn ambassador(sidecar: SocketAddr) -> String {
    format!(
        "\
admin: {{ address: 127.0.0.1:0 }}
{identity}
listeners:
  - {{ name: out, address: 127.0.0.1:0, upstream: sidecar }}
upstreams:
  - name: sidecar
    endpoints: [{sidecar}]
    tls: {{ peers: [\"spiffe://{DOMAIN}/ns/default/sa/sidecar\"] }}
",
        identity = identity("ambassador")
    )
}

/// Stands before the application. Turns are taken because a person can check the counts; the
/// default looks at latency and load.
pub(super) fn sidecar(
    [red, blue]: [SocketAddr; 2],
    green: SocketAddr,
    backend_refs: &str,
) -> String {
    format!(
        "\
admin: {{ address: 127.0.0.1:0 }}
{identity}
listeners:
  - {{ name: in, address: 127.0.0.1:0, tls: {{}} }}
routes:
  - rules:
      - backendRefs: {backend_refs}
upstreams:
  - {{ name: stable, endpoints: [{red}, {blue}], balancer: roundRobin }}
  - {{ name: canary, endpoints: [{green}] }}
",
        identity = identity("sidecar")
    )
}

/// Who it is, and whom it believes.
fn identity(name: &str) -> String {
    format!(
        "\
identity: {{ certificate: {PKI}/{name}.crt, key: {PKI}/{name}.key }}
trust: [{{ authorities: [{PKI}/ca.crt], trustDomain: {DOMAIN} }}]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn holds(text: &str) -> bool {
        config::parse("demo.yaml", text, &|_| None).is_ok()
    }

    #[test]
    fn the_files_are_good_and_the_mistake_is_one() {
        let [red, blue, green] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        assert!(holds(&ambassador(red)));
        for (backend_refs, good) in [
            (ONLY_STABLE, true),
            (WITH_CANARY, true),
            (WITH_MISTAKE, false),
        ] {
            assert_eq!(holds(&sidecar([red, blue], green, backend_refs)), good);
        }
    }
}

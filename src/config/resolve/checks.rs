//! What endpoints are asked.

use std::sync::Arc;

use http::Method;

use super::Resolver;
use crate::config::{
    decode::At,
    model::{HealthCheck, HttpQuestion, Question, StatusRange},
    raw::{self, CheckType},
    report::Fault,
    syntax,
    tree::Kind,
};

/// More questions than these hardly say more, and each is asked of every endpoint.
const MAX_CHECKS: usize = 8;

/// Longest name of a gRPC service, in bytes.
const MAX_SERVICE: usize = 256;

impl Resolver<'_> {
    pub(super) fn health_checks(
        &mut self,
        raw: &At<Vec<At<raw::HealthCheck>>>,
    ) -> Vec<HealthCheck> {
        if raw.value.len() > MAX_CHECKS {
            let fault = Fault::new(format!("more than {MAX_CHECKS} health checks"));
            self.fault(raw.node, fault);
        }
        let mut checks: Vec<HealthCheck> = Vec::with_capacity(raw.value.len());
        for At { value: raw, node } in &raw.value {
            // One of a type that can't be read is told already.
            let r#type = raw.r#type.node;
            if r#type.is_some_and(|node| self.tree.is_hole(node)) {
                continue;
            }
            let problems = self.problems.len();
            let check = self.health_check(raw);
            if self.problems.len() == problems && checks.contains(&check) {
                self.fault(*node, Fault::new("the same check stands before it"));
            }
            checks.push(check);
        }
        checks
    }

    fn health_check(&mut self, raw: &raw::HealthCheck) -> HealthCheck {
        let (interval, timeout) = (self.positive(&raw.interval), self.positive(&raw.timeout));
        if timeout > interval {
            let fault = Fault::new(format!(
                "timeout ({}) is longer than interval ({})",
                raw.timeout.value, raw.interval.value
            ));
            self.fault(
                raw.timeout.node.or(raw.interval.node),
                fault.hint("a check ends before the next one begins"),
            );
        }
        self.only_of_type(raw);
        let host = raw.host.as_ref();
        let host = host.and_then(|host| self.parse(host, syntax::authority));
        HealthCheck {
            question: match raw.r#type.value {
                CheckType::Http => Question::Http(self.http_question(raw, host)),
                CheckType::Tcp => Question::Tcp,
                CheckType::Grpc => {
                    let service = raw.service.as_ref();
                    let service = service.and_then(|name| self.parse(name, grpc_service));
                    Question::Grpc {
                        service: service.unwrap_or_default(),
                        host,
                    }
                }
            },
            port: raw.port.map(|port| port.get()),
            interval,
            timeout,
            unhealthy_threshold: raw.unhealthy_threshold.get(),
            healthy_threshold: raw.healthy_threshold.get(),
        }
    }

    fn http_question(&mut self, raw: &raw::HealthCheck, host: Option<Arc<str>>) -> HttpQuestion {
        let method = raw.method.as_ref();
        let path = raw.path.as_ref();
        let expected = raw.expected_statuses.as_ref();
        // One whose entries can't be read is not empty.
        let is_empty = |node| matches!(self.tree.kind(node), Kind::List(list) if list.is_empty());
        if let Some(expected) = expected.filter(|expected| expected.node.is_some_and(is_empty)) {
            let fault = Fault::new("no status is one of a healthy endpoint");
            self.fault(expected.node, fault.hint("leave it out for 200-299"));
        }
        HttpQuestion {
            method: method
                .and_then(|method| self.parse(method, bodiless_method))
                .unwrap_or(Method::GET),
            path: path
                .and_then(|path| self.parse(path, syntax::path_and_query))
                .unwrap_or_else(|| "/healthz".into()),
            host,
            expected_statuses: match expected {
                None => vec![StatusRange {
                    first: 200,
                    last: 299,
                }],
                Some(At { value, .. }) => value
                    .iter()
                    .map(|range| StatusRange {
                        first: range.value.first,
                        last: range.value.last,
                    })
                    .collect(),
            },
        }
    }

    /// Keys that mean nothing for the type of a check.
    fn only_of_type(&mut self, raw: &raw::HealthCheck) {
        use CheckType::{Grpc, Http};
        let r#type = raw.r#type.value;
        let node = |text: &Option<At<String>>| text.as_ref().map(|text| text.node);
        let statuses = raw.expected_statuses.as_ref().map(|statuses| statuses.node);
        let keys = [
            ("path", node(&raw.path), &[Http][..]),
            ("method", node(&raw.method), &[Http]),
            ("expectedStatuses", statuses, &[Http]),
            ("host", node(&raw.host), &[Http, Grpc]),
            ("service", node(&raw.service), &[Grpc]),
        ];
        for (key, node, types) in keys {
            if let Some(node) = node.filter(|_| !types.contains(&r#type)) {
                let fault = Fault::new(format!(
                    "`{key}` means nothing to a check of type {}",
                    r#type.name()
                ));
                self.fault(node, fault);
            }
        }
    }
}

fn grpc_service(text: &str) -> Result<Arc<str>, Fault> {
    if text.len() > MAX_SERVICE {
        return Err(Fault::new(format!(
            "the name of a service of more than {MAX_SERVICE} bytes"
        )));
    }
    Ok(text.into())
}

/// `CONNECT` makes a tunnel, and asks for no path.
fn bodiless_method(text: &str) -> Result<Method, Fault> {
    match syntax::method(text)? {
        Method::CONNECT => Err(Fault::new("`CONNECT` asks for no path")),
        method => Ok(method),
    }
}

//! Who sends: the attributes that a process has by itself, below those that were written.

use std::{collections::BTreeMap, fs, sync::Arc};

use http::{HeaderName, HeaderValue};
use opentelemetry::{SpanId, TraceId};
use opentelemetry_semantic_conventions::{
    attribute::{SERVICE_INSTANCE_ID, TELEMETRY_SDK_VERSION},
    resource::{HOST_NAME, PROCESS_PID, SERVICE_NAME, TELEMETRY_SDK_LANGUAGE, TELEMETRY_SDK_NAME},
};

use super::envelope::{Resource, Value};

/// What stays the same for as long as the process lives.
#[derive(Debug)]
pub(super) struct Origin {
    /// Random.
    instance: u128,
    host: Option<String>,
}

impl Origin {
    pub(super) fn new() -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self {
            instance: fastrand::u128(1..),
            host: host.map(|host| host.trim().to_owned()),
        }
    }

    /// The trace of this process' exports.
    pub(super) fn trace(&self) -> TraceId {
        TraceId::from_bytes(self.instance.to_be_bytes())
    }

    /// What tells everybody on the way to a collector that an export is not to be traced.
    pub(super) fn unsampled(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let trace = self.trace();
        let span = SpanId::from_bytes(1u64.to_be_bytes());
        let told = [
            ("traceparent", format!("00-{trace}-{span}-00")),
            ("b3", format!("{trace}-{span}-0")),
        ];
        told.into_iter().filter_map(|(name, value)| {
            let value = HeaderValue::try_from(value).ok()?;
            Some((HeaderName::from_static(name), value))
        })
    }

    /// The resource with these attributes, which go before its own.
    pub(super) fn resource(&self, written: &BTreeMap<Arc<str>, Arc<str>>) -> Resource {
        let instance = uuid(self.instance);
        let mut own = vec![
            (SERVICE_NAME, Value::Text("unknown_service:pillion")),
            (SERVICE_INSTANCE_ID, Value::Text(&instance)),
            (TELEMETRY_SDK_NAME, Value::Text("pillion")),
            (TELEMETRY_SDK_LANGUAGE, Value::Text("rust")),
            (
                TELEMETRY_SDK_VERSION,
                Value::Text(env!("CARGO_PKG_VERSION")),
            ),
            (PROCESS_PID, Value::Number(std::process::id().into())),
        ];
        if let Some(host) = &self.host {
            own.push((HOST_NAME, Value::Text(host)));
        }
        own.retain(|(name, _)| !written.contains_key(*name));
        let written = written
            .iter()
            .map(|(name, value)| (&**name, Value::Text(value)));
        Resource::new(own.into_iter().chain(written))
    }
}

/// Version 4 (RFC 9562).
fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) | 4 << 76;
    let bits = bits & !(3 << 62) | 2 << 62;
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_of_version_4() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}

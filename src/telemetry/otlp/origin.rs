//! Who sends: the attributes that a process has by itself, below those that were written.

use std::{collections::BTreeMap, fs, sync::Arc};

use opentelemetry_semantic_conventions::{
    attribute::{SERVICE_INSTANCE_ID, TELEMETRY_SDK_VERSION},
    resource::{HOST_NAME, PROCESS_PID, SERVICE_NAME, TELEMETRY_SDK_LANGUAGE, TELEMETRY_SDK_NAME},
};

use super::envelope::{Resource, Value};

/// What stays the same for as long as the process lives.
#[derive(Debug)]
pub(super) struct Origin {
    /// A random UUID.
    instance: String,
    host: Option<String>,
}

impl Origin {
    pub(super) fn new() -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self {
            instance: uuid(fastrand::u128(..)),
            host: host.map(|host| host.trim().to_owned()),
        }
    }

    /// The resource with these attributes, which go before its own.
    pub(super) fn resource(&self, written: &BTreeMap<Arc<str>, Arc<str>>) -> Resource {
        let mut own = vec![
            (SERVICE_NAME, Value::Text("unknown_service:pillion")),
            (SERVICE_INSTANCE_ID, Value::Text(&self.instance)),
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

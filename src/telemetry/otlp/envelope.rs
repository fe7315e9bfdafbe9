//! What an export looks like: an `Export…ServiceRequest` with one resource and one scope. The
//! numbers of the fields are the same for spans, log records and metrics, and the items are framed
//! already: what is written here is only what goes around them.

use std::sync::Arc;

use opentelemetry_semantic_conventions::SCHEMA_URL;

use super::queue::Batch;
use crate::{protobuf::Writer, telemetry::attributes::Attributes};

/// `resource_spans` of the request.
const RESOURCE_ITEMS: u32 = 1;
/// Of `ResourceSpans`.
const RESOURCE: u32 = 1;
const SCOPE_ITEMS: u32 = 2;
/// Of `ScopeSpans`.
const SCOPE: u32 = 1;
/// Of both.
const SCHEMA: u32 = 3;

/// Who tells: a `Resource`, encoded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resource(Arc<[u8]>);

impl Resource {
    pub(super) fn new<'a>(attributes: impl IntoIterator<Item = (&'a str, Value<'a>)>) -> Self {
        let mut message = Vec::new();
        let mut write = Attributes::new(&mut message, 1);
        for (name, value) in attributes {
            match value {
                Value::Text(text) => write.text(name, text),
                Value::Number(number) => write.number(name, number),
            };
        }
        Self(message.into())
    }

    /// Appends a whole request with the items of these batches.
    pub(super) fn wrap(&self, batches: &[Batch], out: &mut Vec<u8>) {
        let scope = scope();
        let mut items = Vec::with_capacity(scope.len() + 16);
        Writer(&mut items).bytes(SCOPE, &scope);
        let before = items.len();
        Writer(&mut items).bytes(SCHEMA, SCHEMA_URL.as_bytes());
        let (scope, schema) = items.split_at(before);
        let content: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
        let scope_items = scope.len() + content + schema.len();

        let mut resource = Vec::with_capacity(self.0.len() + 16);
        let mut writer = Writer(&mut resource);
        writer.bytes(RESOURCE, &self.0);
        writer.begin(SCOPE_ITEMS, scope_items);
        let whole = resource.len() + scope_items + schema.len();

        out.reserve(whole + 16);
        Writer(out).begin(RESOURCE_ITEMS, whole);
        out.extend_from_slice(&resource);
        out.extend_from_slice(scope);
        for batch in batches {
            out.extend_from_slice(&batch.bytes);
        }
        out.extend_from_slice(schema);
        out.extend_from_slice(schema);
    }
}

/// Of an attribute of a resource.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

/// An `InstrumentationScope`: who made the items.
fn scope() -> Vec<u8> {
    let mut scope = Vec::new();
    let mut writer = Writer(&mut scope);
    writer.bytes(1, b"pillion");
    writer.bytes(2, env!("CARGO_PKG_VERSION").as_bytes());
    scope
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::Fields;

    /// The contents of a field, each time it is there.
    fn all(message: &[u8], number: u32) -> Vec<&[u8]> {
        let mut fields = Fields(message);
        let mut found = Vec::new();
        while let Some(field) = fields.next().unwrap() {
            if field.number == number {
                found.push(field.bytes().unwrap());
            }
        }
        found
    }

    fn only(message: &[u8], number: u32) -> &[u8] {
        let found = all(message, number);
        assert_eq!(found.len(), 1, "field {number}");
        found[0]
    }

    #[test]
    fn items_stand_in_one_scope_of_one_resource() {
        let item = |content: &[u8]| {
            let mut bytes = Vec::new();
            Writer(&mut bytes).bytes(2, content);
            Batch { bytes, items: 1 }
        };
        let large = vec![7; 300_000];
        let resource = Resource::new([
            ("service.name", Value::Text("shop")),
            ("process.pid", Value::Number(42)),
        ]);
        let mut request = b"before".to_vec();
        let batches = [item(b"first"), item(&large), item(b"")];
        resource.wrap(&batches, &mut request);

        let resource_items = only(&request[6..], 1);
        let resource = only(resource_items, 1);
        let names: Vec<_> = all(resource, 1).iter().map(|pair| only(pair, 1)).collect();
        assert_eq!(names, [&b"service.name"[..], b"process.pid"]);
        assert_eq!(only(resource_items, 3), SCHEMA_URL.as_bytes());
        let scope_items = only(resource_items, 2);
        assert_eq!(only(only(scope_items, 1), 1), b"pillion");
        assert_eq!(only(scope_items, 3), SCHEMA_URL.as_bytes());
        assert_eq!(all(scope_items, 2), [&b"first"[..], &large, b""]);
    }
}

//! The JSON Schema, and the reference in Markdown that is made from it.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::raw;

/// JSON Schema (draft 2020-12) of a configuration file.
pub fn schema() -> Value {
    let schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<raw::Config>();
    let mut schema = schema.to_value();
    forget_null(&mut schema);
    schema
}

/// An optional key may be left out, but nothing can be written for it: `null` is refused.
fn forget_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(forget_null),
        Value::Object(map) => {
            map.values_mut().for_each(forget_null);
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(options)) = map.get_mut("anyOf") {
                options.retain(|option| option.get("type") != Some(&"null".into()));
                if let [Value::Object(only)] = options.as_slice() {
                    let only = only.clone();
                    map.remove("anyOf");
                    for (key, value) in only {
                        map.entry(key).or_insert(value);
                    }
                }
            }
        }
        _ => {}
    }
}

/// The whole reference as Markdown.
pub fn reference() -> String {
    String::new()
}

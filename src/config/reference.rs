//! The JSON Schema, and the reference in Markdown that is made from it.

use std::{collections::HashMap, fmt::Write as _};

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::raw;

/// JSON Schema (draft 2020-12) of a configuration file.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12();
    let schema = settings
        .into_generator()
        .into_root_schema_for::<raw::Config>();
    let mut schema = schema.to_value();
    tidy(&mut schema);
    schema
}

/// Says what holds for us: an optional key may be left out, but `null` can't be written for it;
/// and a description is prose, whose lines end where the reader's window does.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(map) => {
            map.values_mut().for_each(tidy);
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.replace('\n', " ");
            }
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

/// The whole reference as Markdown: one section a mapping, in the order of a file.
pub fn reference() -> String {
    let schema = schema();
    let mut writer = Writer {
        schema: &schema,
        seen: HashMap::new(),
        out: PREFACE.to_owned(),
    };
    writer.section("", &schema);
    writer.out
}

const PREFACE: &str = "\
# Configuration

<!-- Made from src/config/raw/; `PILLION_BLESS=1 cargo test --lib reference` writes it. -->

One YAML file, or a folder of `*.yaml` and `*.yml` files that are joined: lists such as `listeners`,
`routes` and `upstreams` are appended to one another in the order of the file names, any other key
is given once. Together they are at most 16 MiB. The shortest useful file:

```yaml
listeners:
  - address: 127.0.0.1:8080
    upstream: app
upstreams:
  - name: app
    endpoints: [127.0.0.1:9000]
```

`pillion check FILE` prints every mistake with its place, the line and a hint; a running Pillion
refuses a file with mistakes and serves on with the last good one. `config/` holds files to begin
with. An editor that speaks the YAML language server completes and checks while typing: write
`pillion schema > pillion.schema.json` once and begin the file with
`# yaml-language-server: $schema=pillion.schema.json`.

**Environment.** `${NAME}` inside a value is replaced from the environment after the YAML is
parsed, so it never becomes a key, a list or a second value. `${NAME:-default}` stands for the
default if the variable is unset or empty; `$${` is a literal `${`. A variable that is unset and
has no default is a mistake. What was replaced may become a number or a boolean. YAML wants quotes
around `${NAME}` within `[ ]` and `{ }`.

**Durations** are whole numbers with a unit of `ms`, `s`, `m`, `h` or `d`, larger ones first:
`250ms`, `10s`, `1h30m`; at most a year. **Sizes** are whole numbers of bytes, alone or with a unit
of `B`, `KiB`, `MiB` or `GiB`. **Names** are 1 to 128 letters, digits and any of `-_./:[]`.
**Paths** of files and sockets are relative to the file they stand in.

YAML is read strictly: a key appears once, one document a file, no merge keys (`<<`), no tags of
one's own, and a key without a value is a mistake. Anchors and aliases work.
";

struct Writer<'s> {
    schema: &'s Value,
    /// The anchor of each type whose section is written, or waits to be.
    seen: HashMap<&'s str, String>,
    out: String,
}

/// What a value is, in words, and the mapping it is or holds.
struct Type<'s> {
    words: String,
    /// Path below the key (`[]` within lists), the mapping's name and its schema.
    mapping: Option<(String, &'s str, &'s Value)>,
    /// Names that may be written, each with its meaning.
    names: Vec<(&'s str, &'s str)>,
}

impl<'s> Writer<'s> {
    /// One mapping: what it is for and a table of its keys; then the mappings inside it.
    fn section(&mut self, path: &str, schema: &'s Value) {
        if path.is_empty() {
            self.out.push_str("\n## Top level\n");
        } else {
            let _ = write!(
                self.out,
                "\n## `{path}`\n\n{}\n",
                text(schema, "description")
            );
        }
        self.out
            .push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
        let Some(keys) = schema["properties"].as_object() else {
            return;
        };
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut inside = Vec::new();
        for (key, value) in keys {
            let r#type = self.r#type(value);
            let default = default(value, required.contains(&key.as_str()), &r#type);
            let mut meaning = text(value, "description").to_owned();
            for (name, explained) in &r#type.names {
                let _ = write!(meaning, "<br>`{name}`: {explained}");
            }
            let mut words = r#type.words;
            if let Some((below, name, schema)) = r#type.mapping {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let path = format!("{path}{below}");
                let anchor = slug(&path);
                if let Some(anchor) = self.seen.get(name) {
                    let _ = write!(words, ", [as above](#{anchor})");
                } else {
                    let _ = write!(words, ", [below](#{anchor})");
                    self.seen.insert(name, anchor);
                    inside.push((path, schema));
                }
            }
            let _ = writeln!(
                self.out,
                "| `{key}` | {} | {} | {} |",
                cell(&words),
                cell(&default),
                cell(&meaning)
            );
        }
        for (path, schema) in inside {
            self.section(&path, schema);
        }
    }

    fn r#type(&self, schema: &'s Value) -> Type<'s> {
        let plain = |words: &str| Type {
            words: words.to_owned(),
            mapping: None,
            names: vec![],
        };
        if let Some(name) = schema["$ref"]
            .as_str()
            .and_then(|path| path.strip_prefix("#/$defs/"))
        {
            return self.named(name, &self.schema["$defs"][name]);
        }
        if schema.get("minimum").is_some() {
            return plain(&format!("{} to {}", schema["minimum"], schema["maximum"]));
        }
        match schema["type"].as_str() {
            Some("array") => {
                let mut items = self.r#type(&schema["items"]);
                items.words = format!("list of {}", items.words.replace("mapping", "mappings"));
                if let Some((below, ..)) = &mut items.mapping {
                    below.insert_str(0, "[]");
                }
                items
            }
            Some("boolean") => plain("true or false"),
            Some("object") => plain("mapping of names to text"),
            _ => plain("text"),
        }
    }

    fn named(&self, name: &'s str, schema: &'s Value) -> Type<'s> {
        let words = |words: &str| Type {
            words: words.to_owned(),
            mapping: None,
            names: vec![],
        };
        if let Some(names) = schema["oneOf"].as_array() {
            let known = names
                .iter()
                .map(|one| (text(one, "const"), text(one, "description")));
            return Type {
                names: known.collect(),
                ..words("name")
            };
        }
        if let Some(options) = schema["anyOf"].as_array() {
            // Text, or a mapping that says more.
            let mut long = options
                .last()
                .map_or_else(|| words("text"), |last| self.r#type(last));
            let short = options[0]["const"].as_str();
            let short = short.map_or_else(|| "text".to_owned(), |name| format!("`{name}`"));
            long.words = format!("{short} or {}", long.words);
            return long;
        }
        match name {
            "Duration" => words("duration"),
            "Size" => words("size"),
            "Percent" => words("percentage"),
            "Sampling" => words("`always`, `never` or a percentage"),
            _ => Type {
                mapping: Some((String::new(), name, schema)),
                ..words("mapping")
            },
        }
    }
}

fn default(schema: &Value, required: bool, r#type: &Type<'_>) -> String {
    match &schema["default"] {
        _ if required => "required".to_owned(),
        // The defaults of a mapping stand at its keys.
        _ if r#type.mapping.is_some() => String::new(),
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::Null => String::new(),
        Value::String(text) => format!("`{text}`"),
        Value::Array(items) if items.is_empty() => String::new(),
        other => format!("`{other}`"),
    }
}

fn text<'s>(schema: &'s Value, key: &str) -> &'s str {
    schema[key].as_str().unwrap_or_default()
}

/// What a heading's anchor is on the usual hosts.
fn slug(heading: &str) -> String {
    heading
        .to_lowercase()
        .replace(|c: char| !c.is_alphanumeric() && c != '-' && c != '_', "")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `PILLION_BLESS=1` the file is written instead.
    #[test]
    fn the_reference_in_docs_is_the_one_made_from_the_schema() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        if std::env::var_os("PILLION_BLESS").is_some() {
            std::fs::write(file, reference()).unwrap();
        }
        let written = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            written == reference(),
            "run it again with PILLION_BLESS=1 and look at the change"
        );
    }

    #[test]
    fn every_key_has_a_description_and_null_is_never_allowed() {
        fn walk(schema: &Value) {
            if let Some(keys) = schema["properties"].as_object() {
                for (key, value) in keys {
                    assert!(
                        !text(value, "description").is_empty(),
                        "{key} has no description"
                    );
                }
                assert_eq!(schema["additionalProperties"], false);
            }
            match schema {
                Value::Object(map) => map.values().for_each(walk),
                Value::Array(items) => items.iter().for_each(walk),
                Value::String(text) => assert_ne!(text, "null"),
                _ => {}
            }
        }
        walk(&schema());
    }
}

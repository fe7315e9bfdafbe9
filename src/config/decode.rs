//! The tree as a serde format, and the loop that finds every mistake of form.
//!
//! serde stops at the first error. Here an error names the node that caused it; the node is
//! noted and turned into a hole, and reading begins again, until the whole tree reads. Each
//! round costs one walk and takes one mistake away for good, and the number of rounds is bounded
//! by that of the problems that are reported.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::{
    report::{Fault, MAX_PROBLEMS, Problems, quote},
    tree::{Entry, Kind, NodeId, Scalar, Tree},
};

/// Rounds that tell the user nothing new happen only for values that depend on a hole.
const MAX_ROUNDS: usize = 4 * MAX_PROBLEMS;

/// Reads a value from the tree, noting every mistake. `None` only if nothing can be made of it.
pub(super) fn decode<T: DeserializeOwned>(
    tree: &mut Tree,
    root: NodeId,
    problems: &mut Problems,
) -> Option<T> {
    for _ in 0..MAX_ROUNDS {
        match T::deserialize(Cursor { tree, node: root }) {
            Ok(value) => return Some(value),
            Err(error) => error.note(tree, root, problems),
        }
        if problems.is_full() || tree.is_gone(root) {
            break;
        }
    }
    None
}

/// A value and where it was written; `None` for a default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<T> {
    pub(super) value: T,
    pub(super) node: Option<NodeId>,
}

/// The name by which [`At`] asks a [`Cursor`] for its node.
const AT: &str = "$at";

impl<T: Default> Default for At<T> {
    fn default() -> Self {
        T::default().into()
    }
}

impl<T> From<T> for At<T> {
    fn from(value: T) -> Self {
        Self { value, node: None }
    }
}

impl<T: Serialize> Serialize for At<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pair<T> {
            type Value = At<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value of a configuration tree")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut pair: A) -> Result<At<T>, A::Error> {
                let node = pair.next_element()?.map(NodeId);
                let value = pair
                    .next_element()?
                    .ok_or_else(|| de::Error::invalid_length(1, &self))?;
                Ok(At { value, node })
            }
        }

        deserializer.deserialize_newtype_struct(AT, Pair(std::marker::PhantomData))
    }
}

/// Stands on one node.
#[derive(Clone, Copy)]
struct Cursor<'t> {
    tree: &'t Tree,
    node: NodeId,
}

#[derive(Debug)]
struct Error {
    what: What,
    place: Option<Place>,
}

#[derive(Debug)]
enum What {
    Fault(Fault),
    Missing(&'static str),
}

#[derive(Debug)]
enum Place {
    Node(NodeId),
    Key { mapping: NodeId, key: String },
}

impl Error {
    fn fault(fault: Fault) -> Self {
        Self {
            what: What::Fault(fault),
            place: None,
        }
    }

    /// The innermost place is the right one: only the first is kept.
    fn at(mut self, place: impl FnOnce() -> Place) -> Self {
        self.place.get_or_insert_with(place);
        self
    }

    /// Tells the user, and takes the mistake out of the tree.
    fn note(self, tree: &mut Tree, root: NodeId, problems: &mut Problems) {
        match (self.place.unwrap_or(Place::Node(root)), self.what) {
            (Place::Key { mapping, key }, What::Fault(fault)) => {
                problems.add(tree.key_mark(mapping, &key), fault);
                tree.remove_entry(mapping, &key);
            }
            (Place::Key { mapping: node, .. } | Place::Node(node), What::Missing(key)) => {
                if tree.stand_in(node, key) {
                    problems.node(tree, node, Fault::new(format!("key `{key}` is missing")));
                } else {
                    tree.degrade(node);
                }
            }
            (Place::Node(node), What::Fault(fault)) => {
                problems.node(tree, node, fault);
                tree.degrade(node);
            }
        }
    }
}

impl<'t> Cursor<'t> {
    fn kind(&self) -> &'t Kind {
        self.tree.kind(self.node)
    }

    /// Puts this node's place into errors that have none.
    fn here<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| error.at(|| Place::Node(self.node)))
    }

    /// Refuses a value whose type is not what the visitor wants.
    fn unexpected<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        let found = match self.kind() {
            Kind::Nothing => Unexpected::Unit,
            Kind::Scalar(_) if self.tree.is_secret(self.node) => Unexpected::Other("a text"),
            Kind::Scalar(scalar) => Unexpected::Str(&scalar.text),
            Kind::List(_) => Unexpected::Seq,
            Kind::Mapping(_) => Unexpected::Map,
        };
        self.here(Err(de::Error::invalid_type(found, &visitor)))
    }

    /// The same, with a way out.
    fn hinted<'de, V: Visitor<'de>>(&self, visitor: V, hint: &str) -> Result<V::Value, Error> {
        self.unexpected(visitor).map_err(|mut error| {
            if let What::Fault(fault) = &mut error.what {
                fault.hint = Some(hint.to_owned());
            }
            error
        })
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.tree.is_hole(self.node) {
            return self.here(visitor.visit_u64(0));
        }
        match self.kind() {
            Kind::Scalar(scalar) if scalar.plain => {
                if let Ok(number) = scalar.text.parse() {
                    return self.here(visitor.visit_u64(number));
                }
                match scalar.text.parse() {
                    Ok(number) => self.here(visitor.visit_i64(number)),
                    Err(_) => self.unexpected(visitor),
                }
            }
            Kind::Scalar(scalar) if scalar.text.parse::<u64>().is_ok() => {
                self.hinted(visitor, "without quotes")
            }
            _ => self.unexpected(visitor),
        }
    }

    fn mapping<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let entries: &[Entry] = match self.kind() {
            Kind::Mapping(entries) => entries,
            _ if self.tree.is_hole(self.node) => &[],
            _ => return self.unexpected(visitor),
        };
        self.here(visitor.visit_map(Mapping {
            at: self,
            entries: entries.iter(),
            value: None,
        }))
    }
}

impl<'de> Deserializer<'de> for Cursor<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.kind() {
            Kind::Nothing => self.deserialize_str(visitor),
            Kind::List(_) => self.deserialize_seq(visitor),
            Kind::Mapping(_) => self.mapping(visitor),
            Kind::Scalar(scalar) if scalar.plain && scalar.text.parse::<u64>().is_ok() => {
                self.number(visitor)
            }
            Kind::Scalar(scalar) => self.here(visitor.visit_str(&scalar.text)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.tree.is_hole(self.node) {
            return self.here(visitor.visit_bool(false));
        }
        match self.kind() {
            Kind::Scalar(scalar) if scalar.plain => match scalar.text.as_str() {
                "true" | "True" | "TRUE" => self.here(visitor.visit_bool(true)),
                "false" | "False" | "FALSE" => self.here(visitor.visit_bool(false)),
                "yes" | "Yes" | "on" | "On" => self.hinted(visitor, "write true"),
                "no" | "No" | "off" | "Off" => self.hinted(visitor, "write false"),
                _ => self.unexpected(visitor),
            },
            Kind::Scalar(Scalar { text, .. }) if matches!(text.as_str(), "true" | "false") => {
                self.hinted(visitor, "without quotes")
            }
            _ => self.unexpected(visitor),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.number(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.number(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.kind() {
            Kind::Scalar(scalar) => self.here(visitor.visit_str(&scalar.text)),
            _ if self.tree.is_hole(self.node) => self.here(visitor.visit_str("")),
            _ => self.unexpected(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.here(visitor.visit_some(self))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if name == AT {
            self.here(visitor.visit_seq(Pair {
                cursor: self,
                next: 0,
            }))
        } else {
            self.here(visitor.visit_newtype_struct(self))
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items: &[NodeId] = match self.kind() {
            Kind::List(items) => items,
            _ if self.tree.is_hole(self.node) => &[],
            _ => return self.unexpected(visitor),
        };
        self.here(visitor.visit_seq(List {
            tree: self.tree,
            items: items.iter(),
        }))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.mapping(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.mapping(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let text = match self.kind() {
            Kind::Scalar(scalar) => &scalar.text,
            _ if self.tree.is_hole(self.node) => variants.first().copied().unwrap_or_default(),
            _ => {
                let fault = Fault::new("a name is expected here");
                let hint = format!("known here: {}", variants.join(", "));
                return self.here(Err(Error::fault(fault.hint(hint))));
            }
        };
        let text: StrDeserializer<'_, Error> = text.into_deserializer();
        self.here(visitor.visit_enum(text))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u128 f32 f64 char bytes byte_buf unit unit_struct
        tuple tuple_struct identifier ignored_any
    }
}

/// What [`At`] reads: the number of the node, then its value.
struct Pair<'t> {
    cursor: Cursor<'t>,
    next: u8,
}

impl<'de> de::SeqAccess<'de> for Pair<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        self.next += 1;
        match self.next {
            1 => seed
                .deserialize(self.cursor.node.0.into_deserializer())
                .map(Some),
            2 => seed.deserialize(self.cursor).map(Some),
            _ => Ok(None),
        }
    }
}

struct List<'t> {
    tree: &'t Tree,
    items: std::slice::Iter<'t, NodeId>,
}

impl<'de> de::SeqAccess<'de> for List<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(node) = self.items.find(|node| !self.tree.is_gone(**node)) else {
            return Ok(None);
        };
        let cursor = Cursor {
            tree: self.tree,
            node: *node,
        };
        cursor.here(seed.deserialize(cursor)).map(Some)
    }
}

struct Mapping<'t> {
    at: Cursor<'t>,
    entries: std::slice::Iter<'t, Entry>,
    value: Option<NodeId>,
}

impl<'de> de::MapAccess<'de> for Mapping<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let tree = self.at.tree;
        let Some(entry) = self.entries.find(|entry| !tree.is_gone(entry.value)) else {
            return Ok(None);
        };
        self.value = Some(entry.value);
        let key: StrDeserializer<'_, Error> = entry.key.as_str().into_deserializer();
        let place = || Place::Key {
            mapping: self.at.node,
            key: entry.key.clone(),
        };
        seed.deserialize(key)
            .map(Some)
            .map_err(|error| error.at(place))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let node = self
            .value
            .take()
            .ok_or_else(|| de::Error::custom("a value before its key"))?;
        let cursor = Cursor {
            tree: self.at.tree,
            node,
        };
        cursor.here(seed.deserialize(cursor))
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::fault(Fault::from_text(&message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Unit | Unexpected::Option => {
                return Self::fault(
                    Fault::new(format!(
                        "{} is expected, nothing is written",
                        wanted(expected)
                    ))
                    .hint("leave the key out for its default"),
                );
            }
            Unexpected::Str(text) => format!("the text {}", quote(text)),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a mapping".to_owned(),
            Unexpected::Bool(value) => format!("`{value}`"),
            Unexpected::Unsigned(value) => format!("the number {value}"),
            Unexpected::Signed(value) => format!("the number {value}"),
            other => other.to_string(),
        };
        Self::fault(Fault::new(format!(
            "{} is expected, not {found}",
            wanted(expected)
        )))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        let fault = Fault::new(format!("unknown key {}", quote(key)));
        Self::fault(fault.suggest(key, known.iter().copied()))
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        let fault = Fault::new(format!("{} is not known here", quote(name)));
        Self::fault(fault.suggest(name, known.iter().copied()))
    }

    fn missing_field(key: &'static str) -> Self {
        Self {
            what: What::Missing(key),
            place: None,
        }
    }
}

/// serde's words for a type, in the words of a person who writes YAML.
fn wanted(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a sequence" => "a list".to_owned(),
        "a string" => "text".to_owned(),
        "a boolean" => "true or false".to_owned(),
        _ if text.starts_with("struct ") => "a mapping".to_owned(),
        _ => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Fault(fault) => fault.fmt(f),
            What::Missing(key) => write!(f, "key `{key}` is missing"),
        }
    }
}

impl std::error::Error for Error {}

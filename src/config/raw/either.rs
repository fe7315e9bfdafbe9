//! Values that are text in short and a mapping in full.

use std::{fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, de};

/// A value that can be written in both ways.
pub(super) trait Shortened: Sized {
    /// What the mapping is read as.
    type Full: Into<Self>;
    /// What is told to who writes neither, with a comma at its end.
    const EXPECTED: &'static str;

    fn from_text<E: de::Error>(text: &str) -> Result<Self, E>;
}

/// Reads one or the other. serde's untagged enums forget why each variant was refused.
pub(super) fn either<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Shortened<Full: Deserialize<'de>>,
    D: Deserializer<'de>,
{
    struct Either<T>(PhantomData<T>);

    impl<'de, T: Shortened<Full: Deserialize<'de>>> de::Visitor<'de> for Either<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            T::from_text(text)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            let map = de::value::MapAccessDeserializer::new(map);
            T::Full::deserialize(map).map(Into::into)
        }
    }

    deserializer.deserialize_any(Either(PhantomData))
}

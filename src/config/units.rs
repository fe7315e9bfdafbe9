//! Durations and sizes as they are written: `250ms`, `1h30m`; `64KiB`.

use std::{borrow::Cow, fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::report::{Fault, quote};

/// A length of time: whole numbers with `ms`, `s`, `m`, `h` or `d`, at most a year.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Duration(pub(super) time::Duration);

/// A number of bytes: a whole number, alone or with `B`, `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(super) u64);

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count<const MIN: u64, const MAX: u64>(pub(super) u64);

/// A whole number of hundredths, written with a `%`: 0% to 100%.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Percent(pub(super) u8);

/// Longer than anything sensible, short enough that no deadline overflows.
const MAX_DURATION: time::Duration = time::Duration::from_secs(366 * 24 * 60 * 60);

/// Largest first, each with its length in microseconds.
const DURATIONS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1000),
    ("us", 1),
];

/// Largest first.
const SIZES: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl Duration {
    pub(super) const fn micros(micros: u64) -> Self {
        Self(time::Duration::from_micros(micros))
    }

    pub(super) const fn millis(millis: u64) -> Self {
        Self(time::Duration::from_millis(millis))
    }

    pub(super) const fn secs(secs: u64) -> Self {
        Self(time::Duration::from_secs(secs))
    }
}

impl Size {
    /// The number; no size in a model is near the end of any address space.
    pub(super) fn get(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Duration {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let fault = || {
            Fault::new(format!("{} is not a duration", quote(text))).hint(
                "whole numbers with a unit of us, ms, s, m, h or d, such as 250ms, 10s or 1h30m",
            )
        };
        let mut rest = text;
        let mut total: u64 = 0;
        let mut smaller = DURATIONS.iter();
        if rest.is_empty() {
            return Err(fault());
        }
        while !rest.is_empty() {
            let (number, after) = number(rest).ok_or_else(fault)?;
            let end = after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            // Each unit once and larger ones first, so that `1m1m` and `1s1h` are slips.
            let (_, micros) = smaller.find(|(name, _)| *name == unit).ok_or_else(fault)?;
            total = total.saturating_add(number.saturating_mul(*micros));
            rest = after;
        }
        let duration = time::Duration::from_micros(total);
        if duration > MAX_DURATION {
            return Err(Fault::new(format!("{} is longer than a year", quote(text))));
        }
        Ok(Self(duration))
    }
}

impl FromStr for Size {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let fault = || {
            Fault::new(format!("{} is not a size", quote(text)))
                .hint("a whole number of bytes, or one with KiB, MiB or GiB, such as 64KiB")
        };
        let (number, unit) = number(text).ok_or_else(fault)?;
        let unit = if unit.is_empty() { "B" } else { unit };
        let (_, bytes) = SIZES
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(fault)?;
        number.checked_mul(*bytes).map(Self).ok_or_else(fault)
    }
}

impl FromStr for Percent {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let fault = || {
            Fault::new(format!("{} is not a share", quote(text))).hint("0% to 100%, such as 50%")
        };
        match number(text).ok_or_else(fault)? {
            (percent @ 0..=100, "%") => Ok(Self(percent as u8)),
            _ => Err(fault()),
        }
    }
}

/// The digits at the front, and what follows.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    digits.parse().ok().map(|number| (number, rest))
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, micros) in DURATIONS {
            if rest >= micros {
                write!(f, "{}{unit}", rest / micros)?;
                rest %= micros;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, bytes): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*bytes);
        match SIZES.iter().find(whole) {
            Some((unit, bytes)) if *bytes > 1 => write!(f, "{}{unit}", self.0 / bytes),
            _ => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Written("a duration", Self::from_str))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Written("a size", Self::from_str))
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Written("a share", Self::from_str))
    }
}

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    /// The number in the type of its place, which can hold `MAX`.
    pub(super) fn get<T: TryFrom<u64>>(self) -> T {
        let Ok(number) = T::try_from(self.0) else {
            unreachable!(
                "{} is within {MIN}..={MAX}, which its place can hold",
                self.0
            )
        };
        number
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Count<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const MIN: u64, const MAX: u64>;

        impl<const MIN: u64, const MAX: u64> de::Visitor<'_> for Number<MIN, MAX> {
            type Value = Count<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                if (MIN..=MAX).contains(&number) {
                    Ok(Count(number))
                } else {
                    Err(E::invalid_value(de::Unexpected::Unsigned(number), &self))
                }
            }
        }

        deserializer.deserialize_u64(Number)
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Count<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Count{MIN}To{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string"],
            "minimum": MIN,
            "maximum": MAX,
            "pattern": r"\$\{",
        })
    }
}

/// Reads text that a function understands.
struct Written<T>(&'static str, fn(&str) -> Result<T, Fault>);

impl<T> de::Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).map_err(E::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Whole numbers with a unit (`us`, `ms`, `s`, `m`, `h`, `d`), largest first: \
                            `250ms`, `10s`, `1h30m`. At most a year.",
            "pattern": r"^(?=.)(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?(\d+us)?$|\$\{",
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "description": "Bytes: a whole number, alone or with a unit (`B`, `KiB`, `MiB`, \
                            `GiB`): `64KiB`.",
            "minimum": 0,
            "pattern": r"^\d+(B|KiB|MiB|GiB)?$|\$\{",
        })
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A whole number with `%`: `50%`.",
            "pattern": r"^(100|\d?\d)%$|\$\{",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, millis, canonical) in [
            ("0s", 0, "0s"),
            ("250ms", 250, "250ms"),
            ("10s", 10_000, "10s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("90m", 5_400_000, "1h30m"),
            ("1m500ms", 60_500, "1m500ms"),
            ("2d", 172_800_000, "2d"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration, Duration::millis(millis), "{text}");
            assert_eq!(duration.to_string(), canonical);
        }
    }

    #[test]
    fn slips_in_durations_are_refused() {
        for text in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "10 s",
            "1s1h",
            "1m1m",
            "10S",
            "1w",
            "367d",
            "1é",
            "99999999999999999999s",
        ] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, canonical) in [
            ("0", 0, "0"),
            ("1000", 1000, "1000"),
            ("512B", 512, "512"),
            ("64KiB", 65_536, "64KiB"),
            ("1024KiB", 1_048_576, "1MiB"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size, Size(bytes), "{text}");
            assert_eq!(size.to_string(), canonical);
        }
        for text in ["", "KiB", "1KB", "1k", "-1", "1.5MiB", "99999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}

//! Variables one by one: what is read of a text, and what is told of one that can't be read.

use std::{collections::BTreeSet, fmt::Display, path::PathBuf, str::FromStr, time::Duration};

use crate::{
    config::{env::Environment, report::quote},
    hex,
};

/// No time is taken for longer: a day.
const MOST: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) struct Reader<'a> {
    pub(super) env: Environment<'a>,
    /// What was ignored.
    pub(super) warnings: Vec<String>,
    /// What may be said.
    pub(super) known: BTreeSet<String>,
}

impl Reader<'_> {
    /// The value; `None` where it is unset or empty.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.know(name);
        let value = (self.env)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// A word that is one of several: in lower case.
    pub(super) fn word(&mut self, name: &str) -> Option<String> {
        self.text(name).map(|text| text.to_ascii_lowercase())
    }

    /// Also one that need not be looked at now.
    pub(super) fn know(&mut self, name: &str) {
        self.known.insert(name.to_owned());
    }

    pub(super) fn ignore<T>(&mut self, name: &str, why: impl Display) -> Option<T> {
        self.warn(format!("{name} is ignored: {why}"));
        None
    }

    /// Once, as what is said of all signals is read for each of them.
    pub(super) fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    pub(super) fn either<T>(
        &mut self,
        own: &str,
        shared: &str,
        read: impl Fn(&mut Self, &str) -> Option<T>,
    ) -> Option<T> {
        self.know(shared);
        read(self, own).or_else(|| read(self, shared))
    }

    /// Anything but `true` is false.
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        let text = self.text(name)?;
        let flag = text.eq_ignore_ascii_case("true");
        if !flag && !text.eq_ignore_ascii_case("false") {
            let why = format!(
                "{} is neither true nor false, and taken for false",
                quote(&text)
            );
            self.warn(format!("{name}: {why}"));
        }
        Some(flag)
    }

    pub(super) fn number<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?;
        let number = text.parse().ok();
        number.or_else(|| self.ignore(name, format!("{} is not such a number", quote(&text))))
    }

    pub(super) fn positive(&mut self, name: &str) -> Option<usize> {
        match self.number(name)? {
            0 => self.ignore(name, "0 is too few"),
            number => Some(number),
        }
    }

    /// A number of milliseconds, up to a day.
    pub(super) fn millis(&mut self, name: &str) -> Option<Duration> {
        match self.number::<u64>(name)? {
            0 => self.ignore(name, "0 would leave no time"),
            millis => Some(Duration::from_millis(millis).min(MOST)),
        }
    }

    /// The same of a limit, where 0 is none: as long as there is.
    pub(super) fn limit(&mut self, name: &str) -> Option<Duration> {
        match self.number::<u64>(name)? {
            0 => Some(MOST),
            millis => Some(Duration::from_millis(millis).min(MOST)),
        }
    }

    pub(super) fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }
}

/// The pairs of a list in the form of W3C Baggage, without its properties; `None` for what is none.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = Option<(&str, String)>> {
    let written = text
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty());
    written.map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then_some((name, decoded(value.trim())?))
    })
}

/// Percent-decoded; `None` where a `%` begins no escape.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match first {
            b'%' => hex::escaped(rest)?,
            &first => (first, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

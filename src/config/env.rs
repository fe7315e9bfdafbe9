//! `${NAME}` inside a scalar, replaced after the YAML is parsed: a value from the environment can
//! never become a key, a list or a second value.

use std::borrow::Cow;

use super::report::{Fault, quote};

/// Looks a variable up; a parameter so that tests need no process environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces every `${NAME}` and `${NAME:-default}` of a scalar; `$${` stands for `${`.
///
/// As in a shell, the default also replaces an empty value; it reaches to the next `}` and is
/// not itself searched for variables. A name is letters, digits and `_`, not a digit first.
///
/// # Errors
///
/// Every variable that is unset and has no default, and every `${` that begins no variable.
pub(super) fn expand<'t>(text: &'t str, env: Environment<'_>) -> Result<Cow<'t, str>, Vec<Fault>> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut expanded = String::with_capacity(text.len());
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        let after = &reference[2..];
        if let Some(escaped) = before.strip_suffix('$') {
            expanded.push_str(escaped);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let Some((inside, remaining)) = after.split_once('}') else {
            faults.push(malformed(reference));
            break;
        };
        rest = remaining;
        match value(inside, env) {
            Ok(value) => expanded.push_str(&value),
            Err(fault) => faults.push(fault),
        }
    }
    expanded.push_str(rest);
    if faults.is_empty() {
        Ok(Cow::Owned(expanded))
    } else {
        Err(faults)
    }
}

fn value(inside: &str, env: Environment<'_>) -> Result<String, Fault> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_name(name) {
        return Err(malformed(&format!("${{{inside}}}")));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(
            Fault::new(format!("environment variable {} is not set", quote(name)))
                .hint(format!("set it, or give a default: ${{{name}:-default}}")),
        ),
    }
}

fn malformed(written: &str) -> Fault {
    Fault::new(format!("{} is not a variable", quote(written)))
        .hint("write ${NAME} or ${NAME:-default}; $${ stands for a literal ${")
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("8080".into()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("a: [b, ${PORT}]".into()),
            _ => None,
        }
    }

    #[test]
    fn replaces_names_defaults_and_escapes() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$", "$"),
            ("a$b", "a$b"),
            ("${PORT}", "8080"),
            ("127.0.0.1:${PORT}/x", "127.0.0.1:8080/x"),
            ("${PORT}${PORT}", "80808080"),
            ("${NONE:-7}", "7"),
            ("${EMPTY:-7}", "7"),
            ("${EMPTY}", ""),
            ("${NONE:-}", ""),
            ("${NONE:-a:-b}", "a:-b"),
            ("$${PORT}", "${PORT}"),
            ("$$${PORT}", "$${PORT}"),
            ("${TRICKY}", "a: [b, ${PORT}]"),
            ("^/a{2}$", "^/a{2}$"),
            ("é${PORT}é", "é8080é"),
        ] {
            assert_eq!(expand(text, &env).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn reports_every_unset_and_malformed_one() {
        let messages = |text: &str| -> Vec<String> {
            expand(text, &env)
                .unwrap_err()
                .into_iter()
                .map(|fault| fault.message)
                .collect()
        };
        assert_eq!(
            messages("${A} ${PORT} ${B}"),
            [
                "environment variable `A` is not set",
                "environment variable `B` is not set"
            ]
        );
        assert_eq!(messages("${}"), ["`${}` is not a variable"]);
        assert_eq!(messages("${1A}"), ["`${1A}` is not a variable"]);
        assert_eq!(messages("${A-b}"), ["`${A-b}` is not a variable"]);
        assert_eq!(messages("x${PORT"), ["`${PORT` is not a variable"]);
    }
}

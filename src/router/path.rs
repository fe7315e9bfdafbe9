//! One spelling for every path, so that what is matched is what is authorized is what is sent.

use std::borrow::Cow;

use crate::{
    config::model::{Backslash, EscapedSlash, PathPolicy},
    error::{Error, Reason},
    hex::{self, escape},
};

/// The canonical form of a path (without its query), borrowed if it is canonical already.
///
/// RFC 3986 section 6.2.2: unreserved characters are decoded, the escapes that stay are written in
/// upper case, then dot segments are removed (section 5.2.4; `..` at the root is dropped). Bytes
/// outside of ASCII are escaped. `%2F`, `%5C`, `\` and `//` follow `policy`. The result begins
/// with `/`, and normalizing it again changes nothing. The `*` of `OPTIONS *` stays as it is; an
/// empty path is `/`.
///
/// ```
/// # use pillion::{config::model::*, router::normalize};
/// let policy = PathPolicy {
///     escaped_slash: EscapedSlash::Keep,
///     backslash: Backslash::Reject,
///     merge_slashes: false,
/// };
/// assert_eq!(normalize("/a/%7euser/./b/%2e%2e/c%2fd", policy).unwrap(), "/a/~user/c%2Fd");
/// assert!(normalize("/a\\b", policy).is_err());
/// ```
pub fn normalize(path: &str, policy: PathPolicy) -> Result<Cow<'_, str>, PathError> {
    match path.as_bytes() {
        [] => Ok(Cow::Borrowed("/")),
        b"*" => Ok(Cow::Borrowed(path)),
        [b'/', ..] => {
            let clean = clean_until(path.as_bytes(), policy)?;
            if clean == path.len() {
                return Ok(Cow::Borrowed(path));
            }
            rebuild(path, clean, policy).map(Cow::Owned)
        }
        _ => Err(PathError::NotAbsolute),
    }
}

/// Why a path has no canonical form. All are the client's fault: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("path does not begin with /")]
    NotAbsolute,
    #[error("path holds a % that begins no escape")]
    InvalidEscape,
    /// A control character, a space, `#` or `?`, or an escaped NUL.
    #[error("path holds a forbidden character")]
    Forbidden,
    #[error("path holds an escaped slash or backslash")]
    EscapedSlash,
    #[error("path holds a backslash")]
    Backslash,
}

impl From<PathError> for Error {
    fn from(error: PathError) -> Self {
        Self::new(
            Reason::BadRequest,
            match error {
                PathError::NotAbsolute => "path does not begin with /",
                PathError::InvalidEscape => "invalid escape in path",
                PathError::Forbidden => "forbidden character in path",
                PathError::EscapedSlash => "escaped slash in path",
                PathError::Backslash => "backslash in path",
            },
        )
    }
}

/// What one character of a path, however it is spelled, means.
#[derive(Clone, Copy)]
enum Unit {
    Slash,
    Byte(u8),
    Escape(u8),
}

impl Unit {
    fn is_spelled(self, source: &[u8]) -> bool {
        match self {
            Self::Slash => source == b"/",
            Self::Byte(byte) => source == [byte],
            Self::Escape(byte) => source == escape(byte),
        }
    }
}

/// Length of the part that is canonical as it stands: all, or up to the first segment that isn't.
fn clean_until(path: &[u8], policy: PathPolicy) -> Result<usize, PathError> {
    let (mut segment, mut at) = (1, 1);
    loop {
        match path.get(at) {
            Some(&byte) if PLAIN[usize::from(byte)] => at += 1,
            end @ (Some(b'/') | None) => {
                let merged = segment == at && policy.merge_slashes && end.is_some();
                if merged || matches!(&path[segment..at], b"." | b"..") {
                    return Ok(segment);
                }
                if end.is_none() {
                    return Ok(at);
                }
                at += 1;
                segment = at;
            }
            Some(_) => {
                let (unit, width) = read(&path[at..], policy)?;
                if !unit.is_spelled(&path[at..at + width]) {
                    return Ok(segment);
                }
                at += width;
            }
        }
    }
}

/// The canonical form of `path`, whose first `clean` bytes are whole canonical segments.
fn rebuild(path: &str, clean: usize, policy: PathPolicy) -> Result<String, PathError> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    out.push_str(&path[..clean]);
    let (mut segment, mut at) = (clean, clean);
    while at < bytes.len() {
        let (unit, width) = read(&bytes[at..], policy)?;
        at += width;
        match unit {
            Unit::Slash => {
                let merged = policy.merge_slashes && segment == out.len();
                if !remove_dots(&mut out, segment) && !merged {
                    out.push('/');
                }
                segment = out.len();
            }
            Unit::Byte(byte) => out.push(char::from(byte)),
            Unit::Escape(byte) => out.extend(escape(byte).map(char::from)),
        }
    }
    remove_dots(&mut out, segment);
    Ok(out)
}

/// Drops the last segment, which begins at `segment`, if it is `.`, and its parent too if it is
/// `..`; `out` then ends in a slash.
fn remove_dots(out: &mut String, segment: usize) -> bool {
    match &out[segment..] {
        "." => out.truncate(segment),
        ".." => {
            let parent = out[..segment - 1].rfind('/').map_or(1, |slash| slash + 1);
            out.truncate(parent);
        }
        _ => return false,
    }
    true
}

/// The first unit of `source`, which is not empty, and how many bytes spell it.
fn read(source: &[u8], policy: PathPolicy) -> Result<(Unit, usize), PathError> {
    let backslash = || match policy.backslash {
        Backslash::Keep => Ok(Unit::Byte(b'\\')),
        Backslash::Slash => Ok(Unit::Slash),
        Backslash::Reject => Err(PathError::Backslash),
    };
    match source[0] {
        b'/' => Ok((Unit::Slash, 1)),
        b'\\' => Ok((backslash()?, 1)),
        b'%' => {
            let (byte, _) = hex::escaped(source).ok_or(PathError::InvalidEscape)?;
            let unit = match (byte, policy.escaped_slash) {
                (0, _) => return Err(PathError::Forbidden),
                (b'/' | b'\\', EscapedSlash::Reject) => return Err(PathError::EscapedSlash),
                (b'/', EscapedSlash::Decode) => Unit::Slash,
                (b'\\', EscapedSlash::Decode) => backslash()?,
                _ if unreserved(byte) => Unit::Byte(byte),
                _ => Unit::Escape(byte),
            };
            Ok((unit, 3))
        }
        0..=b' ' | 0x7f | b'#' | b'?' => Err(PathError::Forbidden),
        byte @ 0x80.. => Ok((Unit::Escape(byte), 1)),
        byte => Ok((Unit::Byte(byte), 1)),
    }
}

/// Bytes that mean themselves under every policy; the scan passes them without a second look.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = b'!' as usize;
    while byte < 0x7f {
        table[byte] = !matches!(byte as u8, b'/' | b'\\' | b'%' | b'#' | b'?');
        byte += 1;
    }
    table
};

/// RFC 3986 section 2.3.
const fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEFAULT: PathPolicy = PathPolicy {
        escaped_slash: EscapedSlash::Keep,
        backslash: Backslash::Reject,
        merge_slashes: false,
    };
    const DECODE: PathPolicy = PathPolicy {
        escaped_slash: EscapedSlash::Decode,
        backslash: Backslash::Slash,
        merge_slashes: true,
    };

    #[track_caller]
    fn check(policy: PathPolicy, path: &str, wanted: &str) {
        assert_eq!(normalize(path, policy).as_deref(), Ok(wanted), "{path}");
    }

    #[test]
    fn canonical_paths_are_borrowed() {
        for path in [
            "/",
            "*",
            "/a/b.c/",
            "/.well-known/..x/...",
            "/%C3%BC%2F%25",
            "//a//",
            "/a;b=c",
        ] {
            let normal = normalize(path, DEFAULT).unwrap();
            assert!(
                matches!(normal, Cow::Borrowed(same) if same == path),
                "{path}"
            );
        }
        assert_eq!(normalize("", DEFAULT), Ok(Cow::Borrowed("/")));
    }

    #[test]
    fn dot_segments_are_removed_and_never_leave_the_root() {
        for (path, wanted) in [
            ("/.", "/"),
            ("/..", "/"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/a/./b", "/a/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/a/b/../../../c", "/c"),
            ("/a//../b", "/a/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e", "/"),
            ("/a/..;/b", "/a/..;/b"),
            // RFC 3986 section 5.2.4's example.
            ("/a/b/c/./../../g", "/a/g"),
        ] {
            check(DEFAULT, path, wanted);
        }
    }

    #[test]
    fn escapes_get_one_spelling() {
        for (path, wanted) in [
            ("/%41%7a%30%2d%5F%7e", "/Az0-_~"),
            ("/%c3%bc", "/%C3%BC"),
            ("/ü", "/%C3%BC"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/%25%32%46", "/%252F"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/a%3fb%23", "/a%3Fb%23"),
            ("/%0d%0A", "/%0D%0A"),
        ] {
            check(DEFAULT, path, wanted);
        }
    }

    #[test]
    fn policies_decide_what_servers_disagree_about() {
        check(DECODE, "/a%2fb", "/a/b");
        check(DECODE, "/a%2F..%5c..\\b", "/b");
        check(DECODE, "//a//../b///", "/b/");
        check(
            PathPolicy {
                merge_slashes: true,
                ..DEFAULT
            },
            "/a//",
            "/a/",
        );
        check(
            PathPolicy {
                backslash: Backslash::Keep,
                ..DEFAULT
            },
            "/a\\..",
            "/a\\..",
        );
        let reject = PathPolicy {
            escaped_slash: EscapedSlash::Reject,
            ..DEFAULT
        };
        assert_eq!(normalize("/a%2Fb", reject), Err(PathError::EscapedSlash));
        assert_eq!(normalize("/a%5cb", reject), Err(PathError::EscapedSlash));
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        for (path, wanted) in [
            ("a", PathError::NotAbsolute),
            ("**", PathError::NotAbsolute),
            ("/%", PathError::InvalidEscape),
            ("/%4", PathError::InvalidEscape),
            ("/%zz", PathError::InvalidEscape),
            ("/%+1", PathError::InvalidEscape),
            ("/../%é", PathError::InvalidEscape),
            ("/%00", PathError::Forbidden),
            ("/a\0", PathError::Forbidden),
            ("/a b", PathError::Forbidden),
            ("/./a\r\nb", PathError::Forbidden),
            ("/a#b", PathError::Forbidden),
            ("/a?b", PathError::Forbidden),
            ("/a\\b", PathError::Backslash),
        ] {
            assert_eq!(normalize(path, DEFAULT), Err(wanted), "{path}");
        }
    }

    fn policy() -> impl Strategy<Value = PathPolicy> {
        use proptest::sample::select;
        (
            select(vec![
                EscapedSlash::Keep,
                EscapedSlash::Decode,
                EscapedSlash::Reject,
            ]),
            select(vec![Backslash::Keep, Backslash::Slash, Backslash::Reject]),
            any::<bool>(),
        )
            .prop_map(|(escaped_slash, backslash, merge_slashes)| PathPolicy {
                escaped_slash,
                backslash,
                merge_slashes,
            })
    }

    proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(
            path in r"/((/|\.|\\|a|~|é|%|%2[eEfF]|%5[cC]|%25|%7E|%c3|2|F){0,24}|\PC{0,16})",
            policy in policy(),
        ) {
            if let Ok(once) = normalize(&path, policy) {
                let twice = normalize(&once, policy).unwrap();
                prop_assert_eq!(&twice, &once);
                prop_assert!(matches!(twice, Cow::Borrowed(_)));
                prop_assert!(once.starts_with('/') && once.is_ascii());
                prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."));
                prop_assert!(!policy.merge_slashes || !once.contains("//"));
            }
        }

        #[test]
        fn no_text_panics(path in any::<String>(), policy in policy()) {
            let _ = normalize(&path, policy);
        }
    }
}

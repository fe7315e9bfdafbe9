//! Text around certificates and keys (RFC 7468), read so that a mistake has a line number, and
//! without leaving copies of a key behind.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// What lies between a `BEGIN` and its `END`.
pub(crate) struct Block {
    /// `CERTIFICATE`, `PRIVATE KEY` and so on.
    pub(crate) label: String,
    pub(crate) der: Zeroizing<Vec<u8>>,
    /// The line of its `BEGIN`, from 1.
    pub(crate) line: usize,
}

/// Where and how a text breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPem {
    #[error("is empty")]
    Empty,
    #[error("has no -----BEGIN line: it is not PEM")]
    NoBlock,
    #[error("is cut off: the {label} that begins on line {begin} has no -----END line")]
    NoEnd { label: String, begin: usize },
    #[error("line {line}: -----END {found}, but line {begin} began a {label}")]
    WrongEnd {
        label: String,
        begin: usize,
        found: String,
        line: usize,
    },
    #[error("line {line}: another -----BEGIN inside the {label} that begins on line {begin}")]
    Nested {
        label: String,
        begin: usize,
        line: usize,
    },
    #[error("line {line}: not base64")]
    NotBase64 { line: usize },
    #[error("the {label} that begins on line {begin} is empty or its base64 is cut off")]
    Incomplete { label: String, begin: usize },
    #[error("line {line}: the key is encrypted, and nobody is there to ask for its password")]
    Encrypted { line: usize },
}

/// A block whose `END` has not come yet.
struct Open {
    label: String,
    begin: usize,
    /// Its base64 without line ends.
    body: Zeroizing<Vec<u8>>,
}

/// Reads every block. Text outside of blocks is a comment, as `openssl x509 -text` writes it.
pub(crate) fn blocks(text: &[u8]) -> Result<Vec<Block>, BadPem> {
    let mut blocks = Vec::new();
    let mut open: Option<Open> = None;
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let (line, number) = (line.trim_ascii(), index + 1);
        open = match open {
            None => marker(line, b"-----BEGIN ").map(|label| Open {
                label,
                begin: number,
                // As long as the text from the start: it never moves and leaves no copy of a key.
                body: Zeroizing::new(Vec::with_capacity(text.len())),
            }),
            Some(block) if line.starts_with(b"-----") => {
                blocks.push(block.close(line, number)?);
                None
            }
            Some(mut block) => {
                block.take(line, number)?;
                Some(block)
            }
        };
    }
    match open {
        Some(Open { label, begin, .. }) => Err(BadPem::NoEnd { label, begin }),
        None if blocks.is_empty() && text.trim_ascii().is_empty() => Err(BadPem::Empty),
        None if blocks.is_empty() => Err(BadPem::NoBlock),
        None => Ok(blocks),
    }
}

impl Open {
    fn take(&mut self, line: &[u8], number: usize) -> Result<(), BadPem> {
        if line.starts_with(b"Proc-Type:") || self.label == "ENCRYPTED PRIVATE KEY" {
            return Err(BadPem::Encrypted { line: number });
        }
        if !line.iter().all(|&byte| is_base64(byte)) {
            return Err(BadPem::NotBase64 { line: number });
        }
        self.body.extend_from_slice(line);
        Ok(())
    }

    fn close(self, line: &[u8], number: usize) -> Result<Block, BadPem> {
        let Self { label, begin, body } = self;
        match marker(line, b"-----END ") {
            Some(found) if found == label => {}
            Some(found) => {
                return Err(BadPem::WrongEnd {
                    label,
                    begin,
                    found,
                    line: number,
                });
            }
            None => {
                return Err(BadPem::Nested {
                    label,
                    begin,
                    line: number,
                });
            }
        }
        let mut der = Zeroizing::new(Vec::with_capacity(body.len()));
        match STANDARD.decode_vec(&*body, &mut der) {
            Ok(()) if !der.is_empty() => Ok(Block {
                label,
                der,
                line: begin,
            }),
            _ => Err(BadPem::Incomplete { label, begin }),
        }
    }
}

/// Writes one block.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    // Room for all of it, so that no copy of a key stays behind.
    let mut text = Zeroizing::new(String::with_capacity(der.len() * 3 / 2 + 128));
    let body = Zeroizing::new(STANDARD.encode(der));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn marker(line: &[u8], opening: &[u8]) -> Option<String> {
    let label = line.strip_prefix(opening)?.strip_suffix(b"-----")?;
    Some(String::from_utf8_lossy(label).into_owned())
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

/// Never the content: it may be a key.
impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("label", &self.label)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> String {
        blocks(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_was_written_is_read() {
        let der: Vec<u8> = (0..200).collect();
        let text = format!(
            "a comment\n{}\r\n# more\n{}",
            *encode("CERTIFICATE", &der),
            *encode("X", b"y")
        );
        let read = blocks(text.as_bytes()).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].label.as_str(), read[0].line), ("CERTIFICATE", 2));
        assert_eq!(*read[0].der, der);
        assert_eq!((read[1].label.as_str(), &**read[1].der), ("X", &b"y"[..]));
    }

    #[test]
    fn a_mistake_has_a_place() {
        assert_eq!(error(""), "is empty");
        assert_eq!(error(" \n\n"), "is empty");
        assert_eq!(error("hello"), "has no -----BEGIN line: it is not PEM");
        assert_eq!(
            error("x\n-----BEGIN CERTIFICATE-----\nAAAA\n"),
            "is cut off: the CERTIFICATE that begins on line 2 has no -----END line"
        );
        assert_eq!(
            error("-----BEGIN A-----\nAAAA\n-----END B-----"),
            "line 3: -----END B, but line 1 began a A"
        );
        assert_eq!(
            error("-----BEGIN A-----\nAAAA\n-----BEGIN A-----"),
            "line 3: another -----BEGIN inside the A that begins on line 1"
        );
        assert_eq!(
            error("-----BEGIN A-----\nAAAA\nA?AA\n-----END A-----"),
            "line 3: not base64"
        );
        assert_eq!(
            error("-----BEGIN A-----\nAAAAA\n-----END A-----"),
            "the A that begins on line 1 is empty or its base64 is cut off"
        );
        let encrypted = "line 2: the key is encrypted, and nobody is there to ask for its password";
        for text in [
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n",
        ] {
            assert_eq!(error(text), encrypted);
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in r"((-----(BEGIN|END) [AB]-----|[A=? ]{0,9})\n?){0,8}") {
            let _ = blocks(text.as_bytes());
        }
    }
}

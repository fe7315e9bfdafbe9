//! gRPC as far as a call of our own needs it: messages with a length before them,
//! and the status at the end.

use std::{fmt, ops::Deref};

use zeroize::Zeroizing;

use super::camel_name;
use crate::{
    hex,
    http::{
        fields::Fields,
        name::{GRPC_MESSAGE, GRPC_STATUS},
    },
};

/// Largest message, in bytes. What most implementations of gRPC allow if nothing else is said.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;
/// Of a status's text so much is kept, in bytes as they came.
const MAX_TEXT: usize = 300;
/// Bytes before each message: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;

/// A message that may hold private keys: wiped when it is dropped, and without `Debug`.
#[derive(Default)]
pub(crate) struct Message(Zeroizing<Vec<u8>>);

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Cuts what comes into messages.
#[derive(Default)]
pub(crate) struct Deframer {
    prefix: [u8; PREFIX],
    /// Octets of the prefix that have come.
    got: usize,
    length: usize,
    message: Message,
}

/// Why what comes is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadFrame {
    /// We have offered no compression.
    #[error("a compressed message")]
    Compressed,
    #[error("a message of {0} bytes; {MAX_MESSAGE} are the most")]
    TooLarge(usize),
    #[error("the stream ends inside a message")]
    Truncated,
}

impl Deframer {
    /// Takes from `data` up to the end of a message, and returns that.
    pub(crate) fn push(&mut self, data: &mut &[u8]) -> Result<Option<Message>, BadFrame> {
        if self.got < PREFIX {
            let taken = take(data, PREFIX - self.got);
            self.prefix[self.got..][..taken.len()].copy_from_slice(taken);
            self.got += taken.len();
            if self.got < PREFIX {
                return Ok(None);
            }
            self.begin()?;
        }
        let taken = take(data, self.length - self.message.len());
        self.message.0.extend_from_slice(taken);
        if self.message.len() < self.length {
            return Ok(None);
        }
        self.got = 0;
        Ok(Some(std::mem::take(&mut self.message)))
    }

    /// The stream has ended.
    pub(crate) fn finish(&self) -> Result<(), BadFrame> {
        match self.got {
            0 => Ok(()),
            _ => Err(BadFrame::Truncated),
        }
    }

    fn begin(&mut self) -> Result<(), BadFrame> {
        let [compressed, length @ ..] = self.prefix;
        if compressed != 0 {
            return Err(BadFrame::Compressed);
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_MESSAGE {
            return Err(BadFrame::TooLarge(length));
        }
        self.length = length;
        // All of it at once: a message that grows leaves copies behind.
        self.message = Message(Zeroizing::new(Vec::with_capacity(length)));
        Ok(())
    }
}

fn take<'a>(data: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(most.min(data.len()));
    *data = rest;
    taken
}

/// How a call has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: u32,
    text: Box<str>,
}

impl Status {
    pub(crate) const OK: u32 = 0;
    pub(crate) const INVALID_ARGUMENT: u32 = 3;
    pub(crate) const PERMISSION_DENIED: u32 = 7;
    pub(crate) const UNIMPLEMENTED: u32 = 12;

    /// `None`: there is none, or none that can be read.
    pub(crate) fn of(fields: &Fields) -> Option<Self> {
        let code = std::str::from_utf8(fields.get(&GRPC_STATUS)?).ok()?;
        let text = fields.get(&GRPC_MESSAGE).unwrap_or_default();
        Some(Self {
            code: code.parse().ok()?,
            text: decode(&text[..text.len().min(MAX_TEXT)]),
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match camel_name(self.code) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "status {}", self.code)?,
        }
        match &*self.text {
            "" => Ok(()),
            text => write!(f, ": {text}"),
        }
    }
}

/// The text of `grpc-message`, percent-decoded, and fit for a line of a log.
fn decode(encoded: &[u8]) -> Box<str> {
    String::from_utf8_lossy(&hex::decoded(encoded))
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        [&[0][..], &length.to_be_bytes(), message].concat()
    }

    #[test]
    fn messages_are_put_together() {
        let sent = [framed(b"one"), framed(b""), framed(&[7; 1000])].concat();
        for size in [1, 2, 4, 5, 6, 7, 400, 2000] {
            let mut deframer = Deframer::default();
            let mut got = Vec::new();
            for mut piece in sent.chunks(size) {
                while let Some(message) = deframer.push(&mut piece).unwrap() {
                    got.push(message.to_vec());
                }
                assert!(piece.is_empty());
            }
            assert_eq!(got, [b"one".to_vec(), vec![], vec![7; 1000]], "by {size}");
            assert_eq!(deframer.finish(), Ok(()));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let push = |mut data: &[u8]| Deframer::default().push(&mut data).err().unwrap();
        assert_eq!(push(b"\x01\0\0\0\x01a"), BadFrame::Compressed);
        assert_eq!(push(b"\0\0\x40\0\x01"), BadFrame::TooLarge(MAX_MESSAGE + 1));
        let mut deframer = Deframer::default();
        assert!(deframer.push(&mut &b"\0\0\0\0\x02a"[..]).is_ok());
        assert_eq!(deframer.finish(), Err(BadFrame::Truncated));
    }

    #[test]
    fn a_status_is_a_line() {
        let status = |code: &str, text: &str| {
            let fields = [("grpc-status", code), ("grpc-message", text)];
            Status::of(&Fields::from_iter(fields)).map(|status| status.to_string())
        };
        let denied = status("7", "no identity issued").unwrap();
        assert_eq!(denied, "PermissionDenied: no identity issued");
        let odd = status("99", "50%25 %C3%BC%0A%zz%4").unwrap();
        assert_eq!(odd, "status 99: 50% ü %zz%4");
        assert_eq!(status("14", "").unwrap(), "Unavailable");
        assert_eq!(status("x", ""), None);
        assert!(status("2", &"%41".repeat(1000)).unwrap().len() < 2 * MAX_TEXT);
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_no_harm(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..10),
        ) {
            let mut deframer = Deframer::default();
            for piece in &pieces {
                let mut piece = &piece[..];
                while !piece.is_empty() {
                    if deframer.push(&mut piece).is_err() {
                        return Ok(());
                    }
                }
            }
            let _ = deframer.finish();
        }
    }
}

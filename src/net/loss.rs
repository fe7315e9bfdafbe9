//! How a connection was lost, as far as its stream can tell: small enough to be kept with every
//! stream of it.

use std::{error::Error, fmt, io};

use super::tls::Cut;
use crate::tls::{Fault, FaultKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The peer closed it.
    Closed,
    Failed(io::ErrorKind),
    /// We ended it: a certificate, or the trust that it was made with, has come to its end.
    Rotated,
    /// TLS broke, or the peer ended it with an alert.
    Tls(FaultKind),
}

impl Loss {
    /// Of a read or write that failed, in the poll in which it did.
    pub fn of(error: &io::Error) -> Self {
        if Cut::is_in(error) {
            return Self::Rotated;
        }
        match Fault::of_io(error) {
            Some(fault) => Self::Tls(fault.kind()),
            None => Self::Failed(error.kind()),
        }
    }

    /// The same error, by the stable name of what TLS has to say in it.
    pub fn tell(self, error: io::Error) -> Box<dyn Error + Send + Sync> {
        match self {
            Self::Tls(kind) => format!("{kind}: {error}").into(),
            _ => error.into(),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was closed"),
            Self::Failed(kind) => kind.fmt(f),
            Self::Rotated => Cut.fmt(f),
            Self::Tls(kind) => write!(f, "TLS: {kind}"),
        }
    }
}

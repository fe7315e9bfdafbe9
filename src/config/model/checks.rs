//! What Pillion asks the endpoints of an upstream by itself.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use serde::{Serialize, Serializer};

use super::{display, duration};

/// A question that every endpoint is asked over and over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    #[serde(flatten)]
    pub question: Question,
    /// Another port than the endpoint's own.
    pub port: Option<u16>,
    /// From the begin of one check to that of the next.
    #[serde(serialize_with = "duration")]
    pub interval: Duration,
    /// For all of it, connecting included.
    #[serde(serialize_with = "duration")]
    pub timeout: Duration,
    /// Failures in a row that take a healthy endpoint out.
    pub unhealthy_threshold: u32,
    /// Successes in a row that bring it back.
    pub healthy_threshold: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Question {
    Http(HttpQuestion),
    /// Whether it takes a connection.
    Tcp,
    Grpc {
        /// Empty: the server as a whole.
        service: Arc<str>,
        /// `None`: as the endpoint was found.
        host: Option<Arc<str>>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpQuestion {
    #[serde(serialize_with = "display")]
    pub method: Method,
    /// With its query.
    pub path: Arc<str>,
    /// `None`: as the endpoint was found.
    pub host: Option<Arc<str>>,
    pub expected_statuses: Vec<StatusRange>,
}

/// First and last status of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    pub first: u16,
    pub last: u16,
}

impl Question {
    pub const NAMES: [&str; 3] = ["http", "tcp", "grpc"];

    /// The type, as the configuration, metrics and `GET /upstreams` have it.
    pub const fn name(&self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// Position in [`Question::NAMES`].
    pub const fn index(&self) -> usize {
        match self {
            Self::Http(_) => 0,
            Self::Tcp => 1,
            Self::Grpc { .. } => 2,
        }
    }
}

impl HttpQuestion {
    /// Whether a healthy endpoint answers so.
    pub fn expects(&self, status: StatusCode) -> bool {
        let status = status.as_u16();
        let mut ranges = self.expected_statuses.iter();
        ranges.any(|range| (range.first..=range.last).contains(&status))
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            self.first.serialize(serializer)
        } else {
            serializer.collect_str(&format_args!("{}-{}", self.first, self.last))
        }
    }
}

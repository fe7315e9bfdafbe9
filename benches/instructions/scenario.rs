//! What is counted, and the scripts of both sides.

use futures_util::future::join_all;

use crate::{h1, h2, tcp};

/// Each message has a body of this size, where it has one.
const SMALL: usize = 1024;
const LARGE: usize = 1024 * 1024;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What one count is for.
    pub(crate) unit: &'static str,
    pub(crate) what: What,
    /// Turns before counting begins, and while it lasts.
    pub(crate) warm: usize,
    pub(crate) turns: usize,
    /// Units in one turn.
    pub(crate) units: usize,
}

pub(crate) enum What {
    /// Whole exchanges through a worker.
    Exchange(Exchange),
    /// Only the search, among so many routes and so many endpoints.
    Match(usize),
}

pub(crate) struct Exchange {
    pub(crate) listener: Front,
    pub(crate) upstream: Back,
    /// Clients that ask at the same time, each on a connection of its own.
    pub(crate) clients: usize,
    pub(crate) setting: Setting,
}

/// What lies between the client and the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// A listener with an upstream.
    Plain,
    /// Two proxies with mTLS between them: both are listeners of the one worker.
    Paired,
    /// A rule that says nothing: what guards its requests is on.
    Guarded,
    /// The same rule with all of it off: retries, timeouts, breaker, ejection.
    Bare,
    /// As plain, and nothing is told of requests: no metrics.
    Untold,
    /// As plain, with traces of which this share is sampled.
    Traced(&'static str),
}

/// What clients speak.
#[derive(Clone, Copy)]
pub(crate) enum Front {
    /// One request a turn.
    Http1 { sends: usize, gets: usize },
    /// A turn is so many streams, begun in one write.
    Http2 { streams: usize, script: h2::Script },
    /// A turn is a connection: opened, some bytes there and back, closed.
    Tcp,
}

/// What the upstream speaks.
#[derive(Clone, Copy)]
pub(crate) enum Back {
    Http1 { gets: usize, sends: usize },
    Http2(h2::Script),
    Tcp,
}

pub(crate) const SCENARIOS: [Scenario; 18] = [
    h1("h1-h1", Setting::Plain),
    Scenario {
        name: "h2-h1",
        unit: "request",
        what: What::Exchange(Exchange {
            listener: Front::Http2 {
                streams: 16,
                script: h2::Script::Get { body: SMALL },
            },
            upstream: Back::Http1 {
                gets: 0,
                sends: SMALL,
            },
            clients: 1,
            setting: Setting::Plain,
        }),
        warm: 8,
        turns: 64,
        units: 16,
    },
    Scenario {
        name: "h1-h2",
        unit: "request",
        what: What::Exchange(Exchange {
            listener: Front::Http1 {
                sends: 0,
                gets: SMALL,
            },
            upstream: Back::Http2(h2::Script::Get { body: SMALL }),
            clients: 16,
            setting: Setting::Plain,
        }),
        warm: 8,
        turns: 32,
        units: 16,
    },
    grpc("grpc", Setting::Plain),
    h1("h1-guarded", Setting::Guarded),
    h1("h1-bare", Setting::Bare),
    h1("h1-untold", Setting::Untold),
    h1("h1-unsampled", Setting::Traced("0%")),
    h1("h1-traced", Setting::Traced("100%")),
    grpc("grpc-guarded", Setting::Guarded),
    grpc("grpc-bare", Setting::Bare),
    Scenario {
        name: "download",
        unit: "64 KiB",
        what: What::Exchange(Exchange {
            listener: Front::Http1 {
                sends: 0,
                gets: LARGE,
            },
            upstream: Back::Http1 {
                gets: 0,
                sends: LARGE,
            },
            clients: 1,
            setting: Setting::Plain,
        }),
        warm: 4,
        turns: 32,
        units: LARGE / (64 * 1024),
    },
    Scenario {
        name: "upload",
        unit: "64 KiB",
        what: What::Exchange(Exchange {
            listener: Front::Http1 {
                sends: LARGE,
                gets: 0,
            },
            upstream: Back::Http1 {
                gets: LARGE,
                sends: 0,
            },
            clients: 1,
            setting: Setting::Plain,
        }),
        warm: 4,
        turns: 32,
        units: LARGE / (64 * 1024),
    },
    Scenario {
        name: "tcp",
        unit: "connection",
        what: What::Exchange(Exchange {
            listener: Front::Tcp,
            upstream: Back::Tcp,
            clients: 8,
            setting: Setting::Plain,
        }),
        warm: 8,
        turns: 32,
        units: 8,
    },
    Scenario {
        name: "pair",
        unit: "request",
        what: What::Exchange(Exchange {
            listener: Front::Http1 {
                sends: 0,
                gets: SMALL,
            },
            upstream: Back::Http1 {
                gets: 0,
                sends: SMALL,
            },
            clients: 16,
            setting: Setting::Paired,
        }),
        warm: 8,
        turns: 32,
        units: 16,
    },
    Scenario {
        name: "pair-down",
        unit: "64 KiB",
        what: What::Exchange(Exchange {
            listener: Front::Http1 {
                sends: 0,
                gets: LARGE,
            },
            upstream: Back::Http1 {
                gets: 0,
                sends: LARGE,
            },
            clients: 1,
            setting: Setting::Paired,
        }),
        warm: 4,
        turns: 16,
        units: LARGE / (64 * 1024),
    },
    Scenario {
        name: "match-10",
        unit: "search",
        what: What::Match(10),
        warm: 256,
        turns: 1024,
        units: 1,
    },
    Scenario {
        name: "match-10k",
        unit: "search",
        what: What::Match(10_000),
        warm: 256,
        turns: 1024,
        units: 1,
    },
];

/// Small responses, HTTP/1.1 on both sides.
const fn h1(name: &'static str, setting: Setting) -> Scenario {
    Scenario {
        name,
        unit: "request",
        what: What::Exchange(Exchange {
            listener: Front::Http1 {
                sends: 0,
                gets: SMALL,
            },
            upstream: Back::Http1 {
                gets: 0,
                sends: SMALL,
            },
            clients: 16,
            setting,
        }),
        warm: 8,
        turns: 32,
        units: 16,
    }
}

/// Calls, HTTP/2 on both sides.
const fn grpc(name: &'static str, setting: Setting) -> Scenario {
    Scenario {
        name,
        unit: "call",
        what: What::Exchange(Exchange {
            listener: Front::Http2 {
                streams: 16,
                script: h2::Script::Grpc,
            },
            upstream: Back::Http2(h2::Script::Grpc),
            clients: 1,
            setting,
        }),
        warm: 8,
        turns: 64,
        units: 16,
    }
}

/// One client, between two turns.
pub(crate) enum Client {
    Http1(h1::Client),
    Http2(Box<h2::Client>),
    Tcp(tcp::Client),
}

/// So many turns of every client, side by side.
pub(crate) async fn play(clients: &mut [Client], turns: usize) {
    join_all(clients.iter_mut().map(async |client| {
        for _ in 0..turns {
            match client {
                Client::Http1(client) => client.turn().await,
                Client::Http2(client) => client.turn().await,
                Client::Tcp(client) => client.turn().await,
            }
        }
    }))
    .await;
}

//! Latency under a load that does not wait for answers. Requests are due on a fixed schedule; each
//! takes the first idle connection, or waits in line for one, and its latency counts from when it was
//! due. A proxy that stalls is so charged for everybody who would have come meanwhile: no coordinated
//! omission.
//!
//! Arguments: address, path, requests a second, seconds, connections. Prints JSON, microseconds.

use std::{
    collections::VecDeque,
    env,
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::set_current_timer_slack,
};
use tokio::time::Instant;

/// The size of a response is known from the first one on.
const ROOM: usize = 64 * 1024;
/// What is under way at the end gets this long.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> io::Result<()> {
    println!("{}", run()?);
    Ok(())
}

fn run() -> io::Result<serde_json::Value> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [address, path, rate, seconds, connections] = &arguments[..] else {
        return Err(io::Error::other(
            "usage: openloop ADDRESS PATH RATE SECONDS CONNECTIONS",
        ));
    };
    let rate: f64 = rate.parse().map_err(io::Error::other)?;
    let seconds: f64 = seconds.parse().map_err(io::Error::other)?;
    let connections: usize = connections.parse().map_err(io::Error::other)?;
    // Timers go off when they are due, not 50 microseconds later.
    set_current_timer_slack(Some(std::num::NonZero::<u64>::MIN))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench.local\r\n\r\n");
    let mut load = Load {
        lines: (0..connections)
            .map(|_| Line::open(address))
            .collect::<io::Result<_>>()?,
        idle: (0..connections).collect(),
        waiting: VecDeque::new(),
        latencies: Vec::with_capacity((rate * seconds) as usize + 1),
        request: request.into_bytes(),
        room: vec![0; ROOM],
    };
    load.play(rate, (rate * seconds) as usize)?;
    Ok(load.report())
}

struct Load {
    lines: Vec<Line>,
    /// Connections with nothing under way; the one that is idle for the longest comes first.
    idle: VecDeque<usize>,
    /// When those were due for which there was no connection yet.
    waiting: VecDeque<Instant>,
    latencies: Vec<Duration>,
    request: Vec<u8>,
    room: Vec<u8>,
}

/// One connection, with at most one request under way.
struct Line {
    stream: TcpStream,
    due: Option<Instant>,
    got: Vec<u8>,
    /// Bytes of the whole response, once its head is there.
    whole: Option<usize>,
}

impl Load {
    fn play(&mut self, rate: f64, count: usize) -> io::Result<()> {
        let start = Instant::now();
        let due = |number: usize| start + Duration::from_secs_f64(number as f64 / rate);
        let end = due(count) + PATIENCE;
        let mut next = 0;
        while self.latencies.len() < count {
            let now = Instant::now();
            if now > end {
                return Err(io::Error::other(format!(
                    "{} of {count} requests unanswered {PATIENCE:?} after the last was due",
                    count - self.latencies.len()
                )));
            }
            while next < count && due(next) <= now {
                self.waiting.push_back(due(next));
                next += 1;
            }
            self.send()?;
            let until = if next < count { due(next) } else { end };
            self.receive(until.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        while let (Some(&number), Some(&due)) = (self.idle.front(), self.waiting.front()) {
            self.idle.pop_front();
            self.waiting.pop_front();
            let line = &mut self.lines[number];
            line.due = Some(due);
            // A request this small always fits into the socket's buffer.
            line.stream.write_all(&self.request)?;
        }
        Ok(())
    }

    /// Waits for answers, at most so long, and takes those that are there.
    fn receive(&mut self, limit: Duration) -> io::Result<()> {
        let limit = Timespec {
            tv_sec: limit.as_secs().try_into().map_err(io::Error::other)?,
            tv_nsec: limit.subsec_nanos().into(),
        };
        let ready: Vec<usize> = {
            let mut sockets: Vec<_> = self
                .lines
                .iter()
                .map(|line| PollFd::new(&line.stream, PollFlags::IN))
                .collect();
            poll(&mut sockets, Some(&limit))?;
            let is_ready = |number: &usize| !sockets[*number].revents().is_empty();
            (0..sockets.len()).filter(is_ready).collect()
        };
        for number in ready {
            let line = &mut self.lines[number];
            if line.read(&mut self.room)? {
                let due = line
                    .due
                    .take()
                    .ok_or_else(|| io::Error::other("an answer to nothing"))?;
                self.latencies.push(due.elapsed());
                self.idle.push_back(number);
            }
        }
        Ok(())
    }

    fn report(&mut self) -> serde_json::Value {
        self.latencies.sort_unstable();
        // The smallest latency that so large a share of the requests did not exceed.
        let at = |share: f64| {
            let rank = (share * self.latencies.len() as f64).ceil() as usize;
            self.latencies[rank.saturating_sub(1)].as_nanos() as f64 / 1000.0
        };
        serde_json::json!({
            "requests": self.latencies.len(),
            "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "most": at(1.0),
        })
    }
}

impl Line {
    fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            due: None,
            got: Vec::new(),
            whole: None,
        })
    }

    /// Takes what is there; `true` when the response is whole.
    fn read(&mut self, room: &mut [u8]) -> io::Result<bool> {
        let read = self.stream.read(room)?;
        if read == 0 {
            return Err(io::Error::other("the proxy closed a connection"));
        }
        self.got.extend_from_slice(&room[..read]);
        if self.whole.is_none() {
            self.whole = whole(&self.got)?;
        }
        match self.whole {
            Some(whole) if self.got.len() > whole => {
                Err(io::Error::other("more came than was asked for"))
            }
            Some(whole) if self.got.len() == whole => {
                self.got.clear();
                self.whole = None;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// Bytes of the response, once its head is there; only a 200 with a length is one.
fn whole(seen: &[u8]) -> io::Result<Option<usize>> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = response.parse(seen).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let length = response
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"))
        .and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok());
    match (response.code, length) {
        (Some(200), Some(length)) => Ok(Some(head + length)),
        _ => Err(io::Error::other(format!(
            "answered with {:?}",
            String::from_utf8_lossy(&seen[..head])
        ))),
    }
}

//! Whether a failed attempt may be followed by another, and when.
//!
//! Guards an application against seeing a request twice that it must see once, and an upstream
//! that fails against a storm of requests that fail again. A failure is *classed* by what it proves
//! of the request: that decides, not which failure it was.

use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::{
    config::model::{Idempotent, Retry},
    error::{Error, Reason, Replay},
    http::{fields::Fields, grpc, message::RequestHead, name},
    upstream::Verdict,
};

/// What a failed attempt proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing of the request left this process.
    NeverSent,
    /// The upstream said that it has not processed it (RFC 9113 section 8.7).
    Refused,
    /// A kept-alive connection ended before a byte of response: most likely it was being closed as
    /// the request was written (RFC 9112 section 9.3.1).
    Raced,
    /// It may have been acted on.
    Perhaps,
    /// Nothing that another attempt would mend: a limit of ours, a client that broke off.
    Final,
}

impl Class {
    pub fn of(error: &Error) -> Self {
        match (error.replay, error.reason) {
            (Replay::NeverSent, reason) if is_unreachable(reason) => Self::NeverSent,
            // No descriptor or port was left to connect: another endpoint may have a connection.
            (Replay::NeverSent, Reason::Overloaded) => Self::NeverSent,
            (Replay::Refused, _) => Self::Refused,
            (Replay::Reused, _) => Self::Raced,
            // What breaks the protocol would break it again.
            (
                Replay::Unsafe,
                Reason::UpstreamClosed | Reason::UpstreamReset | Reason::AttemptTimeout,
            ) => Self::Perhaps,
            _ => Self::Final,
        }
    }

    /// Whether another attempt can't make an application see the request twice, or may.
    pub fn allows(self, idempotent: bool) -> bool {
        match self {
            Self::NeverSent | Self::Refused => true,
            Self::Raced | Self::Perhaps => idempotent,
            Self::Final => false,
        }
    }
}

/// No connection could be made, or none that is trusted. A limit of ours is no such thing: it
/// would be in the way of another attempt too.
fn is_unreachable(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::UpstreamCertificate
            | Reason::UpstreamTls
            | Reason::UpstreamTlsAlert
            // It was closed between the look at it and its use.
            | Reason::UpstreamClosed
    )
}

/// What a failure says of the endpoint; `None`: nothing, as where a limit of ours was reached or the
/// client broke off.
pub fn verdict(error: &Error) -> Option<Verdict> {
    match (error.replay, error.reason) {
        // Lost by chance.
        (Replay::Reused, _) | (Replay::NeverSent, Reason::UpstreamClosed) => None,
        (Replay::NeverSent, reason) => is_unreachable(reason).then_some(Verdict::Unreachable),
        // It may refuse what is one too many: that is for the balancer.
        (Replay::Refused, _) => Some(Verdict::Neutral),
        (
            Replay::Unsafe,
            Reason::UpstreamClosed
            | Reason::UpstreamReset
            | Reason::UpstreamProtocol
            | Reason::UpstreamHeadTooLarge
            | Reason::UpstreamTlsAlert
            | Reason::AttemptTimeout,
        ) => Some(Verdict::Failure),
        _ => None,
    }
}

/// What a response's status says of the endpoint.
pub fn verdict_of_status(status: StatusCode) -> Verdict {
    match status.as_u16() {
        500 | 502..=504 => Verdict::Failure,
        429 => Verdict::Neutral,
        _ => Verdict::Success,
    }
}

/// The same of a gRPC status.
pub fn verdict_of_grpc(code: u8) -> Verdict {
    match code {
        grpc::UNKNOWN | grpc::INTERNAL | grpc::UNAVAILABLE | grpc::DATA_LOSS => Verdict::Failure,
        grpc::RESOURCE_EXHAUSTED => Verdict::Neutral,
        _ => Verdict::Success,
    }
}

/// Whether an application may see the request twice.
pub fn is_idempotent(policy: &Retry, head: &RequestHead, grpc: bool) -> bool {
    match policy.idempotent {
        Idempotent::Always => true,
        Idempotent::Never => false,
        Idempotent::ByMethod if grpc => false,
        Idempotent::ByMethod => {
            // RFC 9110 section 9.2.2, for the methods that it defines.
            head.method.is_idempotent() || head.fields.contains(&name::IDEMPOTENCY_KEY)
        }
    }
}

/// How long the upstream asks to be left alone, by what it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Not to be asked again at all.
    Never,
    Wait(Duration),
}

/// `Retry-After` (RFC 9110 section 10.2.3), or gRPC's push-back in milliseconds, where what is below
/// 0 or no number means never (gRFC A6).
pub fn asked(fields: &Fields, now: SystemTime) -> Option<Asked> {
    let text = |value| str::from_utf8(<[u8]>::trim_ascii(value)).unwrap_or_default();
    if let Some(value) = fields.get(&name::GRPC_RETRY_PUSHBACK_MS) {
        let wait = text(value).parse().map(Duration::from_millis);
        return Some(wait.map_or(Asked::Never, Asked::Wait));
    }
    let value = text(fields.get(&name::RETRY_AFTER)?);
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = httpdate::parse_http_date(value).ok()?;
            at.duration_since(now).unwrap_or_default()
        }
    };
    Some(Asked::Wait(wait))
}

/// All that decides whether a failed attempt is followed by another.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    pub class: Class,
    pub idempotent: bool,
    /// Attempts spent so far, by others on the way too.
    pub spent: u8,
    /// Whether the body can be sent again.
    pub has_body: bool,
    /// Whether an endpoint is left that was not tried.
    pub has_others: bool,
    pub asked: Option<Asked>,
    /// Until the deadline.
    pub left: Option<Duration>,
    /// Uniform over all its values.
    pub random: u32,
}

/// Why no attempt follows a failed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The application may have acted on the request, and must not see it twice.
    Unsafe,
    /// All attempts are spent.
    Attempts,
    /// Its body is no longer there.
    Body,
    /// The upstream asks to be left alone for too long.
    Asked,
    /// The deadline comes before the next attempt would.
    Deadline,
    /// The upstream's budget is spent.
    Budget,
    /// The upstream has as many retries in flight as it may.
    Limit,
}

impl Withheld {
    pub const ALL: [Self; 7] = [
        Self::Unsafe,
        Self::Attempts,
        Self::Body,
        Self::Asked,
        Self::Deadline,
        Self::Budget,
        Self::Limit,
    ];

    /// The metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsafe => "unsafe",
            Self::Attempts => "attempts",
            Self::Body => "body",
            Self::Asked => "asked",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
            Self::Limit => "limit",
        }
    }
}

/// How long to wait before the next attempt, or why there is none. Budget and limit are asked after
/// this: only who would use them takes of them.
pub fn decide(policy: &Retry, now: Situation) -> Result<Duration, Withheld> {
    if !now.class.allows(now.idempotent) {
        return Err(Withheld::Unsafe);
    }
    if now.spent >= policy.attempts {
        return Err(Withheld::Attempts);
    }
    if !now.has_body {
        return Err(Withheld::Body);
    }
    let wait = match (now.asked, now.class) {
        (Some(Asked::Never), _) => return Err(Withheld::Asked),
        (Some(Asked::Wait(wait)), _) if wait > policy.max_retry_after => {
            return Err(Withheld::Asked);
        }
        (Some(Asked::Wait(wait)), _) => wait,
        // The next connection is a fresh one.
        (None, Class::Raced) => Duration::ZERO,
        (None, Class::NeverSent | Class::Refused) if now.has_others => Duration::ZERO,
        _ => backoff(policy, now.spent, now.random),
    };
    if now.left.is_some_and(|left| left <= wait) {
        return Err(Withheld::Deadline);
    }
    Ok(wait)
}

/// The wait before retry `number`, counted from 1: `backoff`, doubled each time, up to the longest;
/// half of it fixed, half by chance, so that those who failed together don't come again together.
pub fn backoff(policy: &Retry, number: u8, random: u32) -> Duration {
    let doubled = 1_u32 << number.saturating_sub(1).min(16);
    let longest = policy
        .backoff
        .saturating_mul(doubled)
        .min(policy.max_backoff);
    let half = longest / 2;
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn error(reason: Reason, replay: Replay) -> Error {
        Error::new(reason, "").replay(replay)
    }

    #[test]
    fn only_what_is_proved_is_repeated() {
        let class = |reason, replay| Class::of(&error(reason, replay));
        for (reason, replay, unsafe_too, idempotent) in [
            (Reason::ConnectFailed, Replay::NeverSent, true, true),
            (Reason::Overloaded, Replay::NeverSent, true, true),
            (Reason::Overloaded, Replay::Unsafe, false, false),
            (Reason::UpstreamReset, Replay::Refused, true, true),
            (Reason::UpstreamClosed, Replay::Reused, false, true),
            (Reason::UpstreamReset, Replay::Unsafe, false, true),
            (Reason::AttemptTimeout, Replay::Unsafe, false, true),
            (Reason::RequestLimit, Replay::NeverSent, false, false),
            (Reason::RequestBodyIncomplete, Replay::Unsafe, false, false),
            (Reason::RequestTimeout, Replay::Unsafe, false, false),
        ] {
            let class = class(reason, replay);
            assert_eq!(class.allows(false), unsafe_too, "{reason}");
            assert_eq!(class.allows(true), idempotent, "{reason}");
        }
    }

    #[test]
    fn idempotent_by_method_by_key_by_route() {
        let head = |method: Method, key: bool| {
            let key = key.then_some(("Idempotency-Key", "7"));
            RequestHead {
                method,
                fields: key.into_iter().collect(),
                ..RequestHead::default()
            }
        };
        let by_method = Retry::default();
        assert!(is_idempotent(&by_method, &head(Method::PUT, false), false));
        assert!(!is_idempotent(
            &by_method,
            &head(Method::POST, false),
            false
        ));
        assert!(is_idempotent(&by_method, &head(Method::POST, true), false));
        assert!(!is_idempotent(&by_method, &head(Method::POST, false), true));
        let always = Retry {
            idempotent: Idempotent::Always,
            ..Retry::default()
        };
        assert!(is_idempotent(&always, &head(Method::POST, false), true));
        let never = Retry {
            idempotent: Idempotent::Never,
            ..Retry::default()
        };
        assert!(!is_idempotent(&never, &head(Method::GET, true), false));
    }

    #[test]
    fn waits_double_and_are_jittered_downwards() {
        let policy = Retry::default();
        let millis = |number, random| backoff(&policy, number, random).as_millis();
        assert_eq!((millis(1, 0), millis(1, u32::MAX)), (12, 25));
        assert_eq!((millis(2, 0), millis(2, u32::MAX)), (25, 50));
        assert_eq!((millis(9, 0), millis(200, u32::MAX)), (125, 250));
    }

    #[test]
    fn what_upstreams_ask_for() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_790);
        let asked = |name, value| asked(&Fields::from_iter([(name, value)]), now);
        let wait = |millis| Some(Asked::Wait(Duration::from_millis(millis)));
        assert_eq!(asked("retry-after", " 2 "), wait(2000));
        let date = "Fri, 31 Dec 1999 23:59:59 GMT";
        assert_eq!(asked("retry-after", date), wait(9000));
        assert_eq!(asked("retry-after", "soon"), None);
        assert_eq!(asked("grpc-retry-pushback-ms", "250"), wait(250));
        assert_eq!(asked("grpc-retry-pushback-ms", "-1"), Some(Asked::Never));
        assert_eq!(asked("x", "1"), None);
    }

    /// A request under chance, from its first attempt to the last: what an application may see, and
    /// when.
    #[test]
    fn no_unsafe_request_is_seen_twice_and_no_deadline_moves() {
        for seed in 0..5000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let policy = Retry {
                attempts: rng.u8(1..=10),
                backoff: Duration::from_millis(rng.u64(..300)),
                max_backoff: Duration::from_millis(300),
                ..Retry::default()
            };
            let idempotent = rng.bool();
            let deadline = rng.bool().then(|| Duration::from_millis(rng.u64(..2000)));
            let mut now = Duration::ZERO;
            let (mut attempts, mut seen) = (0, 0);
            loop {
                assert!(deadline.is_none_or(|at| now < at || attempts == 0));
                attempts += 1;
                now += Duration::from_millis(rng.u64(..100));
                let class = rng.choice([
                    Class::NeverSent,
                    Class::Refused,
                    Class::Raced,
                    Class::Perhaps,
                ]);
                let class = class.expect("there are four");
                seen += u32::from(matches!(class, Class::Raced | Class::Perhaps));
                let situation = Situation {
                    class,
                    idempotent,
                    spent: attempts,
                    has_body: rng.u8(..) > 20,
                    has_others: rng.bool(),
                    asked: None,
                    left: deadline.map(|at| at.saturating_sub(now)),
                    random: rng.u32(..),
                };
                match decide(&policy, situation) {
                    Ok(wait) => now += wait,
                    Err(_) => break,
                }
            }
            assert!(attempts <= policy.attempts, "seed {seed}");
            assert!(idempotent || seen <= 1, "seed {seed}: seen {seen} times");
        }
    }
}

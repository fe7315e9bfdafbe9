//! The watch as a whole: what is handed out, and when it asks again. Time stands still in these
//! tests but where everybody waits.

use std::time::Duration;

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout},
};

use super::{
    Authority, Identity,
    agent::{Agent, Answer},
    encode, message,
};
use crate::tls::workload::{State, Update, Workload};

const WEB: &str = "spiffe://d/web";
const OTHER: &str = "spiffe://d/other";

fn watch(agent: &Agent) -> Workload {
    Workload::watch(agent.socket.clone(), None)
}

fn name(update: &Update) -> &str {
    update.credential.leaf().spiffe.as_ref().unwrap().as_str()
}

/// The call, answered with one message.
async fn answered(agent: &Agent, message: &[u8]) -> Answer {
    let mut answer = agent.call().await;
    answer.begin().await;
    answer.message(message).await;
    answer
}

/// What went wrong, as soon as something has.
async fn trouble(workload: &Workload) -> String {
    let mut state = workload.state();
    let failed = |state: &State| state.last_error.is_some();
    let state = state.wait_for(failed).await.unwrap();
    state.last_error.as_ref().unwrap().text.to_string()
}

#[tokio::test(start_paused = true)]
async fn the_request_is_as_the_standard_wants_it() {
    let agent = Agent::start();
    let _workload = watch(&agent);
    let answer = agent.call().await;
    for line in [
        ":method: POST",
        ":path: /SpiffeWorkloadAPI/FetchX509SVID",
        "content-type: application/grpc",
        "te: trailers",
        "workload.spiffe.io: true",
    ] {
        assert!(answer.asked.iter().any(|other| other == line), "{line}");
    }
    assert_eq!(answer.body, [0; 5]);
}

#[tokio::test(start_paused = true)]
async fn what_is_good_is_handed_out() {
    let agent = Agent::start();
    let ca = Authority::new("ca");
    let mut workload = watch(&agent);
    assert!(!workload.state().borrow().has_identity());
    let first = ca.identity(WEB);
    let mut answer = answered(&agent, &message(&first, &ca)).await;
    let update = workload.next().await;
    assert_eq!(update.credential.chain()[0].as_ref(), first.chain);
    assert!(workload.state().borrow().has_identity());

    // Rotated, twice: what was overtaken is of no use any more.
    let (second, third) = (ca.identity(WEB), ca.identity(WEB));
    answer.message(&message(&second, &ca)).await;
    answer.message(&message(&third, &ca)).await;
    let chain = |update: Update| update.credential.chain()[0].to_vec();
    let mut got = chain(workload.next().await);
    if got == second.chain {
        got = chain(workload.next().await);
    }
    assert!(got == third.chain);
}

#[tokio::test(start_paused = true)]
async fn a_large_message_arrives() {
    let agent = Agent::start();
    let ca = Authority::new("ca");
    let mut workload = watch(&agent);
    let federated: Vec<u8> = (0..400)
        .flat_map(|number| encode::federated(&format!("d{number}"), &ca.der.repeat(5)))
        .collect();
    let large = [message(&ca.identity(WEB), &ca), federated].concat();
    assert!(large.len() > 500_000);
    let _answer = answered(&agent, &large).await;
    assert_eq!(workload.next().await.bundles.len(), 401);
}

#[tokio::test(start_paused = true)]
async fn a_bad_message_changes_nothing_and_is_asked_for_again() {
    let agent = Agent::start();
    let ca = Authority::new("ca");
    let mut workload = watch(&agent);
    let mut answer = answered(&agent, &message(&ca.identity(WEB), &ca)).await;
    workload.next().await;
    let (web, other) = (ca.identity(WEB), ca.identity(OTHER));
    let mixed = Identity {
        key: other.key,
        ..web
    };
    answer.message(&message(&mixed, &ca)).await;
    let start = Instant::now();
    assert!(trouble(&workload).await.contains("the key does not belong"));
    assert!(workload.state().borrow().has_identity());
    // Nothing came since, so that the call is ended and made anew.
    answer.closed().await;
    assert!(start.elapsed() >= Duration::from_secs(5));
    let _answer = answered(&agent, &message(&ca.identity(OTHER), &ca)).await;
    assert_eq!(name(&workload.next().await), OTHER);
    assert!(workload.state().borrow().last_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_better_message_comes_in_time() {
    let agent = Agent::start();
    let ca = Authority::new("ca");
    let mut workload = watch(&agent);
    let mut answer = answered(&agent, b"").await;
    assert_eq!(trouble(&workload).await, "there is no identity in it");
    answer.message(&message(&ca.identity(WEB), &ca)).await;
    workload.next().await;
    // It is the same call.
    answer.message(&message(&ca.identity(OTHER), &ca)).await;
    assert_eq!(name(&workload.next().await), OTHER);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_goes_is_asked_when_it_is_back() {
    let mut agent = Agent::absent();
    let ca = Authority::new("ca");
    let mut workload = watch(&agent);
    assert!(trouble(&workload).await.starts_with("cannot connect: "));
    agent.appear();
    let known = message(&ca.identity(WEB), &ca);
    let answer = answered(&agent, &known).await;
    workload.next().await;
    let start = Instant::now();
    drop(answer);
    assert!(
        trouble(&workload)
            .await
            .starts_with("the connection broke: ")
    );
    // It says what it said before, which is no news.
    let mut answer = answered(&agent, &known).await;
    assert!(start.elapsed() <= Duration::from_secs(2));
    let mut state = workload.state();
    let well = |state: &State| state.last_error.is_none();
    state.wait_for(well).await.unwrap();
    let soon = Duration::from_secs(60);
    assert!(timeout(soon, workload.next()).await.is_err());
    answer.end("14", "shutting down").await;
    let text = trouble(&workload).await;
    assert_eq!(text, "the call ended: Unavailable: shutting down");
    let _answer = answered(&agent, &message(&ca.identity(WEB), &ca)).await;
    workload.next().await;
}

#[tokio::test(start_paused = true)]
async fn a_no_is_taken_for_an_answer_and_asked_again_slowly() {
    let agent = Agent::start();
    let ca = Authority::new("ca");
    let mut workload = watch(&agent);
    for round in 0..3 {
        let mut answer = agent.call().await;
        // As most servers say it: in the head, since there is nothing else.
        answer
            .head(true, |block| {
                block.field(b":status", b"200");
                block.field(b"content-type", b"application/grpc");
                block.field(b"grpc-status", b"7");
                block.field(b"grpc-message", b"no identity issued");
            })
            .await;
        assert_eq!(
            trouble(&workload).await,
            "no identity is registered for this workload: PermissionDenied: no identity issued",
            "round {round}"
        );
    }
    let start = Instant::now();
    let _answer = answered(&agent, &message(&ca.identity(WEB), &ca)).await;
    assert!(start.elapsed() >= Duration::from_secs(15));
    workload.next().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_named() {
    let with = |status: &'static [u8], kind: &'static [u8]| async move {
        let agent = Agent::start();
        let workload = watch(&agent);
        let mut answer = agent.call().await;
        let fields = |block: &mut crate::http::h2::send::Block<'_>| {
            block.field(b":status", status);
            block.field(b"content-type", kind);
        };
        answer.head(false, fields).await;
        trouble(&workload).await
    };
    let unavailable = with(b"503", b"text/plain").await;
    assert_eq!(
        unavailable,
        "the answer has the HTTP status 503 Service Unavailable"
    );
    assert_eq!(with(b"200", b"text/html").await, "the answer is not gRPC");

    let content = |content: &'static [u8]| async move {
        let agent = Agent::start();
        let workload = watch(&agent);
        let mut answer = agent.call().await;
        answer.begin().await;
        answer.content(content).await;
        answer.end("0", "").await;
        trouble(&workload).await
    };
    let cannot = "the answer cannot be read: ";
    let compressed = content(b"\x01\0\0\0\x01a").await;
    assert_eq!(compressed, format!("{cannot}a compressed message"));
    let endless = content(b"\0\xff\xff\xff\xff").await;
    assert!(endless.contains("4294967295 bytes"));
    let cut = content(b"\0\0\0\0\x09abc").await;
    assert_eq!(cut, format!("{cannot}the stream ends inside a message"));
    assert_eq!(content(b"").await, "the call ended: OK");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http2_is_named() {
    let agent = Agent::start();
    let workload = watch(&agent);
    let mut other = agent.connection().await;
    other
        .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let text = trouble(&workload).await;
    assert!(text.starts_with("the connection broke: "), "{text}");

    let agent = Agent::start();
    let workload = watch(&agent);
    let mut answer = agent.call().await;
    answer.begin().await;
    answer.raw(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0").await;
    let text = trouble(&workload).await;
    assert!(text.starts_with("the connection broke: "), "{text}");
}

#[tokio::test(start_paused = true)]
async fn hostile_bytes_do_no_harm() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let agent = Agent::start();
        let workload = watch(&agent);
        let mut answer = agent.call().await;
        if rng.bool() {
            answer.begin().await;
        }
        for _ in 0..rng.usize(1..20) {
            let mut payload = vec![0; rng.usize(..30)];
            rng.fill(&mut payload);
            let header = [0, 0, payload.len() as u8, rng.u8(..10), rng.u8(..)];
            answer.raw(&header).await;
            answer.raw(&[0, 0, 0, rng.u8(..3)]).await;
            answer.raw(&payload).await;
        }
        drop(answer);
        trouble(&workload).await;
        assert!(!workload.state().borrow().has_identity());
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_is_left() {
    let agent = Agent::start();
    let workload = watch(&agent);
    let start = Instant::now();
    let _answer = agent.call().await;
    assert_eq!(trouble(&workload).await, "no answer within 30s");
    assert!(start.elapsed() >= Duration::from_secs(30));
    let _again = agent.call().await;
}

#[tokio::test(start_paused = true)]
async fn silence_is_usual_and_death_is_noticed() {
    let agent = Agent::start();
    let ca = Authority::new("ca");
    let mut workload = watch(&agent);
    let answer = answered(&agent, &message(&ca.identity(WEB), &ca)).await;
    workload.next().await;
    // It answers PINGs, for hours.
    let day = Duration::from_secs(24 * 3600);
    let mut silent = Box::pin(answer.closed());
    assert!(timeout(day, &mut silent).await.is_err());
    assert!(workload.state().borrow().last_error.is_none());
    drop(silent);

    let mut answer = answered(&agent, &message(&ca.identity(WEB), &ca)).await;
    answer.message(&message(&ca.identity(WEB), &ca)).await;
    workload.next().await;
    // Now it hangs.
    let start = Instant::now();
    let text = trouble(&workload).await;
    assert_eq!(text, "the connection broke: the peer answers no PING");
    assert!(start.elapsed() < Duration::from_secs(15 * 60));
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_for_nothing() {
    let agent = Agent::start();
    let workload = watch(&agent);
    let answer = agent.call().await;
    drop(workload);
    answer.closed().await;
}

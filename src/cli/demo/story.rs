//! What happens, step by step.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    Result, Trouble,
    application::{HELLO, PIECES, SLOW},
    client::Client,
    configuration::{ONLY_STABLE, WITH_CANARY, WITH_MISTAKE},
    console::Console,
    stage::Stage,
};

/// Requests of one burst.
const BURST: usize = 40;

/// An endpoint that is well again is found within this; in fact within a second or two.
const RECOVERY: Duration = Duration::from_secs(10);

/// Shown first: who sends what to whom.
pub(super) fn prologue(console: &Console) {
    console.title("Pillion on loopback: a client, an ambassador, a sidecar, an application");
    console
        .line("\n   client ─HTTP/1.1─► ambassador ─mutual TLS─► sidecar ─HTTP/1.1─► application");
}

/// From the start of everybody to what can be repeated as often as one likes.
pub(super) async fn begin(console: &mut Console) -> Result<Stage> {
    console.step("Start");
    let mut stage = Stage::set(console).await?;
    console.step("Requests");
    requests(&mut stage, console).await?;
    console.step("An endpoint fails");
    endpoint_fails(&mut stage, console).await?;
    console.step("Reload");
    reload(&mut stage, console).await?;
    console.step("Certificates");
    rotate(&mut stage, console).await?;
    Ok(stage)
}

async fn requests(stage: &mut Stage, console: &Console) -> Result<()> {
    let tally = stage.requests(BURST, console).await?;
    console.ok(tally);

    stage.requests += 1;
    let answer = match stage.client.get(HELLO).await {
        Ok(answer) => answer,
        Err(failure) => return Err(stage.only_failed(HELLO, &failure, console)),
    };
    let id = &answer.request_id;
    console.ok(format_args!(
        "one more, as both access logs tell it by its id {id}:"
    ));
    console.show(format_args!("response    {}", answer.body.trim_end()));
    for plane in [&mut stage.ambassador, &mut stage.sidecar] {
        let line = plane.access(id).await?;
        console.show(format_args!("{:<10}  {}", plane.name, Access(&line)));
    }
    Ok(())
}

async fn endpoint_fails(stage: &mut Stage, console: &Console) -> Result<()> {
    if std::env::var_os("PILLION_DEMO_BREAK").is_some_and(|value| !value.is_empty()) {
        stage.application.stop().await?;
        console.act("PILLION_DEMO_BREAK: the whole application is stopped.");
    } else {
        stage.application.blue.stop().await?;
        console.act("blue is stopped: its connections are cut, new ones refused.");
    }
    let tally = stage.requests(BURST, console).await?;
    expect(tally.blue == 0 && tally.red == BURST, &tally)?;
    console.ok(tally);

    stage.application.blue.start()?;
    console.act("blue is started again.");
    let since = Instant::now();
    // Its breaker is open: from time to time one request is let through to find out.
    loop {
        let tally = stage.requests(1, console).await?;
        if tally.blue > 0 {
            break;
        }
        expect(since.elapsed() < RECOVERY, &tally)?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = since.elapsed().as_millis();
    console.ok(format_args!("one request found out after {took} ms"));
    let tally = stage.requests(BURST, console).await?;
    expect(tally.blue > 0, &tally)?;
    console.ok(tally);
    Ok(())
}

async fn reload(stage: &mut Stage, console: &Console) -> Result<()> {
    console.act("The sidecar's file is saved with one line changed:");
    console.show(format_args!("- backendRefs: {ONLY_STABLE}"));
    console.show(format_args!("+ backendRefs: {WITH_CANARY}"));
    let (line, took) = stage
        .sidecar
        .save(&stage.application.sidecar(WITH_CANARY))
        .await?;
    expect(is_accepted(&line), &line)?;
    console.ok(format_args!(
        "in force after {} ms, as generation {}",
        took.as_millis(),
        line["generation"]
    ));
    let tally = stage.requests(2 * BURST, console).await?;
    expect(tally.green > 0, &tally)?;
    console.ok(tally);

    console.act("Saved with a mistake, it is refused:");
    let (line, _) = stage
        .sidecar
        .save(&stage.application.sidecar(WITH_MISTAKE))
        .await?;
    expect(!is_accepted(&line), &line)?;
    let problems = line["problems"].as_str().unwrap_or_default();
    // Without the folder's name, which says nothing.
    let folder = format!("{}/", stage.folder.path().display());
    console.show(problems.replace(&folder, ""));
    let tally = stage.requests(BURST, console).await?;
    expect(tally.green > 0, &tally)?;
    console.ok(format_args!(
        "generation {} serves on: {tally}",
        line["generation"]
    ));

    Ok(())
}

async fn rotate(stage: &mut Stage, console: &Console) -> Result<()> {
    stage.renew()?;
    console.act("Both get another certificate and key; both files are replaced, nobody is told:");
    for plane in [&mut stage.ambassador, &mut stage.sidecar] {
        let identity = plane.rotated().await?;
        console.show(format_args!("{:<10}  {identity}", plane.name));
    }
    let tally = stage.requests(BURST, console).await?;
    console.ok(tally);

    match stage.client.connections {
        1 => console.ok("all of it over the one connection that the client opened first"),
        opened => {
            return Err(Trouble::Step(format!(
                "the client had to connect {opened} times"
            )));
        }
    }
    Ok(())
}

fn is_accepted(line: &Value) -> bool {
    line["message"] == "configuration accepted"
}

/// With `--stay`: what there is to look at.
pub(super) fn invite(stage: &Stage, console: &Console) {
    let Stage {
        ambassador,
        sidecar,
        ..
    } = stage;
    console.line("");
    console.title("All of it stays until ctrl-C. Try meanwhile:");
    console.line(format_args!(
        "  curl http://{}{HELLO}
  curl http://{}/upstreams
  curl http://{}/metrics
  edit {}",
        ambassador.address,
        sidecar.admin,
        ambassador.admin,
        sidecar.file.display()
    ));
}

/// The drain, until nobody is left. Says how many requests there were.
pub(super) async fn leave(mut stage: Stage, console: &mut Console) -> Result<usize> {
    console.step("Drain");
    stage.requests += 1;
    let begun = match stage.client.begin(SLOW).await {
        Ok(begun) => begun,
        Err(failure) => return Err(stage.only_failed(SLOW, &failure, console)),
    };
    let start = Instant::now();
    stage.sidecar.terminate().await?;
    console.act("The sidecar gets SIGTERM while a response is on its way through it.");
    let readiness = Client::new(stage.sidecar.admin).status("/readyz").await;
    match readiness {
        Ok(status) if status == 503 => console.ok("it is not ready any more: /readyz says 503"),
        Ok(status) => return Err(Trouble::Step(format!("/readyz says {status}"))),
        Err(failure) => return Err(Trouble::Step(format!("/readyz: {failure}"))),
    }
    let answer = match begun.finish().await {
        Ok(answer) => answer,
        Err(failure) => return Err(stage.only_failed(SLOW, &failure, console)),
    };
    let pieces = answer.body.lines().count();
    expect(pieces == PIECES, &answer.body)?;
    console.ok(format_args!(
        "the response is whole: {pieces} of {PIECES} pieces"
    ));
    let Stage {
        sidecar,
        mut ambassador,
        requests,
        ..
    } = stage;
    sidecar.ended().await?;
    console.ok(format_args!(
        "then it exits with 0, {} ms after the signal",
        start.elapsed().as_millis()
    ));

    let start = Instant::now();
    ambassador.terminate().await?;
    ambassador.ended().await?;
    console.ok(format_args!(
        "the ambassador, with nothing to do, exits with 0 after {} ms",
        start.elapsed().as_millis()
    ));
    Ok(requests)
}

/// What to type next, as this program was called.
pub(super) fn epilogue(console: &Console, requests: usize, start: Instant) {
    console.line("");
    console.title(format_args!(
        "Done: {requests} requests, none failed, in {:.1} s.",
        start.elapsed().as_secs_f32()
    ));
    let pillion = program();
    console.line(format_args!(
        "
Try next:
  {pillion} demo --stay    # the same, kept running to look around in

  echo 'listeners: [{{ address: 127.0.0.1:8080, upstream: app }}]' > pillion.yaml
  echo 'upstreams: [{{ name: app, endpoints: [127.0.0.1:9000] }}]' >> pillion.yaml
  {pillion} check pillion.yaml
  {pillion} run --config pillion.yaml    # before what listens on port 9000; ctrl-C drains it"
    ));
}

/// As it was called, so that it can be called so again.
fn program() -> String {
    let name = std::env::args().next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if name.is_empty() {
        "pillion".to_owned()
    } else if name.chars().all(plain) {
        name
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

fn expect(holds: bool, instead: impl Display) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Trouble::Step(format!(
            "that is not what should happen: {instead}"
        )))
    }
}

/// The telling part of an access-log line.
struct Access<'a>(&'a Value);

impl Display for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key: &str| self.0[key].as_str().unwrap_or("-").to_owned();
        write!(
            f,
            "{} {} {} over {}, from {} to {} in {} ms",
            text("method"),
            text("path"),
            self.0["status"],
            text("protocol"),
            text(match self.0["peer_identity"].is_string() {
                true => "peer_identity",
                false => "peer",
            }),
            text("endpoint"),
            self.0["duration_ms"],
        )
    }
}

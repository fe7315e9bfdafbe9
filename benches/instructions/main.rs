//! Instructions that one exchange costs, counted by callgrind: the same on a busy machine and an idle
//! one, so that a change of a few percent shows.
//!
//! `make bench-instructions` counts every scenario and fails where one is more than 3 % over the count
//! stored in `counts.json`; `BLESS=1` stores what was counted. Everything runs in one thread of one
//! process: the client, the worker with its listener, the upstream. What the peers cost is counted
//! with the rest; they are scripts that write bytes made before.

mod guard;
mod h1;
mod h2;
mod scenario;
mod tcp;
mod world;

use std::{env, process::ExitCode};

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

use self::{
    scenario::{SCENARIOS, Scenario},
    world::World,
};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["exchange", name] => {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
            exchange(scenario.expect("the guard asks for scenarios that there are"));
            ExitCode::SUCCESS
        }
        // What `cargo bench` adds by itself is none of ours.
        ["--bench"] | [] => guard::run(env::var_os("BLESS").is_some_and(|bless| bless == "1")),
        _ => {
            eprintln!("usage: instructions; BLESS=1 stores the counts");
            ExitCode::from(2)
        }
    }
}

/// Plays a scenario: first until nothing is new, then so often that it can be counted.
fn exchange(scenario: &Scenario) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a runtime");
    let (world, mut clients) = runtime.block_on(async {
        let world = World::start(scenario);
        let clients = world.clients(scenario).await;
        (world, clients)
    });
    runtime.block_on(scenario::play(&mut clients, scenario.warm));
    count_these_turns(&runtime, &mut clients, scenario.turns);
    drop((clients, world));
}

/// Callgrind counts inside of this function only, which it knows by its name.
#[inline(never)]
fn count_these_turns(runtime: &LocalRuntime, clients: &mut [scenario::Client], turns: usize) {
    runtime.block_on(scenario::play(clients, turns));
}

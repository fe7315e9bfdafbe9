//! Instructions that an exchange costs, counted by callgrind: the same on a busy machine and an idle
//! one, so that a change of a few percent shows.
//!
//! `make bench-instructions` counts every scenario and fails where one is more than 3 % over the count
//! stored in `counts.json`; `BLESS=1` stores what was counted. Everything runs in one thread of one
//! process: the client, the worker with its listener, the upstream. What the peers cost is counted
//! with the rest; they are scripts that write bytes made before.

mod guard;
mod h1;
mod h2;
mod matching;
mod pki;
mod scenario;
mod tcp;
mod world;

use std::{env, process::ExitCode};

use tokio::runtime::{Builder, LocalOptions};

use self::{
    scenario::{SCENARIOS, Scenario, What},
    world::World,
};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["play", name] => {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
            play(scenario.expect("the guard asks for scenarios that there are"));
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
fn play(scenario: &Scenario) {
    match &scenario.what {
        What::Exchange(exchange) => {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())
                .expect("a runtime");
            let (_world, mut clients) = runtime.block_on(async {
                let world = World::start(exchange);
                let clients = world.clients(exchange).await;
                (world, clients)
            });
            runtime.block_on(scenario::play(&mut clients, scenario.warm));
            counted(&mut || runtime.block_on(scenario::play(&mut clients, scenario.turns)));
        }
        What::Match(size) => {
            let mut table = matching::Table::new(*size);
            (0..scenario.warm).for_each(|_| table.turn());
            counted(&mut || (0..scenario.turns).for_each(|_| table.turn()));
        }
    }
}

/// Callgrind counts inside of this function only: `guard` tells it the name.
#[inline(never)]
fn counted(turns: &mut dyn FnMut()) {
    turns();
}

//! Counts each scenario in a process of its own, under callgrind, and holds the counts against those
//! that are stored beside this file.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command, ExitCode},
};

use serde::{Deserialize, Serialize};

use crate::scenario::{SCENARIOS, Scenario};

/// What a count may be over the stored one, percent. Two builds differ by far less.
const TOLERANCE: f64 = 3.0;

/// Counts, and what they were counted with: another compiler or another C library is another count.
#[derive(Serialize, Deserialize)]
struct Counts {
    made_with: BTreeMap<String, String>,
    counts: BTreeMap<String, u64>,
}

/// Counts everything; fails where a scenario costs too much. `bless` stores the counts instead.
pub(crate) fn run(bless: bool) -> ExitCode {
    match counted_and_judged(bless) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn counted_and_judged(bless: bool) -> Result<bool, String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/counts.json");
    let stored: Counts = fs::read(&file)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()))
        .or_else(|error| {
            let none = Counts {
                made_with: BTreeMap::new(),
                counts: BTreeMap::new(),
            };
            if bless {
                Ok(none)
            } else {
                Err(format!("{}: {error}", file.display()))
            }
        })?;
    let mut now = Counts {
        made_with: tools()?,
        counts: BTreeMap::new(),
    };
    let mut good = true;
    for scenario in &SCENARIOS {
        let count = count(scenario)?;
        let before = stored.counts.get(scenario.name).copied();
        let (change, over) = compare(count, before);
        good &= !over;
        println!(
            "{:9} {count:>8} instructions a {}: {change}",
            scenario.name, scenario.unit
        );
        now.counts.insert(scenario.name.to_owned(), count);
    }
    if bless {
        let text = serde_json::to_string_pretty(&now).map_err(|error| error.to_string())? + "\n";
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        return Ok(true);
    }
    if !good {
        println!(
            "\nPast {TOLERANCE} %. `make bench-instructions BLESS=1` stores these counts, in a commit of its own\n\
             that says what they buy; see docs/performance.md."
        );
    }
    if now.made_with != stored.made_with {
        println!(
            "\nStored with {:?}, counted with {:?}: if only",
            stored.made_with, now.made_with
        );
        println!("the tools have changed, store the counts of the commit before, too.");
    }
    Ok(good)
}

/// How the count compares, in words, and whether it is too much.
fn compare(count: u64, before: Option<u64>) -> (String, bool) {
    let Some(before) = before else {
        return ("none is stored".to_owned(), true);
    };
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let change = (count as f64 / before as f64 - 1.0) * 100.0;
    let over = change > TOLERANCE;
    let verdict = if over {
        ", TOO MUCH"
    } else if change < -TOLERANCE {
        ", store it"
    } else {
        ""
    };
    (format!("{change:+.2} % of {before}{verdict}"), over)
}

/// Instructions a unit, in one run under callgrind.
fn count(scenario: &Scenario) -> Result<u64, String> {
    let own = env::current_exe().map_err(|error| error.to_string())?;
    let profile: PathBuf = env::temp_dir().join(format!("pillion-counts-{}.out", process::id()));
    let mut command = Command::new("valgrind");
    command
        .args([
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=instructions::counted",
        ])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(own)
        .args(["play", scenario.name]);
    let output = command
        .output()
        .map_err(|error| format!("valgrind can't be run ({error}): `make setup` installs it"))?;
    let text = fs::read_to_string(&profile).unwrap_or_default();
    drop(fs::remove_file(&profile));
    let total = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("summary: ")
                .or(line.strip_prefix("totals: "))
        })
        .and_then(|total| total.trim().parse::<u64>().ok())
        .filter(|&total| total > 0 && output.status.success());
    let units = scenario.turns * scenario.units;
    total.map(|total| total / units as u64).ok_or_else(|| {
        format!(
            "{}: nothing was counted\n{}",
            scenario.name,
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// What the counts depend on beside the code.
fn tools() -> Result<BTreeMap<String, String>, String> {
    [
        ("rustc", ["rustc", "--version"]),
        ("libc", ["getconf", "GNU_LIBC_VERSION"]),
        ("valgrind", ["valgrind", "--version"]),
    ]
    .into_iter()
    .map(|(name, [program, argument])| {
        let output = Command::new(program)
            .arg(argument)
            .output()
            .map_err(|error| format!("{program} can't be run: {error}"))?;
        Ok((
            name.to_owned(),
            String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        ))
    })
    .collect()
}

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

/// What a scenario may cost beside one without something, percent: guards, metrics with a trace that
/// is not sampled, spans of every request without their export.
const BESIDE: [(&str, &str, f64); 4] = [
    ("h1-guarded", "h1-bare", 5.0),
    ("grpc-guarded", "grpc-bare", 5.0),
    ("h1-unsampled", "h1-untold", 5.0),
    ("h1-traced", "h1-untold", 33.0),
];

/// Counts everything; fails where a scenario costs too much. `bless` stores the counts instead.
pub(crate) fn run(bless: bool) -> ExitCode {
    let done = count_all().and_then(|now| if bless { now.store() } else { now.judge() });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Counts, and what they were counted with: another compiler or another C library is another count.
#[derive(Serialize, Deserialize)]
struct Counts {
    made_with: BTreeMap<String, String>,
    counts: BTreeMap<String, u64>,
}

fn count_all() -> Result<Counts, String> {
    let stored = Counts::stored().ok();
    let mut now = Counts {
        made_with: tools()?,
        counts: BTreeMap::new(),
    };
    for scenario in &SCENARIOS {
        let Scenario { name, unit, .. } = scenario;
        let count = count_one(scenario)?;
        now.counts.insert((*name).to_owned(), count);
        let before = stored.as_ref().and_then(|stored| stored.counts.get(*name));
        let change = before.map_or_else(
            || "new".to_owned(),
            |&before| format!("{:+.2} % of {before}", change(count, before)),
        );
        println!("{name:12} {count:>7} instructions a {unit}: {change}");
    }
    Ok(now)
}

impl Counts {
    fn file() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/counts.json")
    }

    fn stored() -> Result<Self, String> {
        let text = fs::read(Self::file()).map_err(|error| error.to_string());
        text.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()))
            .map_err(|error| format!("{}: {error}", Self::file().display()))
    }

    fn store(&self) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        fs::write(Self::file(), text + "\n")
            .map_err(|error| format!("{}: {error}", Self::file().display()))
    }

    /// Fails where a count is too far over the stored one, or over that of a scenario with less.
    fn judge(&self) -> Result<(), String> {
        for (more, less, most) in BESIDE {
            let cost = change(self.counts[more], self.counts[less]);
            println!("{more} beside {less}: {cost:+.2} %");
            if cost > most {
                return Err(format!("{more} costs over {most} % more than {less}"));
            }
        }
        let stored = Self::stored()?;
        let other_tools = if self.made_with == stored.made_with {
            String::new()
        } else {
            format!(
                "\nStored with {:?}, counted with {:?}: where only these have changed, store the counts of the \
                 commit before first.",
                stored.made_with, self.made_with
            )
        };
        let by_change = |wanted: &dyn Fn(f64) -> bool| -> Vec<&str> {
            let counts = self.counts.iter();
            let found = counts.filter(|(name, count)| match stored.counts.get(*name) {
                Some(before) => wanted(change(**count, *before)),
                None => wanted(f64::INFINITY),
            });
            found.map(|(name, _)| name.as_str()).collect()
        };
        let worse = by_change(&|change| change > TOLERANCE);
        if !worse.is_empty() {
            return Err(format!(
                "over {TOLERANCE} % more than stored: {}. `make bench-instructions BLESS=1` stores these counts, in \
                 a commit of its own that says what they buy: docs/performance.md.{other_tools}",
                worse.join(", ")
            ));
        }
        let better = by_change(&|change| change < -TOLERANCE);
        if !better.is_empty() {
            println!(
                "Store what is saved, so that it stays so: `make bench-instructions BLESS=1`."
            );
        }
        Ok(())
    }
}

/// Percent.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn change(now: u64, before: u64) -> f64 {
    (now as f64 / before as f64 - 1.0) * 100.0
}

/// Instructions a unit, in one run under callgrind.
fn count_one(scenario: &Scenario) -> Result<u64, String> {
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

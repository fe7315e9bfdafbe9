//! Tells the program which commit it is built from: `PILLION_COMMIT`, or what git says.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=PILLION_COMMIT");
    let given = env::var("PILLION_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty());
    let commit = given.or_else(head).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=PILLION_COMMIT={commit}");
}

fn head() -> Option<String> {
    // This log grows with every commit, checkout and rebase.
    println!(
        "cargo::rerun-if-changed={}",
        git(&["rev-parse", "--git-path", "logs/HEAD"])?
    );
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

//! Configurations as users write them.

use std::fmt::Write as _;

use super::*;

fn env(name: &str) -> Option<String> {
    (name == "PORT").then(|| "9000".to_owned())
}

fn good(text: &str) -> model::Config {
    match parse("test.yaml", text, &env) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}"),
    }
}

/// `LINE:COLUMN message | hint` of every problem.
fn bad(text: &str) -> Vec<String> {
    let Err(LoadError::Invalid(report)) = parse("test.yaml", text, &env) else {
        panic!("this should be refused:\n{text}");
    };
    let show = |problem: &Problem| {
        let mut line = format!("{}:{} {}", problem.line, problem.column, problem.message);
        if let Some(hint) = &problem.hint {
            let _ = write!(line, " | {hint}");
        }
        line
    };
    report.problems.iter().map(show).collect()
}

const SHORT: &str = "\
listeners:
  - address: 127.0.0.1:8080
    upstream: app
upstreams:
  - name: app
    endpoints: [127.0.0.1:9000]
";

#[test]
fn the_short_form_is_enough() {
    let config = good(SHORT);
    assert_eq!(&*config.listeners[0].name, "127.0.0.1:8080");
    println!("{}", serde_json::to_string_pretty(&config).unwrap());
}

#[test]
fn prints() {
    let e = parse(
        "test.yaml",
        &SHORT
            .replace("upstream:", "upstrem:")
            .replace("name: app", "name: ap"),
        &env,
    )
    .unwrap_err();
    println!("{e}");
    println!("{:?}", bad("listeners:\n  - adress: 127.0.0.1:8080\n    maxConnections: 0\n    http: {viaa: true, headTimeout: 10}\nupstreams:\n  - name: app\n    endpoints: [127.0.0.1:${NONE}]\nadmin:\n").join("\n"));
}

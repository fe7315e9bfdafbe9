//! Configurations as users write them.

mod mistakes;

use std::{fs, time::Duration};

use proptest::prelude::*;

use super::{
    model::{Action, Balancer, EndpointAddress, ListenerKind, LogFormat, LogOutput, PathMatch},
    *,
};

const SHORT: &str = "\
listeners:
  - address: 127.0.0.1:8080
    upstream: app
upstreams:
  - name: app
    endpoints: [127.0.0.1:9000]
";

/// The environment of all tests.
fn env(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8080".to_owned()),
        "COUNT" => Some("77".to_owned()),
        "YES" => Some("true".to_owned()),
        _ => None,
    }
}

fn good(text: &str) -> model::Config {
    match parse("test.yaml", text, &env) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}\n{text}"),
    }
}

fn bad(text: &str) -> Report {
    match parse("test.yaml", text, &env) {
        Err(LoadError::Invalid(report)) => report,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("this should be refused:\n{text}"),
    }
}

#[test]
fn the_short_form_gets_the_defaults_of_the_contract() {
    let config = good(SHORT);
    assert_eq!(config.admin.address, Some(([127, 0, 0, 1], 9901).into()));
    assert_eq!(config.admin.probes, None);
    assert!(config.access_log.enabled);
    assert_eq!(config.access_log.format, LogFormat::Json);
    assert_eq!(config.access_log.output, LogOutput::Stdout);
    assert_eq!(config.drain.delay, Duration::ZERO);
    assert_eq!(config.drain.deadline, Duration::from_secs(30));

    let listener = &config.listeners[0];
    assert_eq!(&*listener.name, "127.0.0.1:8080");
    assert_eq!(listener.max_connections, 50_000);
    let ListenerKind::Http(http) = &listener.kind else {
        panic!("http is the default")
    };
    assert_eq!(http.max_head_size, 64 << 10);
    assert_eq!(http.head_timeout, Duration::from_secs(10));
    assert_eq!(http.keep_alive_timeout, Duration::from_secs(60));
    assert_eq!(http.http2_idle_timeout, Duration::from_secs(3600));
    assert_eq!(http.max_concurrent_streams, 100);
    assert_eq!(http.upstream.as_deref(), Some("app"));
    assert!(http.via && !http.allow_connect && http.trusted_hops == 0);

    let upstream = &config.upstreams[0];
    assert_eq!(upstream.connect_timeout, Duration::from_secs(1));
    assert_eq!(upstream.idle_timeout, Duration::from_secs(55));
    assert_eq!(upstream.max_connection_age, Duration::from_secs(3600));
    assert_eq!(upstream.balancer, Balancer::PeakEwma);
    assert_eq!(upstream.limits.requests, 10_000);
    assert_eq!(upstream.breaker, Some(model::Breaker::default()));
    assert_eq!(upstream.ejection, Some(model::Ejection::default()));
    assert_eq!(upstream.endpoints[0].weight, 1);
}

#[test]
fn a_rule_gets_the_defaults_of_the_contract() {
    let config = good(&format!(
        "{SHORT}routes: [{{ rules: [{{ backendRefs: [{{ name: app }}] }}] }}]"
    ));
    let route = &config.routes[0];
    assert_eq!(&*route.name, "route-0");
    assert_eq!(route.listeners, ["127.0.0.1:8080".into()]);
    assert!(route.hostnames.is_empty());
    let rule = &route.rules[0];
    assert_eq!(&*rule.name, "route-0/0");
    assert_eq!(rule.matches[0].path, PathMatch::Prefix("/".into()));
    assert_eq!(rule.timeouts.request, Duration::from_secs(15));
    assert_eq!(rule.timeouts.idle, Duration::from_secs(300));
    assert_eq!(rule.timeouts.total, Duration::ZERO);
    assert!(matches!(&rule.action, Action::Forward(backends) if backends[0].weight == 1));
}

#[test]
fn everything_that_can_be_written_is_read() {
    let config = good(include_str!("everything.yaml"));
    assert_eq!(config.listeners.len(), 3);
    assert_eq!(config.routes[0].rules.len(), 4);
    let filters = &config.routes[0].rules[0].filters;
    assert_eq!(filters.mirrors[0].share, 100_000);
    assert_eq!(filters.mirrors[1].share, 500);
    assert_eq!(filters.request_headers.set[0].0, "x-a");
    let kinds = &config.upstreams[0].endpoints;
    assert_eq!(
        kinds[1].address,
        EndpointAddress::Unix("run/app.sock".into())
    );
    assert_eq!(kinds[4].weight, 2);
    // Every key that the schema knows is written in it.
    let written = include_str!("everything.yaml");
    for definition in schema()["$defs"]
        .as_object()
        .unwrap()
        .values()
        .chain([&schema()])
    {
        for key in definition["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key)
        {
            assert!(
                written.contains(&format!("{key}:")),
                "{key} is not in everything.yaml"
            );
        }
    }
}

#[test]
fn a_variable_that_a_file_uses_is_read() {
    let text = SHORT.replace("[127.0.0.1:9000]", "[\"127.0.0.1:${OTEL_MINE:-9000}\"]");
    let source = Source::new("test.yaml".into(), text.into_bytes());
    let env = |name: &str| (name == "OTEL_MINE").then(|| "9001".to_owned());
    let set = ["OTEL_MINE", "OTEL_OTHER"].map(str::to_owned);
    let loaded = build(vec![source], &env, set).unwrap();
    assert_eq!(loaded.warnings, ["OTEL_OTHER is not read"]);
}

#[test]
fn every_file_in_config_loads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut files = 0;
    for folder in [root.clone(), root.join("bench")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files += 1;
                // As if what the benchmark makes were there.
                let sources = source::read(&path).unwrap();
                let env = |name: &str| (name == "PILLION_PKI").then(|| "pki".to_owned());
                if let Err(error) = build(sources, &env, []) {
                    panic!("{error}");
                }
            }
        }
    }
    assert!(files >= 6);
}

#[test]
fn the_benchmark_measures_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/bench/single.yaml");
    let mut config = load(&path).unwrap().config;
    let text = SHORT.replace("127.0.0.1:8080", "127.0.0.1:9110");
    let mut defaults = good(&text);
    assert_eq!(config.admin.address, Some(([127, 0, 0, 1], 9911).into()));
    assert!(!config.access_log.enabled);
    // Nothing else differs.
    config.admin = defaults.admin.clone();
    defaults.access_log.enabled = false;
    assert_eq!(config, defaults);
}

#[test]
fn variables_become_numbers_and_booleans_but_never_structure() {
    let text = SHORT.replace("8080", "${PORT}").replace(
        "upstream: app",
        "upstream: app\n    maxConnections: ${COUNT}\n    proxyProtocol: \"${YES}\"",
    );
    let config = good(&text);
    assert_eq!(&*config.listeners[0].name, "127.0.0.1:8080");
    assert_eq!(config.listeners[0].max_connections, 77);
    assert!(config.listeners[0].proxy_protocol);
    let tricky = |_: &str| Some("app\nadmin: { address: off }".to_owned());
    assert!(
        parse(
            "test.yaml",
            &SHORT.replace("name: app", "name: ${X}"),
            &tricky
        )
        .is_err()
    );
}

#[test]
fn aliases_are_followed_and_their_bombs_defused() {
    let config = good(
        "listeners: [{ address: 127.0.0.1:1, upstream: a }]\n\
         upstreams:\n- { name: a, endpoints: &e [127.0.0.1:2] }\n- { name: b, endpoints: *e }\n",
    );
    assert_eq!(config.upstreams[0].endpoints, config.upstreams[1].endpoints);

    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let report = bad(&bomb).to_string();
    assert!(report.contains("more than 1000000 values"), "{report}");
    assert!(bad("a: &a [*a]").to_string().contains("contains itself"));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(bad(&deep).problems.len(), 1);
}

#[test]
fn a_folder_is_one_configuration() {
    let folder = Folder::new("folder");
    folder.write(
        "10-listeners.yaml",
        "listeners: [{ address: 127.0.0.1:0, upstream: b }]\n",
    );
    folder.write(
        "20-a.yml",
        "upstreams: [{ name: a, endpoints: [127.0.0.1:1] }]\n",
    );
    folder.write(
        "30-b.yaml",
        "upstreams: [{ name: b, endpoints: [unix:b.sock] }]\n",
    );
    folder.write("40-empty.yaml", "# nothing\n");
    folder.write(".hidden.yaml", "nonsense: [");
    folder.write("notes.txt", "nonsense: [");
    let loaded = load(&folder.path).unwrap();
    let names: Vec<_> = loaded
        .config
        .upstreams
        .iter()
        .map(|upstream| &*upstream.name)
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(loaded.files.len(), 4);
    let socket = &loaded.config.upstreams[1].endpoints[0].address;
    assert_eq!(*socket, EndpointAddress::Unix(folder.path.join("b.sock")));
    assert_eq!(load(&folder.path).unwrap().hash, loaded.hash);

    folder.write(
        "50-b.yaml",
        "upstreams: [{ name: b, endpoints: [127.0.0.1:2] }]\ndrain: {}\n",
    );
    folder.write("60-drain.yaml", "drain: {}\n");
    let Err(LoadError::Invalid(report)) = load(&folder.path) else {
        panic!("names and sections are given once")
    };
    let twice = &report.problems[0];
    assert_eq!(twice.message, "upstream `b` is given twice");
    assert!(twice.file.ends_with("50-b.yaml"));
    assert!(
        twice.hint.as_deref().unwrap().ends_with("30-b.yaml:1:21"),
        "{:?}",
        twice.hint
    );
    assert_eq!(report.problems[1].message, "`drain` is given in two files");
}

#[test]
fn a_broken_file_hides_no_mistake_of_another_one() {
    let folder = Folder::new("broken");
    folder.write("1.yaml", "listeners: [");
    folder.write(
        "2.yaml",
        "upstreams: [{ name: a, nam: b, endpoints: [127.0.0.1:1] }]\nx: ${NONE}\n",
    );
    let Err(LoadError::Invalid(report)) = load(&folder.path) else {
        panic!("1.yaml is broken")
    };
    assert!(report.problems[0].message.starts_with("this is not YAML"));
    assert_eq!(
        report.problems[1].message,
        "environment variable `NONE` is not set"
    );
}

#[test]
fn what_is_not_there_or_not_text_is_told() {
    let folder = Folder::new("unreadable");
    assert!(matches!(
        load(&folder.path.join("none.yaml")),
        Err(LoadError::Unreadable { .. })
    ));
    let Err(error @ LoadError::Unreadable { .. }) = load(&folder.path) else {
        panic!("an empty folder is no configuration")
    };
    assert!(
        error.to_string().ends_with("no *.yaml or *.yml file in it"),
        "{error}"
    );
    fs::write(folder.path.join("a.yaml"), b"a: b\nc: \xff\n").unwrap();
    let Err(LoadError::Invalid(report)) = load(&folder.path) else {
        panic!("it is not UTF-8")
    };
    assert_eq!((report.problems[0].line, report.problems[0].column), (2, 4));
}

#[test]
fn equal_content_has_an_equal_hash_and_other_content_another_one() {
    let hash = |text: &str| parse("test.yaml", text, &env).unwrap().hash;
    assert_eq!(hash(SHORT), hash(SHORT));
    assert_ne!(hash(SHORT), hash(&SHORT.replace("9000", "9001")));
}

#[test]
fn a_flood_of_problems_ends() {
    let list: String = (0..5000)
        .map(|index| format!("- {{ x{index}: 1 }}\n"))
        .collect();
    let report = bad(&format!("listeners:\n{list}"));
    assert!(report.truncated);
    assert_eq!(report.problems.len(), 100);
}

#[test]
fn a_report_is_json_for_who_asked_by_http() {
    let json = serde_json::to_value(bad("listeners: []\n")).unwrap();
    let problem = &json["problems"][0];
    assert_eq!(problem["file"], "test.yaml");
    assert_eq!(
        (&problem["line"], &problem["column"]),
        (&1.into(), &12.into())
    );
    assert_eq!(problem["snippet"], "listeners: []");
    assert!(problem["message"].is_string() && problem["hint"].is_string());
}

/// A folder that goes when its test does.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pillion-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Texts that are nearly a configuration: lines of one, cut and mixed with others.
fn nearly() -> impl Strategy<Value = String> {
    let lines: Vec<&'static str> = include_str!("everything.yaml").lines().collect();
    let noise = prop_oneof![4 => Just(String::new()), 1 => "[ -~]{0,4}", 1 => "\\PC{0,4}"];
    let bent = (prop::sample::select(lines), 0..60_usize, noise, 0..4_u8).prop_map(
        |(line, cut, noise, how)| match how {
            0 => line.chars().take(cut).chain(noise.chars()).collect(),
            1 => noise.chars().chain(line.chars().skip(cut)).collect(),
            _ => line.to_owned(),
        },
    );
    prop::collection::vec(bent, 0..60).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,300}") {
        let _ = parse("test.yaml", &text, &env).map_err(|error| error.to_string());
    }

    #[test]
    fn nothing_like_a_configuration_panics(text in nearly()) {
        let _ = parse("test.yaml", &text, &env).map_err(|error| error.to_string());
    }

    /// A line taken out or doubled leaves most of the file whole, which reaches further in.
    #[test]
    fn a_configuration_that_lost_a_line_panics_nowhere(lost in 0..200_usize, doubled in 0..200_usize) {
        let mut lines: Vec<_> = include_str!("everything.yaml").lines().collect();
        lines.insert(doubled % lines.len(), lines[doubled % lines.len()]);
        lines.remove(lost % lines.len());
        let _ = parse("test.yaml", &lines.join("\n"), &env).map_err(|error| error.to_string());
    }
}

//! The process's own log, on stderr: what happens to the process, never a line a request.
//!
//! Text for people, one JSON object a line with `PILLION_LOG_FORMAT=json`. What is written follows
//! `RUST_LOG` (default `info`) and can be changed while the process runs.

use std::{
    env,
    io::{self, IsTerminal},
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

/// Starts the log. To be called once, before the first thread.
pub fn init() -> LogLevel {
    let (layer, level, complaint) = layer(
        Settings {
            filter: env::var("RUST_LOG").ok(),
            json: env::var("PILLION_LOG_FORMAT").is_ok_and(|format| format == "json"),
            // https://no-color.org: any value but the empty one.
            colours: io::stderr().is_terminal()
                && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        },
        io::stderr,
    );
    // Fails where a log is started already: in a test, which then keeps its own.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    if let Some(complaint) = complaint {
        tracing::warn!("RUST_LOG is ignored: {complaint}");
    }
    level
}

/// The filter of the running log.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// In the form of `RUST_LOG`.
    pub fn current(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Takes effect at once; the error says what is wrong.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        self.0
            .reload(parse(filter)?)
            .map_err(|error| error.to_string())
    }
}

struct Settings {
    filter: Option<String>,
    json: bool,
    colours: bool,
}

type BoxLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The layer, its filter's handle, and what was wrong with the filter.
fn layer<W>(settings: Settings, writer: W) -> (BoxLayer, LogLevel, Option<String>)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = settings.filter.filter(|filter| !filter.trim().is_empty());
    let (filter, complaint) = match wanted.map(|filter| parse(&filter)) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(complaint)) => (default_filter(), Some(complaint)),
        None => (default_filter(), None),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(writer).with_ansi(settings.colours);
    let layer = if settings.json {
        lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_filter(filter)
            .boxed()
    } else {
        lines.with_filter(filter).boxed()
    };
    (layer, LogLevel(handle), complaint)
}

fn default_filter() -> EnvFilter {
    EnvFilter::default().add_directive(LevelFilter::INFO.into())
}

/// Directives as `RUST_LOG` has them, except that a lone word must be a level: taken for a target,
/// as elsewhere, a misspelt level would silence everything else.
fn parse(filter: &str) -> Result<EnvFilter, String> {
    const LEVELS: &str = "off, error, warn, info, debug, trace";
    let filter = filter.trim();
    for directive in filter
        .split(',')
        .map(str::trim)
        .filter(|_| !filter.contains('['))
    {
        let level = directive
            .rsplit_once('=')
            .map_or(directive, |(_, level)| level);
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "{directive:?} is neither a level ({LEVELS}) nor TARGET=LEVEL"
            ));
        }
    }
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn logged(settings: Settings, act: impl FnOnce(&Lines, &LogLevel)) -> Option<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let (layer, level, complaint) = layer(settings, move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || act(&lines, &level));
        complaint
    }

    #[test]
    fn json_is_one_flat_object_a_line() {
        let settings = Settings {
            filter: None,
            json: true,
            colours: false,
        };
        logged(settings, |lines, _| {
            tracing::info!(generation = 1, listeners = "web=127.0.0.1:80", "ready");
            tracing::debug!("not by default");
            let line: serde_json::Value = serde_json::from_str(&lines.take()).unwrap();
            assert_eq!(line["message"], "ready");
            assert_eq!(line["level"], "INFO");
            assert_eq!(line["generation"], 1);
            assert_eq!(line["listeners"], "web=127.0.0.1:80");
        });
    }

    #[test]
    fn the_level_changes_while_running() {
        let settings = Settings {
            filter: Some("warn".into()),
            json: false,
            colours: false,
        };
        logged(settings, |lines, level| {
            assert_eq!(level.current(), "warn");
            tracing::info!("quiet");
            assert_eq!(lines.take(), "");
            level.set("info").unwrap();
            tracing::info!("loud");
            assert!(lines.take().contains("loud"));
            assert_eq!(level.current(), "info");
            assert!(level.set("verbose").is_err());
            assert_eq!(level.current(), "info", "a bad one changes nothing");
        });
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        for colours in [true, false] {
            let settings = Settings {
                filter: None,
                json: false,
                colours,
            };
            logged(settings, |lines, _| {
                tracing::info!("ready");
                assert_eq!(lines.take().contains('\x1b'), colours);
            });
        }
    }

    #[test]
    fn a_bad_filter_is_told_and_the_default_taken() {
        let settings = Settings {
            filter: Some("inof".into()),
            json: false,
            colours: false,
        };
        let complaint = logged(settings, |lines, _| {
            tracing::info!("ready");
            assert!(lines.take().contains("ready"));
        });
        assert!(complaint.unwrap().contains("inof"));
    }

    #[test]
    fn filters() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,pillion=debug",
            "h2=off, info",
            "[span]=trace",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "verbose", "info,", "pillion=loud", "pillion", "a=b=c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

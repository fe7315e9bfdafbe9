//! What there is to ask: the one list that requests are matched with and that `/` shows.

use std::fmt::Write;

use http::Method;

use super::Scope;

/// A thing to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Index,
    Livez,
    Readyz,
    Metrics,
    Config,
    Upstreams,
    Faults,
    Drain,
    Reload,
    LogLevel,
}

impl Page {
    pub(super) const ALL: [Self; 10] = [
        Self::Index,
        Self::Livez,
        Self::Readyz,
        Self::Metrics,
        Self::Config,
        Self::Upstreams,
        Self::Faults,
        Self::Drain,
        Self::Reload,
        Self::LogLevel,
    ];

    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Index => "/",
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Config => "/config",
            Self::Upstreams => "/upstreams",
            Self::Faults => "/faults",
            Self::Drain => "/drain",
            Self::Reload => "/reload",
            Self::LogLevel => "/log-level",
        }
    }

    /// As `Allow` lists them.
    pub(super) const fn methods(self) -> &'static str {
        match self {
            Self::Drain | Self::Reload => "POST",
            Self::Faults | Self::LogLevel => "GET, HEAD, POST",
            _ => "GET, HEAD",
        }
    }

    pub(super) const fn help(self) -> &'static str {
        match self {
            Self::Index => "this list",
            Self::Livez => "200 as long as the process answers",
            Self::Readyz => "200 when traffic may come, else 503; ?verbose tells why",
            Self::Metrics => "Prometheus text, or OpenMetrics by Accept",
            Self::Config => "the configuration in force, defaults included",
            Self::Upstreams => "endpoints and their state",
            Self::Faults => {
                "faults that rules inject; POST ?enabled=true|false[&route=NAME] switches them"
            }
            Self::Drain => "finish what is in flight and exit, as SIGTERM does",
            Self::Reload => {
                "read the configuration again; 200 once it is live, 422 with what is wrong"
            }
            Self::LogLevel => "the filter of the log; POST another, as body or ?level=",
        }
    }

    /// Harmless to anybody, and asked by probes that say what they like as `Host`.
    pub(super) const fn is_probe(self) -> bool {
        matches!(self, Self::Livez | Self::Readyz | Self::Metrics)
    }

    /// Those that a server of this scope has.
    pub(super) fn served(scope: Scope) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(move |page| scope == Scope::Full || page.is_probe())
    }

    pub(super) fn allows(self, method: &Method) -> bool {
        self.methods()
            .split(", ")
            .any(|allowed| allowed == method.as_str())
    }
}

/// What `/` shows.
pub(super) fn index(scope: Scope) -> String {
    let mut list = String::from("pillion admin\n\n");
    for page in Page::served(scope) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            list,
            "{:<16} {:<11} {}",
            page.methods(),
            page.path(),
            page.help()
        );
    }
    list
}

/// What somebody may have meant who asked for what isn't there.
pub(super) fn hint(path: &str, scope: Scope) -> String {
    let mut paths = Page::served(scope).map(Page::path);
    let near = |known: &&str| {
        // A longer one is no slip of the finger, and comparing takes its time.
        path.len() < 32 && strsim::damerau_levenshtein(path, known) <= 3 && *known != "/"
    };
    match paths.find(near) {
        Some(known) => format!("did you mean {known}?"),
        None => {
            let all: Vec<_> = Page::served(scope).map(Page::path).collect();
            format!("there is {}", all.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints() {
        for (path, meant) in [
            ("/redyz", "/readyz"),
            ("/ready", "/readyz"),
            ("/loglevel", "/log-level"),
        ] {
            assert_eq!(hint(path, Scope::Full), format!("did you mean {meant}?"));
        }
        assert_eq!(
            hint("/stats", Scope::Probes),
            "there is /livez /readyz /metrics"
        );
        assert!(hint(&"/drain".repeat(1000), Scope::Full).starts_with("there is /"));
    }

    #[test]
    fn every_page_is_documented() {
        let docs = include_str!("../../docs/admin.md");
        for page in Page::ALL {
            let row = format!("\n| `{}` | {} |", page.path(), page.methods());
            assert!(docs.contains(&row), "{row}");
        }
    }
}

//! The two text forms of a scrape.

use prometheus_client::{encoding::text, registry::Registry};

/// What a scraper can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4: what everything reads.
    Prometheus,
    /// OpenMetrics text, version 1.0.0: for those that ask.
    OpenMetrics,
}

impl Format {
    /// What is said in `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

pub(super) fn encode(registry: &Registry, format: Format) -> String {
    let mut text = String::new();
    text::encode(&mut text, registry).expect("writing to a String cannot fail");
    match format {
        Format::OpenMetrics => text,
        Format::Prometheus => to_prometheus(&text),
    }
}

/// OpenMetrics names the family of a counter without `_total` and knows a type for build infos;
/// 0.0.4 calls family and series the same, and knows neither `info` nor `# EOF`. The series
/// themselves are alike.
fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // Its name depends on the type, which comes next.
            help = rest.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some(help) = help.take() {
                text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_named_as_each_form_names_them() {
        let open_metrics = "# HELP a_build What runs.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n\
            # HELP a_things Things.\n# TYPE a_things counter\na_things_total 1\n\
            # HELP a_now Now.\n# TYPE a_now gauge\na_now{x=\"# TYPE \"} 2\n# EOF\n";
        assert_eq!(
            to_prometheus(open_metrics),
            "# HELP a_build_info What runs.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n\
            # HELP a_things_total Things.\n# TYPE a_things_total counter\na_things_total 1\n\
            # HELP a_now Now.\n# TYPE a_now gauge\na_now{x=\"# TYPE \"} 2\n"
        );
    }

    #[test]
    fn only_open_metrics_says_where_it_ends() {
        let registry = Registry::default();
        assert_eq!(encode(&registry, Format::OpenMetrics), "# EOF\n");
        assert_eq!(encode(&registry, Format::Prometheus), "");
    }
}

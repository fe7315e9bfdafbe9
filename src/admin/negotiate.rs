//! Which of the forms that there are a client wants (RFC 9110 section 12.5.1).

use http::{HeaderMap, header::ACCEPT};

/// The index of the offer that `Accept` likes best; of equals, and where none is liked, the first.
/// Parameters other than `q` are ignored.
pub(super) fn negotiate(headers: &HeaderMap, offers: &[&str]) -> usize {
    let (mut best, mut most) = (0, 0.0);
    for (index, offer) in offers.iter().enumerate() {
        let quality = quality(headers, offer);
        if quality > most {
            (best, most) = (index, quality);
        }
    }
    best
}

/// How much a media type is wanted, from 0 to 1: what the most specific range says.
fn quality(headers: &HeaderMap, offer: &str) -> f32 {
    let (mut closest, mut quality) = (0, 0.0_f32);
    let values = headers
        .get_all(ACCEPT)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let closeness = closeness(parts.next().unwrap_or_default(), offer);
        let weight = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        if closeness > closest {
            (closest, quality) = (closeness, weight);
        } else if closeness == closest && closeness > 0 {
            quality = quality.max(weight);
        }
    }
    quality
}

/// 0: the range doesn't hold the media type.
fn closeness(range: &str, offer: &str) -> u8 {
    let type_of = |media: &str| {
        media
            .split('/')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase()
    };
    match range.split_once('/') {
        Some(("*", "*")) => 1,
        Some((_, "*")) if type_of(range) == type_of(offer) => 2,
        Some(_) if range.eq_ignore_ascii_case(offer) => 3,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const OFFERS: [&str; 2] = ["text/plain", "application/openmetrics-text"];

    fn chosen(accept: &'static str) -> usize {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        negotiate(&headers, &OFFERS)
    }

    #[test]
    fn prometheus_gets_open_metrics() {
        assert_eq!(
            chosen(
                "application/openmetrics-text;version=1.0.0,\
                 application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
            ),
            1
        );
        assert_eq!(
            chosen("application/openmetrics-text; version=1.0.0; q=0.5, text/plain"),
            0
        );
    }

    #[test]
    fn the_first_where_nothing_decides() {
        assert_eq!(negotiate(&HeaderMap::new(), &OFFERS), 0);
        for accept in [
            "*/*",
            "image/png",
            "",
            ";;,,q=1",
            "application/openmetrics-text;q=0",
        ] {
            assert_eq!(chosen(accept), 0, "{accept:?}");
        }
    }

    #[test]
    fn the_most_specific_range_decides() {
        assert_eq!(chosen("text/plain;q=0.1, */*"), 1);
        assert_eq!(chosen("Application/*;q=0.9, text/*;q=0.8"), 1);
        assert_eq!(
            chosen("text/plain;q=nonsense, application/openmetrics-text;q=0.1"),
            1
        );
    }
}

//! A line for people, in the order that Envoy's users know:
//! `[start] "METHOD path PROTOCOL" status flags received sent duration upstream "peer"
//! "user agent" "request id" "authority" "endpoint"`, then what Envoy's line lacks: listener,
//! route, upstream, reason and `"detail"`. What is not known is `-`.

use super::{
    Record,
    escape::{Style, address, escape},
    json::millis,
    timestamp::Timestamp,
};
use crate::error::Reason;

pub(super) fn write(out: &mut Vec<u8>, record: &Record, start: Timestamp) {
    out.push(b'[');
    start.write(out);
    out.extend_from_slice(b"] \"");
    bare(
        out,
        record
            .method
            .as_ref()
            .map(|method| method.as_str().as_bytes()),
    );
    out.push(b' ');
    bare(out, record.path());
    out.push(b' ');
    bare(out, Some(record.protocol.name().as_bytes()));
    out.extend_from_slice(b"\" ");
    bare(
        out,
        record
            .status
            .as_ref()
            .map(|status| status.as_str().as_bytes()),
    );
    out.push(b' ');
    bare(out, Some(record.flags().as_bytes()));
    for count in [record.bytes_received, record.bytes_sent] {
        out.push(b' ');
        out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
    }
    out.push(b' ');
    millis(out, record.duration);
    out.push(b' ');
    match record.upstream_duration {
        Some(duration) => millis(out, duration),
        None => out.push(b'-'),
    }
    out.extend_from_slice(b" \"");
    match (record.client, &record.peer) {
        (Some(client), _) => out.extend_from_slice(client.to_string().as_bytes()),
        (None, Some(peer)) => address(out, peer, Style::Text),
        (None, None) => out.push(b'-'),
    }
    out.push(b'"');
    for value in [
        record.user_agent.as_deref(),
        record.request_id(),
        record.authority(),
        record.endpoint.as_deref().map(str::as_bytes),
    ] {
        quoted(out, value);
    }
    for name in [
        Some(&record.listener),
        record.route.as_ref(),
        record.upstream.as_ref(),
    ] {
        out.push(b' ');
        bare(out, name.map(|name| name.as_bytes()));
    }
    out.push(b' ');
    bare(out, record.reason.map(Reason::name).map(str::as_bytes));
    let detail = record.detail.as_bytes();
    quoted(out, (!detail.is_empty()).then_some(detail));
    out.push(b'\n');
}

fn bare(out: &mut Vec<u8>, value: Option<&[u8]>) {
    escape(out, value.unwrap_or(b"-"), Style::Text);
}

fn quoted(out: &mut Vec<u8>, value: Option<&[u8]>) {
    out.extend_from_slice(b" \"");
    bare(out, value);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::{super::tests::*, *};

    fn line(record: &Record) -> String {
        let mut out = Vec::new();
        write(&mut out, record, epoch());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn everything_known() {
        assert_eq!(
            line(&full()),
            "[1970-01-01T00:00:00.000Z] \"GET /items?id=1 HTTP/1.1\" 502 UC 5 7 12.345 2.000 \
             \"10.0.0.1:4242\" \"curl/8\" \"abc\" \"shop.example\" \"127.0.0.1:9000\" web shop/0 \
             app upstream_closed \"closed before a response\"\n"
        );
    }

    #[test]
    fn nothing_known() {
        assert_eq!(
            line(&minimal()),
            "[1970-01-01T00:00:00.000Z] \"- - HTTP/1.1\" - - 0 0 0.000 - \"-\" \"-\" \"-\" \"-\" \
             \"-\" web - - - \"-\"\n"
        );
    }

    #[test]
    fn a_peer_can_not_forge_a_line() {
        let mut record = full();
        record.user_agent = Some(b"x\" 200 \xff\t"[..].into());
        record.detail = "a\nb".into();
        let line = line(&record);
        assert_eq!(line.lines().count(), 1);
        assert!(line.contains(r#" "x\" 200 \xff\x09" "abc""#));
        assert!(line.ends_with("\"a\\x0ab\"\n"));
    }
}

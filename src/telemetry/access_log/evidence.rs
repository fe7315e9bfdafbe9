//! What failed attempts of a request met: why it went as it did.

use super::{
    escape::{Style, escape},
    json::{Object, millis},
};
use crate::policy::Note;

/// The failed ones; of a request that is traced, others are known as well.
fn failed(notes: &[Note]) -> impl Iterator<Item = &Note> {
    notes.iter().filter(|note| note.is_failure())
}

/// As an array of objects.
pub(super) fn json(out: &mut Vec<u8>, notes: &[Note]) {
    out.push(b'[');
    for (index, note) in failed(notes).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"attempt\":");
        out.extend_from_slice(itoa::Buffer::new().format(note.number).as_bytes());
        let mut object = Object(out);
        object.text("upstream", Some(note.upstream.as_bytes()));
        let endpoint = note.endpoint.as_ref();
        object.text(
            "endpoint",
            endpoint.map(|endpoint| endpoint.label.as_bytes()),
        );
        object.text("outcome", Some(note.word().as_bytes()));
        object.millis("duration_ms", note.took());
        object.boolean("connection_reused", note.line.reused);
        let takes = endpoint.map(|_| note.endpoint_takes);
        object.boolean("endpoint_available", takes);
        object.millis("deadline_left_ms", note.left);
        object.text("then", note.then.map(|then| then.name().as_bytes()));
        out.push(b'}');
    }
    out.push(b']');
}

/// The same for people: `1: 10.0.0.1:80 connect_failed after 1.204 ms, retried; 2: ...`. Whether
/// there is any.
pub(super) fn text(out: &mut Vec<u8>, notes: &[Note], style: Style) -> bool {
    let mut any = false;
    for note in failed(notes) {
        if std::mem::replace(&mut any, true) {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(itoa::Buffer::new().format(note.number).as_bytes());
        out.extend_from_slice(b": ");
        let place = match &note.endpoint {
            Some(endpoint) => &endpoint.label,
            // There was none to go to.
            None => &note.upstream,
        };
        escape(out, place.as_bytes(), style);
        out.push(b' ');
        out.extend_from_slice(note.word().as_bytes());
        if let Some(took) = note.took() {
            out.extend_from_slice(b" after ");
            millis(out, took);
            out.extend_from_slice(b" ms");
        }
        if note.endpoint.is_some() && !note.endpoint_takes {
            out.extend_from_slice(b", endpoint unavailable");
        }
        if let Some(then) = note.then {
            out.extend_from_slice(b", ");
            out.extend_from_slice(then.name().as_bytes());
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::tests::note, *};
    use crate::policy::{Outcome, Then};

    #[test]
    fn failed_attempts_are_told_and_no_others() {
        let mut retried = note(Outcome::Status {
            code: 503,
            failed: true,
        });
        retried.then = Some(Then::Retried);
        let good = note(Outcome::Status {
            code: 200,
            failed: false,
        });
        let mut cut = note(Outcome::Cut);
        cut.number = 3;
        let notes = [retried, good, cut];

        let mut out = Vec::new();
        super::json(&mut out, &notes);
        let read: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            read,
            json!([
                { "attempt": 1, "upstream": "app", "endpoint": null, "outcome": "status_503", "duration_ms": 2.0,
                  "connection_reused": true, "endpoint_available": null, "deadline_left_ms": 900.0, "then": "retried" },
                { "attempt": 3, "upstream": "app", "endpoint": null, "outcome": "cut", "duration_ms": 2.0,
                  "connection_reused": true, "endpoint_available": null, "deadline_left_ms": 900.0, "then": null },
            ])
        );

        let mut out = Vec::new();
        assert!(text(&mut out, &notes, Style::Text));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "1: app status_503 after 2.000 ms, retried; 3: app cut after 2.000 ms"
        );
    }

    #[test]
    fn nothing_failed() {
        let notes = [note(Outcome::UnderWay)];
        let mut out = Vec::new();
        super::json(&mut out, &notes);
        assert_eq!(out, b"[]");
        assert!(!text(&mut out, &notes, Style::Text));
        assert_eq!(out, b"[]");
    }
}

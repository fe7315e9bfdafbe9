//! Trace contexts as requests carry them: W3C Trace Context (level 2), and B3 as Zipkin's clients
//! write it.
//!
//! What is broken is as if it weren't there: a trace must never be the reason why a request fails.

use opentelemetry::{SpanId, TraceFlags, TraceId};

use super::TraceRef;
use crate::{
    config::model::Propagator,
    hex,
    http::{
        fields::Fields,
        name::{self, Kind, Name},
    },
};

/// What a request brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The trace and the span of the sender in it. B3 may bring a decision alone.
    pub parent: Option<(TraceId, SpanId)>,
    /// What the sender has decided; B3 may leave that open.
    pub sampled: Option<bool>,
    /// B3's: sampled whatever anybody thinks of it, and told on as such.
    pub debug: bool,
    /// Other flags of `traceparent`, told on as they are.
    random: bool,
    pub form: Propagator,
}

/// What is told of a trace to the next hop.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    pub sampled: bool,
    pub debug: bool,
    pub random: bool,
}

/// Any of these says something of a trace.
const X_B3: [Name; 4] = [
    name::X_B3_TRACE_ID,
    name::X_B3_SPAN_ID,
    name::X_B3_SAMPLED,
    name::X_B3_FLAGS,
];

/// "The trace id was made at random, all of it" (Trace Context level 2, section 3.2.2.5).
const RANDOM: u8 = 2;

impl Incoming {
    /// Reads the first form that is there.
    pub fn read(fields: &Fields, forms: &[Propagator]) -> Option<Self> {
        const ANY: u32 = Kind::Traceparent.bit() | Kind::B3.bit();
        if !fields.may_have(ANY) {
            return None;
        }
        forms.iter().find_map(|form| match form {
            Propagator::TraceContext => trace_context(fields),
            // Whichever of them is written, both are read ("B3 Extract" of OpenTelemetry's
            // propagators).
            Propagator::B3 | Propagator::B3Multi => {
                let single = fields.get(&name::B3).and_then(b3);
                single.or_else(|| b3_multi(fields))
            }
        })
    }

    /// The same with nothing to go by but what may be there.
    pub fn read_any(fields: &Fields) -> Option<Self> {
        Self::read(fields, &[Propagator::TraceContext, Propagator::B3])
    }

    /// Where it came from, for a process that doesn't trace.
    pub fn reference(&self) -> Option<TraceRef> {
        let (trace_id, span_id) = self.parent?;
        let sampled = self.sampled.unwrap_or(false);
        Some(TraceRef::new(trace_id, span_id, sampled))
    }

    pub const fn is_random(&self) -> bool {
        self.random
    }
}

impl Outgoing {
    /// Writes it in each of the forms, in place of what is there.
    pub fn write(&self, fields: &mut Fields, forms: &[Propagator]) {
        for form in forms {
            match form {
                Propagator::TraceContext => {
                    fields.insert(&name::TRACEPARENT, &self.traceparent());
                }
                Propagator::B3 => {
                    self.write_b3(fields);
                    // What came in the other form must not say otherwise.
                    if X_B3.iter().any(|name| fields.get(name).is_some()) {
                        self.write_b3_multi(fields);
                    }
                }
                Propagator::B3Multi => {
                    self.write_b3_multi(fields);
                    if fields.get(&name::B3).is_some() {
                        self.write_b3(fields);
                    }
                }
            }
        }
    }

    fn write_b3(&self, fields: &mut Fields) {
        let mut text = [b'-'; 51];
        hex::spell(&self.trace_id.to_bytes(), &mut text[..32]);
        hex::spell(&self.span_id.to_bytes(), &mut text[33..49]);
        text[50] = self.b3_decision();
        fields.insert(&name::B3, &text);
    }

    fn write_b3_multi(&self, fields: &mut Fields) {
        let (mut trace_id, mut span_id) = ([0; 32], [0; 16]);
        hex::spell(&self.trace_id.to_bytes(), &mut trace_id);
        hex::spell(&self.span_id.to_bytes(), &mut span_id);
        fields.remove(&name::X_B3_PARENT_SPAN_ID);
        fields.insert(&name::X_B3_TRACE_ID, &trace_id);
        fields.insert(&name::X_B3_SPAN_ID, &span_id);
        if self.debug {
            // It implies that it is sampled, and must not stand beside that.
            fields.remove(&name::X_B3_SAMPLED);
            fields.insert(&name::X_B3_FLAGS, b"1");
        } else {
            fields.remove(&name::X_B3_FLAGS);
            fields.insert(&name::X_B3_SAMPLED, &[self.b3_decision()]);
        }
    }

    fn traceparent(&self) -> [u8; 55] {
        let mut text = *b"00-................................-................-00";
        hex::spell(&self.trace_id.to_bytes(), &mut text[3..35]);
        hex::spell(&self.span_id.to_bytes(), &mut text[36..52]);
        [text[53], text[54]] = hex::lower(self.flags());
        text
    }

    /// As OTLP and `traceparent` have them.
    pub fn flags(&self) -> u8 {
        let sampled = TraceFlags::default().with_sampled(self.sampled).to_u8();
        sampled | if self.random { RANDOM } else { 0 }
    }

    const fn b3_decision(&self) -> u8 {
        match (self.debug, self.sampled) {
            (true, _) => b'd',
            (false, true) => b'1',
            (false, false) => b'0',
        }
    }
}

/// Drops what the sender's vendor said of a trace that goes on no further.
pub(super) fn forget_state(fields: &mut Fields) {
    if fields.may_have(Kind::Tracestate.bit()) {
        fields.remove(&name::TRACESTATE);
    }
}

/// `version-traceid-parentid-flags`, in lower case. A later version may be longer, but begins so.
fn trace_context(fields: &Fields) -> Option<Incoming> {
    let mut lines = fields.get_all(&name::TRACEPARENT);
    let text = lines.next()?;
    if lines.next().is_some() {
        return None;
    }
    let [version] = unhex::<1>(text.get(..2)?)?;
    let whole = match version {
        0 => text.len() == 55,
        0xff => false,
        _ => text.get(55).is_none_or(|&next| next == b'-'),
    };
    let (text, _) = text.split_at_checked(55)?;
    if !whole || text[2] != b'-' || text[35] != b'-' || text[52] != b'-' {
        return None;
    }
    if text.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let [flags] = unhex::<1>(&text[53..])?;
    Some(Incoming {
        parent: Some(ids(&text[3..35], &text[36..52])?),
        sampled: Some(TraceFlags::new(flags).is_sampled()),
        debug: false,
        random: flags & RANDOM != 0,
        form: Propagator::TraceContext,
    })
}

/// `traceid-spanid[-decision[-parentspanid]]`, or a decision alone.
fn b3(text: &[u8]) -> Option<Incoming> {
    let mut parts = text.split(|&byte| byte == b'-');
    let first = parts.next()?;
    let Some(span_id) = parts.next() else {
        return decided(first, None, Propagator::B3);
    };
    let parent = Some(ids(first, span_id)?);
    let incoming = match parts.next() {
        Some(decision) => decided(decision, parent, Propagator::B3)?,
        None => open(parent, Propagator::B3),
    };
    // Who the sender's own parent is, is nothing to us.
    let rest = parts.next().is_none_or(|id| unhex::<8>(id).is_some());
    (rest && parts.next().is_none()).then_some(incoming)
}

fn b3_multi(fields: &Fields) -> Option<Incoming> {
    let parent = match (
        fields.get(&name::X_B3_TRACE_ID),
        fields.get(&name::X_B3_SPAN_ID),
    ) {
        (Some(trace_id), Some(span_id)) => Some(ids(trace_id, span_id)?),
        _ => None,
    };
    if fields.get(&name::X_B3_FLAGS) == Some(b"1") {
        return decided(b"d", parent, Propagator::B3Multi);
    }
    match fields.get(&name::X_B3_SAMPLED) {
        Some(decision) => decided(decision, parent, Propagator::B3Multi),
        None => parent.map(|parent| open(Some(parent), Propagator::B3Multi)),
    }
}

fn open(parent: Option<(TraceId, SpanId)>, form: Propagator) -> Incoming {
    Incoming {
        parent,
        sampled: None,
        debug: false,
        random: false,
        form,
    }
}

fn decided(text: &[u8], parent: Option<(TraceId, SpanId)>, form: Propagator) -> Option<Incoming> {
    let (sampled, debug) = match text {
        b"1" | b"true" => (true, false),
        b"d" => (true, true),
        b"0" | b"false" => (false, false),
        _ => return None,
    };
    Some(Incoming {
        sampled: Some(sampled),
        debug,
        ..open(parent, form)
    })
}

/// Of 128 or 64 bits and of 64, neither of them zero.
fn ids(trace_id: &[u8], span_id: &[u8]) -> Option<(TraceId, SpanId)> {
    let trace_id = match trace_id.len() {
        16 => u128::from(u64::from_be_bytes(unhex(trace_id)?)).to_be_bytes(),
        _ => unhex(trace_id)?,
    };
    let (trace_id, span_id) = (
        TraceId::from_bytes(trace_id),
        SpanId::from_bytes(unhex(span_id)?),
    );
    let known = trace_id != TraceId::INVALID && span_id != SpanId::INVALID;
    known.then_some((trace_id, span_id))
}

fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = hex::pair(pair[0], pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";
    const ALL: [Propagator; 3] = [
        Propagator::TraceContext,
        Propagator::B3,
        Propagator::B3Multi,
    ];

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn read(lines: &[(&str, &str)]) -> Option<Incoming> {
        Incoming::read(&fields(lines), &ALL)
    }

    fn known() -> Option<(TraceId, SpanId)> {
        ids(TRACE.as_bytes(), SPAN.as_bytes())
    }

    #[test]
    fn trace_context_is_read_as_its_specification_says() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let found = read(&[("traceparent", &good)]).unwrap();
        assert_eq!((found.parent, found.sampled), (known(), Some(true)));
        let unsampled = read(&[("Traceparent", &format!("00-{TRACE}-{SPAN}-02"))]).unwrap();
        assert_eq!((unsampled.sampled, unsampled.random), (Some(false), true));
        let later = format!("cc-{TRACE}-{SPAN}-01-what-comes-then");
        assert_eq!(read(&[("traceparent", &later)]).unwrap().parent, known());
        for bad in [
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01.more"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}_{SPAN}-01"),
            "00".to_owned(),
            String::new(),
        ] {
            assert_eq!(read(&[("traceparent", &bad)]), None, "{bad}");
        }
        assert_eq!(
            read(&[("traceparent", &good), ("traceparent", &good)]),
            None,
            "two are none"
        );
    }

    #[test]
    fn b3_is_read_in_both_forms() {
        let of =
            |found: Option<Incoming>| found.map(|found| (found.parent, found.sampled, found.debug));
        for (text, expected) in [
            (format!("{TRACE}-{SPAN}-1"), (known(), Some(true), false)),
            (format!("{TRACE}-{SPAN}-0"), (known(), Some(false), false)),
            (
                format!("{TRACE}-{SPAN}-d-{SPAN}"),
                (known(), Some(true), true),
            ),
            (format!("{TRACE}-{SPAN}"), (known(), None, false)),
            ("0".to_owned(), (None, Some(false), false)),
        ] {
            assert_eq!(of(read(&[("b3", &text)])), Some(expected), "{text}");
        }
        let short = read(&[("b3", &format!("{}-{SPAN}-1", &TRACE[16..]))]).unwrap();
        let (trace_id, _) = short.parent.unwrap();
        assert_eq!(
            trace_id.to_string(),
            format!("{}{}", "0".repeat(16), &TRACE[16..])
        );
        for bad in [
            "",
            "2",
            "x-y",
            &format!("{TRACE}-{SPAN}-2"),
            &format!("{TRACE}-{SPAN}-1-x"),
        ] {
            assert_eq!(read(&[("b3", bad)]), None, "{bad}");
        }
        let multi = [("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN)];
        assert_eq!(of(read(&multi)), Some((known(), None, false)));
        let with = |more| of(read(&[multi[0], multi[1], more]));
        assert_eq!(
            with(("x-b3-sampled", "1")),
            Some((known(), Some(true), false))
        );
        assert_eq!(
            with(("x-b3-sampled", "false")),
            Some((known(), Some(false), false))
        );
        assert_eq!(with(("x-b3-flags", "1")), Some((known(), Some(true), true)));
        assert_eq!(
            of(read(&[("x-b3-sampled", "0")])),
            Some((None, Some(false), false))
        );
    }

    #[test]
    fn the_first_form_that_is_there_and_whole_is_taken() {
        let b3 = format!("{TRACE}-{SPAN}-0");
        let found = read(&[("traceparent", "broken"), ("b3", &b3)]).unwrap();
        assert_eq!(found.form, Propagator::B3);
        let both = [
            ("b3", &*b3),
            ("traceparent", &format!("00-{TRACE}-{SPAN}-01")),
        ];
        assert_eq!(read(&both).unwrap().form, Propagator::TraceContext);
        let only = Incoming::read(&fields(&both), &[Propagator::B3]).unwrap();
        assert_eq!(only.sampled, Some(false));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (trace_id, span_id) = known().unwrap();
        for (sampled, debug) in [(false, false), (true, false), (true, true)] {
            for form in ALL {
                let stale = [
                    ("x-b3-parentspanid", SPAN),
                    ("x-b3-flags", "1"),
                    ("x-b3-sampled", "1"),
                ];
                let mut fields = fields(&stale);
                let outgoing = Outgoing {
                    trace_id,
                    span_id,
                    sampled,
                    debug,
                    random: true,
                };
                outgoing.write(&mut fields, &[form]);
                let found = Incoming::read(&fields, &[form]).unwrap();
                assert_eq!(
                    (found.parent, found.sampled),
                    (known(), Some(sampled)),
                    "{form:?}"
                );
                assert_eq!(found.debug, debug && form != Propagator::TraceContext);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_borne(value in "\\PC{0,80}", which in 0..6usize) {
            let name = ["traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"][which];
            let _ = read(&[(name, &value)]);
        }

        #[test]
        fn what_nearly_is_one_is_borne(value in "[0-9a-f]{0,34}-?[0-9a-f]{0,18}-?[01d]{0,3}-?[0-9a-f]{0,18}") {
            let _ = read(&[("b3", &value)]);
            let _ = read(&[("traceparent", &format!("00-{value}"))]);
        }
    }
}

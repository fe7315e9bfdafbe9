//! The header lines of a message: a flat list over one text.
//!
//! A proxy reads a head, changes few of its lines and writes it out again. So the text is kept as
//! it came, lines are places in it, and what is added is appended: nothing is hashed, no line has
//! an allocation of its own, and untouched lines are written with one copy. Names keep their
//! spelling, since old HTTP/1.1 peers compare them byte by byte.

use std::{cell::RefCell, fmt, mem::take};

use bytes::{BufMut, BytesMut};

use super::name::{FieldName, Kind, capitalize};

/// Heads kept by a worker for its next messages; more are freed.
const KEPT: usize = 64;
/// A head whose text grew past this is freed.
const LARGEST: usize = 8 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
}

/// What a list of fields is made of.
type Memory = (Vec<u8>, Vec<Line>);

/// The fields of a head or a trailer section, in order. Their memory goes round within a worker.
pub struct Fields {
    /// Holds `name: value\r\n` for each line, and text between them that no line points to.
    text: Vec<u8>,
    lines: Vec<Line>,
    /// Kinds that may be present: never one too few.
    kinds: u32,
    spelling: Spelling,
}

/// How names that are added are spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spelling {
    /// `Content-Type`
    #[default]
    Canonical,
    /// In a head where no name begins with a capital.
    Lower,
    /// From HTTP/2, where names have no case: lower case here, and canonical in HTTP/1.1.
    Caseless,
}

/// Where a value is in the text of its [`Fields`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize, usize);

#[derive(Clone, Copy, Debug)]
struct Line {
    name: u32,
    value: u32,
    value_len: u32,
    name_len: u32,
    kind: Kind,
    /// Whether it stands in the text as it is written: one space, CRLF.
    plain: bool,
}

impl Line {
    #[inline]
    fn name<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        &text[self.name as usize..][..self.name_len as usize]
    }

    #[inline]
    fn value<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        &text[self.value as usize..][..self.value_len as usize]
    }

    /// Of a plain line: behind its CRLF.
    fn end(&self) -> usize {
        (self.value + self.value_len) as usize + 2
    }
}

/// Into memory that goes round, as all of theirs.
impl Clone for Fields {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.spelling);
        copy.text.extend_from_slice(&self.text);
        copy.lines.extend_from_slice(&self.lines);
        copy.kinds = self.kinds;
        copy
    }
}

impl Fields {
    /// No lines.
    pub fn new(spelling: Spelling) -> Self {
        let (text, lines) = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        Self {
            text,
            lines,
            kinds: 0,
            spelling,
        }
    }

    /// Lines over a copy of `head`, which `parsed` points into.
    ///
    /// # Panics
    /// A line that lies elsewhere.
    pub fn over(head: &[u8], parsed: &[httparse::Header<'_>]) -> Self {
        let mut fields = Self::new(Spelling::Lower);
        fields.text.extend_from_slice(head);
        let base = head.as_ptr().addr();
        for line in parsed {
            let name = line.name.as_bytes();
            let at = name.as_ptr().addr() - base;
            let value_at = match line.value.len() {
                // An empty slice may point anywhere.
                0 => at + name.len() + 2,
                _ => line.value.as_ptr().addr() - base,
            };
            let end = value_at + line.value.len();
            let plain = value_at == at + name.len() + 2
                && head[at + name.len() + 1] == b' '
                && head.get(end..end + 2) == Some(b"\r\n");
            if name[0].is_ascii_uppercase() {
                fields.spelling = Spelling::Canonical;
            }
            // A head is bounded far below 4 GiB, and so is each part of it.
            fields.add(Line {
                name: at as u32,
                value: if line.value.is_empty() {
                    0
                } else {
                    value_at as u32
                },
                value_len: line.value.len() as u32,
                name_len: name.len() as u32,
                kind: Kind::of(name),
                plain: plain && !line.value.is_empty(),
            });
        }
        fields
    }

    /// Adds a line. `name` is a token, `value` a valid field value.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.add_text(
            Kind::of(name),
            |text| text.extend_from_slice(name),
            put(value),
        );
    }

    /// Adds a line behind those of the same name.
    pub fn append(&mut self, name: &impl FieldName, value: &[u8]) {
        self.add_text(name.kind(), spelled(self.spelling, name), put(value));
    }

    /// Adds a line with a value that another has already.
    pub fn append_copy(&mut self, name: &impl FieldName, of: Place) {
        self.add_text(name.kind(), spelled(self.spelling, name), |text| {
            text.extend_from_within(of.0..of.1);
        });
    }

    /// Adds a line in place of those of this name.
    pub fn insert(&mut self, name: &impl FieldName, value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Takes away every line of this name. Whether there was one.
    pub fn remove(&mut self, name: &impl FieldName) -> bool {
        let kind = name.kind();
        if !self.may_have(kind.bit()) {
            return false;
        }
        let before = self.lines.len();
        let text = &self.text;
        self.lines.retain(|line| !is(line, text, kind, name));
        if !kind.is_group() {
            self.kinds &= !kind.bit();
        }
        self.lines.len() != before
    }

    /// Takes away the lines for which `gone` holds.
    pub fn remove_if(&mut self, mut gone: impl FnMut(&[u8], Kind) -> bool) {
        let text = &self.text;
        self.lines.retain(|line| !gone(line.name(text), line.kind));
    }

    /// Keeps the first line of a kind only.
    pub fn keep_first(&mut self, kind: Kind) {
        let mut seen = false;
        self.remove_if(|_, of| of == kind && std::mem::replace(&mut seen, true));
    }

    /// Where the value of the first line of this name is: valid also when lines are added or taken
    /// away.
    pub fn place(&self, name: &impl FieldName) -> Option<Place> {
        let value = self.get(name)?;
        let start = match value.len() {
            0 => 0,
            _ => value.as_ptr().addr() - self.text.as_ptr().addr(),
        };
        Some(Place(start, start + value.len()))
    }

    /// The value in this place.
    pub fn at(&self, place: Place) -> &[u8] {
        &self.text[place.0..place.1]
    }

    /// Whether lines of one of these kinds may be there; if not, there is none.
    pub fn may_have(&self, kinds: u32) -> bool {
        self.kinds & kinds != 0
    }

    /// The first line of this name.
    pub fn get(&self, name: &impl FieldName) -> Option<&[u8]> {
        let kind = name.kind();
        if !self.may_have(kind.bit()) {
            return None;
        }
        let mut lines = self.lines.iter();
        let line = lines.find(|line| is(line, &self.text, kind, name))?;
        Some(line.value(&self.text))
    }

    pub fn contains(&self, name: &impl FieldName) -> bool {
        self.get(name).is_some()
    }

    /// Every line of this name, in order.
    pub fn get_all<'f, N: FieldName>(&'f self, name: &'f N) -> impl Iterator<Item = &'f [u8]> {
        let kind = name.kind();
        let lines = if self.may_have(kind.bit()) {
            self.lines.as_slice()
        } else {
            &[]
        };
        lines
            .iter()
            .filter(move |line| is(line, &self.text, kind, name))
            .map(|line| line.value(&self.text))
    }

    /// Names, as they are spelled here, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines().map(|(_, name, value)| (name, value))
    }

    /// The same with the kind of each.
    pub fn lines(&self) -> impl Iterator<Item = (Kind, &[u8], &[u8])> {
        let text = &self.text;
        let parts = |line: &Line| (line.kind, line.name(text), line.value(text));
        self.lines.iter().map(parts)
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How added names are spelled.
    pub fn spelling(&self) -> Spelling {
        self.spelling
    }

    /// Writes the lines of an HTTP/1.1 head, but for those of the kinds in `without`.
    pub fn write(&self, without: u32, out: &mut BytesMut) {
        let text = &self.text;
        out.reserve(text.len() + 4 * self.lines.len());
        if self.spelling == Spelling::Caseless {
            return self.write_capitalized(without, out);
        }
        // Plain lines that follow each other are one piece.
        let mut piece = 0..0;
        for line in &self.lines {
            if line.kind.bit() & without != 0 {
                continue;
            }
            let start = line.name as usize;
            if line.plain && start == piece.end {
                piece.end = line.end();
                continue;
            }
            out.put_slice(&text[piece]);
            piece = start..start;
            if line.plain {
                piece.end = line.end();
            } else {
                put_line(out, line.name(text), line.value(text));
            }
        }
        out.put_slice(&text[piece]);
    }

    fn write_capitalized(&self, without: u32, out: &mut BytesMut) {
        for (kind, name, value) in self.lines() {
            if kind.bit() & without == 0 {
                let start = out.len();
                put_line(out, name, value);
                capitalize(&mut out[start..start + name.len()]);
            }
        }
    }
}

fn put_line(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn is(line: &Line, text: &[u8], kind: Kind, name: &impl FieldName) -> bool {
    line.kind == kind && (!kind.is_group() || name.is(line.name(text)))
}

impl Fields {
    fn add(&mut self, line: Line) {
        self.kinds |= line.kind.bit();
        self.lines.push(line);
    }

    fn add_text(
        &mut self,
        kind: Kind,
        name: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.text.len();
        name(&mut self.text);
        let name_end = self.text.len();
        self.text.extend_from_slice(b": ");
        let value_start = self.text.len();
        value(&mut self.text);
        let end = self.text.len();
        debug_assert!(is_value(&self.text[value_start..]));
        self.text.extend_from_slice(b"\r\n");
        self.add(Line {
            name: start as u32,
            value: value_start as u32,
            value_len: (end - value_start) as u32,
            name_len: (name_end - start) as u32,
            kind,
            plain: true,
        });
    }
}

fn put(value: &[u8]) -> impl FnOnce(&mut Vec<u8>) {
    |text| text.extend_from_slice(value)
}

fn spelled(spelling: Spelling, name: &impl FieldName) -> impl FnOnce(&mut Vec<u8>) {
    move |text| match spelling {
        Spelling::Canonical => name.push_canonical(text),
        Spelling::Lower | Spelling::Caseless => text.extend_from_slice(name.text()),
    }
}

/// Whether these bytes may be a field value (RFC 9110 section 5.5).
pub fn is_value(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Fields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(lines: I) -> Self {
        let mut fields = Self::default();
        for (name, value) in lines {
            fields.push(name.as_ref(), value.as_ref());
        }
        fields
    }
}

impl Default for Fields {
    fn default() -> Self {
        Self::new(Spelling::Canonical)
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        if self.text.capacity() > LARGEST || self.lines.capacity() == 0 {
            return;
        }
        let (mut text, mut lines) = (take(&mut self.text), take(&mut self.lines));
        text.clear();
        lines.clear();
        // At the end of the thread there is nobody to keep it for.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push((text, lines));
            }
        });
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |(name, value)| {
            (
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(value),
            )
        };
        f.debug_map().entries(self.iter().map(text)).finish()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;
    use crate::http::name;

    fn read(head: &str) -> Fields {
        let mut lines = [httparse::EMPTY_HEADER; 32];
        let httparse::Status::Complete((_, lines)) =
            httparse::parse_headers(head.as_bytes(), &mut lines).unwrap()
        else {
            panic!("an incomplete head");
        };
        Fields::over(head.as_bytes(), lines)
    }

    fn written(fields: &Fields, without: u32) -> String {
        let mut out = BytesMut::new();
        fields.write(without, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn untouched_lines_are_written_as_they_came() {
        let lines = "Host: a\r\nX-CAMELcase: b, c\r\nx-lower: d e\r\n";
        assert_eq!(written(&read(&format!("{lines}\r\n")), 0), lines);
    }

    #[test]
    fn only_space_around_values_is_made_canonical() {
        let fields = read("Host:a\r\nA: \t b \t\r\nEmpty:\r\nBlank:   \r\nC: d\r\n\r\n");
        assert_eq!(
            written(&fields, 0),
            "Host: a\r\nA: b\r\nEmpty: \r\nBlank: \r\nC: d\r\n"
        );
        assert_eq!(
            fields.get(&HeaderName::from_static("empty")),
            Some(&b""[..])
        );
    }

    #[test]
    fn lines_are_found_removed_and_added() {
        let mut fields = read("Host: a\r\nVIA: 1\r\nX-A: 2\r\nvia: 3\r\nx-a: 4\r\n\r\n");
        let x_a = HeaderName::from_static("x-a");
        assert_eq!(fields.get(&name::VIA), Some(&b"1"[..]));
        assert_eq!(fields.get_all(&x_a).collect::<Vec<_>>(), [b"2", b"4"]);
        assert!(fields.remove(&name::VIA) && !fields.remove(&name::VIA));
        assert!(!fields.may_have(Kind::Via.bit()));
        fields.insert(&x_a, b"5");
        let host = fields.place(&name::HOST).unwrap();
        fields.append_copy(&name::X_FORWARDED_HOST, host);
        assert_eq!(
            written(&fields, 0),
            "Host: a\r\nX-A: 5\r\nX-Forwarded-Host: a\r\n"
        );
        assert_eq!(
            written(&fields, Kind::Host.bit()),
            "X-A: 5\r\nX-Forwarded-Host: a\r\n"
        );
        assert_eq!(written(&fields, !Kind::Host.bit()), "Host: a\r\n");
        assert_eq!((fields.at(host), fields.len()), (&b"a"[..], 3));
    }

    #[test]
    fn added_names_are_spelled_like_the_others() {
        let mut lower = read("host: a\r\n\r\n");
        lower.append(&name::X_REQUEST_ID, b"1");
        assert_eq!(written(&lower, 0), "host: a\r\nx-request-id: 1\r\n");
        let mut caseless = Fields::new(Spelling::Caseless);
        caseless.push(b"etag", b"1");
        caseless.append(&name::VIA, b"2");
        assert_eq!(written(&caseless, 0), "ETag: 1\r\nVia: 2\r\n");
        assert_eq!(caseless.iter().next(), Some((&b"etag"[..], &b"1"[..])));
    }

    #[test]
    fn memory_goes_round() {
        let mut first = Fields::default();
        first.push(b"a", b"b");
        let text = first.text.as_ptr();
        drop(first);
        let second = Fields::default();
        assert_eq!((second.text.as_ptr(), second.len()), (text, 0));
    }

    proptest! {
        /// Against a plain list of pairs.
        #[test]
        fn edits_are_those_of_a_list(
            edits in prop::collection::vec((0_usize..4, 0_usize..6, "[a-z]{0,5}"), 0..30),
        ) {
            let names = ["host", "via", "x-a", "keep-alive", "x-forwarded-for", "x-pillion-b"]
                .map(HeaderName::from_static);
            let mut fields = read("X-A: 0\r\nvia:0\r\nKeep-Alive: 0\r\n\r\n");
            let mut list: Vec<(String, String)> = fields.iter().map(text).collect();
            for (edit, name, value) in edits {
                let name = &names[name];
                match edit {
                    0 => fields.append(name, value.as_bytes()),
                    1 => fields.insert(name, value.as_bytes()),
                    2 => fields.push(name.as_str().as_bytes(), value.as_bytes()),
                    _ => {
                        let there = list.iter().any(|(other, _)| other == name.as_str());
                        prop_assert_eq!(fields.remove(name), there);
                    }
                }
                if edit % 2 == 1 {
                    list.retain(|(other, _)| other != name.as_str());
                }
                if edit != 3 {
                    list.push((name.to_string(), value));
                }
                prop_assert_eq!(fields.iter().map(text).collect::<Vec<_>>(), list.clone());
                let whole = read(&format!("{}\r\n", written(&fields, 0)));
                prop_assert_eq!(whole.iter().map(text).collect::<Vec<_>>(), list.clone());
                for name in &names {
                    let first = list.iter().find(|(other, _)| other == name.as_str());
                    let first = first.map(|(_, value)| value.as_bytes());
                    prop_assert_eq!(fields.get(name), first);
                }
            }
        }
    }

    fn text((name, value): (&[u8], &[u8])) -> (String, String) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(name).to_ascii_lowercase(), text(value))
    }
}

//! The two tables of HPACK (RFC 7541 section 2.3): one is fixed, one is written by the encoder and
//! followed by the decoder.

use std::{collections::VecDeque, ops::Range};

/// What an entry counts beyond its text (RFC 7541 section 4.1).
pub(super) const OVERHEAD: usize = 32;
/// Entries of the static table: the first index of the dynamic one is one more.
pub(super) const STATIC_LENGTH: usize = STATIC.len();

/// RFC 7541 appendix A; index 1 is the first.
#[rustfmt::skip]
pub(super) const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

/// Where the static table has a name first.
pub(super) fn static_name(name: &[u8]) -> Option<usize> {
    Some(match name {
        b":authority" => 1,
        b":method" => 2,
        b":path" => 4,
        b":scheme" => 6,
        b":status" => 8,
        b"accept-charset" => 15,
        b"accept-encoding" => 16,
        b"accept-language" => 17,
        b"accept-ranges" => 18,
        b"accept" => 19,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"authorization" => 23,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-length" => 28,
        b"content-location" => 29,
        b"content-range" => 30,
        b"content-type" => 31,
        b"cookie" => 32,
        b"date" => 33,
        b"etag" => 34,
        b"expect" => 35,
        b"expires" => 36,
        b"from" => 37,
        b"host" => 38,
        b"if-match" => 39,
        b"if-modified-since" => 40,
        b"if-none-match" => 41,
        b"if-range" => 42,
        b"if-unmodified-since" => 43,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"max-forwards" => 47,
        b"proxy-authenticate" => 48,
        b"proxy-authorization" => 49,
        b"range" => 50,
        b"referer" => 51,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"server" => 54,
        b"set-cookie" => 55,
        b"strict-transport-security" => 56,
        b"transfer-encoding" => 57,
        b"user-agent" => 58,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => return None,
    })
}

/// The dynamic table: entries in one buffer, the newest at its end, so that each is read as it
/// lies. What has been evicted stays in front until that is half of the buffer.
#[derive(Debug)]
pub(super) struct Table {
    text: Vec<u8>,
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// How many were ever evicted: the number of the oldest that is left.
    evicted: u32,
    size: usize,
    limit: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    name: u16,
    value: u16,
}

impl Entry {
    const fn name(self) -> Range<usize> {
        self.start as usize..self.start as usize + self.name as usize
    }

    const fn value(self) -> Range<usize> {
        let start = self.name().end;
        start..start + self.value as usize
    }

    const fn size(self) -> usize {
        self.name as usize + self.value as usize + OVERHEAD
    }
}

/// The name of a new entry.
#[derive(Clone, Copy)]
pub(super) enum Name<'a> {
    Text(&'a [u8]),
    /// That of an entry, counted from the newest.
    Of(usize),
}

impl Table {
    /// An empty table of so many octets at most, which lie below 64 KiB.
    pub(super) const fn new(limit: u16) -> Self {
        Self {
            text: Vec::new(),
            entries: VecDeque::new(),
            evicted: 0,
            size: 0,
            limit: limit as usize,
        }
    }

    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry at a place counted from the newest.
    pub(super) fn get(&self, place: usize) -> Option<(&[u8], &[u8])> {
        let entry = self
            .entries
            .get(self.entries.len().checked_sub(place + 1)?)?;
        Some((&self.text[entry.name()], &self.text[entry.value()]))
    }

    /// The number that the next entry will get; see [`Self::place`].
    pub(super) fn next_number(&self) -> u32 {
        self.evicted.wrapping_add(self.entries.len() as u32)
    }

    /// Where the entry of this number is now, counted from the newest.
    pub(super) fn place(&self, number: u32) -> Option<usize> {
        let behind = self.next_number().wrapping_sub(number) as usize;
        (1..=self.entries.len())
            .contains(&behind)
            .then(|| behind - 1)
    }

    /// Makes room by forgetting the oldest.
    pub(super) fn resize(&mut self, limit: u16) {
        self.limit = usize::from(limit);
        self.evict(0);
    }

    /// Adds an entry. One that is larger than the table only empties it (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, name: Name<'_>, value: &[u8]) {
        let named = match name {
            Name::Text(text) => text.len(),
            Name::Of(place) => self.get(place).map_or(0, |(name, _)| name.len()),
        };
        let size = named + value.len() + OVERHEAD;
        if size > self.limit {
            return self.clear();
        }
        let start = self.text.len();
        match name {
            Name::Text(text) => self.text.extend_from_slice(text),
            // Copied before anything is evicted: it may be the one that goes.
            Name::Of(place) => {
                let entry = self.entries[self.entries.len() - 1 - place];
                self.text.extend_from_within(entry.name());
            }
        }
        self.text.extend_from_slice(value);
        self.evict(size);
        // All three lie below the limit, which is 16 bits, or twice that.
        self.entries.push_back(Entry {
            start: start as u32,
            name: named as u16,
            value: value.len() as u16,
        });
        self.size += size;
        self.compact();
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.limit {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.size -= oldest.size();
            self.evicted = self.evicted.wrapping_add(1);
        }
    }

    fn clear(&mut self) {
        self.evicted = self.next_number();
        self.entries.clear();
        self.text.clear();
        self.size = 0;
    }

    fn compact(&mut self) {
        let dead = self.entries.front().map_or(0, |oldest| oldest.start);
        if dead as usize > self.text.len() / 2 {
            self.text.drain(..dead as usize);
            for entry in &mut self.entries {
                entry.start -= dead;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_names_are_found_where_they_are_first() {
        for (at, (name, _)) in STATIC.iter().enumerate() {
            let first = STATIC.iter().position(|(other, _)| other == name).unwrap();
            assert_eq!(static_name(name), Some(first + 1), "{at}");
        }
        assert_eq!(static_name(b"x-request-id"), None);
    }

    #[test]
    fn a_name_may_come_from_the_entry_that_it_evicts() {
        let mut table = Table::new(80);
        table.insert(Name::Text(b"a-name"), b"first");
        table.insert(Name::Of(0), &[b'x'; 40]);
        assert_eq!(table.len(), 1);
        assert_eq!(table.get(0).unwrap(), (&b"a-name"[..], &[b'x'; 40][..]));
        table.insert(Name::Of(0), &[b'x'; 50]);
        assert_eq!((table.len(), table.size), (0, 0));
    }

    #[test]
    fn numbers_follow_their_entries() {
        let mut table = Table::new(100);
        let mut last = Vec::new();
        for at in 0..50u8 {
            last.push(table.next_number());
            table.insert(Name::Text(b"n"), &[at; 4]);
            assert!(table.size <= 100 && table.text.len() <= 100);
        }
        for (at, &number) in last.iter().enumerate() {
            match table.place(number) {
                Some(place) => assert_eq!(table.get(place).unwrap().1, [at as u8; 4]),
                None => assert!(at < 48),
            }
        }
        assert_eq!(table.len(), 2);
        table.resize(0);
        assert_eq!(table.len(), 0);
    }
}

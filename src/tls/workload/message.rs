//! The one message of the Workload API that we read. What is decoded borrows from the message, so
//! that private keys lie in one place only, which is wiped.

use std::collections::BTreeMap;

use crate::protobuf::{Fields, Malformed};

/// Most identities, revocation lists or federated bundles in a message; there is no sense in so
/// many, and a few bytes of an empty one must not become hundreds of bytes here.
const MAX_ENTRIES: usize = 1000;

/// `X509SVIDResponse`: all that this workload may know, as of now.
#[derive(Default)]
pub(super) struct Response<'a> {
    pub(super) svids: Vec<Svid<'a>>,
    /// Revocation lists in DER.
    pub(super) lists: Vec<&'a [u8]>,
    /// Authorities in DER, one behind the other, by the trust domain that they vouch for.
    pub(super) federated: BTreeMap<&'a str, &'a [u8]>,
}

/// `X509SVID`: one identity. It holds a key: it has no `Debug`.
#[derive(Default)]
pub(super) struct Svid<'a> {
    pub(super) id: &'a str,
    /// Certificates in DER, one behind the other, leaf first.
    pub(super) chain: &'a [u8],
    /// PKCS#8.
    pub(super) key: &'a [u8],
    /// The authorities of its own trust domain.
    pub(super) bundle: &'a [u8],
}

impl<'a> Response<'a> {
    pub(super) fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut response = Self::default();
        let mut fields = Fields(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => push(&mut response.svids, Svid::decode(field.bytes()?)?)?,
                2 => push(&mut response.lists, field.bytes()?)?,
                3 => {
                    let (domain, authorities) = entry(field.bytes()?)?;
                    response.federated.insert(domain, authorities);
                    if response.federated.len() > MAX_ENTRIES {
                        return Err(Malformed::TooMany);
                    }
                }
                _ => {}
            }
        }
        Ok(response)
    }
}

impl<'a> Svid<'a> {
    fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut svid = Self::default();
        let mut fields = Fields(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => svid.id = field.text()?,
                2 => svid.chain = field.bytes()?,
                3 => svid.key = field.bytes()?,
                4 => svid.bundle = field.bytes()?,
                // 5 is a hint for workloads with several identities; we choose by name.
                _ => {}
            }
        }
        Ok(svid)
    }
}

/// An entry of `map<string, bytes>`.
fn entry(message: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let (mut key, mut value) = ("", &[][..]);
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => key = field.text()?,
            2 => value = field.bytes()?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn push<T>(entries: &mut Vec<T>, entry: T) -> Result<(), Malformed> {
    if entries.len() == MAX_ENTRIES {
        return Err(Malformed::TooMany);
    }
    entries.push(entry);
    Ok(())
}

#[cfg(test)]
pub(super) mod encode {
    use crate::protobuf::Writer;

    /// A field of bytes.
    pub(in super::super) fn field(number: u32, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Writer(&mut out).bytes(number, value);
        out
    }

    pub(in super::super) fn svid(id: &str, chain: &[u8], key: &[u8], bundle: &[u8]) -> Vec<u8> {
        let fields = [id.as_bytes(), chain, key, bundle];
        let encoded: Vec<u8> = (1..)
            .zip(fields)
            .flat_map(|(n, value)| field(n, value))
            .collect();
        field(1, &encoded)
    }

    pub(in super::super) fn federated(domain: &str, authorities: &[u8]) -> Vec<u8> {
        let entry = [field(1, domain.as_bytes()), field(2, authorities)].concat();
        field(3, &entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        encode::{federated, field, svid},
        *,
    };

    fn message() -> Vec<u8> {
        [
            svid("spiffe://d/a", b"chain", b"key", &[7; 300]),
            field(2, b"list"),
            federated("spiffe://e", b"authorities"),
            svid("spiffe://d/b", b"", b"", b""),
        ]
        .concat()
    }

    fn refused(message: &[u8]) -> Option<Malformed> {
        Response::decode(message).err()
    }

    #[test]
    fn all_of_it_is_read() {
        let message = message();
        let response = Response::decode(&message).unwrap();
        let [first, second] = &response.svids[..] else {
            panic!("two identities");
        };
        assert_eq!(
            (first.id, first.chain, first.key, first.bundle),
            ("spiffe://d/a", &b"chain"[..], &b"key"[..], &[7; 300][..])
        );
        assert_eq!((second.id, second.chain), ("spiffe://d/b", &b""[..]));
        assert_eq!(response.lists, [b"list"]);
        let federated: Vec<_> = response.federated.into_iter().collect();
        assert_eq!(federated, [("spiffe://e", &b"authorities"[..])]);
        assert!(Response::decode(b"").unwrap().svids.is_empty());
    }

    #[test]
    fn what_is_unknown_is_skipped() {
        // A varint, eight bytes, four bytes, bytes; then what is known.
        let mut unknown = b"\x78\xff\x01\x71abcdefgh\x75abcd\x7a\x02hi".to_vec();
        unknown.extend(message());
        assert_eq!(Response::decode(&unknown).unwrap().svids.len(), 2);
    }

    #[test]
    fn what_is_broken_is_refused() {
        assert_eq!(refused(b"\x0a\x05ab"), Some(Malformed::Truncated));
        assert_eq!(refused(b"\x0a"), Some(Malformed::Truncated));
        assert_eq!(refused(b"\x08\x01"), Some(Malformed::NotBytes));
        assert_eq!(refused(b"\x0a\x03\x0a\x01\xff"), Some(Malformed::Text));
        let many = field(1, b"").repeat(MAX_ENTRIES + 1);
        assert_eq!(refused(&many), Some(Malformed::TooMany));
    }

    #[test]
    fn no_cut_is_taken_for_the_whole() {
        // Where a cut falls between two fields it can't be told from a shorter message.
        let message = svid("spiffe://d/a", b"chain", b"key", b"bundle");
        for length in 1..message.len() {
            assert_eq!(refused(&message[..length]), Some(Malformed::Truncated));
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Response::decode(&bytes);
        }

        #[test]
        fn neither_does_a_message_with_some_changed(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut message = message();
            for (at, byte) in changes {
                let at = at.index(message.len());
                message[at] = byte;
            }
            let _ = Response::decode(&message);
        }
    }
}

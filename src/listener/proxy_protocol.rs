//! The PROXY protocol, versions 1 and 2, in and out (haproxy.org, `proxy-protocol.txt`).
//!
//! Reading takes not one byte more than the header, so that the stream goes on as if it had never
//! been there: what the socket holds is looked at with `MSG_PEEK`, and only what surely belongs to
//! the header is taken.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use ppp::{v1, v2};
use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, Interest};

use crate::{
    config::model::{Address, ProxyVersion},
    net::Stream,
    worker::Proxied,
};

/// `PROXY`, two IPv6 addresses, two ports, CRLF: section 2.1 of the specification.
const MAX_V1: usize = 107;
/// A version 2 header with more than this in its TLVs is refused.
const MAX_V2: usize = 4096;
/// Signature, version and command, family and protocol, length.
const V2_FIXED: usize = 16;

/// Reads the header that must come first. `None`: it is there, but names no address (`LOCAL`,
/// `UNKNOWN`, Unix sockets), and the socket's own ends count.
///
/// Set a time limit around it; the size is limited here (107 bytes, or 4 KiB for version 2).
pub async fn read(stream: &mut Stream) -> io::Result<Option<Proxied>> {
    let mut head = Vec::with_capacity(MAX_V1);
    let mut peeked = [0; 256];
    loop {
        let count = peek(stream, &mut peeked).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = head.len();
        head.extend_from_slice(&peeked[..count]);
        let end = scan(&head).map_err(invalid)?;
        head.truncate(end.unwrap_or(head.len()));
        stream
            .read_exact(&mut peeked[..head.len() - before])
            .await?;
        if end.is_some() {
            return parse(&head).map_err(invalid);
        }
    }
}

/// The header to send for a connection from `source` to `destination`. Where one of them is no IP
/// address the header says that it is unknown. Of mixed families, IPv4 is mapped into IPv6.
pub fn encode(version: ProxyVersion, source: &Address, destination: &Address) -> Vec<u8> {
    let ends = match (source, destination) {
        (Address::Tcp(source), Address::Tcp(destination)) => {
            Some(one_family(*source, *destination))
        }
        _ => None,
    };
    match version {
        ProxyVersion::V1 => encode_v1(ends),
        ProxyVersion::V2 => encode_v2(ends),
    }
}

/// The header of a connection that nobody's is but ours (version 2: `LOCAL`).
pub const fn own(version: ProxyVersion) -> &'static [u8] {
    match version {
        ProxyVersion::V1 => b"PROXY UNKNOWN\r\n",
        ProxyVersion::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

fn encode_v1(ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((source, destination)) = ends else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!(
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    )
    .into_bytes()
}

fn encode_v2(ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut header = v2::PROTOCOL_PREFIX.to_vec();
    header.push(v2::Version::Two as u8 | v2::Command::Proxy as u8);
    let Some((source, destination)) = ends else {
        header.extend_from_slice(&[0, 0, 0]);
        return header;
    };
    let (family, length) = if source.is_ipv4() {
        (0x10, 12)
    } else {
        (0x20, 36)
    };
    header.extend_from_slice(&[family | v2::Protocol::Stream as u8, 0, length]);
    for end in [source, destination] {
        match end.ip() {
            IpAddr::V4(ip) => header.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => header.extend_from_slice(&ip.octets()),
        }
    }
    header.extend_from_slice(&source.port().to_be_bytes());
    header.extend_from_slice(&destination.port().to_be_bytes());
    header
}

fn one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |end: SocketAddr| match end {
        SocketAddr::V4(end) => SocketAddr::new(end.ip().to_ipv6_mapped().into(), end.port()),
        SocketAddr::V6(_) => end,
    };
    (mapped(source), mapped(destination))
}

/// Where the header ends: `None` when it goes on beyond `bytes`, all of which belong to it then.
fn scan(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let signature = bytes.len().min(v2::PROTOCOL_PREFIX.len());
    if bytes[..signature] == v2::PROTOCOL_PREFIX[..signature] {
        let Some(fixed) = bytes.get(..V2_FIXED) else {
            return Ok(None);
        };
        let length = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        if length > MAX_V2 {
            return Err("too long");
        }
        return Ok((bytes.len() >= length).then_some(length));
    }
    let prefix = bytes.len().min(b"PROXY ".len());
    if bytes[..prefix] != b"PROXY "[..prefix] {
        return Err("the connection does not begin with one");
    }
    match bytes.iter().take(MAX_V1).position(|&byte| byte == b'\n') {
        Some(newline) => Ok(Some(newline + 1)),
        None if bytes.len() >= MAX_V1 => Err("too long"),
        None => Ok(None),
    }
}

/// Parses one whole header, as [`scan`] cut it.
fn parse(header: &[u8]) -> Result<Option<Proxied>, &'static str> {
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        return parse_v2(header);
    }
    let line = std::str::from_utf8(header).map_err(|_| "not ASCII")?;
    let line = line
        .strip_suffix("\r\n")
        .ok_or("a line that does not end in CRLF")?;
    // What follows UNKNOWN must be ignored, whatever it is.
    if line == "PROXY UNKNOWN" || line.starts_with("PROXY UNKNOWN ") {
        return Ok(None);
    }
    // Numbers are taken with a plus sign by the standard library, and nowhere else.
    if line.contains('+') {
        return Err("malformed");
    }
    match v1::Header::try_from(header)
        .map_err(|_| "malformed")?
        .addresses
    {
        v1::Addresses::Unknown => Ok(None),
        v1::Addresses::Tcp4(ends) => Ok(Some(Proxied {
            source: (ends.source_address, ends.source_port).into(),
            destination: (ends.destination_address, ends.destination_port).into(),
        })),
        v1::Addresses::Tcp6(ends) => Ok(Some(Proxied {
            source: (ends.source_address, ends.source_port).into(),
            destination: (ends.destination_address, ends.destination_port).into(),
        })),
    }
}

fn parse_v2(header: &[u8]) -> Result<Option<Proxied>, &'static str> {
    let header = v2::Header::try_from(header).map_err(|_| "malformed")?;
    if header.command == v2::Command::Local {
        return Ok(None);
    }
    if header.protocol == v2::Protocol::Datagram {
        return Err("datagrams announced on a stream");
    }
    Ok(match header.addresses {
        v2::Addresses::IPv4(ends) => Some(Proxied {
            source: (ends.source_address, ends.source_port).into(),
            destination: (ends.destination_address, ends.destination_port).into(),
        }),
        v2::Addresses::IPv6(ends) => Some(Proxied {
            source: (ends.source_address, ends.source_port).into(),
            destination: (ends.destination_address, ends.destination_port).into(),
        }),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    })
}

/// Looks at what the socket holds without taking it. A pipe in memory can't be looked into.
async fn peek(stream: &Stream, into: &mut [u8]) -> io::Result<usize> {
    match stream {
        Stream::Tcp(stream) => stream.peek(into).await,
        Stream::Unix(stream) => loop {
            stream.readable().await?;
            let looked = stream.try_io(Interest::READABLE, || {
                Ok(rustix::net::recv(stream, &mut *into, RecvFlags::PEEK)?.1)
            });
            match looked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                looked => return looked,
            }
        },
        // PROXY headers come before TLS.
        Stream::Tls(_) | Stream::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("PROXY header: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream, UnixStream},
    };

    use super::*;

    fn tcp(text: &str) -> Address {
        Address::Tcp(text.parse().unwrap())
    }

    #[test]
    fn version_1_as_the_specification_writes_it() {
        let header = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
        assert_eq!(scan(header), Ok(Some(header.len())));
        let proxied = parse(header).unwrap().unwrap();
        assert_eq!(proxied.source, "255.255.255.255:65535".parse().unwrap());
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(
            parse(b"PROXY UNKNOWN any thing at all, of any length\r\n"),
            Ok(None)
        );
    }

    #[test]
    fn malformed_headers_are_refused() {
        for header in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
        ] {
            assert!(parse(header.as_bytes()).is_err(), "{header:?}");
        }
        assert!(scan(b"GET / HTTP/1.1\r\n").is_err());
        assert!(scan(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()).is_err());
        assert!(scan(&[v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff]].concat()).is_err());
    }

    #[test]
    fn local_keeps_the_sockets_own_ends() {
        let header = [v2::PROTOCOL_PREFIX, &[0x20, 0, 0, 0]].concat();
        assert_eq!(parse(&header), Ok(None));
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        for (source, destination) in [
            ("1.2.3.4:5", "6.7.8.9:10"),
            ("[::1]:1", "[2001:db8::2]:65535"),
        ] {
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let header = encode(version, &tcp(source), &tcp(destination));
                assert_eq!(scan(&header), Ok(Some(header.len())));
                let proxied = parse(&header).unwrap().unwrap();
                assert_eq!(proxied.source, source.parse().unwrap());
                assert_eq!(proxied.destination, destination.parse().unwrap());
            }
        }
    }

    #[test]
    fn unknown_ends_and_mixed_families_are_encoded() {
        let unix = Address::Unix("/s".into());
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            assert_eq!(parse(&encode(version, &unix, &tcp("1.2.3.4:5"))), Ok(None));
            let mixed = encode(version, &tcp("1.2.3.4:5"), &tcp("[::1]:6"));
            let proxied = parse(&mixed).unwrap().unwrap();
            assert_eq!(
                proxied.source.ip().to_canonical(),
                IpAddr::from([1, 2, 3, 4])
            );
        }
    }

    async fn socket_pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        client.set_nodelay(true).unwrap();
        (client, Stream::Tcp(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn nothing_behind_the_header_is_taken() {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let header = encode(version, &tcp("1.2.3.4:5"), &tcp("6.7.8.9:10"));
            let (mut client, mut server) = socket_pair().await;
            client
                .write_all(&[&header[..], b"rest"].concat())
                .await
                .unwrap();
            assert!(read(&mut server).await.unwrap().is_some());
            let mut rest = [0; 4];
            server.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"rest");
        }
    }

    #[tokio::test]
    async fn a_header_may_come_byte_by_byte() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut server = Stream::Unix(server);
        let header = encode(ProxyVersion::V2, &tcp("1.2.3.4:5"), &tcp("6.7.8.9:10"));
        let writer = async {
            for byte in &header {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (read, ()) = tokio::join!(read(&mut server), writer);
        assert_eq!(read.unwrap().unwrap().source, "1.2.3.4:5".parse().unwrap());
    }

    #[tokio::test]
    async fn an_early_end_is_an_error() {
        let (mut client, mut server) = socket_pair().await;
        client.write_all(b"PROXY TCP4 1.2").await.unwrap();
        drop(client);
        assert!(read(&mut server).await.is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..300),
                proptest::collection::vec(any::<u8>(), 0..300)
                    .prop_map(|rest| [v2::PROTOCOL_PREFIX, &[0x21][..], &rest].concat()),
                "PROXY (TCP4|TCP6|UNKNOWN|[A-Z0-9]{0,5})[ 0-9a-f:.+]{0,110}\r\n"
                    .prop_map(String::into_bytes),
            ]
        ) {
            if let Ok(Some(end)) = scan(&bytes) {
                prop_assert!(end <= bytes.len() && end <= MAX_V2);
                let _parsed = parse(&bytes[..end]);
            }
        }

        /// Cutting a header anywhere never changes where it ends.
        #[test]
        fn a_prefix_is_incomplete(version in prop::bool::ANY, cut in 0_usize..200) {
            let version = if version { ProxyVersion::V1 } else { ProxyVersion::V2 };
            let header = encode(version, &tcp("[::1]:1"), &tcp("[2001:db8::2]:65535"));
            let cut = cut % header.len();
            prop_assert_eq!(scan(&header[..cut]), Ok(None));
        }
    }
}

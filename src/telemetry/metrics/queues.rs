//! Connections that the kernel has made for us and nobody has accepted yet.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Rows that are read of each table: sockets that listen come first, and the others, of which there
/// may be many thousands, are not wanted.
const MAX_ROWS: usize = 4096;

/// How many wait at each address that somebody in this network namespace listens on.
pub(super) fn waiting() -> HashMap<SocketAddr, u64> {
    let mut waiting = HashMap::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if let Ok(file) = File::open(path) {
            let lines = BufReader::new(file).lines().map_while(Result::ok);
            for (address, count) in listening(lines) {
                *waiting.entry(address).or_default() += count;
            }
        }
    }
    waiting
}

/// Connections that were lost since the start of the network namespace as a queue was full.
pub(super) fn overflows() -> Option<u64> {
    overflows_in(&std::fs::read_to_string("/proc/net/netstat").ok()?)
}

fn listening(
    lines: impl Iterator<Item = impl AsRef<str>>,
) -> impl Iterator<Item = (SocketAddr, u64)> {
    let rows = lines.skip(1).take(MAX_ROWS);
    rows.map_while(|line| row(line.as_ref()))
}

/// `sl: local remote state tx:rx ...`; for a socket that listens `rx` is the length of its queue.
/// `None` for any other.
fn row(line: &str) -> Option<(SocketAddr, u64)> {
    /// `TCP_LISTEN`.
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next()?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let (_, length) = fields.next()?.split_once(':')?;
    let (address, port) = local.split_once(':')?;
    let address = SocketAddr::new(ip(address)?, u16::from_str_radix(port, 16).ok()?);
    Some((address, u64::from_str_radix(length, 16).ok()?))
}

/// Words of 32 bits as this machine has them in memory.
fn ip(hex: &str) -> Option<IpAddr> {
    let mut bytes = [0; 16];
    let words = bytes.chunks_exact_mut(4).zip(0..hex.len() / 8);
    for (word, index) in words {
        let digits = hex.get(index * 8..index * 8 + 8)?;
        word.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    match hex.len() {
        8 => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        32 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// Names and values stand in two lines with the same beginning.
fn overflows_in(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut columns = names.split(' ').zip(values.split(' '));
    let (_, value) = columns.find(|(name, _)| *name == "ListenOverflows")?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_end_where_nobody_listens() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n\
            \u{20}  0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000\n\
            \u{20}  1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n\
            \u{20}  2: 0100007F:1F90 0100007F:C001 01 00000000:00000009 00:00000000 00000000\n\
            \u{20}  3: 0100007F:1F91 00000000:0000 0A 00000000:00000003 00:00000000 00000000\n";
        let rows: Vec<_> = listening(table.lines()).collect();
        if cfg!(target_endian = "little") {
            let expected = [
                ("127.0.0.1:8080".parse().unwrap(), 3),
                ("0.0.0.0:80".parse().unwrap(), 0),
            ];
            assert_eq!(rows, expected);
        }
        assert_eq!(row("   0: zz:1F90 00000000:0000 0A 0:3"), None);
        assert_eq!(row(""), None);
    }

    #[test]
    fn a_socket_of_ours_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else {
                continue;
            };
            let address = listener.local_addr().unwrap();
            assert_eq!(waiting().get(&address), Some(&0), "{address}");
        }
    }

    #[test]
    fn overflows_are_found_by_name() {
        let netstat = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 23\n\
            IpExt: InNoRoutes\nIpExt: 0\n";
        assert_eq!(overflows_in(netstat), Some(22));
        assert_eq!(overflows_in("TcpExt: A\nTcpExt: 1\n"), None);
        assert!(overflows().is_some());
    }
}

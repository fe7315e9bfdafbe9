//! From the addresses of one name to endpoints.
//!
//! DNS doesn't say which IPv4 address belongs to the server of which IPv6 address, so all addresses
//! of a name are taken to be equally good. Each IPv6 address is an endpoint, with an IPv4 address as
//! the alternative that a connection attempt races it against. IPv4 addresses left over are
//! endpoints by themselves, with an IPv6 alternative if there is one. So every address is used,
//! none is counted twice, and all endpoints can be reached while one family can't.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use crate::upstream::{Target, set::Wanted};

/// The endpoints of a name. An endpoint of `before` keeps its alternative while that is still among
/// the addresses: a changed neighbour is no reason to give up good connections.
pub(super) fn pair(ips: &[IpAddr], port: u16, weight: u32, before: &[Wanted]) -> Vec<Wanted> {
    let usable: BTreeSet<SocketAddr> = ips
        .iter()
        .map(IpAddr::to_canonical)
        // 0.0.0.0 means "no" in some name services, and this very machine to `connect`.
        .filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
        .map(|ip| SocketAddr::new(ip, port))
        .collect();
    let (v6, v4): (BTreeSet<SocketAddr>, BTreeSet<SocketAddr>) =
        usable.into_iter().partition(SocketAddr::is_ipv6);
    let before: HashMap<SocketAddr, SocketAddr> = before
        .iter()
        .filter_map(|wanted| match wanted.target {
            Target::Tcp {
                address,
                alternative,
            } => Some((address, alternative?)),
            Target::Unix(_) => None,
        })
        .collect();

    let mut used = BTreeSet::new();
    let mut wanted = Vec::with_capacity(v6.len().max(v4.len()));
    let mut add = |address: SocketAddr, alternative: Option<SocketAddr>| {
        let target = Target::Tcp {
            address,
            alternative,
        };
        wanted.push(Wanted::plain(target, weight));
    };
    let kept = |address: &SocketAddr, others: &BTreeSet<SocketAddr>| {
        before
            .get(address)
            .copied()
            .filter(|other| others.contains(other))
    };
    used.extend(v6.iter().filter_map(|address| kept(address, &v4)));
    let mut free = v4
        .difference(&used)
        .copied()
        .collect::<Vec<_>>()
        .into_iter();
    let mut turns = v4.iter().copied().cycle();
    for &address in &v6 {
        let alternative = kept(&address, &v4)
            .or_else(|| free.next())
            .or_else(|| turns.next());
        used.extend(alternative);
        add(address, alternative);
    }
    let mut turns = v6.iter().cycle();
    for address in v4.difference(&used) {
        add(
            *address,
            kept(address, &v6).or_else(|| turns.next().copied()),
        );
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(ips: &[&str], before: &[Wanted]) -> Vec<(String, Option<String>)> {
        wanted(ips, before)
            .into_iter()
            .map(|wanted| match wanted.target {
                Target::Tcp {
                    address,
                    alternative,
                } => (
                    address.ip().to_string(),
                    alternative.map(|other| other.ip().to_string()),
                ),
                Target::Unix(_) => unreachable!(),
            })
            .collect()
    }

    fn wanted(ips: &[&str], before: &[Wanted]) -> Vec<Wanted> {
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        pair(&ips, 80, 1, before)
    }

    fn rows(rows: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
        rows.iter()
            .map(|(address, other)| {
                (
                    address.to_string(),
                    (!other.is_empty()).then(|| other.to_string()),
                )
            })
            .collect()
    }

    #[test]
    fn one_family_is_one_endpoint_an_address() {
        assert_eq!(
            pairs(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], &[]),
            rows(&[("10.0.0.1", ""), ("10.0.0.2", "")])
        );
        assert_eq!(
            pairs(&["fd00::2", "fd00::1"], &[]),
            rows(&[("fd00::1", ""), ("fd00::2", "")])
        );
    }

    #[test]
    fn two_families_are_paired_and_the_rest_stands_alone() {
        assert_eq!(
            pairs(
                &["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"],
                &[]
            ),
            rows(&[
                ("fd00::1", "10.0.0.1"),
                ("fd00::2", "10.0.0.2"),
                ("10.0.0.3", "fd00::1")
            ])
        );
        assert_eq!(
            pairs(&["10.0.0.1", "fd00::1", "fd00::2"], &[]),
            rows(&[("fd00::1", "10.0.0.1"), ("fd00::2", "10.0.0.1")])
        );
    }

    #[test]
    fn a_new_neighbour_does_not_move_the_others() {
        let before = wanted(&["10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"], &[]);
        assert_eq!(
            pairs(
                &[
                    "10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2", "fd00::3"
                ],
                &before
            ),
            rows(&[
                ("fd00::1", "10.0.0.1"),
                ("fd00::2", "10.0.0.2"),
                ("fd00::3", "10.0.0.3")
            ])
        );
    }

    #[test]
    fn addresses_that_are_none_are_left_out() {
        assert_eq!(
            pairs(&["0.0.0.0", "::", "::ffff:10.0.0.1"], &[]),
            rows(&[("10.0.0.1", "")])
        );
    }
}

//! Where a redirect may lead: addresses sorted by who can be behind them, and a resolver that
//! gives no others.
//!
//! The check is made on the addresses that are dialled, not on the name: a name that resolves to
//! something else the second time gains nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Who can be behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressClass {
    /// Anybody on the Internet.
    Public,
    /// This machine, or this network.
    Private,
    /// Nobody who serves content: link-local addresses, the metadata services of clouds (which
    /// hand out credentials to whoever asks), multicast, and what is no address of a host.
    Never,
}

impl AddressClass {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

/// The metadata services of Alibaba Cloud, Azure and Oracle Cloud that are not link-local.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// The metadata service of AWS.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

fn of_v4(address: Ipv4Addr) -> AddressClass {
    if METADATA_V4.contains(&address) {
        return AddressClass::Never;
    }
    match address.octets() {
        [0 | 224.., ..] | [169, 254, ..] => AddressClass::Never,
        // Loopback, private, shared (CGNAT), protocol assignments, benchmarking.
        [10 | 127, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [100, 64..=127, ..]
        | [192, 0, 0, _]
        | [198, 18..=19, ..] => AddressClass::Private,
        _ => AddressClass::Public,
    }
}

fn of_v6(address: Ipv6Addr) -> AddressClass {
    if address == METADATA_V6 || address.is_unspecified() {
        return AddressClass::Never;
    }
    if address.is_loopback() {
        return AddressClass::Private;
    }
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        of_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // An IPv4 address as such, in the deprecated form, behind a translator (RFC 2765 and NAT64),
        // and behind 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => embedded(high, low),
        [0x64, 0xff9b, 1, ..] => AddressClass::Private,
        // Link-local and multicast; unique local and the deprecated site-local.
        [0xfe80..=0xfebf | 0xff00.., ..] => AddressClass::Never,
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => AddressClass::Private,
        _ => AddressClass::Public,
    }
}

/// How far a redirect may lead, which depends on where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// To public addresses.
    Public,
    /// To private addresses too: it comes from one itself.
    Private,
}

impl Reach {
    pub(super) fn allows(self, class: AddressClass) -> bool {
        match class {
            AddressClass::Public => true,
            AddressClass::Private => self == Self::Private,
            AddressClass::Never => false,
        }
    }

    /// Whether a host may be asked. Names may: what they resolve to is checked when they do.
    pub(super) fn allows_host(self, host: &Host<&str>) -> bool {
        class_of_host(host).is_none_or(|class| self.allows(class))
    }
}

/// The class of a host that is written out as an address.
pub(super) fn class_of_host(host: &Host<&str>) -> Option<AddressClass> {
    match host {
        Host::Ipv4(address) => Some(of_v4(*address)),
        Host::Ipv6(address) => Some(of_v6(*address)),
        Host::Domain(_) => None,
    }
}

/// Whether a URL leads over networks that others can read, in the clear. A name without a dot, or
/// under one of the names for local use, is taken for a neighbour.
pub(crate) fn is_plain_public(url: &Url) -> bool {
    const LOCAL: [&str; 5] = [".internal", ".local", ".localhost", ".lan", ".svc"];
    url.scheme() == "http"
        && match url.host() {
            Some(Host::Ipv4(ip)) => !(ip.is_loopback() || ip.is_private() || ip.is_link_local()),
            Some(Host::Ipv6(ip)) => {
                !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local())
            }
            Some(Host::Domain(name)) => {
                name.contains('.') && !LOCAL.iter().any(|local| name.ends_with(local))
            }
            None => false,
        }
}

/// Resolves names to the addresses within reach.
pub(super) struct ReachResolver {
    pub(super) reach: Reach,
    /// Names that may be anywhere.
    pub(super) exempt: Arc<[String]>,
}

impl Resolve for ReachResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        let exempt = self.exempt.iter().any(|exempt| exempt == name.as_str());
        Box::pin(async move {
            // The port is the caller's matter.
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let resolved = !found.is_empty();
            let allowed: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| exempt || reach.allows(AddressClass::of(address.ip())))
                .collect();
            if resolved && allowed.is_empty() {
                return Err(OutOfReach.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// A name resolves to addresses out of reach only.
#[derive(Debug)]
pub(super) struct OutOfReach;

impl fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a redirect may not lead to its address")
    }
}

impl std::error::Error for OutOfReach {}

#[cfg(test)]
mod tests {
    use super::AddressClass::{Never, Private, Public};
    use super::*;

    #[test]
    fn addresses_are_sorted_by_who_can_be_behind_them() {
        for (address, class) in [
            ("1.1.1.1", Public),
            ("100.63.255.255", Public),
            ("172.15.0.1", Public),
            ("172.32.0.1", Public),
            ("192.0.1.1", Public),
            ("198.20.0.1", Public),
            ("127.0.0.1", Private),
            ("127.255.255.254", Private),
            ("10.0.0.1", Private),
            ("172.16.0.1", Private),
            ("172.31.255.255", Private),
            ("192.168.1.1", Private),
            ("100.64.0.1", Private),
            ("100.127.255.255", Private),
            ("192.0.0.1", Private),
            ("198.18.0.1", Private),
            ("0.0.0.0", Never),
            ("0.1.2.3", Never),
            ("169.254.169.254", Never),
            ("169.254.0.1", Never),
            ("100.100.100.200", Never),
            ("168.63.129.16", Never),
            ("192.0.0.192", Never),
            ("224.0.0.1", Never),
            ("240.0.0.1", Never),
            ("255.255.255.255", Never),
            ("2606:4700::1111", Public),
            ("::ffff:1.1.1.1", Public),
            ("64:ff9b::1.1.1.1", Public),
            ("::1", Private),
            ("fc00::1", Private),
            ("fdff::1", Private),
            ("fec0::1", Private),
            ("::ffff:127.0.0.1", Private),
            ("::ffff:10.0.0.1", Private),
            ("::10.0.0.1", Private),
            ("::ffff:0:10.0.0.1", Private),
            ("::ffff:0:169.254.169.254", Never),
            ("64:ff9b::10.0.0.1", Private),
            ("64:ff9b:1::1", Private),
            ("2002:a00:1::", Private),
            ("::", Never),
            ("fe80::1", Never),
            ("febf::1", Never),
            ("ff02::1", Never),
            ("fd00:ec2::254", Never),
            ("::ffff:169.254.169.254", Never),
            ("::ffff:0.0.0.0", Never),
            ("64:ff9b::169.254.169.254", Never),
            ("2002:a9fe:a9fe::", Never),
        ] {
            let parsed = address.parse().unwrap();
            assert_eq!(AddressClass::of(parsed), class, "{address}");
        }
    }

    #[test]
    fn hosts_are_judged_however_their_address_is_written() {
        for (url, public, private) in [
            ("https://cdn.example.org/", true, true),
            ("https://1.1.1.1/", true, true),
            ("http://localhost/", true, true),
            ("http://127.0.0.1/", false, true),
            ("http://127.1/", false, true),
            ("http://2130706433/", false, true),
            ("http://0x7f.1/", false, true),
            ("http://017700000001/", false, true),
            ("http://[::1]/", false, true),
            ("http://[::ffff:127.0.0.1]/", false, true),
            ("http://169.254.169.254/latest", false, false),
            ("http://2852039166/", false, false),
            ("http://[::ffff:a9fe:a9fe]/", false, false),
            ("http://[fd00:ec2::254]/", false, false),
            ("http://0/", false, false),
        ] {
            let parsed = Url::parse(url).unwrap();
            let host = parsed.host().unwrap();
            assert_eq!(Reach::Public.allows_host(&host), public, "{url}");
            assert_eq!(Reach::Private.allows_host(&host), private, "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_resolves_to_what_is_within_reach() {
        let resolve = |reach, exempt: &str| {
            let exempt = Arc::new([exempt.to_owned()]);
            ReachResolver { reach, exempt }.resolve("localhost".parse().unwrap())
        };
        for (reach, exempt) in [(Reach::Private, ""), (Reach::Public, "localhost")] {
            let addresses: Vec<_> = resolve(reach, exempt).await.unwrap().collect();
            assert!(!addresses.is_empty());
            assert!(addresses.iter().all(|address| address.ip().is_loopback()));
        }
        let refused = resolve(Reach::Public, "other").await.err().unwrap();
        assert!(refused.is::<OutOfReach>());
    }
}

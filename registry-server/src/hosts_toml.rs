//! The file that points containerd at a mirror, and the address to write into it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use url::Url;

use crate::config::values;

/// The `hosts.toml` that sends every pull of containerd through the mirror at `mirror`, for
/// `/etc/containerd/certs.d/_default/`.
///
/// It holds only what every containerd from 1.6 on accepts: one that refuses any of it says so in
/// its log alone, and goes straight to the origin. So there is a `[host]` table, without which 1.6
/// and 1.7 refuse the file; of the capabilities the two that all of them know; and no option of
/// TLS, with which containerd tries HTTPS first also at an `http` URL. `dial_timeout` is ignored
/// before 2.0; from then on, a mirror that is gone costs one second a request and not thirty. As
/// `server` is not named, the image's own registry remains the last resort.
pub fn hosts_toml(mirror: &Url) -> String {
    let url = mirror.as_str().trim_end_matches('/');
    format!("[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"1s\"\n")
}

/// Parses the URL of a mirror, as it is written for [`hosts_toml`].
///
/// # Errors
///
/// What the text is not, with an example of what is.
pub fn parse_mirror_url(text: &str) -> Result<Url, String> {
    values::http_url(text, "http://mirror.example.org:5000")
}

/// Who can reach a mirror under the URL that is advertised for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Processes of this machine, in its network namespace.
    ThisMachine,
    /// Whoever can route to the address that it listens on.
    Network,
    /// It listens on every address of the machine, and one was chosen: perhaps not the best.
    Guessed,
}

/// The URL under which clients find a mirror that listens on `listen`, with TLS or without, and who
/// can reach it there.
pub fn advertised(listen: SocketAddr, is_secure: bool) -> (Url, Reach) {
    let scheme = if is_secure { "https" } else { "http" };
    let (host, reach) = match listen.ip() {
        ip if ip.is_loopback() => (url_host(ip), Reach::ThisMachine),
        ip if ip.is_unspecified() => (own_host(), Reach::Guessed),
        ip => (url_host(ip), Reach::Network),
    };
    let url = Url::parse(&format!("{scheme}://{host}:{}", listen.port()));
    // Only the name that somebody gave the machine can fail to be one.
    let url = url.unwrap_or_else(|_| fallback_url(scheme, listen));
    (url, reach)
}

fn fallback_url(scheme: &str, listen: SocketAddr) -> Url {
    let text = format!("{scheme}://localhost:{}", listen.port());
    Url::parse(&text).expect("localhost with a port is a URL")
}

/// The address of this machine that packets to the outside come from; its name where there is no
/// way to the outside.
fn own_host() -> String {
    // Of the ranges for documentation: to connect a UDP socket only consults the routing table.
    let outside = [
        (
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)),
        ),
        (
            IpAddr::from(Ipv6Addr::UNSPECIFIED),
            IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        ),
    ];
    let routed = |(any, outside)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((outside, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    match outside.into_iter().find_map(routed) {
        Some(ip) => url_host(ip),
        None => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
    }
}

fn url_host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_toml_that_every_containerd_accepts() {
        for (url, host) in [
            ("http://10.0.0.5:5000", "http://10.0.0.5:5000"),
            ("http://[fd00::5]:5000/", "http://[fd00::5]:5000"),
            ("https://mirror.example.org/", "https://mirror.example.org"),
        ] {
            let text = hosts_toml(&Url::parse(url).unwrap());
            let file: toml::Table = text.parse().unwrap();
            assert_eq!(file.keys().collect::<Vec<_>>(), ["host"], "{text}");
            let hosts = file["host"].as_table().unwrap();
            assert_eq!(hosts.keys().collect::<Vec<_>>(), [host]);
            let host = hosts[host].as_table().unwrap();
            assert_eq!(
                host.keys().collect::<Vec<_>>(),
                ["capabilities", "dial_timeout"]
            );
            assert_eq!(
                host["capabilities"],
                toml::Value::from(vec!["pull", "resolve"])
            );
        }
    }

    #[test]
    fn an_address_that_makes_sense_is_advertised() {
        for (listen, url, reach) in [
            (
                "127.0.0.1:5000",
                "http://127.0.0.1:5000/",
                Reach::ThisMachine,
            ),
            ("[::1]:5000", "http://[::1]:5000/", Reach::ThisMachine),
            ("10.1.2.3:80", "http://10.1.2.3/", Reach::Network),
            ("[fd00::5]:5000", "http://[fd00::5]:5000/", Reach::Network),
        ] {
            let (advertised, who) = advertised(listen.parse().unwrap(), false);
            assert_eq!((advertised.as_str(), who), (url, reach));
        }
        for listen in ["0.0.0.0:5000", "[::]:5000"] {
            let (url, reach) = advertised(listen.parse().unwrap(), false);
            assert_eq!((url.port(), reach), (Some(5000), Reach::Guessed));
            let host = url.host_str().unwrap();
            assert!(!["0.0.0.0", "[::]"].contains(&host), "{host}");
        }
    }
}

//! What a mirror says of itself when it is ready.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use registry_core::UpstreamId;
use registry_storage::Recovery;
use url::Url;

use crate::hosts_toml::{Reach, advertised, hosts_toml};

/// Where containerd looks for the file that is printed.
const HOSTS_TOML_PATH: &str = "/etc/containerd/certs.d/_default/hosts.toml";

/// Where a mirror listens, where it stores, which upstreams it knows, and how to point containerd
/// at it. Shown, it is a page for a person; [`Self::log`] tells the same to machines.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Announcement {
    /// The address that clients pull from.
    pub listen: SocketAddr,
    /// Whether they do by `https://`.
    pub is_secure: bool,
    /// The address of health, metrics and administration.
    pub admin_listen: Option<SocketAddr>,
    /// The folder that holds everything cached, and what was found there; none where the stores
    /// are the program's own.
    pub data_dir: Option<(PathBuf, Recovery)>,
    /// How long a tag is served without asking, where its upstream's own setting does not say.
    pub tag_ttl: Duration,
    /// The upstream meant where a request names none.
    pub default_upstream: UpstreamId,
    /// The upstreams, and where each answers.
    pub upstreams: Vec<(UpstreamId, Vec<Url>)>,
}

impl Announcement {
    /// Tells it in events, one a subject.
    pub fn log(&self) {
        let admin = self.admin_listen.map(tracing::field::display);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %self.listen,
            tls = self.is_secure,
            admin_listen = admin,
            "listening"
        );
        if let Some((data_dir, recovery)) = &self.data_dir {
            let recovery = recovered(recovery);
            tracing::info!(data_dir = %data_dir.display(), recovery, "storing");
        }
        let upstreams: Vec<_> = self
            .upstreams
            .iter()
            .map(|(id, endpoints)| format!("{id}={}", list(endpoints, ",")))
            .collect();
        tracing::info!(
            upstreams = upstreams.join(" "),
            default_upstream = %self.default_upstream,
            tag_ttl = %humantime::format_duration(self.tag_ttl),
            "mirroring"
        );
        let (url, _) = advertised(self.listen, self.is_secure);
        tracing::info!(
            path = HOSTS_TOML_PATH,
            content = hosts_toml(&url),
            "to point containerd here"
        );
    }
}

impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        let how = if self.is_secure { ", with TLS" } else { "" };
        writeln!(
            f,
            "registry-server {version}, listening on {}{how}",
            self.listen
        )?;
        if let Some(admin) = self.admin_listen {
            writeln!(f, "  admin      http://{admin}")?;
        }
        if let Some((data_dir, recovery)) = &self.data_dir {
            let recovery = recovered(recovery);
            writeln!(f, "  storage    {} ({recovery})", data_dir.display())?;
        }
        if self.tag_ttl.is_zero() {
            writeln!(
                f,
                "  tags       checked upstream on every pull, by one HEAD"
            )?;
        } else {
            let ttl = humantime::format_duration(self.tag_ttl);
            writeln!(f, "  tags       checked upstream once they are {ttl} old")?;
        }
        let names = self.upstreams.iter().map(|(id, _)| id.as_str().len());
        let width = names.max().unwrap_or_default();
        for (index, (id, endpoints)) in self.upstreams.iter().enumerate() {
            let title = if index == 0 { "upstreams" } else { "" };
            write!(
                f,
                "  {title:<9}  {:<width$}  {}",
                id.as_str(),
                list(endpoints, ", ")
            )?;
            if *id == self.default_upstream {
                f.write_str("  (default)")?;
            }
            writeln!(f)?;
        }
        self.show_hosts_toml(f)
    }
}

impl Announcement {
    fn show_hosts_toml(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (url, reach) = advertised(self.listen, self.is_secure);
        writeln!(
            f,
            "\nTo send every pull of containerd through it, write this to\n{HOSTS_TOML_PATH} on \
             each node:\n"
        )?;
        for line in hosts_toml(&url).lines() {
            writeln!(f, "    {line}")?;
        }
        if self.is_secure {
            writeln!(
                f,
                "\nThe certificate has to be good for that address. Where the node's system does not\n\
                 trust who signed it, add a line: ca = \"/path/to/ca.pem\""
            )?;
        }
        match reach {
            Reach::ThisMachine => writeln!(
                f,
                "\nOnly this machine can reach {}. For nodes elsewhere, start the mirror with\n\
                 --listen 0.0.0.0:{} and write an address that they can reach.",
                self.listen.ip(),
                self.listen.port()
            ),
            Reach::Guessed => writeln!(
                f,
                "\nThe address is a guess: write one that the nodes can reach."
            ),
            Reach::Network => Ok(()),
        }
    }
}

/// What opening the folder had to put right.
fn recovered(recovery: &Recovery) -> String {
    let mut found = Vec::new();
    if let Some(rebuilt) = &recovery.rebuilt {
        found.push(format!(
            "index rebuilt from the files, with {} blobs and {} links: {}",
            rebuilt.blobs, rebuilt.links, rebuilt.cause
        ));
    }
    if recovery.partial_kept > 0 {
        found.push(format!(
            "unfinished downloads kept: {}",
            recovery.partial_kept
        ));
    }
    if recovery.partial_swept > 0 {
        found.push(format!(
            "partial downloads swept: {}",
            recovery.partial_swept
        ));
    }
    if recovery.intents_settled > 0 {
        found.push(format!(
            "interrupted changes settled: {}",
            recovery.intents_settled
        ));
    }
    if found.is_empty() {
        "in order".to_owned()
    } else {
        found.join("; ")
    }
}

fn list(endpoints: &[Url], separator: &str) -> String {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|url| url.as_str().trim_end_matches('/'))
        .collect();
    endpoints.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(listen: &str) -> Announcement {
        let id = |text| UpstreamId::parse(text).unwrap();
        let url = |text| Url::parse(text).unwrap();
        Announcement {
            listen: listen.parse().unwrap(),
            is_secure: false,
            admin_listen: Some("127.0.0.1:5001".parse().unwrap()),
            data_dir: Some(("/data".into(), Recovery::default())),
            tag_ttl: Duration::ZERO,
            default_upstream: id("docker.io"),
            upstreams: vec![
                (id("docker.io"), vec![url("https://registry-1.docker.io")]),
                (
                    id("ghcr.io"),
                    vec![url("http://10.0.0.1:5000"), url("https://ghcr.io")],
                ),
            ],
        }
    }

    #[test]
    fn a_person_reads_a_page() {
        assert_eq!(
            announcement("127.0.0.1:5000").to_string(),
            format!(
                r#"registry-server {}, listening on 127.0.0.1:5000
  admin      http://127.0.0.1:5001
  storage    /data (in order)
  tags       checked upstream on every pull, by one HEAD
  upstreams  docker.io  https://registry-1.docker.io  (default)
             ghcr.io    http://10.0.0.1:5000, https://ghcr.io

To send every pull of containerd through it, write this to
/etc/containerd/certs.d/_default/hosts.toml on each node:

    [host."http://127.0.0.1:5000"]
      capabilities = ["pull", "resolve"]
      dial_timeout = "1s"

Only this machine can reach 127.0.0.1. For nodes elsewhere, start the mirror with
--listen 0.0.0.0:5000 and write an address that they can reach.
"#,
                env!("CARGO_PKG_VERSION")
            )
        );
    }

    #[test]
    fn with_tls_it_says_so_and_so_does_the_file() {
        let mut announcement = announcement("10.1.2.3:5000");
        announcement.is_secure = true;
        let page = announcement.to_string();
        assert!(
            page.contains("listening on 10.1.2.3:5000, with TLS\n"),
            "{page}"
        );
        assert!(page.contains("[host.\"https://10.1.2.3:5000\"]"), "{page}");
        assert!(page.contains("ca = \"/path/to/ca.pem\""), "{page}");
    }

    #[test]
    fn what_was_put_right_is_told() {
        let mut recovery = Recovery::default();
        recovery.partial_kept = 2;
        recovery.partial_swept = 3;
        recovery.intents_settled = 1;
        assert_eq!(
            recovered(&recovery),
            "unfinished downloads kept: 2; partial downloads swept: 3; \
             interrupted changes settled: 1"
        );
    }

    #[test]
    fn an_address_of_the_network_needs_no_advice() {
        let page = announcement("10.1.2.3:80").to_string();
        assert!(page.ends_with("dial_timeout = \"1s\"\n"), "{page}");
        assert!(page.contains("[host.\"http://10.1.2.3\"]"), "{page}");
        let page = announcement("0.0.0.0:5000").to_string();
        assert!(page.contains("The address is a guess"), "{page}");
        assert!(!page.contains("host.\"http://0.0.0.0"), "{page}");
    }
}

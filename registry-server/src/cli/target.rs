//! Which mirror is meant: where its admin API answers, and what is shown to it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use registry_server::config::{AdminPoint, AdminToken, Config};
use registry_server::hosts_toml::parse_mirror_url;
use secrecy::SecretString;
use url::Url;

use super::failure::Failure;
use super::line::Ask;

/// Longest file that may hold a token.
const TOKEN_BYTES_MAX: u64 = 4096;

/// A mirror, as it is reached.
#[derive(Debug)]
pub(super) struct Target {
    /// Where its admin API answers.
    pub(super) url: Url,
    /// What is shown to it.
    pub(super) token: Option<SecretString>,
}

impl Target {
    /// The mirror that is meant: by flag, by the configuration file that is named, by the
    /// environment, or the one that a mirror without any configuration is.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`], where what says so makes no sense.
    pub(super) fn find(ask: &Ask) -> Result<Self, Failure> {
        Self::find_with(ask, |name| env::var_os(name))
    }

    fn find_with(ask: &Ask, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        // A variable that is empty counts as not set, as it does for the mirror itself.
        let variable = |name: &str| env(name).filter(|value| !value.is_empty());
        let named = ask.config.clone();
        let named_by_flag = named.is_some();
        let file = named.or_else(|| variable("REGISTRY_CONFIG").map(PathBuf::from));
        let point = match file {
            Some(file) => {
                AdminPoint::read(file, &env).map_err(|errors| Failure::Usage(errors.to_string()))?
            }
            None => AdminPoint::default(),
        };
        let listen = variable("REGISTRY_ADMIN_LISTEN")
            .and_then(|text| text.to_str()?.parse().ok())
            .filter(|_| !named_by_flag)
            .or(point.listen)
            .or(Config::default().admin_listen);
        let written = match (&ask.admin, named_by_flag) {
            (Some(url), _) => Some(("--admin", url.clone())),
            (None, true) => None,
            (None, false) => variable("REGISTRY_ADMIN")
                .map(|value| ("REGISTRY_ADMIN", value.to_string_lossy().into_owned())),
        };
        let url = match written {
            Some((place, text)) => parse_admin_url(&text)
                .map_err(|problem| Failure::Usage(format!("{place}: {problem}")))?,
            None => of_listener(listen.expect("the default configuration has an admin listener"))?,
        };
        let token = token(ask, point.token, variable)?;
        Ok(Self { url, token })
    }
}

/// The token to show: by flag, by the environment, or as the configuration file says.
fn token(
    ask: &Ask,
    configured: AdminToken,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<SecretString>, Failure> {
    let file = || variable("REGISTRY_ADMIN_TOKEN_FILE").map(PathBuf::from);
    if let Some(file) = ask.admin_token_file.clone().or_else(file) {
        return Ok(Some(read_token(&file)?));
    }
    if let Some(name) = variable("REGISTRY_ADMIN_TOKEN_ENV") {
        let value = name.to_str().and_then(&variable);
        return Ok(value
            .and_then(|it| it.into_string().ok())
            .map(SecretString::from));
    }
    Ok(match configured {
        AdminToken::File(file) => Some(read_token(&file)?),
        AdminToken::Value(token) => Some(token),
        _ => None,
    })
}

/// A URL, or what stands behind `http://` in one.
fn parse_admin_url(text: &str) -> Result<Url, String> {
    match text.contains("://") {
        true => parse_mirror_url(text),
        false => parse_mirror_url(&format!("http://{text}")),
    }
}

/// Where a listener at this address is reached from the same machine.
fn of_listener(listen: SocketAddr) -> Result<Url, Failure> {
    let host = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    if listen.port() == 0 {
        let problem = "admin_listen leaves the choice of the port to the mirror: say which one it \
                       chose with --admin";
        return Err(Failure::Usage(problem.to_owned()));
    }
    let text = format!("http://{}", SocketAddr::new(host, listen.port()));
    Ok(Url::parse(&text).expect("an address with a port makes a URL"))
}

fn read_token(file: &Path) -> Result<SecretString, Failure> {
    let unusable = |problem: String| {
        let file = file.display();
        Failure::Usage(format!("cannot read the admin token in {file}: {problem}"))
    };
    let length = fs::metadata(file)
        .map_err(|error| unusable(error.to_string()))?
        .len();
    if length > TOKEN_BYTES_MAX {
        return Err(unusable(format!(
            "it has more than {TOKEN_BYTES_MAX} bytes"
        )));
    }
    let text = fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(unusable("it is empty".to_owned())),
        token => Ok(token.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(ask: &Ask, env: &[(&str, &str)]) -> Result<String, String> {
        let lookup = |name: &str| {
            let found = env.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(found.1))
        };
        let found = Target::find_with(ask, lookup);
        found
            .map(|target| target.url.to_string())
            .map_err(|failure| failure.to_string())
    }

    fn admin(url: &str) -> Ask {
        Ask {
            admin: Some(url.to_owned()),
            ..Ask::default()
        }
    }

    #[test]
    fn the_nearest_word_on_the_mirror_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("registry.toml");
        fs::write(&file, "admin_listen = \"0.0.0.0:7001\"").unwrap();
        let named = Ask {
            config: Some(file.clone()),
            ..Ask::default()
        };
        let file = file.to_str().unwrap();
        let none = Ask::default();
        let elsewhere = ("REGISTRY_ADMIN", "http://mirror:1");
        for (ask, env, wanted) in [
            (&none, &[][..], "http://127.0.0.1:5001/"),
            (&none, &[("REGISTRY_ADMIN", "")], "http://127.0.0.1:5001/"),
            (
                &none,
                &[("REGISTRY_CONFIG", file)],
                "http://127.0.0.1:7001/",
            ),
            (
                &none,
                &[
                    ("REGISTRY_CONFIG", file),
                    ("REGISTRY_ADMIN_LISTEN", "[::]:9"),
                ],
                "http://[::1]:9/",
            ),
            (
                &none,
                &[("REGISTRY_CONFIG", file), elsewhere],
                "http://mirror:1/",
            ),
            (&named, &[elsewhere], "http://127.0.0.1:7001/"),
            (
                &admin("10.0.0.1:5001"),
                &[elsewhere],
                "http://10.0.0.1:5001/",
            ),
            (
                &admin("https://mirror.example.org"),
                &[],
                "https://mirror.example.org/",
            ),
        ] {
            assert_eq!(find(ask, env).as_deref(), Ok(wanted), "{ask:?} {env:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_place() {
        let problem = find(&admin("ftp://x"), &[]).unwrap_err();
        assert!(problem.starts_with("--admin: "), "{problem}");
        let problem = find(&Ask::default(), &[("REGISTRY_ADMIN", "http://")]).unwrap_err();
        assert!(problem.starts_with("REGISTRY_ADMIN: "), "{problem}");
        let env = [("REGISTRY_ADMIN_LISTEN", "127.0.0.1:0")];
        let problem = find(&Ask::default(), &env).unwrap_err();
        assert!(problem.contains("--admin"), "{problem}");
        let env = [("REGISTRY_ADMIN_TOKEN_FILE", "/no/such/file")];
        let problem = find(&Ask::default(), &env).unwrap_err();
        assert!(problem.contains("/no/such/file"), "{problem}");
    }
}

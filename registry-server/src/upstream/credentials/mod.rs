//! Who we are to a registry: where its credentials come from, and which of its endpoints may be
//! told them.
//!
//! This module reads files and runs helpers. It knows no HTTP: how a credential is shown, and to
//! whom besides the endpoint, is `auth`'s and `token_server`'s matter. Nothing in it can be
//! printed: secrets are `SecretString`s, and no message holds what a file or a helper said.

mod config;
mod docker_config;
mod eligible;
mod helper;
mod watched_file;

use std::path::Path;
use std::sync::Arc;

use registry_core::{Repository, UpstreamError};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

pub use config::{CredentialConfig, CredentialsConfig};
pub(crate) use docker_config::check as check_docker_config;
pub(crate) use eligible::eligible_endpoints;
pub(crate) use helper::HelperName;
pub(crate) use watched_file::WatchedFile;

use super::config::{HttpUpstreamConfig, HttpUpstreamConfigError as ConfigError};
use super::redirect::host_of;
use docker_config::DockerConfig;
use helper::CredentialHelper;

/// Largest file that a password is read from, in bytes: some are JSON documents with a key.
const PASSWORD_BYTES_MAX: u64 = 64 << 10;

/// The name of an upstream's own account: no repository is called so.
const OWN: &str = "(default)";

/// What gives access to a registry.
#[derive(Clone)]
pub(super) enum Credential {
    /// A user name and a password, shown to the registry or to its token server.
    Password {
        username: String,
        password: SecretString,
    },
    /// What docker calls an identity token: shown to the token server only.
    IdentityToken(SecretString),
    /// A token that is shown to the registry as it is.
    RegistryToken(SecretString),
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        let same =
            |one: &SecretString, other: &SecretString| one.expose_secret() == other.expose_secret();
        match (self, other) {
            (
                Self::Password { username, password },
                Self::Password {
                    username: other_username,
                    password: other_password,
                },
            ) => username == other_username && same(password, other_password),
            (Self::IdentityToken(token), Self::IdentityToken(other))
            | (Self::RegistryToken(token), Self::RegistryToken(other)) => same(token, other),
            _ => false,
        }
    }
}

/// Where a credential comes from.
enum CredentialSource {
    /// The configuration: it stays what it is.
    Fixed(Credential),
    /// A file that holds the password.
    PasswordFile {
        username: String,
        file: WatchedFile<SecretString>,
    },
    /// A `config.json` of docker's.
    DockerConfig(DockerConfig),
    /// A program.
    Helper(CredentialHelper),
}

impl CredentialSource {
    fn new(config: &CredentialConfig) -> Result<Self, ConfigError> {
        Ok(match config {
            CredentialConfig::Password { username, password } => {
                Self::Fixed(Credential::Password {
                    username: username.clone(),
                    password: password.clone(),
                })
            }
            CredentialConfig::PasswordFile { username, path } => Self::PasswordFile {
                username: username.clone(),
                file: password_file(path).map_err(|problem| file_error(path, problem))?,
            },
            CredentialConfig::DockerConfig {
                path,
                helper_folder,
            } => {
                let config = DockerConfig::open(path, helper_folder.as_deref());
                Self::DockerConfig(config.map_err(|problem| file_error(path, problem))?)
            }
            CredentialConfig::Helper { name, folder } => {
                let problem = |problem| ConfigError::Credentials { problem };
                let name = HelperName::parse(name).map_err(problem)?;
                Self::Helper(CredentialHelper::new(name, folder.as_deref()))
            }
        })
    }

    /// The credential for a host; none where there is none for it. Another than `refused`, where
    /// the source has another by now.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::Unavailable`], where a helper fails, and what it gave before is no use.
    ///
    /// # Cancellation
    ///
    /// A look at a file goes on, and is found by whoever asks next; a helper is killed.
    ///
    /// # Limits
    ///
    /// A file is waited for two seconds, and a helper ten.
    async fn credential(
        &self,
        host: &str,
        refused: Option<&Credential>,
    ) -> Result<Option<Credential>, UpstreamError> {
        match self {
            Self::Fixed(credential) => Ok(Some(credential.clone())),
            Self::PasswordFile { username, file } => {
                let password = file.current(refused.is_some()).await;
                Ok(Some(Credential::Password {
                    username: username.clone(),
                    password: (*password).clone(),
                }))
            }
            Self::DockerConfig(config) => config.credential(host, refused).await,
            Self::Helper(helper) => helper.credential(server_of(host), refused).await,
        }
    }

    /// Whether it can have another credential than a moment ago.
    fn is_renewable(&self) -> bool {
        !matches!(self, Self::Fixed(_))
    }
}

/// Opens a file that holds a password and nothing else but the end of its line.
fn password_file(path: &Path) -> Result<WatchedFile<SecretString>, String> {
    WatchedFile::open(path, PASSWORD_BYTES_MAX, |bytes| {
        let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8 text")?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err("is empty".to_owned()),
            password => Ok(password.into()),
        }
    })
}

/// Whether a file can be used as `password_file`, and why not.
pub(crate) fn check_password_file(path: &Path) -> Result<(), String> {
    password_file(path).map(drop)
}

fn file_error(path: &Path, problem: String) -> ConfigError {
    ConfigError::File {
        path: path.to_owned(),
        problem,
    }
}

/// The credentials of an upstream.
pub(super) struct Credentials {
    /// Each with the prefix of the repositories that it is for, longer ones before shorter; the
    /// upstream's own last.
    sources: Vec<(Option<Repository>, Arc<CredentialSource>)>,
    /// Of each endpoint: what its credentials are looked up by; none where it may have none.
    hosts: Vec<Option<Arc<str>>>,
}

impl Credentials {
    pub(super) fn new(config: &HttpUpstreamConfig) -> Result<Self, ConfigError> {
        let CredentialsConfig {
            own,
            by_prefix,
            hosts: listed,
        } = &config.credentials;
        let mut sources = Vec::with_capacity(by_prefix.len() + 1);
        for (prefix, source) in by_prefix {
            let source = Arc::new(CredentialSource::new(source)?);
            sources.push((Some(prefix.clone()), source));
        }
        // In reverse order, what is below a prefix stands before it.
        sources.reverse();
        if let Some(own) = own {
            sources.push((None, Arc::new(CredentialSource::new(own)?)));
        }
        let hosts = if sources.is_empty() {
            vec![None; config.endpoints.len()]
        } else {
            let eligible = eligible_endpoints(&config.id, &config.endpoints, listed);
            let eligible = eligible.map_err(|error| ConfigError::Credentials {
                problem: error.to_string(),
            })?;
            let hosts = config.endpoints.iter().zip(eligible);
            let host = |(url, eligible): (&Url, bool)| eligible.then(|| host_of(url).into());
            hosts.map(host).collect()
        };
        Ok(Self { sources, hosts })
    }

    /// Who we are to an endpoint that is asked about a repository; nobody where this is none.
    pub(super) fn account(&self, endpoint: usize, repository: &Repository) -> Option<Account> {
        let host = self.hosts[endpoint].as_ref()?;
        let mut sources = self.sources.iter().enumerate();
        let (number, (prefix, source)) = sources.find(|(_, (prefix, _))| {
            let covers = |prefix: &Repository| is_below(repository.as_str(), prefix.as_str());
            prefix.as_ref().is_none_or(covers)
        })?;
        let name = prefix.as_ref().map_or(OWN, Repository::as_str);
        Some(Account {
            number,
            name: name.into(),
            source: Arc::clone(source),
            host: Arc::clone(host),
        })
    }
}

/// Whether a repository is `prefix`, or stands below it.
fn is_below(repository: &str, prefix: &str) -> bool {
    let rest = repository.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Who we are to an endpoint.
#[derive(Clone)]
pub(super) struct Account {
    /// Tells the accounts of an upstream apart.
    pub(super) number: usize,
    /// The same, for people: the prefix that it is for.
    pub(super) name: Arc<str>,
    source: Arc<CredentialSource>,
    /// What the credential is looked up by.
    host: Arc<str>,
}

impl Account {
    /// As [`CredentialSource::credential`].
    pub(super) async fn credential(
        &self,
        refused: Option<&Credential>,
    ) -> Result<Option<Credential>, UpstreamError> {
        self.source.credential(&self.host, refused).await
    }

    pub(super) fn is_renewable(&self) -> bool {
        self.source.is_renewable()
    }
}

/// The names under which docker knows Docker Hub, the one that it writes first.
const DOCKER_HUB: [&str; 4] = [
    "https://index.docker.io/v1/",
    "index.docker.io",
    "docker.io",
    "registry-1.docker.io",
];

/// What a helper is asked with for a host.
fn server_of(host: &str) -> &str {
    if DOCKER_HUB.contains(&host) {
        DOCKER_HUB[0]
    } else {
        host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_where_components_do() {
        for (repository, prefix, below) in [
            ("org/team/app", "org/team", true),
            ("org/team", "org/team", true),
            ("org/team", "org", true),
            ("org/teams/app", "org/team", false),
            ("org", "org/team", false),
            ("other/org/team", "org/team", false),
        ] {
            assert_eq!(is_below(repository, prefix), below, "{repository} {prefix}");
        }
    }
}

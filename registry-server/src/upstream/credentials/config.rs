//! Where an upstream's credentials are configured to come from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use registry_core::Repository;
use secrecy::{ExposeSecret as _, SecretString};

/// The credentials of an upstream. The default is none: it is asked anonymously.
///
/// They are shown to an endpoint only after it has asked for them, and only to those endpoints
/// that are the upstream's own: the only one there is, those whose host is the upstream's name or
/// under the same registrable domain, all where all are under one, and [`Self::hosts`]. Where that
/// is none of several, or one in plain HTTP across public networks, the upstream cannot be set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CredentialsConfig {
    /// For every repository that none of [`Self::by_prefix`] is for.
    pub own: Option<CredentialConfig>,
    /// For the repositories below a prefix, and that itself; the longest prefix counts.
    pub by_prefix: BTreeMap<Repository, CredentialConfig>,
    /// Endpoints that are shown credentials wherever they are: `registry.example.net`, or with a
    /// port.
    pub hosts: Vec<String>,
}

impl CredentialsConfig {
    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.own.is_none() && self.by_prefix.is_empty()
    }
}

/// Where a credential comes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CredentialConfig {
    /// From the configuration.
    Password {
        /// The user name.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// The password is what stands in a file, without the end of its line. The file is looked at
    /// again where it may have changed, as Kubernetes changes the files of secrets.
    PasswordFile {
        /// The user name.
        username: String,
        /// The file.
        path: PathBuf,
    },
    /// From a `config.json` of docker's, by the host of the endpoint. It is looked at again where
    /// it may have changed.
    DockerConfig {
        /// The file.
        path: PathBuf,
        /// Where the credential helpers are that it may name; none: in `PATH`.
        helper_folder: Option<PathBuf>,
    },
    /// From a credential helper of docker's, by the host of the endpoint.
    Helper {
        /// What stands after `docker-credential-` in the program's name.
        name: String,
        /// Where the program is; none: in `PATH`.
        folder: Option<PathBuf>,
    },
}

impl PartialEq for CredentialConfig {
    /// Whether they come from the same source: what stands in files may have changed.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Password { username, password },
                Self::Password {
                    username: other_name,
                    password: other,
                },
            ) => username == other_name && password.expose_secret() == other.expose_secret(),
            (
                Self::PasswordFile { username, path },
                Self::PasswordFile {
                    username: other_name,
                    path: other,
                },
            ) => username == other_name && path == other,
            (
                Self::DockerConfig {
                    path,
                    helper_folder,
                },
                Self::DockerConfig {
                    path: other,
                    helper_folder: other_folder,
                },
            ) => path == other && helper_folder == other_folder,
            (
                Self::Helper { name, folder },
                Self::Helper {
                    name: other,
                    folder: other_folder,
                },
            ) => name == other && folder == other_folder,
            _ => false,
        }
    }
}

impl Eq for CredentialConfig {}

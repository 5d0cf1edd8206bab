//! Docker's `config.json` (of `docker login`, `podman login`, and Kubernetes' image pull secrets):
//! which credential it holds for a host, or which helper it names.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use registry_core::UpstreamError;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;
use serde_json::error::Category;

use super::helper::{CredentialHelper, HelperName};
use super::watched_file::WatchedFile;
use super::{Credential, DOCKER_HUB, server_of};

/// Largest file, in bytes.
const BYTES_MAX: u64 = 1 << 20;
/// Helpers of one file that are kept with what they gave.
const HELPERS_MAX: usize = 64;

/// Base64 as it comes: some tools leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the file says.
#[derive(Default)]
struct Logins {
    /// By the key that they stand under.
    auths: BTreeMap<String, Credential>,
    /// By the key that they stand under.
    helpers: BTreeMap<String, HelperName>,
    /// For every host that nothing else is said about.
    store: Option<HelperName>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    auths: Option<BTreeMap<String, Option<Login>>>,
    #[serde(default, rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    auth: Option<SecretString>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<SecretString>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<SecretString>,
    #[serde(default, rename = "registrytoken")]
    registry_token: Option<SecretString>,
}

impl Logins {
    /// Reads the file's content. Errors quote nothing but keys: what is where a type is wrong may
    /// be a password.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(bytes).map_err(|error| {
            let what = match error.classify() {
                Category::Data => "something of the wrong type",
                _ => "no JSON",
            };
            let (line, column) = (error.line(), error.column());
            format!("is no docker config.json: {what} at line {line}, column {column}")
        })?;
        let mut logins = Self::default();
        for (key, login) in document.auths.unwrap_or_default() {
            let credential = login.map_or(Ok(None), Login::credential);
            let credential = credential.map_err(|problem| format!("{problem} ({key:?})"))?;
            // Docker leaves empty entries where a helper has the password.
            logins
                .auths
                .extend(credential.map(|credential| (key, credential)));
        }
        for (key, name) in document.helpers.unwrap_or_default() {
            logins.helpers.insert(key, HelperName::parse(&name)?);
        }
        let store = document.store.filter(|name| !name.is_empty());
        logins.store = store.map(|name| HelperName::parse(&name)).transpose()?;
        Ok(logins)
    }
}

impl Login {
    fn credential(self) -> Result<Option<Credential>, &'static str> {
        let some = |secret: Option<SecretString>| secret.filter(|secret| !is_empty(secret));
        if let Some(token) = some(self.registry_token) {
            return Ok(Some(Credential::RegistryToken(token)));
        }
        if let Some(token) = some(self.identity_token) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        let (username, password) = match some(self.auth) {
            Some(auth) => {
                let (username, password) = decode(&auth)?;
                (username, Some(password))
            }
            None => (self.username.unwrap_or_default(), self.password),
        };
        match some(password) {
            Some(_) if username.contains(':') => Err("holds a username with a colon"),
            Some(password) if !username.is_empty() => {
                Ok(Some(Credential::Password { username, password }))
            }
            Some(_) => Err("holds a password without a username"),
            None => Ok(None),
        }
    }
}

fn is_empty(secret: &SecretString) -> bool {
    use secrecy::ExposeSecret as _;
    secret.expose_secret().is_empty()
}

/// `username:password` in Base64.
fn decode(auth: &SecretString) -> Result<(String, SecretString), &'static str> {
    use secrecy::ExposeSecret as _;
    const PROBLEM: &str = "holds an auth that is not username:password in Base64";
    let bytes = BASE64
        .decode(auth.expose_secret().trim())
        .map(Zeroizing::new);
    let bytes = bytes.map_err(|_| PROBLEM)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| PROBLEM)?;
    let (username, password) = text.split_once(':').ok_or(PROBLEM)?;
    // As docker does, which once wrote them.
    let password = password.trim_matches('\0');
    Ok((username.to_owned(), password.into()))
}

/// Whether a file can be used as `docker_config`, and why not.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    DockerConfig::open(path, None).map(drop)
}

/// Where a host's credential is.
enum Found {
    Here(Credential),
    Helper(HelperName),
    Nowhere,
}

impl Logins {
    /// What is said about a host, as docker reads it: a key is a host, or a URL of which the host
    /// counts. A helper for the host counts before a password, that before the store for all.
    fn find(&self, host: &str) -> Found {
        if let Some(name) = by_host(&self.helpers, host) {
            return Found::Helper(name.clone());
        }
        if let Some(credential) = by_host(&self.auths, host) {
            return Found::Here(credential.clone());
        }
        match &self.store {
            Some(name) => Found::Helper(name.clone()),
            None => Found::Nowhere,
        }
    }
}

/// The value for a host: under itself, and else under the first key that is a URL at it.
fn by_host<'a, T>(table: &'a BTreeMap<String, T>, host: &'a str) -> Option<&'a T> {
    let names = match DOCKER_HUB.contains(&host) {
        true => &DOCKER_HUB[..],
        false => std::slice::from_ref(&host),
    };
    names.iter().find_map(|name| table.get(*name)).or_else(|| {
        let at = |key: &str| {
            names
                .iter()
                .any(|name| host_of_key(key).eq_ignore_ascii_case(name))
        };
        table
            .iter()
            .find(|(key, _)| at(key))
            .map(|(_, value)| value)
    })
}

/// The host, with its port, of a key such as `https://registry.example.org/v1/`.
fn host_of_key(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    host.strip_suffix(":443").unwrap_or(host)
}

/// A `config.json` in use.
pub(super) struct DockerConfig {
    file: WatchedFile<Logins>,
    helper_folder: Option<PathBuf>,
    helpers: Mutex<HashMap<HelperName, Arc<CredentialHelper>>>,
}

impl DockerConfig {
    /// # Errors
    ///
    /// Why the file cannot be used, to be put after its name.
    pub(super) fn open(path: &Path, helper_folder: Option<&Path>) -> Result<Self, String> {
        Ok(Self {
            file: WatchedFile::open(path, BYTES_MAX, Logins::parse)?,
            helper_folder: helper_folder.map(Path::to_owned),
            helpers: Mutex::default(),
        })
    }

    /// As [`super::CredentialSource::credential`].
    pub(super) async fn credential(
        &self,
        host: &str,
        refused: Option<&Credential>,
    ) -> Result<Option<Credential>, UpstreamError> {
        match self.file.current(refused.is_some()).await.find(host) {
            Found::Here(credential) => Ok(Some(credential)),
            Found::Nowhere => Ok(None),
            Found::Helper(name) => {
                let helper = self.helper(name);
                helper.credential(server_of(host), refused).await
            }
        }
    }

    fn helper(&self, name: HelperName) -> Arc<CredentialHelper> {
        // Nothing is half done in it when a thread panics.
        let mut helpers = self.helpers.lock().unwrap_or_else(PoisonError::into_inner);
        if helpers.len() >= HELPERS_MAX && !helpers.contains_key(&name) {
            helpers.clear();
        }
        let folder = self.helper_folder.as_deref();
        let helper = helpers
            .entry(name.clone())
            .or_insert_with(|| Arc::new(CredentialHelper::new(name, folder)));
        Arc::clone(helper)
    }
}

#[cfg(test)]
mod tests;

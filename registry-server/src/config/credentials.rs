//! The keys that say where an upstream's credentials come from.
//!
//! No value of these keys is in any message, but names of files, variables and programs.

use std::env;
use std::ffi::OsString;
use std::path::Path;

use registry_core::{Repository, UpstreamId};
use secrecy::SecretString;
use url::Url;

use super::document::Table;
use super::place::{Place, Problems, Written};
use super::values;
use crate::upstream::{
    CredentialConfig, CredentialsConfig, HelperName, check_docker_config, check_password_file,
    eligible_endpoints,
};

/// Where a password may be written.
const PASSWORD_KEYS: [&str; 3] = ["password", "password_file", "password_env"];

/// How the value of a variable is looked up.
type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What the configuration file says of an upstream's credentials.
#[derive(Debug, Default)]
pub(super) struct CredentialsLayer {
    own: Option<Written<CredentialConfig>>,
    by_prefix: Vec<(Repository, Written<CredentialConfig>)>,
    hosts: Vec<String>,
}

impl CredentialsLayer {
    /// The credentials of the upstream `id` at `endpoints`, which have to be such as may be shown
    /// some.
    pub(super) fn resolve(
        self,
        id: &UpstreamId,
        endpoints: &[Url],
        problems: &mut Problems,
    ) -> CredentialsConfig {
        let by_prefix = self.by_prefix.iter().map(|(_, written)| written);
        let place = self
            .own
            .iter()
            .chain(by_prefix)
            .next()
            .map(|written| written.place.clone());
        if let Some(place) = place
            && let Err(error) = eligible_endpoints(id, endpoints, &self.hosts)
        {
            problems.add(place, error.to_string());
        }
        let by_prefix = self.by_prefix.into_iter();
        CredentialsConfig {
            own: self.own.map(|written| written.value),
            by_prefix: by_prefix.map(|(prefix, it)| (prefix, it.value)).collect(),
            hosts: self.hosts,
        }
    }
}

/// Takes all keys of an upstream's table that are about its credentials.
pub(super) fn read(
    table: &mut Table<'_>,
    env: Env<'_>,
    problems: &mut Problems,
) -> CredentialsLayer {
    let own = read_source(table, env, problems);
    let example = "[upstream.\"ghcr.io\".credentials.\"org/team\"]";
    let mut by_prefix = Vec::new();
    for (name, mut table) in table.tables("credentials", example, problems) {
        let place = name.place.clone();
        if let Some(place) = table.inner_table() {
            let problem =
                format!("a prefix with dots or slashes is written in quotes, as in {example}");
            problems.add(place.clone(), problem);
            continue;
        }
        let found = problems.len();
        let source = read_source(&mut table, env, problems);
        table.refuse_the_rest(problems);
        let prefix = name.parse(problems, prefix);
        match (prefix, source) {
            (Some(prefix), Some(source)) => by_prefix.push((prefix.value, source)),
            (_, None) if problems.len() == found => problems.add(
                place,
                "says nothing; write a username with a password, docker_config or \
                 credential_helper",
            ),
            _ => {}
        }
    }
    let hosts_place = table.place("credential_hosts").cloned();
    let hosts = table.list("credential_hosts", problems, values::realm);
    if let Some(place) = hosts_place
        && own.is_none()
        && by_prefix.is_empty()
    {
        problems.add(
            place,
            "there are no credentials that could be shown to them",
        );
    }
    CredentialsLayer {
        own,
        by_prefix,
        hosts: hosts.unwrap_or_default(),
    }
}

fn prefix(text: &str) -> Result<Repository, String> {
    Repository::parse(text).map_err(|error| format!("{text:?} is {error}, for example org/team"))
}

/// The one source of a credential that a table names, if any.
fn read_source(
    table: &mut Table<'_>,
    env: Env<'_>,
    problems: &mut Problems,
) -> Option<Written<CredentialConfig>> {
    let login = read_login(table, env, problems);
    let docker_config = table.usable("docker_config", problems, check_docker_config);
    let docker_config = docker_config.map(|path| {
        path.map(|path| CredentialConfig::DockerConfig {
            path,
            helper_folder: None,
        })
    });
    let helper = table.text("credential_helper", problems);
    let helper = helper.and_then(|name| {
        let name = name.parse(problems, |text| helper_name(text, env))?;
        Some(name.map(|name| CredentialConfig::Helper { name, folder: None }))
    });
    let mut sources = [login, docker_config, helper].into_iter().flatten();
    let first = sources.next()?;
    for second in sources {
        problems.add(
            second.place,
            "is a second source of credentials beside another; keep one: username with a password, \
             docker_config or credential_helper",
        );
    }
    Some(first)
}

/// `username`, with where its password is.
fn read_login(
    table: &mut Table<'_>,
    env: Env<'_>,
    problems: &mut Problems,
) -> Option<Written<CredentialConfig>> {
    // Where they stand, also those that are of the wrong type.
    let place = |key: &&str| table.place(key).cloned();
    let name_place = table.place("username").cloned();
    let places: Vec<Place> = PASSWORD_KEYS.iter().filter_map(place).collect();
    let keys = PASSWORD_KEYS.join(", ");
    match (name_place, &places[..]) {
        (None, []) | (Some(_), [_]) => {}
        (None, [password, ..]) => problems.add(password.clone(), "needs username beside it"),
        (Some(username), []) => problems.add(username, format!("needs one of {keys} beside it")),
        (Some(_), [_, second, ..]) => {
            let problem = format!("is a second password; keep one of {keys}");
            problems.add(second.clone(), problem);
        }
    }
    let username = table.text("username", problems);
    let here = table.text("password", problems);
    let file = table.usable("password_file", problems, check_password_file);
    let variable = table.text("password_env", problems);
    let username = username?.parse(problems, user_name)?;
    let place = username.place.clone();
    let username = username.value;
    let password = match (here, variable) {
        (Some(here), _) => here.parse(problems, password).map(|it| it.value),
        (None, Some(name)) => name
            .parse(problems, |name| from_env(name, env))
            .map(|it| it.value),
        (None, None) => {
            let path = file?.value;
            return Some(Written::new(
                CredentialConfig::PasswordFile { username, path },
                place,
            ));
        }
    };
    let config = CredentialConfig::Password {
        username,
        password: password?,
    };
    Some(Written::new(config, place))
}

fn user_name(text: &str) -> Result<String, String> {
    // The form of both is that of RFC 7617.
    if text.is_empty() || text.contains(':') || text.chars().any(char::is_control) {
        return Err("must be a name without a colon and control characters".to_owned());
    }
    Ok(text.to_owned())
}

fn password(text: &str) -> Result<SecretString, String> {
    match text {
        "" => Err("is empty".to_owned()),
        text => Ok(text.into()),
    }
}

pub(super) fn from_env(name: &str, env: Env<'_>) -> Result<SecretString, String> {
    let value = env(name).filter(|value| !value.is_empty());
    // Without its name: some write the password there.
    let value = value.ok_or("names an environment variable that is not set")?;
    match value.into_string() {
        Ok(value) => Ok(value.into()),
        Err(_) => Err("names an environment variable that is not UTF-8 text".to_owned()),
    }
}

/// The name of a helper, which has to be there where it is known where to look.
fn helper_name(text: &str, env: Env<'_>) -> Result<String, String> {
    let program = HelperName::parse(text)?.program();
    let Some(folders) = env("PATH") else {
        return Ok(text.to_owned());
    };
    let is_there = |folder: &Path| folder.join(&program).is_file();
    if env::split_paths(&folders).any(|folder| is_there(&folder)) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{program} is in none of the folders of PATH; install it there"
        ))
    }
}

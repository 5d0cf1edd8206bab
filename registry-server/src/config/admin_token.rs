//! Where the token of the admin API comes from. What it is, is read where it is asked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::credentials::from_env;
use super::place::{Problems, Written};
use crate::upstream::check_password_file;

/// Where the token comes from that whoever administers the mirror has to show.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum AdminToken {
    /// From nowhere: only this machine may administer the mirror, without one.
    #[default]
    None,
    /// It is what stands in a file, without the end of its line. The file is looked at again where
    /// it may have changed, as Kubernetes changes the files of secrets.
    File(PathBuf),
    /// It was given: as the value of an environment variable, or by the program.
    Value(SecretString),
}

impl AdminToken {
    /// Whether one has to be shown.
    pub fn is_required(&self) -> bool {
        !matches!(self, Self::None)
    }
}

impl PartialEq for AdminToken {
    /// For what has changed in a configuration; what a client shows is compared in constant time,
    /// elsewhere.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::File(one), Self::File(other)) => one == other,
            (Self::Value(one), Self::Value(other)) => one.expose_secret() == other.expose_secret(),
            _ => false,
        }
    }
}

impl Eq for AdminToken {}

/// What one layer names as the source.
#[derive(Debug)]
pub(super) enum TokenSource {
    File(PathBuf),
    Variable(String),
}

/// The one source that a layer names, if any.
pub(super) fn source(
    file: Option<Written<PathBuf>>,
    variable: Option<Written<String>>,
    problems: &mut Problems,
) -> Option<Written<TokenSource>> {
    match (file, variable) {
        (Some(_), Some(variable)) => {
            let problem = "is a second token; keep one of admin_token_file and admin_token_env";
            problems.add(variable.place, problem);
            None
        }
        (Some(file), None) => Some(file.map(TokenSource::File)),
        (None, Some(variable)) => Some(variable.map(TokenSource::Variable)),
        (None, None) => None,
    }
}

/// The token that a source gives, if it does.
pub(super) fn resolve(
    source: Option<Written<TokenSource>>,
    env: &dyn Fn(&str) -> Option<OsString>,
    problems: &mut Problems,
) -> AdminToken {
    let Some(Written { value, place }) = source else {
        return AdminToken::None;
    };
    let token = match value {
        TokenSource::File(path) => check_file(&path).map(|()| AdminToken::File(path)),
        TokenSource::Variable(name) => from_env(&name, env).map(AdminToken::Value),
    };
    token.unwrap_or_else(|problem| {
        problems.add(place, problem);
        AdminToken::None
    })
}

fn check_file(path: &Path) -> Result<(), String> {
    check_password_file(path).map_err(|problem| format!("{} {problem}", path.display()))
}

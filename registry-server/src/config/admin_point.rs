//! Where a mirror is administered, by what its configuration says of that and of nothing else: who
//! administers it need not be able to read the credentials that the rest names.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::document::{Document, cannot_read};
use super::place::{Place, Problems, Written};
use super::{AdminToken, ConfigErrors, values};

/// Where a mirror is administered, and with which token.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AdminPoint {
    /// The address of its admin listener, where its configuration says one.
    pub listen: Option<SocketAddr>,
    /// Where the token comes from.
    pub token: AdminToken,
}

impl AdminPoint {
    /// What the configuration file at `path` says. Everything else in the file may be wrong.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, or in it with these settings.
    pub fn read(
        path: PathBuf,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigErrors> {
        let mut problems = Problems::default();
        let point = match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&Document::new(&path, text), env, &mut problems),
            Err(error) => {
                problems.add(Place::Flag("--config"), cannot_read(&path, &error));
                Self::default()
            }
        };
        problems.finish(point)
    }

    fn parse(
        document: &Document,
        env: impl Fn(&str) -> Option<OsString>,
        problems: &mut Problems,
    ) -> Self {
        let Some(mut root) = document.root(problems) else {
            return Self::default();
        };
        let listen = root.parsed("admin_listen", problems, values::address);
        let file = root.path("admin_token_file", problems);
        let variable = root.text("admin_token_env", problems);
        let value = |name: Written<String>| env(&name.value)?.into_string().ok();
        let token = match (file, variable.and_then(value)) {
            (Some(file), _) => AdminToken::File(file.value),
            (None, Some(value)) => AdminToken::Value(value.into()),
            (None, None) => AdminToken::None,
        };
        Self { listen, token }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn read(text: &str) -> Result<AdminPoint, ConfigErrors> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("registry.toml");
        fs::write(&file, text).unwrap();
        AdminPoint::read(file, |name| (name == "TOKEN").then(|| "secret".into()))
    }

    #[test]
    fn only_what_is_about_administration_is_read() {
        let point = read(
            "admin_listen = \"127.0.0.1:7001\"\nadmin_token_file = \"token\"\nunknown = 1\n\
             [upstream.\"ghcr.io\"]\nendpoints = []\npassword_file = \"/not/readable\"\n",
        );
        let point = point.unwrap();
        assert_eq!(point.listen, Some("127.0.0.1:7001".parse().unwrap()));
        assert!(matches!(point.token, AdminToken::File(path) if path.ends_with("token")));

        let point = read("admin_token_env = \"TOKEN\"").unwrap();
        assert_eq!(point.listen, None);
        assert!(matches!(point.token, AdminToken::Value(it) if it.expose_secret() == "secret"));
    }

    #[test]
    fn what_is_wrong_about_it_is_told() {
        let error = read("\nadmin_listen = \"5001\"").unwrap_err().to_string();
        assert!(error.contains("registry.toml:2: admin_listen"), "{error}");
        let missing = AdminPoint::read("/no/such/file".into(), |_| None).unwrap_err();
        assert!(
            missing.to_string().contains("--config: cannot read"),
            "{missing}"
        );
    }
}

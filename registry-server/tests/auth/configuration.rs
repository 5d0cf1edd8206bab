//! The keys of the configuration file that are about credentials.

use std::ffi::OsString;

use clap::Parser as _;
use registry_core::{Repository, UpstreamId};
use registry_server::config::{Config, ConfigErrors, CredentialConfig, Flags};
use secrecy::ExposeSecret as _;

use crate::support::Folder;

#[derive(clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    flags: Flags,
}

/// Loads a file, in an environment with one variable.
pub(crate) fn load(folder: &Folder, text: &str) -> Result<Config, ConfigErrors> {
    let path = folder.write("registry.toml", text);
    let line = ["test", "--config", path.to_str().unwrap()];
    let flags = CommandLine::try_parse_from(line).unwrap().flags;
    Config::load(flags, |name| {
        (name == "HUB_PASSWORD").then(|| OsString::from("hunter2-of-env"))
    })
}

fn errors(text: &str) -> String {
    let folder = Folder::new();
    folder.write("password", "hunter2-of-file");
    folder.write("empty", "");
    folder.write("config.json", "{}");
    folder.write("broken.json", "{\"auths\":{\"a.example\":\"hunter2\"}}");
    let errors = load(&folder, text).unwrap_err().to_string();
    errors.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn every_source_is_read() {
    let folder = Folder::new();
    let password = folder.write("password", "hunter2-of-file\n");
    let docker = folder.write("config.json", "{}");
    let config = load(
        &folder,
        r#"
[upstream."docker.io"]
endpoints = ["https://mirror.gcr.io", "https://registry-1.docker.io", "https://hub.example.net"]
username = "me"
password = "hunter2"
credential_hosts = ["Hub.example.net:443"]
[upstream."docker.io".credentials."library"]
username = "library"
password_env = "HUB_PASSWORD"
[upstream."docker.io".credentials."org/team"]
username = "team"
password_file = "password"
[upstream."ghcr.io"]
docker_config = "config.json"
[upstream."quay.io".credentials."org"]
credential_helper = "ecr-login"
"#,
    )
    .unwrap();
    let told = format!("{config:?}");
    assert!(!told.contains("hunter2"), "{told}");

    let credentials = |id| &config.upstreams[&UpstreamId::parse(id).unwrap()].credentials;
    let hub = credentials("docker.io");
    let below = |prefix| &hub.by_prefix[&Repository::parse(prefix).unwrap()];
    let is_password = |credential: &CredentialConfig, name: &str, secret: &str| {
        matches!(credential, CredentialConfig::Password { username, password }
            if username == name && password.expose_secret() == secret)
    };
    assert!(is_password(hub.own.as_ref().unwrap(), "me", "hunter2"));
    assert!(is_password(below("library"), "library", "hunter2-of-env"));
    assert!(
        matches!(below("org/team"), CredentialConfig::PasswordFile { username, path }
        if username == "team" && *path == password)
    );
    assert_eq!(hub.hosts, ["hub.example.net:443"]);
    assert!(matches!(&credentials("ghcr.io").own,
        Some(CredentialConfig::DockerConfig { path, .. }) if *path == docker));
    let quay = credentials("quay.io");
    assert!(quay.own.is_none());
    assert!(
        matches!(&quay.by_prefix[&Repository::parse("org").unwrap()],
        CredentialConfig::Helper { name, .. } if name == "ecr-login")
    );
    assert!(credentials("gcr.io").is_empty());
}

#[test]
fn mistakes_name_key_and_line_and_tell_no_secret() {
    for (text, wanted) in [
        (
            "username = \"me\"",
            "3: upstream.\"ghcr.io\".username: needs one of password, ",
        ),
        (
            "password = \"hunter2\"",
            "3: upstream.\"ghcr.io\".password: needs username",
        ),
        (
            "password_env = \"HUB_PASSWORD\"",
            "3: upstream.\"ghcr.io\".password_env: needs username",
        ),
        (
            "username = \"me\"\npassword = \"hunter2\"\npassword_file = \"password\"",
            "5: upstream.\"ghcr.io\".password_file: is a second password",
        ),
        (
            "username = \"me\"\npassword_env = \"HUB_PASSWORD\"\npassword = \"hunter2\"",
            "4: upstream.\"ghcr.io\".password_env: is a second password",
        ),
        (
            "username = \"me\"\npassword_env = \"hunter2\"",
            "4: upstream.\"ghcr.io\".password_env: names an environment variable that is not set",
        ),
        (
            "username = \"me\"\npassword = \"\"",
            "4: upstream.\"ghcr.io\".password: is empty",
        ),
        (
            "username = \"me\"\npassword = 5",
            "4: upstream.\"ghcr.io\".password: is of type integer",
        ),
        (
            "username = \"m:e\"\npassword = \"hunter2\"",
            "3: upstream.\"ghcr.io\".username: must be a name without a colon",
        ),
        (
            "username = \"me\"\npassword_file = \"empty\"",
            "4: upstream.\"ghcr.io\".password_file: empty is empty",
        ),
        (
            "username = \"me\"\npassword_file = \"none\"",
            "4: upstream.\"ghcr.io\".password_file: none cannot be read: No such file",
        ),
        (
            "docker_config = \"broken.json\"",
            "3: upstream.\"ghcr.io\".docker_config: broken.json is no docker config.json: \
             something of the wrong type at line 1",
        ),
        (
            "credential_helper = \"../sh\"",
            "3: upstream.\"ghcr.io\".credential_helper: \"../sh\" is not the name of",
        ),
        (
            "docker_config = \"config.json\"\ncredential_helper = \"gcr\"",
            "4: upstream.\"ghcr.io\".credential_helper: is a second source",
        ),
        (
            "docker_config = \"config.json\"\nusername = \"me\"\npassword = \"hunter2\"",
            "3: upstream.\"ghcr.io\".docker_config: is a second source",
        ),
        (
            "credential_hosts = [\"a.example\"]",
            "3: upstream.\"ghcr.io\".credential_hosts: there are no credentials",
        ),
        (
            "username = \"me\"\npassword = \"hunter2\"\ncredential_hosts = [\"https://a\"]",
            "5: upstream.\"ghcr.io\".credential_hosts[0]: \"https://a\" is not a host name",
        ),
        (
            "[upstream.\"ghcr.io\".credentials.\"org/team\"]",
            "3: upstream.\"ghcr.io\".credentials.\"org/team\": says nothing",
        ),
        (
            "[upstream.\"ghcr.io\".credentials.\"Org\"]\nusername = \"a\"\npassword = \"hunter2\"",
            "3: upstream.\"ghcr.io\".credentials.Org: \"Org\" is not a repository name",
        ),
        (
            "[upstream.\"ghcr.io\".credentials.org]\nuser = \"a\"",
            "4: upstream.\"ghcr.io\".credentials.org.user: unknown key; there are ",
        ),
        (
            "[upstream.\"ghcr.io\".credentials]\nusername = \"a\"",
            "4: upstream.\"ghcr.io\".credentials.username: is of type string",
        ),
        (
            "[upstream.\"ghcr.io\".credentials.org.team]\nusername = \"a\"",
            "3: upstream.\"ghcr.io\".credentials.org.team: a prefix with dots or slashes",
        ),
        (
            "endpoints = [\"https://a.example.net\", \"https://b.example.com\"]\n\
             username = \"me\"\npassword = \"hunter2\"",
            "4: upstream.\"ghcr.io\".username: none of the endpoints is known to belong to ghcr.io",
        ),
        (
            "endpoints = [\"http://ghcr.io\"]\nusername = \"me\"\npassword = \"hunter2\"",
            "4: upstream.\"ghcr.io\".username: credentials would be sent to ghcr.io in plain HTTP",
        ),
        ("username = \"me\"\npassword = hunter2", "4: "),
        ("username = \"me\"\npassword = \"hunter2", "4: "),
        (
            "endpoints = [\"https://me:hunter2@ghcr.io\"]",
            "3: upstream.\"ghcr.io\".endpoints[0]: ",
        ),
    ] {
        let told = errors(&format!("# a comment\n[upstream.\"ghcr.io\"]\n{text}\n"));
        let wanted = format!("registry.toml:{wanted}");
        assert!(
            told.starts_with(&wanted),
            "{text:?} gives\n{told}\nnot\n{wanted}"
        );
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn a_helper_has_to_be_where_it_is_looked_for() {
    let folder = Folder::new();
    let text = "upstream.\"ghcr.io\".credential_helper = \"here\"";
    let path = folder.write("registry.toml", text);
    let load = || {
        let line = ["test", "--config", path.to_str().unwrap()];
        let flags = CommandLine::try_parse_from(line).unwrap().flags;
        Config::load(flags, |name| (name == "PATH").then(|| folder.path().into()))
    };
    let told = load().unwrap_err().to_string();
    assert!(
        told.contains("docker-credential-here is in none of the folders of PATH"),
        "{told}"
    );
    folder.write("docker-credential-here", "");
    load().unwrap();
}

#[test]
fn whoever_sets_credentials_is_told_who_can_use_them() {
    let login = "username = \"me\"\npassword = \"hunter2\"\n";
    let hub = format!("[upstream.\"docker.io\"]\n{login}");
    let part = format!("[upstream.\"quay.io\".credentials.\"org\"]\n{login}");
    let warnings = |text: &str| load(&Folder::new(), text).unwrap().warnings().join("\n");
    assert_eq!(warnings(&hub), "");
    let open = format!("listen = \"0.0.0.0:5000\"\n{hub}{part}");
    let told = warnings(&open);
    let wanted = "whoever reaches 0.0.0.0:5000 can pull all that the credentials for docker.io, \
                  quay.io open";
    assert!(told.starts_with(wanted), "{told}");
    assert!(!told.contains("hunter2") && !told.contains('\n'), "{told}");
    let told = warnings(&format!("{hub}insecure_skip_verify = true\n"));
    assert!(told.contains("gets its credentials"), "{told}");
}

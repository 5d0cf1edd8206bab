//! Upstreams with credentials, and a look at all that they send.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use registry_core::{Caller, Digest, Reference, Repository, Upstream, UpstreamError, UpstreamId};
use registry_server::testing::{
    FixtureRegistry, ImageSpec, Login, Outgoing, OutgoingLog, TokenAuth,
};
use registry_server::upstream::{
    CredentialConfig, CredentialsConfig, HttpUpstream, HttpUpstreamConfig,
};
use tempfile::TempDir;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::errors::kind;

/// All that our crates log, at every level, in all tests of this process: which test logs what is
/// not told apart, so secrets are words that stand in no log.
static LOGS: LazyLock<Logs> = LazyLock::new(|| {
    let logs = Logs::default();
    let ours = [
        "registry_core",
        "registry_server",
        "registry_storage",
        "access",
    ];
    let filter = Targets::new().with_targets(ours.map(|target| (target, Level::TRACE)));
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(logs.clone());
    let subscriber = tracing_subscriber::registry().with(layer).with(filter);
    tracing::subscriber::set_global_default(subscriber).unwrap();
    logs
});

#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What was logged so far; from the first call on.
pub(crate) fn logs() -> String {
    String::from_utf8(LOGS.0.lock().unwrap().clone()).unwrap()
}

/// The user name of most tests.
pub(crate) const USER: &str = "marvin";
/// The password of most tests: letters only, so that it is the same in URLs and forms.
pub(crate) const PASSWORD: &str = "heartofgold";
/// What the tokens of fixtures begin with.
pub(crate) const TOKEN: &str = "fixture-token-";

pub(crate) fn login() -> Login {
    Login::new(USER, PASSWORD)
}

/// The credential of [`login`].
pub(crate) fn password() -> CredentialConfig {
    password_of(USER, PASSWORD)
}

pub(crate) fn password_of(username: &str, password: &str) -> CredentialConfig {
    CredentialConfig::Password {
        username: username.to_owned(),
        password: password.into(),
    }
}

pub(crate) fn own(credential: CredentialConfig) -> CredentialsConfig {
    let mut credentials = CredentialsConfig::default();
    credentials.own = Some(credential);
    credentials
}

/// A registry with one image, `app:latest`, in three repositories.
pub(crate) async fn registry() -> FixtureRegistry {
    fill(FixtureRegistry::start().await)
}

pub(crate) fn fill(registry: FixtureRegistry) -> FixtureRegistry {
    for repository in ["app", "org/app", "org/team/app"] {
        registry.add_image(repository, "latest", &ImageSpec::new(1).layers(&[5000]));
    }
    registry
}

/// A registry that wants tokens of another server, which gives them to these.
pub(crate) async fn with_token_server(logins: Vec<Login>) -> (FixtureRegistry, FixtureRegistry) {
    let registry = registry().await;
    let server = registry.start_token_server().await;
    serve_tokens(&registry, &server, |auth| auth.logins = logins);
    (registry, server)
}

pub(crate) fn serve_tokens(
    registry: &FixtureRegistry,
    server: &FixtureRegistry,
    change: impl FnOnce(&mut TokenAuth),
) {
    let mut auth = TokenAuth {
        realm: Some(format!("{}/token", server.url())),
        ..TokenAuth::default()
    };
    change(&mut auth);
    registry.behave(|behaviour| behaviour.token = Some(auth.clone()));
    server.behave(|behaviour| behaviour.token = Some(auth));
}

/// An upstream, and all that it sent.
pub(crate) struct Asked {
    upstream: HttpUpstream,
    log: OutgoingLog,
}

impl Asked {
    pub(crate) fn new(registry: &FixtureRegistry, credentials: CredentialsConfig) -> Self {
        Self::with(&[registry.url()], |config| config.credentials = credentials)
    }

    pub(crate) fn with(endpoints: &[String], change: impl FnOnce(&mut HttpUpstreamConfig)) -> Self {
        let endpoints = endpoints.iter().map(|url| url.parse().unwrap());
        let id = UpstreamId::parse("registry.test").unwrap();
        let mut config = HttpUpstreamConfig::new(id, endpoints);
        change(&mut config);
        logs();
        Self {
            log: config.outgoing.clone(),
            upstream: HttpUpstream::new(config).unwrap(),
        }
    }

    /// Fetches `latest` of a repository, by one question: `ok`, or the error's kind.
    pub(crate) async fn pull(&self, repository: &str) -> &'static str {
        match self.manifest(repository).await {
            Ok(true) => "ok",
            Ok(false) => "absent",
            Err(error) => kind(&error),
        }
    }

    pub(crate) async fn manifest(&self, repository: &str) -> Result<bool, UpstreamError> {
        let repository = Repository::parse(repository).unwrap();
        let reference = Reference::parse("latest").unwrap();
        let fetched = self
            .upstream
            .manifest(&repository, &reference, &Caller::Anonymous);
        Ok(fetched.await?.is_some())
    }

    pub(crate) async fn blob(&self, repository: &str, digest: Digest) -> &'static str {
        let repository = Repository::parse(repository).unwrap();
        let fetched = self
            .upstream
            .blob(&repository, digest, None, None, &Caller::Anonymous);
        match fetched.await {
            Ok(blob) if blob.is_some() => "ok",
            Ok(_) => "absent",
            Err(error) => kind(&error),
        }
    }

    pub(crate) fn log(&self) -> &OutgoingLog {
        &self.log
    }

    /// Asserts that each secret went to its host and to no other; and nothing that looks like one
    /// to any. With a host that is empty: to none at all.
    #[track_caller]
    pub(crate) fn assert_only(&self, secrets: &[(&str, &str)]) {
        assert_only(&self.log, secrets);
    }
}

/// As [`Asked::assert_only`], and that none was logged; of several entries for one secret, each host has to have got it.
#[track_caller]
pub(crate) fn assert_only(log: &OutgoingLog, secrets: &[(&str, &str)]) {
    let logged = logs();
    for (secret, _) in secrets {
        let line = logged.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} was logged: {line:?}");
    }
    let requests = log.requests();
    assert!(!requests.is_empty(), "nothing was asked");
    for request in &requests {
        let (host, sent) = (host(request), sent(request));
        for (secret, _) in secrets.iter().filter(|(secret, _)| sent.contains(secret)) {
            let allowed = secrets.iter().any(|it| it == &(*secret, &*host));
            assert!(allowed, "{secret} went to {host}: {request:?}");
        }
        // Whatever else is secret: no credential that the test does not know of.
        let known = secrets.iter().any(|(secret, _)| sent.contains(secret));
        let authorized = request
            .headers
            .iter()
            .any(|(name, _)| name == "authorization");
        assert!(
            known || !authorized,
            "something went to {host}: {request:?}"
        );
    }
    for (secret, wanted) in secrets.iter().filter(|(_, wanted)| !wanted.is_empty()) {
        let got = |it: &Outgoing| host(it) == *wanted && sent(it).contains(secret);
        assert!(requests.iter().any(got), "{secret} never went to {wanted}");
    }
}

/// Host and port.
fn host(request: &Outgoing) -> String {
    let port = request.url.port_or_known_default().unwrap();
    format!("{}:{port}", request.url.host_str().unwrap())
}

/// All that is in a request, with what is encoded in it.
fn sent(request: &Outgoing) -> String {
    let mut sent = format!("{}\n{}\n", request.url, request.body);
    for (name, value) in &request.headers {
        sent.push_str(&format!("{name}: {value}\n"));
        for word in value.split_whitespace() {
            let decoded = STANDARD.decode(word).unwrap_or_default();
            sent.push_str(&String::from_utf8_lossy(&decoded));
            sent.push('\n');
        }
    }
    sent
}

/// Requests by method and what they were answered with, since the last look: `GET 401, GET 200`.
pub(crate) fn asked(registry: &FixtureRegistry) -> String {
    let requests = registry.requests();
    registry.reset_counters();
    let lines = requests.iter().map(|request| {
        let status = request.status.unwrap_or_default();
        format!("{} {status}", request.method)
    });
    lines.collect::<Vec<_>>().join(", ")
}

/// How many requests came, since the last look.
pub(crate) fn count(registry: &FixtureRegistry) -> u64 {
    let total = registry.total();
    registry.reset_counters();
    total
}

/// The one request of this method that a registry got.
#[track_caller]
pub(crate) fn one(
    registry: &FixtureRegistry,
    method: Method,
) -> registry_server::testing::Recorded {
    let mut requests = registry.requests();
    requests.retain(|request| request.method == method);
    assert_eq!(requests.len(), 1, "{requests:?}");
    requests.remove(0)
}

/// A folder with files of a test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, in place.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap_or_default()
    }

    /// Puts a credential helper here, called `fixture`, that does as `behaviour` says.
    pub(crate) fn helper(&self, behaviour: &str) -> CredentialConfig {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let script = script.join("tests/auth/docker-credential-fixture");
        symlink(script, self.path().join("docker-credential-fixture")).unwrap();
        self.write("behaviour", behaviour);
        CredentialConfig::Helper {
            name: "fixture".to_owned(),
            folder: Some(self.path().to_owned()),
        }
    }
}

/// A helper that answers with this.
pub(crate) fn answering(username: &str, secret: &str) -> String {
    format!(
        "echo '{{\"ServerURL\":\"'\"$server\"'\",\"Username\":\"{username}\",\
         \"Secret\":\"{secret}\"}}'"
    )
}

/// Lets time pass, in which nothing happens.
pub(crate) async fn later(time: std::time::Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

//! A mirror with an admin listener, and a client so plain that nothing can be hidden in it.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry_core::testing::ManualClock;
use registry_core::{MemoryStore, Stores};
use registry_server::testing::{FixtureImage, FixtureRegistry, ImageSpec};
use registry_server::{Mirror, MirrorBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::description;

/// How long anything is waited for before the test fails.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);

/// The upstream of these tests.
pub(crate) const UPSTREAM: &str = "registry.example";

/// A registry, and a mirror of it with content in memory.
pub(crate) struct Site {
    pub(crate) origin: FixtureRegistry,
    pub(crate) mirror: Mirror,
    pub(crate) clock: Arc<ManualClock>,
    _folder: TempDir,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::with(|builder, _| builder).await
    }

    /// The same, with other settings.
    pub(crate) async fn with(set: impl FnOnce(MirrorBuilder, &TempDir) -> MirrorBuilder) -> Self {
        let origin = FixtureRegistry::start().await;
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let store = Arc::new(MemoryStore::with(Arc::clone(&clock) as _, None));
        let builder = builder(&origin, &clock)
            .stores(Stores::of(Arc::clone(&store)).kept_by(store))
            .data_dir(folder.path().join("data"));
        let mirror = set(builder, &folder).start().await.unwrap();
        Self {
            origin,
            mirror,
            clock,
            _folder: folder,
        }
    }

    /// An image at the registry, of `seed`, with two layers.
    pub(crate) fn image(&self, repository: &str, tag: &str, seed: u64) -> FixtureImage {
        let spec = ImageSpec::new(seed).layers(&[50_000, 1_000]);
        self.origin.add_image(repository, tag, &spec)
    }

    /// Pulls all of an image through the mirror.
    pub(crate) async fn pull(&self, repository: &str, tag: &str, image: &FixtureImage) {
        let mut paths = vec![format!("/v2/{repository}/manifests/{tag}")];
        let manifests = image.manifests.iter();
        paths.extend(manifests.map(|it| format!("/v2/{repository}/manifests/{}", it.digest)));
        let blobs = image.blobs();
        paths.extend(blobs.map(|blob| format!("/v2/{repository}/blobs/{}", blob.digest)));
        for path in paths {
            let answer = Question::get(&path).send_to(self.mirror.addr()).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
        // A body ends a moment before its blob is committed.
        let name = format!("{UPSTREAM}/{repository}:{tag}");
        self.until(&format!("/api/v1/image?name={name}"), |answer| {
            answer.json()["complete"] == true
        })
        .await;
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.mirror.admin_addr().unwrap()
    }

    pub(crate) async fn ask(&self, question: Question) -> Answer {
        question.send_to(self.admin()).await
    }

    /// Asks for a path of the API, without the beginning that all have.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Question::get(&format!("/api/v1/{path}"))).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        let question = Question::new("DELETE", &format!("/api/v1/{path}"));
        self.ask(question).await
    }

    pub(crate) async fn post(&self, path: &str, document: &Value) -> Answer {
        let question = Question::new("POST", &format!("/api/v1/{path}"));
        self.ask(question.json(document)).await
    }

    /// Asks again and again until the answer is as wanted.
    pub(crate) async fn until(&self, path: &str, is_it: impl Fn(&Answer) -> bool) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = self.ask(Question::get(path)).await;
            if is_it(&answer) {
                return answer;
            }
            assert!(begun.elapsed() < WAIT_MAX, "{path} is still {answer:?}");
            tokio::task::yield_now().await;
        }
    }

    /// Begins a job, and waits until it has ended.
    pub(crate) async fn job(&self, request: &Value) -> Value {
        let begun = self.post("jobs", request).await;
        assert_eq!(begun.status, 202, "{begun:?}");
        self.ended(begun.json()["id"].as_u64().unwrap()).await
    }

    /// Waits until a job has ended.
    pub(crate) async fn ended(&self, id: u64) -> Value {
        let path = format!("/api/v1/jobs/{id}");
        let has_ended = |answer: &Answer| !answer.json()["ended_at"].is_null();
        self.until(&path, has_ended).await.json()
    }
}

/// A mirror of `origin`, on free ports.
pub(crate) fn builder(origin: &FixtureRegistry, clock: &Arc<ManualClock>) -> MirrorBuilder {
    Mirror::builder()
        .without_known_upstreams()
        .upstream(UPSTREAM, &origin.url())
        .default_upstream(UPSTREAM)
        .admin_listen("127.0.0.1:0")
        .clock(Arc::clone(clock) as _)
}

/// A request.
#[derive(Clone)]
pub(crate) struct Question {
    method: String,
    path: String,
    host: Option<String>,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Question {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            host: None,
            headers: Vec::new(),
            body: None,
        }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// What it says in place of the address.
    pub(crate) fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn json(self, document: &Value) -> Self {
        let body = document.to_string().into_bytes();
        self.header("Content-Type", "application/json").body(body)
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        self.headers
            .push(("Content-Length".to_owned(), body.len().to_string()));
        self.body = Some(body);
        self
    }

    /// Sends it, and holds the answer against the description where it is one of the API.
    pub(crate) async fn send_to(self, address: SocketAddr) -> Answer {
        let asking = tokio::task::spawn_blocking(move || self.send(address));
        asking.await.unwrap()
    }

    fn send(self, address: SocketAddr) -> Answer {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(WAIT_MAX)).unwrap();
        let host = self.host.unwrap_or_else(|| address.to_string());
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n",
            self.method, self.path
        );
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        client.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        // Who is refused for the head may be gone before the body.
        let _ = client.write_all(&self.body.unwrap_or_default());
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        let answer = Answer::read(&answer);
        if self.path.starts_with("/api/v1/") && self.method != "HEAD" {
            let media_type = answer.header("content-type").unwrap_or_default();
            description::check(
                &self.method,
                &self.path,
                answer.status,
                media_type,
                &answer.body,
            );
        }
        answer
    }
}

/// An answer, whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer, but {bytes:?}"));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
        Self {
            status: status.unwrap(),
            head,
            body: bytes[end + 4..].to_vec(),
        }
    }

    /// A header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Holds it against a status and the code of a problem; what the message says.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> String {
        let problem = self.json();
        assert_eq!(
            (self.status, &problem["code"]),
            (status, &json!(code)),
            "{self:?}"
        );
        problem["message"].as_str().unwrap().to_owned()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{}\n\n{body}", self.head)
    }
}

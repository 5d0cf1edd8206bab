//! The mirror as a value in another program.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at what it cannot do without"
)]

#[path = "support/http.rs"]
mod http;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ::http::Method;
use http::{Answer, get};
use registry_core::testing::{ManualClock, ScriptedUpstream};
use registry_core::{Manifest, MemoryStore, Repository, Stores, Tag};
use registry_server::testing::{FixtureRegistry, ImageSpec, Object};
use registry_server::{Mirror, MirrorBuilder, StartError};

const MISS: &str = "registry-server; fwd=miss; stored";
const HIT: &str = "registry-server; hit";

/// A mirror that knows no upstream but those that a test names.
fn builder(folder: &Path) -> MirrorBuilder {
    let data = folder.join("data");
    Mirror::builder().without_known_upstreams().data_dir(data)
}

async fn pull(mirror: &Mirror, path: &str) -> Answer {
    let (address, path) = (mirror.addr(), path.to_owned());
    let asking = tokio::task::spawn_blocking(move || get(address, &path));
    asking.await.unwrap()
}

#[tokio::test]
async fn an_image_is_pulled_once_and_served_for_ever() {
    let origin = FixtureRegistry::start().await;
    let spec = ImageSpec::new(1).layers(&[100_000, 1_000]);
    let image = origin.add_image("org/app", "1", &spec);
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let builder = builder(folder.path()).upstream("registry.example", &origin.url());
        builder.default_upstream("registry.example").start()
    };
    // Pulls it, and tells how the blobs were answered.
    let assert_pulled = async |mirror: &Mirror| {
        let mut statuses = Vec::new();
        let manifest = pull(mirror, "/v2/org/app/manifests/1?ns=registry.example").await;
        assert_eq!(manifest.status, 200, "{manifest:?}");
        assert_eq!(manifest.body, origin.bytes(&image.root().digest).unwrap());
        for blob in image.blobs() {
            let path = format!("/v2/registry.example/org/app/blobs/{}", blob.digest);
            let answer = pull(mirror, &path).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.body, origin.bytes(&blob.digest).unwrap());
            statuses.push(answer.header("cache-status").unwrap().to_owned());
        }
        statuses
    };

    let mirror = start().await.unwrap();
    assert_eq!(assert_pulled(&mirror).await, [MISS; 3]);
    // Hits, or from the download that is just being committed: it is over for the client first.
    assert_pulled(&mirror).await;
    assert_eq!(origin.count(Method::GET, Object::Blob), 3);
    mirror.shutdown().await;

    origin.stop().await;
    let asked = origin.total();
    let mirror = start().await.unwrap();
    assert_eq!(assert_pulled(&mirror).await, [HIT; 3]);
    assert_eq!(origin.total(), asked);
    mirror.shutdown().await;
}

#[tokio::test]
async fn a_program_brings_its_own_stores_upstreams_and_clock() {
    let upstream = ScriptedUpstream::new();
    let repository = Repository::parse("org/app").unwrap();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let bytes = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[]}}"#);
    let manifest = Manifest::of_bytes(None, bytes.clone().into()).unwrap();
    upstream.set_tag(&repository, &Tag::parse("1").unwrap(), manifest.digest());
    upstream.add_manifest(&repository, manifest);
    let clock = Arc::new(ManualClock::default());
    let folder = tempfile::tempdir().unwrap();
    let mirror = builder(folder.path())
        .stores(Stores::of(Arc::new(MemoryStore::new())))
        .upstream_with("registry.example", Arc::clone(&upstream) as _)
        .default_upstream("registry.example")
        .clock(Arc::clone(&clock) as _)
        .tag_ttl(Duration::from_secs(60))
        .start()
        .await
        .unwrap();

    let path = "/v2/org/app/manifests/1";
    assert_eq!(pull(&mirror, path).await.body, bytes.as_bytes());
    let asked = upstream.calls().resolve;
    clock.advance(Duration::from_millis(59_999));
    assert_eq!(pull(&mirror, path).await.status, 200);
    assert_eq!(upstream.calls().resolve, asked);
    clock.advance(Duration::from_millis(1));
    assert_eq!(pull(&mirror, path).await.status, 200);
    assert_eq!(upstream.calls().resolve, asked + 1);

    mirror.shutdown().await;
    assert!(!folder.path().join("data").exists());
}

#[tokio::test]
async fn mistakes_name_the_method() {
    let folder = tempfile::tempdir().unwrap();
    let started = builder(folder.path())
        .listen(":5000")
        .admin_listen("localhost")
        .upstream("registry.example", "registry.example")
        .upstream("a b", "https://registry.example")
        .default_upstream("a/b")
        .start()
        .await;
    let Err(StartError::Config(errors)) = started else {
        panic!("{started:?}");
    };
    let places: Vec<_> = errors.iter().map(|error| error.place.to_string()).collect();
    assert_eq!(
        places,
        [
            "MirrorBuilder::listen",
            "MirrorBuilder::admin_listen",
            "MirrorBuilder::upstream",
            "MirrorBuilder::upstream",
            "MirrorBuilder::default_upstream",
        ]
    );
    assert!(!folder.path().join("data").exists());
}

#[tokio::test]
async fn the_default_upstream_must_be_known() {
    let folder = tempfile::tempdir().unwrap();
    let started = builder(folder.path()).start().await;
    let Err(error @ StartError::DefaultUpstream { .. }) = started else {
        panic!("{started:?}");
    };
    assert!(error.to_string().contains("docker.io"), "{error}");
    assert!(error.advice().is_some());
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing_running() {
    let folder = tempfile::tempdir().unwrap();
    let builder = || builder(folder.path()).upstream("docker.io", "http://127.0.0.1:9");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let started = builder().listen(&address.to_string()).start().await;
    let Err(error) = started else {
        panic!("{started:?}");
    };
    assert!(
        matches!(
            error,
            StartError::Listen {
                setting: "--listen",
                ..
            }
        ),
        "{error:?}"
    );
    assert!(
        error.advice().unwrap().contains("another process"),
        "{error:?}"
    );
    drop(taken);
    // Neither the folder nor the port is taken.
    let mirror = builder()
        .listen(&address.to_string())
        .start()
        .await
        .unwrap();
    assert_eq!(mirror.addr(), address);
    assert_eq!(mirror.admin_addr(), None);
    // A second one is told who has the folder.
    let Err(error @ StartError::Store(_)) = builder().start().await else {
        panic!("one folder has two owners");
    };
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    mirror.shutdown().await;
}

#[tokio::test]
async fn dropping_it_stops_it() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = builder(folder.path())
        .upstream("docker.io", "http://127.0.0.1:9")
        .admin_listen("127.0.0.1:0")
        .start()
        .await
        .unwrap();
    let admin = mirror.admin_addr().unwrap();
    let ready = tokio::task::spawn_blocking(move || get(admin, "/readyz"));
    assert_eq!(ready.await.unwrap().status, 200);
    let addresses = [mirror.addr(), admin];
    drop(mirror);
    for address in addresses {
        let refused = tokio::task::spawn_blocking(move || await_refusal(address));
        refused.await.unwrap();
    }
}

/// Waits until nothing listens there.
fn await_refusal(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "{address} still listens");
        thread::sleep(Duration::from_millis(5));
    }
}

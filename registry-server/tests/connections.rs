//! Connections: how many, how long, and how they end.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "loopback/mod.rs"]
mod loopback;

use std::time::Duration;

use loopback::{Blobs, Client, Mirror, PATIENCE, Setup, repository, request};
use registry_core::testing::content::sample;
use registry_core::testing::{Act, BodyScript, Call, Gate, Piece};
use registry_core::{MemoryStore, RegistryCache, Stores, UpstreamId, Upstreams};
use registry_server::front::{FrontLimits, Server, ServerError, ServerOptions};
use tokio::time::timeout;

async fn limited(limits: FrontLimits) -> Mirror {
    Mirror::with(Setup {
        limits,
        ..Setup::default()
    })
    .await
}

/// A blob at quay.io whose second half waits for the gate.
fn gated(mirror: &Mirror, size: usize) -> (Gate, String, bytes::Bytes) {
    let bytes = sample(size, 1);
    let digest = mirror.quay.add_blob(&repository("org/app"), bytes.clone());
    let gate = Gate::new();
    let pieces = vec![
        Piece::Bytes(bytes.slice(..size / 2)),
        Piece::Wait(gate.clone()),
        Piece::Bytes(bytes.slice(size / 2..)),
    ];
    let script = BodyScript::new(Some(size as u64), pieces);
    mirror.quay.once(Call::Blob, Act::Body(script));
    (
        gate,
        format!("/v2/org/app/blobs/{digest}?ns=quay.io"),
        bytes,
    )
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_there_is_room_again_when_one_ends() {
    let mirror = limited(FrontLimits {
        connections_max: 2,
        ..FrontLimits::default()
    })
    .await;
    let mut first = mirror.connect().await;
    let mut second = mirror.connect().await;
    assert_eq!(first.get("/v2/", &[]).await.status, 200);
    assert_eq!(second.get("/v2/", &[]).await.status, 200);
    let mut third = mirror.connect().await;
    let refused = third.response("GET").await;
    assert_eq!((refused.status, &*refused.code()), (503, "TOOMANYREQUESTS"));
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(third.rest().await.is_empty());
    // Those that are there are not disturbed, and the admin listener has room of its own.
    assert_eq!(first.get("/v2/", &[]).await.status, 200);
    let mut admin = Client::connect(mirror.admin).await;
    assert_eq!(admin.get("/healthz", &[]).await.status, 200);
    drop(first);
    let room = async {
        loop {
            let mut client = mirror.connect().await;
            if client.get("/v2/", &[]).await.status == 200 {
                return;
            }
        }
    };
    timeout(PATIENCE, room).await.expect("there is room again");
}

#[tokio::test]
async fn connections_past_every_limit_wait_for_their_turn() {
    let mirror = limited(FrontLimits {
        connections_max: 1,
        refusals_max: 1,
        ..FrontLimits::default()
    })
    .await;
    let mut served = mirror.connect().await;
    assert_eq!(served.get("/v2/", &[]).await.status, 200);
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(mirror.connect().await);
    }
    for mut client in waiting {
        assert_eq!(client.response("GET").await.status, 503);
        assert!(client.rest().await.is_empty());
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_or_half_a_request_is_given_up() {
    let mirror = limited(FrontLimits {
        request_wait_max: Duration::from_millis(50),
        ..FrontLimits::default()
    })
    .await;
    for said in ["", "GET /v2/ HT", "GET /v2/ HTTP/1.1\r\nHost: m\r\n"] {
        let mut client = mirror.connect().await;
        client.send(said.as_bytes()).await;
        assert!(client.rest().await.is_empty(), "{said:?}");
    }
}

#[tokio::test]
async fn a_connection_is_idle_between_requests_and_not_while_one_is_answered() {
    let mirror = limited(FrontLimits {
        request_wait_max: Duration::from_secs(1),
        ..FrontLimits::default()
    })
    .await;
    let (gate, target, bytes) = gated(&mirror, 100_000);
    let mut client = mirror.connect().await;
    client.send(request("GET", &target, &[]).as_bytes()).await;
    client.head().await;
    let mut idle = mirror.connect().await;
    assert_eq!(idle.get("/v2/", &[]).await.status, 200);
    assert!(idle.rest().await.is_empty());
    gate.open();
    assert!(client.bytes(bytes.len()).await == bytes);
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let bytes = sample(32 << 20, 2);
    let mirror = Mirror::with(Setup {
        limits: FrontLimits {
            write_idle_max: Duration::from_millis(50),
            // The client learns of it by the end of the connection, so only one may be open.
            connections_max: 1,
            ..FrontLimits::default()
        },
        blobs: Blobs::Files,
        ..Setup::default()
    })
    .await;
    let digest = mirror
        .docker
        .add_blob(&repository("org/app"), bytes.clone());
    let target = format!("/v2/org/app/blobs/{digest}");
    let mut stalled = mirror.connect().await;
    stalled.send(request("GET", &target, &[]).as_bytes()).await;
    stalled.head().await;
    let room = async {
        loop {
            let mut client = mirror.connect().await;
            if client.get("/v2/", &[]).await.status == 200 {
                return;
            }
        }
    };
    timeout(PATIENCE, room)
        .await
        .expect("the connection was given up");
    let received = stalled.rest().await;
    assert!(received.len() < bytes.len() && bytes.starts_with(&received));
}

#[tokio::test]
async fn health_is_told_on_the_admin_listener() {
    let mirror = Mirror::start().await;
    let mut admin = Client::connect(mirror.admin).await;
    for (path, status) in [("/healthz", "ok"), ("/readyz", "ready")] {
        let answer = admin.get(path, &[]).await;
        assert_eq!(
            (answer.status, &answer.json()["status"]),
            (200, &status.into())
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let head = admin.request("HEAD", path, &[]).await;
        assert_eq!((head.status, head.length()), (200, answer.length()));
    }
}

#[tokio::test]
async fn a_shutdown_lets_answers_under_way_end_and_begins_no_more() {
    let mut mirror = Mirror::start().await;
    let (gate, target, bytes) = gated(&mirror, 300_000);
    let mut idle = mirror.connect().await;
    assert_eq!(idle.get("/v2/", &[]).await.status, 200);
    let mut silent = mirror.connect().await;
    let mut busy = mirror.connect().await;
    busy.send(request("GET", &target, &[]).as_bytes()).await;
    // A request behind the one that is being answered is not begun.
    busy.send(request("GET", "/v2/", &[]).as_bytes()).await;
    assert_eq!(busy.head().await.status, 200);
    let mut admin = Client::connect(mirror.admin).await;
    mirror.begin_shutdown();
    assert!(idle.rest().await.is_empty());
    assert!(silent.rest().await.is_empty());
    // Closed connections say that the shutdown has begun: it is told, and nobody else gets in.
    let ready = admin.get("/readyz", &[]).await;
    assert_eq!(
        (ready.status, &ready.json()["status"]),
        (503, &"draining".into())
    );
    assert_eq!(admin.get("/healthz", &[]).await.status, 200);
    gate.open();
    assert!(busy.bytes(bytes.len()).await == bytes);
    assert!(busy.rest().await.is_empty());
    mirror.ended().await;
    assert!(
        tokio::net::TcpStream::connect(mirror.address)
            .await
            .is_err()
    );
    assert!(admin.rest().await.is_empty());
}

/// Half a request is no answer under way.
#[tokio::test]
async fn a_shutdown_does_not_wait_for_half_a_request() {
    let mut mirror = limited(FrontLimits {
        drain_max: PATIENCE * 10,
        linger_max: Duration::from_millis(50),
        ..FrontLimits::default()
    })
    .await;
    let mut client = mirror.connect().await;
    assert_eq!(client.get("/v2/", &[]).await.status, 200);
    client.send(b"GET /v2/ HTTP/1.1\r\nHo").await;
    mirror.begin_shutdown();
    let ended = async {
        assert!(client.rest().await.is_empty());
        mirror.ended().await;
    };
    timeout(PATIENCE, ended)
        .await
        .expect("it ends without the rest");
}

#[tokio::test]
async fn a_shutdown_has_a_limit() {
    let mut mirror = limited(FrontLimits {
        drain_max: Duration::from_millis(50),
        ..FrontLimits::default()
    })
    .await;
    let (_never, target, bytes) = gated(&mirror, 300_000);
    let mut client = mirror.connect().await;
    client.send(request("GET", &target, &[]).as_bytes()).await;
    assert_eq!(client.head().await.length(), bytes.len());
    mirror.begin_shutdown();
    let received = client.rest().await;
    assert!(received.len() < bytes.len() && bytes.starts_with(&received));
    drop(client);
    mirror.ended().await;
}

#[tokio::test]
async fn a_server_that_is_dropped_takes_its_connections_along() {
    let mut mirror = Mirror::start().await;
    let (_never, target, bytes) = gated(&mirror, 300_000);
    let mut idle = mirror.connect().await;
    assert_eq!(idle.get("/v2/", &[]).await.status, 200);
    let mut busy = mirror.connect().await;
    busy.send(request("GET", &target, &[]).as_bytes()).await;
    busy.head().await;
    mirror.kill();
    assert!(idle.rest().await.is_empty());
    assert!(busy.rest().await.len() < bytes.len());
}

#[tokio::test]
async fn a_server_that_cannot_begin_says_why() {
    let mirror = Mirror::start().await;
    let docker = UpstreamId::parse("docker.io").unwrap();
    let options = || ServerOptions::new(docker.clone());
    let taken = Server::bind(mirror.address, None, mirror.cache.clone(), options()).await;
    assert!(matches!(taken, Err(ServerError::Listen { address, .. }) if address == mirror.address));
    let any = "127.0.0.1:0".parse().unwrap();
    let taken = Server::bind(any, Some(mirror.admin), mirror.cache.clone(), options()).await;
    assert!(matches!(taken, Err(ServerError::Listen { address, .. }) if address == mirror.admin));
    let stores = Stores::of(std::sync::Arc::new(MemoryStore::new()));
    let empty = RegistryCache::new(stores, Upstreams::new());
    let unknown = Server::bind(any, None, empty, options()).await;
    let error = unknown.unwrap_err();
    assert!(matches!(&error, ServerError::DefaultUpstream { upstream } if *upstream == docker));
    assert_eq!(
        error.to_string(),
        "the default upstream docker.io is not configured"
    );
}

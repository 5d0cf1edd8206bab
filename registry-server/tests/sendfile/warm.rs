//! Blobs that are stored.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use registry_core::testing::content::sample;
use registry_core::{BlobStore, Digest};
use registry_storage::DiskStore;
use tokio::task::JoinSet;

use crate::loopback::{Client, Mirror, Setup, add_image, repository, request};
use crate::shelf::Shelf;
use crate::{LARGE, SIZE, WINDOW, mirror_of};

/// A mirror that has these bytes in a file, and what to ask it for.
async fn holding(bytes: &Bytes, sendfile: bool) -> (Mirror, Arc<Shelf>, Digest, String) {
    let shelf = Shelf::new();
    let mirror = mirror_of(&shelf, sendfile).await;
    let digest = mirror
        .docker
        .add_blob(&repository("org/app"), bytes.clone());
    shelf.keep(digest, bytes);
    (mirror, shelf, digest, format!("/v2/org/app/blobs/{digest}"))
}

#[tokio::test]
async fn requests_in_one_write_are_answered_in_order_and_to_the_byte() {
    let (large, small) = (sample(SIZE, 1), sample(1000, 2));
    for sendfile in [true, false] {
        let shelf = Shelf::new();
        let mirror = mirror_of(&shelf, sendfile).await;
        let app = repository("org/app");
        let (manifest, _) = add_image(&mirror.docker, &app, "v", "layer");
        let target = |digest| format!("/v2/org/app/blobs/{digest}");
        let [large_target, small_target] = [&large, &small].map(|bytes| {
            let digest = mirror.docker.add_blob(&app, bytes.clone());
            shelf.keep(digest, bytes);
            target(digest)
        });
        let manifest_target = format!("/v2/org/app/manifests/{manifest}");
        let manifest = mirror.get(&manifest_target).await.body;
        let etag = mirror
            .head(&small_target)
            .await
            .header("etag")
            .unwrap()
            .to_owned();
        let known = format!("If-None-Match: {etag}");
        let asked: [(&str, &str, &str, u16, &[u8]); 10] = [
            ("GET", &manifest_target, "", 200, &manifest),
            ("GET", &large_target, "", 200, &large),
            ("GET", &small_target, "", 200, &small),
            ("HEAD", &large_target, "", 200, b""),
            (
                "GET",
                &large_target,
                "Range: bytes=2097151-3145729",
                206,
                &large[2_097_151..3_145_730],
            ),
            ("GET", &small_target, &known, 304, b""),
            (
                "GET",
                &small_target,
                "Range: bytes=999-",
                206,
                &small[999..],
            ),
            ("GET", &small_target, "", 200, &small),
            ("GET", &manifest_target, "", 200, &manifest),
            ("GET", &large_target, "", 200, &large),
        ];
        let requests = asked.iter().map(|(method, target, header, ..)| {
            let headers = [*header];
            request(
                method,
                target,
                if header.is_empty() { &[] } else { &headers },
            )
        });
        let mut client = mirror.connect().await;
        client.send(requests.collect::<String>().as_bytes()).await;
        for (method, target, header, status, body) in asked {
            let answer = client.response(method).await;
            assert_eq!(answer.status, status, "{method} {target} {header}");
            assert!(answer.body == body, "{method} {target} {header}");
        }
    }
}

#[tokio::test]
async fn slow_readers_get_every_byte() {
    let bytes = sample(SIZE, 3);
    for sendfile in [true, false] {
        let (mirror, _shelf, _, target) = holding(&bytes, sendfile).await;
        let mut readers = JoinSet::new();
        for reader in 0..32 {
            let (address, target, bytes) = (mirror.address, target.clone(), bytes.clone());
            readers.spawn(async move {
                let mut client = Client::connect_small(address).await;
                client.send(request("GET", &target, &[]).as_bytes()).await;
                assert_eq!(client.head().await.length(), SIZE);
                let mut at = 0;
                while at < SIZE {
                    let part = client.bytes((10_007 + 1000 * reader).min(SIZE - at)).await;
                    assert!(!part.is_empty() && bytes[at..].starts_with(&part));
                    at += part.len();
                    tokio::task::yield_now().await;
                }
            });
        }
        readers.join_all().await;
    }
}

#[tokio::test]
async fn parts_are_exact_wherever_windows_end() {
    let bytes = sample(SIZE, 4);
    let window = WINDOW;
    let ranges = [
        (0, 1),
        (window - 1, window + 1),
        (1, 2 * window),
        (window, 2 * window),
        (SIZE - 1, SIZE),
        (0, SIZE),
    ];
    for sendfile in [true, false] {
        let (mirror, _shelf, _, target) = holding(&bytes, sendfile).await;
        let mut client = mirror.connect().await;
        for (start, end) in ranges {
            let range = format!("Range: bytes={start}-{}", end - 1);
            let answer = client.get(&target, &[&range]).await;
            assert_eq!(answer.status, 206);
            assert!(answer.body == bytes[start..end], "{range}");
        }
        let apart = [(0, 1), (window - 1, window + 1), (SIZE - window, SIZE)];
        let list = apart.map(|(start, end)| format!("{start}-{}", end - 1));
        let range = format!("Range: bytes={}", list.join(","));
        let answer = client.get(&target, &[&range]).await;
        assert_eq!(answer.status, 206);
        let kind = answer.header("content-type").unwrap();
        let boundary = kind.split_once("boundary=").unwrap().1;
        let mut expected = Vec::new();
        for (index, (start, end)) in apart.into_iter().enumerate() {
            let line = if index == 0 { "" } else { "\r\n" };
            let last = end - 1;
            expected.extend_from_slice(
                format!(
                    "{line}--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                     Content-Range: bytes {start}-{last}/{SIZE}\r\n\r\n"
                )
                .as_bytes(),
            );
            expected.extend_from_slice(&bytes[start..end]);
        }
        expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert!(answer.body == expected, "each part in its frame");
    }
}

#[tokio::test]
async fn a_connection_goes_on_after_whole_bodies_whatever_others_do() {
    let bytes = sample(LARGE, 5);
    for sendfile in [true, false] {
        let (mirror, _shelf, _, target) = holding(&bytes, sendfile).await;
        let mut client = mirror.connect().await;
        for _ in 0..2 {
            // Gone at once, within the body, and with a request behind it.
            for (read, behind) in [(0, 0), (1, 0), (500_000, 1)] {
                let mut aborting = mirror.connect().await;
                let requests = request("GET", &target, &[]).repeat(1 + behind);
                aborting.send(requests.as_bytes()).await;
                if read > 0 {
                    aborting.head().await;
                    aborting.bytes(read).await;
                }
            }
            let whole = client.get(&target, &[]).await;
            assert!(!whole.header("cache-status").unwrap().contains("miss"));
            assert!(whole.body == bytes);
            let tail = client.get(&target, &["Range: bytes=-7"]).await;
            assert!(tail.body == bytes[LARGE - 7..]);
        }
    }
}

#[tokio::test]
async fn a_blob_that_is_removed_while_it_is_sent_arrives_whole() {
    let bytes = sample(LARGE, 6);
    for sendfile in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(DiskStore::open(folder.path().join("data")).await.unwrap());
        let mirror = Mirror::with(Setup {
            store: Some(Arc::clone(&store) as _),
            sendfile: Some(sendfile),
            ..Setup::default()
        })
        .await;
        let digest = mirror
            .docker
            .add_blob(&repository("org/app"), bytes.clone());
        let target = format!("/v2/org/app/blobs/{digest}");
        assert!(mirror.get(&target).await.body == bytes);
        while mirror.cache.fills_active() > 0 {
            tokio::task::yield_now().await;
        }
        let mut client = Client::connect_small(mirror.address).await;
        client.send(request("GET", &target, &[]).as_bytes()).await;
        let head = client.head().await;
        assert_eq!(head.header("cache-status"), Some("registry-server; hit"));
        assert!(client.bytes(1000).await == bytes[..1000]);
        assert!(BlobStore::remove(&*store, digest).await.unwrap());
        assert!(client.bytes(LARGE - 1000).await == bytes[1000..]);
        // It is gone, and comes again.
        let again = client.get(&target, &[]).await;
        let came = again.header("cache-status");
        assert_eq!(came, Some("registry-server; fwd=miss; stored"));
        assert!(again.body == bytes);
        assert_eq!(mirror.docker.calls().blob, 2);
        drop(mirror);
        store.close().await.unwrap();
    }
}

fn cut(path: &Path, len: usize) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len as u64).unwrap();
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_sent_ends_the_body_and_gives_no_wrong_byte() {
    let bytes = sample(LARGE, 7);
    for sendfile in [true, false] {
        for left in [0, LARGE / 2, LARGE - (64 << 10)] {
            let (mirror, shelf, digest, target) = holding(&bytes, sendfile).await;
            let path = shelf.keep(digest, &bytes);
            let mut client = Client::connect_small(mirror.address).await;
            client.send(request("GET", &target, &[]).as_bytes()).await;
            assert_eq!(client.head().await.length(), LARGE);
            client.bytes(1000).await;
            cut(&path, left);
            // Panics where the connection is reset instead of closed.
            let received = client.rest().await;
            assert!(received.len() < LARGE - 1000);
            assert!(bytes[1000..].starts_with(&received));
            if left > LARGE / 4 {
                assert_eq!(received.len(), left - 1000, "all that is left of it");
            }
        }
    }
}

#[tokio::test]
async fn a_shutdown_lets_a_file_that_is_being_sent_end() {
    let bytes = sample(LARGE, 8);
    for sendfile in [true, false] {
        let (mut mirror, _shelf, _, target) = holding(&bytes, sendfile).await;
        let mut client = Client::connect_small(mirror.address).await;
        client.send(request("GET", &target, &[]).as_bytes()).await;
        client.head().await;
        assert!(client.bytes(1000).await == bytes[..1000]);
        mirror.begin_shutdown();
        assert!(client.rest().await == bytes[1000..]);
        drop(client);
        mirror.ended().await;
    }
}

#[tokio::test]
async fn a_file_that_the_kernel_does_not_send_is_read() {
    // A file that has bytes at offsets, and that sendfile refuses.
    let path = Path::new("/proc/self/cmdline");
    let bytes = Bytes::from(fs::read(path).unwrap());
    for sendfile in [true, false] {
        let shelf = Shelf::new();
        let mirror = mirror_of(&shelf, sendfile).await;
        let digest = mirror
            .docker
            .add_blob(&repository("org/app"), bytes.clone());
        shelf.keep_at(digest, path, bytes.len());
        let target = format!("/v2/org/app/blobs/{digest}");
        let mut client = mirror.connect().await;
        for _ in 0..3 {
            assert!(client.get(&target, &[]).await.body == bytes);
        }
        let tail = client.get(&target, &["Range: bytes=-3"]).await;
        assert!(tail.body == bytes[bytes.len() - 3..]);
    }
}

//! Lies and cuts: no client ever ends with a whole wrong body or a clean short one, connections
//! end with FIN, nothing wrong is stored, and the next pull from a healthy origin works.

use http::Method;
use registry_core::Digest;
use registry_server::testing::{Fault, Match, Object, Times};

use crate::support::{End, Reading, Setup, UPSTREAM, blob_path, get, manifest_path, sha256};

/// Well past the held-back tail, or within it.
const SIZES: [u64; 2] = [3 << 20, 1000];

fn lies(size: u64) -> Vec<Fault> {
    vec![
        Fault::WrongBytes { offset: 0 },
        Fault::WrongBytes { offset: size / 2 },
        Fault::WrongBytes { offset: size - 1 },
        Fault::Short { after: 0 },
        Fault::Short { after: size / 2 },
        Fault::Short { after: size - 1 },
        Fault::Reset { after: 0 },
        Fault::Reset { after: size / 2 },
        Fault::TooMany { extra: 1 },
        Fault::TooMany { extra: 1 << 20 },
        Fault::WrongLength { declared: size - 1 },
        Fault::WrongLength { declared: size + 1 },
        Fault::WrongLength { declared: size * 2 },
        Fault::Close,
        Fault::Garbage,
        Fault::status(500),
        Fault::status(206),
        Fault::headers(&[("content-encoding", "gzip")]),
    ]
}

/// Whether the rest is asked for, and comes: the fault is that of each body, so that the rest is
/// too short to suffer it.
fn is_gone_on_after(lie: &Fault) -> bool {
    match lie {
        Fault::Short { after } | Fault::Reset { after } => *after > 0,
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lie_about_a_blob_is_believed() {
    for (number, size) in SIZES.into_iter().enumerate() {
        let setup = Setup::new().await;
        for (seed, lie) in lies(size).into_iter().enumerate() {
            let seed = (number * 1000 + seed) as u64;
            let blob = setup.origin.add_blob("library/app", seed, size);
            setup
                .origin
                .fault(Match::blob(blob.digest), Times::Always, lie.clone());
            let request = format!("GET {}", blob_path(blob.digest));
            let mirror = setup.mirror.addr();
            let clients = (0..3).map(|_| async {
                Reading::begin(mirror, &request, "")
                    .await
                    .unwrap()
                    .finish()
                    .await
            });
            for answer in futures::future::join_all(clients).await {
                let context = format!("{lie:?} of {size}");
                if answer.status() == 200 && is_gone_on_after(&lie) {
                    assert_eq!(answer.end, End::Whole, "{context}");
                    assert_eq!(sha256(&answer.body), blob.digest, "{context}");
                } else if answer.status() == 200 {
                    assert_eq!(answer.end, End::Fin, "{context}");
                } else {
                    assert!(
                        matches!(answer.status(), 502 | 504),
                        "{context}: {answer:?}"
                    );
                    assert_eq!(answer.end, End::Whole, "{context}");
                    assert!(!answer.error_code().is_empty());
                }
            }
            setup.idle().await;
            let stored = is_stored(&setup, blob.digest);
            assert!(!stored || is_gone_on_after(&lie), "{lie:?} of {size}");
            setup.origin.clear_faults();
            let answer = setup.blob(blob.digest).await;
            assert_eq!(
                (answer.status(), answer.end),
                (200, End::Whole),
                "{lie:?} of {size}"
            );
            assert_eq!(sha256(&answer.body), blob.digest);
            setup.idle().await;
            assert!(is_stored(&setup, blob.digest));
        }
    }
}

/// Whether a file of this digest is among the committed ones.
fn is_stored(setup: &Setup, digest: Digest) -> bool {
    let encoded = digest.encoded();
    let path = setup
        .folder
        .path()
        .join("data/blobs/sha256")
        .join(&encoded[..2])
        .join(&encoded);
    path.exists()
}

#[tokio::test]
async fn no_lie_about_a_manifest_is_believed() {
    let json = format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[],"annotations":{{"padding":"{}"}}}}"#,
        "x".repeat(2000)
    );
    let size = json.len() as u64;
    for lie in lies(size) {
        let setup = Setup::new().await;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            setup
                .origin
                .add_manifest("library/app", Some("latest"), media_type, json.clone());
        let get_only = Match::manifest(manifest.digest).with_method(Method::GET);
        setup.origin.fault(get_only, Times::Always, lie.clone());
        for reference in ["latest".to_owned(), manifest.digest.to_string()] {
            let answer = get(setup.mirror.addr(), &manifest_path(reference)).await;
            assert!(matches!(answer.status(), 502 | 504), "{lie:?}: {answer:?}");
            assert_eq!(answer.header("oci-namespace"), Some(UPSTREAM));
        }
        setup.origin.clear_faults();
        let answer = get(setup.mirror.addr(), &manifest_path("latest")).await;
        assert_eq!(
            (answer.status(), sha256(&answer.body)),
            (200, manifest.digest),
            "{lie:?}"
        );
    }
}

#[tokio::test]
async fn a_digest_that_the_origin_invents_for_a_tag_is_not_believed() {
    let setup = Setup::new().await;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let pushed = setup.origin.add_manifest(
        "library/app",
        Some("latest"),
        media_type,
        r#"{"layers":[]}"#,
    );
    let invented = format!("sha256:{}", "0".repeat(64));
    let lie = Fault::headers(&[("docker-content-digest", &invented)]);
    setup.origin.fault(Match::tag("latest"), Times::Always, lie);
    // What is sent for the tag has a digest of its own, and that is the one that counts.
    for _ in 0..2 {
        let answer = get(setup.mirror.addr(), &manifest_path("latest")).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(&*pushed.digest.to_string())
        );
    }
    // The second time, nothing had changed.
    assert_eq!(setup.origin.count(Method::GET, Object::ManifestByTag), 1);
    setup.origin.clear_faults();
    let answer = get(setup.mirror.addr(), &manifest_path("latest")).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(setup.origin.count(Method::GET, Object::ManifestByTag), 1);
}

//! Signatures and SBOMs through the mirror, as clients look for them: by the referrers API, and by
//! tags where a registry has none; online, warm, and offline.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use registry_core::{Descriptor, Digest, Limits};
use registry_server::Mirror;
use registry_server::testing::{
    Fault, FixtureRegistry, ImageSpec, Match, Object, ReferrersApi, Times,
};
use serde_json::{Value, json};

use crate::support::{Answer, REPOSITORY, Setup, UPSTREAM, blob_path, get, head, manifest_path};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SBOM: &str = "application/spdx+json";

/// What containerd reads of an index at the most.
const CONTAINERD_INDEX_BYTES_MAX: usize = 4 * 1048 * 1048;

fn referrers_path(subject: Digest, query: &str) -> String {
    format!("/v2/{REPOSITORY}/referrers/{subject}?{query}ns={UPSTREAM}")
}

fn document(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn digests(index: &Value) -> Vec<String> {
    let manifests = index["manifests"].as_array().unwrap().iter();
    manifests
        .map(|one| one["digest"].as_str().unwrap().to_owned())
        .collect()
}

/// The fallback tag of a subject: its digest with `-` for `:`.
fn fallback(subject: Digest) -> String {
    subject.to_string().replace(':', "-")
}

/// An image, with the registry's API as said.
async fn setup(api: Option<ReferrersApi>) -> (Setup, Descriptor) {
    // So that nothing is answered offline only because it was asked for a moment before.
    let limits = Limits {
        negative_attached_ttl: Duration::ZERO,
        ..Limits::default()
    };
    let setup = Setup::with(|builder, _| builder.cache_limits(limits)).await;
    setup.origin.behave(|behaviour| behaviour.referrers = api);
    let image = setup
        .origin
        .add_image(REPOSITORY, "latest", &ImageSpec::new(1).layers(&[1000]));
    (setup, image.root().clone())
}

fn add(origin: &FixtureRegistry, subject: &Descriptor, kind: &str, content: &str) -> Descriptor {
    let annotations = [("org.opencontainers.image.created", "2024-01-01T00:00:00Z")];
    let content = Bytes::copy_from_slice(content.as_bytes());
    origin.add_referrer(REPOSITORY, subject, kind, &annotations, content)
}

/// What a client makes of a signature in the end: its bytes.
type Verified = Vec<Vec<u8>>;

/// Fetches what an index lists, each down to its blobs.
async fn fetch_listed(mirror: SocketAddr, index: &Value, kind: &str) -> Verified {
    let mut fetched = Vec::new();
    for one in index["manifests"].as_array().unwrap() {
        // Whether or not the registry has filtered: clients do it again.
        if one["artifactType"] == kind {
            let answer = get(mirror, &manifest_path(one["digest"].as_str().unwrap())).await;
            assert_eq!(answer.status(), 200, "{answer:?}");
            fetched.extend(fetch_layers(mirror, &document(&answer)).await);
        }
    }
    fetched
}

async fn fetch_layers(mirror: SocketAddr, manifest: &Value) -> Verified {
    let mut fetched = Vec::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let digest = Digest::parse(layer["digest"].as_str().unwrap()).unwrap();
        let answer = get(mirror, &blob_path(digest)).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        fetched.push(answer.body);
    }
    fetched
}

/// cosign of today, over go-containerregistry: the API, or on 404, 400 and 406, or on what is no
/// index, the fallback tag.
async fn cosign(mirror: SocketAddr) -> Verified {
    let resolved = head(mirror, &manifest_path("latest")).await;
    for name in ["content-type", "content-length", "docker-content-digest"] {
        assert!(
            resolved.header(name).is_some(),
            "it fails without {name}: {resolved:?}"
        );
    }
    let subject = Digest::parse(resolved.header("docker-content-digest").unwrap()).unwrap();
    let query = format!("artifactType={}&", BUNDLE.replace('+', "%2B"));
    let answer = get(mirror, &referrers_path(subject, &query)).await;
    let index = match answer.status() {
        200 if answer.header("content-type") == Some(INDEX) => document(&answer),
        200 | 400 | 404 | 406 => {
            let answer = get(mirror, &manifest_path(fallback(subject))).await;
            match answer.status() {
                200 => document(&answer),
                404 => return Vec::new(),
                status => panic!("cosign fails on {status}: {answer:?}"),
            }
        }
        status => panic!("cosign fails on {status}: {answer:?}"),
    };
    fetch_listed(mirror, &index, BUNDLE).await
}

/// cosign of old: tags beside the image's.
async fn cosign_by_tags(mirror: SocketAddr) -> Verified {
    let resolved = head(mirror, &manifest_path("latest")).await;
    let subject = Digest::parse(resolved.header("docker-content-digest").unwrap()).unwrap();
    let mut fetched = Vec::new();
    for suffix in [".sig", ".att", ".sbom"] {
        let answer = get(mirror, &manifest_path(fallback(subject) + suffix)).await;
        match answer.status() {
            200 => fetched.extend(fetch_layers(mirror, &document(&answer)).await),
            404 => {}
            status => panic!("cosign fails on {status}: {answer:?}"),
        }
    }
    fetched
}

/// oras: a 404 means that there is no API, unless its code says that there is no repository.
async fn oras(mirror: SocketAddr) -> Verified {
    let resolved = head(mirror, &manifest_path("latest")).await;
    let subject = Digest::parse(resolved.header("docker-content-digest").unwrap()).unwrap();
    let mut path = referrers_path(subject, "artifactType=application%2Fspdx%2Bjson&");
    let mut fetched = Vec::new();
    loop {
        let answer = get(mirror, &path).await;
        match answer.status() {
            200 => {
                assert_eq!(answer.header("content-type"), Some(INDEX));
                assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
                fetched.extend(fetch_listed(mirror, &document(&answer), SBOM).await);
                let Some(link) = answer.header("link") else {
                    return fetched;
                };
                let target = link.strip_prefix('<').and_then(|link| link.split_once('>'));
                path = target.unwrap().0.to_owned();
            }
            404 => {
                assert_ne!(answer.error_code(), "NAME_UNKNOWN");
                let answer = get(mirror, &manifest_path(fallback(subject))).await;
                return match answer.status() {
                    200 => fetch_listed(mirror, &document(&answer), SBOM).await,
                    404 => fetched,
                    status => panic!("oras fails on {status}: {answer:?}"),
                };
            }
            status => panic!("oras fails on {status}: {answer:?}"),
        }
    }
}

/// containerd 2.2: anything but a list of its size leads to the fallback tag, whose 404 ends the
/// search.
async fn containerd(mirror: SocketAddr) -> Verified {
    let resolved = head(mirror, &manifest_path("latest")).await;
    let subject = Digest::parse(resolved.header("docker-content-digest").unwrap()).unwrap();
    let query = format!(
        "artifactType={}&",
        BUNDLE.replace('/', "%2F").replace('+', "%2B")
    );
    let answer = get(mirror, &referrers_path(subject, &query)).await;
    let index = if answer.status() == 200 {
        assert!(answer.body.len() <= CONTAINERD_INDEX_BYTES_MAX);
        document(&answer)
    } else {
        let answer = get(mirror, &manifest_path(fallback(subject))).await;
        match answer.status() {
            200 => document(&answer),
            404 => return Vec::new(),
            status => panic!("the mirror must look for itself, and answers {status}"),
        }
    };
    fetch_listed(mirror, &index, BUNDLE).await
}

/// All of them: whether they find the same is up to the registry.
async fn verify(mirror: SocketAddr) -> [Verified; 4] {
    [
        cosign(mirror).await,
        cosign_by_tags(mirror).await,
        oras(mirror).await,
        containerd(mirror).await,
    ]
}

/// Online, warm, and offline: clients find the same, and offline they ask nobody.
async fn is_the_same_offline(setup: &Setup) -> [Verified; 4] {
    let mirror = setup.mirror.addr();
    let online = verify(mirror).await;
    setup.idle().await;
    assert_eq!(verify(mirror).await, online, "warm");
    setup.origin.stop().await;
    assert_eq!(verify(mirror).await, online, "offline");
    online
}

#[tokio::test]
async fn signatures_are_found_by_the_api_online_and_offline() {
    for (page_max, filters) in [(None, true), (None, false), (Some(1), true)] {
        let (setup, subject) = setup(Some(ReferrersApi { page_max, filters })).await;
        add(&setup.origin, &subject, BUNDLE, "a signature");
        add(&setup.origin, &subject, SBOM, "an SBOM");
        add(&setup.origin, &subject, BUNDLE, "another signature");
        let [mut cosign, by_tags, oras, mut containerd] = is_the_same_offline(&setup).await;
        for found in [&mut cosign, &mut containerd] {
            found.sort_unstable();
            assert_eq!(
                *found,
                [b"a signature".to_vec(), b"another signature".to_vec()]
            );
        }
        assert_eq!(by_tags, [[0; 0]; 0]);
        assert_eq!(oras, [b"an SBOM"]);
        // The upstream is asked for all types at once, and never told of `ns` (I12).
        let asked = setup.origin.requests();
        let asked = asked.iter().filter(|one| one.object == Object::Referrers);
        for one in asked {
            let query = one.query.as_deref().unwrap_or_default();
            assert!(
                !query.contains("artifactType") && !query.contains("ns="),
                "{query}"
            );
        }
    }
}

/// What registries without the API answer to it.
fn without_api() -> [Option<Fault>; 6] {
    let answer = |status, media_type: &str, body: &'static str| {
        Some(Fault::Answer {
            status,
            headers: vec![("Content-Type".to_owned(), media_type.to_owned())],
            body: Bytes::from_static(body.as_bytes()),
        })
    };
    [
        None,
        answer(404, "text/html", "<html><h1>Not Found</h1></html>"),
        answer(400, "application/json", r#"{"errors":[]}"#),
        answer(405, "text/plain", "405 method not allowed"),
        answer(501, "text/plain", ""),
        answer(200, "text/html", "<!doctype html><title>Registry</title>"),
    ]
}

#[tokio::test]
async fn signatures_are_found_by_tags_where_there_is_no_api_online_and_offline() {
    for fault in without_api() {
        let (setup, subject) = setup(None).await;
        if let Some(fault) = &fault {
            let when = Match::object(Object::Referrers);
            setup.origin.fault(when, Times::Always, fault.clone());
        }
        // As a client pushes where there is no API: an index by the fallback tag.
        let [bundle, sbom] = [(BUNDLE, "a signature"), (SBOM, "an SBOM")]
            .map(|(kind, content)| (kind, add(&setup.origin, &subject, kind, content)));
        let listed = [&bundle, &sbom].map(|(kind, one)| {
            json!({ "mediaType": one.media_type.as_str(), "digest": one.digest.to_string(), "size": one.size, "artifactType": kind })
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": listed });
        let tag = fallback(subject.digest);
        setup
            .origin
            .add_manifest(REPOSITORY, Some(&tag), INDEX, index.to_string());
        // And as cosign of old does.
        let signature = add(&setup.origin, &subject, "text/plain", "a signature of old");
        let tag = tag + ".sig";
        setup.origin.move_tag(REPOSITORY, &tag, signature.digest);

        let found = is_the_same_offline(&setup).await;
        let expected = [
            "a signature",
            "a signature of old",
            "an SBOM",
            "a signature",
        ];
        let expected = expected.map(|content| vec![content.as_bytes().to_vec()]);
        assert_eq!(found, expected, "{fault:?}");
    }
}

/// That an image has no signature is an answer too: a policy that allows it online must not fail
/// offline.
#[tokio::test]
async fn that_there_are_none_is_the_same_offline() {
    let api = Some(ReferrersApi::default());
    let with_api = [(api, None)].into_iter();
    let without_api = without_api().into_iter().map(|fault| (None, fault));
    for (api, fault) in with_api.chain(without_api) {
        let (setup, subject) = setup(api).await;
        if let Some(fault) = &fault {
            let when = Match::object(Object::Referrers);
            setup.origin.fault(when, Times::Always, fault.clone());
        }
        let found = is_the_same_offline(&setup).await;
        assert_eq!(found, [const { Verified::new() }; 4], "{fault:?}");
        let path = manifest_path(fallback(subject.digest) + ".sig");
        let answer = get(setup.mirror.addr(), &path).await;
        assert_eq!(
            (answer.status(), &*answer.error_code()),
            (404, "MANIFEST_UNKNOWN")
        );
        let warning = answer
            .header("warning")
            .expect("it says that it is not confirmed");
        assert!(
            warning.starts_with("299 ") && warning.contains("unavailable"),
            "{warning}"
        );
    }
}

/// What was found is found after a restart, with nobody to ask.
#[tokio::test]
async fn a_restart_loses_no_signature() {
    let (setup, subject) = setup(Some(ReferrersApi::default())).await;
    add(&setup.origin, &subject, BUNDLE, "a signature");
    let online = verify_by_api(setup.mirror.addr()).await;
    setup.idle().await;
    setup.origin.stop().await;
    let Setup {
        origin,
        mirror,
        folder,
    } = setup;
    mirror.shutdown().await;
    let mirror = Mirror::builder()
        .data_dir(folder.path().join("data"))
        .upstream(UPSTREAM, &origin.url())
        .start()
        .await
        .unwrap();
    assert_eq!(verify_by_api(mirror.addr()).await, online);
    let answer = get(mirror.addr(), &referrers_path(subject.digest, "")).await;
    assert_eq!(answer.status(), 200);
    let status = answer.header("cache-status").unwrap();
    assert!(
        status.contains("fwd=stale") && status.contains("unavailable"),
        "{status}"
    );
    assert!(answer.header("warning").unwrap().starts_with("299 "));
    assert!(answer.header("age").is_some());
}

async fn verify_by_api(mirror: SocketAddr) -> [Verified; 3] {
    [
        cosign(mirror).await,
        oras(mirror).await,
        containerd(mirror).await,
    ]
}

#[tokio::test]
async fn a_new_signature_is_seen_at_once() {
    let (setup, subject) = setup(Some(ReferrersApi::default())).await;
    let path = referrers_path(subject.digest, "");
    let listed = async || digests(&document(&get(setup.mirror.addr(), &path).await));
    assert_eq!(listed().await, [""; 0]);
    let signature = add(&setup.origin, &subject, BUNDLE, "a signature");
    assert_eq!(listed().await, [signature.digest.to_string()]);
}

#[tokio::test]
async fn an_answer_is_an_index_with_every_descriptor_as_it_came() {
    let (setup, subject) = setup(Some(ReferrersApi::default())).await;
    let sbom = add(&setup.origin, &subject, SBOM, "an SBOM");
    let path = referrers_path(subject.digest, "");
    let mirror = setup.mirror.addr();
    let answer = get(mirror, &path).await;
    assert_eq!(
        (answer.status(), answer.header("content-type")),
        (200, Some(INDEX))
    );
    assert_eq!(answer.header("oci-filters-applied"), None);
    assert_eq!(answer.header("oci-namespace"), Some(UPSTREAM));
    assert_eq!(answer.header("link"), None);
    assert_eq!(
        document(&answer),
        json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{
                "mediaType": sbom.media_type.as_str(),
                "digest": sbom.digest.to_string(),
                "size": sbom.size,
                "artifactType": SBOM,
                "annotations": { "org.opencontainers.image.created": "2024-01-01T00:00:00Z" },
            }],
        })
    );
    let without_body = head(mirror, &path).await;
    assert_eq!(without_body.status, 200);
    assert_eq!(without_body.content_length(), answer.body.len() as u64);
    assert_eq!(without_body.header("content-type"), Some(INDEX));

    // Of a digest that nobody has ever seen, there is an empty list (the conformance suite asks).
    let random = Digest::parse(&format!("sha256:{}", "9".repeat(64))).unwrap();
    let answer = get(mirror, &referrers_path(random, "")).await;
    assert_eq!(
        (answer.status(), answer.header("content-type")),
        (200, Some(INDEX))
    );
    let empty = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
    assert_eq!(document(&answer), empty);
}

#[tokio::test]
async fn pages_lead_back_here_with_their_filter() {
    let page_max = Some(2);
    let filters = true;
    let (setup, subject) = setup(Some(ReferrersApi { page_max, filters })).await;
    let mut sboms: Vec<_> = (0..5)
        .map(|n| add(&setup.origin, &subject, SBOM, &format!("SBOM {n}")))
        .map(|one| one.digest.to_string())
        .collect();
    sboms.sort_unstable();
    add(&setup.origin, &subject, BUNDLE, "a signature");
    let query = "n=2&artifactType=application%2Fspdx%2Bjson&";
    let mut path = referrers_path(subject.digest, query);
    let mut listed = Vec::new();
    let mut pages = 0;
    loop {
        let answer = get(setup.mirror.addr(), &path).await;
        listed.extend(digests(&document(&answer)));
        pages += 1;
        let Some(link) = answer.header("link") else {
            break;
        };
        let (target, relation) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
        assert_eq!(relation, "; rel=\"next\"");
        let own = format!("/v2/{REPOSITORY}/referrers/{}?", subject.digest);
        assert!(target.starts_with(&own), "{target}");
        assert!(
            target.contains("artifactType=application%2Fspdx%2Bjson"),
            "{target}"
        );
        assert!(target.contains(&format!("ns={UPSTREAM}")), "{target}");
        path = target.to_owned();
    }
    assert_eq!((listed, pages), (sboms, 3));
}

#[tokio::test]
async fn errors_are_those_that_clients_make_the_best_of() {
    for (status, expected, code) in [
        (401, 404, "UNSUPPORTED"),
        (403, 404, "UNSUPPORTED"),
        (429, 503, "TOOMANYREQUESTS"),
        (500, 502, "UNAVAILABLE"),
        (503, 502, "UNAVAILABLE"),
    ] {
        let (setup, subject) = setup(Some(ReferrersApi::default())).await;
        let fault = Fault::Answer {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        };
        let when = Match::object(Object::Referrers);
        setup.origin.fault(when, Times::Always, fault);
        let answer = get(setup.mirror.addr(), &referrers_path(subject.digest, "")).await;
        assert_eq!(
            (answer.status(), &*answer.error_code()),
            (expected, code),
            "{status}"
        );
        assert_eq!(answer.header("retry-after").is_some(), status == 429);
        // Nothing of it is kept.
        setup.origin.clear_faults();
        if status == 500 {
            let answer = get(setup.mirror.addr(), &referrers_path(subject.digest, "")).await;
            assert_eq!(answer.status(), 200);
        }
    }
}

/// Half a list would be taken for the whole: for an image without its signature.
#[tokio::test]
async fn half_a_list_is_no_list() {
    let answer = |status, link: Option<&str>, body: &str| Fault::Answer {
        status,
        headers: link
            .map(|link| ("Link".to_owned(), link.to_owned()))
            .into_iter()
            .chain([("Content-Type".to_owned(), INDEX.to_owned())])
            .collect(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    };
    let next = r#"</v2/x?page=2>; rel="next""#;
    for second in [
        answer(404, None, ""),
        answer(200, None, "<html>"),
        answer(500, None, ""),
    ] {
        let (setup, subject) = setup(Some(ReferrersApi::default())).await;
        let first = answer(200, Some(next), r#"{"manifests":[]}"#);
        let when = || Match::object(Object::Referrers);
        setup.origin.fault(when(), Times::Once, first);
        setup.origin.fault(when(), Times::Once, second.clone());
        let answer = get(setup.mirror.addr(), &referrers_path(subject.digest, "")).await;
        assert_eq!(answer.status(), 502, "{second:?}");
        assert_eq!(setup.origin.count(Method::GET, Object::Referrers), 2);
    }
}

/// I8: a registry that never comes to an end of its pages, or whose page does.
#[tokio::test]
async fn lists_have_their_limits() {
    let (setup, subject) = setup(Some(ReferrersApi::default())).await;
    let when = || Match::object(Object::Referrers);
    for n in 0..100 {
        let link = format!(r#"</v2/x?page={n}>; rel="next""#);
        let page = Fault::Answer {
            status: 200,
            headers: vec![
                ("Link".to_owned(), link),
                ("Content-Type".to_owned(), INDEX.to_owned()),
            ],
            body: Bytes::from_static(br#"{"manifests":[]}"#),
        };
        setup.origin.fault(when(), Times::Once, page);
    }
    let path = referrers_path(subject.digest, "");
    assert_eq!(get(setup.mirror.addr(), &path).await.status(), 502);
    assert_eq!(setup.origin.count(Method::GET, Object::Referrers), 64);
    setup.origin.clear_faults();
    let huge = Fault::Answer {
        status: 200,
        headers: vec![("Content-Type".to_owned(), INDEX.to_owned())],
        body: Bytes::from(" ".repeat((4 << 20) + 1)),
    };
    setup.origin.fault(when(), Times::Once, huge);
    assert_eq!(get(setup.mirror.addr(), &path).await.status(), 502);
    assert_eq!(get(setup.mirror.addr(), &path).await.status(), 200);
}

/// That a registry has no such API is no sign that it is ill: it is asked for all else as before.
#[tokio::test]
async fn a_registry_without_the_api_is_not_rested() {
    let (setup, _) = setup(None).await;
    let fault = Fault::Answer {
        status: 501,
        headers: Vec::new(),
        body: Bytes::new(),
    };
    let when = Match::object(Object::Referrers);
    setup.origin.fault(when, Times::Always, fault);
    for n in 10..30 {
        let subject = format!("sha256:{}", n.to_string().repeat(32));
        let path = referrers_path(Digest::parse(&subject).unwrap(), "");
        assert_eq!(get(setup.mirror.addr(), &path).await.status(), 404);
    }
    let answer = get(setup.mirror.addr(), &manifest_path("latest")).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
}

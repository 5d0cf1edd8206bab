use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn read(target: &str) -> Result<Route, RouteError> {
    let default = UpstreamId::parse("docker.io").unwrap();
    let known = [
        "docker.io",
        "quay.io",
        "localhost:5001",
        "10.0.0.1:5000",
        "localhost",
    ];
    let is_known = |id: &UpstreamId| known.contains(&id.as_str());
    let addressing = Addressing {
        default_upstream: &default,
        is_known: &is_known,
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    route(&Method::GET, path, query, &addressing)
}

fn fault(target: &str) -> Fault {
    read(target).unwrap_err().fault
}

/// Where a manifest's request leads: its origin and reference.
fn manifest_of(target: &str) -> String {
    match read(target) {
        Ok(Route::Manifest { origin, reference }) => format!("{origin} {reference}"),
        other => panic!("{target}: {other:?}"),
    }
}

#[test]
fn the_upstream_is_in_ns_or_leads_the_path_or_is_the_default() {
    for (target, reached) in [
        ("/v2/alpine/manifests/3", "docker.io/library/alpine 3"),
        (
            "/v2/library/alpine/manifests/3",
            "docker.io/library/alpine 3",
        ),
        ("/v2/org/app/manifests/v1", "docker.io/org/app v1"),
        (
            "/v2/alpine/manifests/3?ns=docker.io",
            "docker.io/library/alpine 3",
        ),
        (
            "/v2/alpine/manifests/3?ns=index.docker.io",
            "docker.io/library/alpine 3",
        ),
        (
            "/v2/alpine/manifests/3?ns=registry-1.docker.io%3A443",
            "docker.io/library/alpine 3",
        ),
        ("/v2/org/app/manifests/v1?ns=quay.io", "quay.io/org/app v1"),
        ("/v2/org/app/manifests/v1?ns=QUAY.io", "quay.io/org/app v1"),
        (
            "/v2/org/app/manifests/v1?ns=localhost%3A5001",
            "localhost:5001/org/app v1",
        ),
        (
            "/v2/org/app/manifests/v1?ns=10.0.0.1:5000",
            "10.0.0.1:5000/org/app v1",
        ),
        (
            "/v2/org/app/manifests/v1?artifactType=a&ns=quay.io",
            "quay.io/org/app v1",
        ),
        ("/v2/quay.io/org/app/manifests/v1", "quay.io/org/app v1"),
        (
            "/v2/docker.io/alpine/manifests/v1",
            "docker.io/library/alpine v1",
        ),
        (
            "/v2/docker.io/library/alpine/manifests/v1",
            "docker.io/library/alpine v1",
        ),
        (
            "/v2/index.docker.io/org/app/manifests/v1",
            "docker.io/org/app v1",
        ),
        (
            "/v2/localhost:5001/app/manifests/v1",
            "localhost:5001/app v1",
        ),
        (
            "/v2/localhost%3A5001/app/manifests/v1",
            "localhost:5001/app v1",
        ),
        (
            "/v2/localhost%3a5001/app/manifests/v1",
            "localhost:5001/app v1",
        ),
        ("/v2/quay.io:443/org/app/manifests/v1", "quay.io/org/app v1"),
        // `ns` decides; the same name before the repository is a rewrite's doing.
        (
            "/v2/quay.io/org/app/manifests/v1?ns=quay.io",
            "quay.io/org/app v1",
        ),
        (
            "/v2/docker.io/library/a/manifests/v1?ns=registry-1.docker.io",
            "docker.io/library/a v1",
        ),
        (
            "/v2/quay.io/org/app/manifests/v1?ns=docker.io",
            "docker.io/quay.io/org/app v1",
        ),
        ("/v2/quay.io/manifests/v1?ns=quay.io", "quay.io/quay.io v1"),
        // A registry that is not known is a name like any other.
        (
            "/v2/ghcr.io/org/app/manifests/v1",
            "docker.io/ghcr.io/org/app v1",
        ),
    ] {
        assert_eq!(manifest_of(target), reached, "{target}");
    }
}

#[test]
fn names_may_hold_the_words_of_paths() {
    for (target, reached) in [
        ("/v2/a/manifests/manifests/v1", "docker.io/a/manifests v1"),
        ("/v2/a/blobs/b/manifests/v1", "docker.io/a/blobs/b v1"),
        ("/v2/a/tags/list/manifests/v1", "docker.io/a/tags/list v1"),
        (
            "/v2/a/blobs/uploads/manifests/v1",
            "docker.io/a/blobs/uploads v1",
        ),
        (
            "/v2/manifests/manifests/manifests",
            "docker.io/library/manifests manifests",
        ),
        ("/v2/v2/manifests/v2", "docker.io/library/v2 v2"),
    ] {
        assert_eq!(manifest_of(target), reached, "{target}");
    }
    assert!(matches!(
        read(&format!("/v2/a/manifests/b/blobs/sha256:{HEX}")),
        Ok(Route::Blob { origin, .. }) if origin.to_string() == "docker.io/a/manifests/b"
    ));
    assert!(matches!(
        read("/v2/a/manifests/tags/list"),
        Ok(Route::Tags { name, .. }) if name == "a/manifests"
    ));
}

#[test]
fn a_reference_is_a_tag_or_a_digest() {
    let digest = format!("sha256:{HEX}");
    let reached = format!("docker.io/a/b {digest}");
    assert_eq!(manifest_of(&format!("/v2/a/b/manifests/{digest}")), reached);
    let encoded = format!("/v2/a/b/manifests/sha256%3A{HEX}");
    assert_eq!(manifest_of(&encoded), reached);
    for (target, expected) in [
        (
            "/v2/a/b/blobs/sha256:short",
            Fault::Digest(Target::Blob, DigestError::Malformed),
        ),
        (
            "/v2/a/b/blobs/latest",
            Fault::Digest(Target::Blob, DigestError::Malformed),
        ),
        (
            "/v2/a/b/blobs/md5:00",
            Fault::Digest(Target::Blob, DigestError::UnsupportedAlgorithm),
        ),
        (
            "/v2/a/b/manifests/sha256:short",
            Fault::Digest(Target::Manifest, DigestError::Malformed),
        ),
        (
            "/v2/a/b/manifests/blake3:00",
            Fault::Digest(Target::Manifest, DigestError::UnsupportedAlgorithm),
        ),
        ("/v2/a/b/manifests/", Fault::Tag(NameError::Tag)),
        ("/v2/a/b/manifests/-x", Fault::Tag(NameError::Tag)),
        ("/v2/a/b/manifests/x/y", Fault::Tag(NameError::Tag)),
        (
            "/v2/a/b/referrers/sha256:short",
            Fault::Digest(Target::Referrers, DigestError::Malformed),
        ),
        (
            "/v2/a/b/referrers/blake3:00",
            Fault::Digest(Target::Referrers, DigestError::UnsupportedAlgorithm),
        ),
        (
            &format!("/v2/a/b/referrers/{digest}?last=latest"),
            Fault::PageStart(Target::Referrers, NameError::Digest(DigestError::Malformed)),
        ),
        ("/v2/a/b/blobs/uploads/", Fault::Upload),
        ("/v2/a/b/blobs/uploads/1-2-3", Fault::Upload),
    ] {
        let error = read(target).unwrap_err();
        assert_eq!(error.fault, expected, "{target}");
        assert_eq!(error.upstream.unwrap().as_str(), "docker.io", "{target}");
        assert_eq!(error.repository.unwrap().as_str(), "a/b", "{target}");
    }
}

#[test]
fn a_namespace_is_one_configured_registry() {
    for value in [
        "unknown.io",
        "192.168.0.1",
        "10.0.0.1",
        "[::1]:5000",
        "[::1]",
        "::1",
        "QUAY.io:80",
    ] {
        let target = format!("/v2/a/manifests/b?ns={value}");
        assert_eq!(fault(&target), Fault::UnknownUpstream, "{target}");
    }
    for value in [
        "",
        "%20",
        "user@quay.io",
        "user:pw@quay.io",
        "quay.io/",
        "quay.io%2Forg",
        "https://quay.io",
        "quay.io%23x",
        "quay.io.",
        "quay.io%00",
        "quay.io%0d%0a",
        "qu%C3%A4y.io",
        "%FF",
        "quay.io:",
        "quay.io:x",
        "quay.io:65536",
        "quay+io",
        "quay.io&ns=quay.io",
        "quay.io&ns=docker.io",
    ] {
        let target = format!("/v2/a/manifests/b?ns={value}");
        assert_eq!(
            fault(&target),
            Fault::Namespace(NameError::Upstream),
            "{target}"
        );
    }
    assert_eq!(fault("/v2/?ns=unknown.io"), Fault::UnknownUpstream);
    assert_eq!(fault("/v2/_catalog?ns=unknown.io"), Fault::UnknownUpstream);
}

#[test]
fn names_outside_the_grammar_are_refused() {
    for name in [
        "A",
        "a_b_",
        "a..b",
        "-a",
        "a%41",
        "a%20b",
        "a+b",
        "a@b",
        "library/Alpine",
    ] {
        let fault = fault(&format!("/v2/{name}/manifests/b"));
        assert!(
            matches!(fault, Fault::Repository(_) | Fault::Encoding(_)),
            "{name}: {fault:?}"
        );
    }
    assert_eq!(
        fault("/v2/manifests/b"),
        Fault::Repository(NameError::Repository)
    );
    assert_eq!(
        fault("/v2/tags/list"),
        Fault::Repository(NameError::Repository)
    );
    let quay = UpstreamId::parse("quay.io").unwrap();
    assert_eq!(fault("/v2/quay.io/manifests/b"), Fault::NoRepository(quay));
    assert_eq!(
        fault("/v2/unknown.io:5000/a/manifests/b"),
        Fault::UnknownUpstream
    );
}

#[test]
fn a_path_with_two_meanings_is_refused() {
    for path in [
        "/v2/../manifests/b",
        "/v2/a/../b/manifests/c",
        "/v2/a/./manifests/c",
        "/v2/a/%2e%2e/manifests/c",
        "/v2/a/.%2E/manifests/c",
        "/v2/a%2fb/manifests/c",
        "/v2/a%2Fb/manifests/c",
        "/v2/a%5cb/manifests/c",
        "/v2/a%252fb/manifests/c",
        "/v2/a%00/manifests/c",
        "/v2/a%0a/manifests/c",
        "/v2/a%7f/manifests/c",
        "/v2/a%c3%a4/manifests/c",
        "/v2/a%ff/manifests/c",
        "/v2/ä/manifests/c",
        "/v2/a\\b/manifests/c",
        "/v2/a%/manifests/c",
        "/v2/a%2/manifests/c",
        "/v2/a%zz/manifests/c",
        "/v2/a%+1/manifests/c",
        "/v2//a/manifests/c",
        "/v2/a//manifests/c",
        "//v2/a/manifests/c",
        "/v2/a/blobs/..%2f..%2fetc%2fpasswd",
        "/v2/a/blobs/sha256:..%2f..",
        "/../etc/passwd",
        "/v2/a/manifests/..",
    ] {
        assert!(
            matches!(fault(path), Fault::Encoding(_)),
            "{path}: {:?}",
            fault(path)
        );
    }
}

#[test]
fn other_paths_and_methods_are_refused() {
    for path in [
        "/",
        "",
        "*",
        "/v1/",
        "/v2x",
        "/v2/a",
        "/v2/a/b/c",
        "/v2/a/tags",
        "/v2/a/tags/list/",
        "/healthz",
        "/metrics",
        "/v2/_catalog/",
    ] {
        assert_eq!(fault(path), Fault::Path, "{path}");
    }
    let default = UpstreamId::parse("docker.io").unwrap();
    let addressing = Addressing {
        default_upstream: &default,
        is_known: &|_| true,
    };
    for method in [
        "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "get",
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        for path in ["/v2/", "/v2/a/manifests/b", "/v2/a/blobs/uploads/"] {
            let error = route(&method, path, None, &addressing).unwrap_err();
            assert_eq!(error.fault, Fault::Method, "{method} {path}");
        }
    }
}

#[test]
fn referrers_are_of_a_digest_and_maybe_of_a_type() {
    let subject = format!("sha256:{HEX}");
    for (query, expected) in [
        ("", (None, None)),
        ("?artifactType=", (None, None)),
        (
            "?ns=quay.io&artifactType=application%2Fspdx%2Bjson",
            (Some("application/spdx+json"), None),
        ),
        (
            &*format!("?last={subject}&artifactType=a/b"),
            (Some("a/b"), Some(&*subject)),
        ),
    ] {
        let target = format!("/v2/a/referrers/b/referrers/{subject}{query}");
        match read(&target) {
            Ok(Route::Referrers {
                name,
                subject: of,
                artifact_type,
                page,
                ..
            }) => {
                assert_eq!((&*name, of.to_string()), ("a/referrers/b", subject.clone()));
                let after = page.after.map(|after| after.to_string());
                assert_eq!((artifact_type.as_deref(), after.as_deref()), expected);
            }
            other => panic!("{target}: {other:?}"),
        }
    }
    let twice = format!("/v2/a/referrers/{subject}?artifactType=a&artifactType=a");
    assert_eq!(fault(&twice), Fault::ArtifactType);
}

#[test]
fn pages_are_read() {
    let page = |query: &str| match read(&format!("/v2/a/tags/list{query}")) {
        Ok(Route::Tags { page, .. }) => (page.size, page.after.map(|tag| tag.to_string())),
        other => panic!("{query}: {other:?}"),
    };
    assert_eq!(page(""), (None, None));
    assert_eq!(page("?n=0"), (Some(0), None));
    assert_eq!(page("?n=10&last=v1"), (Some(10), Some("v1".to_owned())));
    assert_eq!(page("?last="), (None, None));
    assert_eq!(page("?n=99999999999999999999999"), (Some(u64::MAX), None));
    for query in ["?n=", "?n=-1", "?n=%2B1", "?n=1.5", "?n=ten", "?n=1&n=1"] {
        assert_eq!(
            fault(&format!("/v2/a/tags/list{query}")),
            Fault::PageSize,
            "{query}"
        );
    }
    for query in ["?last=a%20b", "?last=../x", "?last=%00", "?last=a&last=b"] {
        let fault = fault(&format!("/v2/a/tags/list{query}"));
        assert!(matches!(fault, Fault::PageStart(..)), "{query}: {fault:?}");
    }
}

#[test]
fn catalogs_name_upstreams_unless_ns_does() {
    let catalog = |query: &str| match read(&format!("/v2/_catalog{query}")) {
        Ok(Route::Catalog { namespace, page }) => (
            namespace.map(|upstream| upstream.to_string()),
            page.after.map(|origin| origin.to_string()),
        ),
        other => panic!("{query}: {other:?}"),
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(catalog(""), (None, None));
    assert_eq!(
        catalog("?last=quay.io/org/app"),
        (None, text("quay.io/org/app"))
    );
    assert_eq!(
        catalog("?last=localhost%3A5001/app"),
        (None, text("localhost:5001/app"))
    );
    assert_eq!(
        catalog("?ns=quay.io&last=org/app"),
        (text("quay.io"), text("quay.io/org/app"))
    );
    for query in ["?last=app", "?last=quay.io/", "?ns=quay.io&last=A"] {
        let fault = fault(&format!("/v2/_catalog{query}"));
        assert!(
            matches!(fault, Fault::PageStart(Target::Catalog, _)),
            "{query}: {fault:?}"
        );
    }
}

#[test]
fn a_ping_has_an_upstream_only_where_it_names_one() {
    assert_eq!(read("/v2/"), Ok(Route::Ping { upstream: None }));
    assert_eq!(read("/v2"), Ok(Route::Ping { upstream: None }));
    let quay = UpstreamId::parse("quay.io").unwrap();
    assert_eq!(
        read("/v2/?ns=quay.io"),
        Ok(Route::Ping {
            upstream: Some(quay)
        })
    );
}

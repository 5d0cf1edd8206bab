//! Proxies on the way: which are used for what, and what they get to know.

use registry_server::testing::{BlobRedirect, FixtureRegistry, ImageSpec};
use registry_server::upstream::Proxies;

use crate::errors::kind;
use crate::proxy::{Protocol, Proxy};
use crate::support::{Asked, config, registry};

/// An HTTPS registry with one image, asked through `proxies`, at `localhost` or its address.
async fn https(proxies: Proxies, by_name: bool) -> (FixtureRegistry, Asked) {
    let registry = FixtureRegistry::start_https().await;
    registry.add_image("app", "latest", &ImageSpec::new(1));
    let mut config = config(&[]);
    let url = registry.url();
    let url = if by_name {
        url.replace("127.0.0.1", "localhost")
    } else {
        url
    };
    config.endpoints = vec![url.parse().unwrap()];
    config.insecure_skip_verify = true;
    config.proxies = proxies;
    (registry, Asked::with(config))
}

fn through(scheme: &str, proxy: &Proxy) -> Proxies {
    let url = format!("{scheme}{}", proxy.address());
    Proxies::all(url.parse().unwrap())
}

#[tokio::test]
async fn requests_go_through_the_proxy_and_names_to_whom_they_should() {
    let (http, socks) = (
        Proxy::start(Protocol::Http).await,
        Proxy::start(Protocol::Socks5).await,
    );
    for (scheme, proxy, by_name, host, credentials) in [
        ("http://", &http, false, "127.0.0.1", ""),
        ("http://", &http, true, "localhost", ""),
        (
            "http://me:s%65cret@",
            &http,
            true,
            "localhost",
            " proxy-authorization: Basic bWU6c2VjcmV0",
        ),
        ("socks5h://", &socks, true, "localhost", ""),
        ("socks5h://", &socks, false, "127.0.0.1", ""),
        (
            "socks5h://me:secret@",
            &socks,
            true,
            "localhost",
            " me:secret",
        ),
    ] {
        let (registry, upstream) = https(through(scheme, proxy), by_name).await;
        upstream.resolve("latest").await.unwrap();
        upstream.resolve("latest").await.unwrap();
        let port = registry.address().port();
        // Once: the tunnel is a connection, and used again.
        let asked = proxy.asked().join(", ").replace("Proxy-Auth", "proxy-auth");
        assert_eq!(asked, format!("{host}:{port}{credentials}"), "{scheme}");
        let requests = registry.requests();
        assert!(
            requests
                .iter()
                .all(|request| request.header("proxy-authorization").is_none())
        );
    }
    // Without the h, names are resolved here.
    let (registry, upstream) = https(through("socks5://", &socks), true).await;
    upstream.resolve("latest").await.unwrap();
    let asked = socks.asked().join(", ");
    assert!(!asked.contains("localhost"), "{asked}");
    assert!(
        asked.ends_with(&format!(":{}", registry.address().port())),
        "{asked}"
    );
}

#[tokio::test]
async fn what_is_excepted_goes_direct() {
    let proxy = Proxy::start(Protocol::Http).await;
    for except in ["localhost", "*", "*.localhost"] {
        let proxies = through("http://", &proxy).except([except.to_owned()]);
        let (_registry, upstream) = https(proxies, true).await;
        upstream.resolve("latest").await.unwrap();
        assert_eq!(proxy.asked(), [""; 0], "{except}");
    }
    let proxies = through("http://", &proxy).except(["127.0.0.0/8".to_owned()]);
    let (_registry, upstream) = https(proxies, false).await;
    upstream.resolve("latest").await.unwrap();
    assert_eq!(proxy.asked(), [""; 0]);
    // One for plain HTTP only.
    let url = format!("http://{}", proxy.address()).parse().unwrap();
    let (_registry, upstream) = https(Proxies::by_scheme(Some(url), None), true).await;
    upstream.resolve("latest").await.unwrap();
    assert_eq!(proxy.asked(), [""; 0]);
}

#[tokio::test]
async fn a_proxy_that_is_gone_is_told_without_its_password() {
    for (scheme, protocol) in [("http", Protocol::Http), ("socks5h", Protocol::Socks5)] {
        let proxy = Proxy::start(protocol).await;
        let proxies = through(&format!("{scheme}://me:secret@"), &proxy);
        drop(proxy);
        let (registry, upstream) = https(proxies, true).await;
        let error = upstream.resolve("latest").await.unwrap_err();
        assert_eq!(kind(&error), "unavailable", "{error}");
        let told = format!("{error} {error:?}");
        assert!(
            told.contains("localhost") && !told.contains("secret"),
            "{told}"
        );
        assert_eq!(registry.stats().connections, 0);
    }
}

#[tokio::test]
async fn redirects_lead_to_private_addresses_where_all_may() {
    let (registry, image) = registry().await;
    let storage = registry.start_storage().await;
    let redirect = BlobRedirect {
        base: Some(storage.url()),
        ..BlobRedirect::default()
    };
    registry.behave(|behaviour| behaviour.redirect_blobs = Some(redirect));
    let digest = image.layers[0].digest;
    for (base, allowed) in [
        (storage.url(), true),
        (storage.url().replace("127.0.0.1", "169.254.169.254"), false),
    ] {
        registry.behave(|behaviour| {
            behaviour.redirect_blobs.as_mut().unwrap().base = Some(base.clone());
        });
        // Behind a proxy, that this registry is at a private address itself is not known. It acts
        // as the proxy, too.
        let mut config = config(&[]);
        config.endpoints = vec!["http://registry.example.org".parse().unwrap()];
        config.proxies = Proxies::all(registry.url().parse().unwrap())
            .except(["127.0.0.0/8", "169.254.0.0/16"].map(ToOwned::to_owned));
        config.private_redirects = true;
        let outcome = Asked::with(config).blob(digest).await;
        assert_eq!(outcome.is_ok(), allowed, "{base}: {outcome:?}");
        if let Err(error) = outcome {
            assert_eq!(kind(&error), "protocol", "{error}");
        }
    }
}

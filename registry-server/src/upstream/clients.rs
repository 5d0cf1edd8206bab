//! The HTTP clients, one for each kind of host, so that none gets a connection of another's.

use std::sync::Arc;

use bytes::Bytes;
use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue, Method};
use registry_core::UpstreamError;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;
use url::Url;

use super::address::{AddressClass, Reach, ReachResolver, class_of_host};
use super::config::{
    HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_FRAME_BYTES_MAX, HTTP2_STREAM_WINDOW_BYTES,
    HttpUpstreamConfig, HttpUpstreamConfigError, IDLE_CONNECTION_MAX, IDLE_CONNECTIONS_MAX,
    PING_INTERVAL, PING_MAX, SENDS_MAX,
};
use super::exchange::Exchange;
use super::failure::{SendFailure, is_out_of_reach};
use super::observer::{RequestKind, UpstreamObserver};
use super::proxy::ProxyMatcher;
use super::redirect::{Hop, host_of, out_of_reach};
use super::tls::Tls;

/// Sent with every request: some registries refuse those who do not say who they are.
const USER_AGENT: &str = concat!("registry-server/", env!("CARGO_PKG_VERSION"));

/// The HTTP clients of an upstream.
pub(super) struct Clients {
    /// For the endpoints themselves.
    endpoint: Client,
    /// For whom they lead to, where that has to be a public host.
    public: Client,
    /// The same, where it may be a private one.
    private: Client,
    /// Which addresses are a proxy's matter, and not seen here.
    proxied: Option<ProxyMatcher>,
    private_redirects: bool,
    observer: Option<Arc<dyn UpstreamObserver>>,
    #[cfg(feature = "testing")]
    outgoing: crate::testing::OutgoingLog,
}

/// A request that is to be sent.
pub(super) struct Sending<'a> {
    pub(super) kind: RequestKind,
    pub(super) method: Method,
    pub(super) hop: &'a Hop,
    pub(super) headers: HeaderMap,
    /// Empty for none.
    pub(super) body: Bytes,
    /// Who leads there, and how far it may.
    pub(super) from: (&'a Url, Reach),
    pub(super) deadline: Instant,
}

/// A request whose answer's headers have come.
pub(super) struct Sent {
    pub(super) response: reqwest::Response,
    pub(super) exchange: Exchange,
}

impl Clients {
    pub(super) fn new(config: &HttpUpstreamConfig) -> Result<Self, HttpUpstreamConfigError> {
        let Tls {
            endpoint,
            elsewhere,
        } = Tls::new(config)?;
        // Where a proxy is, is decided by who configures it.
        let exempt: Arc<[String]> = config.proxies.hosts().map(str::to_owned).collect();
        let within = |reach| {
            let exempt = Arc::clone(&exempt);
            let builder = builder(config, elsewhere.clone())?;
            build(builder.dns_resolver(ReachResolver { reach, exempt }))
        };
        Ok(Self {
            endpoint: build(builder(config, endpoint)?)?,
            public: within(Reach::Public)?,
            private: within(Reach::Private)?,
            proxied: config.proxies.matcher(),
            private_redirects: config.private_redirects,
            observer: config.observer.clone(),
            #[cfg(feature = "testing")]
            outgoing: config.outgoing.clone(),
        })
    }

    /// Sends a request, and waits for the headers of its answer.
    pub(super) async fn send(&self, sending: Sending<'_>) -> Result<Sent, SendFailure> {
        let Sending {
            kind,
            method,
            hop,
            headers,
            body,
            from: (from, reach),
            deadline,
        } = sending;
        let client = match (hop.trusted, reach) {
            (true, _) => &self.endpoint,
            (false, Reach::Public) => &self.public,
            (false, Reach::Private) => &self.private,
        };
        let host = host_of(&hop.url);
        let mut sends = 1;
        loop {
            #[cfg(feature = "testing")]
            self.outgoing.add(&method, &hop.url, &headers, &body);
            let mut told = Told {
                observer: self.observer.as_deref(),
                kind,
                begun: Instant::now(),
                status: None,
            };
            let request = client.request(method.clone(), hop.url.clone());
            let mut request = request.headers(headers.clone());
            if !body.is_empty() {
                request = request.body(body.clone());
            }
            let exchange = Exchange::begin(kind, &method, &host);
            let sent = request.send().instrument(exchange.span().clone());
            let failure: SendFailure = match timeout_at(deadline, sent).await {
                Ok(Ok(response)) => {
                    told.status = Some(response.status().as_u16());
                    exchange.answered(response.status());
                    return Ok(Sent { response, exchange });
                }
                Ok(Err(error)) if is_out_of_reach(&error) => out_of_reach(from, &hop.url).into(),
                Ok(Err(error)) if may_send_again(&error) && sends < SENDS_MAX => {
                    sends += 1;
                    continue;
                }
                Ok(Err(error)) => SendFailure::new(&host, self.is_proxied(&hop.url), error),
                Err(_) => UpstreamError::Timeout { what: "answer" }.into(),
            };
            exchange.failed(&failure.error);
            return Err(failure);
        }
    }

    fn is_proxied(&self, url: &Url) -> bool {
        let proxied = self.proxied.as_ref();
        proxied.is_some_and(|matcher| matcher.is_proxied(url))
    }

    /// How far a host that answered may lead: no further than an outsider could, unless it is at
    /// a private address itself, or all may.
    pub(super) fn reach_from(&self, url: &Url, response: &reqwest::Response) -> Reach {
        let class = if self.is_proxied(url) {
            url.host().and_then(|host| class_of_host(&host))
        } else {
            response
                .remote_addr()
                .map(|address| AddressClass::of(address.ip()))
        };
        match class {
            Some(AddressClass::Private) => Reach::Private,
            _ if self.private_redirects => Reach::Private,
            _ => Reach::Public,
        }
    }
}

/// A request that left. Dropped when it is answered, or is waited for no more.
struct Told<'a> {
    observer: Option<&'a dyn UpstreamObserver>,
    kind: RequestKind,
    begun: Instant,
    status: Option<u16>,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if let Some(observer) = self.observer {
            observer.answered(self.kind, self.status, self.begun.elapsed());
        }
    }
}

/// Whether a request may be sent once more: where its connection ended before an answer, as one
/// does that the server has just closed for being idle. Questions change nothing, so that does no
/// harm.
fn may_send_again(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout()
}

fn builder(
    config: &HttpUpstreamConfig,
    tls: ClientConfig,
) -> Result<ClientBuilder, HttpUpstreamConfigError> {
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(Policy::none())
        .user_agent(USER_AGENT)
        .default_headers(HeaderMap::from_iter([(
            ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        )]))
        .connect_timeout(config.budgets.connect)
        .pool_idle_timeout(IDLE_CONNECTION_MAX)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .http2_max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_MAX)
        // Those of the environment are not for a library to look at.
        .no_proxy();
    for proxy in config.proxies.for_client().map_err(client_error)? {
        builder = builder.proxy(proxy);
    }
    Ok(builder)
}

/// A client for what is no registry: it trusts whom the system trusts, and follows no redirects.
#[cfg(feature = "otlp")]
pub(crate) fn client_of_collector(url: &Url) -> Result<Client, HttpUpstreamConfigError> {
    let name = registry_core::UpstreamId::parse("collector").expect("a name like any other");
    let config = HttpUpstreamConfig::new(name, [url.clone()]);
    build(builder(&config, Tls::new(&config)?.endpoint)?)
}

fn build(builder: ClientBuilder) -> Result<Client, HttpUpstreamConfigError> {
    builder.build().map_err(client_error)
}

fn client_error(error: reqwest::Error) -> HttpUpstreamConfigError {
    HttpUpstreamConfigError::Client(Box::new(error.without_url()))
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::time::Duration;

    use registry_core::UpstreamId;

    use super::*;
    use crate::testing::FixtureRegistry;

    #[tokio::test]
    async fn a_name_is_judged_by_the_address_that_is_dialled() {
        let storage = FixtureRegistry::start().await;
        let public = Url::parse("https://registry.example.org").unwrap();
        let id = UpstreamId::parse("registry.example.org").unwrap();
        let clients = Clients::new(&HttpUpstreamConfig::new(id, [public.clone()])).unwrap();
        let url = storage.url().replace("127.0.0.1", "localhost") + "/v2/?secret";
        let hop = Hop {
            url: Url::parse(&url).unwrap(),
            trusted: false,
        };
        let send = |reach| {
            clients.send(Sending {
                kind: RequestKind::Blob,
                method: Method::GET,
                hop: &hop,
                headers: HeaderMap::new(),
                body: Bytes::new(),
                from: (&public, reach),
                deadline: Instant::now() + Duration::from_secs(30),
            })
        };
        let Err(refused) = send(Reach::Public).await else {
            panic!("a private address is out of reach");
        };
        assert!(matches!(refused.error, UpstreamError::Protocol { .. }));
        let told = format!("{:?} {}", refused.error, refused.error);
        assert!(
            told.contains("localhost") && !told.contains("secret"),
            "{told}"
        );
        assert_eq!(storage.stats().connections, 0);
        let response = send(Reach::Private).await.ok().unwrap().response;
        assert_eq!(response.status(), 200);
        assert_eq!(clients.reach_from(&hop.url, &response), Reach::Private);
    }
}

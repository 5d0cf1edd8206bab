//! The admin API, from the side of whoever asks.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use registry_server::api::{Page, Problem};
use registry_server::archive::ArchiveBytes;
use reqwest::redirect::Policy;
use reqwest::{Body, RequestBuilder, Response};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use url::Url;

use super::failure::Failure;
use super::target::Target;

/// Time to connect to the mirror.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Time for an answer, whole: the mirror may have to look at all that it keeps.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Time for an archive, whole: as long as it takes.
const ARCHIVE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Time for the next bytes of an archive: the mirror may have to wait for a registry.
const ARCHIVE_IDLE_MAX: Duration = Duration::from_secs(120);
/// Longest answer. A page of images is a few MiB at the most.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Items that are asked for at a time.
const PAGE_ITEMS: usize = 500;

/// A connection to a mirror's admin API.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    has_token: bool,
}

impl Client {
    /// A client for a mirror. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`Failure`], where the token cannot be sent, or TLS is not to be had.
    pub(super) fn new(target: Target) -> Result<Self, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &target.token {
            headers.insert(AUTHORIZATION, bearer(token)?);
        }
        let http = tls(&target.url).map_err(|error| Failure::Failed(causes(error.as_ref())))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(http)
            .default_headers(headers)
            .redirect(Policy::none())
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX)
            // The mirror is next door; the proxies of the environment are for its upstreams.
            .no_proxy()
            .build()
            .map_err(|error| Failure::Failed(causes(&error)))?;
        Ok(Self {
            http,
            base: target.url,
            has_token: target.token.is_some(),
        })
    }

    /// Asks for a document.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        self.ask(self.request(Method::GET, path, query)).await
    }

    /// Asks for every page of a listing.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub(super) async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Page<T>, Failure> {
        let limit = PAGE_ITEMS.to_string();
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.push(("limit", &limit));
            query.extend(after.iter().map(|after| ("after", after.as_str())));
            let page: Page<T> = self.get(path, &query).await?;
            items.extend(page.items);
            // A page that ends where it began would be asked for for ever.
            if page.next.is_none() || page.next == after {
                return Ok(Page { items, next: None });
            }
            after = page.next;
        }
    }

    /// Sends a document, and reads one.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        document: &(impl Serialize + Sync),
    ) -> Result<T, Failure> {
        let body =
            serde_json::to_vec(document).expect("the documents of the API are JSON by their types");
        let request = self.request(Method::POST, path, &[]);
        self.ask(request.header(CONTENT_TYPE, "application/json").body(body))
            .await
    }

    /// Has something done that needs no document.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub(super) async fn order<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(self.request(Method::POST, path, &[])).await
    }

    /// Has something removed, and reads what became of that.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub(super) async fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        self.ask(self.request(Method::DELETE, path, query)).await
    }

    /// Sends a document, and begins to read an archive: its length, and its bytes.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub(super) async fn download(
        &self,
        path: &str,
        document: &(impl Serialize + Sync),
    ) -> Result<(u64, ArchiveBytes), Failure> {
        let body =
            serde_json::to_vec(document).expect("the documents of the API are JSON by their types");
        let request = self.request(Method::POST, path, &[]).timeout(ARCHIVE_MAX);
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        let response = request.send().await;
        let response = response.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        if !status.is_success() {
            let body = self.body(response).await?;
            return Err(self.refused(status, &body));
        }
        let Some(length) = response.content_length() else {
            let base = &self.base;
            let problem = format!("{base} does not tell the length of the archive");
            return Err(Failure::Failed(problem));
        };
        let bytes = stream::try_unfold(response.bytes_stream(), async |mut bytes| {
            let next = timeout(ARCHIVE_IDLE_MAX, bytes.next()).await;
            let next = next.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
            let chunk = next.transpose().map_err(io::Error::other)?;
            Ok(chunk.map(|chunk| (chunk, bytes)))
        });
        Ok((length, bytes.boxed()))
    }

    /// Sends an archive, and reads a document.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub(super) async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        archive: ArchiveBytes,
    ) -> Result<T, Failure> {
        let request = self.request(Method::POST, path, query).timeout(ARCHIVE_MAX);
        let request = request.header(CONTENT_TYPE, "application/x-tar");
        self.ask(request.body(Body::wrap_stream(archive))).await
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/api/v1/{path}"));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http.request(method, url)
    }

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let body = self.body(response).await?;
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        // What has nothing to tell is told as nothing.
        let body = if body.is_empty() { b"null" } else { &body[..] };
        serde_json::from_slice(body).map_err(|error| {
            Failure::Failed(format!(
                "{} answers in a form that this version ({}) does not know ({error}): use the \
                 command line of the version that runs there",
                self.base,
                env!("CARGO_PKG_VERSION"),
            ))
        })
    }

    async fn body(&self, response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| self.unreachable(error))?;
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                let base = &self.base;
                let limit = ANSWER_BYTES_MAX >> 20;
                let problem = format!("{base} answers with more than {limit} MiB");
                return Err(Failure::Failed(problem));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        let error = error.without_url();
        let base = self.base.as_str().trim_end_matches('/');
        let what = if error.is_timeout() && !error.is_connect() {
            format!("the mirror at {base} does not answer in time")
        } else {
            format!("no mirror answers at {base}: {}", causes(&error))
        };
        Failure::Unreachable(format!(
            "{what}\n  Is it running? `registry-server` starts one; --admin URL or REGISTRY_ADMIN \
             names another,\n  and --config FILE finds the one that this file configures."
        ))
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Failure {
        let base = self.base.as_str().trim_end_matches('/');
        let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
            return Failure::Failed(format!(
                "{base} answers {status}, and not as the admin API of a mirror does: something \
                 else listens there, or a mirror of another version",
            ));
        };
        let message = problem.message;
        if matches!(&*problem.code, "unknown_path" | "method_not_allowed") {
            return Failure::Failed(format!(
                "the mirror at {base} does not know what this version ({}) asks for: use the \
                 command line of the version that runs there",
                env!("CARGO_PKG_VERSION"),
            ));
        }
        match status {
            StatusCode::UNAUTHORIZED if self.has_token => Failure::Failed(format!(
                "the mirror at {base} refuses the token: {message}\n  It has to be the one that \
                 admin_token_file or admin_token_env of the mirror says."
            )),
            StatusCode::UNAUTHORIZED => Failure::Failed(format!(
                "the mirror at {base} wants a token: {message}\n  Name a file that holds it with \
                 --admin-token-file or REGISTRY_ADMIN_TOKEN_FILE."
            )),
            StatusCode::FORBIDDEN => {
                Failure::Failed(format!("the mirror at {base} refuses: {message}"))
            }
            StatusCode::NOT_FOUND => Failure::NotFound(message),
            StatusCode::BAD_REQUEST => Failure::Usage(message),
            _ => Failure::Failed(message),
        }
    }
}

fn bearer(token: &SecretString) -> Result<HeaderValue, Failure> {
    let value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()));
    let mut value = value.map_err(|_| {
        Failure::Usage("the admin token has characters that cannot be sent".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// TLS with the system's roots, which are only read where they are needed.
fn tls(url: &Url) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = if url.scheme() == "https" {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(provider)?))
    } else {
        builder.with_root_certificates(RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

/// An error with what caused it.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

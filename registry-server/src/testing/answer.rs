//! What the right answer to a request is: a function of the request, the content and the
//! behaviour. How it is put on the wire, rightly or not, is `serve`'s matter.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use registry_core::{Digest, MediaType, RangeRequest};
use serde_json::json;

use super::State;
use super::behaviour::{Behaviour, BlobRedirect, Login, TokenAuth};
use super::content::{Library, Source, StoredManifest};
use super::stats::Object;

/// The query key of storage URLs that only the registry can make; what presigned URLs are to real
/// storage.
const SIGNATURE_KEY: &str = "X-Fixture-Signature";
/// The query key that counts the redirects still to come.
const HOPS_KEY: &str = "hops";
/// The query key that tells where a page of referrers begins: a registry's own matter.
const REFERRERS_PAGE_KEY: &str = "fixture-page";
/// Begins the value of a signature; the method it is valid for follows.
const SIGNATURE_SECRET: &str = "fixture-secret-";

/// Why coding cannot fail.
const IN_MEMORY: &str = "memory takes what is written to it";

/// A request, taken apart.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) raw_query: Option<String>,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    /// How long its body is.
    pub(crate) fn content_length(&self) -> usize {
        let length = self.header("content-length");
        length.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// What is shown by Basic authentication.
    fn login(&self) -> Option<Login> {
        let encoded = self.header("authorization")?.strip_prefix("Basic ")?;
        let pair = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        let (username, password) = pair.split_once(':')?;
        Some(Login::new(username, password))
    }

    /// The value of a key of the form that is its body.
    fn form(&self, key: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.body.as_bytes()).into_owned();
        pairs
            .find(|(candidate, _)| candidate == key)
            .map(|(_, value)| value)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(candidate, _)| candidate == name);
        found.map(|(_, value)| value.as_str())
    }

    fn query_pairs(&self) -> impl Iterator<Item = (String, String)> {
        let query = self.raw_query.as_deref().unwrap_or_default().as_bytes();
        form_urlencoded::parse(query).into_owned()
    }

    fn query(&self, key: &str) -> Option<String> {
        let mut pairs = self.query_pairs();
        pairs
            .find(|(candidate, _)| candidate == key)
            .map(|(_, value)| value)
    }
}

/// Where a request's path leads.
pub(crate) struct Route<'a> {
    pub(crate) object: Object,
    repository: &'a str,
    reference: &'a str,
}

impl<'a> Route<'a> {
    pub(crate) fn of(path: &'a str) -> Self {
        let route = |object, repository, reference| Self {
            object,
            repository,
            reference,
        };
        if let Some(digest) = path.strip_prefix("/storage/") {
            return route(Object::Storage, "", digest);
        }
        match path {
            "/v2" | "/v2/" => return route(Object::Ping, "", ""),
            "/token" => return route(Object::Token, "", ""),
            _ => {}
        }
        let name = path.strip_prefix("/v2/").unwrap_or_default();
        if let Some(repository) = name.strip_suffix("/tags/list") {
            return route(Object::Tags, repository, "");
        }
        if let Some((repository, reference)) = name.rsplit_once("/manifests/") {
            let object = if reference.contains(':') {
                Object::ManifestByDigest
            } else {
                Object::ManifestByTag
            };
            return route(object, repository, reference);
        }
        if let Some((repository, digest)) = name.rsplit_once("/referrers/") {
            return route(Object::Referrers, repository, digest);
        }
        match name.rsplit_once("/blobs/") {
            Some((repository, digest)) => route(Object::Blob, repository, digest),
            None => route(Object::Other, "", ""),
        }
    }

    fn query_keys(&self) -> &'static [&'static str] {
        match self.object {
            Object::Tags => &["n", "last"],
            Object::Referrers => &["artifactType", REFERRERS_PAGE_KEY],
            Object::Token => &["service", "scope", "account", "client_id"],
            Object::Storage => &[SIGNATURE_KEY, HOPS_KEY],
            _ => &[],
        }
    }
}

/// An answer before it is put on the wire.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Source,
    /// The part of the body that is sent, as its first byte and its length.
    pub(crate) part: (u64, u64),
    /// The blob that the body is of, for the counters.
    pub(crate) blob: Option<Digest>,
}

impl Answer {
    pub(crate) fn new(status: u16, headers: Vec<(String, String)>, body: Bytes) -> Self {
        let part = (0, body.len() as u64);
        Self {
            status,
            headers,
            body: Source::Bytes(body),
            part,
            blob: None,
        }
    }

    pub(crate) fn set_header(&mut self, name: &str, value: &str) {
        self.headers
            .retain(|(candidate, _)| !candidate.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.set_header(name, &value.to_string());
        self
    }

    /// The same content in gzip's coding, and a header that says so.
    pub(crate) fn gzip(mut self) -> Self {
        let length = usize::try_from(self.part.1).expect("what is coded fits into memory");
        let plain = self.body.read(self.part.0, length);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&plain).expect(IN_MEMORY);
        let coded = Bytes::from(encoder.finish().expect(IN_MEMORY));
        self.part = (0, coded.len() as u64);
        self.body = Source::Bytes(coded);
        self.with("Content-Encoding", "gzip")
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        let json = ("Content-Type".to_owned(), "application/json".to_owned());
        Self::new(status, vec![json], error_document(code, message))
    }

    fn redirect(status: u16, location: &str) -> Self {
        Self::new(status, Vec::new(), Bytes::new()).with("Location", location)
    }
}

pub(crate) fn error_document(code: &str, message: &str) -> Bytes {
    let error = json!({ "code": code, "message": message });
    json!({ "errors": [error] }).to_string().into()
}

/// The right answer, by this behaviour.
pub(crate) fn answer(state: &State, behaviour: &Behaviour, request: &Request) -> Answer {
    let route = Route::of(&request.path);
    let is_form = request.method == Method::POST && route.object == Object::Token;
    if request.method != Method::GET && request.method != Method::HEAD && !is_form {
        return Answer::error(405, "UNSUPPORTED", "this registry is read-only");
    }
    let known = |key: &String| route.query_keys().contains(&key.as_str());
    if behaviour.refuse_unknown_query && !request.query_pairs().all(|(key, _)| known(&key)) {
        return Answer::error(400, "UNSUPPORTED", "unknown query key");
    }
    if let Some(status) = behaviour.refuse_head
        && request.method == Method::HEAD
        && route.object != Object::Token
    {
        return Answer::error(status, "UNSUPPORTED", "no HEAD here");
    }
    match route.object {
        Object::Token => return token(state, behaviour, request),
        Object::Storage => return storage(state, behaviour, &route, request),
        _ => {}
    }
    if let Some(auth) = &behaviour.token
        && let Some(challenge) = challenge(state, auth, &route, request)
    {
        return denied(behaviour, &challenge);
    }
    if let Some(logins) = &behaviour.basic
        && !request.login().is_some_and(|login| logins.contains(&login))
    {
        return denied(behaviour, "Basic realm=\"fixture\"");
    }
    let library = state.library();
    match route.object {
        Object::Ping => Answer::new(200, Vec::new(), Bytes::from_static(b"{}")),
        Object::ManifestByTag | Object::ManifestByDigest => {
            match library.manifest(route.repository, route.reference) {
                Some(stored) => manifest(stored, behaviour, request),
                None => Answer::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            }
        }
        Object::Blob => blob(&library, behaviour, &route, request),
        Object::Tags => tags(&library, behaviour, &route, request),
        Object::Referrers => referrers(&library, behaviour, &route, request),
        _ => Answer::error(404, "UNSUPPORTED", "no such path"),
    }
}

fn manifest(stored: &StoredManifest, behaviour: &Behaviour, request: &Request) -> Answer {
    let digest = stored.descriptor().digest;
    let etag = format!("\"{digest}\"");
    let tags = request.header("if-none-match").unwrap_or_default();
    let unchanged = tags.split(',').any(|tag| tag.trim() == etag);
    let mut answer = if unchanged && !behaviour.omit_etag {
        Answer::new(304, Vec::new(), Bytes::new())
    } else {
        Answer::new(200, Vec::new(), stored.bytes.clone()).with("Content-Type", &stored.media_type)
    };
    if !behaviour.omit_etag {
        answer.set_header("ETag", &etag);
    }
    if !behaviour.omit_digest {
        answer.set_header("Docker-Content-Digest", &digest.to_string());
    }
    answer
}

fn blob(library: &Library, behaviour: &Behaviour, route: &Route<'_>, request: &Request) -> Answer {
    let digest = Digest::parse(route.reference).ok();
    let Some((digest, source)) =
        digest.and_then(|digest| Some((digest, library.blob(route.repository, &digest)?)))
    else {
        return Answer::error(404, "BLOB_UNKNOWN", "blob unknown to repository");
    };
    if let Some(redirect) = &behaviour.redirect_blobs {
        let location = storage_url(redirect, request, digest, redirect.further_hops);
        return Answer::redirect(redirect.status, &location);
    }
    let mut answer = part(source, digest, behaviour, request);
    if !behaviour.omit_digest {
        answer.set_header("Docker-Content-Digest", &digest.to_string());
    }
    answer
}

/// The blob, or the part of it that is asked for.
fn part(source: &Source, digest: Digest, behaviour: &Behaviour, request: &Request) -> Answer {
    let size = source.size();
    let etag = format!("\"{digest}\"");
    // RFC 9110, section 13.1.5: another tag than this means everything.
    let is_this = request.header("if-range").is_none_or(|tag| tag == etag);
    let asked = request
        .header("range")
        .filter(|_| request.method == Method::GET && !behaviour.ignore_range && is_this)
        .and_then(parse_range);
    let mut answer = Answer::new(200, Vec::new(), Bytes::new());
    answer.body = source.clone();
    answer.part = (0, size);
    answer.blob = Some(digest);
    if let Some(range) = asked {
        let Some(range) = range.resolve(size) else {
            return Answer::error(416, "UNSUPPORTED", "no such range")
                .with("Content-Range", format!("bytes */{size}"));
        };
        let (first, last) = (range.start(), range.end() - 1);
        answer.status = 206;
        answer.part = (range.start(), range.len());
        answer.set_header("Content-Range", &format!("bytes {first}-{last}/{size}"));
    }
    if !behaviour.omit_etag {
        answer.set_header("ETag", &etag);
    }
    let answer = answer.with("Content-Type", "application/octet-stream");
    answer.with("Accept-Ranges", "bytes")
}

/// A single range; anything else is ignored, as RFC 9110 allows.
fn parse_range(header: &str) -> Option<RangeRequest> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    match (first, last) {
        ("", length) => Some(RangeRequest::Suffix {
            length: length.parse().ok()?,
        }),
        (first, "") => Some(RangeRequest::From {
            first: first.parse().ok()?,
        }),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(RangeRequest::FromTo { first, last })
        }
    }
}

fn storage_url(redirect: &BlobRedirect, request: &Request, digest: Digest, hops: u32) -> String {
    let base = redirect.base.as_deref().unwrap_or_default();
    let method = if redirect.signed_for_get_only {
        &Method::GET
    } else {
        &request.method
    };
    format!("{base}/storage/{digest}?{SIGNATURE_KEY}={SIGNATURE_SECRET}{method}&{HOPS_KEY}={hops}")
}

fn storage(state: &State, behaviour: &Behaviour, route: &Route<'_>, request: &Request) -> Answer {
    if behaviour.refuse_storage_authorization && request.header("authorization").is_some() {
        return Answer::error(400, "DENIED", "only one auth mechanism allowed");
    }
    let signature = request.query(SIGNATURE_KEY).unwrap_or_default();
    if signature.strip_prefix(SIGNATURE_SECRET) != Some(request.method.as_str()) {
        return Answer::error(403, "DENIED", "the signature does not match");
    }
    let library = state.library();
    let digest = Digest::parse(route.reference).ok();
    let Some((digest, source)) =
        digest.and_then(|digest| Some((digest, library.blobs.get(&digest)?)))
    else {
        return Answer::error(404, "BLOB_UNKNOWN", "no such object");
    };
    let hops = request.query(HOPS_KEY).and_then(|hops| hops.parse().ok());
    match hops {
        None | Some(0) => part(source, digest, behaviour, request),
        Some(hops) => {
            let redirect = BlobRedirect::default();
            let location = storage_url(&redirect, request, digest, hops - 1);
            Answer::redirect(redirect.status, &location)
        }
    }
}

fn tags(library: &Library, behaviour: &Behaviour, route: &Route<'_>, request: &Request) -> Answer {
    let Some(content) = library.repositories.get(route.repository) else {
        return Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    let limit = |text: String| text.parse::<usize>().ok();
    let limit = request.query("n").and_then(limit).unwrap_or(usize::MAX);
    let limit = limit.min(behaviour.tags_page_max.unwrap_or(usize::MAX));
    let last = request.query("last");
    let past = |tag: &&String| last.as_ref().is_none_or(|last| *tag > last);
    let mut rest = content.tags.keys().filter(past);
    let page: Vec<&String> = rest.by_ref().take(limit).collect();
    let document = json!({ "name": route.repository, "tags": page }).to_string();
    let answer = Answer::new(200, Vec::new(), document.into());
    let answer = answer.with("Content-Type", "application/json");
    match (page.last(), rest.next()) {
        (Some(last), Some(_)) => answer.with(
            "Link",
            format!("<{}?n={limit}&last={last}>; rel=\"next\"", request.path),
        ),
        _ => answer,
    }
}

/// The answer to who has no access.
fn denied(behaviour: &Behaviour, challenge: &str) -> Answer {
    match behaviour.refuse_login {
        Some(status) => Answer::error(status, "DENIED", "no access"),
        None => Answer::error(401, "UNAUTHORIZED", "authentication required")
            .with("WWW-Authenticate", challenge),
    }
}

fn referrers(
    library: &Library,
    behaviour: &Behaviour,
    route: &Route<'_>,
    request: &Request,
) -> Answer {
    let Some(api) = &behaviour.referrers else {
        // As registries from before there was an API answer: by their router.
        return Answer::new(404, Vec::new(), "404 page not found\n".into())
            .with("Content-Type", "text/plain; charset=utf-8");
    };
    let Ok(subject) = Digest::parse(route.reference) else {
        return Answer::error(400, "DIGEST_INVALID", "no digest");
    };
    let Some(mut listed) = library.referrers(route.repository, &subject) else {
        return Answer::error(404, "NAME_UNKNOWN", "repository name not known to registry");
    };
    let kind = request.query("artifactType").filter(|_| api.filters);
    if let Some(kind) = &kind {
        listed.retain(|referrer| referrer["artifactType"] == **kind);
    }
    let first = request
        .query(REFERRERS_PAGE_KEY)
        .and_then(|at| at.parse().ok());
    let rest = listed.split_off(first.unwrap_or(0).min(listed.len()));
    let page = rest.len().min(api.page_max.unwrap_or(usize::MAX));
    let document = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_INDEX,
        "manifests": rest[..page],
    });
    let mut answer = Answer::new(200, Vec::new(), document.to_string().into())
        .with("Content-Type", MediaType::OCI_INDEX);
    if kind.is_some() {
        answer.set_header("OCI-Filters-Applied", "artifactType");
    }
    if page < rest.len() {
        let next = listed.len() + page;
        let path = &request.path;
        let link = format!("<{path}?{REFERRERS_PAGE_KEY}={next}>; rel=\"next\"");
        answer.set_header("Link", &link);
    }
    answer
}

/// The challenge to a request that carries no valid token; none where it does.
fn challenge(
    state: &State,
    auth: &TokenAuth,
    route: &Route<'_>,
    request: &Request,
) -> Option<String> {
    let mut scopes = Vec::new();
    if route.object != Object::Ping {
        scopes.push(format!(
            "repository:{}{}:pull",
            auth.prefix, route.repository
        ));
        scopes.extend(auth.further_scope.clone());
    }
    let token = request
        .header("authorization")
        .and_then(|value| value.strip_prefix("Bearer "));
    if let Some(token) = token
        && (auth.registry_tokens.iter().any(|taken| taken == token)
            || state.token_grants(token, &scopes))
    {
        return None;
    }
    let own_realm = || format!("{}/token", state.url());
    let realm = auth.realm.clone().unwrap_or_else(own_realm);
    let basic = if auth.basic_first {
        "Basic realm=\"fixture, by password\", "
    } else {
        ""
    };
    let mut challenge = format!("{basic}Bearer realm=\"{realm}\"");
    if let Some(service) = &auth.service {
        challenge.push_str(&format!(",service=\"{service}\""));
    }
    let scope = auth.placeholder.clone().unwrap_or_else(|| scopes.join(" "));
    if !scope.is_empty() {
        challenge.push_str(&format!(",scope=\"{scope}\""));
    }
    if token.is_some() {
        challenge.push_str(",error=\"invalid_token\"");
    }
    Some(challenge)
}

fn token(state: &State, behaviour: &Behaviour, request: &Request) -> Answer {
    let auth = behaviour.token.clone().unwrap_or_default();
    let (refused, granted, scopes) = if request.method == Method::POST {
        let granted = match request.form("grant_type").as_deref() {
            Some("password") => {
                let field = |name| request.form(name).unwrap_or_default();
                let login = Login::new(&field("username"), &field("password"));
                auth.logins.contains(&login)
            }
            Some("refresh_token") => request
                .form("refresh_token")
                .is_some_and(|token| auth.refresh_tokens.contains(&token)),
            _ => false,
        };
        let scopes = request.form("scope").unwrap_or_default();
        let scopes = scopes.split(' ').map(str::to_owned).collect();
        (auth.refuse_post, granted, scopes)
    } else {
        let login = request.login();
        let granted = auth.logins.is_empty() || login.is_some_and(|it| auth.logins.contains(&it));
        let scopes = request.query_pairs().filter(|(key, _)| key == "scope");
        (
            auth.refuse_get,
            granted,
            scopes.map(|(_, scope)| scope).collect(),
        )
    };
    if let Some(status) = refused {
        return Answer::error(status, "UNSUPPORTED", "tokens are not given so");
    }
    if !granted {
        return Answer::error(401, "UNAUTHORIZED", "who are you?");
    }
    let token = state.issue_token(scopes);
    let mut document = json!({ auth.field: token });
    if let Some(seconds) = auth.expires_in {
        document["expires_in"] = json!(seconds);
    }
    let answer = Answer::new(200, Vec::new(), document.to_string().into());
    answer.with("Content-Type", "application/json")
}

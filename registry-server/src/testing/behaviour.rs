//! How a fixture registry answers when no fault is scripted.

use std::time::Duration;

/// How a fixture registry answers: the habits and quirks of real ones. The default is a quick and
/// conforming registry.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Time before each answer.
    pub latency: Duration,
    /// Bytes a second that each body is sent at; unlimited where there is none.
    pub bytes_per_second: Option<u64>,
    /// No `Docker-Content-Digest`.
    pub omit_digest: bool,
    /// No `ETag`, on manifests and blobs, and no 304.
    pub omit_etag: bool,
    /// No `Content-Length`: bodies are chunked, and answers to HEAD tell no size.
    pub omit_length: bool,
    /// HEAD is answered by this status, such as 405.
    pub refuse_head: Option<u16>,
    /// Ranges are ignored: 200 and everything.
    pub ignore_range: bool,
    /// 400 where a query has other keys than the specification's, such as `ns`.
    pub refuse_unknown_query: bool,
    /// 400 where a storage request carries `Authorization`, as presigned storage answers.
    pub refuse_storage_authorization: bool,
    /// The most tags in one page, whatever `n` asks for.
    pub tags_page_max: Option<usize>,
    /// The referrers API is there. Without it, its path is no path.
    pub referrers: Option<ReferrersApi>,
    /// Blobs are not served but redirected to storage.
    pub redirect_blobs: Option<BlobRedirect>,
    /// Content needs a token.
    pub token: Option<TokenAuth>,
    /// Content needs one of these, by Basic authentication.
    pub basic: Option<Vec<Login>>,
    /// What has no access is answered by this status, such as 403, in place of 401.
    pub refuse_login: Option<u16>,
}

/// A user name and a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl Login {
    /// A user name and a password.
    pub fn new(username: &str, password: &str) -> Self {
        Self {
            username: username.to_owned(),
            password: password.to_owned(),
        }
    }
}

/// How referrers are listed.
#[derive(Clone, Debug, Default)]
pub struct ReferrersApi {
    /// The most referrers in one page.
    pub page_max: Option<usize>,
    /// Lists are filtered by `artifactType`, and say so.
    pub filters: bool,
}

/// Where and how blobs are redirected. Every fixture is its own storage, at `/storage/<digest>`,
/// and answers there only with the signature of its redirects.
#[derive(Clone, Debug)]
pub struct BlobRedirect {
    /// The URL that the storage's path is put after, such as that of a fixture that was started
    /// [as storage](super::FixtureRegistry::start_storage). None: this registry, by a relative
    /// `Location`.
    pub base: Option<String>,
    /// The redirects' status.
    pub status: u16,
    /// How many redirects follow on the first, within the storage. `u32::MAX` is a loop.
    pub further_hops: u32,
    /// URLs are signed for GET only, also in answer to a HEAD: the storage answers 403 to that.
    pub signed_for_get_only: bool,
}

impl Default for BlobRedirect {
    fn default() -> Self {
        Self {
            base: None,
            status: 307,
            further_hops: 0,
            signed_for_get_only: false,
        }
    }
}

/// How tokens are asked for and given (distribution's token authentication).
#[derive(Clone, Debug)]
pub struct TokenAuth {
    /// The realm; none: `/token` of this registry.
    pub realm: Option<String>,
    /// The service; none: the challenge names none.
    pub service: Option<String>,
    /// How long tokens are said to be valid, in seconds; none: it is not said. They are valid
    /// until [`revoke_tokens`](super::FixtureRegistry::revoke_tokens).
    pub expires_in: Option<u64>,
    /// The field that a token is answered in: `token` or `access_token`.
    pub field: &'static str,
    /// A challenge of another scheme stands before the one for a token, on the same line.
    pub basic_first: bool,
    /// Who gets tokens; none: everybody.
    pub logins: Vec<Login>,
    /// Refresh tokens that tokens are given for, by POST.
    pub refresh_tokens: Vec<String>,
    /// Tokens that are taken although they were issued by nobody.
    pub registry_tokens: Vec<String>,
    /// A token that is asked for by GET is refused by this status, such as 405.
    pub refuse_get: Option<u16>,
    /// A token that is asked for by POST is refused by this status, such as 404.
    pub refuse_post: Option<u16>,
    /// What the registry knows its repositories behind, in scopes: `hub/`.
    pub prefix: String,
    /// A scope that is asked for besides: `aws`.
    pub further_scope: Option<String>,
    /// The scope that the challenge names in place of the one that is wanted.
    pub placeholder: Option<String>,
}

impl Default for TokenAuth {
    fn default() -> Self {
        Self {
            realm: None,
            service: Some("fixture".to_owned()),
            expires_in: Some(300),
            field: "token",
            basic_first: false,
            logins: Vec::new(),
            refresh_tokens: Vec::new(),
            registry_tokens: Vec::new(),
            refuse_get: None,
            refuse_post: None,
            prefix: String::new(),
            further_scope: None,
            placeholder: None,
        }
    }
}

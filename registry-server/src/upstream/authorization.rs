//! What stands in an `Authorization` header of ours.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};

/// The value of an `Authorization` header, never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Authorization(HeaderValue);

impl Authorization {
    /// A bearer token (RFC 6750); none where the text cannot stand in a header.
    pub(super) fn bearer(token: &str) -> Option<Self> {
        Self::of(&Zeroizing::new(format!("Bearer {token}")))
    }

    /// A user name and a password (RFC 7617).
    pub(super) fn basic(username: &str, password: &SecretString) -> Self {
        let pair = Zeroizing::new(format!("{username}:{}", password.expose_secret()));
        let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        Self::of(&value).expect("Base64 can stand in a header")
    }

    fn of(text: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(text).ok()?;
        // Out of the tables of HTTP/2, and of what prints headers.
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// The value of the header.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_the_rfcs_write_them_and_marked_as_secret() {
        let basic = Authorization::basic("Aladdin", &"open sesame".into()).header();
        assert_eq!(basic, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let bearer = Authorization::bearer("t").unwrap().header();
        assert_eq!(bearer, "Bearer t");
        assert!(basic.is_sensitive() && bearer.is_sensitive());
        assert_eq!(format!("{basic:?}"), "Sensitive");
        assert!(Authorization::bearer("a\nb").is_none());
    }
}

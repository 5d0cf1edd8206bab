//! Tokens as registries verify them: JSON Web Tokens, signed by ES256, that carry the certificate
//! of their key (RFC 7515, `x5c`; RFC 7518, section 3.4).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair};
use registry_core::{Clock as _, SystemClock};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use super::TokenServer;

/// Why nothing of the below can fail.
const GENERATED: &str = "what was generated for this is well-formed";

/// How long before its issue a token is valid: clocks differ.
const LEEWAY_SECONDS: u64 = 10;

/// What may be done with one repository, as a scope has it: `repository:org/app:pull`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The kind of thing: `repository`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `pull`, `push`, …
    pub actions: Vec<String>,
}

impl Access {
    pub(super) fn parse(scope: &str) -> Option<Self> {
        // A name may hold a port, and so a colon.
        let (kind, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        Some(Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions.split(',').map(str::to_owned).collect(),
        })
    }

    fn claim(&self) -> Value {
        json!({"type": self.kind, "name": self.name, "actions": self.actions})
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind, self.name, self.actions.join(","))
    }
}

/// A key, and the certificate that vouches for it.
pub(super) struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    certificate_pem: String,
    header: String,
}

impl Signer {
    pub(super) fn generate() -> Self {
        let random = SystemRandom::new();
        let key = KeyPair::generate().expect(GENERATED);
        let params = CertificateParams::new(vec!["token-server".to_owned()]).expect(GENERATED);
        let certificate = params.self_signed(&key).expect(GENERATED);
        // Padded and in the usual alphabet, unlike everything else in a token.
        let chain = [STANDARD.encode(certificate.der())];
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": chain});
        let pkcs8 = key.serialize_der();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        Self {
            key: EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8, &random).expect(GENERATED),
            random,
            certificate_pem: certificate.pem(),
            header: segment(&header),
        }
    }

    pub(super) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A token for `subject`, valid from now on for so many seconds.
    pub(super) fn sign(&self, subject: &str, access: Option<Access>, life_seconds: u64) -> String {
        let now = SystemClock.now().as_millis() / 1000;
        let mut id = [0; 16];
        self.random
            .fill(&mut id)
            .expect("the system has randomness");
        let access: Vec<Value> = access.iter().map(Access::claim).collect();
        let claims = json!({
            "iss": TokenServer::ISSUER,
            "sub": subject,
            "aud": TokenServer::SERVICE,
            "iat": now,
            "nbf": now.saturating_sub(LEEWAY_SECONDS),
            "exp": now + life_seconds,
            "jti": URL_SAFE_NO_PAD.encode(id),
            "access": access,
        });
        let signed = format!("{}.{}", self.header, segment(&claims));
        let signature = self.key.sign(&self.random, signed.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.expect("the system has randomness"));
        format!("{signed}.{signature}")
    }
}

fn segment(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, KeyPair as _, UnparsedPublicKey};

    use super::*;

    fn decoded(segment: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segment).unwrap()).unwrap()
    }

    #[test]
    fn a_token_is_what_a_registry_verifies() {
        let signer = Signer::generate();
        let access = Access::parse("repository:localhost:5000/org/app:pull,push").unwrap();
        assert_eq!(access.name, "localhost:5000/org/app");
        let token = signer.sign("mirror", Some(access), 300);

        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts.as_slice() else {
            panic!("three segments: {token}");
        };
        let signed = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let key = signer.key.public_key().as_ref();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key);
        key.verify(signed.as_bytes(), &signature).unwrap();

        assert_eq!(decoded(header)["alg"], "ES256");
        let claims = decoded(claims);
        let access = json!([{
            "type": "repository", "name": "localhost:5000/org/app", "actions": ["pull", "push"],
        }]);
        assert_eq!(claims["access"], access);
        assert_eq!(claims["sub"], "mirror");
        let life = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
        assert_eq!(life, 300);
        assert_ne!(token, signer.sign("mirror", None, 300), "each is its own");
    }

    #[test]
    fn scopes_are_read() {
        for scope in ["", "repository", "repository:org/app"] {
            assert_eq!(Access::parse(scope), None, "{scope}");
        }
        let scope = "repository:org/app:pull";
        assert_eq!(Access::parse(scope).unwrap().to_string(), scope);
    }
}

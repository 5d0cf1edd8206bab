//! TLS towards upstreams: whom to trust, and what to show.
//!
//! The configuration is handed to the HTTP client ready-made, so that no provider of cryptography
//! has to be installed for the whole process.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::config::{HttpUpstreamConfig, HttpUpstreamConfigError as ConfigError};

/// Protocols offered, the preferred one first.
const ALPN_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS as it is spoken with an upstream's endpoints, and with the hosts they redirect to.
pub(super) struct Tls {
    /// With the client's certificate.
    pub(super) endpoint: ClientConfig,
    /// The same trust, and nothing shown: a certificate is as secret as a password.
    pub(super) elsewhere: ClientConfig,
}

impl Tls {
    pub(super) fn new(config: &HttpUpstreamConfig) -> Result<Self, ConfigError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = verifier(config, &provider)?;
        let trusting = || {
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
            let builder = builder
                .with_safe_default_protocol_versions()
                .map_err(|error| tls_error(&error))?;
            Ok(match &verifier {
                Some(verifier) => {
                    let verifier = Arc::clone(verifier);
                    builder
                        .dangerous()
                        .with_custom_certificate_verifier(verifier)
                }
                None => builder.with_root_certificates(RootCertStore::empty()),
            })
        };
        let endpoint = match identity(config)? {
            Some((chain, key)) => trusting()?
                .with_client_auth_cert(chain, key)
                .map_err(|error| tls_error(&error))?,
            None => trusting()?.with_no_client_auth(),
        };
        Ok(Self {
            endpoint: with_alpn(endpoint),
            elsewhere: with_alpn(trusting()?.with_no_client_auth()),
        })
    }
}

fn with_alpn(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = ALPN_PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    config
}

/// The certificate authorities of this system, read when they are first needed. Clones share
/// them: a mirror of a dozen registries needs them once.
#[derive(Clone, Debug, Default)]
pub struct SystemTrust(Arc<OnceLock<Arc<Verifier>>>);

impl SystemTrust {
    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<Verifier>, rustls::Error> {
        if let Some(verifier) = self.0.get() {
            return Ok(Arc::clone(verifier));
        }
        // Not remembered where it fails: a later upstream gets the error as well.
        let verifier = Arc::new(Verifier::new(Arc::clone(provider))?);
        Ok(Arc::clone(self.0.get_or_init(|| verifier)))
    }
}

/// Who decides on certificates; none where there is nobody to trust.
fn verifier(
    config: &HttpUpstreamConfig,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ServerCertVerifier>>, ConfigError> {
    if config.insecure_skip_verify {
        let provider = Arc::clone(provider);
        return Ok(Some(Arc::new(TrustAnybody { provider })));
    }
    let verifier = match &config.ca_file {
        Some(path) => {
            let extra = certificates(path)?;
            Verifier::new_with_extra_roots(extra, Arc::clone(provider)).map(Arc::new)
        }
        None => config.system_trust.verifier(provider),
    };
    match verifier {
        Ok(verifier) => Ok(Some(verifier)),
        // A machine without any authorities, such as an empty container, can still mirror
        // registries that it reaches in plain HTTP.
        Err(_) if config.endpoints.iter().all(|url| url.scheme() == "http") => Ok(None),
        Err(error) => Err(ConfigError::Tls {
            problem: format!(
                "{error}; install the system's certificate authorities (ca-certificates), or set \
                 ca_file"
            ),
        }),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| file_error(path, &error))?;
    if certificates.is_empty() {
        return Err(file_error(path, &"no certificate stands in it"));
    }
    Ok(certificates)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(config: &HttpUpstreamConfig) -> Result<Option<Identity>, ConfigError> {
    match (&config.client_cert_file, &config.client_key_file) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => {
            let chain = certificates(chain)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file_error(key, &error))?;
            Ok(Some((chain, key)))
        }
        _ => Err(ConfigError::HalfIdentity),
    }
}

fn file_error(path: &Path, problem: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::File {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

fn tls_error(error: &rustls::Error) -> ConfigError {
    ConfigError::Tls {
        problem: error.to_string(),
    }
}

/// Takes any certificate (`insecure_skip_verify`), and still wants its key to be held.
#[derive(Debug)]
struct TrustAnybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

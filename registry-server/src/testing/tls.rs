//! HTTPS with an authority of its own: certificates are made when a registry is started.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Names that a fixture's certificate is good for.
const NAMES: [&str; 2] = ["127.0.0.1", "localhost"];

/// Why nothing of the below can fail.
const GENERATED: &str = "what was generated for this is well-formed";

/// What a fixture registry and its clients need for HTTPS, in PEM. Other servers can show the same
/// certificate.
#[derive(Clone)]
pub struct FixtureTls {
    /// The authority to trust.
    pub ca_pem: String,
    /// The server's certificate.
    pub server_cert_pem: String,
    /// That certificate's key.
    pub server_key_pem: String,
    /// A certificate that a client may show; none has to.
    pub client_cert_pem: String,
    /// That certificate's key.
    pub client_key_pem: String,
    authority: Arc<Authority>,
    config: Arc<ServerConfig>,
}

/// Which certificate a fixture registry shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Certificate {
    /// The right one, of [its authority](FixtureTls::ca_pem).
    #[default]
    Good,
    /// One of that authority that was good once.
    Expired,
    /// One of an authority that nobody knows.
    UnknownAuthority,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

impl FixtureTls {
    /// Makes an authority, and a certificate of its for `127.0.0.1` and `localhost`.
    pub fn generate() -> Self {
        Self::generate_for(&[])
    }

    /// The same, with a certificate that is good for these names too.
    ///
    /// # Panics
    ///
    /// Where a name is none.
    pub fn generate_for(names: &[&str]) -> Self {
        let authority = new_authority();
        let (server, server_key) = issue(&authority, named(NAMES.iter().chain(names)));
        let (client, client_key) = issue(&authority, named(&["client"]));
        let config = server_config(authority.der(), server.der(), &server_key);
        Self {
            ca_pem: authority.pem(),
            server_cert_pem: server.pem(),
            server_key_pem: server_key.serialize_pem(),
            client_cert_pem: client.pem(),
            client_key_pem: client_key.serialize_pem(),
            authority: Arc::new(authority),
            config: Arc::new(config),
        }
    }

    /// The same, showing another certificate for `127.0.0.1` and `localhost`.
    pub(crate) fn showing(&self, certificate: Certificate) -> Self {
        let mut params = named(&NAMES);
        let (shown, key) = match certificate {
            Certificate::Good => issue(&self.authority, params),
            Certificate::Expired => {
                params.not_before = date_time_ymd(2020, 1, 1);
                params.not_after = date_time_ymd(2021, 1, 1);
                issue(&self.authority, params)
            }
            Certificate::UnknownAuthority => issue(&new_authority(), params),
        };
        let config = server_config(self.authority.der(), shown.der(), &key);
        Self {
            config: Arc::new(config),
            ..self.clone()
        }
    }
}

impl FixtureTls {
    /// The server's side of a connection's handshake.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        acceptor.accept(stream).await
    }

    /// Offers these protocols in the handshake, besides HTTP/1.1 as it is.
    #[cfg(test)]
    pub(crate) fn offering(mut self, protocol: &[u8]) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.alpn_protocols = vec![protocol.to_vec()];
        self
    }
}

impl std::fmt::Debug for FixtureTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FixtureTls").finish_non_exhaustive()
    }
}

fn new_authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // OpenSSL takes a certificate for one that signed itself where it has its issuer's name.
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "fixture authority");
    let key = KeyPair::generate().expect(GENERATED);
    CertifiedIssuer::self_signed(params, key).expect(GENERATED)
}

fn named<'a>(names: impl IntoIterator<Item = &'a &'a str>) -> CertificateParams {
    let names = names.into_iter().map(|name| (*name).to_owned());
    CertificateParams::new(names.collect::<Vec<_>>()).expect(GENERATED)
}

fn issue(authority: &Authority, params: CertificateParams) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().expect(GENERATED);
    (params.signed_by(&key, authority).expect(GENERATED), key)
}

fn server_config(
    authority: &CertificateDer<'static>,
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).expect(GENERATED);
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .expect(GENERATED);
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect(GENERATED)
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate.clone()], key)
        .expect(GENERATED)
}

/// A connection, with TLS or without.
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Lets the connection end by RST when it is closed.
    pub(crate) fn set_reset(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.set_zero_linger(),
            Self::Tls(stream) => stream.get_ref().0.set_zero_linger(),
        }
    }

    /// Whether the client has shown a certificate, which was then found to be ours.
    pub(crate) fn has_client_certificate(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates().is_some(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

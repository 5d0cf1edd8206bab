//! A certificate with its key, as files hold them, and when it is good.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use registry_core::Timestamp;
use rustix::fs::OFlags;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore, ServerConfig};
use secrecy::zeroize::Zeroizing;

use super::{TlsError, TlsFiles};

/// Largest file that holds a certificate or a key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How long before a certificate's end that is warned of.
const END_WARNING: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How a file is opened: a pipe is not waited for. It makes no difference to reading one.
const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// What is offered to clients, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate, ready to be shown.
pub(super) struct Certificate {
    pub(super) serving: Arc<ServerConfig>,
    pub(super) refusing: Arc<ServerConfig>,
    chain: Vec<CertificateDer<'static>>,
    /// When it begins to be good, and when it ends; where it says so.
    not_before: Option<UnixTime>,
    not_after: Option<UnixTime>,
}

/// What can be said of a certificate at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Good,
    /// It is not good yet.
    Early,
    /// It will be no good soon.
    Ending,
    /// It is no longer good.
    Over,
}

impl Standing {
    /// What to say about it to whoever runs the server.
    pub(super) fn warning(self) -> Option<&'static str> {
        match self {
            Self::Good => None,
            Self::Early => Some("the certificate is not valid yet: clients refuse it"),
            Self::Ending => Some("the certificate expires within a week: renew it"),
            Self::Over => {
                Some("the certificate has expired: clients refuse it until it is renewed")
            }
        }
    }
}

impl Certificate {
    /// Reads it from files.
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = chain(&files.cert_file)?;
        let key = key(&files.key_file)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let serving = server_config(&provider, &chain, key.clone_key(), &PROTOCOLS)
            .map_err(|error| refused(files, &error))?;
        let refusing = server_config(&provider, &chain, key, &PROTOCOLS[1..])
            .map_err(|error| refused(files, &error))?;
        let (not_before, not_after) = validity(&chain[0], &provider);
        Ok(Self {
            serving: Arc::new(serving),
            refusing: Arc::new(refusing),
            chain,
            not_before,
            not_after,
        })
    }

    /// Whether it is the same certificate, whatever its files.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.chain == other.chain
    }

    /// What can be said of it now.
    pub(super) fn standing(&self, now: Timestamp) -> Standing {
        let now = Duration::from_millis(now.as_millis()).as_secs();
        let is_before = |time: Option<UnixTime>| time.is_some_and(|time| now < time.as_secs());
        let ends = self.not_after.map_or(u64::MAX, |time| time.as_secs());
        if is_before(self.not_before) {
            Standing::Early
        } else if now > ends {
            Standing::Over
        } else if ends - now < END_WARNING.as_secs() {
            Standing::Ending
        } else {
            Standing::Good
        }
    }

    /// When it begins to be good, for people.
    pub(super) fn not_before(&self) -> Option<String> {
        self.not_before.map(date)
    }

    /// When it ends, for people.
    pub(super) fn not_after(&self) -> Option<String> {
        self.not_after.map(date)
    }
}

fn date(time: UnixTime) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(time).to_string()
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain.to_vec(), key)?;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // Sessions are kept by clients, sealed: whoever comes back costs no signature, and nothing is
    // held for whoever does not. The seal goes with the certificate.
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(config)
}

/// The certificate and what leads to an authority; at least one.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| problem(path, format!("is not PEM as it should be: {error}")))?;
    if chain.is_empty() {
        let what = "holds no certificate: there is no BEGIN CERTIFICATE in it";
        return Err(problem(path, what));
    }
    ParsedCertificate::try_from(&chain[0]).map_err(|error| {
        problem(
            path,
            format!("holds a certificate that makes no sense: {error}"),
        )
    })?;
    Ok(chain)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let is_sealed = bytes.windows(9).any(|text| text == b"ENCRYPTED");
        problem(
            path,
            match is_sealed {
                true => "holds a key with a password: write it without one (openssl pkey)",
                false => "holds no private key: there is no BEGIN PRIVATE KEY or the like in it",
            },
        )
    })
}

/// What rustls has against a certificate and key that are some.
fn refused(files: &TlsFiles, error: &Error) -> TlsError {
    match error {
        Error::InconsistentKeys(_) => {
            let cert_file = files.cert_file.display();
            let what = format!("holds the key of another certificate than {cert_file} does");
            problem(&files.key_file, what)
        }
        Error::InvalidCertificate(_) => problem(&files.cert_file, format!("is refused: {error}")),
        _ => problem(&files.key_file, format!("is refused: {error}")),
    }
}

fn problem(path: &Path, problem: impl Into<String>) -> TlsError {
    TlsError {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |error: std::io::Error| problem(path, format!("cannot be read: {error}"));
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(NONBLOCK);
    let file = options.open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(problem(path, "is not a file"));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    let mut bounded = file.take(FILE_BYTES_MAX + 1);
    bounded.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(problem(
            path,
            format!("is larger than {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

/// When a certificate begins to be good, and when it ends. Asked of the verifier, at times when no
/// certificate is good: its time is the first thing that it looks at, and it tells that in the error.
fn validity(
    certificate: &CertificateDer<'_>,
    provider: &CryptoProvider,
) -> (Option<UnixTime>, Option<UnixTime>) {
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else {
        return (None, None);
    };
    let at = |seconds| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let algorithms = provider.signature_verification_algorithms.all;
        let nobody = RootCertStore::empty();
        verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, &[], time, algorithms)
    };
    let not_before = match at(0) {
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before, ..
        })) => Some(not_before),
        _ => None,
    };
    let not_after = match at(u64::MAX) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some(not_after)
        }
        _ => None,
    };
    (not_before, not_after)
}

#[cfg(test)]
mod tests;

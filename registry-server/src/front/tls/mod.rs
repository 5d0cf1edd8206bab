//! TLS towards clients: the certificate that is shown, and who is told that it is needed
//! ([ADR 23](../../../../docs/adr/0023-tls-and-http2-towards-clients.md)).
//!
//! Certificate and key are files, which are looked at while the server runs: a certificate is
//! renewed without a restart, and one that cannot be used leaves the one before it in place.

mod certificate;
mod handshake;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry_core::{Clock as _, SystemClock};
use rustls::ServerConfig;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::files::{self, LOOK_INTERVAL, Settling, Stamp};
use certificate::{Certificate, Standing};

pub(super) use handshake::{refuse, serve};

/// The files that a server's certificate and its key stand in, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to an authority which clients know.
    pub cert_file: PathBuf,
    /// Its key: PKCS#8, PKCS#1 or SEC1, without a password. May be the same file.
    pub key_file: PathBuf,
}

/// Why a certificate cannot be shown: what is wrong with which file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {problem}", path.display())]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, to be put after its name.
    pub problem: String,
}

/// The certificate that a server shows, and what it agrees on with its clients. Clones are the same.
///
/// A [`Server`](super::Server) that runs looks at the files again every few seconds.
#[derive(Clone)]
pub struct Tls {
    shown: Arc<Mutex<Shown>>,
}

struct Shown {
    files: TlsFiles,
    certificate: Certificate,
    /// What was last logged about the files, and is not logged again.
    complaint: Option<TlsError>,
    /// What was last logged about the certificate's time.
    standing: Standing,
}

impl Tls {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    ///
    /// [`TlsError`]. That the certificate's time is over, or has not come, is none: it is logged.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let shown = Shown {
            certificate: Certificate::read(&files)?,
            files,
            complaint: None,
            standing: Standing::Good,
        };
        let tls = Self {
            shown: Arc::new(Mutex::new(shown)),
        };
        tls.shown().tell_standing();
        Ok(tls)
    }

    /// Shows another certificate from now on. Connections that are there keep theirs.
    pub(crate) fn show(&self, prepared: Prepared) {
        let mut shown = self.shown();
        if shown.certificate.is_same(&prepared.certificate) {
            shown.files = prepared.files;
            shown.complaint = None;
            return;
        }
        *shown = Shown {
            files: prepared.files,
            certificate: prepared.certificate,
            complaint: None,
            standing: Standing::Good,
        };
        let not_after = shown.certificate.not_after();
        info!(
            cert_file = %shown.files.cert_file.display(),
            not_after,
            "new connections are shown another certificate"
        );
        shown.tell_standing();
    }

    /// What a new connection is served with.
    fn serving(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.shown().certificate.serving)
    }

    /// What a connection is refused with: in HTTP/1.1, whatever it would rather speak.
    fn refusing(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.shown().certificate.refusing)
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        // Nothing panics while it holds the lock.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the files for ever, and shows what they hold once that has changed.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves one certificate in place or the other.
    pub(super) async fn watch(&self) {
        let mut found = Settling::default();
        loop {
            sleep(LOOK_INTERVAL).await;
            let files = self.shown().files.clone();
            let stamps = [files.cert_file.clone(), files.key_file.clone()];
            let Ok(stamps) = spawn_blocking(move || stamps_of(&stamps)).await else {
                return;
            };
            // What made no sense may do so now for another reason: that it can be read, say.
            if found.settled(stamps) || self.shown().complaint.is_some() {
                let Ok(prepared) = spawn_blocking(move || Prepared::read(files)).await else {
                    return;
                };
                match prepared {
                    Ok(prepared) => self.show(prepared),
                    Err(error) => self.complain(error),
                }
            }
            self.shown().tell_standing();
        }
    }

    fn complain(&self, problem: TlsError) {
        let mut shown = self.shown();
        if shown.complaint.as_ref() != Some(&problem) {
            error!(
                error = %problem,
                "the certificate has changed and cannot be used: the one before it is still shown"
            );
            shown.complaint = Some(problem);
        }
    }
}

impl Shown {
    /// Logs that the certificate's time is over, or the like, once.
    fn tell_standing(&mut self) {
        let standing = self.certificate.standing(SystemClock.now());
        if self.standing != standing
            && let Some(what) = standing.warning()
        {
            warn!(
                cert_file = %self.files.cert_file.display(),
                not_before = self.certificate.not_before(),
                not_after = self.certificate.not_after(),
                "{what}"
            );
        }
        self.standing = standing;
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.shown().files)
            .finish_non_exhaustive()
    }
}

/// A certificate that can be shown.
pub(crate) struct Prepared {
    files: TlsFiles,
    certificate: Certificate,
}

impl Prepared {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// As [`Tls::open`].
    pub(crate) fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let certificate = Certificate::read(&files)?;
        Ok(Self { files, certificate })
    }
}

fn stamps_of<P: AsRef<Path>>(paths: &[P]) -> Vec<Stamp> {
    paths
        .iter()
        .map(|path| files::stamp(path.as_ref()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustls::server::ResolvesServerCert;
    use tokio::time::timeout;

    use super::*;
    use crate::testing::FixtureTls;

    fn put(files: &TlsFiles, fixture: &FixtureTls) {
        fs::write(&files.cert_file, &fixture.server_cert_pem).unwrap();
        fs::write(&files.key_file, &fixture.server_key_pem).unwrap();
    }

    /// Long enough for several looks; the clock is the test's.
    async fn look(tls: &Tls) {
        let watching = timeout(LOOK_INTERVAL * 5, tls.watch()).await;
        assert!(watching.is_err(), "it goes on for ever");
    }

    fn resolver(tls: &Tls) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&tls.serving().cert_resolver)
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_used_leaves_what_can() {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles {
            cert_file: folder.path().join("cert.pem"),
            key_file: folder.path().join("key.pem"),
        };
        let [first, second] = [(); 2].map(|()| FixtureTls::generate());
        put(&files, &first);
        let tls = Tls::open(files.clone()).unwrap();
        let shown = resolver(&tls);
        look(&tls).await;
        assert!(Arc::ptr_eq(&shown, &resolver(&tls)), "nothing has changed");
        // A certificate without its key, as where one was copied and the other was not.
        fs::write(&files.cert_file, &second.server_cert_pem).unwrap();
        look(&tls).await;
        assert!(Arc::ptr_eq(&shown, &resolver(&tls)));
        let complaint = tls.shown().complaint.clone().unwrap();
        assert_eq!(complaint.path, files.key_file);
        fs::remove_file(&files.cert_file).unwrap();
        look(&tls).await;
        assert!(Arc::ptr_eq(&shown, &resolver(&tls)));
        put(&files, &second);
        look(&tls).await;
        assert!(!Arc::ptr_eq(&shown, &resolver(&tls)));
        assert_eq!(tls.shown().complaint, None);
    }
}

//! The certificate that clients are shown: both of its files, or none.

use std::path::PathBuf;

use super::place::{Problems, Written};
use crate::front::{Prepared, TlsFiles};

/// The files that are named, once they were found to hold what they should.
pub(super) fn resolve(
    cert_file: Option<Written<PathBuf>>,
    key_file: Option<Written<PathBuf>>,
    problems: &mut Problems,
) -> Option<TlsFiles> {
    let (cert, key) = match (cert_file, key_file) {
        (None, None) => return None,
        (Some(alone), None) => {
            problems.add(alone.place, "needs tls_key_file beside it");
            return None;
        }
        (None, Some(alone)) => {
            problems.add(alone.place, "needs tls_cert_file beside it");
            return None;
        }
        (Some(cert), Some(key)) => (cert, key),
    };
    let files = TlsFiles {
        cert_file: cert.value,
        key_file: key.value,
    };
    if let Err(error) = Prepared::read(files.clone()) {
        let place = match error.path == files.key_file {
            true => key.place,
            false => cert.place,
        };
        problems.add(place, error.to_string());
    }
    Some(files)
}

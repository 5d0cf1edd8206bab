use std::fs;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;
use crate::testing::FixtureTls;

/// Files with these contents.
fn files(cert: &str, key: &str) -> (TlsFiles, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        cert_file: folder.path().join("cert.pem"),
        key_file: folder.path().join("key.pem"),
    };
    fs::write(&files.cert_file, cert).unwrap();
    fs::write(&files.key_file, key).unwrap();
    (files, folder)
}

fn problem(cert: &str, key: &str) -> String {
    let (files, folder) = files(cert, key);
    let error = Certificate::read(&files).err().expect("it is refused");
    let folder = format!("{}/", folder.path().display());
    error.to_string().replace(&folder, "")
}

#[test]
fn what_is_wrong_with_the_files_is_told() {
    let (one, other) = (FixtureTls::generate(), FixtureTls::generate());
    let (cert, key) = (&*one.server_cert_pem, &*one.server_key_pem);
    for (cert, key, wanted) in [
        (
            "",
            key,
            "cert.pem holds no certificate: there is no BEGIN CERTIFICATE in it",
        ),
        (
            key,
            key,
            "cert.pem holds no certificate: there is no BEGIN CERTIFICATE in it",
        ),
        (
            cert,
            cert,
            "key.pem holds no private key: there is no BEGIN PRIVATE KEY or the like in it",
        ),
        (
            cert,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "key.pem holds a key with a password: write it without one (openssl pkey)",
        ),
        (
            cert,
            &other.server_key_pem,
            "key.pem holds the key of another certificate than cert.pem does",
        ),
        (
            &cert[..cert.len() / 2],
            key,
            "cert.pem is not PEM as it should be: ",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            key,
            "cert.pem holds a certificate that makes no sense: ",
        ),
        (
            cert,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "key.pem is refused: ",
        ),
    ] {
        let problem = problem(cert, key);
        assert!(problem.starts_with(wanted), "{problem}");
    }
    let (files, folder) = files(cert, key);
    fs::remove_file(&files.key_file).unwrap();
    let error = Certificate::read(&files).err().unwrap().to_string();
    assert!(error.contains("key.pem cannot be read: "), "{error}");
    drop(folder);
}

#[test]
fn both_may_stand_in_one_file_in_any_order() {
    let fixture = FixtureTls::generate();
    let both = format!(
        "{}{}{}",
        fixture.server_key_pem, fixture.server_cert_pem, fixture.ca_pem
    );
    let (files, _folder) = files(&both, &both);
    let certificate = Certificate::read(&files).unwrap();
    assert_eq!(certificate.chain.len(), 2, "the whole chain is shown");
}

#[test]
fn a_certificate_is_good_from_its_first_second_to_its_last() {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2030, 1, 1);
    params.not_after = date_time_ymd(2030, 3, 1);
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let (files, _folder) = files(&cert.pem(), &key.serialize_pem());
    let certificate = Certificate::read(&files).unwrap();
    assert_eq!(certificate.not_before().unwrap(), "2030-01-01T00:00:00Z");
    assert_eq!(certificate.not_after().unwrap(), "2030-03-01T00:00:00Z");
    let begin = u64::try_from(date_time_ymd(2030, 1, 1).unix_timestamp()).unwrap();
    let end = u64::try_from(date_time_ymd(2030, 3, 1).unix_timestamp()).unwrap();
    let week = END_WARNING.as_secs();
    for (second, standing) in [
        (begin - 1, Standing::Early),
        (begin, Standing::Good),
        (end - week, Standing::Good),
        (end - week + 1, Standing::Ending),
        (end, Standing::Ending),
        (end + 1, Standing::Over),
    ] {
        let now = Timestamp::from_millis(second * 1000);
        assert_eq!(certificate.standing(now), standing, "{second}");
    }
}

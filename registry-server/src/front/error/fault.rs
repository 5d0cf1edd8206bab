//! What is wrong with a request's address, in words for who sent it.

use http::StatusCode;
use registry_core::{DigestError, NameError};

use super::super::address::{Fault, Target};
use super::{ApiError, Code};

impl From<&Fault> for ApiError {
    fn from(fault: &Fault) -> Self {
        match fault {
            Fault::Method => Self::method(),
            Fault::Path => Self::unknown_path(),
            Fault::UnknownUpstream => Self::unknown_upstream(),
            Fault::Encoding(what) => {
                let message = format!(
                    "the path {what}: write names of lower-case letters, digits and single \
                     separators, divided by single slashes"
                );
                bad(Code::NameInvalid, "path", message)
            }
            Fault::Repository(error) => {
                let message = format!("the name is {error}; check the image's name");
                bad(Code::NameInvalid, "name", message)
            }
            Fault::NoRepository(upstream) => {
                let message =
                    format!("a repository is missing: write /v2/{upstream}/<repository>/…");
                bad(Code::NameInvalid, "name", message)
            }
            Fault::Namespace(error) => {
                let message = format!("the value of ns is {error}, once, as in ns=quay.io");
                bad(Code::NameInvalid, "namespace", message)
            }
            Fault::Digest(target, error) => of_digest(*target, *error),
            Fault::Tag(error) => {
                let message =
                    format!("no manifest has this reference, which is {error}; check the tag");
                missing(Code::ManifestUnknown, "tag", message)
            }
            Fault::Upload => {
                let message = "a mirror takes no uploads: push to the registry itself";
                missing(Code::BlobUploadUnknown, "upload", message.to_owned())
            }
            Fault::PageSize => {
                let message =
                    "n is not a number: write how many entries a page may have, once, as in n=100";
                bad(
                    Code::PaginationNumberInvalid,
                    "page-size",
                    message.to_owned(),
                )
            }
            Fault::PageStart(target, error) => of_page_start(*target, *error),
            Fault::ArtifactType => {
                let message = "artifactType is given twice: ask for one type at a time, or for all";
                bad(Code::Unsupported, "artifact-type", message.to_owned())
            }
        }
    }
}

fn bad(code: Code, reason: &'static str, message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, code, reason, message)
}

fn missing(code: Code, reason: &'static str, message: String) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, code, reason, message)
}

fn of_digest(target: Target, error: DigestError) -> ApiError {
    match error {
        DigestError::UnsupportedAlgorithm => {
            let message = "nothing can be verified by this digest's algorithm, so nothing is \
                           served by it: ask by sha256 or sha512, or pull from the registry itself";
            missing(target.unknown(), "digest-algorithm", message.to_owned())
        }
        error => bad(Code::DigestInvalid, "digest", error.to_string()),
    }
}

fn of_page_start(target: Target, error: NameError) -> ApiError {
    let code = match target {
        Target::Tags => Code::TagInvalid,
        Target::Referrers => Code::DigestInvalid,
        Target::Manifest | Target::Blob | Target::Catalog => Code::NameInvalid,
    };
    let message = format!(
        "last is {error}: write the last entry of the page before, once, and percent-encoded"
    );
    bad(code, "page-start", message)
}

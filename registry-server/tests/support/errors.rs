//! What went wrong with an upstream, in a word that tests compare.

use registry_core::UpstreamError;

/// The name of an error's variant, which is what callers act on.
pub(crate) fn kind(error: &UpstreamError) -> &'static str {
    match error {
        UpstreamError::Unauthorized { .. } => "unauthorized",
        UpstreamError::RateLimited { .. } => "rate-limited",
        UpstreamError::Unavailable { .. } => "unavailable",
        UpstreamError::Timeout { .. } => "timeout",
        UpstreamError::Protocol { .. } => "protocol",
        UpstreamError::Content(_) => "content",
        _ => "unknown",
    }
}

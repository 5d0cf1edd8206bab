//! The query: `ns`, `n`, `last` and `artifactType`.

use std::borrow::Cow;
use std::net::{Ipv6Addr, SocketAddrV6};

use registry_core::{NameError, UpstreamId};

use super::{Addressing, Fault, Target};

/// The keys that mean something here. Others are left alone: clients add their own.
pub(super) struct Query<'a> {
    namespace: Option<Cow<'a, str>>,
    pub(super) size: Option<u64>,
    pub(super) last: Option<Cow<'a, str>>,
    pub(super) artifact_type: Option<Cow<'a, str>>,
}

impl<'a> Query<'a> {
    /// A key that is given twice has no one meaning, and the two may be read by different readers.
    pub(super) fn parse(query: Option<&'a str>) -> Result<Self, Fault> {
        let mut parsed = Self {
            namespace: None,
            size: None,
            last: None,
            artifact_type: None,
        };
        let mut size = None;
        for (key, value) in pairs(query.unwrap_or_default()) {
            let (slot, repeated) = match &*key {
                "ns" => (&mut parsed.namespace, Fault::Namespace(NameError::Upstream)),
                "n" => (&mut size, Fault::PageSize),
                "last" => (
                    &mut parsed.last,
                    Fault::PageStart(Target::Catalog, NameError::Repository),
                ),
                "artifactType" => (&mut parsed.artifact_type, Fault::ArtifactType),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(repeated);
            }
        }
        // An empty `last` begins at the beginning.
        parsed.last = parsed.last.filter(|last| !last.is_empty());
        // An empty type is that of nothing, and is sent for want of one.
        parsed.artifact_type = parsed.artifact_type.filter(|kind| !kind.is_empty());
        parsed.size = size
            .map(|text| digits(&text).ok_or(Fault::PageSize))
            .transpose()?;
        Ok(parsed)
    }

    /// The upstream that `ns` names.
    pub(super) fn namespace(
        &self,
        addressing: &Addressing<'_>,
    ) -> Result<Option<UpstreamId>, Fault> {
        let Some(text) = self.namespace.as_deref() else {
            return Ok(None);
        };
        match UpstreamId::parse(text) {
            Ok(upstream) if (addressing.is_known)(&upstream) => Ok(Some(upstream)),
            Ok(_) => Err(Fault::UnknownUpstream),
            // The name of a registry all right, and of none that could be configured.
            Err(_) if is_ipv6(text) => Err(Fault::UnknownUpstream),
            Err(error) => Err(Fault::Namespace(error)),
        }
    }
}

/// The keys and values of a query. Where nothing is encoded, which is nearly always, nothing has to
/// be decoded.
fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let is_encoded = query.bytes().any(|byte| matches!(byte, b'%' | b'+'));
    let (encoded, plain) = if is_encoded { (query, "") } else { ("", query) };
    let plain = plain.split('&').filter(|pair| !pair.is_empty());
    let plain = plain.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let plain = plain.map(|(key, value)| (Cow::Borrowed(key), Cow::Borrowed(value)));
    form_urlencoded::parse(encoded.as_bytes()).chain(plain)
}

fn is_ipv6(text: &str) -> bool {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    text.parse::<SocketAddrV6>().is_ok() || bare.unwrap_or(text).parse::<Ipv6Addr>().is_ok()
}

/// A number of any length; one that is too long is as good as the largest.
fn digits(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

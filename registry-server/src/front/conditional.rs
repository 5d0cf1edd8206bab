//! Conditional requests (RFC 9110, section 13). Pure.
//!
//! The entity tag of content is its digest, strong: what a digest names never changes (I3). There
//! are no modification dates here, so conditions on them never hold or never apply.

use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH, IF_RANGE};
use http::{HeaderMap, HeaderValue};
use registry_core::{Digest, DigestText};

/// The entity tag of what this digest names.
pub(crate) fn etag(digest: &DigestText) -> HeaderValue {
    let quoted = ["\"", digest.as_str(), "\""].concat();
    HeaderValue::try_from(quoted).expect("a digest is a header value")
}

/// What a request's conditions come to, for content that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Serve it.
    Serve,
    /// The client has it: 304.
    NotModified,
    /// The client wants other content: 412.
    Failed,
}

/// Weighs the conditions, in the order of section 13.2.2.
pub(crate) fn judge(headers: &HeaderMap, digest: Digest) -> Verdict {
    if headers.contains_key(IF_MATCH)
        && !matches(headers, &IF_MATCH, |tag| !tag.weak && tag.names(digest))
    {
        return Verdict::Failed;
    }
    // A weak comparison: whether either tag is weak does not matter (section 13.1.2).
    if matches(headers, &IF_NONE_MATCH, |tag| tag.names(digest)) {
        return Verdict::NotModified;
    }
    Verdict::Serve
}

/// Whether the request's `Range` counts: not where `If-Range` names other content. A date never
/// matches, for there is none to compare it with (section 13.1.5).
pub(crate) fn range_counts(headers: &HeaderMap, digest: Digest) -> bool {
    let mut values = headers.get_all(IF_RANGE).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(value), None) => {
            let value = value.to_str().unwrap_or_default();
            let mut tags = EntityTags(value.trim());
            let strong = |tag: EntityTag<'_>| !tag.weak && tag.names(digest);
            tags.next().is_some_and(strong) && tags.next().is_none()
        }
        (Some(_), Some(_)) => false,
    }
}

fn matches(
    headers: &HeaderMap,
    name: &HeaderName,
    is_match: impl Fn(EntityTag<'_>) -> bool,
) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(EntityTags)
        .any(|tag| tag.is_any() || is_match(tag))
}

#[derive(Clone, Copy)]
struct EntityTag<'a> {
    weak: bool,
    quoted: bool,
    text: &'a str,
}

impl EntityTag<'_> {
    fn is_any(self) -> bool {
        !self.quoted && self.text == "*"
    }

    fn names(self, digest: Digest) -> bool {
        self.text == digest.text().as_str()
    }
}

/// The tags in a list. Some clients leave the quotes out, and mean the same.
struct EntityTags<'a>(&'a str);

impl<'a> Iterator for EntityTags<'a> {
    type Item = EntityTag<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.trim_start_matches([' ', '\t', ',']);
        let (weak, rest) = match rest.strip_prefix("W/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (quoted, text, rest) = match rest.strip_prefix('"') {
            Some(rest) => {
                let (text, rest) = rest.split_once('"').unwrap_or((rest, ""));
                (true, text, rest)
            }
            None => {
                let end = rest.find([' ', '\t', ',']).unwrap_or(rest.len());
                (false, &rest[..end], &rest[end..])
            }
        };
        self.0 = rest;
        (quoted || !text.is_empty()).then_some(EntityTag { weak, quoted, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(fill: char) -> Digest {
        Digest::parse(&format!("sha256:{}", fill.to_string().repeat(64))).unwrap()
    }

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        let values = values
            .iter()
            .map(|value| value.replace('A', &digest('a').to_string()));
        let values = values.map(|value| (name.clone(), HeaderValue::try_from(value).unwrap()));
        values.collect()
    }

    #[test]
    fn the_tag_is_the_digest_in_quotes() {
        let tag = etag(&digest('a').text());
        assert_eq!(tag.to_str().unwrap(), format!("\"{}\"", digest('a')));
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        for (values, is_held) in [
            (&[r#""A""#][..], true),
            (&[r#"W/"A""#], true),
            (&["A"], true),
            (&["*"], true),
            (&[r#""x", "A""#], true),
            (&[r#""x"  ,,W/"A" , "y""#], true),
            (&[r#""x""#, r#""A""#], true),
            (&[r#""x,A""#], false),
            (&[r#""x""#], false),
            (&[r#""*""#], false),
            (&[r#""A"#], true),
            (&[""], false),
            (&[","], false),
            (&[r#""""#], false),
        ] {
            let verdict = judge(&headers(IF_NONE_MATCH, values), digest('a'));
            let expected = if is_held {
                Verdict::NotModified
            } else {
                Verdict::Serve
            };
            assert_eq!(verdict, expected, "{values:?}");
        }
        assert_eq!(judge(&HeaderMap::new(), digest('a')), Verdict::Serve);
    }

    #[test]
    fn other_content_than_the_client_wants_is_not_sent() {
        for (values, is_wanted) in [
            (&[r#""A""#][..], true),
            (&["*"], true),
            (&[r#""x", "A""#], true),
            (&[r#"W/"A""#], false),
            (&[r#""x""#], false),
            (&[""], false),
        ] {
            let verdict = judge(&headers(IF_MATCH, values), digest('a'));
            let expected = if is_wanted {
                Verdict::Serve
            } else {
                Verdict::Failed
            };
            assert_eq!(verdict, expected, "{values:?}");
        }
    }

    #[test]
    fn a_range_counts_only_for_the_content_it_was_begun_on() {
        for (values, counts) in [
            (&[][..], true),
            (&[r#""A""#], true),
            (&["A"], true),
            (&[r#"W/"A""#], false),
            (&[r#""x""#], false),
            (&[r#""A", "x""#], false),
            (&[r#""A""#, r#""A""#], false),
            (&["Sun, 06 Nov 1994 08:49:37 GMT"], false),
            (&[""], false),
            (&["*"], false),
        ] {
            let counted = range_counts(&headers(IF_RANGE, values), digest('a'));
            assert_eq!(counted, counts, "{values:?}");
        }
    }
}

//! `Link`: where an upstream's next page is (RFC 8288).

use http::header::LINK;
use registry_core::UpstreamError;

use super::config::{LINK_BYTES_MAX, LINK_QUERY_BYTES_MAX};
use super::reply::Reply;

/// The query of the next page, where `Link` names one. The rest of its URL is not
/// used: a registry behind a proxy often gets it wrong, and it could lead anywhere.
pub(super) fn next_query(reply: &Reply) -> Result<Option<String>, UpstreamError> {
    let lines = reply.headers().get_all(LINK).iter();
    let mut lines = lines.filter_map(|line| line.to_str().ok());
    let Some(target) = lines.find_map(next_target) else {
        return Ok(None);
    };
    let query = target
        .split('#')
        .next()
        .and_then(|target| target.split_once('?'));
    match query {
        Some((_, query)) if query.len() <= LINK_QUERY_BYTES_MAX => Ok(Some(query.to_owned())),
        _ => Err(reply.protocol("links to a next page without a query, or with a huge one")),
    }
}

/// The target of the link whose relation is `next`; none on a line that is too long, as the time this
/// takes grows with the square of its length.
pub(super) fn next_target(line: &str) -> Option<&str> {
    if line.len() > LINK_BYTES_MAX {
        return None;
    }
    let mut rest = line;
    loop {
        let (_, link) = rest.split_once('<')?;
        let (target, parameters) = link.split_once('>')?;
        // A comma within a quoted value ends this too early, and hides nothing: `rel` has none.
        let end = parameters.find(',').unwrap_or(parameters.len());
        let is_next = parameters[..end].split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            name.trim().eq_ignore_ascii_case("rel")
                && value
                    .trim()
                    .trim_matches('"')
                    .split(' ')
                    .any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target);
        }
        rest = parameters;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_is_found() {
        for (line, target) in [
            (
                r#"</v2/a/tags/list?n=1&last=b>; rel="next""#,
                Some("/v2/a/tags/list?n=1&last=b"),
            ),
            ("<https://h/x?last=b>;rel=next", Some("https://h/x?last=b")),
            (
                r#"<p>; rel="prev", <n>; title="x"; REL="first Next""#,
                Some("n"),
            ),
            (r#"<p>; rel="prev""#, None),
            ("<p>", None),
            ("n; rel=next", None),
            ("<n; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_target(line), target, "{line}");
        }
    }
}
